"""Station traffic: source files to one clean row per trace, and the signals of each trace."""

from collections.abc import Iterable
from datetime import date
from typing import Any

import dagster as dg
import polars as pl
from dagster_duckdb import DuckDBResource
from pydantic import Field

from evalflow.adapters.home import Home
from evalflow.adapters.landing import LandingReport, land, landing_files
from evalflow.adapters.tables import FEEDBACK, LANDING, LANDING_FEEDBACK, RAW_TRACES, TRACE_SIGNALS, Table
from evalflow.core.signals import NEGATIVE_SIGNALS
from evalflow.core.signals import trace_signals as signals_of
from evalflow.defs.partitions import Partitions, later_days
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_DAILY, OWNERS, SINGLE_RUN, Station, dates, parents, report

GROUP = "traffic"


def _landed(table: Table, days_column: str) -> Any:
    def inputs(home: Home, day: date) -> Iterable[Any]:
        files = landing_files(home.lake, table, days_column, [day])[day]
        return [path.rsplit("/", 1)[1] for path in files]

    return inputs


def _signal_inputs(home: Home, day: date) -> Iterable[Any]:
    yield from parents(home, RAW_TRACES, [day])
    later = home.calendar.feedback_days(day, home.settings.ingest.feedback_days)
    files = landing_files(home.lake, LANDING_FEEDBACK, "feedback_days", later)
    # Days on which nothing came in are left out, or a day's signals would change with every day that passes.
    yield from parents(home, FEEDBACK, [each for each in later if files[each]])


RAW = Station("raw_traces", RAW_TRACES, "day", "1", _landed(LANDING, "trace_days"))
LATER = Station("feedback", FEEDBACK, "day", "1", _landed(LANDING_FEEDBACK, "feedback_days"))
SIGNALS = Station("trace_signals", TRACE_SIGNALS, "day", "1", _signal_inputs)

MERGE_TRACES = """
with
landed as (select * from read_parquet($files)),
newest as (
    select *, row_number() over (partition by trace_id order by landed_seq desc, source_file desc, line desc) as age
    from landed
)
select * from newest where age = 1 and not is_moved_away order by timestamp, trace_id
"""
MERGE_FEEDBACK = """
with
landed as (select * from read_parquet($files)),
newest as (
    select
        *,
        row_number() over (
            partition by trace_id, timestamp, name, coalesce(source, '')
            order by landed_seq desc, source_file desc, line desc
        ) as age
    from landed
)
select * from newest where age = 1 order by timestamp, trace_id, name, value
"""


class TraceFilesConfig(dg.Config):
    """Where to look; nothing means the `[sources]` of the settings."""

    paths: list[str] = Field(default=[])


