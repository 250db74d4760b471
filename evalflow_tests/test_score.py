"""The qualified score: weights, bounds and errors that hold, and a diagnosis that is planted and recovered."""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.core.score import (
    OVERFITTING_P,
    BinResult,
    Change,
    Diagnosis,
    JsdWeek,
    Paired,
    Production,
    ProductionRate,
    covered_score,
    days_in_force,
    diagnose,
    jsd_change,
    mean_outcomes,
    production_change,
    score_change,
)

WEEK = date(2026, 8, 17)


def bin_of(name: str, share: float, passed: int, scored: int) -> BinResult:
    return BinResult(name, share, scored, scored, passed)


# -- the weighted rate ---------------------------------------------------------------------------------------


def test_the_weighted_rate_and_what_it_does_not_cover_by_hand() -> None:
    """Covered .8 of traffic: (.5 * 2/4 + .3 * 1/1) / .8 = .6875; of all traffic .55 if the rest fails, .75 if it passes.

    n by Kish: a = (.625, .375), 1 / (.625^2/4 + .375^2/1) = 4.1967, centre (.6875 * 4.1967 + 2) / 8.1967 = .5960.
    Drawn: (2 + 5 * .5960) / 9 = .5533 and (1 + 5 * .5960) / 6 = .6633; the variance
    .625^2 * .5533 * .4467 / 4 + .375^2 * .6633 * .3367 / 1 = .02414 + .03141 = .05554.
    """
    score = covered_score([bin_of("a", 0.5, 2, 4), bin_of("b", 0.3, 1, 1), bin_of("c", 0.2, 0, 0)], None)
    assert score.rate == pytest.approx(0.6875)
    assert score.covered_share == pytest.approx(0.8)
    assert score.bounds == pytest.approx((0.55, 0.75))
    assert score.se == pytest.approx(sqrt(0.05554), abs=2e-4)


def test_production_sampling_adds_to_the_error_where_bins_differ() -> None:
    """Two bins of half the traffic that pass always and never, from 25 traces: sqrt(.25 / 25) = .1 on top of the cases."""
    rows = [bin_of("a", 0.5, 10**6, 10**6), bin_of("b", 0.5, 0, 10**6)]
    assert covered_score(rows, 25).se == pytest.approx(0.1, abs=1e-3)
    assert (covered_score(rows, None).se or 1) < 1e-3
    same = [bin_of("a", 0.5, 60, 80), bin_of("b", 0.5, 60, 80)]
    assert covered_score(same, 25).se == covered_score(same, None).se


def test_the_sampling_part_is_the_spread_that_samples_of_production_have() -> None:
    """400 samples of 300 traces over five bins of known pass rates, one bin uncovered; tolerance: 3 errors of an SD."""
    rng = np.random.default_rng(3)
    share, rates = np.array([0.4, 0.2, 0.15, 0.05, 0.2]), (0.9, 0.5, 0.2, 1.0)
    n = 10**8

    def score_of(p: np.ndarray) -> float:
        rows = [bin_of(str(k), p[k], round(rate * n), n) for k, rate in enumerate(rates)]
        return covered_score([*rows, bin_of("hole", p[4], 0, 0)], None).rate or 0.0

    seen = np.std([score_of(rng.multinomial(300, share) / 300) for _ in range(400)])
    rows = [bin_of(str(k), share[k], round(rate * n), n) for k, rate in enumerate(rates)]
    assert covered_score([*rows, bin_of("hole", 0.2, 0, 0)], 300).se == pytest.approx(seen, rel=3 / sqrt(800))


def test_one_of_one_is_not_certain() -> None:
    score = covered_score([bin_of("a", 1.0, 1, 1)], None)
    assert score.rate == 1.0
    assert (score.se or 0) > 0.2
    assert score.interval.low < 0.4


@pytest.mark.parametrize("rows", [[], [bin_of("a", 1.0, 0, 0)], [bin_of("a", 0.0, 3, 3)]])
def test_nothing_covered_gives_no_rate_and_the_widest_bounds(rows: list[BinResult]) -> None:
    score = covered_score(rows, 100.0)
    assert (score.rate, score.se, score.interval, score.covered_share) == (None, None, None, 0.0)
    assert score.bounds == (0.0, 1.0), "also without any traffic, where (0, 0) would make a score of 0 % look sure"
    assert json.dumps(score.bounds) == "[0.0, 1.0]"


