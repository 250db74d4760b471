"""What follows from people's answers about one queued trace: a case, a dismissal, or that it has to wait and why.

Nothing is promoted by accident: answers that disagree, that are unsure, or that leave out what the right answer would
have been hold the trace back. Source: docs/methods.md, "Triage and golden set".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from evalflow.core.records import Review, Severity

Source = Literal["quota", "failed_grade", "signal"]
"""Why a trace was queued: coverage wants it, a grader failed it, or its user complained."""
State = Literal["open", "unsure", "disputed", "incomplete", "confirmed", "dismissed", "duplicate"]
WAITING: tuple[State, ...] = ("open", "unsure", "disputed", "incomplete")
"""States in which a trace stays in the queue."""
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the mildest to the gravest."""
BY_REVIEWER, BY_PRODUCTION = "reviewer", "production's answer, confirmed by the reviewer"
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Decision:
    """Where a trace stands. ``why`` is a sentence for the states in which it waits; empty else."""

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


def decide(trace_id: str, source: Source, output: str | None, reviews: Sequence[Review]) -> Decision:
    """The state of one trace.

    Each reviewer's newest answer counts; those who are unsure do not vote. A confirmed failure becomes a frozen
    regression; an answer that was right becomes a case only where coverage asked for the trace, and is dismissed
    where something merely seemed wrong.

    Args:
        trace_id: for the sentences.
        source: why the trace was queued.
        output: production's own answer, scrubbed.
        reviews: every answer about this trace in the order of recording.
    """
    newest: dict[str, Review] = {}
    for review in sorted(reviews, key=lambda r: r.reviewed_at or _EARLIEST):
        newest.pop(review.reviewer, None)  # so that who corrects himself comes last
        newest[review.reviewer] = review
    if not newest:
        return Decision("open")
    votes = [review for review in newest.values() if review.verdict != "unsure"]
    if not votes:
        return Decision("unsure", f"{trace_id}: {_named(newest.values())}; somebody else should look at it")
    verdicts = {review.verdict for review in votes}
    targets = {review.duplicate_of for review in votes if review.duplicate_of}
    if len(verdicts) > 1 or len(targets) > 1:
        return Decision("disputed", f"{trace_id}: {_named(votes)}; nothing is promoted until they agree")
    last = votes[-1]
    known = {
        "reviewers": tuple(review.reviewer for review in votes),
        "reviewer_kind": "human" if any(review.reviewer_kind == "human" for review in votes) else "script",
        "reviewed_at": last.reviewed_at,
        "severity": max((r.severity for r in votes if r.severity), key=SEVERITIES.index, default=None),
        "verdict": last.verdict,
    }
    if last.verdict == "duplicate":
        return Decision("duplicate", duplicate_of=next(iter(targets), None), **known)  # type: ignore[arg-type]  # each name has its own type
    if last.verdict == "not_a_failure" and source != "quota":
        return Decision("dismissed", **known)  # type: ignore[arg-type]
    expected, expected_from = _expected(votes, output if last.verdict == "not_a_failure" else None)
    if expected is None:
        return Decision(
            "incomplete",
            f"{trace_id}: {_named(votes)}, but nobody said what the answer should have been; add expected_output",
        )
    return Decision(
        "confirmed",
        is_regression=last.verdict == "real_failure",
        expected_output=expected,
        expected_from=expected_from,
        **known,  # type: ignore[arg-type]
    )


def _expected(votes: Sequence[Review], confirmed_output: str | None) -> tuple[str | None, str | None]:
    """The newest expected answer that somebody wrote, else production's own where it was confirmed."""
    written = [review.expected_output for review in votes if review.expected_output]
    if written:
        return written[-1], BY_REVIEWER
    return (confirmed_output, BY_PRODUCTION) if confirmed_output else (None, None)


def _named(reviews: Iterable[Review]) -> str:
    return ", ".join(f"{review.reviewer} says {review.verdict.replace('_', ' ')}" for review in reviews)
