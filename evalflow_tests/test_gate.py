"""The gate's decision: what blocks, what holds a pass back, and that nobody passes by leaving out results."""

import re
from collections.abc import Mapping
from math import nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.core.attempts import Attempts, attempts_of
from evalflow.core.families import Families
from evalflow.core.gate import GateVerdict, decide
from evalflow.core.intervals import wilson
from evalflow.core.score import SuiteCase, Unqualified
from evalflow_tests.paired_runs import as_attempts, run_of, world_of

SHARES = {"parcels": 0.5, "refunds": 0.3, "rare": 0.2}
BINS = ("parcels", "refunds", "rare")


def suite_of(n: int, regressions: int = 0, bins: tuple[str | None, ...] = BINS) -> list[SuiteCase]:
    """``n`` cases, the first ``regressions`` of them frozen, dealt over the bins in turn."""
    return [SuiteCase(f"c{i:03d}", i < regressions, bins[i % len(bins)]) for i in range(n)]


def results_of(suite: list[SuiteCase], failing: set[int] | range = range(0)) -> dict[str, bool | None]:
    return {case.case_id: i not in failing for i, case in enumerate(suite)}


def judged(
    suite: list[SuiteCase], results: Mapping[str, bool | None] | Mapping[str, Attempts], **changed: object
) -> GateVerdict:
    given_ = {"production_share": SHARES, "min_pass_rate": 0.8, "min_covered_share": 0.5, **changed}
    attempts = {case_id: held if isinstance(held, Attempts) else Attempts((held,)) for case_id, held in results.items()}
    return decide(suite, attempts, **given_)  # type: ignore[arg-type]  # a test's own defaults


def test_all_passing_passes_with_its_figures_and_no_reason() -> None:
    suite = suite_of(60, regressions=10)
    verdict = judged(suite, results_of(suite))
    assert (verdict.verdict, verdict.reasons) == ("pass", ())
    assert (verdict.n_cases, verdict.n_regressions, verdict.n_passed, verdict.n_failed) == (60, 10, 60, 0)
    assert (verdict.pass_rate, verdict.weighted_pass_rate, verdict.covered_share) == (1.0, 1.0, 1.0)
    assert verdict.bounds == (1.0, 1.0)


def test_one_failing_regression_blocks_whatever_else() -> None:
    """299 of 300 pass, nothing is known of the traffic, lines are unusable, and it is still a fail that names the case."""
    suite = suite_of(300, regressions=5)
    verdict = judged(suite, results_of(suite, {2}), production_share=Unqualified("no week yet"), n_unusable=3)
    assert verdict.verdict == "fail"
    assert verdict.failing_regressions == ("c002",)
    assert verdict.reasons[0] == "1 frozen regression fails: 'c002'; each one blocks."


def test_many_failing_regressions_are_named_in_part_and_kept_whole() -> None:
    suite = suite_of(10, regressions=6)
    verdict = judged(suite, results_of(suite, range(6)))
    assert verdict.reasons[0].startswith("6 frozen regressions fail: 'c000', 'c001', 'c002' and 3 more;")
    assert len(verdict.failing_regressions) == 6


def test_an_empty_suite_cannot_tell() -> None:
    verdict = judged([], {"c1": True})
    assert verdict.verdict == "cannot tell"
    assert verdict.reasons == ("The suite has no cases, so there is nothing to judge by.",)
    assert (verdict.pass_rate, verdict.n_missing) == (None, 0)


@pytest.mark.parametrize(("result", "field"), [(None, "unscored_regressions"), ("missing", "missing_regressions")])
def test_a_regression_without_an_outcome_cannot_tell(result: str | None, field: str) -> None:
    suite = suite_of(200, regressions=1)
    results = results_of(suite)
    if result is None:
        results["c000"] = None
    else:
        del results["c000"]
    verdict = judged(suite, results)
    assert verdict.verdict == "cannot tell"
    assert getattr(verdict, field) == ("c000",)
    assert "'c000'" in verdict.reasons[0]
    results["c100"] = False  # a sampled case may fail; a second regression that fails blocks
    assert judged(suite, results).verdict == "cannot tell"
    assert judged([*suite, SuiteCase("r", True)], {**results, "r": False}).verdict == "fail"


