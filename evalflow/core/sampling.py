"""Poisson sampling with permanent random numbers: one true inclusion probability per trace.

The uniform rule draws whole sessions by a number hashed from the session; every other rule draws single traces by
one second number that they all share, so their union has the largest of their probabilities:
``pi = 1 - (1 - pi_uniform) * (1 - max_r pi_r)``. No probability depends on a random number, and the same salt draws
the same traces everywhere. Source: docs/methods.md, "Sampling" (Ohlsson 1995 for permanent random numbers, Neyman 1934
for the allocation to slices).
"""

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl

Rule = Literal["uniform", "strata", "signal", "uncertainty"]
RULES: tuple[Rule, ...] = get_args(Rule)
PRIOR_TRACES = 20
"""What the day's share of negative signals weighs in a slice's own: a slice of twenty traces is believed by half."""

_HASH_BITS = 53  # what a float64 holds exactly
_BISECTIONS = 60


@dataclass(frozen=True)
class SamplingPlan:
    """The shares of a day's target that each rule may spend, and what the rules look at."""

    target_per_day: int
    uniform_share: float
    strata_share: float
    signal_share: float
    uncertainty_share: float
    strata_columns: tuple[str, ...]
    strata_floor: float
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
        The chosen rows of ``day`` plus ``day_traces``, ``pi_<rule>`` of each rule (0 where it gives the trace no
        chance), ``inclusion_probability`` and ``rules``, those that chose the trace.
    """
    pi = _probabilities(day, plan)
    unit = day["session_id"].fill_null(day["trace_id"])
    u_session = random_numbers(f"{plan.salt}/session", unit)
    u_trace = random_numbers(f"{plan.salt}/trace", day["trace_id"])
    fired = {rule: (u_session if rule == "uniform" else u_trace) < pi[rule] for rule in RULES}
    named = [pl.when(pl.Series(hit, dtype=pl.Boolean)).then(pl.lit(rule)) for rule, hit in fired.items()]
    return day.with_columns(
        pl.lit(len(day), pl.Int64).alias("day_traces"),
        *(pl.Series(f"pi_{rule}", pi[rule], pl.Float64) for rule in RULES),
        pl.Series("inclusion_probability", _union(pi), pl.Float64),
        pl.concat_list(named).list.drop_nulls().alias("rules"),
    ).filter(pl.col("rules").list.len() > 0)


# -- probabilities ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cells:
    """The kinds of traces of a day that the rules can tell apart: all traces of a cell have the same probabilities.

    Arrays over cells, in an order that does not depend on that of the traces, so that no sum does either.
    """

    n: np.ndarray
    slice_: np.ndarray
    is_negative: np.ndarray
    is_uncertain: np.ndarray


def _probabilities(day: pl.DataFrame, plan: SamplingPlan) -> dict[Rule, np.ndarray]:
    """Each rule's probability for each trace; together they are expected to choose ``target_per_day`` traces."""
    n = len(day)
    if n <= plan.target_per_day:
        return {rule: np.full(n, float(rule == "uniform")) for rule in RULES}
    cells, cell_of_trace = _cells_of(day, plan)

    def expected(spend: float) -> float:
        return float(np.sum(cells.n * _union(_spent(cells, plan, spend))))

    # Rules overlap, so that the shares of the target alone would choose fewer traces: more is spent until it is met.
    low, high = 0.0, float(plan.target_per_day)
    while expected(high) < plan.target_per_day:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if expected(middle) < plan.target_per_day else (low, middle)
    return {rule: pi[cell_of_trace] for rule, pi in _spent(cells, plan, high).items()}


def _union(pi: dict[Rule, np.ndarray]) -> np.ndarray:
    """The chance that any rule chooses: the session's number is independent of the trace's, which the others share."""
    return 1 - (1 - pi["uniform"]) * (1 - np.maximum.reduce([pi["strata"], pi["signal"], pi["uncertainty"]]))


