"""MLflow: JSONL of records for an evaluation dataset's ``merge_records``.

Source: docs/formats.md, "Exports for other tools".
"""

import json
from typing import Any

from evalflow.adapters.exporters.case import ExportedCase, ExportedSuite, as_lines
from evalflow.adapters.exporters.loss import LossReport, fates, losses, unanswered, unreadable

_SOURCES = {"hand-authored": "HUMAN", "synthetic": "CODE", "production": "UNSPECIFIED"}
"""MLflow's type of source by origin, where no trace is known."""


def files(suite: ExportedSuite) -> dict[str, str]:
    return {"records.jsonl": as_lines([_record(case) for case in suite.cases])}


def loss(suite: ExportedSuite) -> LossReport:
    mapped = {
        "input": "inputs.messages",
        "conversation": "inputs.messages",
        "expected_output": "expectations.expected_response",
        "origin": "source.source_type, tags.origin",
        "provenance": "source.source_data.trace_id, tags.provenance",
    }
    asked = {json.dumps(case.messages, sort_keys=True) for case in suite.cases}
    return LossReport(
        fates(mapped, "tags", {}),
        losses(
            (
                unanswered(suite, "the record has no expectations"),
                (
                    len(suite.cases) - len(asked),
                    "ask exactly what another case asks; MLflow keeps one record per input, with what the later one expects",
                ),
                unreadable(suite),
            )
        ),
    )


def _record(case: ExportedCase) -> dict[str, Any]:
    own = case.version
    source = (
        {"source_type": "TRACE", "source_data": {"trace_id": own.provenance.trace_id}}
        if own.provenance
        else {"source_type": _SOURCES[own.origin], "source_data": {}}
    )
    expected = {"expectations": {"expected_response": case.expected_output}} if case.expected_output else {}
    tags = {name: _as_text(value) for name, value in case.kept.items() if value is not None}
    return {"inputs": {"messages": case.messages}, **expected, "source": source, "tags": tags}


def _as_text(value: Any) -> str:
    """A tag is text; what is none is written as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
