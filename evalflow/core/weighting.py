"""From a sample to masses: Hajek weights, and the two ways in which days are put together.

``traffic`` gives each day the mass of its true volume, so a spike counts as what it was. ``steady_state`` asks what an ordinary
four weeks look like: missing weekdays are made up for, and a day's mass is capped a few robust sigmas above the
median of its class (weekday or weekend). Source: docs/methods.md, "Weighting".
"""

from dataclasses import dataclass
from datetime import date
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

Weighting = Literal["traffic", "steady_state"]

SHORTEST_STEADY_DAYS = 14
"""Below two weeks there is no telling an ordinary day from an unusual one: traffic weighting only."""
LEAST_SIGMA = 0.10
"""Traffic that varies by less than this (log scale) is still allowed 10 % of noise."""
LEAST_MOVED = 1e-12
"""Less mass than this is rounding."""
MAD_TO_SIGMA = 1.4826
SATURDAY = 5


@dataclass(frozen=True)
class DayMasses:
    """Mass of each day under one weighting; ``damped`` are the days that were capped, with their cap / volume."""

    weighting: Weighting
    mass: dict[date, float]
    damped: dict[date, float]


class RowWeights(NamedTuple):
    """Per sampled row: its weight, and whether the cap cut it."""

    weight: pl.Series
    is_capped: pl.Series


def traffic_masses(volumes: dict[date, int]) -> DayMasses:
    return DayMasses("traffic", {day: float(volume) for day, volume in volumes.items()}, {})


def steady_state_masses(volumes: dict[date, int], max_sigmas: float) -> DayMasses:
    """Steady-state masses of the days of a window.

    Args:
        volumes: traces per day; days without traffic are left out.
        max_sigmas: how many robust sigmas above its class median a day's log volume may lie.

    Returns:
        Capped volumes divided by how many days of the same weekday are present; plain traffic masses when fewer than
        14 days have traffic.
    """
    present = {day: volume for day, volume in volumes.items() if volume > 0}
    if len(present) < SHORTEST_STEADY_DAYS:
        return traffic_masses(present)
    days = sorted(present)
    log_volume = np.log([present[day] for day in days])
    is_weekend = np.array([day.weekday() >= SATURDAY for day in days])
    median = np.zeros(len(days))
    for side in (True, False):
        if (is_weekend == side).any():
            median[is_weekend == side] = np.median(log_volume[is_weekend == side])
    residual = log_volume - median
    sigma = max(LEAST_SIGMA, MAD_TO_SIGMA * float(np.median(np.abs(residual - np.median(residual)))))
    capped = np.exp(np.minimum(log_volume, median + max_sigmas * sigma))
    damped = {
        day: float(cap / present[day]) for day, cap in zip(days, capped, strict=True) if cap < present[day] * (1 - 1e-9)
    }
    same_weekday = {weekday: sum(day.weekday() == weekday for day in days) for weekday in range(7)}
    mass = {day: float(cap) / same_weekday[day.weekday()] for day, cap in zip(days, capped, strict=True)}
    return DayMasses("steady_state", mass, damped)


def row_weights(
    day: pl.Series, inclusion_probability: pl.Series, masses: DayMasses, max_weight_ratio: float
) -> RowWeights:
    """The weight of each sampled row: its day's mass, shared among the day's rows by 1/pi. They sum to one.

    Dividing by the day's own sum of 1/pi makes each day a Hajek mean, so a day's luck in sample size does not
    change its mass. Days with no mass get weight zero.

    Args:
        day, inclusion_probability: of each sampled row.
        masses: the mass of each day.
        max_weight_ratio: 1/pi counts at most as so many times the mean 1/pi of the day's sampled rows. What is cut goes
            to the other rows of the day, so that no day changes its mass.

    Raises:
        ValueError: a probability that is none.
    """
    pi = inclusion_probability.to_numpy().astype(float)
    bad = pi[~((pi > 0) & (pi <= 1))]
    if len(bad):
        raise ValueError(f"{len(bad)} inclusion probabilities lie outside (0, 1], such as {bad[0]}")
    days, row_day = np.unique(day.to_numpy(), return_inverse=True)
    cap = _weight_cap(row_day, 1.0 / pi, max_weight_ratio)
    inverse = np.minimum(1.0 / pi, cap)
    # Summed by numpy in the order of the rows: a parallel sum may differ in its last bit from run to run.
    of_day = np.bincount(row_day, weights=inverse, minlength=len(days))
    mass = np.array([masses.mass.get(each, 0.0) for each in days.astype("datetime64[D]").tolist()])
    weight = mass[row_day] * inverse / of_day[row_day]
    total = float(weight.sum())
    return RowWeights(
        pl.Series("weight", weight / total if total else weight, pl.Float64),
        pl.Series("is_capped", 1.0 / pi > cap, pl.Boolean),
    )


def n_capped(inclusion_probability: pl.Series, max_weight_ratio: float) -> int:
    """How many of one day's sampled rows the cap of ``row_weights`` cuts."""
    inverse = 1.0 / inclusion_probability.to_numpy()
    return int((inverse > _weight_cap(np.zeros(len(inverse), dtype=int), inverse, max_weight_ratio)).sum())


