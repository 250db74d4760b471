"""Station coverage: the week's Jensen-Shannon divergence between traffic and suite, bin by bin."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from evalflow.adapters.charts import as_cell
from evalflow.adapters.home import Home
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    COVERAGE_ALARMS,
    COVERAGE_METRICS,
    STRATIFIED_SAMPLES,
    TRACE_FILES,
)
from evalflow.adapters.taxonomy import Taxonomy, fitted_for, outgoing_taxonomy, taxonomy_in_force
from evalflow.core.calendar import monday_of, sunday_of
from evalflow.core.coverage import BinCoverage, Coverage, Limits, measure
from evalflow.core.weighting import steady_state_masses
from evalflow.defs.clusters import place_golden
from evalflow.defs.partitions import Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_WEEKLY, OWNERS, SINGLE_RUN, Station, dates, parents, report
from evalflow.errors import CannotTellError

METHOD = "JSD, base 2 (divergence), of the suite as it is: corrected for the sampling of production"


HEADLINES = (
    *("n_sampled", "n_golden", "m_eff", "smallest_visible_hole"),
    *("jsd", "jsd_low", "jsd_high", "jsd_sd", "jsd_raw", "jsd_traffic", "jsd_raw_traffic", "jsd_weighted"),
    *("jsd_raw_weighted", "floor_mean", "floor_p95", "jsd_p_value", "is_like_random", "jsd_reason", "cases_to_settle"),
    *("jsd_source", "jsd_source_low", "jsd_source_high", "band"),
    *("uncovered_share", "uncovered_floor_mean", "uncovered_floor_p99", "novel_share"),
    *("week_novel_share", "week_novel_share_low", "week_novel_share_high", "novel_calibration", "is_novelty_risen"),
    "jsd_previous",
)
"""The week's figures by name, as the document and every row of the table repeat them."""


def _inputs(home: Home, week: date) -> Iterable[Any]:
    yield home.calendar.is_provisional(week)
    yield home.settings.coverage.jsd_threshold
    yield home.settings.coverage.stale_days
    fitted = fitted_for(home, week)
    yield from parents(home, fitted.clusters, [fitted.key])  # labels and the calibration of novelty
    yield from parents(home, BIN_ASSIGNMENTS, [week])


METRICS = Station("coverage_metrics", COVERAGE_METRICS, "week", "3", _inputs)


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
    n_bins_previous: int | None

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
            **{name: getattr(measured, name) for name in HEADLINES},
            "n_bins_previous": self.n_bins_previous,
            "source_note": measured.source_note,
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
                for table in (COVERAGE_ALARMS, COVERAGE_METRICS):
                    lake.write(table, week, pl.DataFrame(schema=table.schema), made_from=made_from)
                report(context, week, {"dagster/partition_row_count": 0, "reason": "no traces in the window"})
                continue
            measured = measure_week(workspace, week)
            alarms = [asdict(alarm) for alarm in measured.coverage.alarms]
            lake.write(COVERAGE_ALARMS, week, pl.DataFrame(alarms, schema=COVERAGE_ALARMS.schema), made_from=made_from)
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
    taxonomy, outgoing = taxonomy_of(home, week, production), outgoing_taxonomy(home, week)
    as_of = golden_as_of or sunday_of(week)
    golden = (
        rows.filter(pl.col("side") == "golden")
        if golden_as_of in (None, sunday_of(week))
        else place_golden(home, taxonomy, home.ledger.as_of(as_of), outgoing)
    )
    limits = Limits(home.settings.coverage.jsd_threshold, home.settings.coverage.stale_days)
    calibration = None if taxonomy.is_in_sample else taxonomy.novel_calibration
    weighting = production["weighting"][0]
    coverage = measure(
        production, golden, taxonomy.bins, weighting, limits, week, calibration, max(as_of, sunday_of(week))
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
        len(outgoing.bins) if outgoing and coverage.jsd_previous is not None else None,
    )


