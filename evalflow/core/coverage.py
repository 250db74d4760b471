"""Coverage: how far the suite is from the traffic, bin by bin.

p is production mass per bin (design-weighted), q golden mass per bin (counts). The headline is the Jensen-Shannon
divergence in base 2, in [0, 1]: 0 when the suite is spread as the traffic is, 1 when they share no bin.
Source: docs/methods.md, "Coverage" (Lin 1991).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from evalflow.core.intervals import wilson
from evalflow.core.weighting import Weighting, mass_by

NOVEL = "novel"
EDGE_CASES = "edge_cases"
Band = Literal["close", "watch", "meaningful", "severe"]
BLIND_SPOT_SHARE = 0.01
"""A blind spot holds surely at least this share of traffic: the lower end of its share's 95 % interval."""
BLIND_SPOT_P = 0.01
"""So rarely may a random suite look blind somewhere, over all bins together."""
UNDER_TESTED = 0.5
"""A blind spot has fewer cases than this part of its due."""
EMPTY_BIN_SHARE, EMPTY_BIN_CASES = 0.05, 100
"""A bin of this share without a single case is blind in any suite of so many cases."""
ROUNDING = 1e-24
"""A variance below this is rounding: weights are exact to 1e-16 of a mass of one."""
BANDS: tuple[tuple[float, Band], ...] = ((0.1, "close"), (0.25, "watch"), (0.5, "meaningful"), (1.0, "severe"))
"""Upper edges: below .1 close, to .25 watch, to .5 meaningful, above severe."""


@dataclass(frozen=True)
class BinCoverage:
    """One bin. Shares are in [0, 1]; ``density_ratio`` is golden over production share, None without production.

    ``production_share_low``: lower end of the share's 95 % interval. ``blind_spot_p``: chance that a random suite has
    so few cases here, after Holm over bins; None without a suite.
    """

    bin: str
    label: str
    production_share: float
    production_share_traffic: float
    n_sampled: int
    golden_cases: int
    golden_share: float
    jsd_term: float | None
    density_ratio: float | None
    is_uncovered: bool
    production_share_low: float
    blind_spot_p: float | None
    is_blind_spot: bool
    newest_case_on: date | None


@dataclass(frozen=True)
class Alarm:
    """What was seen (``value``), against which ``limit``, in which ``bin`` (None: the suite as a whole), in words."""

    kind: Literal["jsd", "blind_spot"]
    value: float
    limit: float
    bin: str | None
    text: str


@dataclass(frozen=True)
class Coverage:
    """One measurement. ``jsd`` is the figure that alarms decide on; None where there is no suite or no traffic.

    ``m_eff``: how many independent traces the sample is worth. ``smallest_visible_hole``: traffic share of an untested
    bin that a suite of this size could tell from chance; None without a suite.
    """

    weighting: Weighting
    n_sampled: int
    n_golden: int
    m_eff: float
    smallest_visible_hole: float | None
    jsd: float | None
    jsd_raw: float | None
    jsd_raw_traffic: float | None
    band: Band | None
    uncovered_share: float
    novel_share: float
    alarms: tuple[Alarm, ...]
    bins: tuple[BinCoverage, ...]


