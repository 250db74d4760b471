"""Simulations with planted truth: what is said of a JSD is true as often as it claims to be.

Production is clustered in sessions and of unequal weight throughout. Tolerances: a share of r runs that is truly x strays
by sqrt(x (1 - x) / r); each test says how many runs it makes. `benchmarks/inference.py` makes more of them.
"""

import numpy as np
import pytest

from evalflow.core.alarms import DRIFT_P
from evalflow.core.blind_spots import find_blind_spots
from evalflow.core.divergence import jsd
from evalflow.core.inference import (
    bootstrap_shares,
    cases_to_settle,
    effective_size,
    headline,
    jackknife,
    size_floor,
    source_estimate,
    uncovered_floor,
)
from evalflow_tests.windows import clustered_mass, moved, shares


def one_case_families(counts: np.ndarray) -> np.ndarray:
    return np.repeat(np.eye(len(counts), dtype=int), counts, axis=0)


# -- the headline ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("distance", "least"), [(0.2, 0.91), (0.05, 0.91), (0.008, 0.93)])
def test_the_headlines_interval_holds_the_truth_as_often_as_it_says(distance: float, least: float) -> None:
    """The truth: the same suite against all of the traffic. 91 to 98 % of 200 runs, at least 93 % below JSD .02."""
    rng = np.random.default_rng(11)
    n_held, runs, k = 0, 200, 40
    for _ in range(runs):
        p = shares(rng, k)
        q = moved(rng, p, distance)
        mass = clustered_mass(rng, p)
        found = headline(mass.sum(axis=0), q, bootstrap_shares(mass, 200), len(mass))
        assert found.low is not None
        assert found.high is not None
        n_held += found.low <= jsd(p, q) <= found.high
    assert n_held / runs >= least
    if distance >= 0.02:
        assert n_held / runs <= 0.98


def test_the_headline_takes_out_what_the_sampling_of_production_adds() -> None:
    """300 sessions over 40 bins read .03 and more too high when raw; corrected, the mean of 100 runs is within .005."""
    rng = np.random.default_rng(12)
    raw, corrected = [], []
    p = shares(rng, 40)
    q = moved(rng, p, 0.1)
    for _ in range(100):
        mass = clustered_mass(rng, p, 300)
        raw.append(jsd(mass.sum(axis=0), q))
        corrected.append(headline(mass.sum(axis=0), q, bootstrap_shares(mass, 200), 300).value)
    assert np.mean(raw) - 0.1 > 0.01
    assert np.mean(corrected) == pytest.approx(0.1, abs=0.005)


# -- the size floor -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(40, 100), (80, 400)])
def test_a_random_suite_is_called_none_as_rarely_as_the_level_says(k: int, n: int) -> None:
    """3 to 8 % at a nominal 5 %, of 200 suites."""
    rng = np.random.default_rng(k)
    n_rejected, runs = 0, 200
    for _ in range(runs):
        p = shares(rng, k)
        mass = clustered_mass(rng, p)
        floor = size_floor(mass.sum(axis=0), rng.multinomial(n, p) / n, n, effective_size(mass).overall)
        n_rejected += floor.p_value <= 0.05
    assert 0.03 <= n_rejected / runs <= 0.08


@pytest.mark.parametrize(
    ("n", "low", "high"), [(50, 0.20, 0.26), (100, 0.10, 0.13), (200, 0.05, 0.07), (400, 0.025, 0.035)]
)
def test_the_size_floor_is_what_random_suites_show(n: int, low: float, high: float) -> None:
    """55 bins; the means of suites that are drawn here, and those that the floor says, both lie in the known range."""
    rng = np.random.default_rng(n)
    p = shares(rng, 55)
    drawn = [jsd(p, rng.multinomial(n, p)) for _ in range(200)]
    floor = size_floor(p, rng.multinomial(n, p) / n, n, 5_000)
    assert low <= np.mean(drawn) <= high
    assert floor.mean == pytest.approx(np.mean(drawn), abs=0.012)
    assert floor.mean < floor.p95


def test_the_floor_of_what_is_uncovered_is_what_random_suites_leave() -> None:
    """40 bins: 22 % at 50 cases, 11 % at 100, 4 % at 200, by and large; one suite in a hundred leaves more than p99."""
    rng = np.random.default_rng(3)
    p = shares(rng, 40)
    for n in (50, 100, 200):
        left = (rng.multinomial(n, p, 2000) == 0) @ p
        floor = uncovered_floor(p, n)
        assert floor.mean == pytest.approx(left.mean(), abs=0.01)
        assert (left > floor.p99).mean() <= 0.02


def test_the_number_of_cases_that_would_tell_does_tell() -> None:
    """With as many cases of the same spread, fewer than 1 in 500 random suites are as far off; with nine tenths, more than 1 in 2,000."""
    rng = np.random.default_rng(4)
    p = shares(rng, 50)
    q = rng.multinomial(50, p) / 50
    needed = cases_to_settle(p, q, 50, 4_000, DRIFT_P)
    assert needed > 50

    def as_far(n: int) -> float:
        pooled = (50 * q + 4_000 * p) / 4_050
        return float(np.mean([jsd(p, draw) >= jsd(p, q) for draw in rng.multinomial(n, pooled, 4_000)]))

    assert as_far(needed) < 1 / 500
    assert as_far(round(0.85 * needed)) > 1 / 2_000


