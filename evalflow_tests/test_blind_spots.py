"""Blind spots: how much a sample is worth, and that a suite is called blind where it is and hardly ever where it is not."""

from collections.abc import Sequence
from math import log

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from evalflow.core.blind_spots import find_blind_spots, too_few_p
from evalflow.core.coverage import Coverage, Limits, measure
from evalflow.core.inference import effective_size, effective_traces
from evalflow_tests.windows import WEEK, production
from evalflow_tests.windows import golden as cases_in

K = 50
N_TRACES = 3_230
"""What four weeks of sampled traffic are worth (docs/methods.md, section 1: 9,000 traces in sessions)."""
NAMES = [f"c{i:02d}" for i in range(K)]
LABELS = {name: f"label of {name}" for name in NAMES}


def golden(counts: Sequence[int]) -> pl.DataFrame:
    """So many cases in each of NAMES."""
    return cases_in(np.repeat(NAMES[: len(counts)], counts).tolist())


def measured(of_production: pl.DataFrame, of_golden: pl.DataFrame) -> Coverage:
    never = Limits(jsd_threshold=1.0, stale_days=10_000)
    return measure(of_production, of_golden, LABELS, "traffic", never, WEEK)


def blind_bins(traces: np.ndarray, cases: np.ndarray) -> set[str]:
    """The bins that a suite is blind in, from counts of independent traces and of cases in each."""
    mass = np.repeat(np.eye(K), traces, axis=0) / traces.sum()
    found = find_blind_spots(cases, traces / traces.sum(), effective_size(mass))
    return {name for name, is_blind in zip(NAMES, found.is_blind, strict=True) if is_blind}


def blind(coverage: Coverage) -> set[str]:
    return {row.bin for row in coverage.bins if row.is_blind_spot}


def traffic(rng: np.random.Generator, hole: float = 0.0) -> np.ndarray:
    """Shares of K bins, the largest about ten times the median; the last bin has the share ``hole`` where one is given."""
    share = rng.lognormal(0, 1, K)
    if hole:
        share[-1] = share[:-1].sum() * hole / (1 - hole)
    return share / share.sum()


def drawn(rng: np.random.Generator, share: np.ndarray) -> np.ndarray:
    """Traces in each bin."""
    return np.asarray(rng.multinomial(N_TRACES, share))


# -- how many independent traces a sample is worth ------------------------------------------------------------


def clustered(rng: np.random.Generator) -> pl.DataFrame:
    """400 sessions of 1 to 8 turns; three turns of four keep to the session's topic; weights differ by up to ten times."""
    bins: list[str] = []
    sessions: list[str] = []
    for number in range(400):
        topic = rng.choice(6, p=[0.3, 0.25, 0.2, 0.12, 0.08, 0.05])
        for _ in range(rng.integers(1, 9)):
            bins.append(NAMES[topic if rng.random() < 0.75 else rng.integers(6)])
            sessions.append(f"s{number}")
    weight = 1 / rng.uniform(0.1, 1.0, 400)[[int(name[1:]) for name in sessions]]
    return production(bins, weight, sessions)


def test_effective_traces_are_what_a_bootstrap_of_sessions_finds() -> None:
    """p(1-p) / var, the variance over 4,000 resamples of whole sessions.

    A variance from 4,000 replicates has a relative sd of sqrt(2 / 4000) = 2.2 %, so the worst of six bins lies within
    about 6 %; the linearised variance leaves out a part of second order, here of about 1 %.
    """
    rng = np.random.default_rng(1)
    sample = clustered(rng)
    names = pl.Series(NAMES[:6])
    mass = np.zeros((400, 6))
    for row in sample.iter_rows(named=True):
        mass[int(row["session_id"][1:]), NAMES.index(row["bin"])] += row["weight"]
    totals = rng.multinomial(400, np.full(400, 1 / 400), size=4_000) @ mass
    shares = totals / totals.sum(axis=1, keepdims=True)
    spread = mass.sum(axis=0) * (1 - mass.sum(axis=0))
    found = effective_traces(sample, names)
    assert found.by_bin == pytest.approx(spread / shares.var(axis=0), rel=0.10)
    assert found.overall == pytest.approx(spread.sum() / shares.var(axis=0).sum(), rel=0.06)
    assert found.overall < 0.5 * len(sample), "sessions that keep to a topic are worth less than their traces"