bins = st.lists(
    st.tuples(st.floats(0.001, 1), st.integers(0, 12), st.integers(0, 12), st.floats(0, 1)), min_size=1, max_size=12
)


@given(bins, st.none() | st.floats(1, 10_000))
def test_bounds_hold_whatever_the_uncovered_traffic_does(
    drawn: list[tuple[float, int, int, float]], m_eff: float | None
) -> None:
    """The pass rate over all traffic, uncovered bins passing as they please, lies between the bounds; and all in [0, 1]."""
    total = sum(share for share, *_ in drawn)
    rows = [bin_of(str(k), p / total, min(x, n), n) for k, (p, x, n, _) in enumerate(drawn)]
    score = covered_score(rows, m_eff)
    truth = sum(
        (row.production_share or 0) * (row.pass_rate if row.pass_rate is not None else free)
        for row, (*_, free) in zip(rows, drawn, strict=True)
    )
    assert score.bounds.low - 1e-9 <= truth <= score.bounds.high + 1e-9
    assert score.bounds.high - score.bounds.low == pytest.approx(1 - score.covered_share, abs=1e-9)
    assert 0 <= score.bounds.low <= score.bounds.high <= 1
    if score.rate is not None and score.interval is not None:
        assert score.bounds.low - 1e-9 <= score.rate <= score.bounds.high / score.covered_share + 1e-9
        assert 0 <= score.interval.low <= score.rate + 1e-9
        assert score.rate - 1e-9 <= score.interval.high <= 1
        assert (score.se or 0) > 0


@pytest.mark.parametrize(("n_cases", "mean", "spread"), [(100, 0.9, 1000), (200, 0.75, 2), (200, 0.97, 5)])
def test_the_interval_covers_the_planted_rate(n_cases: int, mean: float, spread: float) -> None:
    """Forty bins, cases not in proportion to traffic, pass rates that differ little or much: at least 92 of 100."""
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(400):
        share, true = rng.dirichlet(np.ones(40)), rng.beta(mean * spread, (1 - mean) * spread, 40)
        cases = rng.multinomial(n_cases, rng.dirichlet(np.full(40, 0.7)))
        passed = rng.binomial(cases, true)
        score = covered_score([bin_of(str(k), share[k], int(passed[k]), int(cases[k])) for k in range(40)], None)
        covered = cases > 0
        planted = (share * true)[covered].sum() / share[covered].sum()
        hits += score.interval.low <= planted <= score.interval.high
    assert hits / 400 >= 0.92


# -- changes -------------------------------------------------------------------------------------------------


def weeks_of(*jsd: float | None, taxonomies: str = "", previous: dict[int, float] | None = None) -> list[JsdWeek]:
    names = taxonomies or "a" * len(jsd)
    return [
        JsdWeek(WEEK + timedelta(weeks=k), value, None if value is None else 0.01, names[k], (previous or {}).get(k))
        for k, value in enumerate(jsd)
    ]


def test_the_change_of_jsd_is_the_sum_of_weekly_changes() -> None:
    change = jsd_change(weeks_of(0.10, 0.12, 0.11, 0.15, 0.20))
    assert change.value == pytest.approx(0.10)
    assert change.se == pytest.approx(0.01 * sqrt(2))
    assert change.trend == "rising"
    assert jsd_change(weeks_of(0.20, 0.12, 0.11, 0.15, 0.10)).trend == "falling"
    assert jsd_change(weeks_of(0.10, 0.12, 0.11, 0.15, 0.12)).trend == "flat"


def test_a_seam_is_chained_by_the_taxonomy_before_it() -> None:
    """The new taxonomy reads .30 where the old one reads .13: steps .02 + .01 + .01 + .02, not the leap of .17.

    The seam's week adds its variance once; where it is the last week, the change is that of one taxonomy and adds none.
    """
    change = jsd_change(weeks_of(0.10, 0.12, 0.30, 0.31, 0.33, taxonomies="aabbb", previous={2: 0.13}))
    assert change.value == pytest.approx(0.06)
    assert change.se == pytest.approx(0.01 * sqrt(3))
    last = jsd_change(weeks_of(0.10, 0.10, 0.10, 0.10, 0.30, taxonomies="aaaab", previous={4: 0.13}))
    assert last.value == pytest.approx(0.03)
    assert last.se == pytest.approx(0.01 * sqrt(2))