def jsd_terms(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Each bin's part of the Jensen-Shannon divergence in base 2; the parts are >= 0 and add up to it exactly.

    Args:
        p, q: masses of shape (k,), not negative, each with a positive sum; they are normalised here.

    Raises:
        ValueError: a mass is negative, infinite or NaN, or a side sums to zero.
    """
    p, q = _normalised(p, "p"), _normalised(q, "q")
    with np.errstate(divide="ignore", invalid="ignore"):
        of_p = np.where(p > 0, p * np.log2(2 * p / (p + q)), 0.0)
        of_q = np.where(q > 0, q * np.log2(2 * q / (p + q)), 0.0)
    return np.maximum((of_p + of_q) / 2, 0.0)


def jsd(p: np.ndarray, q: np.ndarray) -> float:
    """The Jensen-Shannon divergence of two masses in base 2, in [0, 1] (not its square root)."""
    return float(min(jsd_terms(p, q).sum(), 1.0))


def band_of(value: float) -> Band:
    return next(band for edge, band in BANDS if value < edge or edge == 1.0)


def measure(
    production: pl.DataFrame,
    golden: pl.DataFrame,
    labels: Mapping[str, str],
    weighting: Weighting,
    jsd_threshold: float,
) -> Coverage:
    """Coverage of one window.

    Args:
        production: a row per sampled trace: ``bin``, ``weight`` and ``weight_traffic`` (each sums to one), and
            ``item_id`` and ``session_id``, since traces of a session are not independent.
        golden: a row per golden case: ``bin``, ``day`` (when it became effective).
        labels: every bin of the taxonomy with its label; a bin without rows on either side is left out of the result.
        weighting: which weighting ``weight`` is, for the record.
        jsd_threshold: JSD above this raises an alarm.

    Returns:
        The measurement; with no golden cases ``jsd`` is None and every bin with traffic is uncovered; with no
        production there are no shares and ``jsd`` is None.
    """
    unknown = sorted({*production["bin"], *golden["bin"]} - set(labels))
    if unknown:
        raise ValueError(f"rows fall into bins that have no label: {', '.join(unknown)}")
    table = _by_bin(production, golden, labels)
    m_eff = effective_traces(production, table["bin"])
    table = _with_blind_spots(table, m_eff)
    p = table["production_share"].to_numpy()
    counts = table["golden_cases"].to_numpy().astype(float)
    is_measurable = len(production) > 0 and p.sum() > 0 and len(golden) > 0
    terms = jsd_terms(p, counts) if is_measurable else None
    traffic = table["production_share_traffic"].to_numpy()
    raw = float(min(terms.sum(), 1.0)) if terms is not None else None
    bins = tuple(
        _bin_row(row, None if terms is None else float(terms[i])) for i, row in enumerate(table.iter_rows(named=True))
    )
    return Coverage(
        weighting=weighting,
        n_sampled=len(production),
        n_golden=len(golden),
        m_eff=m_eff.overall,
        smallest_visible_hole=min(1.0, math.log(len(table) / BLIND_SPOT_P) / len(golden)) if is_measurable else None,
        jsd=raw,
        jsd_raw=raw,
        jsd_raw_traffic=jsd(traffic, counts) if is_measurable else None,
        band=band_of(raw) if raw is not None else None,
        uncovered_share=float(sum(row.production_share for row in bins if row.is_uncovered)),
        novel_share=float(sum(row.production_share for row in bins if row.bin == NOVEL)),
        alarms=(*_jsd_alarm(raw, jsd_threshold, bins), *_blind_spot_alarms(bins, len(golden))),
        bins=bins,
    )


def _by_bin(production: pl.DataFrame, golden: pl.DataFrame, labels: Mapping[str, str]) -> pl.DataFrame:
    share = mass_by(production["bin"], production["weight"]).rename({"key": "bin", "mass": "production_share"})
    traffic = mass_by(production["bin"], production["weight_traffic"]).rename(
        {"key": "bin", "mass": "production_share_traffic"}
    )
    sizes = production.group_by("bin").agg(n_sampled=pl.len().cast(pl.Int64))
    of_production = sizes.join(share, on="bin").join(traffic, on="bin")
    of_golden = golden.group_by("bin").agg(golden_cases=pl.len().cast(pl.Int64), newest_case_on=pl.col("day").max())
    order = pl.DataFrame(
        {"bin": list(labels), "label": list(labels.values())}, schema={"bin": pl.String, "label": pl.String}
    )
    return (
        order.join(of_production, on="bin", how="left", maintain_order="left")
        .join(of_golden, on="bin", how="left", maintain_order="left")
        .with_columns(
            pl.col("production_share", "production_share_traffic").fill_null(0.0),
            pl.col("n_sampled", "golden_cases").fill_null(0),
        )
        .filter((pl.col("n_sampled") > 0) | (pl.col("golden_cases") > 0))
        .with_columns(
            golden_share=pl.when(pl.col("golden_cases").sum() > 0)
            .then(pl.col("golden_cases") / pl.col("golden_cases").sum())
            .otherwise(0.0)
        )
        .sort(["production_share", "golden_share", "bin"], descending=[True, True, False])
    )


class EffectiveTraces(NamedTuple):
    """How many independent traces a weighted sample is worth: ``overall``, and ``by_bin`` (k,) for each bin's share."""

    overall: float
    by_bin: np.ndarray


def effective_traces(production: pl.DataFrame, bins: pl.Series) -> EffectiveTraces:
    """Effective sample sizes of the bins' shares, with sessions as the independent units.

    m_k = p_k (1 - p_k) / var(p_k), with the linearised variance of a Hajek share over sessions (what a bootstrap of
    sessions estimates); overall the sum of numerators over the sum of variances.

    Args:
        production: ``item_id``, ``session_id`` (null: the trace stands alone), ``bin``, ``weight`` (sums to one).
        bins: the bins in the order of the result.
    """
    if production.is_empty() or not production["weight"].sum():
        return EffectiveTraces(0.0, np.zeros(len(bins)))
    names = production["session_id"].fill_null(production["item_id"]).to_numpy().astype(str)
    sessions, session = np.unique(names, return_inverse=True)
    column = {name: i for i, name in enumerate(bins)}
    cell = session * len(bins) + np.array([column[name] for name in production["bin"]])
    weight = production["weight"].to_numpy()
    mass = np.bincount(cell, weights=weight, minlength=len(sessions) * len(bins)).reshape(len(sessions), len(bins))
    share = mass.sum(axis=0)
    n = len(sessions)
    residual = mass - mass.sum(axis=1, keepdims=True) * share
    variance = (residual**2).sum(axis=0) * (n / (n - 1) if n > 1 else 1.0)
    variance[variance < ROUNDING] = 0.0  # shares that do not vary between sessions, but for their last bits
    spread = np.maximum(share * (1 - share), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_bin = np.where(variance > 0, spread / variance, float(n))
    return EffectiveTraces(float(spread.sum() / variance.sum()) if variance.sum() > 0 else float(n), by_bin)


def _with_blind_spots(table: pl.DataFrame, m_eff: EffectiveTraces) -> pl.DataFrame:
    """The bins with the lower bound of their share and whether the suite is blind there."""
    share, cases = table["production_share"].to_numpy(), table["golden_cases"].to_numpy()
    n = int(cases.sum())
    low = np.array([wilson(min(p, 1.0) * m, m).low if p > 0 else 0.0 for p, m in zip(share, m_eff.by_bin, strict=True)])
    adjusted = too_few_p(cases, share, m_eff.overall)
    is_short = (low >= BLIND_SPOT_SHARE) & (cases < UNDER_TESTED * share * n) & (adjusted <= BLIND_SPOT_P)
    is_empty = (low >= EMPTY_BIN_SHARE) & (cases == 0) & (n >= EMPTY_BIN_CASES)
    return table.with_columns(
        production_share_low=pl.Series(low, dtype=pl.Float64),
        blind_spot_p=pl.Series(adjusted.tolist() if n else [None] * len(table), dtype=pl.Float64),
        is_blind_spot=pl.Series((is_short | is_empty) if n else np.zeros(len(table), dtype=bool), dtype=pl.Boolean),
    )


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
    single = hypergeom.cdf(cases, n + m, cases + traces, n)
    order = np.argsort(single, kind="stable")
    stepped = np.maximum.accumulate(single[order] * np.arange(len(single), 0, -1))
    adjusted = np.empty(len(single))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _bin_row(row: dict, term: float | None) -> BinCoverage:
    share = row["production_share"]
    return BinCoverage(
        **{name: row[name] for name in ("bin", "label", "production_share", "production_share_traffic", "n_sampled")},
        golden_cases=row["golden_cases"],
        golden_share=row["golden_share"],
        jsd_term=term,
        density_ratio=row["golden_share"] / share if share > 0 else None,
        is_uncovered=share > 0 and row["golden_cases"] == 0,
        production_share_low=row["production_share_low"],
        blind_spot_p=row["blind_spot_p"],
        is_blind_spot=row["is_blind_spot"],
        newest_case_on=row["newest_case_on"],
    )


def _jsd_alarm(value: float | None, limit: float, bins: Sequence[BinCoverage]) -> tuple[Alarm, ...]:
    if value is None or value <= limit:
        return ()
    causes = sorted((row for row in bins if row.jsd_term), key=lambda row: -(row.jsd_term or 0))[:3]
    named = ", ".join(
        f"{row.label} ({'under' if row.golden_share < row.production_share else 'over'}-tested)" for row in causes
    )
    return (Alarm("jsd", value, limit, None, f"{above(value, limit)}; most of it comes from {named}"),)


def above(value: float, limit: float) -> str:
    """A JSD above its limit in words, with as many digits as it takes to see that it is."""
    digits = next((n for n in range(3, 16) if f"{value:.{n}f}" != f"{limit:.{n}f}"), 16)
    return f"JSD {value:.{digits}f} is above {limit:g}"


def _blind_spot_alarms(bins: Sequence[BinCoverage], n_golden: int) -> Iterator[Alarm]:
    for row in bins:
        if row.is_blind_spot:
            due = row.production_share * n_golden
            text = (
                f"blind spot: {row.label} is {row.production_share:.1%} of traffic and {row.golden_cases} of {n_golden} cases, "
                f"where {due:.0f} would be due"
            )
            yield Alarm("blind_spot", row.production_share, BLIND_SPOT_SHARE, row.bin, text)


def _normalised(mass: np.ndarray, name: str) -> np.ndarray:
    mass = np.asarray(mass, dtype=float)
    if not np.isfinite(mass).all() or (mass < 0).any():
        raise ValueError(f"{name} holds a negative or infinite mass or NaN")
    total = mass.sum()
    if total <= 0:
        raise ValueError(f"{name} has no mass")
    return mass / total