# -- the source -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [20, 40, 80])
@pytest.mark.parametrize("n", [50, 100, 200, 400])
def test_the_jackknife_finds_what_random_cases_were_drawn_from(k: int, n: int) -> None:
    """Mean of 40 suites drawn from a source at .08: bias below .02 from n = 2 k, .05 from n = k, .12 below."""
    rng = np.random.default_rng(100 * k + n)
    values = []
    for _ in range(40):
        p = shares(rng, k)
        source = moved(rng, p, 0.08)
        mass = clustered_mass(rng, p)
        families = one_case_families(rng.multinomial(n, source))
        values.append(jackknife(mass.sum(axis=0), families, bootstrap_shares(mass, 50)).value)
    allowed = 0.02 if n >= 2 * k else 0.05 if n >= k else 0.12
    assert abs(np.mean(values) - 0.08) < allowed


@pytest.mark.parametrize("distance", [0.0, 0.08])
def test_the_sources_interval_holds_it(distance: float) -> None:
    """At least 91 % of 40 runs."""
    rng = np.random.default_rng(21)
    n_held, runs, k, n = 0, 40, 40, 100
    for _ in range(runs):
        p = shares(rng, k)
        source = moved(rng, p, distance) if distance else p
        mass = clustered_mass(rng, p)
        found = source_estimate(
            mass.sum(axis=0),
            one_case_families(rng.multinomial(n, source)),
            effective_size(mass).overall,
            bootstrap_shares(mass, 100),
        )
        assert found.low is not None
        assert found.high is not None
        n_held += found.low <= jsd(p, source) <= found.high
    assert n_held / runs >= 0.91


def test_a_suite_beyond_every_path_has_the_jackknifes_interval_alone() -> None:
    """Nine tenths of the source lie in bins without traffic, where no path that keeps to the traffic can go."""
    rng = np.random.default_rng(23)
    p = np.append(shares(rng, 40), np.zeros(10))
    source = 0.1 * p + 0.9 * np.append(np.zeros(40), np.full(10, 0.1))
    mass = np.hstack([clustered_mass(rng, p[:40]), np.zeros((2000, 10))])
    families = one_case_families(rng.multinomial(400, source))
    found = source_estimate(mass.sum(axis=0), families, effective_size(mass).overall, bootstrap_shares(mass, 100))
    assert found.low is not None
    assert found.high is not None
    assert found.low <= jsd(p, source) <= found.high
    assert found.high - found.low < 0.2


def test_cases_of_one_session_count_as_one_family() -> None:
    """Each family of five in one bin: as single cases the jackknife takes noise for information and its error is too small."""
    rng = np.random.default_rng(22)
    p = shares(rng, 20)
    mass = clustered_mass(rng, p)
    resampled = bootstrap_shares(mass, 100)
    families = 5 * one_case_families(rng.multinomial(40, p))
    whole = jackknife(mass.sum(axis=0), families, resampled)
    single = jackknife(mass.sum(axis=0), one_case_families(families.sum(axis=0)), resampled)
    assert whole.value < single.value
    assert whole.se > single.se


# -- what is concluded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n", "allowed"), [(55, 110, 0), (55, 55, 5)])
def test_drift_is_hardly_ever_said_of_a_random_suite(k: int, n: int, allowed: int) -> None:
    """1,000 independent pairs of a random suite and a window: never from n = 2 k, at most 5 times at n = k.

    Drift is said above .25 alone, so only such pairs need the rest.
    """
    rng = np.random.default_rng(n)
    n_drift = n_blind = 0
    for _ in range(1_000):
        p = shares(rng, k)
        mass = clustered_mass(rng, p, 1_200)
        seen, counts = mass.sum(axis=0), rng.multinomial(n, p)
        m_eff = effective_size(mass)
        n_blind += bool(find_blind_spots(counts, seen, m_eff).is_blind.any())
        if jsd(seen, counts) > 0.25:
            found = headline(seen, counts / n, bootstrap_shares(mass, 100), len(mass))
            n_drift += found.value > 0.25 and size_floor(seen, counts / n, n, m_eff.overall).p_value <= DRIFT_P
    assert n_drift <= allowed
    assert n_blind <= 10, "blind spots on at most 1 % of them"


def test_a_suite_filled_by_quota_whose_traffic_has_moved_away_fires() -> None:
    """100 cases over 80 bins, placed as evenly by quota as can be, then the traffic moves to JSD .31: drift, every time."""
    rng = np.random.default_rng(31)
    for _ in range(20):
        p = shares(rng, 80)
        counts = np.floor(100 * p).astype(int)
        counts[np.argsort(counts - 100 * p)[: 100 - counts.sum()]] += 1
        mass = clustered_mass(rng, moved(rng, counts / 100, 0.31))
        seen = mass.sum(axis=0)
        found = headline(seen, counts / 100, bootstrap_shares(mass, 200), len(mass))
        assert found.value > 0.25
        assert size_floor(seen, counts / 100, 100, effective_size(mass).overall).p_value <= DRIFT_P
