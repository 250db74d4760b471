"""Coverage: how far the suite is from the traffic, bin by bin, and how sure that is.

p is production mass per bin (design-weighted), q golden mass per bin (counts). The headline is the Jensen-Shannon
divergence in base 2, in [0, 1]: 0 when the suite is spread as the traffic is, 1 when they share no bin.
Source: docs/methods.md, "Coverage" and what follows it there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from evalflow.core.alarms import DRIFT_P, NOVELTY_RISE, Alarm, alarms_of, reason_of
from evalflow.core.blind_spots import find_blind_spots, smallest_visible_hole
from evalflow.core.calendar import sunday_of
from evalflow.core.divergence import jsd, jsd_terms
from evalflow.core.inference import (
    EffectiveTraces,
    Estimate,
    bootstrap_shares,
    cases_to_settle,
    effective_size,
    headline,
    session_mass,
    size_floor,
    source_estimate,
    uncovered_floor,
)
from evalflow.core.intervals import wilson
from evalflow.core.staleness import growth
from evalflow.core.weighting import Weighting, mass_by

NOVEL = "novel"
EDGE_CASES = "edge_cases"
Band = Literal["close", "watch", "meaningful", "severe"]
BANDS: tuple[tuple[float, Band], ...] = ((0.1, "close"), (0.25, "watch"), (0.5, "meaningful"), (1.0, "severe"))
"""Upper edges: below .1 close, to .25 watch, to .5 meaningful, above severe."""
LIKE_RANDOM_P = 0.05
"""Above it a JSD is what a random suite of the same size shows."""
ORIGINS = ("hand-authored", "synthetic", "production")


@dataclass(frozen=True)
class Limits:
    """What raises an alarm; see the settings of the same names."""

    jsd_threshold: float
    stale_days: int


@dataclass(frozen=True)
class BinCoverage:
    """One bin. Shares are in [0, 1]; ``density_ratio`` is golden over production share, None without production.

    ``production_share_low``, ``_high``: the share's 95 % interval. ``golden_share_weighted``: share of the cases' weights,
    None where they have none. ``blind_spot_p``: chance that a random suite has so few cases here, after Holm over bins;
    None without a suite. ``age_days``: of the newest case. ``share_change``: from the window's first half to its second,
    None where one half is empty.
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
    production_share_high: float
    golden_share_weighted: float | None
    n_hand_authored: int
    n_synthetic: int
    n_production: int
    age_days: int | None
    share_change: float | None
    is_stale: bool


@dataclass(frozen=True)
class Coverage:
    """One measurement. ``jsd`` is the figure that alarms decide on; None where there is no suite or no traffic.

    ``jsd`` is corrected for the sampling of production, ``jsd_low`` to ``jsd_high`` its 95 % interval (None where one
    session is all there is), ``jsd_raw`` the plain figure; ``_traffic`` and ``_weighted`` are the same under traffic
    weighting and with case weights. ``floor_mean``, ``floor_p95`` and ``jsd_p_value`` say what random suites of the same
    size show, ``cases_to_settle`` how many cases would tell a JSD above its threshold from them. ``jsd_source``: of the
    process that the cases were drawn from, only where every case was drawn at random (``source_note`` says why not).
    ``m_eff``: how many independent traces the sample is worth. ``smallest_visible_hole``: traffic share of an untested
    bin that a suite of this size could tell from chance. ``uncovered_floor_*``: what random suites leave uncovered.
    ``week_novel_share``: of the week's own seven days, beside the taxonomy's ``novel_calibration``. ``jsd_previous``: the
    headline under the taxonomy of the week before, in the first week of a new one.
    """

    weighting: Weighting
    n_sampled: int
    n_golden: int
    m_eff: float
    smallest_visible_hole: float | None
    jsd: float | None
    jsd_low: float | None
    jsd_high: float | None
    jsd_sd: float | None
    jsd_raw: float | None
    jsd_traffic: float | None
    jsd_raw_traffic: float | None
    jsd_weighted: float | None
    jsd_raw_weighted: float | None
    floor_mean: float | None
    floor_p95: float | None
    jsd_p_value: float | None
    is_like_random: bool | None
    jsd_reason: str | None
    cases_to_settle: int | None
    jsd_source: float | None
    jsd_source_low: float | None
    jsd_source_high: float | None
    source_note: str | None
    band: Band | None
    uncovered_share: float
    uncovered_floor_mean: float | None
    uncovered_floor_p99: float | None
    novel_share: float
    week_novel_share: float | None
    week_novel_share_low: float | None
    week_novel_share_high: float | None
    novel_calibration: float | None
    is_novelty_risen: bool
    jsd_previous: float | None
    alarms: tuple[Alarm, ...]
    bins: tuple[BinCoverage, ...]