@pytest.mark.parametrize(
    ("weeks", "missing"),
    [
        (weeks_of(0.1, 0.1, 0.3, taxonomies="aab"), "the taxonomy changed in the week of 2026-08-31"),
        (weeks_of(0.1, None, 0.3), "the week of 2026-08-24 has no JSD"),
        ([JsdWeek(WEEK, 0.1, None, "a", None), *weeks_of(0.1)], "the JSD of the week of 2026-08-17 has no standard"),
    ],
)
def test_a_change_that_is_not_known_says_why(weeks: list[JsdWeek], missing: str) -> None:
    change = jsd_change(weeks)
    assert (change.value, change.trend, change.interval) == (None, None, None)
    assert (change.missing or "").startswith(missing)


def pairs_of(name: str, kept: int, fixed: int = 0, broken: int = 0) -> list[Paired]:
    both = [Paired(name, True, True)] * kept
    return [*both, *[Paired(name, False, True)] * fixed, *[Paired(name, True, False)] * broken]


def test_the_change_of_the_score_is_weighted_by_this_weeks_traffic() -> None:
    """.75 * (3 - 1)/10 - .25 * 1/5 = .1 over the two bins that the cases lie in; the third has none, the fourth no traffic."""
    pairs = [*pairs_of("a", 6, 3, 1), *pairs_of("b", 4, 0, 1), *pairs_of("silent", 0, 9)]
    change = score_change(pairs, {"a": 0.6, "b": 0.2, "c": 0.2}, None)
    assert change.value == pytest.approx(0.1)
    assert change.n_cases == 15, "the nine in a bin without traffic do not enter"


def test_of_many_cases_the_paired_error_is_mcnemars() -> None:
    """In one bin of 10,000: sqrt((.03 + .05 - .02^2) / 10,000) = .002821; unpaired at .9 it would be .0042."""
    change = score_change(pairs_of("a", 9200, 300, 500), {"a": 1.0}, None)
    assert change.value == pytest.approx(-0.02)
    assert change.se == pytest.approx(0.002821, rel=2e-3)
    assert change.trend == "falling"


def test_a_single_case_that_flipped_is_no_trend() -> None:
    assert score_change(pairs_of("a", 0, 1), {"a": 1.0}, None).trend == "flat"
    assert score_change(pairs_of("a", 200, 1), {"a": 1.0}, None).trend == "flat"


def test_runs_without_a_common_case_have_no_change() -> None:
    change = score_change([], {"a": 1.0}, 100.0)
    assert change.missing == "the two runs share no scored case in a bin with traffic"


def rates(*known: tuple[str, str, float | None, float | None]) -> list[ProductionRate]:
    return [ProductionRate(*row) for row in known]


def test_production_speaks_through_the_first_grader_that_both_weeks_know_in_one_version() -> None:
    signals, judge = ("signals", "1", 0.8, 0.03), ("llm", "x", 0.7, 0.04)
    grader, change, room = production_change(rates(signals, judge), rates(("signals", "1", 0.85, 0.04), judge))
    assert (grader, change.value, change.se, room) == (
        "signals",
        pytest.approx(0.05),
        pytest.approx(0.05),
        pytest.approx(0.2),
    )
    for other in (("signals", "2", 0.9, 0.03), ("signals", "1", None, None), ("signals", "1", 0.9, None)):
        grader, change, _ = production_change(rates(signals, judge), rates(other, judge))
        assert (grader, change.value) == ("llm", 0.0)
    grader, change, _ = production_change([], rates(signals))
    assert grader is None
    assert change.missing == "no grader has a pass rate with its error, of one version, in both weeks"


# -- the diagnosis -------------------------------------------------------------------------------------------

FLAT, UP, DOWN = Change(0.001, 0.01), Change(0.08, 0.01), Change(-0.08, 0.01)
UNKNOWN = Change(None, missing="nobody looked")


