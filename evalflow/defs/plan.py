"""Station plan: how many labels each bin should get (``refresh_plan``), and which cases nothing resembles any more.

Made on demand, by a refresh: the command, the sensor and the quarterly schedule start the same run.
Keep out: which traces fill the quotas (``triage.py``).
"""

from collections import Counter
from datetime import date, timedelta
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from evalflow.adapters.embedder import Embedder, vectors_of
from evalflow.adapters.home import Home
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import BIN_ASSIGNMENTS, EMBEDDINGS, REFRESH_PLAN, RETIREMENT_CANDIDATES
from evalflow.core.calendar import monday_of, sunday_of
from evalflow.core.coverage import NOVEL
from evalflow.core.lineage import fingerprint
from evalflow.core.planning import BinState, Floors, Plan, plan_refresh, whole_part, yields
from evalflow.core.reviewing import decide
from evalflow.core.text import text_hash
from evalflow.defs.coverage import WeekCoverage, measure_week, newest_week
from evalflow.defs.partitions import Partitions
from evalflow.defs.queue import failures, queued_items
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import OWNERS, SINGLE_RUN, dates, parents, report

GROUP = "triage"
CODE_VERSION = "1"


class RefreshConfig(dg.Config):
    """How many labels a refresh may ask for."""

    budget: int | None = Field(
        default=None, gt=0, description="Labels; when not given, refresh.budget of the settings."
    )


def plan_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"scipy", "parquet"},
        code_version=CODE_VERSION,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        deps=["coverage_metrics", "bin_assignments"],
        description="A bin and the labels it should get, so that each label lowers JSD as far as it can; made by a refresh. "
        "Beside it, the cases that nothing in the traffic resembles any more.",
    )
    def refresh_plan(context: dg.AssetExecutionContext, config: RefreshConfig, home: HomeResource) -> None:
        workspace = home.open()
        budget = config.budget or workspace.settings.refresh.budget
        for week in dates(context):
            workspace.lake.require(BIN_ASSIGNMENTS, [week])
            if workspace.lake.read(BIN_ASSIGNMENTS, [week], ["side"]).is_empty():
                workspace.lake.write(REFRESH_PLAN, week, pl.DataFrame(schema=REFRESH_PLAN.schema))
                workspace.lake.write(RETIREMENT_CANDIDATES, week, pl.DataFrame(schema=RETIREMENT_CANDIDATES.schema))
                report(context, week, {"dagster/partition_row_count": 0, "reason": "no traces in the window"})
                continue
            measured = measure_week(workspace, week)
            rows = _plan_rows(workspace, measured, budget)
            retirable = retirement_candidates(workspace, measured)
            made_from = fingerprint(
                "refresh_plan", CODE_VERSION, week, budget, parents(workspace, BIN_ASSIGNMENTS, [week])
            )
            workspace.lake.write(RETIREMENT_CANDIDATES, week, retirable, made_from=made_from)
            workspace.lake.write(REFRESH_PLAN, week, rows, made_from=made_from)
            report(context, week, _plan_metadata(rows, retirable))

    return [refresh_plan]


def refresh_week(home: Home, as_of: date | None) -> date:
    """The week that a refresh is about: that of ``as_of``, else the newest closed one, else the running one."""
    if as_of is not None:
        return monday_of(as_of)
    closed = newest_closed_week(home)
    newest = newest_week(home, home.calendar.last_day)
    return min(closed, newest) if closed else newest


def newest_closed_week(home: Home) -> date | None:
    """The last week whose Sunday has passed; None while the first one is running."""
    closed = [week for week in home.calendar.weeks() if not home.calendar.is_provisional(week)]
    return closed[-1] if closed else None


def _plan_rows(home: Home, measured: WeekCoverage, budget: int) -> pl.DataFrame:
    settings, coverage = home.settings.refresh, measured.coverage
    bins = [row.bin for row in coverage.bins]
    history = _history(home, measured, bins)
    n_failures = min(whole_part(settings.failure_share, budget), _n_failures(home, measured))
    states = [
        BinState(row.bin, row.production_share, row.golden_cases, row.is_blind_spot, history[row.bin])
        for row in coverage.bins
    ]
    floors = Floors(settings.blind_spot_floor, settings.edge_floor, settings.covered_share)
    plan: Plan = plan_refresh(states, budget - n_failures, floors)
    return pl.DataFrame(
        {
            "bin": bins,
            "label": [row.label for row in coverage.bins],
            "production_share": [row.production_share for row in coverage.bins],
            "golden_cases": [row.golden_cases for row in coverage.bins],
            "is_blind_spot": [row.is_blind_spot for row in coverage.bins],
            "quota": [quota.labels for quota in plan.quotas],
            "yield_share": [history[name] for name in bins],
            "cases_after": [quota.cases_after for quota in plan.quotas],
            "reason": [quota.reason for quota in plan.quotas],
            "gain": [quota.gain for quota in plan.quotas],
        }
    ).with_columns(
        budget=pl.lit(budget),
        failure_labels=pl.lit(n_failures),
        jsd_raw_before=pl.lit(plan.jsd_before, pl.Float64),
        jsd_raw_predicted=pl.lit(plan.jsd_predicted, pl.Float64),
        golden_as_of=pl.lit(measured.golden_as_of),
        taxonomy_id=pl.lit(measured.taxonomy.taxonomy_id),
    )


