"""Station errors: a batch of traces to read (``error_batch``), what their notes say of the traffic (``error_themes``),
and the last answers before users gave up (``abandonment_clusters``).

All of it is made on demand: nothing else waits for it, and `evalflow run` does not walk it.
Keep out: the statistics (``core/error_analysis.py``), themes (``themes.py``), abandonment (``abandonment.py``).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from evalflow.adapters.charts import as_cell
from evalflow.adapters.home import Home
from evalflow.adapters.journal import locked
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import (
    ABANDONMENT_CLUSTERS,
    BIN_ASSIGNMENTS,
    ERROR_BATCH,
    ERROR_DRAW,
    ERROR_THEMES,
    STRATIFIED_SAMPLES,
    TRACE_SIGNALS,
)
from evalflow.adapters.taxonomy import taxonomy_in_force
from evalflow.core.error_analysis import POOL_REASONS, POOLS, draw_batch, pools_of, struggling_sessions
from evalflow.core.lineage import fingerprint
from evalflow.core.routing import queue_of
from evalflow.core.sampling import random_numbers
from evalflow.defs.abandonment import ABANDONED, abandonment_rows
from evalflow.defs.capture import contexts_of
from evalflow.defs.partitions import WEEKS, Partitions
from evalflow.defs.queue import LOCK, QueueIndex
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import OWNERS, SINGLE_RUN, dates, parents, report
from evalflow.defs.themes import THEMES, theme_rows

GROUP = "errors"
BATCH_VERSION = "1"
SOURCE = "error_analysis"
BATCH_PRIORITY, PRIORITY_SPAN = 0.7, 0.1
"""Below complaints and judged failures; within the batch the order of the draw, which spreads every pool evenly."""
SHOWN_CODES = 3


class BatchConfig(dg.Config):
    """What a batch may ask for."""

    size: int | None = Field(default=None, ge=10, description="Traces; without it, errors.batch of the settings.")


@dataclass(frozen=True)
class Batch:
    """A week's batch: every sampled trace with its pool, the queue's rows, and how many of them are new."""

    frame: pl.DataFrame
    rows: pl.DataFrame
    n_added: int
    n_gone: int


def error_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "parquet"},
        code_version=BATCH_VERSION,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        deps=[
            "bin_assignments",
            dg.AssetDep("trace_signals", partition_mapping=WEEKS),
            dg.AssetDep("stratified_samples", partition_mapping=WEEKS),
        ],
        description="A trace to read for error analysis, drawn from the window's sample: guardrail hits, long sessions that "
        "struggle, slow answers, negative signals, and a random baseline, each with the chance that it was drawn "
        "(error_draw). What a queue holds already is part of the draw without a second row. Made on demand.",
    )
    def error_batch(context: dg.AssetExecutionContext, config: BatchConfig, home: HomeResource) -> None:
        workspace = home.open()
        for week in dates(context):
            workspace.lake.require(BIN_ASSIGNMENTS, [week])
            with locked(workspace.path / LOCK):
                report(context, week, _batch_metadata(write_batch(workspace, week, config.size)))

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"scikitlearn", "parquet"},
        code_version=THEMES.version,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        deps=["error_batch"],
        description="A theme of what goes wrong and its share of the window's traffic and of its failing traffic, with "
        "intervals, from the answered traces of the batch and their two chances. Traces of unknown chance stand beside "
        "as also seen. Made on demand, after answers.",
    )
    def error_themes(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        for week in dates(context):
            made_from = THEMES.made_from(workspace, week)
            rows = theme_rows(workspace, week)
            workspace.lake.write(ERROR_THEMES, week, rows, made_from=made_from)
            report(context, week, _themes_metadata(rows))

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"scikitlearn", "parquet"},
        code_version=ABANDONED.version,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        deps=[
            "bin_assignments",
            dg.AssetDep("trace_signals", partition_mapping=WEEKS),
            dg.AssetDep("stratified_samples", partition_mapping=WEEKS),
        ],
        description="A kind of last answer that the assistant gave before users abandoned the session, with its share of the "
        "window's abandoned sessions and examples. Made on demand.",
    )
    def abandonment_clusters(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        for week in dates(context):
            workspace.lake.require(BIN_ASSIGNMENTS, [week])
            made_from = ABANDONED.made_from(workspace, week)
            rows = abandonment_rows(workspace, week)
            workspace.lake.write(ABANDONMENT_CLUSTERS, week, rows, made_from=made_from)
            report(context, week, _abandonment_metadata(rows))

    return [error_batch, error_themes, abandonment_clusters]


# -- the batch -------------------------------------------------------------------------------------------------


def write_batch(home: Home, week: date, size: int | None) -> Batch:
    """Draw the week's batch and queue what no queue holds; what was queued before stays, and a batch never shrinks.

    Args:
        size: traces of the batch; None for ``errors.batch`` of the settings.
    """
    lake, settings = home.lake, home.settings.errors
    held, drawn_before = lake.read(ERROR_BATCH, [week]), lake.read(ERROR_DRAW, [week], ["batch_size"])
    before = int(drawn_before["batch_size"].max() or 0)  # type: ignore[arg-type]  # a column of integers
    asked = max(size or settings.batch, before)
    inputs = (asked, settings.model_dump(mode="json"), home.settings.sampling.salt)
    window = home.calendar.window(week)
    made_from = fingerprint(
        *("error_batch", BATCH_VERSION, week, inputs, parents(home, BIN_ASSIGNMENTS, [week])),
        *(parents(home, TRACE_SIGNALS, window), parents(home, STRATIFIED_SAMPLES, window)),
    )
    frame = draw_of_week(home, week, asked)
    added, n_gone = _new_rows(home, week, frame, held)
    rows = pl.concat([held, added]).sort(["priority", "trace_id"], descending=[True, False])
    lake.write(ERROR_DRAW, week, frame.select(list(ERROR_DRAW.schema)), made_from=made_from)
    lake.write(ERROR_BATCH, week, rows, made_from=made_from)
    return Batch(frame, rows, len(added), n_gone)


def draw_of_week(home: Home, week: date, size: int) -> pl.DataFrame:
    """Every sampled trace of the window with its pool and whether a batch of ``size`` draws it; see ``draw_batch``.

    By one random number per trace for all weeks, so that the batch of the next week holds again what it can: a window
    shares three weeks with the next, and a trace that is answered need not be read twice.
    """
    window, settings = home.calendar.window(week), home.settings.errors
    rows = home.lake.read(BIN_ASSIGNMENTS, [week]).filter(pl.col("side") == "production")
    kept = ("session_id", "day", "bin", "inclusion_probability", "weight", "weighting", "taxonomy_id")
    sample = rows.select(pl.col("item_id").alias("trace_id"), *kept)
    signals = home.lake.read(
        TRACE_SIGNALS, window, ["trace_id", "session_id", "is_negative", "is_guardrail_hit"], with_key=True
    )
    measured = home.lake.read(STRATIFIED_SAMPLES, window, ["trace_id", "model", "latency_ms"], with_key=True)
    for other in (signals.drop("session_id"), measured):
        sample = sample.join(other, on=["day", "trace_id"], how="left", maintain_order="left", validate="1:1")
    struggling = struggling_sessions(signals, settings.long_turns, settings.struggling_turns)
    sample = sample.with_columns(
        pool=pools_of(sample, struggling, settings.slow_quantile),
        number=pl.Series(random_numbers(f"{home.settings.sampling.salt}/errors", sample["trace_id"]), dtype=pl.Float64),
        batch_size=pl.lit(size, pl.Int64),
    )
    return draw_batch(sample, size, settings.baseline_share)


def _new_rows(home: Home, week: date, frame: pl.DataFrame, held: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The queue's rows of the drawn traces that neither a queue nor the suite holds, and how many are there no more."""
    queued = {item.trace_id for item in QueueIndex(home).items()} | set(held["trace_id"])
    cases = home.ledger.newest().values()
    queued |= {trace_id for case in cases for trace_id in case.trace_ids}
    new = frame.filter(pl.col("is_drawn") & ~pl.col("trace_id").is_in(list(queued)))
    if new.is_empty():
        return pl.DataFrame(schema=ERROR_BATCH.schema), 0
    taxonomy, scrubber = taxonomy_in_force(home, week), Scrubber(home.settings.privacy)
    labels, found = taxonomy.bins, []
    for day in sorted(new["day"].unique()):
        of_day = new.filter(pl.col("day") == day).sort("trace_id")
        contexts = contexts_of(home, day, of_day["trace_id"].to_list(), scrubber)
        for trace in of_day.iter_rows(named=True):
            if (context := contexts.get(trace["trace_id"])) is None:
                continue
            row = {
                **context,
                "trace_id": trace["trace_id"],
                "source": SOURCE,
                "reason": _why(trace),
                "priority": BATCH_PRIORITY - PRIORITY_SPAN * trace["place"],
                "bin": trace["bin"],
                "label": labels.get(trace["bin"], trace["bin"]),
                "selected_by": "sample",
                "inclusion_probability": trace["inclusion_probability"],
                "label_probability": trace["label_probability"],
                "novel_above": taxonomy.novel_above,
                "queued_on": home.calendar.now,
                "taxonomy_id": trace["taxonomy_id"],
            }
            found.append({**row, "queue": queue_of(home.settings.triage.routes, row)})
    return pl.DataFrame(found, schema=ERROR_BATCH.schema), len(new) - len(found)


