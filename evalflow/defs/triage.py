"""Station triage: which traces people should look at (``triage_queue``), filled from the week's plan and day by day.

A refresh fills it from its plan, the daily capture with new failures alone. The queue of a week only ever grows: what
was queued stays until it is answered.
"""

from collections import Counter
from datetime import date
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from evalflow.adapters.charts import as_cell
from evalflow.adapters.home import Home
from evalflow.adapters.journal import locked
from evalflow.adapters.tables import BIN_ASSIGNMENTS, REFRESH_PLAN, TRIAGE_QUEUE
from evalflow.core.lineage import fingerprint
from evalflow.core.routing import DEFAULT_QUEUE
from evalflow.defs.failures import days_of
from evalflow.defs.filling import Filled, Filling, Labels
from evalflow.defs.partitions import WEEKS, Partitions
from evalflow.defs.plan import GROUP
from evalflow.defs.queue import LOCK
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import OWNERS, SINGLE_RUN, dates, parents, report

CODE_VERSION = "3"
SHOWN_ITEMS = 20
PLAN_COLUMNS = (
    *("bin", "label", "production_share", "golden_cases", "is_blind_spot", "quota", "reason", "gain"),
    *("failure_labels", "calibration_labels", "taxonomy_id"),
)
CAPTURES = {"only_captures": True}
"""Config of ``triage_queue`` in the daily capture."""


class QueueConfig(dg.Config):
    """What is added to the queue."""

    only_captures: bool = Field(
        default=False,
        description="Only new failures, so many for each day of the week that has passed, whether or not there is a plan.",
    )


def triage_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "parquet"},
        code_version=CODE_VERSION,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        deps=[
            "refresh_plan",
            "bin_assignments",
            dg.AssetDep("raw_traces", partition_mapping=WEEKS),
            dg.AssetDep("trace_signals", partition_mapping=WEEKS),
            dg.AssetDep("stratified_samples", partition_mapping=WEEKS),
            dg.AssetDep("embeddings", partition_mapping=WEEKS),
            dg.AssetDep("judge_grades", partition_mapping=WEEKS),
            "coverage_metrics",
            dg.AssetDep("feedback", partition_mapping=WEEKS),
            dg.AssetDep("golden_ledger", partition_mapping=dg.AllPartitionMapping()),
        ],
        description="A trace for people to look at, scrubbed, with its conversation, its named queue and the reason why: a "
        "complaint, a failing grade, a recorded failure, traffic that no case tests, a random draw, a quota of the plan. "
        "What was queued stays queued.",
    )
    def triage_queue(context: dg.AssetExecutionContext, config: QueueConfig, home: HomeResource) -> None:
        workspace = home.open()
        fill = _capture_week if config.only_captures else _fill_week
        for week in dates(context):
            with locked(workspace.path / LOCK):  # another refresh of the week adds to what this one leaves
                report(context, week, fill(workspace, week))

    return [triage_queue]


def _fill_week(home: Home, week: date) -> dict[str, Any]:
    """Add to the week's queue what its plan wants and no queue holds; returns the metadata."""
    home.lake.require(REFRESH_PLAN, [week])
    plan = home.lake.read(REFRESH_PLAN, [week], PLAN_COLUMNS)
    if plan.is_empty():
        return _written(home, week, None) | {"reason": "the week has no plan"}
    labels = Labels(int(plan["failure_labels"][0]), int(plan["calibration_labels"][0]))
    return _written(home, week, Filling(home, week, plan, labels))


def _capture_week(home: Home, week: date) -> dict[str, Any]:
    """Add the failures that have turned up since to the week's queue, up to so many a day; returns the metadata."""
    home.lake.require(BIN_ASSIGNMENTS, [week])
    labels = Labels(home.settings.triage.captured_per_day * len(days_of(home, week)), 0)
    no_plan = home.lake.read(REFRESH_PLAN, [week], PLAN_COLUMNS).clear()
    is_empty = (home.lake.read(BIN_ASSIGNMENTS, [week], ["side"])["side"] == "production").sum() == 0
    if is_empty:
        return _written(home, week, None) | {"reason": "the week's window holds no traces"}
    return _written(home, week, Filling(home, week, no_plan, labels))


def _written(home: Home, week: date, filling: Filling | None) -> dict[str, Any]:
    """The queue with what the filling adds, written; without one as it is."""
    made_from = fingerprint("triage_queue", CODE_VERSION, week, parents(home, REFRESH_PLAN, [week]))
    if filling is None:
        held = home.lake.read(TRIAGE_QUEUE, [week], is_kept=True)
        home.lake.write(TRIAGE_QUEUE, week, held, made_from=made_from)
        return {"dagster/partition_row_count": len(held)}
    filled = filling.fill()
    rows = pl.concat([filled.held, filled.rows]).sort(["priority", "trace_id"], descending=[True, False])
    home.lake.write(TRIAGE_QUEUE, week, rows, made_from=made_from)
    return _queue_metadata(rows, filled)


def _queue_metadata(rows: pl.DataFrame, filled: Filled) -> dict[str, Any]:
    by_source = Counter(rows["source"])
    return {
        "dagster/partition_row_count": len(rows),
        "added": len(filled.rows),
        "there before": len(rows) - len(filled.rows),
        **{f"from {source.replace('_', ' ')}": count for source, count in sorted(by_source.items())},
        **{f"queue {name}": count for name, count in sorted(Counter(rows["queue"].fill_null(DEFAULT_QUEUE)).items())},
        "beyond the sample": int((rows["selected_by"] == "refresh_quota").sum()),
        "unsampled traces scanned": filled.n_scanned,
        "labels without a trace": sum(filled.unfilled.values()),
        "sampled traces that are gone": filled.n_gone,
        "drawn at random": dg.MetadataValue.md(_floor_table(filled)) if filled.floor else None,
        "judged traces of other queues": filled.n_elsewhere if filled.floor else None,
        "notes": dg.MetadataValue.md("\n".join(f"- {as_cell(note)}" for note in filled.notes))
        if filled.notes
        else None,
        "most urgent": dg.MetadataValue.md(
            "\n".join(
                ["| trace | why | bin | priority |", "|---|---|---|---|", *map(_row, rows.head(SHOWN_ITEMS).to_dicts())]
            )
        ),
        "next": "evalflow review, or evalflow triage export --out queue.jsonl, answer, evalflow triage import queue.jsonl",
    }


def _floor_table(filled: Filled) -> str:
    lines = [f"| {cell.words} | {drawn.size:,} | {len(drawn.trace_ids)} |" for cell, drawn in filled.floor.items()]
    return "\n".join(["| judged traces of the week | there are | drawn |", "|---|---|---|", *lines])


def _row(item: dict[str, Any]) -> str:
    """An item without its text, which is hostile and may hold markup of its own."""
    source = item["source"].replace("_", " ")
    return f"| {as_cell(item['trace_id'])} | {source} | {as_cell(item['label'])} | {item['priority']:.2f} |"
