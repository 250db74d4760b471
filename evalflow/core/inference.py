"""How sure a JSD is: what sampling adds to it, what a random suite of the same size would show, what it was drawn from.

Production is a sample of sessions, so everything about its noise resamples sessions; the golden cases are what they
are. Source: docs/methods.md, "Inference". Keep out: what is done about it (``alarms.py``, ``blind_spots.py``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from evalflow.core.divergence import jsd_of

SEED = 7
BOOTSTRAPS = 1000
"""Resamples of sessions: the standard deviation is then known to 2 %."""
FLOOR_DRAWS = 2000
"""Random suites behind the size floor's mean and centiles."""
MOST_DRAWS = 9_999
"""Random suites behind a p-value, at most: enough to say .001 and a tenth of it."""
SETTLED_EXCEEDANCES = 40
"""After so many random suites at least as far off, a p-value is far from every limit and more draws say nothing new."""
MOST_CASES = 50_000
"""No suite is larger, so that a size beyond it is no advice."""
INVERSION_STEPS, INVERSION_DRAWS = 21, 400
"""Points along a path of sources, and random suites at each, of the interval by test inversion."""
INVERSION_TAILS = (0.015, 0.985)
"""A little wider than 95 %, since the true source lies on neither path."""
FARTHEST_ON_LINE, FARTHEST_TILT = 2.0, 3.0
"""Where the paths end: twice as far as the suite itself; three standard deviations of log share."""
Z = 1.959964
ROUNDING = 1e-24
"""A variance below this is rounding: weights are exact to 1e-16 of a mass of one."""


