"""DeepEval: a folder with goldens, and conversational goldens for the cases that have a conversation.

One dataset of DeepEval holds one kind, so they are two files. Source: docs/formats.md, "Exports for other tools".
"""

import json
from collections.abc import Sequence
from typing import Any

from evalflow.adapters.exporters.case import CONVERSATION, ExportedCase, ExportedSuite
from evalflow.adapters.exporters.loss import LossReport, fates, losses, unanswered, unreadable

GOLDENS_FILE, CONVERSATIONAL_FILE = "goldens.json", "conversational_goldens.json"
PLACEHOLDER = "[DEEPEVAL:"
"""Begins what DeepEval reads as the place of an image or a PDF within a text."""


def files(suite: ExportedSuite) -> dict[str, str]:
    return {
        GOLDENS_FILE: _as_list([_golden(case) for case in suite.cases if not case.conversation]),
        CONVERSATIONAL_FILE: _as_list([_conversational(case) for case in suite.cases if case.conversation]),
    }


def loss(suite: ExportedSuite) -> LossReport:
    mapped = {
        "case_id": "name",
        "input": "input; scenario and the last of turns where there is a conversation",
        "conversation": "turns",
        "expected_output": "expected_output; expected_outcome where there is a conversation",
    }
    return LossReport(
        fates(mapped, "additional_metadata", {}),
        losses(
            (
                unanswered(suite, "metrics that need one refuse the golden"),
                (
                    sum(_loses_turns(case) for case in suite.cases),
                    "a turn of a system prompt or a tool, or a part of a turn that is no text, has no place in turns; the "
                    "conversation stands whole in the metadata",
                ),
                (
                    sum(PLACEHOLDER in text for text in _texts(suite)),
                    f"texts hold {PLACEHOLDER}, which DeepEval reads as the place of an image or a PDF",
                ),
                unreadable(suite),
            )
        ),
    )


def _golden(case: ExportedCase) -> dict[str, Any]:
    return {
        "name": case.case_id,
        "input": case.input,
        "expected_output": case.expected_output,
        "additional_metadata": case.kept,
    }


def _conversational(case: ExportedCase) -> dict[str, Any]:
    whole = {CONVERSATION: list(case.conversation)} if _loses_turns(case) else {}
    return {
        "name": case.case_id,
        "scenario": case.input,
        "turns": [turn for turn in case.plain_messages if turn["role"] in ("user", "assistant")],
        "expected_outcome": case.expected_output,
        "additional_metadata": case.kept | whole,
    }


def _loses_turns(case: ExportedCase) -> bool:
    return case.loses_in_plain_messages or any(turn["role"] not in ("user", "assistant") for turn in case.conversation)


def _texts(suite: ExportedSuite) -> list[str]:
    asked = [turn["content"] for case in suite.cases for turn in case.plain_messages]
    return [*asked, *(case.expected_output for case in suite.cases if case.expected_output)]


def _as_list(goldens: Sequence[dict[str, Any]]) -> str:
    """One JSON list with a golden per line."""
    lines = ",\n".join(json.dumps(golden, ensure_ascii=False) for golden in goldens)
    return f"[\n{lines}\n]\n" if lines else "[]\n"
