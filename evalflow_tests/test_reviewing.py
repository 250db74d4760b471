"""Reviewing: what follows from people's answers, and that nothing is promoted by accident."""

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.core.records import Review, Severity, Verdict
from evalflow.core.reviewing import (
    BY_PRODUCTION,
    BY_REVIEWER,
    COVERAGE_SOURCES,
    SEVERITIES,
    WAITING,
    Decision,
    Source,
    decide,
)

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
ANSWER = "We refunded it."
"""Production's own."""


def says(reviewer: str, verdict: str, minute: int = 0, **fields: Any) -> Review:
    at = NOON + timedelta(minutes=minute)
    return Review(trace_id="t1", verdict=verdict, reviewer=reviewer, reviewed_at=at, **fields)  # type: ignore[arg-type]


def decided(*reviews: Review, source: Source = "quota", output: str | None = ANSWER) -> Decision:
    return decide("t1", source, output, reviews)


@st.composite
def answers(draw: st.DrawFn, reviewers: str = "abc") -> Review:
    return says(
        draw(st.sampled_from(reviewers)),
        draw(st.sampled_from(get_args(Verdict))),
        draw(st.integers(0, 600)),
        expected_output=draw(st.sampled_from([None, "Do this.", "Do that."])),
        severity=draw(st.sampled_from([None, *SEVERITIES])),
        duplicate_of=draw(st.sampled_from([None, "case-1", "case-2"])),
        reviewer_kind=draw(st.sampled_from(["human", "script"])),
    )


sources = st.sampled_from(get_args(Source))
outputs = st.sampled_from([None, "", ANSWER])


# -- states in which a trace waits ----------------------------------------------------------------------------


def test_without_an_answer_it_is_open_and_nothing_is_said() -> None:
    assert decided() == Decision("open")


def test_who_is_unsure_does_not_decide() -> None:
    decision = decided(says("ann", "unsure"), says("bob", "unsure"))
    assert decision.state == "unsure"
    assert decision.why == "t1: ann says unsure, bob says unsure; somebody else should look at it"


def test_who_is_unsure_does_not_hold_back_those_who_are_sure() -> None:
    decision = decided(
        says("ann", "unsure", 5, expected_output="Not this.", severity="critical"),
        says("bob", "real_failure", expected_output="Do this.", severity="low"),
    )
    assert (decision.state, decision.reviewers) == ("confirmed", ("bob",))
    assert (decision.expected_output, decision.severity) == ("Do this.", "low")


def test_a_dispute_names_who_says_what() -> None:
    decision = decided(says("ann", "real_failure", expected_output="Do this."), says("bob", "not_a_failure", 1))
    assert decision.state == "disputed"
    assert decision.why == "t1: ann says real failure, bob says not a failure; nothing is promoted until they agree"
    assert decision.expected_output is None


def test_a_third_voice_does_not_outvote_a_dispute() -> None:
    voices = [says("ann", "real_failure", expected_output="x"), says("bob", "real_failure"), says("eve", "duplicate")]
    assert decided(*voices).state == "disputed"


def test_two_duplicates_of_different_cases_are_a_dispute() -> None:
    decision = decided(says("ann", "duplicate", duplicate_of="case-1"), says("bob", "duplicate", duplicate_of="case-2"))
    assert (decision.state, decision.duplicate_of) == ("disputed", None)


@pytest.mark.parametrize(
    ("verdict", "output"), [("real_failure", ANSWER), ("not_a_failure", None), ("not_a_failure", "")]
)
def test_without_a_right_answer_it_is_incomplete_and_says_what_to_add(verdict: str, output: str | None) -> None:
    """A failure's own output is no right answer, and a trace without output has none to confirm."""
    decision = decided(says("ann", verdict), output=output)
    assert decision.state == "incomplete"
    assert decision.why == (
        f"t1: ann says {verdict.replace('_', ' ')}, but nobody said what the answer should have been; add expected_output"
    )


# -- several people are asked ---------------------------------------------------------------------------------


def of_two(*reviews: Review) -> Decision:
    return decide("t1", "quota", ANSWER, reviews, wanted=2)


def test_one_of_two_answers_leaves_it_open_and_says_who_gave_it() -> None:
    decision = of_two(says("ann", "real_failure", expected_output="Do this."))
    assert (decision.state, decision.why) == ("open", "t1: 1 of 2 answers, by ann")
    assert (decision.n_votes, decision.n_wanted, decision.expected_output) == (1, 2, None)


def test_the_second_of_two_answers_decides() -> None:
    decision = of_two(says("ann", "not_a_failure"), says("bob", "not_a_failure", 1))
    assert (decision.state, decision.n_votes, decision.reviewers) == ("confirmed", 2, ("ann", "bob"))


def test_two_who_differ_are_a_dispute_however_many_are_wanted() -> None:
    decision = decide("t1", "quota", ANSWER, [says("ann", "not_a_failure"), says("bob", "duplicate", 1)], wanted=3)
    assert (decision.state, decision.n_votes) == ("disputed", 2)