class EffectiveTraces(NamedTuple):
    """How many independent traces a weighted sample is worth: ``overall``, and ``by_bin`` (k,) for each bin's share."""

    overall: float
    by_bin: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval and standard deviation; the last three None where one session is all there is."""

    value: float
    low: float | None
    high: float | None
    sd: float | None


@dataclass(frozen=True)
class SizeFloor:
    """What random suites of the same size show: mean and 95th centile of raw JSD, and how rarely one is as far off."""

    mean: float
    p95: float
    p_value: float


@dataclass(frozen=True)
class UncoveredFloor:
    """Traffic share without a case that random suites of the same size leave: mean and 99th centile."""

    mean: float
    p99: float


def session_mass(production: pl.DataFrame, bins: pl.Series, weight: str = "weight", bin: str = "bin") -> np.ndarray:
    """The mass of each session in each bin, shape (sessions, k); a trace without a session is one of its own.

    Sessions without weight say nothing and are left out.

    Args:
        production: ``item_id``, ``session_id``, the columns named by ``bin`` and ``weight``.
        bins: the bins in the order of the columns.
    """
    names = production["session_id"].fill_null(production["item_id"]).to_numpy().astype(str)
    sessions, session = np.unique(names, return_inverse=True)
    column = {name: i for i, name in enumerate(bins)}
    cell = session * len(bins) + np.array([column[name] for name in production[bin]], dtype=int)
    mass = np.bincount(cell, weights=production[weight].to_numpy(), minlength=len(sessions) * len(bins))
    mass = mass.reshape(len(sessions), len(bins))
    return np.asarray(mass[mass.sum(axis=1) > 0])


def share_variance(mass: np.ndarray) -> np.ndarray:
    """The linearised variance of each bin's Hajek share with sessions as the independent units, shape (k,).

    n / (n - 1) sum_s (mass_sk - mass_s share_k)^2 over a total mass of one; what a bootstrap of sessions estimates.
    """
    total = mass.sum()
    if total <= 0:
        return np.zeros(mass.shape[1])
    mass = mass / total
    n = len(mass)
    residual = mass - mass.sum(axis=1, keepdims=True) * mass.sum(axis=0)
    variance = (residual**2).sum(axis=0) * (n / (n - 1) if n > 1 else 1.0)
    variance[variance < ROUNDING] = 0.0  # shares that do not vary between sessions, but for their last bits
    return np.asarray(variance)


def effective_traces(production: pl.DataFrame, bins: pl.Series) -> EffectiveTraces:
    """``effective_size`` of rows that are not gathered by session yet."""
    if production.is_empty():
        return EffectiveTraces(0.0, np.zeros(len(bins)))
    return effective_size(session_mass(production, bins))


def effective_size(mass: np.ndarray) -> EffectiveTraces:
    """Effective sample sizes of the bins' shares: m_k = p_k (1 - p_k) / var(p_k); overall sum over sum.

    Args:
        mass: shape (sessions, k), as ``session_mass`` gives it.
    """
    n, total = len(mass), float(mass.sum())
    if total <= 0:
        return EffectiveTraces(0.0, np.zeros(mass.shape[1]))
    share = mass.sum(axis=0) / total
    variance = share_variance(mass)
    spread = np.maximum(share * (1 - share), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_bin = np.where(variance > 0, spread / variance, float(n))
    return EffectiveTraces(float(spread.sum() / variance.sum()) if variance.sum() > 0 else float(n), by_bin)


def bootstrap_shares(mass: np.ndarray, n_draws: int = BOOTSTRAPS) -> np.ndarray:
    """Bin shares of ``n_draws`` resamples of the sessions, shape (draws, k)."""
    chance = np.random.default_rng(SEED)
    n = len(mass)
    shares = np.empty((n_draws, mass.shape[1]))
    step = max(1, 4_000_000 // max(n, 1))  # so many draws at a time, for the sake of memory
    for start in range(0, n_draws, step):
        size = min(step, n_draws - start)
        drawn = chance.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        shares[start : start + size] = times @ mass
    total = shares.sum(axis=1, keepdims=True)
    return shares[total[:, 0] > 0] / total[total[:, 0] > 0]


def headline(p: np.ndarray, q: np.ndarray, resampled: np.ndarray, n_sessions: int) -> Estimate:
    """The JSD of the suite as it is: what raw JSD would be had all of the traffic been sampled.

    Only production is a sample, and its noise adds to raw JSD; the bootstrap shows by how much, once more:
    2 raw - mean(bootstrap raw), +- 1.96 bootstrap standard deviations, within [0, 1].

    Args:
        p: bin shares of production, (k,); q: of the suite, (k,).
        resampled: bin shares of resampled sessions, (draws, k).
        n_sessions: without two sessions there is no interval.
    """
    raw = float(jsd_of(p, q))
    drawn = jsd_of(resampled, q)
    value = min(max(2 * raw - float(drawn.mean()), 0.0), 1.0)
    if n_sessions < 2:
        return Estimate(raw, None, None, None)
    sd = float(drawn.std(ddof=1))
    return Estimate(value, max(0.0, value - Z * sd), min(1.0, value + Z * sd), sd)


def size_floor(p: np.ndarray, q: np.ndarray, n: int, m_eff: float) -> SizeFloor:
    """Raw JSD of random suites: n cases and ``m_eff`` traces drawn from the pooled mass of both sides.

    The p-value is that of a test whether suite and traffic are drawn from one distribution: (1 + exceedances) /
    (1 + draws), with up to 9,999 draws, fewer where it is settled before.
    """
    chance = np.random.default_rng(SEED)
    m = max(1, round(m_eff))
    pooled = _exact((n * q + m * p) / (n + m))
    raw = float(jsd_of(p, q))
    drawn = _random_raw(chance, pooled, pooled, n, m, FLOOR_DRAWS)
    exceeding, draws = int((drawn >= raw).sum()), len(drawn)
    while exceeding < SETTLED_EXCEEDANCES and draws < MOST_DRAWS:
        more = _random_raw(chance, pooled, pooled, n, m, min(FLOOR_DRAWS, MOST_DRAWS - draws))
        exceeding, draws = exceeding + int((more >= raw).sum()), draws + len(more)
    return SizeFloor(float(drawn.mean()), float(np.quantile(drawn, 0.95)), (1 + exceeding) / (1 + draws))


def cases_to_settle(p: np.ndarray, q: np.ndarray, n: int, m_eff: float, p_limit: float) -> int | None:
    """About how many cases it takes until the same raw JSD can no longer be the doing of a small suite.

    The least size, to two digits, at which fewer than ``p_limit`` of random suites are as far off; None where no size
    is enough, because the sample of production is too small itself.
    """
    m = max(1, round(m_eff))
    raw = float(jsd_of(p, q))

    def is_settled(size: int) -> bool:
        pooled = _exact((n * q + m * p) / (n + m))
        drawn = _random_raw(np.random.default_rng(SEED), pooled, pooled, size, m, FLOOR_DRAWS)
        return float((drawn >= raw).mean()) < p_limit

    low, high = n, 2 * n
    while not is_settled(high):
        if high > MOST_CASES:
            return None
        low, high = high, 2 * high
    while high - low > max(1, 10 ** (len(str(low)) - 2)):
        middle = (low + high) // 2
        low, high = (low, middle) if is_settled(middle) else (middle, high)
    return high


def uncovered_floor(p: np.ndarray, n: int) -> UncoveredFloor:
    """Share of traffic in bins without a case, in suites of n cases drawn from the traffic itself."""
    chance = np.random.default_rng(SEED)
    left = (chance.multinomial(n, _exact(p), FLOOR_DRAWS) == 0) @ p
    return UncoveredFloor(float(left.mean()), float(np.quantile(left, 0.99)))


class Jackknifed(NamedTuple):
    """The jackknife's estimate of the source JSD, not yet cut at 0, and its standard error."""

    value: float
    se: float


