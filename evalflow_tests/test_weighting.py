"""Weighting: a sample's weights give each day its mass, and an ordinary month is told from a launch."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evalflow.core.weighting import (
    DayMasses,
    hajek_standard_error,
    kish_size,
    mass_moved_by_cap,
    n_capped,
    row_weights,
    steady_state_masses,
    traffic_masses,
    weight_facts,
)

MONDAY = date(2026, 6, 1)
MAX_SIGMAS = 3.0


def volumes_of(counts: list[int]) -> dict[date, int]:
    return {MONDAY + timedelta(days=n): count for n, count in enumerate(counts)}


def ordinary(rng: np.random.Generator, sigma: float, n_days: int = 28) -> dict[date, int]:
    """Weekdays of 1,000 traces and weekend days of 600, each with log-normal noise."""
    base = np.array([1000 if n % 7 < 5 else 600 for n in range(n_days)])
    return volumes_of(np.round(base * rng.lognormal(0, sigma, n_days)).astype(int).tolist())


rows_of_days = st.lists(st.tuples(st.integers(0, 27), st.floats(0.001, 1.0, exclude_min=True)), min_size=1, max_size=60)


@given(
    rows=rows_of_days,
    masses=st.lists(st.floats(0.5, 1e6), min_size=28, max_size=28),
    max_ratio=st.sampled_from([1.0, 1.5, 10.0]),
)
def test_weights_sum_to_one_and_give_each_day_its_mass_whatever_is_capped(
    rows: list[tuple[int, float]], masses: list[float], max_ratio: float
) -> None:
    day = pl.Series([MONDAY + timedelta(days=n) for n, _ in rows])
    pi = pl.Series([value for _, value in rows])
    mass = {MONDAY + timedelta(days=n): value for n, value in enumerate(masses)}
    weights = row_weights(day, pi, DayMasses("traffic", mass, {}), max_ratio).weight
    assert weights.sum() == pytest.approx(1.0)
    sampled = sorted(set(day))
    total = sum(mass[one] for one in sampled)
    for one in sampled:
        assert weights.filter(day == one).sum() == pytest.approx(mass[one] / total)


def test_within_a_day_weights_go_by_one_over_pi() -> None:
    # 1/pi = 2, 10, 4 sum to 16; the day's whole mass is 1.
    weights = row_weights(pl.Series([MONDAY] * 3), pl.Series([0.5, 0.1, 0.25]), traffic_masses({MONDAY: 70}), 10.0)
    assert weights.weight.to_list() == pytest.approx([2 / 16, 10 / 16, 4 / 16])
    assert weights.is_capped.to_list() == [False] * 3


def test_a_weight_above_the_cap_counts_as_the_cap_and_the_moved_mass_is_told() -> None:
    """1/pi = 2, 10, 4 have the mean 16/3; at 1.5 times the cap is 8, and 2 + 8 + 4 = 14 share the day."""
    day, pi = pl.Series([MONDAY] * 3), pl.Series([0.5, 0.1, 0.25])
    weights = row_weights(day, pi, traffic_masses({MONDAY: 70}), 1.5)
    assert weights.is_capped.to_list() == [False, True, False]
    assert n_capped(pi, 1.5) == 1
    assert n_capped(pi, 10.0) == n_capped(pi.clear(), 10.0) == 0
    assert weights.weight.to_list() == pytest.approx([2 / 14, 8 / 14, 4 / 14])
    assert mass_moved_by_cap(day, pi, weights.weight) == pytest.approx(10 / 16 - 8 / 14)


@given(rows=rows_of_days, max_ratio=st.floats(1.0, 20.0))
def test_the_cap_holds_moves_no_share_further_than_it_says_and_often_does_nothing(
    rows: list[tuple[int, float]], max_ratio: float
) -> None:
    day = pl.Series([MONDAY + timedelta(days=n) for n, _ in rows])
    pi = pl.Series([value for _, value in rows])
    masses = traffic_masses(dict.fromkeys(day.unique(), 100))
    capped = row_weights(day, pi, masses, max_ratio)
    free = row_weights(day, pi, masses, 1e9)
    mean = pl.DataFrame({"day": day, "w": 1 / pi}).select(pl.col("w").mean().over("day"))["w"]
    assert (capped.is_capped == (1 / pi > max_ratio * mean * (1 + 1e-9))).all()
    moved = mass_moved_by_cap(day, pi, capped.weight)
    share = [abs(capped.weight.filter(pi < limit).sum() - free.weight.filter(pi < limit).sum()) for limit in (0.1, 0.5)]
    assert max(share) <= moved + 1e-9
    if not capped.is_capped.any():
        assert moved == 0.0
        assert capped.weight.to_list() == free.weight.to_list()


@pytest.mark.parametrize(("uniform", "bad_share", "is_capped"), [(0.02, 0.10, False), (0.02, 0.30, True)])
def test_two_percent_at_random_plus_every_bad_signal_is_capped_only_where_bad_is_common(
    uniform: float, bad_share: float, is_capped: bool
) -> None:
    """Weights of 50 and 1: 50 over the mean is 1 + 49 x the bad share, which passes ten at 18 % of bad signals."""
    n_bad, n_good = round(10_000 * bad_share), round(10_000 * (1 - bad_share) * uniform)
    pi = pl.Series([1.0] * n_bad + [uniform] * n_good)
    weights = row_weights(pl.Series([MONDAY] * len(pi)), pi, traffic_masses({MONDAY: 10_000}), 10.0)
    assert weights.is_capped.to_list() == [False] * n_bad + [is_capped] * n_good


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, float("nan")])
def test_a_probability_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"1 inclusion probabilities lie outside \(0, 1\]"):
        row_weights(pl.Series([MONDAY] * 2), pl.Series([0.5, bad]), traffic_masses({MONDAY: 70}), 10.0)


def test_kishs_size_is_the_number_of_equal_weights_and_less_of_unequal_ones() -> None:
    assert kish_size(pl.Series([0.25] * 4)) == pytest.approx(4)
    assert kish_size(pl.Series([3.0, 1.0])) == pytest.approx(16 / 10)
    assert kish_size(pl.Series([0.0, 0.0])) is None
    assert kish_size(pl.Series([], dtype=pl.Float64)) is None


def test_the_standard_error_of_a_rate_is_what_resampled_sessions_spread() -> None:
    """120 sessions of one to six traces with unequal weights; verdicts of a session agree most of the time."""
    rng = np.random.default_rng(3)
    session = np.repeat(np.arange(120), rng.integers(1, 7, 120))
    leaning = rng.choice([0.1, 0.9], 120)
    y = (rng.random(len(session)) < leaning[session]).astype(float)
    w = rng.choice([1.0, 5.0], len(session))
    found = hajek_standard_error(pl.Series(y), pl.Series(w), pl.Series(session).cast(pl.String))
    top, bottom = np.bincount(session, weights=w * y), np.bincount(session, weights=w)
    picks = rng.integers(0, 120, (4000, 120))
    resampled = top[picks].sum(axis=1) / bottom[picks].sum(axis=1)
    # 4,000 bootstrap means know their spread to 1 / sqrt(8,000) = 1.1 %; ratios of 120 sessions add about 1 %.
    assert found == pytest.approx(resampled.std(), rel=0.05)
    alone = hajek_standard_error(pl.Series(y), pl.Series(w), pl.Series(np.arange(len(y))).cast(pl.String))
    assert alone is not None
    assert found is not None
    assert alone < 0.8 * found, "traces taken as independent would look surer than they are"


def test_the_standard_error_of_equal_weights_and_single_traces_is_the_textbook_one() -> None:
    """Three of ten: the mean squared deviation .21 over n - 1 = 9."""
    ids = pl.Series([str(i) for i in range(10)])
    found = hajek_standard_error(pl.Series([True] * 3 + [False] * 7), pl.Series([0.7] * 10), ids)
    assert found == pytest.approx((0.21 / 9) ** 0.5)


@pytest.mark.parametrize(
    ("verdicts", "weights", "sessions", "expected"),
    [
        ([], [], [], None),
        ([True], [1.0], ["a"], None),
        ([True, False], [1.0, 1.0], ["a", "a"], None),
        ([True, False], [1.0, 0.0], ["a", "b"], None),
    ],
)
def test_one_session_tells_nothing_about_its_spread(
    verdicts: list[bool], weights: list[float], sessions: list[str], expected: float | None
) -> None:
    found = hajek_standard_error(
        pl.Series(verdicts, dtype=pl.Boolean),
        pl.Series(weights, dtype=pl.Float64),
        pl.Series(sessions, dtype=pl.String),
    )
    assert found == expected


@pytest.mark.parametrize("passed", [True, False])
def test_verdicts_that_agree_are_not_certain(passed: bool) -> None:
    """Two sessions and Agresti and Coull's four: of six equal ones four agree, 2/9 over n - 1 = 5. With more, less."""

    def error_of(n: int) -> float:
        ids = pl.Series([str(i) for i in range(n)])
        return hajek_standard_error(pl.Series([passed] * n), pl.Series([0.3] * n), ids) or 0.0

    assert error_of(2) == pytest.approx((2 / 9 / 5) ** 0.5)
    assert [error_of(n) for n in (10, 100, 1000)] == pytest.approx([0.0971, 0.0135, 0.0014], abs=2e-4)