def band_of(value: float) -> Band:
    return next(band for edge, band in BANDS if value < edge or edge == 1.0)


def measure(
    production: pl.DataFrame,
    golden: pl.DataFrame,
    labels: Mapping[str, str],
    weighting: Weighting,
    limits: Limits,
    week: date,
    novel_calibration: float | None = None,
    as_of: date | None = None,
) -> Coverage:
    """Coverage of the four-week window that ends with ``week``.

    Args:
        production: a row per sampled trace: ``item_id``, ``session_id``, ``day``, ``bin``, ``previous_bin``, ``weight`` and
            ``weight_traffic`` (each sums to one).
        golden: a row per golden case: ``item_id``, ``session_id`` (of the trace that it was made from), ``bin``,
            ``previous_bin``, ``day`` (when it became effective), ``case_weight``, ``origin``, ``is_random_draw``.
        labels: every bin of the taxonomy with its label; a bin without rows on either side is left out of the result.
        weighting: which weighting ``weight`` is, for the record.
        limits: above which figures an alarm is raised.
        week: its Monday.
        novel_calibration: the novel share that the taxonomy had for traffic like its own; None where it is not known.
        as_of: the day that ages of cases are counted to; the week's Sunday where none is given.

    Returns:
        The measurement; with no golden cases ``jsd`` is None and every bin with traffic is uncovered; with no
        production there are no shares and ``jsd`` is None.

    Raises:
        ValueError: rows fall into bins without a label, a case stands twice, or a weight is negative or NaN.
    """
    _refuse(production, golden, labels)
    table = _by_bin(production, golden, labels)
    bins = table["bin"]
    mass = session_mass(production, bins) if len(production) else np.zeros((0, len(bins)))
    m_eff = effective_size(mass) if len(mass) else EffectiveTraces(0.0, np.zeros(len(bins)))
    is_measurable = bool(table["production_share"].sum() > 0 and len(golden) > 0)
    rows = _bin_rows(production, table, m_eff, week, as_of or sunday_of(week), limits, is_measurable)
    novel = _novelty_of(production, week)
    calibration = novel_calibration if novel is not None else None
    unsaid = Coverage(
        weighting=weighting,
        n_sampled=len(production),
        n_golden=len(golden),
        m_eff=m_eff.overall,
        smallest_visible_hole=None,
        **dict.fromkeys(_JSD_FIELDS),
        uncovered_share=float(sum(row.production_share for row in rows if row.is_uncovered)),
        uncovered_floor_mean=None,
        uncovered_floor_p99=None,
        novel_share=float(sum(row.production_share for row in rows if row.bin == NOVEL)),
        week_novel_share=novel.share if novel else None,
        week_novel_share_low=novel.low if novel else None,
        week_novel_share_high=novel.high if novel else None,
        novel_calibration=calibration,
        is_novelty_risen=bool(novel and calibration is not None and novel.low > calibration + NOVELTY_RISE),
        alarms=(),
        bins=rows,
    )
    measured = _with_inference(unsaid, production, golden, table, mass, limits) if is_measurable else unsaid
    return replace(measured, alarms=alarms_of(measured, limits))


_JSD_FIELDS = (
    *("jsd", "jsd_low", "jsd_high", "jsd_sd", "jsd_raw", "jsd_traffic", "jsd_raw_traffic", "jsd_weighted"),
    *("jsd_raw_weighted", "floor_mean", "floor_p95", "jsd_p_value", "is_like_random", "jsd_reason", "cases_to_settle"),
    *("jsd_source", "jsd_source_low", "jsd_source_high", "source_note", "band", "jsd_previous"),
)
"""What can only be said where there is a suite and traffic."""