@pytest.mark.parametrize(
    ("passed", "verdict"),
    [
        # Wilson at 40 cases: 38 gives .835 to .986, 34 gives .709 to .929, 25 gives .470 to .758.
        (38, "pass"),
        (34, "cannot tell"),
        (25, "fail"),
    ],
)
def test_the_pass_rate_passes_or_fails_only_where_its_interval_is_sure(passed: int, verdict: str) -> None:
    suite = suite_of(40)
    assert judged(suite, results_of(suite, range(passed, 40))).verdict == verdict


def test_in_between_it_says_how_many_more_cases_would_tell() -> None:
    """34 of 40 is .85: 3.8415 x .8 x .2 / .05^2 = 245.9 cases tell it from .8, 206 more than there are."""
    suite = suite_of(40)
    (reason,) = judged(suite, results_of(suite, range(34, 40))).reasons
    assert reason == (
        "The pass rate is 85.0% (34 of 40, 95 % interval 70.9% to 92.9%), which holds the wanted 80.0%: "
        "about 206 more cases would tell if the rate stays."
    )
    (reason,) = judged(suite, results_of(suite, range(32, 40))).reasons
    assert reason.endswith("so close to the limit no number of cases tells.")


def test_the_advised_number_of_cases_is_about_enough() -> None:
    suite = suite_of(40)
    (reason,) = judged(suite, results_of(suite, range(36, 40))).reasons
    more = int(re.findall(r"about (\d+) more", reason)[0])
    enough = suite_of(40 + more + 10)
    assert judged(enough, results_of(enough, range(round(0.9 * len(enough)), len(enough)))).verdict == "pass"


def test_passing_regressions_do_not_hide_that_everything_else_fails() -> None:
    """300 regressions pass and 20 of 20 others fail: 93.8 % of all, and surely below 80 % of the rest."""
    suite = suite_of(320, regressions=300)
    verdict = judged(suite, results_of(suite, range(300, 320)))
    assert verdict.verdict == "fail"
    assert verdict.suite.interval.low > 0.8
    assert verdict.reasons[0].startswith("The pass rate of the cases that are not regressions is 0.0% (0 of 20,")
    # Left out instead of failing, they hold the pass back.
    left_out = {case_id: passed for case_id, passed in results_of(suite).items() if case_id < "c300"}
    assert judged(suite, left_out).verdict == "cannot tell"


def test_results_that_are_left_out_hold_a_pass_back_when_they_could_change_it() -> None:
    suite = suite_of(100)
    full = results_of(suite)
    few = {case_id: passed for case_id, passed in full.items() if case_id < "c098"} | {"c000": None}
    verdict = judged(suite, few)
    assert (verdict.verdict, verdict.n_missing, verdict.n_unscored) == ("pass", 2, 1)
    assert verdict.reasons == ("2 without a result and 1 unscored, of 100 cases.",)
    verdict = judged(suite, {case_id: passed for case_id, passed in full.items() if case_id < "c080"})
    assert verdict.verdict == "cannot tell"
    assert verdict.reasons[0] == (
        "With the 20 cases that have no verdict counted as failures, 80 of 100 pass and the wanted 80.0% "
        "is no longer sure: give every case a result."
    )


def test_the_weighted_rate_its_coverage_and_its_bounds_by_hand() -> None:
    """Shares .5, .3, .2; parcels passes 3 of 4, refunds 1 of 2, rare has only an unscored case.

    Covered .8; rate (.5 x .75 + .3 x .5) / .8 = .525 / .8 = .65625; bounds .525 and .525 + .2 = .725.
    """
    suite = [SuiteCase(f"p{i}", False, "parcels") for i in range(4)]
    suite += [SuiteCase(f"f{i}", False, "refunds") for i in range(2)]
    suite += [SuiteCase("u", False, "rare"), SuiteCase("alone", False, "gone"), SuiteCase("nowhere", False, None)]
    results: dict[str, bool | None] = {"p0": True, "p1": True, "p2": True, "p3": False, "f0": True, "f1": False}
    verdict = judged(suite, {**results, "u": None, "alone": True, "nowhere": False})
    assert verdict.covered_share == pytest.approx(0.8)
    assert verdict.weighted_pass_rate == pytest.approx(0.65625)
    assert verdict.bounds == pytest.approx((0.525, 0.725))
    assert [(row.bin, row.production_share, row.n_cases, row.n_scored, row.n_passed) for row in verdict.bins] == [
        ("parcels", 0.5, 4, 4, 3),
        ("refunds", 0.3, 2, 2, 1),
        ("rare", 0.2, 1, 0, 0),
        ("gone", 0.0, 1, 1, 1),
    ]
    assert [row.pass_rate for row in verdict.bins] == [0.75, 0.5, None, 1.0]
    assert verdict.pass_rate == pytest.approx(5 / 8)