def _history(home: Home, measured: WeekCoverage, bins: list[str]) -> dict[str, float]:
    """What a label gave so far, by bin of this week's taxonomy, from the answers before the week closed.

    Every answered label of a quota counts, also one that came to nothing; a case only where it was not merged.
    """
    closing = sunday_of(measured.week) + timedelta(days=1)
    texts: list[tuple[str, str]] = []
    gave_case: list[bool] = []
    for item in queued_items(home):
        row = item.row
        reviews = [review for review in item.reviews if review.reviewed_at and review.reviewed_at.date() < closing]
        if reviews and row["source"] == "quota":
            decision = decide(row["trace_id"], row["source"], row["output"], reviews)
            texts.append((row["text"], row["text_hash"]))
            gave_case.append(decision.state == "confirmed" and not item.is_merged)
    if not texts:
        return yields({}, {}, bins)
    embedder = Embedder(home.settings.embedding, home.cache)
    vectors = embedder.embed([text for text, _ in texts])
    placed = measured.taxonomy.place(
        np.stack([vectors[key] for _, key in texts]), [embedder.model_id], home.settings.clustering.vote_neighbors
    )["bin"].to_list()
    return yields(Counter(placed), Counter(bin for bin, gave in zip(placed, gave_case, strict=True) if gave), bins)


def _n_failures(home: Home, measured: WeekCoverage) -> int:
    """Traces that seem to have failed and are neither cases as of the week nor in another week's queue."""
    taken = {trace_id for case in home.ledger.as_of(measured.golden_as_of) for trace_id in case.trace_ids}
    taken |= {item.row["trace_id"] for item in queued_items(home) if item.week != measured.week}
    return sum(failure.trace_id not in taken for failure in failures(home, measured.week))


def retirement_candidates(home: Home, measured: WeekCoverage) -> pl.DataFrame:
    """Cases whose bin holds next to no traffic any more, and novel cases that no trace of the window is like."""
    silent = {
        row.bin: f"its bin has gone silent: {row.production_share:.2%} of the traffic from {measured.window[0]} to {measured.window[-1]}"
        for row in measured.coverage.bins
        if row.bin != NOVEL and row.golden_cases and row.production_share < home.settings.refresh.silent_share
    }
    labels = measured.taxonomy.bins
    scrubber = Scrubber(home.settings.privacy)
    texts = {case.case_id: scrubber.scrub(case.input).text for case in home.ledger.as_of(measured.golden_as_of)}
    placed = home.lake.read(BIN_ASSIGNMENTS, [measured.week]).filter(pl.col("side") == "golden").sort("item_id")
    novel = placed.filter(pl.col("bin") == NOVEL)["item_id"].to_list()
    reasons = {case_id: silent[bin] for case_id, bin in placed.select("item_id", "bin").iter_rows() if bin in silent}
    reasons |= _unlike_any_trace(home, measured, {case_id: texts[case_id] for case_id in novel})
    rows = [
        {"case_id": case_id, "bin": bin, "label": labels[bin], "input": texts[case_id], "reason": reasons[case_id]}
        for case_id, bin in placed.select("item_id", "bin").iter_rows()
        if case_id in reasons
    ]
    return pl.DataFrame(rows, schema=RETIREMENT_CANDIDATES.schema)


def _unlike_any_trace(home: Home, measured: WeekCoverage, texts: dict[str, str]) -> dict[str, str]:
    """Of the cases those whose text lies beyond the novelty distance from every sampled text of the window."""
    traffic = home.lake.read(EMBEDDINGS, measured.window, ["vector"])["vector"]
    if not texts or traffic.is_empty():
        return {}
    own = Embedder(home.settings.embedding, home.cache).embed(list(texts.values()))
    vectors, limit = vectors_of(traffic), measured.taxonomy.novel_above
    distance = {case_id: 1 - float((vectors @ own[text_hash(text)]).max()) for case_id, text in texts.items()}
    return {
        case_id: f"nothing in the traffic from {measured.window[0]} to {measured.window[-1]} is like it: "
        f"the nearest text is {value:.2f} away, novel from {limit:.2f}"
        for case_id, value in distance.items()
        if value > limit
    }


def _plan_metadata(rows: pl.DataFrame, retirable: pl.DataFrame) -> dict[str, Any]:
    head = rows.row(0, named=True)
    wanted = rows.filter(pl.col("quota") > 0).sort("quota", "production_share", descending=True)
    table = [
        f"| {row['bin']} | {_cell(row['label'])} | {row['production_share']:.1%} | {row['golden_cases']} | {row['quota']} | {row['reason']} |"
        for row in wanted.iter_rows(named=True)
    ]
    retire = [
        f"| {_cell(row['case_id'])} | {_cell(row['label'])} | {row['reason']} |"
        for row in retirable.head(30).iter_rows(named=True)
    ]
    return {
        "dagster/partition_row_count": len(rows),
        "budget": head["budget"],
        "labels for failures": head["failure_labels"],
        "raw JSD before": _rounded(head["jsd_raw_before"]),
        "raw JSD predicted": _rounded(head["jsd_raw_predicted"]),
        "golden as of": str(head["golden_as_of"]),
        "quotas": dg.MetadataValue.md(
            "\n".join(["| bin | label | production | cases | labels | why |", "|---|---|---|---|---|---|", *table])
        ),
        "cases to retire": len(retirable),
        "retirement": dg.MetadataValue.md("\n".join(["| case | bin | why |", "|---|---|---|", *retire]))
        if retire
        else None,
    }


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
