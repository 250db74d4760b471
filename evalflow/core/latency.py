"""How long from a failure to the gate that keeps it from coming back, with the failures that still wait taken in.

The cases that have arrived are the fast ones: their median alone flatters. Kaplan-Meier counts those that wait as
"longer than so far". Source: docs/methods.md, "Ledger".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Z95 = 1.959963984540054
HALF, QUARTERS, TENTH = 0.5, (0.25, 0.75), 0.9


class Interval(NamedTuple):
    """A figure with its 95 % interval; an end is None where the data do not reach that far."""

    value: float
    low: float | None
    high: float | None


class Quantiles(NamedTuple):
    """Of ``n`` values; all None where there are none."""

    n: int
    p25: float | None
    median: float | None
    p75: float | None
    p90: float | None


@dataclass(frozen=True)
class Curve:
    """The share still waiting after each of ``days`` (k,), at which something arrived, with its interval.

    ``followed``: the longest time that anything was watched.
    """

    days: np.ndarray
    waiting: np.ndarray
    low: np.ndarray
    high: np.ndarray
    followed: float
    n: int
    n_arrived: int


class Waiting(NamedTuple):
    """Days from failure to gate with what still waits taken in; a quantile is None while too few have arrived."""

    n: int
    n_arrived: int
    p25: float | None
    median: Interval | None
    p75: float | None
    p90: float | None
    within: Interval | None


def waiting_times(days: Sequence[float], has_arrived: Sequence[bool], within_days: float) -> Waiting:
    """Kaplan-Meier over all failures: quantiles of the days to the gate, and the share that is there in time.

    Args:
        days: shape (n,), from failure to gate, or to now where it still waits; not negative.
        has_arrived: shape (n,), whether the case is in the gate.
        within_days: the promise that ``within`` is the share of.

    Raises:
        ValueError: a time is negative.
    """
    curve = kaplan_meier(days, has_arrived)
    return Waiting(
        curve.n,
        curve.n_arrived,
        _days_until(curve, curve.waiting, QUARTERS[0]),
        _median(curve),
        _days_until(curve, curve.waiting, QUARTERS[1]),
        _days_until(curve, curve.waiting, TENTH),
        share_within(curve, within_days),
    )


def kaplan_meier(days: Sequence[float], has_arrived: Sequence[bool]) -> Curve:
    """The product-limit estimate S(t) = Π (1 − d_i / n_i), d_i of n_i arriving at t_i, with log-log Greenwood intervals.

    What stops being watched at t_i counts among n_i. Without an arrival the curve has no step.
    """
    times, arrived = np.asarray(days, dtype=float), np.asarray(has_arrived, dtype=bool)
    if (times < 0).any():
        raise ValueError("a waiting time is negative")
    steps, arriving = np.unique(times[arrived], return_counts=True)
    at_risk = (len(times) - np.searchsorted(np.sort(times), steps, side="left")).astype(float)
    waiting = np.cumprod(1.0 - arriving / at_risk) if len(steps) else np.empty(0)
    low, high = _log_log(waiting, at_risk, arriving)
    followed = float(times.max()) if len(times) else 0.0
    return Curve(steps, waiting, low, high, followed, len(times), int(arrived.sum()))


def share_within(curve: Curve, days: float) -> Interval | None:
    """The share that is in the gate ``days`` after its failure; None where nothing was watched for so long."""
    reached = int(np.searchsorted(curve.days, days, side="right"))
    is_over = bool(len(curve.waiting)) and curve.waiting[-1] == 0.0
    if not curve.n or (curve.followed < days and not is_over):
        return None
    if not reached:
        return Interval(0.0, None, None)
    low, high = 1.0 - curve.high[reached - 1], 1.0 - curve.low[reached - 1]
    return Interval(1.0 - float(curve.waiting[reached - 1]), _known(low), _known(high))


def quantiles(values: Sequence[float]) -> Quantiles:
    """Quartiles, median and 90th percentile by linear interpolation."""
    if not len(values):
        return Quantiles(0, None, None, None, None)
    found = np.quantile(np.asarray(values, dtype=float), [QUARTERS[0], HALF, QUARTERS[1], TENTH])
    return Quantiles(len(values), *(float(value) for value in found))


def _log_log(waiting: np.ndarray, at_risk: np.ndarray, arriving: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S^exp(∓z se), se² = Σ d / (n (n − d)) / (log S)²; not a number where S is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(np.cumsum(arriving / (at_risk * (at_risk - arriving)))) / np.abs(np.log(waiting))
        low, high = waiting ** np.exp(Z95 * spread), waiting ** np.exp(-Z95 * spread)
    is_open = waiting > 0.0
    return np.where(is_open, low, np.nan), np.where(is_open, high, np.nan)


def _days_until(curve: Curve, bound: np.ndarray, share: float) -> float | None:
    """The first time at which at least ``share`` has arrived, by the estimate or by one end of its interval."""
    there = np.flatnonzero(bound <= 1.0 - share + 1e-12)
    return float(curve.days[there[0]]) if len(there) else None


def _median(curve: Curve) -> Interval | None:
    """The median with the times at which the interval of S(t) holds one half (Brookmeyer and Crowley 1982)."""
    value = _days_until(curve, curve.waiting, HALF)
    if value is None:
        return None
    return Interval(value, _days_until(curve, curve.low, HALF), _days_until(curve, curve.high, HALF))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
