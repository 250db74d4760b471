"""Rows of ``bin_assignments`` as ``measure`` reads them, from as little as a test wants to say."""

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl

from evalflow.core.divergence import jsd

WEEK = date(2026, 6, 22)
"""A Monday; its window begins on 2026-06-01."""


def production(
    bins: Sequence[str],
    weight: Sequence[float] | np.ndarray | None = None,
    session: Sequence[str | None] = (),
    traffic: Sequence[float] | np.ndarray | None = None,
    day: Sequence[date] = (),
    previous: Sequence[str] = (),
) -> pl.DataFrame:
    """One row per trace; of equal weight, a session of its own and of the week's Monday where nothing else is said."""
    n = len(bins)
    each = np.full(n, 1.0) if weight is None else np.asarray(weight, dtype=float)
    each = each / each.sum() if each.sum() else each
    of_traffic = each if traffic is None else np.asarray(traffic, dtype=float) / np.sum(traffic)
    return pl.DataFrame(
        {
            "item_id": [f"t{i}" for i in range(n)],
            "session_id": list(session) or [None] * n,
            "day": list(day) or [WEEK] * n,
            "bin": list(bins),
            "previous_bin": list(previous) or [None] * n,
            "weight": each,
            "weight_traffic": of_traffic,
        },
        schema_overrides={
            **dict.fromkeys(("item_id", "session_id", "bin", "previous_bin"), pl.String),
            **dict.fromkeys(("weight", "weight_traffic"), pl.Float64),
            "day": pl.Date,
        },
    )


def golden(
    bins: Sequence[str],
    day: date = date(2026, 6, 1),
    weight: Sequence[float] = (),
    session: Sequence[str | None] = (),
    origin: str = "hand-authored",
    is_random_draw: bool = False,
    previous: Sequence[str] = (),
) -> pl.DataFrame:
    """One row per case."""
    n = len(bins)
    return pl.DataFrame(
        {
            "item_id": [f"g{i}-{day}" for i in range(n)],
            "session_id": list(session) or [None] * n,
            "bin": list(bins),
            "previous_bin": list(previous) or [None] * n,
            "day": [day] * n,
            "case_weight": list(weight) or [1.0] * n,
            "origin": [origin] * n,
            "is_random_draw": [is_random_draw] * n,
        },
        schema_overrides={
            **dict.fromkeys(("item_id", "session_id", "bin", "previous_bin", "origin"), pl.String),
            "day": pl.Date,
            "case_weight": pl.Float64,
            "is_random_draw": pl.Boolean,
        },
    )


def shares(rng: np.random.Generator, k: int) -> np.ndarray:
    """Traffic shares of k bins, the largest some twenty times the smallest, in random order."""
    p = np.arange(1, k + 1) ** -0.7
    return np.asarray(rng.permutation(p / p.sum()))


def clustered_mass(rng: np.random.Generator, p: np.ndarray, n_sessions: int = 2000) -> np.ndarray:
    """A sample of sessions of 1 to 6 turns that mostly keep to one bin, of unequal weight: mass (sessions, k), sum one."""
    k = len(p)
    turns = np.minimum(1 + rng.poisson(1.2, n_sessions), 6)
    topic = rng.choice(k, n_sessions, p=p)
    session = np.repeat(np.arange(n_sessions), turns)
    n = len(session)
    own = np.where(rng.random(n) < 0.6, topic[session], rng.choice(k, n, p=p))
    weight = rng.choice([1.0, 3.0], n, p=[0.8, 0.2])
    mass = np.bincount(session * k + own, weights=weight, minlength=n_sessions * k).reshape(n_sessions, k)
    return np.asarray(mass / mass.sum())


def moved(rng: np.random.Generator, p: np.ndarray, distance: float) -> np.ndarray:
    """A mass at the given Jensen-Shannon divergence from p, towards p in another order, made steeper until it lies beyond."""
    order = rng.permutation(len(p))
    other = p[order]
    while jsd(p, other) < distance:
        other = other**1.5 / (other**1.5).sum()
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if jsd(p, p + middle * (other - p)) < distance else (low, middle)
    return np.asarray(p + low * (other - p))