def diagnosis_of(
    jsd: Change, score: Change, production: Change, served: Change | None = None, room: float = 0.3
) -> Diagnosis:
    """As where the newest runs served the whole of production's windows, unless ``served`` says otherwise."""
    return diagnose(jsd, score, score if served is None else served, Production("signals", production, room))


@pytest.mark.parametrize(
    ("jsd", "score", "production", "finding"),
    [
        (UP, FLAT, FLAT, "coverage_gap"),
        (UP, FLAT, UNKNOWN, "coverage_gap"),
        (FLAT, DOWN, FLAT, "model_prompt_or_world_changed"),
        (UNKNOWN, DOWN, UNKNOWN, "model_prompt_or_world_changed"),
        (UP, DOWN, FLAT, "model_prompt_or_world_changed"),
        (FLAT, UP, FLAT, "overfitting"),
        (UNKNOWN, UP, DOWN, "overfitting"),
        (UP, UP, FLAT, "overfitting"),
        (FLAT, UP, UP, "none"),
        (FLAT, FLAT, DOWN, "none"),
        (DOWN, FLAT, FLAT, "none"),
        (UP, UP, UP, "none"),
        (UNKNOWN, FLAT, FLAT, "cannot_tell"),
        (UP, UNKNOWN, FLAT, "cannot_tell"),
        (FLAT, UP, UNKNOWN, "cannot_tell"),
    ],
)
def test_each_row_of_the_table(jsd: Change, score: Change, production: Change, finding: str) -> None:
    found = diagnosis_of(jsd, score, production)
    assert found.finding == finding
    assert ("nobody looked" in found.text) >= (finding == "cannot_tell")


def test_the_sentence_quotes_the_numbers() -> None:
    score, served = Change(0.004, 0.011, n_cases=212), Change(0.002, 0.01, n_cases=1)
    found = diagnosis_of(Change(0.061, 0.012), score, UNKNOWN, served)
    assert found.text == (
        "Coverage gap: JSD rose (+0.061, 95 % interval +0.037 to +0.085), while the score on the 212 cases that both runs "
        "scored, weighted by this week's traffic, stayed flat (+0.4 points, 95 % interval -1.8 to +2.6); over the days of "
        "production's two windows the score on the 1 case that every run in force scored stayed flat (+0.2 points, 95 % "
        "interval -1.8 to +2.2). The suite does not see what the traffic does now."
    )


changes = st.sampled_from([FLAT, UP, DOWN, UNKNOWN])


@given(changes, changes, changes, changes, st.floats(0, 1))
def test_every_sentence_quotes_every_change_that_is_known_once(
    jsd: Change, score: Change, served: Change, production: Change, room: float
) -> None:
    text = diagnosis_of(jsd, score, production, served, room).text
    known = [change for change in (jsd, score, served, production) if change.value is not None]
    assert text.count("95 % interval") == len(known)
    assert text.endswith(".")


@pytest.mark.parametrize(
    ("lead", "said"),
    [(0.1, "p <= .001"), (0.02054, "p = .02"), (0.0258, "p = .0049"), (0.0041, "p = .34")],
)
def test_the_sentence_says_what_p_is(lead: float, said: str) -> None:
    """Of a lead with error .01: how often so large a one is seen if score and production rose alike."""
    text = diagnosis_of(FLAT, Change(lead, 0.0001), Change(0.0, 0.01)).text
    assert f"so large a lead is seen with {said} if both rose alike" in text


def test_a_gain_that_production_may_share_is_no_overfitting() -> None:
    """The score rises by .03 +- .014 and production by .02 +- .02, flat by itself: one-sided p is .34."""
    found = diagnosis_of(FLAT, Change(0.03, 0.014), Change(0.02, 0.02))
    assert found.finding == "none"
    assert found.overfitting_p == pytest.approx(0.341, abs=1e-3)


def test_errors_of_zero_do_not_divide() -> None:
    still = Change(0.0, 0.0)
    assert diagnosis_of(FLAT, still, still).overfitting_p == 1.0
    assert diagnosis_of(FLAT, Change(0.1, 0.0), still).finding == "overfitting"


def test_production_that_has_no_room_to_rise_is_not_held_against_the_score() -> None:
    """It passed 95 % before, and the score rose by 8 points."""
    found = diagnosis_of(FLAT, UP, FLAT, room=0.05)
    assert found.finding == "cannot_tell"
    assert found.text.startswith(
        "Cannot tell: production passed 95.0% before, so that it could not rise as much; over the days"
    )


