"""LangSmith: JSONL of examples for ``create_examples``.

Source: docs/formats.md, "Exports for other tools".
"""

import uuid
from datetime import date
from typing import Any

from evalflow.adapters.exporters.case import ExportedCase, ExportedSuite, as_lines
from evalflow.adapters.exporters.loss import LossReport, fates, losses, unanswered, unreadable


def files(suite: ExportedSuite) -> dict[str, str]:
    return {"examples.jsonl": as_lines([_example(case, suite.as_of) for case in suite.cases])}


def loss(suite: ExportedSuite) -> LossReport:
    mapped = {
        "case_id": "id (a UUID made of it and the day), metadata.case_id",
        "input": "inputs.messages",
        "conversation": "inputs.messages",
        "expected_output": "outputs.expected_output",
    }
    return LossReport(
        fates(mapped, "metadata", {}),
        losses((unanswered(suite, "outputs is null"), unreadable(suite))),
    )


def _example(case: ExportedCase, as_of: date) -> dict[str, Any]:
    """``outputs`` and not the newer ``reference_outputs``, which earlier SDKs drop without a word."""
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"evalflow:{case.case_id}@{as_of}")),
        "inputs": {"messages": case.messages},
        "outputs": {"expected_output": case.expected_output} if case.expected_output else None,
        "metadata": case.kept,
    }