def _why(trace: dict[str, Any]) -> str:
    return (
        f"error analysis, {POOL_REASONS[trace['pool']]}: one of {trace['pool_traces']} such traces in the sample, drawn with "
        f"a chance of {trace['label_probability']:.2g}"
    )


# -- metadata --------------------------------------------------------------------------------------------------


def pool_table(frame: pl.DataFrame, queued: Iterable[str]) -> list[dict[str, Any]]:
    """Per pool of a draw: its share of the traffic, sampled and drawn traces, and how many of these have a row of the batch."""
    own = set(queued)
    table = []
    for pool in POOLS:
        rows = frame.filter(pl.col("pool") == pool)
        drawn = rows.filter("is_drawn")
        table.append(
            {
                "pool": pool,
                "traffic_share": float(rows["weight"].to_numpy().sum()),
                "sampled": len(rows),
                "drawn": len(drawn),
                "label_probability": drawn["label_probability"][0] if len(drawn) else None,
                "queued_before": sum(trace_id not in own for trace_id in drawn["trace_id"]),
            }
        )
    return table


def _batch_metadata(batch: Batch) -> dict[str, Any]:
    if batch.frame.is_empty():
        return {"dagster/partition_row_count": len(batch.rows), "reason": "no traces in the window"}
    lines = [
        f"| {row['pool']} | {row['traffic_share']:.1%} | {row['sampled']} | {row['drawn']} | {row['queued_before']} |"
        for row in pool_table(batch.frame, batch.rows["trace_id"])
    ]
    head = [
        "| pool | traffic | in the sample | drawn | of these in another queue or the suite |",
        "|---|---|---|---|---|",
    ]
    return {
        "dagster/partition_row_count": len(batch.rows),
        "drawn": int(batch.frame["is_drawn"].sum()),
        "added to the queue": batch.n_added,
        "there before": len(batch.rows) - batch.n_added,
        "drawn traces that are gone": batch.n_gone,
        "pools": dg.MetadataValue.md("\n".join([*head, *lines])),
        "next": "evalflow review, or evalflow triage export; then evalflow errors themes",
    }


