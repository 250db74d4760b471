"""What follows from people's answers about one queued trace: a case, a dismissal, or that it has to wait and why.

Nothing is promoted by accident: answers that disagree, that are unsure, or that leave out what the right answer would
have been hold the trace back. Source: docs/methods.md, "Triage and golden set".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from evalflow.core.records import Review, Severity

Source = Literal["feedback", "failed_grade", "signal", "drift", "calibration", "quota", "error_analysis"]
"""Why a trace was queued: its user said so, a grader failed it, the system recorded a failure or the user's doing hints
at one, it belongs to traffic that no case tests and that an alarm names, it was drawn at random to calibrate graders,
coverage wants it, or error analysis drew it."""
FAILURE_SOURCES: tuple[Source, ...] = ("feedback", "failed_grade", "signal", "drift")
"""Those that share the labels for failures; with equal counts the first comes first."""
SUSPECTED: tuple[Source, ...] = ("feedback", "failed_grade", "signal")
"""Those where something says of the very trace that it failed."""
COVERAGE_SOURCES: tuple[Source, ...] = ("quota", "drift")
"""Those where an answer that was right makes a case too: the suite lacks such traffic."""
State = Literal["open", "unsure", "disputed", "incomplete", "confirmed", "dismissed", "duplicate"]
WAITING: tuple[State, ...] = ("open", "unsure", "disputed", "incomplete")
"""States in which a trace stays in the queue."""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the mildest to the gravest."""
BY_REVIEWER, BY_PRODUCTION = "reviewer", "production's answer, confirmed by the reviewer"
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Decision:
    """Where a trace stands. ``why`` is a sentence for the states in which it waits; empty else.

    ``n_votes`` of ``n_wanted`` people have said something other than unsure.
    """

    state: State
    why: str = ""
    is_regression: bool = False
    expected_output: str | None = None
    expected_from: str | None = None
    severity: Severity | None = None
    duplicate_of: str | None = None
    reviewers: tuple[str, ...] = ()
    reviewer_kind: str | None = None
    reviewed_at: datetime | None = None
    verdict: str | None = None
    n_votes: int = 0
    n_wanted: int = 1


def decide(trace_id: str, source: Source, output: str | None, reviews: Sequence[Review], wanted: int = 1) -> Decision:
    """The state of one trace.

    Each reviewer's newest answer counts; those who are unsure do not vote. With fewer votes than wanted it stays open,
    unless they differ already. A confirmed failure becomes a frozen regression; an answer that was right becomes a case
    only where coverage asked for the trace, and is dismissed where something merely seemed wrong.

    Args:
        trace_id: for the sentences.
        source: why the trace was queued.
        output: production's own answer, scrubbed.
        reviews: every answer about this trace in the order of recording.
        wanted: how many people's votes it takes.
    """
    newest: dict[str, Review] = {}
    for review in sorted(reviews, key=lambda r: r.reviewed_at or _EARLIEST):
        newest.pop(review.reviewer, None)  # so that who corrects himself comes last
        newest[review.reviewer] = review
    if not newest:
        return Decision("open", n_wanted=wanted)
    votes = [review for review in newest.values() if review.verdict != "unsure"]
    counts: dict[str, Any] = {"n_votes": len(votes), "n_wanted": wanted}
    if not votes:
        return Decision("unsure", f"{trace_id}: {_named(newest.values())}; somebody else should look at it", **counts)
    verdicts = {review.verdict for review in votes}
    targets = {review.duplicate_of for review in votes if review.duplicate_of}
    if len(verdicts) > 1 or len(targets) > 1:
        return Decision("disputed", f"{trace_id}: {_named(votes)}; nothing is promoted until they agree", **counts)
    if len(votes) < wanted:
        by = ", ".join(review.reviewer for review in votes)
        return Decision("open", f"{trace_id}: {len(votes)} of {wanted} answers, by {by}", **counts)
    last = votes[-1]
    known: dict[str, Any] = {
        **counts,
        "reviewers": tuple(review.reviewer for review in votes),
        "reviewer_kind": "human" if any(review.reviewer_kind == "human" for review in votes) else "script",
        "reviewed_at": last.reviewed_at,
        "severity": max((r.severity for r in votes if r.severity), key=SEVERITIES.index, default=None),
        "verdict": last.verdict,
    }
    if last.verdict == "duplicate":
        return Decision("duplicate", duplicate_of=next(iter(targets), None), **known)
    if last.verdict == "not_a_failure" and source not in COVERAGE_SOURCES:
        return Decision("dismissed", **known)
    expected, expected_from = _expected(votes, output if last.verdict == "not_a_failure" else None)
    if expected is None:
        return Decision(
            "incomplete",
            f"{trace_id}: {_named(votes)}, but nobody said what the answer should have been; add expected_output",
            **known,
        )
    return Decision(
        "confirmed",
        is_regression=last.verdict == "real_failure",
        expected_output=expected,
        expected_from=expected_from,
        **known,
    )


def contradictions(answers: Sequence[tuple[int, Review]]) -> dict[int, str]:
    """Answers of one file that say different things for the same person and trace, each by its position with the reason.

    Nobody can tell which one is meant, so none of them counts. With different times of their own they are a change of
    mind, and with the same content one answer.

    Args:
        answers: each with the number of its line.
    """
    found: dict[int, str] = {}
    held: dict[tuple[str, str], list[int]] = {}
    for position, (_, review) in enumerate(answers):
        held.setdefault((review.trace_id, review.reviewer), []).append(position)
    for (trace_id, reviewer), positions in held.items():
        own = [answers[position][1] for position in positions]
        times = {review.reviewed_at for review in own}
        if len({review.answer for review in own}) == 1 or (None not in times and len(times) == len(own)):
            continue
        lines = ", ".join(str(answers[position][0]) for position in positions)
        reason = (
            f"{reviewer!r} answers trace {trace_id!r} more than once and differently (lines {lines}); keep one of them"
        )
        found |= dict.fromkeys(positions, reason)
    return found


def _expected(votes: Sequence[Review], confirmed_output: str | None) -> tuple[str | None, str | None]:
    """The newest expected answer that somebody wrote, else production's own where it was confirmed."""
    written = [review.expected_output for review in votes if review.expected_output]
    if written:
        return written[-1], BY_REVIEWER
    return (confirmed_output, BY_PRODUCTION) if confirmed_output else (None, None)


def _named(reviews: Iterable[Review]) -> str:
    return ", ".join(f"{review.reviewer} says {review.verdict.replace('_', ' ')}" for review in reviews)