def test_a_score_never_stands_alone() -> None:
    suite = suite_of(100)
    verdict = judged(suite, results_of(suite), production_share=Unqualified("No week has been measured."))
    assert verdict.verdict == "cannot tell"
    assert verdict.reasons == ("How much of the traffic the suite stands for is not known: No week has been measured.",)
    assert (verdict.covered_share, verdict.weighted_pass_rate, verdict.bounds) == (None, None, None)


def test_a_pass_needs_cases_where_the_traffic_is() -> None:
    suite = suite_of(100, bins=("refunds",))
    verdict = judged(suite, results_of(suite))
    assert verdict.verdict == "cannot tell"
    assert verdict.reasons[0].startswith("Bins with a scored case hold 30.0% of the traffic, below the wanted 50.0%")
    assert judged(suite, results_of(suite), min_covered_share=0.3).verdict == "pass"
    assert judged(suite, results_of(suite, range(100)), min_covered_share=0.3).verdict == "fail"


def test_a_suite_in_no_known_bin_covers_nothing() -> None:
    suite = suite_of(100, bins=(None,))
    verdict = judged(suite, results_of(suite))
    assert (verdict.verdict, verdict.covered_share, verdict.weighted_pass_rate) == ("cannot tell", 0.0, None)
    assert verdict.bounds == pytest.approx((0.0, 1.0))
    assert verdict.weighted_interval is None, "an interval stands with its rate"


def test_unusable_lines_hold_a_pass_back() -> None:
    suite = suite_of(100)
    verdict = judged(suite, results_of(suite), n_unusable=1)
    assert verdict.verdict == "cannot tell"
    assert verdict.reasons == ("1 line of the results could not be used; correct them.",)


def test_results_of_other_cases_change_nothing() -> None:
    suite = suite_of(50)
    results = results_of(suite)
    assert judged(suite, {**results, "stranger": False}) == judged(suite, results)


@pytest.mark.parametrize("limit", [nan, -0.1, 1.1])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        judged(suite_of(1), {}, min_pass_rate=limit)
    with pytest.raises(ValueError, match="must be in"):
        judged(suite_of(1), {}, min_covered_share=limit)


def test_limits_at_the_ends() -> None:
    """At 0 every complete run passes; at 1 no number of cases is ever sure, which is said."""
    suite = suite_of(50)
    assert judged(suite, results_of(suite, range(50)), min_pass_rate=0.0).verdict == "pass"
    verdict = judged(suite, results_of(suite), min_pass_rate=1.0)
    assert verdict.verdict == "cannot tell"
    assert "no number of cases tells" in verdict.reasons[0]


# -- families ------------------------------------------------------------------------------------------------


def test_cases_of_one_session_weigh_as_one() -> None:
    """40 cases of 10 sessions, 38 pass: Wilson at 9.5 of 10 gives .655 to .995, where 38 of 40 would pass."""
    suite = suite_of(40)
    families = Families({f"c{i:03d}": f"s{i // 4}" for i in range(40)})
    assert judged(suite, results_of(suite, range(38, 40))).verdict == "pass"
    verdict = judged(suite, results_of(suite, range(38, 40)), families=families)
    assert verdict.verdict == "cannot tell"
    assert verdict.suite.interval == pytest.approx((0.655, 0.995), abs=0.001)
    assert (verdict.pass_rate, verdict.n_families) == (0.95, 10)
    # 3.8415 x .8 x .2 / .15^2 = 27.3 independent cases tell, 109.3 of this kind.
    assert "about 70 more cases would tell" in verdict.reasons[0]
    assert verdict.reasons[-1] == (
        "40 cases in 10 families (of one session, or near duplicates) weigh as much as 10.0 independent ones."
    )


def test_the_interval_holds_the_truth_where_families_move_together() -> None:
    """50 families of 4 that share their luck: at least 93 % of 250 runs, where Wilson over cases holds it in 70 %."""
    rng = np.random.default_rng(4)
    held, pooled, runs = 0, 0, 250
    for _ in range(runs):
        world = world_of(rng, [4] * 50, together=1.0)
        suite, passed = [SuiteCase(case_id, False) for case_id in world.ids], run_of(rng, world)
        low, high = decide(suite, as_attempts(world, passed), {}, 0, 0, families=world.families).suite.interval
        held += low <= 0.85 <= high
        low, high = wilson(int(passed.sum()), 200)
        pooled += low <= 0.85 <= high
    assert held / runs >= 0.93
    assert pooled / runs <= 0.8