def _with_inference(
    unsaid: Coverage,
    production: pl.DataFrame,
    golden: pl.DataFrame,
    table: pl.DataFrame,
    mass: np.ndarray,
    limits: Limits,
) -> Coverage:
    """The measurement with its divergences and what they are worth."""
    p, n = table["production_share"].to_numpy(), len(golden)
    cases, m_eff = table["golden_cases"].to_numpy().astype(float), unsaid.m_eff
    q = cases / cases.sum()
    resampled = bootstrap_shares(mass)
    found = headline(p, q, resampled, len(mass))
    floor, left = size_floor(p, q, n, m_eff), uncovered_floor(p, n)
    of_traffic = _of_traffic(production, table, q)
    case_weights = table["case_weight"].to_numpy()
    has_weights = case_weights.sum() > 0
    source = _source_of(golden, table, p, m_eff, resampled)
    measured = replace(
        unsaid,
        smallest_visible_hole=smallest_visible_hole(len(table), n),
        jsd=found.value,
        jsd_low=found.low,
        jsd_high=found.high,
        jsd_sd=found.sd,
        jsd_raw=jsd(p, q),
        jsd_traffic=of_traffic.corrected,
        jsd_raw_traffic=of_traffic.raw,
        jsd_weighted=headline(p, case_weights, resampled, len(mass)).value if has_weights else None,
        jsd_raw_weighted=jsd(p, case_weights) if has_weights else None,
        floor_mean=floor.mean,
        floor_p95=floor.p95,
        jsd_p_value=floor.p_value,
        is_like_random=floor.p_value > LIKE_RANDOM_P,
        jsd_source=source.estimate.value if source.estimate else None,
        jsd_source_low=source.estimate.low if source.estimate else None,
        jsd_source_high=source.estimate.high if source.estimate else None,
        source_note=source.note,
        band=band_of(found.value),
        uncovered_floor_mean=left.mean,
        uncovered_floor_p99=left.p99,
        jsd_previous=_under_previous(production, golden),
    )
    reason = reason_of(measured, limits.jsd_threshold)
    settle = cases_to_settle(p, q, n, m_eff, DRIFT_P) if reason == "suite_too_small" else None
    return replace(measured, jsd_reason=reason, cases_to_settle=settle)


class _Traffic(NamedTuple):
    corrected: float | None
    raw: float | None


def _of_traffic(production: pl.DataFrame, table: pl.DataFrame, q: np.ndarray) -> _Traffic:
    """The same two figures under ``traffic`` weighting."""
    p = table["production_share_traffic"].to_numpy()
    if p.sum() <= 0:
        return _Traffic(None, None)
    mass = session_mass(production, table["bin"], "weight_traffic")
    return _Traffic(headline(p, q, bootstrap_shares(mass), len(mass)).value, jsd(p, q))


class _Source(NamedTuple):
    estimate: Estimate | None
    note: str | None


def _source_of(
    golden: pl.DataFrame, table: pl.DataFrame, p: np.ndarray, m_eff: float, resampled: np.ndarray
) -> _Source:
    n_drawn = int(golden["is_random_draw"].fill_null(False).sum())
    if n_drawn < len(golden):
        return _Source(
            None, f"not applicable: {len(golden) - n_drawn:,} of {len(golden):,} cases were not drawn at random"
        )
    families = session_mass(golden.with_columns(one=pl.lit(1.0)), table["bin"], "one")
    if len(families) < 2:
        return _Source(None, "not applicable: the cases come from one session, so nothing can be said of others")
    return _Source(source_estimate(p, families, m_eff, resampled), None)


def _under_previous(production: pl.DataFrame, golden: pl.DataFrame) -> float | None:
    """The headline under the taxonomy of the week before; None unless this is the first week of a new one."""
    if production["previous_bin"].has_nulls() or golden["previous_bin"].has_nulls():
        return None
    bins = pl.Series(sorted({*production["previous_bin"], *golden["previous_bin"]}))
    mass = session_mass(production, bins, bin="previous_bin")
    counts = session_mass(golden.with_columns(one=pl.lit(1.0)), bins, "one", "previous_bin").sum(axis=0)
    return headline(mass.sum(axis=0), counts, bootstrap_shares(mass), len(mass)).value


class _Novelty(NamedTuple):
    share: float
    low: float
    high: float


def _novelty_of(production: pl.DataFrame, week: date) -> _Novelty | None:
    """The novel share of the week's own days with its 95 % interval; None where they hold no traffic."""
    own = production.filter((pl.col("day") >= week) & (pl.col("day") <= sunday_of(week)))
    if own.is_empty() or not own["weight"].sum():
        return None
    kinds = own.with_columns(kind=pl.when(pl.col("bin") == NOVEL).then(pl.lit(NOVEL)).otherwise(pl.lit("known")))
    mass = session_mass(kinds, pl.Series([NOVEL, "known"]), bin="kind")
    share = min(float(mass[:, 0].sum() / mass.sum()), 1.0)
    within = wilson(share * (trials := effective_size(mass).by_bin[0]), trials)
    return _Novelty(share, within.low, within.high)


