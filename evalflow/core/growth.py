"""How the golden set grows beside traffic and failures, week by week, and whether the two go together.

Growth should be fastest when production is messiest. Source: docs/methods.md, "Ledger".
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from evalflow.core.latency import Z95

MIN_WEEKS = 12
"""Below so many weeks no association is given: a rank correlation of fewer says nothing at all."""
LAG_SHARE = 4
"""Autocorrelations up to a quarter of the weeks are taken into account."""


class Total(NamedTuple):
    """An estimated number of traces with its standard error."""

    value: float
    se: float


class Association(NamedTuple):
    """Spearman's rank correlation with its 95 % interval.

    ``n_effective``: how many independent weeks the ``n`` are worth, as neighbouring weeks resemble each other.
    """

    rho: float
    low: float
    high: float
    n: int
    n_effective: float


def estimated_total(probability: pl.Series, session: pl.Series) -> Total:
    """How many traces of the traffic the sampled ones stand for: Σ 1/π (Horvitz and Thompson 1952).

    The standard error takes the traces of a session as drawn together, which is the most that they can be:
    se² = Σ_sessions (Σ √(1 − π) / π)².

    Args:
        probability: shape (n,), each trace's chance of being in the sample.
        session: shape (n,), what is drawn together.
    """
    chance = probability.to_numpy()
    spread = np.sqrt(np.maximum(1.0 - chance, 0.0)) / chance
    _, place = np.unique(session.to_numpy(), return_inverse=True)
    together = np.bincount(place, weights=spread) if len(place) else np.zeros(0)
    return Total(float(np.sum(1.0 / chance)), float(np.sqrt(np.sum(together**2))))


def per_thousand(number: int, of: float | None) -> float | None:
    """None where there is nothing to divide by."""
    return 1000.0 * number / of if of else None


def rank_association(first: Sequence[float], second: Sequence[float]) -> Association | None:
    """Spearman's rho of two weekly series with an interval that knows that weeks resemble their neighbours.

        n_eff = n / max(1, 1 + 2 Σ_{k <= n/4} (1 − k/n) r_k s_k)
        tanh(artanh(rho) ± 1.96 · √((1 + rho²/2) / (n_eff − 3)))

    with r_k and s_k the autocorrelations of the two series of ranks. None for fewer than 12 weeks, for a series that
    does not vary, and where fewer than five effective weeks are left.
    """
    from scipy.stats import rankdata

    n = len(first)
    if n < MIN_WEEKS or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    ranks = [rankdata(series) - (n + 1) / 2 for series in (first, second)]
    rho = float(np.sum(ranks[0] * ranks[1]) / np.sqrt(np.sum(ranks[0] ** 2) * np.sum(ranks[1] ** 2)))
    shared = sum(
        (1 - lag / n) * _autocorrelation(ranks[0], lag) * _autocorrelation(ranks[1], lag)
        for lag in range(1, n // LAG_SHARE + 1)
    )
    n_effective = n / max(1.0, 1.0 + 2.0 * shared)
    if n_effective < 5:
        return None
    bounded = min(max(rho, -0.999), 0.999)
    spread = Z95 * float(np.sqrt((1 + bounded**2 / 2) / (n_effective - 3)))
    centre = float(np.arctanh(bounded))
    return Association(rho, float(np.tanh(centre - spread)), float(np.tanh(centre + spread)), n, n_effective)


def _autocorrelation(centred: np.ndarray, lag: int) -> float:
    return float(np.sum(centred[:-lag] * centred[lag:]) / np.sum(centred**2))