# -- repeats -------------------------------------------------------------------------------------------------


def tried(text: str) -> Attempts:
    """``p`` pass, ``f`` fail, ``u`` unscored, in the order of the repeats."""
    return Attempts(tuple({"p": True, "f": False, "u": None}[letter] for letter in text))


def repeated(suite: list[SuiteCase], **attempts: str) -> dict[str, Attempts]:
    return {case.case_id: tried(attempts.get(case.case_id, "ppp")) for case in suite}


@pytest.mark.parametrize(
    ("attempts", "verdict", "field"),
    [
        ("f", "fail", "failing_regressions"),
        ("ff", "fail", "failing_regressions"),
        ("pfpfppp", "fail", "failing_regressions"),
        ("fu", "fail", "failing_regressions"),  # all that is known of it says that it fails
        ("pfp", "cannot tell", "flaky_regressions"),
        ("pfu", "cannot tell", "flaky_regressions"),
        ("ppu", "cannot tell", "unscored_regressions"),
        ("uu", "cannot tell", "unscored_regressions"),
        ("", "cannot tell", "missing_regressions"),
        ("ppp", "pass", None),
    ],
)
def test_a_regression_blocks_when_its_failure_is_reproducible(attempts: str, verdict: str, field: str | None) -> None:
    suite = suite_of(60, regressions=1)
    found = judged(suite, repeated(suite, c000=attempts))
    assert found.verdict == verdict
    lists = ("failing_regressions", "flaky_regressions", "unscored_regressions", "missing_regressions")
    assert [name for name in lists if getattr(found, name)] == ([field] if field else [])


def test_a_flaky_regression_says_how_often_it_failed() -> None:
    suite = suite_of(60, regressions=1)
    found = judged(suite, repeated(suite, c000="pfp"))
    assert found.flaky_regressions == (("c000", 1, 3),)
    assert found.reasons[0] == (
        "1 frozen regression failed once: 'c000' failed 1 of 3; run more repeats: a second failure blocks, "
        "and only a run in which it never fails passes."
    )


def test_repeats_make_a_case_no_more_than_one() -> None:
    """30 cases of 20 attempts each are 30 cases; a case that passes in 2 of 3 attempts counts two thirds."""
    suite = suite_of(30)
    once = judged(suite, results_of(suite))
    often = judged(suite, {case.case_id: tried("p" * 20) for case in suite})
    assert often.suite == once.suite
    mixed = judged(suite, repeated(suite, c000="ppf", c001="fff", c002="uuu"))
    assert (mixed.n_passed, mixed.n_failed, mixed.n_mixed, mixed.n_unscored, mixed.n_missing) == (27, 1, 1, 1, 0)
    assert mixed.pass_rate == pytest.approx((27 + 2 / 3) / 29)


def test_unscored_attempts_hold_a_pass_back_as_missing_ones_do() -> None:
    suite = suite_of(60)
    half = {case.case_id: tried("pu") for case in suite}
    found = judged(suite, half)
    assert found.verdict == "cannot tell"
    assert "With the 60 cases that have no verdict counted as failures, 30 of 60 pass" in found.reasons[0]


# -- against a baseline --------------------------------------------------------------------------------------


def against(
    suite: list[SuiteCase], worse: int, better: int = 0, first: int = 0, **changed: object
) -> tuple[GateVerdict, dict[str, bool | None]]:
    """Judge a candidate whose cases from ``first`` on got worse, and the last ones better."""
    ids = [case.case_id for case in suite]
    before = {case_id: i < len(ids) - better for i, case_id in enumerate(ids)}
    after = {case_id: not first <= i < first + worse for i, case_id in enumerate(ids)}
    limits = {"min_pass_rate": 0.5, "max_detectable_drop": 0.1, "baseline": attempts_of(before)}
    return judged(suite, after, **{**limits, **changed}), after


def test_a_candidate_that_got_worse_than_the_baseline_fails() -> None:
    """12 worse, 3 better: P(X >= 12), X ~ Bin(15, 1/2), is 576 / 32768 = .0176."""
    found, _ = against(suite_of(200), worse=12, better=3)
    assert found.verdict == "fail"
    assert found.paired is not None
    assert found.paired.p_value == pytest.approx(576 / 32768)
    assert found.paired.fixed == ("c197", "c198", "c199")
    assert found.reasons[0] == (
        "Surely worse than the baseline: 12 worse and 3 better of 200 cases (exact McNemar, one-sided p = 0.018); "
        "worse: 'c000', 'c001', 'c002' and 9 more."
    )
    alone = judged(suite_of(200), results_of(suite_of(200), range(12)), min_pass_rate=0.5)
    assert (alone.verdict, alone.paired) == ("pass", None)