def _refuse(production: pl.DataFrame, golden: pl.DataFrame, labels: Mapping[str, str]) -> None:
    unknown = sorted({*production["bin"], *golden["bin"]} - set(labels))
    if unknown:
        raise ValueError(f"rows fall into bins that have no label: {', '.join(unknown)}")
    twice = golden.filter(golden["item_id"].is_duplicated())["item_id"].unique().sort().to_list()
    if twice:
        raise ValueError(f"a case counts once, but these stand more than once: {', '.join(twice[:5])}")
    for column in ("weight", "weight_traffic"):
        bad = int((~production[column].is_finite() | (production[column] < 0)).sum())
        if bad:
            raise ValueError(f"{bad} sampled traces have a {column} that is negative or no number")


def _by_bin(production: pl.DataFrame, golden: pl.DataFrame, labels: Mapping[str, str]) -> pl.DataFrame:
    share = mass_by(production["bin"], production["weight"]).rename({"key": "bin", "mass": "production_share"})
    traffic = mass_by(production["bin"], production["weight_traffic"]).rename(
        {"key": "bin", "mass": "production_share_traffic"}
    )
    case_weight = mass_by(golden["bin"], golden["case_weight"]).rename({"key": "bin", "mass": "case_weight"})
    sizes = production.group_by("bin").agg(n_sampled=pl.len().cast(pl.Int64))
    of_production = sizes.join(share, on="bin").join(traffic, on="bin")
    of_golden = golden.group_by("bin").agg(
        golden_cases=pl.len().cast(pl.Int64),
        newest_case_on=pl.col("day").max(),
        **{_count_of(origin): (pl.col("origin") == origin).sum().cast(pl.Int64) for origin in ORIGINS},
    )
    counts = ["n_sampled", "golden_cases", *map(_count_of, ORIGINS)]
    order = pl.DataFrame(
        {"bin": list(labels), "label": list(labels.values())}, schema={"bin": pl.String, "label": pl.String}
    )
    return (
        order.join(of_production, on="bin", how="left", maintain_order="left")
        .join(of_golden.join(case_weight, on="bin"), on="bin", how="left", maintain_order="left")
        .with_columns(
            pl.col("production_share", "production_share_traffic", "case_weight").fill_null(0.0),
            pl.col(counts).fill_null(0),
        )
        .filter((pl.col("n_sampled") > 0) | (pl.col("golden_cases") > 0))
        .with_columns(
            golden_share=pl.when(pl.col("golden_cases").sum() > 0)
            .then(pl.col("golden_cases") / pl.col("golden_cases").sum())
            .otherwise(0.0)
        )
        .sort(["production_share", "golden_share", "bin"], descending=[True, True, False])
    )


def _count_of(origin: str) -> str:
    return "n_" + origin.replace("-", "_")


def _bin_rows(
    production: pl.DataFrame,
    table: pl.DataFrame,
    m_eff: EffectiveTraces,
    week: date,
    as_of: date,
    limits: Limits,
    is_measurable: bool,
) -> tuple[BinCoverage, ...]:
    p, cases = table["production_share"].to_numpy(), table["golden_cases"].to_numpy()
    case_weights = table["case_weight"].to_numpy()
    terms = jsd_terms(p, cases) if is_measurable else None
    blind = find_blind_spots(cases, p, m_eff)
    moved = growth(production, table["bin"], week)
    has_suite, has_weights = cases.sum() > 0, case_weights.sum() > 0
    rows = []
    for i, row in enumerate(table.iter_rows(named=True)):
        share, newest = row["production_share"], row["newest_case_on"]
        age = (as_of - newest).days if newest else None
        rows.append(
            BinCoverage(
                **{name: row[name] for name in ("bin", "label", "production_share", "production_share_traffic")},
                **{name: row[name] for name in ("n_sampled", "golden_cases", "golden_share")},
                jsd_term=None if terms is None else float(terms[i]),
                density_ratio=row["golden_share"] / share if share > 0 else None,
                is_uncovered=share > 0 and row["golden_cases"] == 0,
                production_share_low=float(blind.share_low[i]),
                blind_spot_p=float(blind.p_value[i]) if has_suite else None,
                is_blind_spot=bool(blind.is_blind[i]),
                newest_case_on=newest,
                production_share_high=float(blind.share_high[i]),
                golden_share_weighted=float(case_weights[i] / case_weights.sum()) if has_weights else None,
                **{_count_of(origin): row[_count_of(origin)] for origin in ORIGINS},
                age_days=age,
                share_change=None if math.isnan(moved.change[i]) else float(moved.change[i]),
                is_stale=bool(
                    age is not None and age > limits.stale_days and moved.is_growing[i] and row["bin"] != NOVEL
                ),
            )
        )
    return tuple(rows)