@given(st.lists(st.integers(1, 30), min_size=2, max_size=8))
def test_independent_traces_of_equal_weight_are_worth_themselves_less_one(counts: list[int]) -> None:
    """Each of n residuals is (x - p) / n: var(p) = n / (n - 1) * p(1-p) / n = p(1-p) / (n - 1)."""
    n = sum(counts)
    found = effective_traces(
        production(np.repeat(NAMES[: len(counts)], counts).tolist()), pl.Series(NAMES[: len(counts)])
    )
    assert found.overall == pytest.approx(n - 1)
    assert found.by_bin == pytest.approx(np.full(len(counts), n - 1))


@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.integers(2, 7))
def test_a_session_of_one_topic_is_worth_one_trace_however_long(counts: list[int], turns: int) -> None:
    """Sessions of equal length, each wholly in one bin, move as one: the traces' n - 1 becomes the sessions'."""
    n = sum(counts)
    bins = np.repeat(np.repeat(NAMES[: len(counts)], counts), turns).tolist()
    sessions = np.repeat([f"s{i}" for i in range(n)], turns).tolist()
    found = effective_traces(production(bins, session=sessions), pl.Series(NAMES[: len(counts)]))
    assert found.overall == pytest.approx(n - 1)
    assert effective_traces(production(bins), pl.Series(NAMES[: len(counts)])).overall == pytest.approx(n * turns - 1)


def test_unequal_weights_are_worth_less() -> None:
    """A weight of 9 among 9 of weight 1: shares 1/2 (one trace) and 1/2 (nine of them, weight 1/18 each).

    Residuals of the first bin: 1/2 (1 - 1/2) = 1/4 once and -1/36 nine times: 1/16 + 9/1296 = 5/72. Times 10/9:
    var = 25/324; m = (1/4) / (25/324) = 3.24.
    """
    sample = production(["c00"] + ["c01"] * 9, np.array([9.0] + [1.0] * 9))
    assert effective_traces(sample, pl.Series(["c00", "c01"])).overall == pytest.approx(3.24)


def test_no_sample_is_worth_nothing() -> None:
    found = effective_traces(production(["c00"]).clear(), pl.Series(["c00"]))
    assert (found.overall, found.by_bin.tolist()) == (0.0, [0.0])


@pytest.mark.parametrize("n", [1, 3, 4, 7, 13, 49, 300, 1000])
def test_traffic_of_a_single_bin_is_worth_its_sessions_whatever_its_weights_round_to(n: int) -> None:
    """Nothing varies, so no variance can tell; n sessions are what there is, not 1e16 and not less than none."""
    found = effective_traces(production(["c00"] * n), pl.Series(["c00", "c01"]))
    assert found.overall == pytest.approx(n)
    assert found.by_bin == pytest.approx([n, n])


@pytest.mark.parametrize("n", [10, 23, 100])
def test_sessions_that_are_all_alike_are_worth_no_more_than_their_number(n: int) -> None:
    """Each session holds one turn of either bin: the shares do not vary between sessions, but for rounding."""
    bins, sessions = ["c00", "c01"] * n, np.repeat([f"s{i}" for i in range(n)], 2).tolist()
    weight = np.repeat(np.random.default_rng(n).uniform(0.1, 1, n), 2)
    found = effective_traces(production(bins, weight, sessions), pl.Series(["c00", "c01"]))
    assert found.overall <= 2 * n
    assert (found.by_bin <= 2 * n).all()


@pytest.mark.parametrize("n", [10, 49, 98, 107])
def test_a_window_of_a_single_bin_is_measured(n: int) -> None:
    """1/49 added up 49 times lies off 1 in the last bit: that must not make a share of more than everything."""
    coverage = measured(production(["c00"] * n), golden([5]))
    (row,) = coverage.bins
    assert coverage.jsd == pytest.approx(0.0, abs=1e-12)
    assert not row.is_blind_spot
    assert 0.5 < row.production_share_low < 1


# -- the test behind a blind spot -----------------------------------------------------------------------------


def holm(single: Sequence[float]) -> list[float]:
    """Holm's step-down as in a textbook: the smallest p times k, the next times k - 1, never falling, at most 1."""
    adjusted = [0.0] * len(single)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(single)), key=lambda i: single[i])):
        highest = max(highest, min(1.0, single[i] * (len(single) - rank)))
        adjusted[i] = highest
    return adjusted