def test_a_candidate_as_good_passes_where_a_drop_would_have_shown_and_cannot_be_told_where_not() -> None:
    found, _ = against(suite_of(200), worse=5, better=5)
    assert (found.verdict, found.reasons) == ("pass", ())
    found, _ = against(suite_of(60), worse=2, better=2)
    assert found.verdict == "cannot tell"
    assert found.paired is not None
    assert found.paired.detectable_drop is not None
    assert found.paired.detectable_drop > 0.1
    # psi is the limit itself, .1 > 4 / 60: 79 families are asked for.
    assert found.reasons[0].endswith("and a pass asks for 10.0 points: about 19 more independent cases would do.")


def test_the_frozen_regressions_are_not_in_the_sample_that_is_compared() -> None:
    found, _ = against(suite_of(200, regressions=20), worse=0)
    assert found.paired is not None
    assert found.paired.n_pairs == 180


def test_hiding_what_got_worse_does_not_pass() -> None:
    suite = suite_of(200)
    found, after = against(suite, worse=12, better=3)
    shown = {case_id: passed for case_id, passed in after.items() if passed}
    before = attempts_of({case.case_id: i < 197 for i, case in enumerate(suite)})
    hidden = judged(suite, shown, min_pass_rate=0.5, max_detectable_drop=0.1, baseline=before)
    assert (found.verdict, hidden.verdict) == ("fail", "cannot tell")
    assert hidden.paired is not None
    assert len(hidden.paired.lost) == 12
    assert "With what the candidate has no verdict for (12 of the baseline's cases: 'c000'," in hidden.reasons[0]


@pytest.mark.parametrize(
    ("baseline", "why"),
    [
        ({}, "the baseline has scored no case of the suite that is not a regression: give one that has."),
        (
            {"c000": None, "other": True},
            "the baseline has scored no case of the suite that is not a regression: give one that has.",
        ),
        ({"c099": True}, "the candidate has no verdict for the 1 case that the baseline has scored: run them."),
    ],
)
def test_a_baseline_that_shares_no_scored_case_cannot_tell(baseline: dict[str, bool | None], why: str) -> None:
    suite = suite_of(100)
    results = {case_id: passed for case_id, passed in results_of(suite).items() if case_id != "c099"}
    found = judged(suite, results, baseline=attempts_of(baseline))
    assert found.verdict == "cannot tell"
    assert found.reasons[0] == f"Nothing can be compared with the baseline: {why}"


def test_a_suite_of_frozen_regressions_has_nothing_to_compare_and_says_so() -> None:
    suite = suite_of(20, regressions=20)
    found = judged(suite, results_of(suite), baseline=attempts_of(results_of(suite)))
    assert found.verdict == "cannot tell"
    assert "every case of the suite is a frozen regression" in found.reasons[0]
    assert judged(suite, results_of(suite)).verdict == "pass"


def test_it_is_said_when_near_duplicates_were_found_by_text_alone() -> None:
    suite, baseline = suite_of(100), attempts_of(results_of(suite_of(100)))
    for because, why in (("No model.", "No model."), ("no week yet", "the suite could not be placed in the traffic.")):
        families = Families({}, because)
        found = judged(
            suite, results_of(suite), production_share=Unqualified("no week yet"), families=families, baseline=baseline
        )
        assert found.reasons[-1] == f"Near duplicates were found by their text alone: {why}"


def test_unequal_numbers_of_attempts_are_said() -> None:
    suite = suite_of(100)
    found = judged(suite, repeated(suite), baseline=attempts_of(results_of(suite)))
    assert found.verdict == "pass"
    assert found.reasons[0].startswith("At 100 cases the baseline and the candidate made unequal numbers of attempts")


def test_an_empty_suite_and_one_without_a_verdict_are_answered_beside_a_baseline_too() -> None:
    baseline = attempts_of({"c000": True})
    assert judged([], {}, baseline=baseline).reasons == ("The suite has no cases, so there is nothing to judge by.",)
    suite = suite_of(30)
    unscored = judged(suite, dict.fromkeys((case.case_id for case in suite), None), baseline=baseline)
    assert unscored.verdict == "cannot tell"
    assert unscored.paired is not None
    assert unscored.paired.test == "none"


