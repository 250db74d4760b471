"""Station coverage: the week's Jensen-Shannon divergence between traffic and suite, bin by bin."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from evalflow.adapters.charts import as_markdown, heatmap_png
from evalflow.adapters.home import Home
from evalflow.adapters.tables import BIN_ASSIGNMENTS, COVERAGE_METRICS, STRATIFIED_SAMPLES, TRACE_FILES
from evalflow.adapters.taxonomy import Taxonomy, load_taxonomy
from evalflow.core.calendar import DAYS_PER_WEEK, WINDOW_WEEKS, monday_of, sunday_of
from evalflow.core.coverage import BinCoverage, Coverage, measure
from evalflow.core.weighting import steady_state_masses
from evalflow.defs.clusters import place_golden
from evalflow.defs.partitions import Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_WEEKLY, OWNERS, SINGLE_RUN, Station, dates, parents, report
from evalflow.errors import CannotTellError

METHOD = "plain JSD, base 2 (divergence), raw: no correction for sampling"


def _inputs(home: Home, week: date) -> Iterable[Any]:
    yield home.calendar.is_provisional(week)
    yield home.settings.coverage.jsd_threshold
    yield from parents(home, BIN_ASSIGNMENTS, [week])


METRICS = Station("coverage_metrics", COVERAGE_METRICS, "week", "2", _inputs)


@dataclass(frozen=True)
class WeekCoverage:
    """A coverage measurement with the week, the window and the taxonomy that it belongs to."""

    week: date
    golden_as_of: date
    is_provisional: bool
    window: list[date]
    taxonomy: Taxonomy
    coverage: Coverage
    production: pl.DataFrame
    damped_days: dict[date, float]

    def document(self) -> dict[str, Any]:
        """What `evalflow coverage --json` prints. Keys are only ever added."""
        measured = self.coverage
        return {
            "as_of": str(sunday_of(self.week)),
            "week": str(self.week),
            "provisional": self.is_provisional,
            "window": {"from": str(self.window[0]), "to": str(self.window[-1]), "days": len(self.window)},
            "taxonomy": {
                "id": self.taxonomy.taxonomy_id,
                "fitted_on": self.taxonomy.fitted_on,
                "n_bins": len(self.taxonomy.bins),
                "in_sample": self.taxonomy.is_in_sample,
                "provisional": self.taxonomy.is_provisional,
            },
            "method": METHOD,
            "weighting": measured.weighting,
            "damped_days": {str(day): kept for day, kept in self.damped_days.items()},
            "golden_as_of": str(self.golden_as_of),
            "n_sampled": measured.n_sampled,
            "n_golden": measured.n_golden,
            "m_eff": measured.m_eff,
            "smallest_visible_hole": measured.smallest_visible_hole,
            "jsd": measured.jsd,
            "jsd_raw": measured.jsd_raw,
            "jsd_raw_traffic": measured.jsd_raw_traffic,
            "band": measured.band,
            "uncovered_share": measured.uncovered_share,
            "novel_share": measured.novel_share,
            "alarms": [asdict(alarm) for alarm in measured.alarms],
            "bins": [
                {**asdict(row), "newest_case_on": str(row.newest_case_on) if row.newest_case_on else None}
                for row in measured.bins
            ],
        }


def coverage_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name="coverage",
        owners=OWNERS,
        kinds={"scipy", "parquet"},
        code_version=METRICS.version,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_WEEKLY),
        deps=["bin_assignments"],
        description="A bin of the week's window: its share of traffic, its golden cases, its part of the Jensen-Shannon "
        "divergence between the two. The headline figures are in the metadata.",
    )
    def coverage_metrics(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        lake = workspace.lake
        for week in dates(context):
            lake.require(BIN_ASSIGNMENTS, [week])
            made_from = METRICS.made_from(workspace, week)
            if lake.read(BIN_ASSIGNMENTS, [week], ["side"]).is_empty():
                lake.write(COVERAGE_METRICS, week, pl.DataFrame(schema=COVERAGE_METRICS.schema), made_from=made_from)
                report(context, week, {"dagster/partition_row_count": 0, "reason": "no traces in the window"})
                continue
            measured = measure_week(workspace, week)
            lake.write(COVERAGE_METRICS, week, _rows(measured), made_from=made_from)
            report(context, week, _metadata(measured))

    return [coverage_metrics]


def measure_week(home: Home, week: date, golden_as_of: date | None = None) -> WeekCoverage:
    """Coverage of a week's window by the suite as it counted on ``golden_as_of`` (default: the week's Sunday).

    Raises:
        CannotTellError: the week was not computed yet, or its window holds no traces; the message says what to do.
    """
    home.lake.require(BIN_ASSIGNMENTS, [week])
    rows = home.lake.read(BIN_ASSIGNMENTS, [week])
    window = home.calendar.window(week)
    production = rows.filter(pl.col("side") == "production")
    if production.is_empty():
        raise CannotTellError(
            f"There are no traces from {window[0]} to {window[-1]}, the window of the week of {week}; "
            "ingest traces of those days, then `evalflow run`."
        )
    taxonomy = load_taxonomy(home.lake, home.calendar.month_in_force(week))
    if production["taxonomy_id"][0] != taxonomy.taxonomy_id:
        raise CannotTellError(
            f"The week of {week} was assigned by the taxonomy {production['taxonomy_id'][0]}, which was fitted again since "
            f"as {taxonomy.taxonomy_id}; `evalflow run` brings the week up to date."
        )
    as_of = golden_as_of or sunday_of(week)
    golden = (
        rows.filter(pl.col("side") == "golden")
        if golden_as_of in (None, sunday_of(week))
        else place_golden(home, taxonomy, home.ledger.as_of(as_of))
    )
    coverage = measure(
        production, golden, taxonomy.bins, production["weighting"][0], home.settings.coverage.jsd_threshold
    )
    return WeekCoverage(
        week,
        as_of,
        home.calendar.is_provisional(week),
        window,
        taxonomy,
        coverage,
        production,
        _damped_days(home, window),
    )


def _damped_days(home: Home, window: list[date]) -> dict[date, float]:
    """The days whose mass ``steady_state`` caps, spikes and launches alike, with the part of it that counts."""
    rows = home.lake.read(STRATIFIED_SAMPLES, window, ["day_traces"], with_key=True).unique()
    volumes = {row["day"]: row["day_traces"] for row in rows.iter_rows(named=True)}
    return steady_state_masses(volumes, home.settings.coverage.max_day_mass_sigmas).damped


def newest_week(home: Home, until: date) -> date:
    """The newest week up to the one that holds ``until`` in which traces were landed; that one itself if none were."""
    landed = home.lake.read(TRACE_FILES, home.lake.keys(TRACE_FILES), ["trace_days"])["trace_days"].to_list()
    days = [day for file in landed for day in file if day <= sunday_of(monday_of(until))]
    return monday_of(max(days, default=until))


def _rows(measured: WeekCoverage) -> pl.DataFrame:
    coverage = measured.coverage
    return pl.DataFrame([asdict(row) for row in coverage.bins], infer_schema_length=None).with_columns(
        as_of=pl.lit(sunday_of(measured.week)),
        is_provisional=pl.lit(measured.is_provisional),
        is_in_sample=pl.lit(measured.taxonomy.is_in_sample),
        window_from=pl.lit(measured.window[0]),
        window_to=pl.lit(measured.window[-1]),
        window_days=pl.lit(len(measured.window)),
        taxonomy_id=pl.lit(measured.taxonomy.taxonomy_id),
        fitted_on=pl.lit(measured.taxonomy.fitted_on),
        n_bins=pl.lit(len(measured.taxonomy.bins)),
        weighting=pl.lit(coverage.weighting),
        week_n_sampled=pl.lit(coverage.n_sampled),
        week_n_golden=pl.lit(coverage.n_golden),
        m_eff=pl.lit(coverage.m_eff),
        jsd=pl.lit(coverage.jsd),
        jsd_raw=pl.lit(coverage.jsd_raw),
        jsd_raw_traffic=pl.lit(coverage.jsd_raw_traffic),
        band=pl.lit(coverage.band),
        uncovered_share=pl.lit(coverage.uncovered_share),
        novel_share=pl.lit(coverage.novel_share),
    )


def _metadata(measured: WeekCoverage) -> dict[str, Any]:
    coverage = measured.coverage
    table = [
        f"| {row.bin} | {row.label.replace('|', '/')} | {row.production_share:.1%} | {row.golden_cases} | {row.golden_share:.1%} | "
        f"{'' if row.jsd_term is None else format(row.jsd_term, '.4f')} | {flag_of(row)} |"
        for row in coverage.bins
    ]
    head = ["| bin | label | production | cases | golden | JSD term | |", "|---|---|---|---|---|---|---|"]
    return {
        "dagster/partition_row_count": len(coverage.bins),
        "JSD": _rounded(coverage.jsd),
        "JSD (traffic weighting)": _rounded(coverage.jsd_raw_traffic),
        "band": coverage.band,
        "reason": None if coverage.n_golden else "no suite yet: import golden cases with `evalflow golden import`",
        "uncovered share": _rounded(coverage.uncovered_share),
        "novel share": _rounded(coverage.novel_share),
        "blind spots": sum(row.is_blind_spot for row in coverage.bins),
        "bins": len(measured.taxonomy.bins),
        "sampled traces": coverage.n_sampled,
        "worth independent traces": round(coverage.m_eff),
        "golden cases": coverage.n_golden,
        "weighting": coverage.weighting,
        "damped days": ", ".join(f"{day} to {kept:.0%}" for day, kept in measured.damped_days.items()) or None,
        "window": f"{measured.window[0]} to {measured.window[-1]} ({len(measured.window)} days)",
        "taxonomy": f"{measured.taxonomy.taxonomy_id}, fitted on {measured.taxonomy.fitted_on}"
        + (" (in sample)" if measured.taxonomy.is_in_sample else ""),
        "provisional": measured.is_provisional,
        "alarms": dg.MetadataValue.md("\n".join(f"- {alarm.text}" for alarm in coverage.alarms) or "none"),
        "heatmap": dg.MetadataValue.md(as_markdown(heatmap_of(measured), f"bins by weeks, week of {measured.week}")),
        "by bin": dg.MetadataValue.md("\n".join([*head, *table])),
    }


def flag_of(row: BinCoverage) -> str:
    """What stands beside a bin in a table."""
    return "blind spot" if row.is_blind_spot else "uncovered" if row.is_uncovered else ""


def _rounded(value: float | None) -> float | None:
    """For the eye; the table keeps every digit."""
    return None if value is None else round(value, 4)


def heatmap_of(measured: WeekCoverage) -> bytes:
    """Bins x weeks of the window (each week's own production shares), with the suite as the last column, as PNG."""
    first = measured.week - timedelta(weeks=WINDOW_WEEKS - 1)
    by_week = measured.production.with_columns(
        column=((pl.col("day") - first).dt.total_days() // DAYS_PER_WEEK).cast(pl.Int64)
    )
    weeks = sorted(by_week["column"].unique())
    shares = by_week.group_by("bin", "column").agg(pl.col("weight").sum())
    total = dict(shares.group_by("column").agg(pl.col("weight").sum()).iter_rows())
    cell = {(row[0], row[1]): row[2] / total[row[1]] for row in shares.iter_rows() if total[row[1]]}
    bins = measured.coverage.bins
    values = np.array([[*(cell.get((row.bin, column), 0.0) for column in weeks), row.golden_share] for row in bins])
    if not measured.coverage.n_golden:
        values[:, -1] = np.nan
    columns = [*(f"{first + timedelta(weeks=column):%d %b}" for column in weeks), "suite"]
    jsd = "no suite yet" if measured.coverage.jsd is None else f"JSD {measured.coverage.jsd:.3f}"
    return heatmap_png(values, [f"{row.label}  {row.bin}" for row in bins], columns, f"Share by bin and week: {jsd}", 1)