def traffic_assets(partitions: Partitions, feedback_days: int) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"file", "parquet"},
        code_version="1",
        description="A landed source file: every new or changed file of [sources] is read exactly once. Bad rows go to quarantine.",
    )
    def trace_files(
        context: dg.AssetExecutionContext, home: HomeResource, config: TraceFilesConfig
    ) -> dg.MaterializeResult:
        workspace = home.open()
        paths = config.paths or workspace.settings.sources.traces
        if not paths:
            context.log.info("No paths were given and [sources] traces is empty: nothing to land.")
        landed = land(
            workspace,
            paths,
            lambda file: context.log.info(
                f"{file.path}: {file.n_traces} traces, {file.n_feedback} feedback, {file.n_quarantined} quarantined"
                if file.is_new
                else f"{file.path}: landed before, skipped"
            ),
        )
        if landed.start_moved_to:
            context.log.warning(
                f"traffic_start is now {landed.start_moved_to}; reload the code location so that the UI shows the new days."
            )
        return dg.MaterializeResult(metadata=_landing_metadata(landed))

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"duckdb", "parquet"},
        code_version=RAW.version,
        partitions_def=partitions.daily,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_DAILY),
        deps=[trace_files],
        description="A trace of the day, newest version only. The same trace landed twice is one row.",
    )
    def raw_traces(context: dg.AssetExecutionContext, home: HomeResource, duckdb: DuckDBResource) -> None:
        _merge(context, home.open(), duckdb, RAW, LANDING, "trace_days", MERGE_TRACES)

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"duckdb", "parquet"},
        code_version=LATER.version,
        partitions_def=partitions.daily,
        backfill_policy=SINGLE_RUN(),
        deps=[trace_files],
        description="A feedback event that arrived on the day, linked to its trace by trace_id.",
    )
    def feedback(context: dg.AssetExecutionContext, home: HomeResource, duckdb: DuckDBResource) -> None:
        _merge(context, home.open(), duckdb, LATER, LANDING_FEEDBACK, "feedback_days", MERGE_FEEDBACK)

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "parquet"},
        code_version=SIGNALS.version,
        partitions_def=partitions.daily,
        backfill_policy=SINGLE_RUN(),
        deps=[raw_traces, dg.AssetDep(feedback, partition_mapping=later_days(feedback_days))],
        description="What each trace's user and system did that hints at a failure: true, false, or null where unknown.",
    )
    def trace_signals(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        lake, window = workspace.lake, workspace.settings.ingest.feedback_days
        for day in dates(context):
            made_from = SIGNALS.made_from(workspace, day)
            lake.require(RAW_TRACES, [day])
            traces = lake.read(RAW_TRACES, [day])
            signals = signals_of(traces, lake.read(FEEDBACK, workspace.calendar.feedback_days(day, window)))
            lake.write(TRACE_SIGNALS, day, signals, made_from=made_from)
            report(context, day, {"dagster/partition_row_count": len(signals), **_signal_metadata(signals)})

    return [trace_files, raw_traces, feedback, trace_signals]


def _merge(
    context: dg.AssetExecutionContext,
    home: Home,
    duckdb: DuckDBResource,
    station: Station,
    landing: Table,
    days_column: str,
    sql: str,
) -> None:
    days = dates(context)
    made_from = {day: station.made_from(home, day) for day in days}
    files = landing_files(home.lake, landing, days_column, days)
    with duckdb.get_connection() as connection, home.lake.attach(connection):
        for day in days:
            if files[day]:
                named = [
                    path if home.lake.is_local else str(home.lake.fs.unstrip_protocol(path)) for path in files[day]
                ]
                rows = connection.sql(sql, params={"files": named}).pl()
            else:
                rows = pl.DataFrame(schema=station.table.schema)
            home.lake.write(station.table, day, rows, made_from=made_from[day])
            report(context, day, {"dagster/partition_row_count": len(rows), "landed files": len(files[day])})


def _landing_metadata(landed: LandingReport) -> dict[str, Any]:
    reasons: dict[str, int] = {}
    for file in landed.files:
        for reason, count in file.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    rows = [f"| {reason} | {count} |" for reason, count in sorted(reasons.items(), key=lambda item: -item[1])]
    return {
        "traces": landed.n_traces,
        "feedback": landed.n_feedback,
        "quarantined": landed.n_quarantined,
        "new files": len(landed.files) - landed.n_skipped,
        "files landed before": landed.n_skipped,
        "quarantine": dg.MetadataValue.md("\n".join(["| reason | lines |", "|---|---|", *rows]) if rows else "nothing"),
        "report": dg.MetadataValue.json(
            {
                "files": [
                    {
                        "path": file.path,
                        "is_new": file.is_new,
                        "traces": file.n_traces,
                        "feedback": file.n_feedback,
                        "quarantined": file.n_quarantined,
                        "first_bad": [{"line": line, "reason": reason} for line, reason in file.first_bad],
                    }
                    for file in landed.files
                ],
                "ignored": landed.ignored,
                "days": sorted(str(day) for day in landed.touched_days),
                "traffic_start": str(landed.start_moved_to) if landed.start_moved_to else None,
            }
        ),
    }


def _signal_metadata(signals: pl.DataFrame) -> dict[str, Any]:
    known = [name for name in NEGATIVE_SIGNALS if signals[name].null_count() < len(signals)]
    rows = [
        f"| {name.removeprefix('is_')} | {signals[name].sum()} | {len(signals) - signals[name].null_count()} |"
        for name in known
    ]
    return {
        "negative share": float(signals["is_negative"].mean() or 0.0) if len(signals) else None,  # type: ignore[arg-type]  # mean of booleans is a float
        "signals": dg.MetadataValue.md("\n".join(["| signal | true | known |", "|---|---|---|", *rows])),
    }
