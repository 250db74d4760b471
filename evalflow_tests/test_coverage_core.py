"""Coverage: the divergence is scipy's, splits into bins exactly, and is silent where it cannot be told."""

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial import distance

from evalflow.core.alarms import above
from evalflow.core.coverage import NOVEL, BinCoverage, Coverage, Limits, band_of, measure
from evalflow.core.divergence import jsd, jsd_terms
from evalflow_tests.windows import WEEK
from evalflow_tests.windows import golden as cases_in
from evalflow_tests.windows import production as rows_of

LABELS = {
    "c00": "refunds",
    "c01": "cards",
    "c02": "top-up",
    "c03": "never seen",
    "edge_cases": "edge cases",
    NOVEL: "novel",
}

masses = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e9)), min_size=1, max_size=40)


@st.composite
def mass_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    p = draw(masses)
    q = draw(st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e9)), min_size=len(p), max_size=len(p)))
    assume(sum(p) > 0 and sum(q) > 0)
    return np.array(p), np.array(q)


def production(shares: dict[str, float], traffic: dict[str, float] | None = None) -> pl.DataFrame:
    """One row per bin whose weights are the shares."""
    of_traffic = None if traffic is None else list(traffic.values())
    return rows_of(list(shares), list(shares.values()), traffic=of_traffic)


def golden(counts: dict[str, int], day: date = date(2026, 6, 1)) -> pl.DataFrame:
    return cases_in([name for name, count in counts.items() for _ in range(count)], day)


def measured(of_production: pl.DataFrame, of_golden: pl.DataFrame, threshold: float = 0.25) -> Coverage:
    return measure(of_production, of_golden, LABELS, "steady_state", Limits(threshold, 90), WEEK)


def by_bin(coverage: Coverage) -> dict[str, BinCoverage]:
    return {row.bin: row for row in coverage.bins}


# -- the divergence -----------------------------------------------------------------------------------------