def taxonomy_of(home: Home, week: date, production: pl.DataFrame) -> Taxonomy:
    """The taxonomy in force in the week, which must be the one that its rows were placed by.

    Raises:
        CannotTellError: it was fitted again since.
    """
    taxonomy = taxonomy_in_force(home, week)
    if production["taxonomy_id"][0] != taxonomy.taxonomy_id:
        raise CannotTellError(
            f"The week of {week} was assigned by the taxonomy {production['taxonomy_id'][0]}, which was fitted again since "
            f"as {taxonomy.taxonomy_id}; `evalflow run` brings the week up to date."
        )
    return taxonomy


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
        n_bins_previous=pl.lit(measured.n_bins_previous),
        weighting=pl.lit(coverage.weighting),
        week_n_sampled=pl.lit(coverage.n_sampled),
        week_n_golden=pl.lit(coverage.n_golden),
        **{name: pl.lit(getattr(coverage, name)) for name in HEADLINES if name in COVERAGE_METRICS.schema},
    )


def _metadata(measured: WeekCoverage) -> dict[str, Any]:
    coverage = measured.coverage
    table = [
        f"| {row.bin} | {as_cell(row.label)} | {row.production_share:.1%} | {row.golden_cases} | {row.golden_share:.1%} | "
        f"{'' if row.jsd_term is None else format(row.jsd_term, '.4f')} | {flag_of(row)} |"
        for row in coverage.bins
    ]
    head = ["| bin | label | production | cases | golden | JSD term | |", "|---|---|---|---|---|---|---|"]
    return {
        "dagster/partition_row_count": len(coverage.bins),
        "JSD": _rounded(coverage.jsd),
        "JSD, 95 % interval": None if coverage.jsd is None else interval_text(coverage.jsd_low, coverage.jsd_high),
        "JSD, raw": _rounded(coverage.jsd_raw),
        "JSD (traffic weighting)": _rounded(coverage.jsd_traffic),
        "JSD (case weights)": _rounded(coverage.jsd_weighted),
        "JSD of what the cases were drawn from": source_text(coverage),
        "random suites of this size": size_text(coverage),
        "band": coverage.band,
        "JSD under the taxonomy before": None
        if coverage.jsd_previous is None
        else f"{coverage.jsd_previous:.4f} over {measured.n_bins_previous} bins",
        "reason": None if coverage.n_golden else "no suite yet: import golden cases with `evalflow golden import`",
        "uncovered share": _rounded(coverage.uncovered_share),
        "novel share": _rounded(coverage.novel_share),
        "novel share of the week": novelty_text(coverage),
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
        "alarms": dg.MetadataValue.md("\n".join(f"- {as_cell(alarm.text)}" for alarm in coverage.alarms) or "none"),
        "by bin": dg.MetadataValue.md("\n".join([*head, *table])),
    }


def flag_of(row: BinCoverage) -> str:
    """What stands beside a bin in a table."""
    return "blind spot" if row.is_blind_spot else "uncovered" if row.is_uncovered else "stale" if row.is_stale else ""


def interval_text(low: float | None, high: float | None) -> str:
    return "no interval: one session is all there is" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def size_text(coverage: Coverage) -> str | None:
    """The JSD beside what random suites of the same size show."""
    if coverage.floor_mean is None or coverage.jsd_p_value is None:
        return None
    chance = f"p {coverage.jsd_p_value:.2g}" if coverage.jsd_p_value > 0.001 else "p <= .001"
    verdict = "this one looks like them" if coverage.is_like_random else "this one does not look like them"
    return (
        f"random suites of {coverage.n_golden:,} cases show {coverage.floor_mean:.3f} on average and up to "
        f"{coverage.floor_p95:.3f} in 95 of 100; {verdict} ({chance})"
    )


def source_text(coverage: Coverage) -> str | None:
    """How far what the cases were drawn from is from the traffic, or why that cannot be said."""
    if coverage.jsd_source is None:
        return coverage.source_note
    return f"{coverage.jsd_source:.3f} {interval_text(coverage.jsd_source_low, coverage.jsd_source_high)}"


def novelty_text(coverage: Coverage) -> str | None:
    """The week's own novel share beside what it was for traffic that the taxonomy knew."""
    if coverage.week_novel_share is None:
        return None
    own = f"{coverage.week_novel_share:.1%} [{coverage.week_novel_share_low:.1%}, {coverage.week_novel_share_high:.1%}]"
    if coverage.novel_calibration is None:
        return (
            f"{own} in the week itself; the taxonomy was fitted on its own traffic, so there is nothing to compare with"
        )
    return f"{own} in the week itself, {coverage.novel_calibration:.1%} when the taxonomy was fitted"


def _rounded(value: float | None) -> float | None:
    """For the eye; the table keeps every digit."""
    return None if value is None else round(value, 4)
