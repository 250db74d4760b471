"""Inspect: a folder with samples for ``json_dataset``.

Source: docs/formats.md, "Exports for other tools".
"""

from typing import Any

from evalflow.adapters.exporters.case import ExportedCase, ExportedSuite, as_lines
from evalflow.adapters.exporters.loss import LossReport, fates, flattened, losses, unanswered, unreadable

SAMPLES_FILE, UNGRADED_FILE = "samples.jsonl", "ungraded.jsonl"


def files(suite: ExportedSuite) -> dict[str, str]:
    return {
        SAMPLES_FILE: as_lines([_sample(case) for case in suite.graded]),
        UNGRADED_FILE: as_lines([_sample(case) for case in suite.ungraded]),
    }


def loss(suite: ExportedSuite) -> LossReport:
    mapped = {
        "case_id": "id",
        "input": "input",
        "conversation": "input (chat messages)",
        "expected_output": "target",
    }
    return LossReport(
        fates(mapped, "metadata", {}),
        losses(
            (
                unanswered(
                    suite,
                    f"an empty target is part of every answer; kept in {UNGRADED_FILE}, not among the samples",
                ),
                flattened(suite),
                (
                    sum(any(turn["role"] == "developer" for turn in case.conversation) for case in suite.cases),
                    "a developer's turn is written as a system's, which is what Inspect knows",
                ),
                unreadable(suite),
            )
        ),
    )


def _sample(case: ExportedCase) -> dict[str, Any]:
    return {
        "id": case.case_id,
        "input": [_message(turn) for turn in case.plain_messages] if case.conversation else case.input,
        "target": case.expected_output,
        "metadata": case.kept_beside_plain_messages,
    }


def _message(turn: dict[str, str]) -> dict[str, str]:
    """Inspect knows no developer: what such a turn says stands above the user's as a system turn's does."""
    return turn | {"role": "system"} if turn["role"] == "developer" else turn