@given(mass_pairs())
def test_jsd_is_the_square_of_scipys_distance_in_base_two(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = pair
    # scipy subtracts entropies, so its distance is only good to the root of the float's resolution.
    assert jsd(p, q) == pytest.approx(distance.jensenshannon(p, q, base=2) ** 2, abs=1e-9)


@given(mass_pairs())
def test_terms_are_not_negative_and_add_up_to_the_jsd(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = pair
    terms = jsd_terms(p, q)
    assert terms.shape == p.shape
    assert (terms >= 0).all()
    assert terms.sum() == pytest.approx(jsd(p, q), abs=1e-12)
    assert 0 <= jsd(p, q) <= 1


@given(mass_pairs(), st.floats(1e-3, 1e3))
def test_jsd_is_symmetric_and_knows_no_scale(pair: tuple[np.ndarray, np.ndarray], scale: float) -> None:
    p, q = pair
    assert jsd(p, q) == pytest.approx(jsd(q, p), abs=1e-12)
    assert jsd(p * scale, q) == pytest.approx(jsd(p, q), abs=1e-9)


@given(mass_pairs())
def test_jsd_is_zero_for_equal_masses_and_only_for_them(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = pair
    assert jsd(p, p) == pytest.approx(0, abs=1e-12)
    total_variation = np.abs(p / p.sum() - q / q.sum()).sum() / 2
    # Pinsker's bound for the JSD in bits: at least total variation squared over 2 ln 2.
    assert jsd(p, q) >= total_variation**2 / (2 * np.log(2)) - 1e-12


@given(mass_pairs())
def test_jsd_is_one_for_masses_that_share_no_bin(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = pair
    nothing = np.zeros(len(p))
    assert jsd(np.concatenate([p, nothing]), np.concatenate([nothing, q])) == pytest.approx(1.0)


def test_jsd_of_a_worked_example() -> None:
    """p = (1/2, 1/2), q = (1, 0), m = (3/4, 1/4).

    Bin 1: (1/2 log2(2/3) + log2(4/3)) / 2 = (-.292481 + .415037) / 2 = .061278.
    Bin 2: (1/2 log2(2)) / 2 = .25. Together .311278.
    """
    assert jsd_terms(np.array([5, 5]), np.array([3, 0])).tolist() == pytest.approx([0.061278, 0.25], abs=1e-6)
    assert jsd(np.array([5, 5]), np.array([3, 0])) == pytest.approx(0.311278, abs=1e-6)


def test_a_mass_too_small_to_halve_does_not_blow_up() -> None:
    smallest = np.nextafter(0, 1)
    assert jsd(np.array([smallest, 1.0]), np.array([0.0, 1.0])) == pytest.approx(0.0)


@pytest.mark.parametrize("bad", [[0.5, -0.1], [np.nan, 1.0], [np.inf, 1.0], [0.0, 0.0]])
def test_masses_that_are_none_are_refused_by_name(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^p "):
        jsd_terms(np.array(bad), np.array([1.0, 1.0]))
    with pytest.raises(ValueError, match=r"^q "):
        jsd_terms(np.array([1.0, 1.0]), np.array(bad))


@pytest.mark.parametrize(
    ("value", "band"),
    [
        (0.0, "close"),
        (0.0999, "close"),
        (0.1, "watch"),
        (0.2499, "watch"),
        (0.25, "meaningful"),
        (0.4999, "meaningful"),
        (0.5, "severe"),
        (1.0, "severe"),
    ],
)
def test_a_band_begins_at_its_edge(value: float, band: str) -> None:
    assert band_of(value) == band


# -- a window's measurement ---------------------------------------------------------------------------------


def test_a_worked_window() -> None:
    """Production (.5, .3, .2) against cases (6, 4, 0): golden shares (.6, .4, 0)."""
    coverage = measured(production({"c00": 0.5, "c01": 0.3, "c02": 0.2}), golden({"c00": 6, "c01": 4}))
    assert coverage.jsd_raw == pytest.approx(distance.jensenshannon([0.5, 0.3, 0.2], [0.6, 0.4, 0], base=2) ** 2)
    assert (coverage.n_sampled, coverage.n_golden) == (3, 10)
    assert coverage.uncovered_share == pytest.approx(0.2)
    assert coverage.alarms == ()
    rows = by_bin(coverage)
    assert rows["c00"].density_ratio == pytest.approx(1.2)  # .6 / .5
    assert rows["c01"].density_ratio == pytest.approx(4 / 3)  # .4 / .3
    assert rows["c02"].density_ratio == 0
    assert rows["c02"].jsd_term == pytest.approx(0.1)  # .2 log2(2) / 2
    assert sum(row.jsd_term or 0 for row in coverage.bins) == pytest.approx(coverage.jsd_raw)


def test_bins_are_sorted_by_production_share_and_uncovered_ones_are_marked() -> None:
    coverage = measured(production({"c02": 0.2, "c00": 0.5, "c01": 0.3}), golden({"c00": 1}))
    assert [(row.bin, row.label, row.is_uncovered) for row in coverage.bins] == [
        ("c00", "refunds", False),
        ("c01", "cards", True),
        ("c02", "top-up", True),
    ]


def test_bins_that_neither_side_holds_are_left_out() -> None:
    coverage = measured(production({"c00": 1.0}), golden({"c01": 2}))
    assert sorted(by_bin(coverage)) == ["c00", "c01"]
    assert coverage.jsd == pytest.approx(1.0)
    assert by_bin(coverage)["c01"].density_ratio is None
    assert not by_bin(coverage)["c01"].is_uncovered


def test_without_a_suite_there_is_no_jsd_and_every_bin_is_uncovered_by_share() -> None:
    coverage = measured(production({"c01": 0.3, "c00": 0.7}), golden({}))
    assert (coverage.jsd, coverage.jsd_raw, coverage.jsd_raw_traffic, coverage.band) == (
        None,
        None,
        None,
        None,
    )
    assert [(row.bin, row.is_uncovered, row.jsd_term) for row in coverage.bins] == [
        ("c00", True, None),
        ("c01", True, None),
    ]
    assert coverage.uncovered_share == pytest.approx(1.0)
    assert coverage.alarms == ()


def test_without_production_there_is_no_jsd_and_nothing_is_uncovered() -> None:
    coverage = measured(production({}), golden({"c00": 3}))
    assert (coverage.jsd, coverage.band, coverage.uncovered_share) == (None, None, 0.0)
    assert by_bin(coverage)["c00"].golden_share == 1.0
    assert by_bin(coverage)["c00"].density_ratio is None


def test_without_either_side_there_are_no_bins() -> None:
    coverage = measured(production({}), golden({}))
    assert (coverage.jsd, coverage.bins, coverage.n_sampled, coverage.n_golden) == (None, (), 0, 0)


def test_novel_traffic_is_a_bin_and_a_share_of_its_own() -> None:
    coverage = measured(production({"c00": 0.6, NOVEL: 0.4}), golden({"c00": 5}))
    assert coverage.novel_share == pytest.approx(0.4)
    assert by_bin(coverage)[NOVEL].is_uncovered
    assert coverage.uncovered_share == pytest.approx(0.4)


def test_traffic_weighting_is_measured_beside_the_headline() -> None:
    spike = {"c00": 0.2, "c01": 0.8}
    coverage = measured(production({"c00": 0.5, "c01": 0.5}, traffic=spike), golden({"c00": 5, "c01": 5}))
    assert coverage.jsd == pytest.approx(0.0, abs=1e-12)
    assert coverage.jsd_raw_traffic == pytest.approx(distance.jensenshannon([0.2, 0.8], [0.5, 0.5], base=2) ** 2)
    assert by_bin(coverage)["c01"].production_share_traffic == pytest.approx(0.8)


def test_the_newest_case_of_a_bin_is_dated() -> None:
    cases = pl.concat([golden({"c00": 2}, date(2026, 5, 1)), golden({"c00": 1}, date(2026, 6, 9))])
    assert by_bin(measured(production({"c00": 1.0}), cases))["c00"].newest_case_on == date(2026, 6, 9)


def test_an_alarm_names_the_bins_that_cause_most_of_the_divergence() -> None:
    """Production (.9, .1), cases (1, 9): c00 is under-tested, c01 over-tested."""
    coverage = measured(production({"c00": 0.9, "c01": 0.1}), golden({"c00": 1, "c01": 9}))
    (alarm,) = coverage.alarms
    assert (alarm.kind, alarm.value, alarm.limit, alarm.bin) == ("jsd", coverage.jsd, 0.25, None)
    assert "refunds (under-tested)" in alarm.text
    assert "cards (over-tested)" in alarm.text
    assert f"JSD {coverage.jsd:.3f} is above 0.25" in alarm.text


def test_an_alarm_shows_the_digits_that_make_it_one() -> None:
    assert above(0.2641, 0.25) == "JSD 0.264 is above 0.25"
    assert above(0.25031, 0.25) == "JSD 0.2503 is above 0.25"


def test_an_alarm_begins_above_its_limit_not_at_it() -> None:
    sides = production({"c00": 0.9, "c01": 0.1}), golden({"c00": 1, "c01": 9})
    value = measured(*sides).jsd
    assert value is not None
    assert measured(*sides, threshold=value).alarms == ()
    assert len(measured(*sides, threshold=float(np.nextafter(value, 0))).alarms) == 1


@settings(max_examples=30)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    weights=st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=60),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_window_adds_up(counts: list[int], weights: list[float], seed: int) -> None:
    """Shares, counts and terms add up, and every figure lies where it may."""
    rng = np.random.default_rng(seed)
    names = list(LABELS)
    rows = rows_of(rng.choice(names, len(weights)).tolist(), weights, [f"s{rng.integers(9)}" for _ in weights])
    coverage = measured(rows, golden(dict(zip(names, counts, strict=False))))
    assert sum(row.production_share for row in coverage.bins) == pytest.approx(1.0)
    assert sum(row.golden_share for row in coverage.bins) == pytest.approx(1.0)
    assert sum(row.golden_cases for row in coverage.bins) == coverage.n_golden == sum(counts)
    assert sum(row.n_sampled for row in coverage.bins) == coverage.n_sampled == len(weights)
    p = [row.production_share for row in coverage.bins]
    q = [row.golden_share for row in coverage.bins]
    assert coverage.jsd_raw == pytest.approx(distance.jensenshannon(p, q, base=2) ** 2, abs=1e-9)
    assert sum(row.jsd_term or 0 for row in coverage.bins) == pytest.approx(coverage.jsd_raw)
    assert coverage.jsd is not None
    assert 0 <= (coverage.jsd_low or 0) <= coverage.jsd <= (1 if coverage.jsd_high is None else coverage.jsd_high) <= 1
    assert 0 < (coverage.jsd_p_value or 0) <= 1


# -- what else is said of a window --------------------------------------------------------------------------


def test_case_weights_have_a_divergence_of_their_own_which_raises_no_alarm() -> None:
    """Counts (5, 5) match the traffic; weights (.9, .1) do not: (.5, .5) against (.9, .1) by hand is .147."""
    sides = rows_of(["c00", "c01"] * 50), cases_in(["c00", "c01"] * 5, weight=[0.9, 0.1] * 5)
    coverage = measured(*sides, threshold=0.1)
    assert coverage.jsd_raw == pytest.approx(0.0, abs=1e-12)
    assert coverage.jsd_raw_weighted == pytest.approx(distance.jensenshannon([0.5, 0.5], [0.9, 0.1], base=2) ** 2)
    assert by_bin(coverage)["c00"].golden_share_weighted == pytest.approx(0.9)
    assert coverage.alarms == ()


def test_weights_of_zero_have_no_divergence_and_leave_the_counted_one() -> None:
    coverage = measured(rows_of(["c00", "c01"]), cases_in(["c00", "c01"], weight=[0.0, 0.0]))
    assert (coverage.jsd_weighted, coverage.jsd_raw_weighted) == (None, None)
    assert coverage.jsd_raw == pytest.approx(0.0, abs=1e-12)


def test_traffic_whose_weights_are_all_zero_is_no_traffic() -> None:
    coverage = measured(rows_of(["c00", "c01"], [0.0, 0.0]), cases_in(["c00"]))
    assert (coverage.jsd, coverage.m_eff, coverage.week_novel_share, coverage.alarms) == (None, 0.0, None, ())


def test_one_trace_has_a_divergence_and_no_interval() -> None:
    coverage = measured(rows_of(["c00"]), cases_in(["c00"] * 3 + ["c01"]))
    assert (coverage.jsd_low, coverage.jsd_high, coverage.jsd_sd) == (None, None, None)
    assert coverage.jsd == coverage.jsd_raw == pytest.approx(distance.jensenshannon([1, 0], [0.75, 0.25], base=2) ** 2)
    assert coverage.m_eff == 1
    assert coverage.is_like_random, "one trace tells no suite from a random one"


def test_one_cluster_is_zero_and_sure() -> None:
    coverage = measured(rows_of(["c00"] * 30), cases_in(["c00"] * 3))
    assert (coverage.jsd, coverage.jsd_low, coverage.jsd_high, coverage.uncovered_share) == (0, 0, 0, 0)
    assert coverage.jsd_p_value == 1


def test_traffic_that_is_all_novel_is_as_far_off_as_can_be_and_calls_the_taxonomy_outdated() -> None:
    coverage = measure(
        rows_of([NOVEL] * 200),
        cases_in(["c00"] * 100),
        LABELS,
        "traffic",
        Limits(0.25, 90),
        WEEK,
        novel_calibration=0.02,
    )
    assert coverage.jsd == pytest.approx(1.0)
    assert [alarm.kind for alarm in coverage.alarms] == ["jsd", "blind_spot", "uncovered", "novelty"]
    assert coverage.alarms[0].reason == coverage.jsd_reason == "drift"


@pytest.mark.parametrize("n", range(21, 64, 7))
def test_a_share_that_rounds_above_one_is_one(n: int) -> None:
    """n times 1/n is at times a last bit above one."""
    coverage = measured(rows_of([NOVEL] * n), cases_in(["c00"]), threshold=1.0)
    assert coverage.week_novel_share == pytest.approx(1.0)


def test_sessions_without_weight_are_no_evidence() -> None:
    """One session holds all of the weight: a thousand others that hold none make it no surer."""
    rows = rows_of(["c00"] * 1001, [1.0] + [0.0] * 1000)
    coverage = measured(rows, cases_in(["c00", "c01"]))
    assert coverage.m_eff == 1
    assert coverage.jsd_low is None


def test_no_number_of_cases_is_promised_where_the_sample_is_too_small() -> None:
    """Two sessions, each spread over ten bins, are worth two traces: those can lie in any two of the bins."""
    names = {f"b{i}": f"b{i}" for i in range(10)}
    rows = rows_of(list(names) * 2, session=["s1"] * 10 + ["s2"] * 10)
    coverage = measure(rows, cases_in(["b9"]), names, "traffic", Limits(0.25, 90), WEEK)
    assert (coverage.jsd_reason, coverage.cases_to_settle) == ("suite_too_small", None)
    assert "the sample, worth 2 traces, is too small for any number of cases to tell" in coverage.alarms[0].text


def test_ages_are_counted_to_the_day_that_is_asked_for() -> None:
    later = cases_in(["c00"], day=date(2026, 7, 20))
    rows = rows_of(["c00", "c01"])
    coverage = measure(rows, later, LABELS, "traffic", Limits(1.0, 90), WEEK, as_of=date(2026, 7, 24))
    assert by_bin(coverage)["c00"].age_days == 4


def test_a_case_that_stands_twice_is_refused_by_name() -> None:
    twice = pl.concat([cases_in(["c00"]), cases_in(["c01"])])
    with pytest.raises(ValueError, match="a case counts once, but these stand more than once: g0-2026-06-01"):
        measured(rows_of(["c00"]), twice)


@pytest.mark.parametrize("bad", [-0.5, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(bad: float) -> None:
    rows = rows_of(["c00", "c01"]).with_columns(weight=pl.Series([0.5, bad]))
    with pytest.raises(ValueError, match="1 sampled traces have a weight that is negative or no number"):
        measured(rows, cases_in(["c00"]))


def test_a_small_suite_above_the_threshold_is_called_too_small_and_told_how_many_cases_would_tell() -> None:
    """30 bins of equal traffic; 12 random cases can only fill 12 of them."""
    names = {f"b{i:02d}": f"b{i:02d}" for i in range(30)}
    limits = Limits(0.25, 90)
    small = measure(rows_of(list(names) * 60), cases_in(list(names)[:12]), names, "traffic", limits, WEEK)
    assert small.jsd is not None
    assert small.jsd > 0.25
    assert (small.jsd_reason, small.is_like_random) == ("suite_too_small", True)
    assert small.cases_to_settle is not None
    assert 12 < small.cases_to_settle < 60
    assert f"about {small.cases_to_settle} cases would tell" in small.alarms[0].text
    large = measure(rows_of(list(names) * 60), cases_in(list(names)[:12] * 20), names, "traffic", limits, WEEK)
    assert (large.jsd_reason, large.cases_to_settle) == ("drift", None)
    assert large.jsd == pytest.approx(small.jsd, abs=1e-9), "the same figure, and no excuse"


def test_the_first_week_of_a_taxonomy_is_measured_by_the_one_before_as_well() -> None:
    """By the old bins a match, by the new ones not."""
    rows = rows_of(["c00", "c01"] * 40, previous=["old", "old"] * 40)
    coverage = measured(rows, cases_in(["c00"] * 8, previous=["old"] * 8))
    assert coverage.jsd_previous == pytest.approx(0.0, abs=1e-9)
    assert coverage.jsd_raw == pytest.approx(0.311278, abs=1e-6)
    later = measured(rows_of(["c00", "c01"] * 40), cases_in(["c00"] * 8))
    assert later.jsd_previous is None


def test_the_novel_share_is_watched_over_the_weeks_own_days() -> None:
    """10 of 40 traces of the week are novel, none of the 120 before: .25 of the week, .0625 of the window."""
    before = [date(2026, 6, 1)] * 120
    rows = rows_of(["c00"] * 120 + ["c00"] * 30 + [NOVEL] * 10, day=[*before, *[WEEK] * 40])
    known = measure(rows, cases_in(["c00"]), LABELS, "traffic", Limits(1.0, 90), WEEK, novel_calibration=0.05)
    assert known.novel_share == pytest.approx(0.0625)
    assert known.week_novel_share == pytest.approx(0.25)
    # Wilson's interval of 10 of 40, less one for the session that variance costs
    assert (known.week_novel_share_low, known.week_novel_share_high) == pytest.approx((0.141, 0.403), abs=5e-3)
    assert known.is_novelty_risen
    assert "25.0% of the week's traffic is novel (surely at least 14.1%), against 5.0%" in known.alarms[-1].text
    near = measure(rows, cases_in(["c00"]), LABELS, "traffic", Limits(1.0, 90), WEEK, novel_calibration=0.12)
    assert not near.is_novelty_risen, ".14 is not 3 points above .12"
    assert not measured(rows, cases_in(["c00"])).is_novelty_risen, "nothing to compare with"


def test_old_cases_are_stale_where_their_traffic_grows() -> None:
    """c01 goes from 10 % to 30 % of traffic within the window; its case is from January, c00's too."""
    early, late = [date(2026, 6, 1)] * 400, [WEEK] * 400
    bins = ["c00"] * 360 + ["c01"] * 40 + ["c00"] * 280 + ["c01"] * 120
    rows = rows_of(bins, day=[*early, *late])
    old = pl.concat([cases_in(["c00"] * 4 + ["c01"], day=date(2026, 1, 1))])
    coverage = measured(rows, old, threshold=1.0)
    assert {row.bin for row in coverage.bins if row.is_stale} == {"c01"}
    row = by_bin(coverage)["c01"]
    assert row.share_change == pytest.approx(0.2)
    assert row.age_days == (date(2026, 6, 28) - date(2026, 1, 1)).days
    (alarm,) = [alarm for alarm in coverage.alarms if alarm.kind == "stale"]
    assert (alarm.bin, alarm.limit) == ("c01", 90)
    assert "178 days old, while its traffic grew by 20.0 points" in alarm.text
    fresh = measured(rows, cases_in(["c00"] * 4 + ["c01"], day=date(2026, 5, 1)), threshold=1.0)
    assert not any(row.is_stale for row in fresh.bins)


def test_cases_are_counted_by_where_they_come_from() -> None:
    cases = pl.concat([cases_in(["c00"] * 2), cases_in(["c00"], date(2026, 6, 2), origin="production")])
    row = by_bin(measured(rows_of(["c00"]), cases))["c00"]
    assert (row.n_hand_authored, row.n_synthetic, row.n_production) == (2, 0, 1)


def test_a_suite_that_was_not_drawn_at_random_says_nothing_of_a_source() -> None:
    rows = rows_of(["c00", "c01", "c02"] * 50)
    chosen = measured(rows, cases_in(["c00", "c01"] * 10))
    assert chosen.jsd_source is None
    assert chosen.source_note == "not applicable: 20 of 20 cases were not drawn at random"
    drawn = measured(rows, cases_in(["c00", "c01", "c02"] * 10, is_random_draw=True))
    assert drawn.source_note is None
    assert drawn.jsd_source == pytest.approx(0.0, abs=0.02)
    assert drawn.jsd_source_low == 0
    one = measured(rows, cases_in(["c00"] * 3, session=["s"] * 3, is_random_draw=True))
    assert one.source_note == "not applicable: the cases come from one session, so nothing can be said of others"
