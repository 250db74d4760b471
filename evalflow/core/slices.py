"""Coverage in parts: bin by bin within one week of the window, or within one slice of the traffic.

The same shares and the same divergence as for the whole window (``coverage.py``), with a slice's own production held
against the cases that speak for it. Source: docs/methods.md, "Slices and heatmaps".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from evalflow.core.divergence import jsd_terms
from evalflow.core.inference import effective_traces
from evalflow.core.weighting import mass_by

MOST_VALUES = 10
"""Values of a dimension that are shown on their own: what a picture can hold, and a bound on what hostile text can do."""
VALUE_CHARS = 60
"""A value is a name; one that is longer is cut, and values that begin alike become one."""
OTHER = "other"
"""All values beyond the largest ones, together with one that happens to be called so."""
NOISE_LIMIT = 0.05
"""A slice is thin when luck in its traces alone is expected to add more than this to its JSD."""


@dataclass(frozen=True)
class SliceBin:
    """One bin within a slice. ``density_ratio`` is golden over production share, None without production."""

    bin: str
    label: str
    production_share: float
    n_sampled: int
    golden_cases: int
    golden_share: float
    density_ratio: float | None
    jsd_term: float | None


@dataclass(frozen=True)
class Slice:
    """A part of the window and the cases that speak for it.

    ``value`` None: traces that do not say. ``slice_share``: its part of the window's traffic. ``n_golden_named`` of the
    ``n_golden`` cases name the slice, the others speak for every slice. ``m_eff``: how many independent traces its
    sample is worth. ``jsd_raw`` is None without cases or without traffic.
    """

    dimension: str
    value: str | None
    slice_share: float
    n_sampled: int
    n_golden: int
    n_golden_named: int
    m_eff: float
    is_thin: bool
    jsd_raw: float | None
    bins: tuple[SliceBin, ...]


def slices_by(
    dimension: str,
    production: pl.DataFrame,
    golden: pl.DataFrame,
    tags: Sequence[Any],
    labels: Mapping[str, str],
) -> list[Slice]:
    """The slices of one column of the traffic, the largest first, ``other`` and "does not say" last.

    There are none where neither a trace nor a case says anything: that would be the whole window under another name.

    Args:
        dimension: the column's name, which is also the key of a case's tag.
        production: a row per sampled trace: ``item_id``, ``session_id``, ``bin``, ``weight`` (sums to one over the
            window) and ``value`` (null where the trace does not say).
        golden: a row per case: ``bin``.
        tags: each case's tags in the order of ``golden``; a case whose tags do not name the dimension speaks for every
            slice.
        labels: every bin with its label.
    """
    named = pl.Series([tag_value(own, dimension) for own in tags], dtype=pl.String)
    value = production["value"].cast(pl.String).str.slice(0, VALUE_CHARS)
    if not value.count() and not named.count():
        return []
    pooled = _pooled(value, production["weight"], named)
    production = production.with_columns(pooled.production.alias("value"))
    golden = golden.select("bin").with_columns(pooled.golden.alias("value"))
    return [
        measure_slice(
            dimension,
            own,
            production.filter(_is(own)),
            golden.filter(_is(own) | pl.col("value").is_null()),
            0 if own is None else golden.filter(_is(own)).height,
            labels,
        )
        for own in pooled.values
    ]


def _is(value: str | None) -> pl.Expr:
    return pl.col("value").is_null() if value is None else pl.col("value").eq(value).fill_null(False)


def measure_slice(
    dimension: str,
    value: str | None,
    production: pl.DataFrame,
    golden: pl.DataFrame,
    n_golden_named: int,
    labels: Mapping[str, str],
) -> Slice:
    """Coverage within one part of the window.

    Args:
        dimension, value: which part.
        production: its sampled traces: ``item_id``, ``session_id``, ``bin``, ``weight`` (of the whole window).
        golden: the cases that speak for it: ``bin``.
        n_golden_named: how many of them name it.
        labels: every bin with its label; a bin without rows on either side is left out.
    """
    mass = dict(mass_by(production["bin"], production["weight"]).iter_rows())
    total = float(sum(mass.values()))
    sizes = dict(production["bin"].value_counts().iter_rows())
    cases = dict(golden["bin"].value_counts().iter_rows())
    bins = [name for name in labels if name in sizes or name in cases]
    share = np.array([mass.get(name, 0.0) for name in bins]) / (total or 1.0)
    count = np.array([cases.get(name, 0) for name in bins], dtype=float)
    is_measurable = total > 0 and len(golden) > 0
    terms = jsd_terms(share, count) if is_measurable else None
    m_eff = _worth(production, total)
    rows = [
        SliceBin(
            bin=name,
            label=labels[name],
            production_share=float(share[i]),
            n_sampled=sizes.get(name, 0),
            golden_cases=cases.get(name, 0),
            golden_share=float(count[i] / count.sum()) if count.sum() else 0.0,
            density_ratio=float(count[i] / count.sum() / share[i]) if is_measurable and share[i] > 0 else None,
            jsd_term=None if terms is None else float(terms[i]),
        )
        for i, name in enumerate(bins)
    ]
    rows.sort(key=lambda row: (-row.production_share, -row.golden_share, row.bin))
    return Slice(
        dimension=dimension,
        value=value,
        slice_share=total,
        n_sampled=len(production),
        n_golden=len(golden),
        n_golden_named=n_golden_named,
        m_eff=m_eff,
        is_thin=m_eff < thin_below(len(rows)),
        jsd_raw=None if terms is None else float(min(terms.sum(), 1.0)),
        bins=tuple(rows),
    )


def thin_below(n_bins: int) -> float:
    """Effective traces under which a slice over ``n_bins`` is thin: (K - 1) / (8 ln 2 m) above ``NOISE_LIMIT``; at least 2.

    Bins count that either side has: one that only the suite has may be one that these few traces happened to miss.
    """
    return max(2.0, (n_bins - 1) / (8 * math.log(2) * NOISE_LIMIT))


def tag_value(tags: Any, dimension: str) -> str | None:
    """What a case's tags say about a dimension, cut like a trace's; None where they do not name it."""
    value = tags.get(dimension) if isinstance(tags, Mapping) else None
    is_said = isinstance(value, str | int | float) and not isinstance(value, bool)
    return str(value)[:VALUE_CHARS] if is_said else None


class _Pooled(NamedTuple):
    """The values that are shown, in order, and each side's values with the others pooled."""

    values: list[str | None]
    production: pl.Series
    golden: pl.Series


def _pooled(value: pl.Series, weight: pl.Series, named: pl.Series) -> _Pooled:
    mass = dict(mass_by(value.drop_nulls(), weight.filter(value.is_not_null())).iter_rows())
    for own in named.drop_nulls():
        mass.setdefault(own, 0.0)  # a slice that only cases name is there too, after those with traffic
    kept = sorted((own for own in mass if own != OTHER), key=lambda own: (-mass[own], own))[:MOST_VALUES]

    def shown(side: pl.Series) -> pl.Series:
        held = side.to_list()
        return pl.Series([own if own is None or own in kept else OTHER for own in held], dtype=pl.String)

    production, golden = shown(value), shown(named)
    values: list[str | None] = [*kept]
    if (production == OTHER).any() or (golden == OTHER).any():
        values.append(OTHER)
    if production.null_count():
        values.append(None)
    return _Pooled(values, production, golden)


def _worth(production: pl.DataFrame, total: float) -> float:
    if total <= 0:
        return 0.0
    scaled = production.with_columns(weight=pl.col("weight") / total)
    return effective_traces(scaled, scaled["bin"].unique().sort()).overall