def _weight_cap(row_day: np.ndarray, inverse: np.ndarray, max_weight_ratio: float) -> np.ndarray:
    """The largest 1/pi that counts, for each row: a mean of equal numbers may lie a rounding error below them."""
    if not len(inverse):
        return inverse
    mean = np.bincount(row_day, weights=inverse) / np.maximum(np.bincount(row_day), 1)
    return max_weight_ratio * mean[row_day] * (1 + 1e-9)


def mass_moved_by_cap(day: pl.Series, inclusion_probability: pl.Series, weight: pl.Series) -> float:
    """The mass that the cap took from capped rows and gave to the others of their days, in [0, 1]; 0 where none was.

    Half the sum of |weight - weight without a cap|: no share of the traffic can be moved by more than this.
    """
    days, row_day = np.unique(day.to_numpy(), return_inverse=True)
    inverse, given = 1.0 / inclusion_probability.to_numpy(), weight.to_numpy()
    of_day = np.bincount(row_day, weights=inverse, minlength=len(days))
    mass = np.bincount(row_day, weights=given, minlength=len(days))
    moved = 0.5 * float(np.abs(mass[row_day] * inverse / of_day[row_day] - given).sum())
    return moved if moved > LEAST_MOVED else 0.0


def weight_facts(production: pl.DataFrame) -> dict[str, float | int | str | None]:
    """What is said about a window's weights, under both weightings: effective sizes, and what the cap did.

    Args:
        production: sampled rows of ``bin_assignments``.
    """
    if production.is_empty():
        return {}
    names = {"weight": production["weighting"][0], "weight_traffic": "traffic"}  # one of them where both are alike
    return {
        **{f"Kish effective size ({name})": kish_size(production[column]) for column, name in names.items()},
        "capped weights": int(production["is_capped"].sum()),
        **{
            f"mass moved by the cap ({name})": mass_moved_by_cap(
                production["day"], production["inclusion_probability"], production[column]
            )
            for column, name in names.items()
        },
    }


def kish_size(weight: pl.Series) -> float | None:
    """(sum w)^2 / sum w^2: how many equal weights are as uneven as these; None where no row weighs anything.

    It sees weights only: traces of one session resemble each other, so they are worth less than this.
    """
    w = weight.to_numpy().astype(float)
    squares = float((w**2).sum())
    return float(w.sum()) ** 2 / squares if squares > 0 else None


def hajek_standard_error(values: pl.Series, weights: pl.Series, sessions: pl.Series) -> float | None:
    """Linearised standard error of the Hajek mean sum(w y) / sum(w) of a share, with sessions as the independent units.

    sqrt(n / (n - 1) sum_s (sum_{i in s} w_i (y_i - mean))^2) with weights that sum to one and n sessions: what a
    bootstrap of sessions estimates. Where that is smaller than the same figure with two sessions of ones and two of zeros
    more, each of mean effective weight (Agresti and Coull), it is the latter: ten verdicts that agree are not certain.

    Args:
        values: of each row, in [0, 1]. weights: of any scale.
        sessions: the row's session; a trace without one is a session of its own, under its own id.

    Returns:
        None where there are fewer than two sessions with weight: one alone tells nothing about its spread.
    """
    is_weighty = weights.to_numpy() > 0
    value, weight = values.to_numpy()[is_weighty].astype(float), weights.to_numpy()[is_weighty].astype(float)
    names, session = np.unique(sessions.to_numpy().astype(str)[is_weighty], return_inverse=True)
    n = len(names)
    if n < 2:
        return None
    weight = weight / weight.sum()
    mass, passed = np.bincount(session, weights=weight), np.bincount(session, weights=weight * value)
    added = np.full(4, (mass**2).sum())  # one session of the Kish number of them
    return max(
        _spread_of_ratio(passed, mass),
        _spread_of_ratio(np.append(passed, added * (0, 0, 1, 1)), np.append(mass, added)),
    )


def _spread_of_ratio(top: np.ndarray, bottom: np.ndarray) -> float:
    """Linearised standard error of sum(top) / sum(bottom) over independent units."""
    n, total = len(top), bottom.sum()
    return float(np.sqrt(n / (n - 1) * (((top - bottom * (top.sum() / total)) / total) ** 2).sum()))


def mass_by(keys: pl.Series, weight: pl.Series) -> pl.DataFrame:
    """The sum of ``weight`` per distinct key, as columns ``key`` and ``mass``, sorted by key.

    Summed by numpy in the order of the rows: polars sums in parallel, and the last bit may differ from run to run.
    """
    distinct, row_key = np.unique(keys.to_numpy().astype(str), return_inverse=True)
    mass = np.bincount(row_key, weights=weight.to_numpy(), minlength=len(distinct))
    return pl.DataFrame({"key": distinct.tolist(), "mass": mass}, schema={"key": pl.String, "mass": pl.Float64})