# -- promises over everything ------------------------------------------------------------------------------


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[SuiteCase], dict[str, bool | None]]:
    """A suite of up to 80 cases with results that mostly pass, so that all three verdicts come up."""
    n = draw(st.integers(0, 80))
    regressions = draw(st.sampled_from([0, 0, 1, 4, n // 2]))
    bins = draw(st.lists(st.sampled_from([*BINS, None]), min_size=1, max_size=4))
    suite = suite_of(n, min(regressions, n), tuple(bins))
    results: dict[str, bool | None] = {case.case_id: True for case in suite}
    n_failing = draw(st.sampled_from([0, 2, n // 4, n // 2]))
    for position in range(max(n - n_failing, 0), n):  # the last ones, which are regressions only where all are
        results[f"c{position:03d}"] = False
    if n:
        for position in draw(st.sets(st.integers(0, n - 1), max_size=3)):
            results[f"c{position:03d}"] = draw(st.sampled_from([False, None, True]))
    return suite, results


@given(runs(), st.data(), st.sampled_from([0.5, 0.8, 0.95]), st.sampled_from([0.0, 0.5, 0.9]))
def test_leaving_out_results_never_makes_a_pass(
    run: tuple[list[SuiteCase], dict[str, bool | None]], data: st.DataObject, wanted: float, covered: float
) -> None:
    """Whether they are not there at all or said to be unscored; beside a baseline and in families too."""
    suite, results = run
    limits: dict[str, object] = {"min_pass_rate": wanted, "min_covered_share": covered}
    if suite and data.draw(st.booleans()):
        failed = data.draw(st.sets(st.sampled_from([case.case_id for case in suite]), max_size=4))
        limits["baseline"] = attempts_of({case.case_id: case.case_id not in failed for case in suite})
        limits["max_detectable_drop"] = data.draw(st.sampled_from([0.1, 0.3]))
    size = data.draw(st.sampled_from([1, 1, 3]))
    limits["families"] = Families({case.case_id: f"f{i // size}" for i, case in enumerate(suite)})
    if judged(suite, results, **limits).verdict == "pass":
        return
    fewer: dict[str, bool | None] = {}
    # Any may be left out; who wants to pass leaves out what fails.
    wanted_out = {case_id for case_id, passed in results.items() if passed is not True}
    if results and data.draw(st.booleans()):
        wanted_out ^= data.draw(st.sets(st.sampled_from(sorted(results)), max_size=5))
    for case_id, passed in results.items():
        if case_id not in wanted_out:
            fewer[case_id] = passed
        elif data.draw(st.booleans()):
            fewer[case_id] = None
    assert judged(suite, fewer, **limits).verdict != "pass"


@given(runs(), st.data(), st.sampled_from([0.5, 0.8, 0.95]))
def test_more_failures_never_improve_the_verdict(
    run: tuple[list[SuiteCase], dict[str, bool | None]], data: st.DataObject, wanted: float
) -> None:
    suite, results = run
    passing = sorted(case_id for case_id, passed in results.items() if passed)
    if not passing:
        return
    worse = {**results, **dict.fromkeys(data.draw(st.sets(st.sampled_from(passing))), False)}
    rank = {"fail": 0, "cannot tell": 1, "pass": 2}
    before, after = (judged(suite, given_, min_pass_rate=wanted) for given_ in (results, worse))
    assert rank[after.verdict] <= rank[before.verdict]
    assert after.pass_rate <= before.pass_rate  # type: ignore[operator]  # something is scored


@given(runs())
def test_the_counts_add_up_and_the_bounds_hold_the_weighted_rate(
    run: tuple[list[SuiteCase], dict[str, bool | None]],
) -> None:
    suite, results = run
    verdict = judged(suite, results)
    assert verdict.n_passed + verdict.n_failed + verdict.n_unscored + verdict.n_missing == verdict.n_cases == len(suite)
    assert verdict.bounds is not None
    assert verdict.covered_share is not None
    assert 0 <= verdict.bounds.low <= verdict.bounds.high <= 1
    assert verdict.bounds.high - verdict.bounds.low == pytest.approx(1 - verdict.covered_share)
    assert sum(row.n_cases for row in verdict.bins) == sum(case.bin is not None for case in suite)
    assert (verdict.verdict == "pass") <= (not verdict.failing_regressions)
