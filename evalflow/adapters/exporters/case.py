"""A golden case as every exporter sees it, and the suite that it belongs to.

Belongs here: what the tools' formats share, such as the turns of a conversation as chat messages. Keep out: any
tool's own field names.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec

from evalflow.adapters.ledger import CaseVersion

CONVERSATION = "conversation"
"""The key of a case's metadata that holds the turns before its input."""
ROLES = ("system", "developer", "user", "assistant", "tool")
_BREAKS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"}
"""Line ends to JavaScript's readline and to Python's splitlines, though not to JSON; in JSON they stand in texts only."""


@dataclass(frozen=True)
class ExportedCase:
    """One case, ready for any format.

    ``conversation``: the turns before the input as they were recorded, empty where there are none or where what the
    metadata hold is no list of messages (``is_conversation_unreadable``). ``cluster``: the label of its bin.
    ``slice``: what its tags say about the columns that traffic is stratified by, or None.
    """

    version: CaseVersion
    bin: str | None
    cluster: str | None
    slice: str | None
    conversation: tuple[dict[str, Any], ...]
    is_conversation_unreadable: bool

    @property
    def case_id(self) -> str:
        return self.version.case_id

    @property
    def input(self) -> str:
        return self.version.input

    @property
    def expected_output(self) -> str | None:
        return self.version.expected_output

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as it was recorded, then the input."""
        return [*self.conversation, {"role": "user", "content": self.input}]

    @property
    def plain_messages(self) -> list[dict[str, str]]:
        """The same with role and text alone, for tools that take nothing else."""
        return [{"role": turn["role"], "content": _text_of(turn.get("content"))} for turn in self.messages]

    @property
    def loses_in_plain_messages(self) -> bool:
        """Whether a turn holds more than role and text, such as tool calls."""
        return any(set(turn) != {"role", "content"} or not isinstance(turn["content"], str) for turn in self.messages)

    @property
    def kept(self) -> dict[str, Any]:
        """Everything about the case but its input, expected output and readable conversation: a tool's metadata."""
        own = self.version
        metadata = own.metadata
        if self.conversation:
            metadata = {key: value for key, value in own.metadata.items() if key != CONVERSATION} or None
        return {
            "case_id": own.case_id,
            "version": own.version,
            "effective_on": own.effective_on,
            "created_at": own.created_at,
            "origin": own.origin,
            "bin": self.bin,
            "cluster": self.cluster,
            "slice": self.slice,
            "weight": own.weight,
            "weight_parts": msgspec.to_builtins(own.weight_parts),
            "is_regression": own.is_regression,
            "is_random_draw": own.is_random_draw,
            "tags": own.tags,
            "metadata": metadata,
            "provenance": msgspec.to_builtins(own.provenance),
            "merged_trace_ids": own.merged_trace_ids,
            "n_merged_failures": own.n_merged_failures,
        }

    @property
    def kept_beside_plain_messages(self) -> dict[str, Any]:
        """``kept``, with the conversation as it was recorded where ``plain_messages`` lose a part of it."""
        return self.kept | ({CONVERSATION: list(self.conversation)} if self.loses_in_plain_messages else {})


@dataclass(frozen=True)
class ExportedSuite:
    """The suite as of a day. ``suite_hash`` is that of its lock."""

    cases: tuple[ExportedCase, ...]
    as_of: date
    suite_hash: str

    @property
    def graded(self) -> list[ExportedCase]:
        """The cases that say what is expected."""
        return [case for case in self.cases if case.expected_output]

    @property
    def ungraded(self) -> list[ExportedCase]:
        """The cases that do not: a file of their own where the tool would count each of them as passed."""
        return [case for case in self.cases if not case.expected_output]


def described(
    version: CaseVersion, bins: Mapping[str, str], labels: Mapping[str, str], strata: Sequence[str]
) -> ExportedCase:
    """A case of the ledger with the bin that it falls in and what its tags say.

    Args:
        version: the case as of the day.
        bins: the bin of each case by case_id; a case that is not in it has none.
        labels: the label of each bin.
        strata: the columns that traffic is stratified by, ``sampling.strata_columns``.
    """
    bin_ = bins.get(version.case_id)
    turns = version.metadata.get(CONVERSATION) if isinstance(version.metadata, dict) else None
    conversation = tuple(turns) if isinstance(turns, list) and all(_is_message(turn) for turn in turns) else None
    return ExportedCase(
        version=version,
        bin=bin_,
        cluster=labels.get(bin_) if bin_ else None,
        slice=_slice_of(version.tags, strata),
        conversation=conversation or (),
        is_conversation_unreadable=turns is not None and conversation is None,
    )


def as_lines(documents: Sequence[Mapping[str, Any]]) -> str:
    """JSON Lines; what only some readers take for the end of a line is written by its number."""
    return "".join(json.dumps(document, ensure_ascii=False).translate(_BREAKS) + "\n" for document in documents)


def _slice_of(tags: Any, strata: Sequence[str]) -> str | None:
    named = [f"{column}={tags[column]}" for column in strata if column in tags] if isinstance(tags, dict) else []
    return ", ".join(named) or None


def _is_message(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") in ROLES


def _text_of(content: Any) -> str:
    """A turn's text; what is no text, such as a list of parts, as JSON, so that no tool opens the files it names."""
    if content is None:
        return ""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
