"""Coverage: how far the suite is from the traffic, bin by bin.

p is production mass per bin (design-weighted), q golden mass per bin (counts). The headline is the Jensen-Shannon
divergence in base 2, in [0, 1]: 0 when the suite is spread as the traffic is, 1 when they share no bin.
Source: docs/methods.md, "Coverage" (Lin 1991).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import polars as pl

from evalflow.core.weighting import Weighting, mass_by

NOVEL = "novel"
EDGE_CASES = "edge_cases"
Band = Literal["close", "watch", "meaningful", "severe"]
BANDS: tuple[tuple[float, Band], ...] = ((0.1, "close"), (0.25, "watch"), (0.5, "meaningful"), (1.0, "severe"))
"""Upper edges: below .1 close, to .25 watch, to .5 meaningful, above severe."""


@dataclass(frozen=True)
class BinCoverage:
    """One bin. Shares are in [0, 1]; ``density_ratio`` is golden over production share, None without production."""

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
    newest_case_on: date | None


@dataclass(frozen=True)
class Alarm:
    """What was seen (``value``), against which ``limit``, in which ``bin`` (None: the suite as a whole), in words."""

    kind: Literal["jsd"]
    value: float
    limit: float
    bin: str | None
    text: str


@dataclass(frozen=True)
class Coverage:
    """One measurement. ``jsd`` is the figure that alarms decide on; None where there is no suite or no traffic."""

    weighting: Weighting
    n_sampled: int
    n_golden: int
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
        production: a row per sampled trace: ``bin``, ``weight`` and ``weight_traffic`` (each sums to one).
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
        jsd=raw,
        jsd_raw=raw,
        jsd_raw_traffic=jsd(traffic, counts) if is_measurable else None,
        band=band_of(raw) if raw is not None else None,
        uncovered_share=float(sum(row.production_share for row in bins if row.is_uncovered)),
        novel_share=float(sum(row.production_share for row in bins if row.bin == NOVEL)),
        alarms=_alarms(raw, jsd_threshold, bins),
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


def _bin_row(row: dict, term: float | None) -> BinCoverage:
    share = row["production_share"]
    return BinCoverage(
        **{name: row[name] for name in ("bin", "label", "production_share", "production_share_traffic", "n_sampled")},
        golden_cases=row["golden_cases"],
        golden_share=row["golden_share"],
        jsd_term=term,
        density_ratio=row["golden_share"] / share if share > 0 else None,
        is_uncovered=share > 0 and row["golden_cases"] == 0,
        newest_case_on=row["newest_case_on"],
    )


def _alarms(value: float | None, limit: float, bins: Sequence[BinCoverage]) -> tuple[Alarm, ...]:
    if value is None or value <= limit:
        return ()
    causes = sorted((row for row in bins if row.jsd_term), key=lambda row: -(row.jsd_term or 0))[:3]
    named = ", ".join(
        f"{row.label} ({'under' if row.golden_share < row.production_share else 'over'}-tested)" for row in causes
    )
    return (Alarm("jsd", value, limit, None, f"JSD {value:.3f} is above {limit}; most of it comes from {named}"),)


def _normalised(mass: np.ndarray, name: str) -> np.ndarray:
    mass = np.asarray(mass, dtype=float)
    if not np.isfinite(mass).all() or (mass < 0).any():
        raise ValueError(f"{name} holds a negative or infinite mass or NaN")
    total = mass.sum()
    if total <= 0:
        raise ValueError(f"{name} has no mass")
    return mass / total