@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 60)), min_size=1, max_size=12))
def test_too_few_p_is_fishers_exact_test_after_holm(counts: list[tuple[int, int]]) -> None:
    cases, traces = np.array([a for a, _ in counts]), np.array([b for _, b in counts])
    n, m = int(cases.sum()), int(traces.sum())
    found = too_few_p(cases, traces / max(m, 1), float(m))
    if not n or not m:
        assert found.tolist() == [1.0] * len(counts)
        return
    single = [fisher_exact([[a, n - a], [b, m - b]], alternative="less").pvalue for a, b in counts]
    assert found == pytest.approx(holm(single), rel=1e-6, abs=1e-12)


def test_too_few_p_of_a_worked_example() -> None:
    """Cases (0, 4), traces (4, 4). P(no case among the 4 of bin 1, drawing 4 of 12) = C(8,4) / C(12,4) = 70 / 495.

    Bin 2 has all four cases: p = 1. Holm: 2 x 70/495 = .28283, then 1.
    """
    assert too_few_p(np.array([0, 4]), np.array([0.5, 0.5]), 8.0) == pytest.approx([140 / 495, 1.0])


def test_the_smallest_visible_hole_is_where_the_test_begins_to_see() -> None:
    """K (1 - h)^n = .01 at about h = ln(K / .01) / n: an empty bin a little above it is seen, one well below it is not."""
    n, hole = 200, log(K / 0.01) / 200
    assert hole == pytest.approx(0.0426, abs=1e-4)
    others = np.full(K - 1, 1 / (K - 1))
    cases = np.concatenate([[0], np.full(K - 1, n // (K - 1))])
    cases[1] += n - cases.sum()
    for share, is_seen in ((1.05 * hole, True), (0.85 * hole, False)):
        p = too_few_p(cases, np.concatenate([[share], (1 - share) * others]), 100_000.0)
        assert (p[0] <= 0.01) == is_seen


@pytest.mark.parametrize(
    ("n_bins", "n", "expected"), [(2, 40, log(200) / 40), (50, 400, log(5000) / 400), (50, 120, 0.05), (50, 5, None)]
)
def test_the_smallest_visible_hole_is_said_where_there_is_one(n_bins: int, n: int, expected: float | None) -> None:
    """From a hundred cases on an empty bin of surely 5 % is blind by its own rule; five cases can show nothing."""
    counts = np.bincount(np.arange(n) % n_bins, minlength=n_bins).tolist()
    coverage = measured(production(NAMES[:n_bins] * 3), golden(counts))
    assert coverage.smallest_visible_hole == (None if expected is None else pytest.approx(expected))


# -- what is called blind -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [100, 200])
def test_random_suites_are_hardly_ever_called_blind(n: int) -> None:
    """Measured for docs/methods.md: 0 to .8 %. At .8 % 300 suites give more than 6 (2 %) with a chance of 1.3 %."""
    n_blind = 0
    rng = np.random.default_rng(n)
    for _ in range(300):
        share = traffic(rng)
        n_blind += bool(blind_bins(drawn(rng, share), rng.multinomial(n, share)))
    assert n_blind <= 6


@pytest.mark.parametrize(("hole", "n"), [(0.07, 100), (0.05, 200), (0.03, 400)])
def test_a_planted_hole_is_found_nearly_always(hole: float, n: int) -> None:
    """A hole may still slip through where the sample happens to hold too little of it: 95 of 100 is asked for."""
    n_found = n_false = 0
    rng = np.random.default_rng(n)
    for _ in range(100):
        share = traffic(rng, hole)
        tested = np.append(share[:-1] / share[:-1].sum(), 0.0)
        found = blind_bins(drawn(rng, share), rng.multinomial(n, tested))
        n_found += NAMES[-1] in found
        n_false += bool(found - {NAMES[-1]})
    assert n_found >= 95
    assert n_false <= 5


def even_window(hole_traces: int, hole_cases: int, n: int) -> Coverage:
    """3,000 traces and n cases, spread evenly over 49 bins but for what lies in the last one."""
    in_bin = np.append(np.bincount(np.arange(3000 - hole_traces) % (K - 1), minlength=K - 1), hole_traces)
    cases = np.append(np.bincount(np.arange(n - hole_cases) % (K - 1), minlength=K - 1), hole_cases)
    return measured(production(np.repeat(NAMES, in_bin).tolist()), golden(cases.tolist()))


def test_an_empty_bin_of_surely_five_percent_is_blind_in_any_suite_of_a_hundred() -> None:
    """7 % of 3,000 traces: Wilson's lower end is .0614, while chance leaves so large a bin empty with p > .01."""
    coverage = even_window(hole_traces=210, hole_cases=0, n=100)
    (row,) = [row for row in coverage.bins if row.bin == NAMES[-1]]
    assert row.production_share_low == pytest.approx(0.0614, abs=2e-4)
    assert row.blind_spot_p is not None
    assert 0.01 < row.blind_spot_p < 0.1
    assert blind(coverage) == {NAMES[-1]}
    assert blind(even_window(hole_traces=210, hole_cases=0, n=99)) == set(), (
        "in fewer than 100 cases chance may do that"
    )
    assert blind(even_window(hole_traces=210, hole_cases=1, n=100)) == set(), "one case is not none"
    # 5.5 %: the lower end is .0474
    assert blind(even_window(hole_traces=165, hole_cases=0, n=100)) == set(), "5 % is not sure"


def test_a_bin_far_below_its_due_is_blind_and_one_at_half_of_it_is_not() -> None:
    """20 % of traffic, 400 cases: 80 are due. With 39 and with 40 the test is sure (p < 1e-6); half of the due decides."""
    assert blind(even_window(hole_traces=600, hole_cases=39, n=400)) == {NAMES[-1]}
    assert blind(even_window(hole_traces=600, hole_cases=40, n=400)) == set()


def test_a_bin_below_one_percent_is_never_blind() -> None:
    """1.3 % of 3,000 traces: the lower end is .0095. 39 are due in 3,000 cases and none is there: chance is no excuse."""
    coverage = even_window(hole_traces=39, hole_cases=0, n=3000)
    (row,) = [row for row in coverage.bins if row.bin == NAMES[-1]]
    assert row.blind_spot_p == pytest.approx(0.0, abs=1e-6)
    assert row.production_share_low < 0.01
    assert row.is_uncovered
    assert not row.is_blind_spot


def test_few_sessions_make_no_blind_spot_however_many_traces() -> None:
    """30 sessions of a hundred turns, two of them in a bin without a case, 200 cases: nothing is known of 29 traces' worth.

    Two of 30 (Wilson from .018) against none of 200: about (29 / 229)^2 = .016 before Holm. As 3,000 single traces the
    same counts leave no doubt.
    """
    bins = np.repeat([*NAMES[:28], NAMES[-1], NAMES[-1]], 100).tolist()
    sessions = np.repeat([f"s{i}" for i in range(30)], 100).tolist()
    cases = np.bincount(np.arange(200) % 28, minlength=K).tolist()
    coverage = measured(production(bins, session=sessions), golden(cases))
    (row,) = [row for row in coverage.bins if row.bin == NAMES[-1]]
    assert coverage.m_eff == pytest.approx(29)
    assert row.production_share_low > 0.01
    assert blind(coverage) == set()
    assert blind(measured(production(bins), golden(cases))) == {NAMES[-1]}


def test_without_a_suite_nothing_is_blind() -> None:
    coverage = measured(production(NAMES * 20), golden([]))
    assert blind(coverage) == set()
    assert {row.blind_spot_p for row in coverage.bins} == {None}
    assert coverage.smallest_visible_hole is None
    assert coverage.alarms == ()


def test_without_traffic_nothing_is_blind() -> None:
    coverage = measured(production(["c00"]).clear(), golden([5, 5]))
    assert blind(coverage) == set()
    assert (coverage.m_eff, coverage.smallest_visible_hole, coverage.alarms) == (0.0, None, ())


def test_a_blind_spot_raises_an_alarm_that_says_what_is_missing() -> None:
    """20 % of 400 cases are 80."""
    (alarm,) = [alarm for alarm in even_window(hole_traces=600, hole_cases=3, n=400).alarms if alarm.bin]
    assert (alarm.kind, alarm.bin, alarm.limit) == ("blind_spot", NAMES[-1], 0.01)
    assert alarm.value == pytest.approx(0.2)
    assert alarm.text == "blind spot: label of c49 is 20.0% of traffic and 3 of 400 cases, where 80 would be due"
