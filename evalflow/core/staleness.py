"""Bins whose cases have grown old while their traffic grows. Source: docs/methods.md, "Staleness"."""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from evalflow.core.blind_spots import holm
from evalflow.core.calendar import DAYS_PER_WEEK
from evalflow.core.inference import session_mass, share_variance

HALF_WEEKS = 2
"""Growth is the window's last two weeks against the two before them: each weekday counts equally on both sides."""
GROWTH_P = 0.01
"""So rarely may a bin of steady traffic seem to grow, over all bins together."""
LEAST_GROWTH = 0.1
"""Growth by less than a tenth of a bin's share is nothing to act on, however sure."""


@dataclass(frozen=True)
class Growth:
    """Of each bin, shape (k,): change of its share from the first half of the window to the second, and whether it grows.

    ``change`` is NaN where one half holds no traffic.
    """

    change: np.ndarray
    is_growing: np.ndarray


def growth(production: pl.DataFrame, bins: pl.Series, week: date) -> Growth:
    """How the shares moved within the four-week window that ends with ``week``.

    Args:
        production: ``item_id``, ``session_id``, ``day``, ``bin``, ``weight``.
        bins: the bins in the order of the result.
    """
    from scipy.stats import norm

    second_half = week - timedelta(days=DAYS_PER_WEEK * (HALF_WEEKS - 1))
    is_later = production["day"] >= second_half
    halves = [production.filter(~is_later), production.filter(is_later)]
    if any(half.is_empty() or not half["weight"].sum() for half in halves):
        return Growth(np.full(len(bins), np.nan), np.zeros(len(bins), dtype=bool))
    masses = [session_mass(half, bins) for half in halves]
    before, after = (mass.sum(axis=0) / mass.sum() for mass in masses)
    change, variance = after - before, sum(share_variance(mass) for mass in masses)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(variance > 0, change / np.sqrt(variance), 0.0)
    is_growing = (holm(norm.sf(z)) <= GROWTH_P) & (change >= LEAST_GROWTH * before)
    return Growth(change, is_growing)