def test_a_gain_that_has_not_served_the_window_is_not_held_against_production() -> None:
    found = diagnosis_of(FLAT, UP, FLAT, served=Change(0.02, 0.012))
    assert found.finding == "cannot_tell"
    assert found.text.startswith(
        "Cannot tell: production's windows hold too few days that are surely of the gain; the score"
    )
    assert diagnosis_of(FLAT, UP, UP, served=FLAT).finding == "none", "what production shares is no overfitting"


def planted_weeks(
    rng: np.random.Generator, n_cases: int, gain: float, production_gain: float
) -> tuple[Sequence[Paired], dict[str, float], Production]:
    """Paired runs over 20 bins whose score truly rises by ``gain``, beside production of 1,500 independent traces."""
    share = rng.dirichlet(np.ones(20))
    bin_ = rng.integers(0, 20, n_cases)
    noise = 0.05  # flips either way besides the gain
    draw = rng.random(n_cases)
    fixed, broken = draw < noise + gain, (draw >= noise + gain) & (draw < 2 * noise + gain)
    pairs = [Paired(str(b), not f, not x) for b, f, x in zip(bin_, fixed, broken, strict=True)]
    rate = [rng.binomial(1500, p) / 1500 for p in (0.7, 0.7 + production_gain)]
    se = [sqrt(r * (1 - r) / 1500) for r in rate]
    production = production_change(rates(("s", "1", rate[0], se[0])), rates(("s", "1", rate[1], se[1])))
    return pairs, {str(k): float(p) for k, p in enumerate(share)}, production


@pytest.mark.parametrize("gain", [0.0, 0.04, 0.08])
def test_overfitting_is_said_falsely_in_at_most_one_of_twenty(gain: float) -> None:
    """Score and production truly rise alike, by 0, 4 or 8 points: 600 worlds; 5 % and two errors of that."""
    rng = np.random.default_rng(5)
    said = 0
    for _ in range(600):
        pairs, share, production = planted_weeks(rng, 150, gain, gain)
        said += diagnose(FLAT, *[score_change(pairs, share, 900.0)] * 2, production).finding == "overfitting"
    assert said / 600 <= OVERFITTING_P + 2 * sqrt(0.05 * 0.95 / 600)


def test_an_equal_system_is_seldom_said_to_change() -> None:
    """Without a change 2.5 % at most may rise, 2.5 % fall: 1,500 pairs of runs; and two errors of that."""
    rng = np.random.default_rng(6)
    trends = [score_change(*planted_weeks(rng, 150, 0.0, 0.0)[:2], 900.0).trend for _ in range(1500)]
    allowed = 0.025 + 2 * sqrt(0.025 * 0.975 / 1500)
    assert trends.count("rising") / 1500 <= allowed
    assert trends.count("falling") / 1500 <= allowed


def test_planted_overfitting_is_found() -> None:
    """The score rises by 15 points in 300 cases and production by nothing: at least nine of ten."""
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(100):
        pairs, share, production = planted_weeks(rng, 300, 0.15, 0.0)
        found += diagnose(FLAT, *[score_change(pairs, share, 900.0)] * 2, production).finding == "overfitting"
    assert found >= 90


# -- what served -----------------------------------------------------------------------------------------------


def test_days_between_two_runs_go_to_the_one_that_makes_a_gain_smaller() -> None:
    """Runs on days 0, 4, 4 and 9; a window of days 2 to 7. Earlier end: the run that follows; later end: the one before."""
    ran_on = [WEEK + timedelta(days=n) for n in (0, 4, 4, 9)]
    window = [WEEK + timedelta(days=n) for n in range(2, 8)]
    assert days_in_force(ran_on, window, "earlier") == {2: 3, 3: 3}
    assert days_in_force(ran_on, window, "later") == {0: 2, 2: 4}
    assert days_in_force(ran_on[:1], window, "earlier") == {0: 6}, "the newest where none follows"
    assert days_in_force(ran_on[1:], window, "later") is None, "two days that no run speaks for"
    assert days_in_force([], window, "earlier") is None
    assert days_in_force(ran_on, [], "later") is None


