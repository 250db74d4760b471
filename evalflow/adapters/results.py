"""Reads what a candidate did on the suite: a line per case, ``{"case_id": ..., "pass": true | false | null}``.

Nothing is guessed: a ``pass`` that is no JSON boolean or null is unusable, and a case that both passed and failed is
an error. Further fields are for the reader and are passed over. Keep out: what the results decide (``core/gate.py``).
"""

from dataclasses import dataclass
from typing import Any

from evalflow.adapters.native import find_files, read_lines
from evalflow.core.records import Unusable
from evalflow.errors import BadInputError

_EXAMPLE = '{"case_id": "parcel-1", "pass": true}'


@dataclass(frozen=True)
class UnusableLine:
    """A line that says nothing about a case; line 0 is the file as a whole."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True)
class Results:
    """``outcomes``: pass, fail or unscored (None) by case. ``repeated``: cases that stand more than once, agreeing."""

    outcomes: dict[str, bool | None]
    repeated: tuple[str, ...]
    unusable: tuple[UnusableLine, ...]


def read_results(path: str) -> Results:
    """The results in the files that ``path`` names.

    Raises:
        BadInputError: nothing is there, no line can be used, or a case stands twice with different outcomes.
    """
    outcomes: dict[str, bool | None] = {}
    seen_at: dict[str, str] = {}
    repeated: dict[str, None] = {}
    unusable: list[UnusableLine] = []
    for file in find_files(path).files:
        # A Parquet reader leaves out what is null, so there an absent `pass` is one.
        absent_is_null = file.endswith(".parquet")
        for line in read_lines(file):
            found = _outcome_of(line.row, absent_is_null)
            if isinstance(found, Unusable):
                unusable.append(UnusableLine(file, line.number, found.reason))
                continue
            case_id, passed = found
            if case_id in outcomes and outcomes[case_id] is not passed:
                raise BadInputError(
                    f"The case {case_id!r} is {_said(outcomes[case_id])} at {seen_at[case_id]} and {_said(passed)} at "
                    f"{file}:{line.number}; give each case one outcome."
                )
            if case_id in outcomes:
                repeated[case_id] = None
            outcomes[case_id] = passed
            seen_at.setdefault(case_id, f"{file}:{line.number}")
    if not outcomes:
        first = f"{unusable[0].file}:{unusable[0].line}: {unusable[0].reason}" if unusable else "it is empty"
        raise BadInputError(f"{path} holds no usable result ({first}); write one line per case, such as {_EXAMPLE}.")
    return Results(outcomes, tuple(repeated), tuple(unusable))


def _outcome_of(row: Any, absent_is_null: bool) -> tuple[str, bool | None] | Unusable:
    if isinstance(row, Unusable):
        return row
    if not isinstance(row, dict):
        return Unusable(f"a line must be a JSON object, this is a {type(row).__name__}")
    case_id = row.get("case_id")
    if not isinstance(case_id, str) or not case_id:
        return Unusable(f"case_id {_excerpt(case_id)} names no case" if "case_id" in row else "case_id is missing")
    if any("\ud800" <= character <= "\udfff" for character in case_id):
        return Unusable("case_id contains half of a surrogate pair, which is not text")
    if "pass" not in row and not absent_is_null:
        return Unusable("pass is missing; write null where a case was not scored")
    passed = row.get("pass")
    if passed is not None and not isinstance(passed, bool):
        return Unusable(f"pass is {_excerpt(passed)}, not true, false or null")
    return case_id, passed


def _said(passed: bool | None) -> str:
    return "unscored" if passed is None else "a pass" if passed else "a failure"


def _excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
