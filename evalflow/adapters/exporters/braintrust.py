"""Braintrust: JSONL of dataset rows, each the arguments of ``Dataset.insert``.

Source: docs/formats.md, "Exports for other tools".
"""

import json
from typing import Any

from evalflow.adapters.exporters.case import ExportedCase, ExportedSuite, as_lines
from evalflow.adapters.exporters.loss import LossReport, fates, losses, unanswered, unreadable


def files(suite: ExportedSuite) -> dict[str, str]:
    return {"rows.jsonl": as_lines([_row(case) for case in suite.cases])}


def loss(suite: ExportedSuite) -> LossReport:
    mapped = {
        "case_id": "id, metadata.case_id",
        "input": "input.messages",
        "conversation": "input.messages",
        "expected_output": "expected",
        "tags": "tags (as texts such as area:delivery), metadata.tags",
    }
    return LossReport(
        fates(mapped, "metadata", {}),
        losses((unanswered(suite, "expected is null"), unreadable(suite))),
    )


def _row(case: ExportedCase) -> dict[str, Any]:
    return {
        "id": case.case_id,
        "input": {"messages": case.messages},
        "expected": case.expected_output,
        "tags": _tags(case.version.tags),
        "metadata": case.kept,
    }


def _tags(tags: Any) -> list[str]:
    """Braintrust's tags are a list of texts, each once."""
    if isinstance(tags, dict):
        texts = [f"{key}:{value if isinstance(value, str) else json.dumps(value)}" for key, value in tags.items()]
    else:
        texts = list(tags or ())
    return list(dict.fromkeys(texts))
