"""Intervals: Wilson's against scipy's own, its defining equation, and its edges."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from evalflow.core.intervals import CONFIDENCE, trials_to_tell, wilson


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 5000))
    return draw(st.integers(0, n)), n


@given(counts())
def test_wilson_is_what_scipy_computes(count: tuple[int, int]) -> None:
    theirs = binomtest(*count).proportion_ci(CONFIDENCE, method="wilson")
    assert wilson(*count) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(st.floats(0.5, 500), st.floats(0, 1))
def test_with_a_fractional_n_each_end_solves_the_score_equation(n: float, rate: float) -> None:
    """Wilson's ends are the p with (rate - p)^2 = z^2 p (1 - p) / n; an effective n need not be whole."""
    z = norm.ppf(0.975)
    for end in wilson(rate * n, n):
        assert (rate - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, abs=1e-9)


@given(counts())
def test_the_interval_holds_the_rate_and_stays_within_zero_and_one(count: tuple[int, int]) -> None:
    low, high = wilson(*count)
    assert 0 <= low <= count[0] / count[1] <= high <= 1


@given(counts())
def test_a_success_raises_both_ends_and_a_failure_lowers_them(count: tuple[int, int]) -> None:
    """Strictly: the gate's promise that leaving out failures cannot help, and adding them cannot either, rests on it."""
    successes, n = count
    here, success, failure = wilson(successes, n), wilson(successes + 1, n + 1), wilson(successes, n + 1)
    assert failure.low <= here.low <= success.low
    assert failure.high <= here.high <= success.high


def test_worked_examples() -> None:
    """10 of 10: low = n / (n + z^2) = 10 / 13.8415 = .7225. 0 of 10 is its mirror. 38 of 40 at 95 %:
    centre (38 + 1.9207) / 43.8415 = .91057, half 1.95996 sqrt(38 x 2 / 40 + .96036) / 43.8415 = .07561.
    """
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(38, 40) == pytest.approx((0.83496, 0.98618), abs=1e-4)


def test_nothing_at_all_says_nothing_and_the_ends_are_exact() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 7).low == 0.0
    assert wilson(7, 7).high == 1.0


@pytest.mark.parametrize(("successes", "n"), [(2, 1), (-1, 3), (0, -1), (nan, 1), (1, nan), (1, inf)])
def test_what_is_no_proportion_is_refused(successes: float, n: float) -> None:
    with pytest.raises(ValueError, match="are no proportion"):
        wilson(successes, n)


@given(st.floats(0, 1), st.floats(0.01, 0.99))
def test_so_many_trials_tell_and_fewer_do_not(rate: float, limit: float) -> None:
    if abs(rate - limit) < 1e-3:
        return
    n = trials_to_tell(rate, limit)
    more, fewer = wilson(rate * n * 1.01, n * 1.01), wilson(rate * n * 0.99, n * 0.99)
    assert not more.low < limit < more.high
    assert fewer.low < limit < fewer.high


def test_a_rate_at_the_limit_is_never_told_from_it() -> None:
    """.85 against .8: 3.8415 x .16 / .0025 = 245.9 trials."""
    assert trials_to_tell(0.85, 0.8) == pytest.approx(245.9, abs=0.05)
    assert trials_to_tell(0.8, 0.8) == inf
