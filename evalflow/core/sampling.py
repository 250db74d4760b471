"""Poisson sampling with permanent random numbers: one true inclusion probability per trace.

The uniform rule draws whole sessions by a number hashed from the session; every other rule draws single traces by
one second number that they all share, so their union has the largest of their probabilities:
``pi = 1 - (1 - pi_session) * (1 - max_r pi_r)``. No probability depends on a random number, and the same salt draws
the same traces everywhere. Source: docs/methods.md, "Sampling" (Ohlsson 1995 for permanent random numbers).
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import polars as pl

_HASH_BITS = 53  # what a float64 holds exactly


@dataclass(frozen=True)
class SamplingPlan:
    """The shares of a day's target that each rule may spend, and what the rules look at."""

    target_per_day: int
    uniform_share: float
    strata_share: float
    signal_share: float
    uncertainty_share: float
    strata_columns: tuple[str, ...]
    uncertain_below: float
    salt: str


def random_numbers(salt: str, ids: pl.Series) -> np.ndarray:
    """A number in [0, 1) for each id, always the same for the same salt and id. Shape (n,), float64."""
    prefix = salt.encode() + b"\x1f"
    top = 2.0**_HASH_BITS
    return np.array(
        [
            (
                int.from_bytes(hashlib.blake2b(prefix + str(i).encode(), digest_size=8).digest(), "big")
                >> (64 - _HASH_BITS)
            )
            / top
            for i in ids
        ],
        dtype=float,
    )


def draw(day: pl.DataFrame, plan: SamplingPlan) -> pl.DataFrame:
    """The sampled rows of one day with their probabilities and the rules that chose them.

    Args:
        day: every trace of the day: ``trace_id``, ``session_id``, ``is_negative``, ``confidence`` and the strata columns.
        plan: the target and its shares; a day no larger than the target is kept whole.

    Returns:
        The chosen rows of ``day`` plus ``day_traces``, ``pi_session``, ``pi_trace``, ``inclusion_probability``, ``rules``.
    """
    rates = _rates(day, plan)
    unit = day["session_id"].fill_null(day["trace_id"])
    u_session = random_numbers(f"{plan.salt}/session", unit)
    u_trace = random_numbers(f"{plan.salt}/trace", day["trace_id"])
    pi_session = rates.pop("uniform")
    pi_trace = np.max(list(rates.values()), axis=0) if rates else np.zeros(len(day))
    fired = {"uniform": u_session < pi_session} | {rule: u_trace < rate for rule, rate in rates.items()}
    rules = [[rule for rule, hit in fired.items() if hit[i]] for i in range(len(day))]
    return day.with_columns(
        pl.lit(len(day), pl.Int64).alias("day_traces"),
        pl.Series("pi_session", pi_session, pl.Float64),
        pl.Series("pi_trace", pi_trace, pl.Float64),
        pl.Series("inclusion_probability", 1 - (1 - pi_session) * (1 - pi_trace), pl.Float64),
        pl.Series("rules", rules, pl.List(pl.String)),
    ).filter(pl.col("rules").list.len() > 0)


def _rates(day: pl.DataFrame, plan: SamplingPlan) -> dict[str, np.ndarray]:
    """Each rule's probability for each trace, scaled together so that the expected sample meets the target."""
    n = len(day)
    if n <= plan.target_per_day:
        return {"uniform": np.ones(n)}
    base = _unscaled_rates(day, plan)

    def expected(scale: float) -> float:
        rates = {rule: np.minimum(1.0, scale * rate) for rule, rate in base.items()}
        others = [rate for rule, rate in rates.items() if rule != "uniform"]
        pi_trace = np.max(others, axis=0) if others else np.zeros(n)
        return float(np.sum(1 - (1 - rates["uniform"]) * (1 - pi_trace)))

    low, high = 0.0, 1.0
    while expected(high) < plan.target_per_day:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expected(middle) < plan.target_per_day else (low, middle)
    return {rule: np.minimum(1.0, high * rate) for rule, rate in base.items()}


def _unscaled_rates(day: pl.DataFrame, plan: SamplingPlan) -> dict[str, np.ndarray]:
    n = len(day)
    rates = {"uniform": np.full(n, plan.uniform_share * plan.target_per_day / n)}
    if plan.strata_share and plan.strata_columns:
        sizes = day.select(pl.len().over(*plan.strata_columns)).to_series().to_numpy()
        n_strata = day.select(plan.strata_columns).n_unique()
        rates["strata"] = plan.strata_share * plan.target_per_day / n_strata / sizes
    groups = {
        "signal": (plan.signal_share, day["is_negative"].fill_null(False).to_numpy()),
        "uncertainty": (plan.uncertainty_share, (day["confidence"] < plan.uncertain_below).fill_null(False).to_numpy()),
    }
    for rule, (share, member) in groups.items():
        if share and member.any():
            rates[rule] = np.where(member, share * plan.target_per_day / member.sum(), 0.0)
    return rates