def jackknife(p: np.ndarray, families: np.ndarray, resampled: np.ndarray) -> Jackknifed:
    """The JSD of what the cases were drawn from: n J - (n - 1) mean J(-i), less what the sampling of production adds.

    The standard error holds both: the jackknife's own and the bootstrap's of production. Arguments as of
    ``source_estimate``.
    """
    n = len(families)
    counts = families.sum(axis=0)
    kinds, times = np.unique(families, axis=0, return_counts=True)
    raw = float(jsd_of(p, counts))
    without = jsd_of(p, counts - kinds)
    mean_without = float(np.average(without, weights=times))
    of_production = jsd_of(resampled, counts)
    value = n * raw - (n - 1) * mean_without - (float(of_production.mean()) - raw)
    variance = (n - 1) / n * float((times * (without - mean_without) ** 2).sum())
    return Jackknifed(value, float(np.sqrt(variance + of_production.var(ddof=1))))


def source_estimate(p: np.ndarray, families: np.ndarray, m_eff: float, resampled: np.ndarray) -> Estimate:
    """How unlike the traffic is the process that the cases were *drawn* from at random?

    The jackknife over families of cases (those of one session; a case alone is its own). Interval: the hull of +- 1.96
    standard errors and of test inversions along two paths from p through q. Below n = 2 k the value is up to .05 too high.

    Args:
        p: bin shares of production, (k,).
        families: cases of each family in each bin, (n, k), n >= 2.
        m_eff, resampled: the noise of production, see ``effective_size`` and ``bootstrap_shares``.
    """
    found = jackknife(p, families, resampled)
    counts, n = families.sum(axis=0), len(families)
    q, m, raw = counts / counts.sum(), max(1, round(m_eff)), float(jsd_of(p, counts))
    paths = ((_line(p, q), FARTHEST_ON_LINE), (_tilt(p, q), FARTHEST_TILT))
    ends = [found.value - Z * found.se, found.value + Z * found.se]
    for path, farthest in paths:
        ends += _inverted(p, path, farthest, n, m, raw)
    return Estimate(min(max(found.value, 0.0), 1.0), max(0.0, min(ends)), min(1.0, max(ends)), found.se)


Path = Callable[[float], np.ndarray]


def _inverted(p: np.ndarray, path: Path, farthest: float, n: int, m: int, raw: float) -> list[float]:
    """The JSDs along a path of sources between which a random suite of n cases is neither too near nor too far for ``raw``.

    None at all where the path never gets as far as ``raw``.
    """
    steps = np.linspace(0.0, farthest, INVERSION_STEPS)
    truth, near, far = np.zeros(len(steps)), np.empty(len(steps)), np.empty(len(steps))
    for i, t in enumerate(steps):
        source = _exact(path(t))
        drawn = _random_raw(np.random.default_rng(SEED), _exact(p), source, n, m, INVERSION_DRAWS)
        truth[i] = jsd_of(p, source) if t else 0.0  # but for its last bits
        near[i], far[i] = np.quantile(drawn, INVERSION_TAILS)
    if far.max() < raw:
        return []
    low = _crossing(steps, far, raw) if far[0] < raw else 0.0
    high = _crossing(steps, near, raw) if near[-1] > raw else farthest
    accepted = np.append(truth[(near <= raw) & (raw <= far)], np.interp([low, high], steps, truth))
    return [float(accepted.min()), float(accepted.max())]


def _line(p: np.ndarray, q: np.ndarray) -> Path:
    """From the traffic towards the suite and beyond it, bins without a case losing first."""
    return lambda t: np.maximum(p + t * (q - p), 0.0)


def _tilt(p: np.ndarray, q: np.ndarray) -> Path:
    """The same direction with every bin kept: each share times exp(t z), z the normal score of its residual's rank.

    A suite of few cases leaves bins empty whose source is not; such a source shows more by chance than one on the line.
    """
    from scipy.special import ndtri

    residual = (q - p) / np.sqrt(np.maximum(p, 1e-12))
    score = ndtri((np.argsort(np.argsort(residual, kind="stable"), kind="stable") + 0.5) / len(p))
    return lambda t: p * np.exp(t * score)


def _crossing(steps: np.ndarray, values: np.ndarray, level: float) -> float:
    """Where a rising curve first reaches ``level``."""
    above = int(np.argmax(values >= level)) if (values >= level).any() else len(values) - 1
    if above == 0:
        return float(steps[0])
    share = (level - values[above - 1]) / max(values[above] - values[above - 1], 1e-12)
    return float(steps[above - 1] + min(max(share, 0.0), 1.0) * (steps[above] - steps[above - 1]))


def _random_raw(chance: np.random.Generator, p: np.ndarray, q: np.ndarray, n: int, m: int, draws: int) -> np.ndarray:
    """Raw JSD of ``draws`` pairs: m traces from p, n cases from q."""
    return jsd_of(chance.multinomial(m, p, draws) / m, chance.multinomial(n, q, draws) / n)


def _exact(mass: np.ndarray) -> np.ndarray:
    """A mass as numpy's multinomial wants it: its sum may not exceed one by a rounding."""
    mass = mass / mass.sum()
    return np.asarray(mass / max(mass.sum(), 1.0))
