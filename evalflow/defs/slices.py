"""Station slices: the week's coverage once more, week by week of its window and slice by slice of its traffic."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from evalflow.adapters.charts import as_cell, as_markdown, coverage_png
from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.tables import BIN_ASSIGNMENTS, COVERAGE_SLICES, STRATIFIED_SAMPLES
from evalflow.adapters.taxonomy import Taxonomy, fitted_for
from evalflow.core.calendar import monday_of, sunday_of
from evalflow.core.lineage import fingerprint
from evalflow.core.slices import NOISE_LIMIT, Slice, measure_slice, slices_by
from evalflow.defs.clusters import place_golden
from evalflow.defs.coverage import taxonomy_of
from evalflow.defs.partitions import WEEKS, Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_WEEKLY, OWNERS, SINGLE_RUN, Station, dates, parents, report

WEEK = "week"
"""The dimension whose values are the window's own weeks, beside those of ``sampling.strata_columns``."""


def _inputs(home: Home, week: date) -> Iterable[Any]:
    yield home.settings.sampling.strata_columns
    yield home.settings.clustering.vote_neighbors
    yield home.settings.privacy.model_dump()
    yield home.calendar.is_provisional(week)
    # Every version up to the week's Sunday, since the weeks of the window read the suite as of four days.
    versions = [own for _, own in home.ledger.entries() if own.effective_on <= sunday_of(week).isoformat()]
    yield fingerprint(
        sorted((own.case_id, own.version, own.effective_on, own.retired_on or "", own.input) for own in versions),
        [own.tags for own in sorted(versions, key=lambda own: (own.case_id, own.version))],
    )
    fitted = fitted_for(home, week)
    yield from parents(home, fitted.clusters, [fitted.key])  # the labels
    yield from parents(home, BIN_ASSIGNMENTS, [week])
    yield from parents(home, STRATIFIED_SAMPLES, home.calendar.window(week))


SLICES = Station("coverage_slices", COVERAGE_SLICES, "week", "2", _inputs)