def test_neither_doubt_nor_a_second_thought_counts_as_a_second_person() -> None:
    first = says("ann", "not_a_failure")
    assert of_two(first, says("bob", "unsure", 1)).why == "t1: 1 of 2 answers, by ann"
    assert of_two(first, says("ann", "not_a_failure", 2, comment="still")).state == "open"


@given(st.lists(answers(), max_size=7), st.integers(1, 4))
def test_asking_more_people_never_decides_what_fewer_left_open(reviews: list[Review], wanted: int) -> None:
    fewer, more = (decide("t1", "quota", ANSWER, reviews, wanted=n) for n in (wanted, wanted + 1))
    assert more.state in (fewer.state, "open")
    assert more.state not in ("confirmed", "duplicate", "incomplete") or more.n_votes > wanted


# -- one person changes his mind ------------------------------------------------------------------------------


def test_a_reviewers_newest_answer_counts() -> None:
    decision = decided(says("ann", "not_a_failure"), says("ann", "real_failure", 1, expected_output="Do this."))
    assert (decision.state, decision.is_regression, decision.reviewers) == ("confirmed", True, ("ann",))


def test_the_newest_is_told_by_the_answers_own_time_not_by_the_order_of_recording() -> None:
    decision = decided(says("ann", "real_failure", 9, expected_output="Do this."), says("ann", "not_a_failure", 1))
    assert decision.verdict == "real_failure"


def test_of_two_answers_at_one_time_the_one_recorded_last_counts() -> None:
    assert decided(says("ann", "unsure"), says("ann", "not_a_failure")).state == "confirmed"
    assert decided(says("ann", "not_a_failure"), says("ann", "unsure")).state == "unsure"


def test_an_answer_without_a_time_is_older_than_any_with_one() -> None:
    timeless = msgspec.structs.replace(says("ann", "unsure"), reviewed_at=None)
    assert decided(says("ann", "not_a_failure"), timeless).state == "confirmed"


def test_a_dispute_ends_when_one_gives_in() -> None:
    first = [says("ann", "real_failure", expected_output="Do this."), says("bob", "not_a_failure", 1)]
    assert decided(*first).state == "disputed"
    assert decided(*first, says("bob", "real_failure", 2)).state == "confirmed"


def test_who_corrects_himself_last_spoke_last() -> None:
    """ann 12:00, bob 12:01, ann again 12:02: the newest expected answer and the time of review are ann's of 12:02."""
    decision = decided(
        says("ann", "real_failure", 0, expected_output="First thought."),
        says("bob", "real_failure", 1, expected_output="Do that."),
        says("ann", "real_failure", 2, expected_output="On reflection."),
    )
    assert decision.state == "confirmed"
    assert decision.expected_output == "On reflection."
    assert decision.reviewed_at == NOON + timedelta(minutes=2)


# -- what is decided ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", get_args(Source))
def test_a_confirmed_failure_becomes_a_regression_wherever_it_came_from(source: Source) -> None:
    review = says("ann", "real_failure", 3, expected_output="Do this.", severity="high")
    assert decided(review, source=source) == Decision(
        "confirmed",
        is_regression=True,
        expected_output="Do this.",
        expected_from=BY_REVIEWER,
        severity="high",
        reviewers=("ann",),
        reviewer_kind="human",
        reviewed_at=NOON + timedelta(minutes=3),
        verdict="real_failure",
        n_votes=1,
    )


@pytest.mark.parametrize("source", COVERAGE_SOURCES)
def test_a_right_answer_that_coverage_asked_for_becomes_a_case_with_productions_own_words(source: Source) -> None:
    decision = decided(says("ann", "not_a_failure"), source=source)
    assert (decision.state, decision.is_regression, decision.why) == ("confirmed", False, "")
    assert (decision.expected_output, decision.expected_from) == (ANSWER, BY_PRODUCTION)


def test_what_the_reviewer_wrote_comes_before_productions_own_words() -> None:
    decision = decided(says("ann", "not_a_failure", expected_output="Better so."))
    assert (decision.expected_output, decision.expected_from) == ("Better so.", BY_REVIEWER)


@pytest.mark.parametrize("source", sorted(set(get_args(Source)) - set(COVERAGE_SOURCES)))
def test_what_merely_seemed_wrong_is_dismissed(source: Source) -> None:
    decision = decided(says("ann", "not_a_failure", expected_output="Better so."), source=source)
    assert (decision.state, decision.why, decision.expected_output) == ("dismissed", "", None)
    assert decision.reviewers == ("ann",)


@pytest.mark.parametrize("source", get_args(Source))
@pytest.mark.parametrize("target", ["case-1", None])
def test_a_duplicate_points_to_its_case_where_one_is_named(source: Source, target: str | None) -> None:
    decision = decided(says("ann", "duplicate", duplicate_of=target), source=source)
    assert (decision.state, decision.duplicate_of, decision.why) == ("duplicate", target, "")
    assert not decision.is_regression


