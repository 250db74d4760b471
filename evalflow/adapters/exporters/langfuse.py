"""Langfuse: JSONL of dataset items, each the arguments of ``create_dataset_item`` but the dataset's name.

Source: docs/formats.md, "Exports for other tools".
"""

import hashlib
from datetime import date
from typing import Any

from evalflow.adapters.exporters.case import ExportedCase, ExportedSuite, as_lines
from evalflow.adapters.exporters.loss import LossReport, fates, losses, unanswered, unreadable

MAX_ID = 255
"""Characters that Langfuse takes."""


def files(suite: ExportedSuite) -> dict[str, str]:
    return {"items.jsonl": as_lines([_item(case, suite.as_of) for case in suite.cases])}


def loss(suite: ExportedSuite) -> LossReport:
    mapped = {
        "case_id": "id (with the day), metadata.case_id",
        "input": "input.messages",
        "conversation": "input.messages",
        "expected_output": "expected_output",
    }
    return LossReport(
        fates(mapped, "metadata", {}),
        losses((unanswered(suite, "expected_output is null"), unreadable(suite))),
    )


def _item(case: ExportedCase, as_of: date) -> dict[str, Any]:
    return {
        "id": _id_of(case.case_id, as_of),
        "input": {"messages": case.messages},
        "expected_output": case.expected_output,
        "metadata": case.kept,
    }


def _id_of(case_id: str, as_of: date) -> str:
    """One id per case and day, since an id belongs to one dataset of a project: the same upload twice is one."""
    name = f"{case_id}@{as_of}"
    return name if len(name) <= MAX_ID else f"{hashlib.sha256(case_id.encode()).hexdigest()}@{as_of}"
