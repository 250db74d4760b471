"""From a sample to masses: Hajek weights, and the two ways in which days are put together.

``traffic`` gives each day the mass of its true volume, so a spike counts as what it was. ``steady_state`` asks what an ordinary
four weeks look like: missing weekdays are made up for, and a day's mass is capped a few robust sigmas above the
median of its class (weekday or weekend). Source: docs/methods.md, "Weighting".
"""

from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import polars as pl

Weighting = Literal["traffic", "steady_state"]

SHORTEST_STEADY_DAYS = 14
"""Below two weeks there is no telling an ordinary day from an unusual one: traffic weighting only."""
LEAST_SIGMA = 0.10
"""Traffic that varies by less than this (log scale) is still allowed 10 % of noise."""
MAD_TO_SIGMA = 1.4826
SATURDAY = 5


@dataclass(frozen=True)
class DayMasses:
    """Mass of each day under one weighting; ``damped`` are the days that were capped, with their cap / volume."""

    weighting: Weighting
    mass: dict[date, float]
    damped: dict[date, float]


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


def row_weights(day: pl.Series, inclusion_probability: pl.Series, masses: DayMasses) -> pl.Series:
    """The weight of each sampled row: its day's mass, shared among the day's rows by 1/pi. They sum to one.

    Dividing by the day's own sum of 1/pi makes each day a Hajek mean, so a day's luck in sample size does not
    change its mass. Days with no mass get weight zero.
    """
    inverse = 1.0 / inclusion_probability.to_numpy()
    days, row_day = np.unique(day.to_numpy(), return_inverse=True)
    # Summed by numpy in the order of the rows: a parallel sum may differ in its last bit from run to run.
    of_day = np.bincount(row_day, weights=inverse, minlength=len(days))
    mass = np.array([masses.mass.get(each, 0.0) for each in days.astype("datetime64[D]").tolist()])
    weight = mass[row_day] * inverse / of_day[row_day]
    total = float(weight.sum())
    return pl.Series("weight", weight / total if total else weight, pl.Float64)


def mass_by(keys: pl.Series, weight: pl.Series) -> pl.DataFrame:
    """The sum of ``weight`` per distinct key, as columns ``key`` and ``mass``, sorted by key.

    Summed by numpy in the order of the rows: polars sums in parallel, and the last bit may differ from run to run.
    """
    distinct, row_key = np.unique(keys.to_numpy().astype(str), return_inverse=True)
    mass = np.bincount(row_key, weights=weight.to_numpy(), minlength=len(distinct))
    return pl.DataFrame({"key": distinct.tolist(), "mass": mass}, schema={"key": pl.String, "mass": pl.Float64})