def _cells_of(day: pl.DataFrame, plan: SamplingPlan) -> tuple[_Cells, np.ndarray]:
    """The day's cells, and the cell of each trace."""
    columns = list(plan.strata_columns)
    kinds = day.select(
        *columns,
        is_negative=pl.col("is_negative").fill_null(False),
        is_uncertain=(pl.col("confidence") < plan.uncertain_below).fill_null(False),
    )
    cells = kinds.group_by(kinds.columns).len("n").sort(kinds.columns)
    slices: dict[tuple[object, ...], int] = {}
    slice_ = np.array([slices.setdefault(key, len(slices)) for key in cells.select(columns).rows()], dtype=int)
    found = kinds.join(
        cells.with_row_index("cell"), on=kinds.columns, how="left", nulls_equal=True, maintain_order="left"
    )
    return (
        _Cells(
            cells["n"].to_numpy().astype(float),
            slice_ if columns else np.zeros(len(cells), dtype=int),
            cells["is_negative"].to_numpy(),
            cells["is_uncertain"].to_numpy(),
        ),
        found["cell"].to_numpy(),
    )


def _spent(cells: _Cells, plan: SamplingPlan, spend: float) -> dict[Rule, np.ndarray]:
    """Each rule's probability per cell when its share of ``spend`` expected traces goes to the traces it looks at."""
    return {
        "uniform": np.full(len(cells.n), min(1.0, plan.uniform_share * spend / cells.n.sum())),
        "strata": _of_slices(cells, plan, spend),
        "signal": _of_group(cells, cells.is_negative, plan.signal_share * spend),
        "uncertainty": _of_group(cells, cells.is_uncertain, plan.uncertainty_share * spend),
    }


def _of_group(cells: _Cells, is_member: np.ndarray, spend: float) -> np.ndarray:
    n_members = float(cells.n[is_member].sum())
    return np.where(is_member, min(1.0, spend / n_members) if n_members else 0.0, 0.0)


def _of_slices(cells: _Cells, plan: SamplingPlan, spend: float) -> np.ndarray:
    if not plan.strata_columns or not plan.strata_share:
        return np.zeros(len(cells.n))
    sizes = np.bincount(cells.slice_, weights=cells.n)
    negatives = np.bincount(cells.slice_, weights=cells.n * cells.is_negative)
    return (neyman(sizes, negatives, plan.strata_share * spend, plan.strata_floor) / sizes)[cells.slice_]


# -- allocation to slices --------------------------------------------------------------------------------------


def neyman(sizes: np.ndarray, negatives: np.ndarray, total: float, floor: float) -> np.ndarray:
    """Expected traces of each slice: n_h ~ N_h S_h, at least ``floor`` and at most N_h, adding up to ``total``.

    S_h^2 = f_h (1 - f_h) + (f_h - f)^2 is the mean squared distance of the slice's traces from the day's share f of
    negative signals, which is what the error of a Hajek mean over the day is made of. f is (X + 1/2) / (N + 1) and f_h
    has the prior Beta(20 f, 20 (1 - f)), so that no S_h is 0.

    Args:
        sizes: traces of each slice, N_h > 0. Shape (H,).
        negatives: those of them with a negative signal.
        total: expected traces to give out; all of them where there are fewer.
        floor: expected traces that each slice gets first, or all that it has; where ``total`` does not reach for that,
            the slices get equal parts.

    Returns:
        Shape (H,). What a slice is too small to take goes to the others by the same rule. Source: Neyman 1934.
    """
    share = (negatives.sum() + 0.5) / (sizes.sum() + 1)
    of_slice = (negatives + PRIOR_TRACES * share) / (sizes + PRIOR_TRACES)
    deviation = np.sqrt(of_slice * (1 - of_slice) + (of_slice - share) ** 2)
    floors = _filled(np.ones(len(sizes)), np.zeros(len(sizes)), np.minimum(sizes, floor), total)
    return _filled(sizes * deviation, floors, sizes, total)


def _filled(weight: np.ndarray, low: np.ndarray, high: np.ndarray, total: float) -> np.ndarray:
    """``factor * weight`` cut to [low, high], with the factor for which it adds up to ``total`` (or as near as can be).

    The sum is piecewise linear in the factor: each entry starts to grow at low / weight and stops at high / weight.
    """
    at = np.concatenate([low / weight, high / weight])
    order = np.argsort(at, kind="stable")
    at, slope = at[order], np.cumsum(np.concatenate([weight, -weight])[order])
    sums = low.sum() + np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(at))])
    return np.clip(np.interp(total, sums, at) * weight, low, high)
