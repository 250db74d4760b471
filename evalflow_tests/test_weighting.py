"""Weighting: a sample's weights give each day its mass, and an ordinary month is told from a launch."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evalflow.core.weighting import DayMasses, row_weights, steady_state_masses, traffic_masses

MONDAY = date(2026, 6, 1)
MAX_SIGMAS = 3.0


def volumes_of(counts: list[int]) -> dict[date, int]:
    return {MONDAY + timedelta(days=n): count for n, count in enumerate(counts)}


def ordinary(rng: np.random.Generator, sigma: float, n_days: int = 28) -> dict[date, int]:
    """Weekdays of 1,000 traces and weekend days of 600, each with log-normal noise."""
    base = np.array([1000 if n % 7 < 5 else 600 for n in range(n_days)])
    return volumes_of(np.round(base * rng.lognormal(0, sigma, n_days)).astype(int).tolist())


rows_of_days = st.lists(st.tuples(st.integers(0, 27), st.floats(0.001, 1.0, exclude_min=True)), min_size=1, max_size=60)


@given(rows=rows_of_days, masses=st.lists(st.floats(0.5, 1e6), min_size=28, max_size=28))
def test_weights_sum_to_one_and_give_each_day_its_mass(rows: list[tuple[int, float]], masses: list[float]) -> None:
    day = pl.Series([MONDAY + timedelta(days=n) for n, _ in rows])
    pi = pl.Series([value for _, value in rows])
    mass = {MONDAY + timedelta(days=n): value for n, value in enumerate(masses)}
    weights = row_weights(day, pi, DayMasses("traffic", mass, {}))
    assert weights.sum() == pytest.approx(1.0)
    sampled = sorted(set(day))
    total = sum(mass[one] for one in sampled)
    for one in sampled:
        assert weights.filter(day == one).sum() == pytest.approx(mass[one] / total)


def test_within_a_day_weights_go_by_one_over_pi() -> None:
    # 1/pi = 2, 10, 4 sum to 16; the day's whole mass is 1.
    weights = row_weights(pl.Series([MONDAY] * 3), pl.Series([0.5, 0.1, 0.25]), traffic_masses({MONDAY: 70}))
    assert weights.to_list() == pytest.approx([2 / 16, 10 / 16, 4 / 16])


def test_a_day_without_mass_weighs_nothing() -> None:
    weights = row_weights(
        pl.Series([MONDAY, MONDAY + timedelta(days=1)]), pl.Series([0.5, 0.5]), traffic_masses({MONDAY: 70})
    )
    assert weights.to_list() == [1.0, 0.0]


def test_no_rows_give_no_weights() -> None:
    assert len(row_weights(pl.Series([], dtype=pl.Date), pl.Series([], dtype=pl.Float64), traffic_masses({}))) == 0


def test_traffic_masses_are_the_volumes() -> None:
    assert traffic_masses({MONDAY: 7}) == DayMasses("traffic", {MONDAY: 7.0}, {})


def test_a_spike_is_capped_three_sigmas_above_its_class_and_nothing_else_is() -> None:
    """Weekdays 1,000, weekends 600: the spread is zero, so s = .10 and the cap is 1,000 e^.3 = 1,349.9."""
    counts = [1000 if n % 7 < 5 else 600 for n in range(28)]
    counts[9] = 10_000  # a Wednesday
    masses = steady_state_masses(volumes_of(counts), MAX_SIGMAS)
    spike = MONDAY + timedelta(days=9)
    assert masses.weighting == "steady_state"
    assert list(masses.damped) == [spike]
    assert masses.damped[spike] == pytest.approx(0.13498588)
    assert masses.mass[spike] == pytest.approx(1349.8588 / 4)  # four Wednesdays share their weekday
    assert masses.mass[MONDAY] == pytest.approx(1000 / 4)
    assert masses.mass[MONDAY + timedelta(days=5)] == pytest.approx(600 / 4)


def test_the_cap_follows_the_pooled_mad_as_scipy_computes_it() -> None:
    volumes = ordinary(np.random.default_rng(5), 0.2)
    spike = MONDAY + timedelta(days=15)
    volumes[spike] = 20_000
    masses = steady_state_masses(volumes, MAX_SIGMAS)
    logs = {day: np.log(volume) for day, volume in volumes.items()}
    medians = {
        side: np.median([value for day, value in logs.items() if (day.weekday() >= 5) == side])
        for side in (True, False)
    }
    residuals = [value - medians[day.weekday() >= 5] for day, value in logs.items()]
    sigma = stats.median_abs_deviation(residuals, scale="normal")  # scale .67449 = 1 / 1.4826
    assert sigma > 0.10
    expected = np.exp(medians[False] + MAX_SIGMAS * sigma) / volumes[spike]
    assert masses.damped[spike] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sigma", [0.05, 0.10, 0.20])
def test_ordinary_noisy_days_are_left_alone(sigma: float) -> None:
    rng = np.random.default_rng(11)
    damped = [len(steady_state_masses(ordinary(rng, sigma), MAX_SIGMAS).damped) for _ in range(200)]
    # Three sigmas above a median leave out .13 % of normal days; a sigma estimated from 28 days makes it .7 %.
    assert sum(damped) / (200 * 28) < 0.01


def test_missing_weekdays_are_made_up_for() -> None:
    """Two of four Mondays are missing: the other two carry as much as four would have."""
    volumes = volumes_of([1000] * 28)
    del volumes[MONDAY], volumes[MONDAY + timedelta(days=14)]
    masses = steady_state_masses(volumes, MAX_SIGMAS).mass
    by_weekday = [sum(mass for day, mass in masses.items() if day.weekday() == weekday) for weekday in range(7)]
    assert by_weekday == pytest.approx([1000.0] * 7)


def test_a_day_of_no_traffic_is_a_missing_day() -> None:
    volumes = volumes_of([1000] * 28)
    volumes[MONDAY] = 0
    masses = steady_state_masses(volumes, MAX_SIGMAS)
    assert MONDAY not in masses.mass
    assert masses.mass[MONDAY + timedelta(days=7)] == pytest.approx(1000 / 3)


@pytest.mark.parametrize(("n_days", "weighting"), [(13, "traffic"), (14, "steady_state")])
def test_below_two_weeks_only_traffic_is_told(n_days: int, weighting: str) -> None:
    volumes = volumes_of([1000] * (n_days - 1) + [9000])
    masses = steady_state_masses(volumes, MAX_SIGMAS)
    assert masses.weighting == weighting
    assert bool(masses.damped) == (weighting == "steady_state")


def test_no_traffic_at_all_has_no_masses() -> None:
    assert steady_state_masses({MONDAY: 0}, MAX_SIGMAS) == DayMasses("traffic", {}, {})
