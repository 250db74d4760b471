"""Reads what a candidate did on the suite: a line per attempt, ``{"case_id": ..., "pass": true | false | null}``.

Several attempts at a case are told apart by ``repeat``, a whole number. Nothing is guessed: a ``pass`` that is no JSON
boolean or null is unusable, and an attempt that both passed and failed is an error. Further fields (``output``,
``reason``, ``latency_ms``, ``cost_usd`` and any other) are for the reader and are passed over. Keep out: what the
results decide (``core/gate.py``).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from evalflow.adapters.native import find_files, read_lines
from evalflow.core.attempts import Attempts
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
    """``attempts`` by case. ``repeated``: cases with an attempt that stands more than once, agreeing; counted once."""

    attempts: dict[str, Attempts]
    repeated: tuple[str, ...]
    unusable: tuple[UnusableLine, ...]

    @property
    def outcomes(self) -> dict[str, bool | None]:
        """Pass, fail or unscored (None) by case, for readers that want one word.

        One attempt: itself. Several: the majority of the scored ones, a tie fails; unscored only where none is scored.
        """
        return {case_id: tried.outcome for case_id, tried in self.attempts.items()}

    @property
    def max_attempts(self) -> int:
        """The most attempts at any case."""
        return max((tried.n_attempts for tried in self.attempts.values()), default=0)


class _Attempt(NamedTuple):
    case_id: str
    repeat: int | None
    passed: bool | None


def read_results(path: str) -> Results:
    """The results in the files that ``path`` names.

    Raises:
        BadInputError: nothing is there, no line can be used, an attempt stands twice with different outcomes, or a case
            has lines with ``repeat`` and without.
    """
    found: dict[str, dict[int | None, bool | None]] = {}
    seen_at: dict[tuple[str, int | None], str] = {}
    repeated: dict[str, None] = {}
    unusable: list[UnusableLine] = []
    for file in find_files(path).files:
        # A Parquet reader leaves out what is null, so there an absent `pass` is one.
        absent_is_null = file.endswith(".parquet")
        for line in read_lines(file):
            attempt = _attempt_of(line.row, absent_is_null)
            if isinstance(attempt, Unusable):
                unusable.append(UnusableLine(file, line.number, attempt.reason))
                continue
            case_id, repeat, passed = attempt
            known, here = found.setdefault(case_id, {}), f"{file}:{line.number}"
            if repeat in known:
                if known[repeat] is not passed:
                    raise _contradiction(attempt, known[repeat], seen_at[case_id, repeat], here)
                repeated[case_id] = None
                continue
            if known and (repeat is None) != (None in known):
                raise BadInputError(
                    f"The case {case_id!r} has a line with `repeat` and one without, at {seen_at[case_id, next(iter(known))]} "
                    f"and {here}; number all of its attempts or none."
                )
            known[repeat] = passed
            seen_at[case_id, repeat] = here
    if not found:
        first = f"{unusable[0].file}:{unusable[0].line}: {unusable[0].reason}" if unusable else "it is empty"
        raise BadInputError(f"{path} holds no usable result ({first}); write one line per case, such as {_EXAMPLE}.")
    attempts = {
        case_id: Attempts(tuple(known[repeat] for repeat in sorted(known, key=lambda repeat: repeat or 0)))
        for case_id, known in found.items()
    }
    return Results(attempts, tuple(repeated), tuple(unusable))


def _attempt_of(row: Any, absent_is_null: bool) -> _Attempt | Unusable:
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
    repeat = row.get("repeat")
    if repeat is not None and (isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 0):
        return Unusable(f"repeat is {_excerpt(repeat)}, not a whole number from 0 on")
    return _Attempt(case_id, repeat, passed)


def _contradiction(attempt: _Attempt, before: bool | None, seen_at: str, here: str) -> BadInputError:
    said = f"is {_said(before)} at {seen_at} and {_said(attempt.passed)} at {here}"
    if attempt.repeat is None:
        return BadInputError(f"The case {attempt.case_id!r} {said}; give each case one outcome.")
    return BadInputError(
        f"Repeat {attempt.repeat} of the case {attempt.case_id!r} {said}; give each repeat one outcome."
    )


def _said(passed: bool | None) -> str:
    return "unscored" if passed is None else "a pass" if passed else "a failure"


def _excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