def _themes_metadata(rows: pl.DataFrame) -> dict[str, Any]:
    if rows.is_empty():
        return {"dagster/partition_row_count": 0}
    first = rows.row(0, named=True)
    lines = [
        f"| {as_cell(row['name'] or row['theme_id'])} | {_interval(row, 'share')} | {_interval(row, 'failing_share')} "
        f"| {row['n_coded']} | {row['also_seen']} | {as_cell('; '.join(row['codes'][:SHOWN_CODES]))} |"
        for row in rows.filter(pl.col("theme_id").is_not_null()).iter_rows(named=True)
    ]
    head = [
        "| theme | of the traffic | of the failing traffic | in the batch | also seen | codes |",
        "|---|---|---|---|---|---|",
    ]
    return {
        "dagster/partition_row_count": len(rows),
        "failing traffic": _interval(first, "failing_traffic_share"),
        "answered": f"{first['n_answered']} of {first['n_drawn']}",
        "reason": first["reason"],
        "themes": dg.MetadataValue.md("\n".join([*head, *lines])) if lines else None,
    }


def _abandonment_metadata(rows: pl.DataFrame) -> dict[str, Any]:
    if rows.is_empty():
        return {"dagster/partition_row_count": 0}
    first = rows.row(0, named=True)
    lines = [
        f"| {as_cell(row['label'])} | {_interval(row, 'share')} | {row['n_sessions']} | {as_cell(row['examples'][0][:200])} |"
        for row in rows.filter(pl.col("cluster_id").is_not_null()).iter_rows(named=True)
    ]
    head = ["| last answers like | of abandoned sessions | sessions | for example |", "|---|---|---|---|"]
    return {
        "dagster/partition_row_count": len(rows),
        "abandoned sessions": _interval(first, "abandoned_share"),
        "sessions looked at": first["week_n_sessions"],
        "reason": first["reason"],
        "last answers": dg.MetadataValue.md("\n".join([*head, *lines])) if lines else None,
    }


def _interval(row: dict[str, Any], name: str) -> str | None:
    if row[name] is None:
        return None
    return f"{row[name]:.1%} ({row[f'{name}_low']:.1%} to {row[f'{name}_high']:.1%})"