def test_one_of_two_who_say_duplicate_may_name_the_case_for_both() -> None:
    decision = decided(says("ann", "duplicate", duplicate_of="case-1"), says("bob", "duplicate", 1))
    assert (decision.state, decision.duplicate_of, decision.reviewers) == ("duplicate", "case-1", ("ann", "bob"))


@pytest.mark.parametrize(
    ("given_severities", "expected"),
    [
        ([None, None], None),
        (["low", None], "low"),
        (["low", "critical"], "critical"),
        (["high", "medium"], "high"),
        (["critical", "high"], "critical"),
    ],
)
def test_the_gravest_severity_counts(given_severities: list[Severity | None], expected: str | None) -> None:
    votes = [
        says(f"r{i}", "real_failure", i, expected_output="Do this.", severity=severity)
        for i, severity in enumerate(given_severities)
    ]
    assert decided(*votes).severity == expected


@pytest.mark.parametrize(
    ("kinds", "expected"), [(["script"], "script"), (["script", "human"], "human"), (["human", "script"], "human")]
)
def test_one_human_among_the_votes_makes_it_a_humans(kinds: list[str], expected: str) -> None:
    votes = [says(f"r{i}", "not_a_failure", i, reviewer_kind=kind) for i, kind in enumerate(kinds)]
    assert decided(*votes).reviewer_kind == expected


def test_a_human_who_is_unsure_does_not_lend_his_name_to_a_script() -> None:
    decision = decided(says("bot", "not_a_failure", reviewer_kind="script"), says("ann", "unsure", 1))
    assert (decision.reviewer_kind, decision.reviewers) == ("script", ("bot",))


# -- what holds of all answers --------------------------------------------------------------------------------


@given(st.lists(answers(), max_size=7), sources, outputs)
def test_a_decision_is_whole(reviews: list[Review], source: Source, output: str | None) -> None:
    """Why is said exactly where it waits for somebody; only a confirmed one has an expected answer or is a regression."""
    decision = decided(*reviews, source=source, output=output)
    assert bool(decision.why) == (decision.state in WAITING and decision.state != "open")
    assert (decision.state == "confirmed") == bool(decision.expected_output) == bool(decision.expected_from)
    assert decision.state == "confirmed" or not decision.is_regression
    assert decision.is_regression == (decision.state == "confirmed" and decision.verdict == "real_failure")
    assert decision.state in WAITING or decision.reviewers
    assert decision.duplicate_of is None or decision.state == "duplicate"


@given(st.lists(answers(), max_size=7), sources, outputs)
def test_somebody_who_disagrees_always_holds_a_promotion_back(
    reviews: list[Review], source: Source, output: str | None
) -> None:
    before = decided(*reviews, source=source, output=output)
    if before.state not in ("confirmed", "dismissed", "duplicate"):
        return
    for verdict in get_args(Verdict):
        if verdict not in ("unsure", before.verdict):
            for minute in (-1000, 0, 1000):
                other = says("zoe", verdict, minute, expected_output="Otherwise.", duplicate_of="case-1")
                assert decided(*reviews, other, source=source, output=output).state == "disputed"


@given(st.lists(answers(), max_size=7), sources, outputs)
def test_adding_a_vote_unlike_another_one_never_confirms(
    reviews: list[Review], source: Source, output: str | None
) -> None:
    newest = {review.reviewer: review.verdict for review in sorted(reviews, key=lambda r: r.reviewed_at or NOON)}
    votes = set(newest.values()) - {"unsure"}
    for verdict in ("real_failure", "not_a_failure", "duplicate"):
        if votes - {verdict}:
            added = says("zoe", verdict, expected_output="Otherwise.")
            assert decided(*reviews, added, source=source, output=output).state == "disputed"


@given(st.lists(answers(), max_size=7), sources, outputs)
def test_somebody_who_is_unsure_changes_nothing_that_is_decided(
    reviews: list[Review], source: Source, output: str | None
) -> None:
    before = decided(*reviews, source=source, output=output)
    if before.state != "open":
        after = decided(*reviews, says("zoe", "unsure"), source=source, output=output)
        assert after == before or before.state == after.state == "unsure"


@given(st.lists(answers(), max_size=5, unique_by=lambda review: review.reviewed_at), sources, outputs)
def test_the_order_of_recording_does_not_matter_where_every_answer_has_its_own_time(
    reviews: list[Review], source: Source, output: str | None
) -> None:
    decisions = {decided(*order, source=source, output=output) for order in permutations(reviews)}
    assert len(decisions) == 1


@given(st.lists(answers("a"), min_size=1, max_size=5, unique_by=lambda review: review.reviewed_at), sources, outputs)
def test_what_one_said_before_leaves_no_trace(reviews: list[Review], source: Source, output: str | None) -> None:
    last = max(reviews, key=lambda review: review.reviewed_at or NOON)
    assert decided(*reviews, source=source, output=output) == decided(last, source=source, output=output)
