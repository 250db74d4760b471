"""What every format of answers shares: the fields that people fill in, and what reading a file gives."""

from dataclasses import dataclass, field

from evalflow.adapters.native import Line

ANSWER_FIELDS = (
    *("verdict", "expected_output", "severity", "duplicate_of", "comment", "open_codes", "tags", "reviewer"),
)
"""What a reviewer fills in, in this order."""
LIST_FIELDS = ("open_codes", "tags")


@dataclass(frozen=True)
class ReviewFile:
    """The lines of a file of answers. ``n_drafts`` and ``n_cancelled``: annotations that are no answers (Label Studio)."""

    lines: list[Line] = field(default_factory=list)
    n_drafts: int = 0
    n_cancelled: int = 0


def has_other_input(given: object, text: str) -> bool:
    """Whether the file holds another input than the trace that was queued; line breaks and blanks may differ."""
    if not isinstance(given, str):
        return False
    return " ".join(given.split()) not in (" ".join(text.split()), " ".join(shortened_cell(text).split()))


CELL_CHARS = 30_000
"""A spreadsheet keeps at most 32,767 characters in a cell."""


def shortened_cell(text: str) -> str:
    """What fits into a cell."""
    if len(text) <= CELL_CHARS:
        return text
    return f"{text[:CELL_CHARS]}… ({len(text) - CELL_CHARS:,} characters left out)"