def test_a_few_heavy_sessions_count_as_few() -> None:
    """Of 100 sessions that all passed one holds nearly all the weight: as unsure as a single one, not as a hundred."""
    weights = pl.Series([1000.0] + [0.01] * 99)
    ids = pl.Series([str(i) for i in range(100)])
    assert (hajek_standard_error(pl.Series([True] * 100), weights, ids) or 0) > 0.15


@pytest.mark.parametrize("rate", [0.9, 0.97, 0.995])
def test_near_one_the_error_does_not_make_a_rate_too_sure(rate: float) -> None:
    """40 sessions: the rate lies further than two errors below or above the truth in at most 6 %; without the four, in 9 to 84 %."""
    rng = np.random.default_rng(4)
    ids, weights = pl.Series([str(i) for i in range(40)]), pl.Series([1.0] * 40)
    missed = 0
    for _ in range(400):
        verdicts = rng.random(40) < rate
        error = hajek_standard_error(pl.Series(verdicts), weights, ids) or 0.0
        missed += abs(verdicts.mean() - rate) > 2 * error
    assert missed / 400 <= 0.06


def test_a_windows_facts_name_the_weighting_beside_each_figure() -> None:
    rows = pl.DataFrame(
        {
            "day": [MONDAY] * 3,
            "inclusion_probability": [0.5, 0.1, 0.25],
            "weight": [2 / 14, 8 / 14, 4 / 14],
            "weight_traffic": [2 / 14, 8 / 14, 4 / 14],
            "is_capped": [False, True, False],
            "weighting": "steady_state",
        }
    )
    assert weight_facts(rows) == {
        "Kish effective size (steady_state)": pytest.approx(14**2 / (4 + 64 + 16)),
        "Kish effective size (traffic)": pytest.approx(14**2 / (4 + 64 + 16)),
        "capped weights": 1,
        "mass moved by the cap (steady_state)": pytest.approx(10 / 16 - 8 / 14),
        "mass moved by the cap (traffic)": pytest.approx(10 / 16 - 8 / 14),
    }
    assert weight_facts(rows.clear()) == {}


def test_a_day_without_mass_weighs_nothing() -> None:
    weights = row_weights(
        pl.Series([MONDAY, MONDAY + timedelta(days=1)]), pl.Series([0.5, 0.5]), traffic_masses({MONDAY: 70}), 10.0
    )
    assert weights.weight.to_list() == [1.0, 0.0]


def test_no_rows_give_no_weights() -> None:
    none = row_weights(pl.Series([], dtype=pl.Date), pl.Series([], dtype=pl.Float64), traffic_masses({}), 10.0)
    assert len(none.weight) == len(none.is_capped) == 0


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
