"""What an export loses: the fate of each of a case's fields, and how many cases are not what they were.

Keep out: what a format does with a field; each exporter says that of itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from evalflow.adapters.exporters.case import ExportedSuite

FIELDS = (
    "case_id",
    "version",
    "input",
    "expected_output",
    "conversation",
    "origin",
    "created_at",
    "effective_on",
    "weight",
    "weight_parts",
    "tags",
    "slice",
    "metadata",
    "bin",
    "cluster",
    "is_regression",
    "is_random_draw",
    "provenance",
    "merged_trace_ids",
    "n_merged_failures",
)
"""What is known of a case: the native fields, the label of its bin (``cluster``), what its tags say (``slice``)."""

Fate = Literal["mapped", "kept as metadata", "dropped"]


class FieldFate(NamedTuple):
    """Where a field goes. ``to``: the tool's own field, empty where it is dropped; ``why``: a reason where one is due."""

    field: str
    fate: Fate
    to: str
    why: str


class CaseLoss(NamedTuple):
    """How many cases are not in the export as they were, and in what way."""

    n_cases: int
    what: str


@dataclass(frozen=True)
class LossReport:
    """The loss of one export; ``cases`` holds only what happened to at least one case."""

    fields: tuple[FieldFate, ...]
    cases: tuple[CaseLoss, ...]

    def document(self) -> dict[str, Any]:
        return {
            "fields": [fate._asdict() for fate in self.fields],
            "cases": [loss._asdict() for loss in self.cases],
        }

    @property
    def headline(self) -> str:
        """One sentence: how many fields went where."""
        counts = {fate: [own.field for own in self.fields if own.fate == fate] for fate in ("mapped", "dropped")}
        n_kept = len(self.fields) - len(counts["mapped"]) - len(counts["dropped"])
        dropped = f" ({', '.join(counts['dropped'])})" if counts["dropped"] else ""
        return (
            f"{len(counts['mapped'])} fields mapped, {n_kept} kept as metadata, "
            f"{len(counts['dropped'])} dropped{dropped}"
        )


def fates(mapped: Mapping[str, str], kept_in: str, dropped: Mapping[str, str]) -> tuple[FieldFate, ...]:
    """The fate of every field: mapped to a field of the tool's own, dropped for a reason, else kept in its metadata."""
    return tuple(
        FieldFate(name, "mapped", mapped[name], "")
        if name in mapped
        else FieldFate(name, "dropped", "", dropped[name])
        if name in dropped
        else FieldFate(name, "kept as metadata", f"{kept_in}.{name}", "")
        for name in FIELDS
    )


def unreadable(suite: ExportedSuite) -> tuple[int, str]:
    """Cases whose metadata hold something under ``conversation`` that is no list of messages."""
    number = sum(case.is_conversation_unreadable for case in suite.cases)
    return number, "metadata.conversation is no list of messages; it stays in the metadata and only the input is asked"


def flattened(suite: ExportedSuite) -> tuple[int, str]:
    """Cases with turns that hold more than role and text."""
    number = sum(case.loses_in_plain_messages for case in suite.cases)
    return number, "turns hold more than role and text, such as tool calls; that part is in the metadata only"


def unanswered(suite: ExportedSuite, what: str) -> tuple[int, str]:
    """Cases without an expected output, and what that means in the tool."""
    return len(suite.ungraded), f"no expected output: {what}"


def losses(counted: Sequence[tuple[int, str]]) -> tuple[CaseLoss, ...]:
    """Those that happened."""
    return tuple(CaseLoss(number, what) for number, what in counted if number)
