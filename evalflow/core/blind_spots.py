"""Where the suite is blind: bins that surely hold traffic and have fewer cases than chance explains.

Source: docs/methods.md, "Blind spots" (Fisher's exact test; Holm 1979).
"""

import math
from dataclasses import dataclass

import numpy as np

from evalflow.core.inference import EffectiveTraces
from evalflow.core.intervals import wilson

BLIND_SPOT_SHARE = 0.01
"""A blind spot holds surely at least this share of traffic: the lower end of its share's 95 % interval."""
BLIND_SPOT_P = 0.01
"""So rarely may a random suite look blind somewhere, over all bins together."""
UNDER_TESTED = 0.5
"""A blind spot has fewer cases than this part of its due."""
EMPTY_BIN_SHARE, EMPTY_BIN_CASES = 0.05, 100
"""A bin of this share without a single case is blind in any suite of so many cases."""


@dataclass(frozen=True)
class BlindSpots:
    """Of each bin, all of shape (k,): the 95 % interval of its share, the adjusted p, and whether the suite is blind."""

    share_low: np.ndarray
    share_high: np.ndarray
    p_value: np.ndarray
    is_blind: np.ndarray


def find_blind_spots(cases: np.ndarray, share: np.ndarray, m_eff: EffectiveTraces) -> BlindSpots:
    """Hold the cases of each bin against its share of traffic.

    Args:
        cases, share: golden cases and shares of production, (k,).
        m_eff: how many independent traces the sample is worth.
    """
    n = int(cases.sum())
    within = [wilson(min(p, 1.0) * m, m) for p, m in zip(share, m_eff.by_bin, strict=True)]
    low = np.array([interval.low if p > 0 else 0.0 for p, interval in zip(share, within, strict=True)])
    adjusted = too_few_p(cases, share, m_eff.overall)
    is_short = (low >= BLIND_SPOT_SHARE) & (cases < UNDER_TESTED * share * n) & (adjusted <= BLIND_SPOT_P)
    is_empty = (low >= EMPTY_BIN_SHARE) & (cases == 0) & (n >= EMPTY_BIN_CASES)
    is_blind = (is_short | is_empty) if n else np.zeros(len(cases), dtype=bool)
    return BlindSpots(low, np.array([interval.high for interval in within]), adjusted, is_blind)


def smallest_visible_hole(n_bins: int, n_cases: int) -> float | None:
    """The traffic share from which an empty bin is told from chance; None where the suite is too small to show any.

    ln(n_bins / .01) / n_cases; a suite of a hundred also shows any empty bin of surely 5 %.
    """
    share = math.log(n_bins / BLIND_SPOT_P) / n_cases
    if n_cases >= EMPTY_BIN_CASES:
        share = min(share, EMPTY_BIN_SHARE)
    return share if share < 1 else None


def too_few_p(cases: np.ndarray, share: np.ndarray, m_eff: float) -> np.ndarray:
    """For each bin the chance that a random suite holds so few cases there, Holm-adjusted over the bins.

    Fisher's exact one-sided test of the cases against ``m_eff`` independent traces. Shapes (k,); 1 where a side is
    empty.
    """
    from scipy.stats import hypergeom  # half a second to load, which only a measured week needs

    n, m = int(cases.sum()), round(m_eff)
    if not n or not m:
        return np.ones(len(cases))
    traces = np.round(share * m).astype(int)
    return holm(hypergeom.cdf(cases, n + m, cases + traces, n))


def holm(p_values: np.ndarray) -> np.ndarray:
    """P-values adjusted for their number by Holm's step-down rule, shape (k,)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
