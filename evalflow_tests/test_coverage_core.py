"""Coverage: the divergence is scipy's, splits into bins exactly, and is silent where it cannot be told."""

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial import distance

from evalflow.core.coverage import NOVEL, BinCoverage, Coverage, above, band_of, jsd, jsd_terms, measure

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
    return pl.DataFrame(
        {
            "item_id": list(shares),
            "session_id": [None] * len(shares),
            "bin": list(shares),
            "weight": list(shares.values()),
            "weight_traffic": list((traffic or shares).values()),
        },
        schema={
            "item_id": pl.String,
            "session_id": pl.String,
            "bin": pl.String,
            "weight": pl.Float64,
            "weight_traffic": pl.Float64,
        },
    )


def golden(counts: dict[str, int], day: date = date(2026, 6, 1)) -> pl.DataFrame:
    bins = [name for name, count in counts.items() for _ in range(count)]
    return pl.DataFrame({"bin": bins, "day": [day] * len(bins)}, schema={"bin": pl.String, "day": pl.Date})


def measured(of_production: pl.DataFrame, of_golden: pl.DataFrame, threshold: float = 0.25) -> Coverage:
    return measure(of_production, of_golden, LABELS, "steady_state", threshold)


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
    assert (
        coverage.jsd
        == coverage.jsd_raw
        == pytest.approx(distance.jensenshannon([0.5, 0.3, 0.2], [0.6, 0.4, 0], base=2) ** 2)
    )
    assert coverage.band == "watch"
    assert (coverage.n_sampled, coverage.n_golden) == (3, 10)
    assert coverage.uncovered_share == pytest.approx(0.2)
    assert coverage.alarms == ()
    rows = by_bin(coverage)
    assert rows["c00"].density_ratio == pytest.approx(1.2)  # .6 / .5
    assert rows["c01"].density_ratio == pytest.approx(4 / 3)  # .4 / .3
    assert rows["c02"].density_ratio == 0
    assert rows["c02"].jsd_term == pytest.approx(0.1)  # .2 log2(2) / 2
    assert sum(row.jsd_term or 0 for row in coverage.bins) == pytest.approx(coverage.jsd)


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


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    weights=st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=60),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_window_adds_up(counts: list[int], weights: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = list(LABELS)
    share = np.array(weights) / sum(weights)
    ids = [str(number) for number in range(len(share))]
    rows = pl.DataFrame(
        {
            "item_id": ids,
            "session_id": ids,
            "bin": rng.choice(names, len(share)),
            "weight": share,
            "weight_traffic": share,
        }
    )
    coverage = measured(rows, golden(dict(zip(names, counts, strict=False))))
    assert sum(row.production_share for row in coverage.bins) == pytest.approx(1.0)
    assert sum(row.golden_share for row in coverage.bins) == pytest.approx(1.0)
    assert sum(row.golden_cases for row in coverage.bins) == coverage.n_golden == sum(counts)
    assert sum(row.n_sampled for row in coverage.bins) == coverage.n_sampled == len(weights)
    p = [row.production_share for row in coverage.bins]
    q = [row.golden_share for row in coverage.bins]
    assert coverage.jsd == pytest.approx(distance.jensenshannon(p, q, base=2) ** 2, abs=1e-9)