def test_the_outcome_of_a_case_over_a_window_is_its_mean_over_days() -> None:
    outcomes = {0: {"a": True, "b": True, "c": True}, 2: {"a": False, "b": None, "d": True}}
    assert mean_outcomes(outcomes, {0: 2, 2: 6}) == {"a": 0.25}
    assert mean_outcomes(outcomes, {0: 28}) == {"a": 1.0, "b": 1.0, "c": 1.0}


def shipped_world(rng: np.random.Generator, shipped: int, every: int, n_cases: int, reach: float) -> str:
    """Two windows of 28 days; a gain of 8 points ships on a day, the suite runs each so many days on what serves then.

    ``reach``: how much of the gain production shares.
    """
    share, bins, luck = rng.dirichlet(np.ones(20)), rng.integers(0, 20, n_cases), rng.random(n_cases)
    on = [day for day in range(-28, 56) if (55 - day) % every == 0]
    flips = rng.random((len(on), n_cases)) < 0.03
    passed = (luck[None, :] < np.array([0.7 + 0.08 * (day >= shipped) for day in on])[:, None]) ^ flips
    outcomes = {run: dict(enumerate(row.tolist())) for run, row in enumerate(passed)}
    ran_on = [WEEK + timedelta(days=day) for day in on]

    def change(before: range, after: range) -> Change:
        ends = []
        for days, end in ((before, "earlier" if len(before) > 1 else "later"), (after, "later")):
            found = days_in_force(ran_on, [WEEK + timedelta(days=day) for day in days], end)  # type: ignore[arg-type]
            ends.append(mean_outcomes(outcomes, found or {}))
        pairs = [Paired(str(bins[case]), ends[0][case], ends[1][case]) for case in range(n_cases)]  # type: ignore[index]
        return score_change(pairs, {str(k): float(p) for k, p in enumerate(share)}, 900.0)

    known = []
    for first in (0, 28):
        rate = sum(rng.binomial(60, 0.7 + 0.08 * reach * (day >= shipped)) for day in range(first, first + 28)) / 1680
        known.append(rates(("s", "1", rate, sqrt(rate * (1 - rate) / 1680))))
    snapshot, served = change(range(27, 28), range(55, 56)), change(range(28), range(28, 56))
    return diagnose(FLAT, snapshot, served, production_change(known[0], known[1])).finding


@pytest.mark.parametrize("every", [3, 7, 14])
def test_a_real_gain_is_no_overfitting_on_whatever_day_it_was_shipped(every: int) -> None:
    """Production shares the gain from that day on: of 500 cases, in each half week of both windows, at most 5 %.

    Held against the newest run, one shipped three days before the Sunday reads as overfitting several times as often.
    """
    rng = np.random.default_rng(8)
    said = {
        shipped: [shipped_world(rng, shipped, every, 500, 1.0) for _ in range(8)].count("overfitting")
        for shipped in range(-3, 56, 3)
    }
    assert sum(said.values()) <= 0.05 * 8 * len(said)
    assert max(said.values()) <= 3, "8 worlds each: 4 of 8 would be .0004 at 5 %"


def test_a_gain_that_production_does_not_share_is_found_once_it_has_served_the_window() -> None:
    rng = np.random.default_rng(9)
    found = [shipped_world(rng, 29, 7, 1000, 0.0) for _ in range(20)]
    assert found.count("overfitting") >= 15
    young = [shipped_world(rng, 50, 7, 1000, 0.0) for _ in range(10)]
    assert young.count("overfitting") == 0


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.floats(0.01, 1),
)
def test_a_change_mirrors_when_the_runs_change_places(rows: list[tuple[str, bool, bool]], share: float) -> None:
    """Before and after swapped: the same size and error, the other sign; and never beyond one."""
    pairs = [Paired(*row) for row in rows]
    swapped = [Paired(name, after, before) for name, before, after in rows]
    weights = {"a": share, "b": 0.3, "c": 0.1}
    change, mirrored = score_change(pairs, weights, 50.0), score_change(swapped, weights, 50.0)
    assert change.value == pytest.approx(-(mirrored.value or 0.0))
    assert change.se == pytest.approx(mirrored.se)
    assert (change.se or 0) > 0
    assert abs(change.value or 0) <= 1 + 1e-9