def slice_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name="coverage",
        owners=OWNERS,
        kinds={"polars", "parquet"},
        code_version=SLICES.version,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_WEEKLY),
        deps=["bin_assignments", dg.AssetDep("stratified_samples", partition_mapping=WEEKS)],
        description="A bin within one week of the window or one slice of its traffic: its share there, the cases that speak for "
        "the slice, their ratio. Heatmaps of both are in the metadata of a run's newest week.",
    )
    def coverage_slices(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        weeks = dates(context)
        for week in weeks:
            workspace.lake.require(BIN_ASSIGNMENTS, [week])
            made_from = SLICES.made_from(workspace, week)
            found = slices_of_week(workspace, week)
            workspace.lake.write(COVERAGE_SLICES, week, _rows(workspace, week, found), made_from=made_from)
            report(context, week, _metadata(week, found, is_drawn=week == weeks[-1]))

    return [coverage_slices]


def slices_of_week(home: Home, week: date) -> list[tuple[Slice, date]]:
    """Every slice of the week's window with the day as of which its cases counted; none without traffic."""
    rows = home.lake.read(BIN_ASSIGNMENTS, [week])
    production = rows.filter(pl.col("side") == "production").rename({"item_id": "trace_id"})
    if production.is_empty():
        return []
    columns = home.settings.sampling.strata_columns
    sample = home.lake.read(STRATIFIED_SAMPLES, home.calendar.window(week), ["trace_id", *columns], with_key=True)
    production = production.join(sample, on=["day", "trace_id"], how="left", maintain_order="left", validate="1:1")
    production = production.rename({"trace_id": "item_id"})
    taxonomy = taxonomy_of(home, week, production)
    golden = rows.filter(pl.col("side") == "golden")
    tags = {case.case_id: case.tags for case in home.ledger.as_of(sunday_of(week))}
    found = [
        (own, sunday_of(week))
        for column in columns
        for own in slices_by(
            column,
            production.select("item_id", "session_id", "bin", "weight", value=pl.col(column)),
            golden,
            [tags.get(case_id) for case_id in golden["item_id"]],
            taxonomy.bins,
        )
    ]
    placed = _Placed(home, taxonomy, week, golden)
    by_week = [
        (
            measure_slice(
                WEEK,
                str(own),
                production.filter(pl.col("day").is_between(own, sunday_of(own))),
                placed.as_of(sunday_of(own)),
                0,
                taxonomy.bins,
            ),
            sunday_of(own),
        )
        for own in _weeks(home, week)
    ]
    return [*by_week, *found]


class _Placed:
    """The suite in one taxonomy as of several days; cases that the week's own rows hold are not placed again."""

    def __init__(self, home: Home, taxonomy: Taxonomy, week: date, golden: pl.DataFrame) -> None:
        self.home, self.taxonomy = home, taxonomy
        self.bins = dict(golden.select("item_id", "bin").iter_rows())
        self.inputs = {case.case_id: case.input for case in home.ledger.as_of(sunday_of(week))}

    def as_of(self, day: date) -> pl.DataFrame:
        cases = self.home.ledger.as_of(day)
        others = [case for case in cases if not self._is_held(case)]
        bins = dict(place_golden(self.home, self.taxonomy, others).select("item_id", "bin").iter_rows())
        held = [bins.get(case.case_id, self.bins.get(case.case_id)) for case in cases]
        return pl.DataFrame({"bin": held}, schema={"bin": pl.String})

    def _is_held(self, case: CaseVersion) -> bool:
        return self.inputs.get(case.case_id) == case.input and case.case_id in self.bins


def _weeks(home: Home, week: date) -> list[date]:
    """The Mondays of the window, oldest first."""
    return sorted({monday_of(day) for day in home.calendar.window(week)})


def _rows(home: Home, week: date, found: Sequence[tuple[Slice, date]]) -> pl.DataFrame:
    rows = [
        {
            "dimension": own.dimension,
            "value": own.value,
            **asdict(row),
            "slice_share": own.slice_share,
            "slice_n_sampled": own.n_sampled,
            "slice_n_golden": own.n_golden,
            "slice_n_golden_named": own.n_golden_named,
            "m_eff": own.m_eff,
            "is_thin": own.is_thin,
            "jsd_raw": own.jsd_raw,
            "golden_as_of": day,
        }
        for own, day in found
        for row in own.bins
    ]
    if not rows:
        return pl.DataFrame(schema=COVERAGE_SLICES.schema)
    facts = home.lake.read(BIN_ASSIGNMENTS, [week], ["weighting", "taxonomy_id"]).row(0, named=True)
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(
        is_provisional=pl.lit(home.calendar.is_provisional(week)),
        **{name: pl.lit(value) for name, value in facts.items()},
    )


# -- metadata --------------------------------------------------------------------------------------------------


def _metadata(week: date, found: Sequence[tuple[Slice, date]], *, is_drawn: bool) -> dict[str, Any]:
    """Pictures of the newest week of a run alone: a year's backfill would put ten megabytes of them into the event log."""
    if not found:
        return {"dagster/partition_row_count": 0, "reason": "no traces in the window"}
    by_dimension: dict[str, list[Slice]] = {}
    for own, _ in found:
        by_dimension.setdefault(own.dimension, []).append(own)
    pictures = {
        f"bins by {dimension}": dg.MetadataValue.md(
            as_markdown(heatmap_of(slices, f"Bins by {dimension}, week of {week}"), f"bins by {dimension}")
        )
        for dimension, slices in by_dimension.items()
        if is_drawn and (len(slices) > 1 or dimension == WEEK)  # one slice alone is the whole window
    }
    head = "| | value | traffic | traces | worth | cases | of them named | raw JSD | |"
    lines = [
        f"| {own.dimension} | {as_cell(_name(own))} | {own.slice_share:.1%} | {own.n_sampled} | {own.m_eff:.0f} | {own.n_golden} | "
        f"{own.n_golden_named} | {'' if own.jsd_raw is None else format(own.jsd_raw, '.3f')} | {_flag(own)} |"
        for own, _ in found
    ]
    return {
        "dagster/partition_row_count": sum(len(own.bins) for own, _ in found),
        "thin slices": sum(own.is_thin for own, _ in found),
        **pictures,
        "slices": dg.MetadataValue.md("\n".join([head, "|---|---|---|---|---|---|---|---|---|", *lines])),
    }


def _name(own: Slice) -> str:
    return "does not say" if own.value is None else own.value


def _flag(own: Slice) -> str:
    return (
        "no traffic" if not own.n_sampled else f"thin: luck alone adds more than {NOISE_LIMIT:g}" if own.is_thin else ""
    )


def heatmap_of(slices: Sequence[Slice], title: str) -> bytes:
    """Bins by the values of one dimension: share of each slice's traffic, and density ratio, as PNG."""
    mass: dict[str, float] = {}
    labels: dict[str, str] = {}
    for own in slices:
        for row in own.bins:
            mass[row.bin] = mass.get(row.bin, 0.0) + row.production_share * own.slice_share
            labels[row.bin] = row.label
    bins = sorted(mass, key=lambda name: (-mass[name], name))
    place = {name: i for i, name in enumerate(bins)}
    shares = np.full((len(bins), len(slices)), np.nan)
    ratios = np.full_like(shares, np.nan)
    for x, own in enumerate(slices):
        if own.slice_share > 0:
            shares[:, x] = 0.0
        for row in own.bins:
            shares[place[row.bin], x] = row.production_share if own.slice_share > 0 else np.nan
            ratios[place[row.bin], x] = np.nan if row.density_ratio is None else row.density_ratio
    return coverage_png(
        shares, ratios, [f"{labels[name]}  {name}" for name in bins], [_column(own) for own in slices], title
    )


def _column(own: Slice) -> str:
    is_week = own.dimension == WEEK and own.value is not None
    name = f"{date.fromisoformat(own.value):%d %b}" if is_week and own.value else _name(own)
    return f"{name}\nworth {own.m_eff:,.0f}\n{'thin' if own.is_thin else ''}"
