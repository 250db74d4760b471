"""Station plan: how many labels each bin should get (``refresh_plan``), what more or fewer would bring
(``refresh_curve``), and which cases nothing resembles any more.

Made on demand, by a refresh: the command, the sensor and the quarterly schedule start the same run.
Keep out: which traces fill the quotas (``triage.py``).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from evalflow.adapters.charts import as_cell
from evalflow.adapters.embedder import Embedder, vectors_of
from evalflow.adapters.home import Home
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import BIN_ASSIGNMENTS, EMBEDDINGS, REFRESH_CURVE, REFRESH_PLAN, RETIREMENT_CANDIDATES
from evalflow.core.calendar import monday_of, sunday_of
from evalflow.core.coverage import NOVEL
from evalflow.core.lineage import fingerprint
from evalflow.core.planning import BinState, Floors, Plan, plans_up_to, whole_part, yields
from evalflow.core.reviewing import decide
from evalflow.core.text import text_hash
from evalflow.defs.coverage import WeekCoverage, measure_week, newest_week
from evalflow.defs.failures import failures, judged
from evalflow.defs.partitions import Partitions
from evalflow.defs.queue import QueueIndex, queued_items
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import OWNERS, SINGLE_RUN, dates, parents, report
from evalflow.errors import CannotTellError, UsageError

GROUP = "triage"
CODE_VERSION = "3"
SHOWN_LABELS = (0, 10, 20, 50, 100, 200, 500, 1000)
"""The points of the curve that people see; tables and JSON hold all of them."""


class RefreshConfig(dg.Config):
    """What a refresh may ask for: a number of labels, or as many as a target takes."""

    budget: int | None = Field(
        default=None, gt=0, description="Labels; when neither is given, refresh.budget of the settings."
    )
    target_jsd: float | None = Field(
        default=None, ge=0, le=1, description="Raw JSD to reach with the fewest labels; excludes a budget."
    )


@dataclass(frozen=True)
class Draft:
    """A plan that nobody has written down yet.

    ``budget``: labels of the whole plan. ``rows`` and ``curve`` are those of ``refresh_plan`` and ``refresh_curve``.
    """

    week: date
    budget: int
    target_jsd: float | None
    rows: pl.DataFrame
    curve: pl.DataFrame
    retirable: pl.DataFrame

    @property
    def is_met(self) -> bool:
        """Whether the suite is as close as the target asks without any label."""
        return self.target_jsd is not None and self.budget == 0


def plan_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"scipy", "parquet"},
        code_version=CODE_VERSION,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        deps=["coverage_metrics", "bin_assignments"],
        description="A bin and the labels it should get, so that they lower JSD as far as so many labels can; made by a "
        "refresh. Beside it, what more or fewer labels would bring, and the cases that nothing in the traffic resembles "
        "any more.",
    )
    def refresh_plan(context: dg.AssetExecutionContext, config: RefreshConfig, home: HomeResource) -> None:
        workspace = home.open()
        lake = workspace.lake
        for week in dates(context):
            lake.require(BIN_ASSIGNMENTS, [week])
            if lake.read(BIN_ASSIGNMENTS, [week], ["side"]).is_empty():
                for table in (RETIREMENT_CANDIDATES, REFRESH_CURVE, REFRESH_PLAN):
                    lake.write(table, week, pl.DataFrame(schema=table.schema))
                report(context, week, {"dagster/partition_row_count": 0, "reason": "no traces in the window"})
                continue
            draft = draft_plan(workspace, week, config.budget, config.target_jsd)
            if draft.is_met:
                raise CannotTellError(f"{met(draft)} Nothing was planned; give a lower target, or a budget.")
            settings = workspace.settings
            shares = (settings.refresh.model_dump(mode="json"), settings.triage.calibration_share)
            asked = (draft.budget, draft.target_jsd, *shares)
            made_from = fingerprint(
                "refresh_plan", CODE_VERSION, week, asked, parents(workspace, BIN_ASSIGNMENTS, [week])
            )
            lake.write(RETIREMENT_CANDIDATES, week, draft.retirable, made_from=made_from)
            lake.write(REFRESH_CURVE, week, draft.curve, made_from=made_from)
            lake.write(REFRESH_PLAN, week, draft.rows, made_from=made_from)
            report(context, week, _plan_metadata(draft))

    return [refresh_plan]


def draft_plan(home: Home, week: date, budget: int | None, target_jsd: float | None) -> Draft:
    """The week's plan, without writing it: of ``budget`` labels, or of the fewest that reach ``target_jsd``.

    Args:
        home: where the week was measured.
        week: its Monday.
        budget: labels of the whole plan; without a target and without it, refresh.budget of the settings.
        target_jsd: raw JSD to reach. Such a plan holds the floors and no other extras: no labels for failures or
            for calibration, none that keep covered bins fresh.

    Raises:
        UsageError: both are given.
        CannotTellError: the target is not reached with refresh.max_budget labels, or the week was not computed yet.
    """
    if budget is not None and target_jsd is not None:
        raise UsageError(
            f"A budget of {budget} labels and a target of {target_jsd:g} exclude each other: the target decides how many "
            "labels it takes; give one of the two."
        )
    measured = measure_week(home, week)
    settings = home.settings.refresh
    history = _history(home, measured, [row.bin for row in measured.coverage.bins])
    states = [
        BinState(row.bin, row.production_share, row.golden_cases, row.is_blind_spot, history[row.bin])
        for row in measured.coverage.bins
    ]
    covered_share = settings.covered_share if target_jsd is None else 0.0
    floors = Floors(settings.blind_spot_floor, settings.edge_floor, covered_share)
    if target_jsd is None:
        budget = budget or settings.budget
        n_open = _n_failures(home, measured)
        plans = plans_up_to(max(budget, settings.max_budget), states, floors)
        n_judged, share = _n_judged(home, measured), home.settings.triage.calibration_share
        failure_labels = [
            min(whole_part(settings.failure_share, labels), n_open) for labels in range(len(plans.jsd_raw))
        ]
        calibration_labels = [min(whole_part(share, labels), n_judged) for labels in range(len(plans.jsd_raw))]
    else:
        plans = plans_up_to(settings.max_budget, states, floors)
        budget = plans.labels_for(target_jsd)
        if budget is None:
            raise CannotTellError(_out_of_reach(target_jsd, plans.jsd_raw))
        failure_labels = calibration_labels = [0] * len(plans.jsd_raw)
    extras = [sum(pair) for pair in zip(failure_labels, calibration_labels, strict=True)]
    curve = pl.DataFrame(
        {
            "labels": range(len(plans.jsd_raw)),
            "jsd_raw_predicted": [plans.jsd_raw[labels - out] for labels, out in enumerate(extras)],
        }
    ).with_columns(pl.col("jsd_raw_predicted").fill_nan(None))
    plan = plans.plan(budget - extras[budget])
    rows = _plan_rows(measured, plan, states).with_columns(
        budget=pl.lit(budget),
        target_jsd=pl.lit(target_jsd, pl.Float64),
        failure_labels=pl.lit(failure_labels[budget]),
        calibration_labels=pl.lit(calibration_labels[budget]),
    )
    return Draft(week, budget, target_jsd, rows, curve, retirement_candidates(home, measured))


def met(draft: Draft) -> str:
    """The sentence for a target that needs no label."""
    now, n_golden = draft.rows["jsd_raw_before"][0], int(draft.rows["golden_cases"].sum())
    return (
        f"Raw JSD is {now:.3f} with {n_golden} cases, not above the target of {draft.target_jsd:g}: it takes no label."
    )


def curve_points(curve: Iterable[tuple[int, float | None]], budget: int) -> list[tuple[int, float | None]]:
    """A few points of the curve for people: round numbers of labels, and the plan's own."""
    return [(labels, value) for labels, value in curve if labels in SHOWN_LABELS or labels == budget]


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


def _out_of_reach(target: float, jsd_raw: np.ndarray) -> str:
    if np.isnan(jsd_raw).all():
        return f"The target of {target:g} cannot be planned for: the week's traces carry no weight."
    best = int(np.nanargmin(jsd_raw))
    return (
        f"The target of {target:g} is out of reach: of up to {len(jsd_raw) - 1} labels (refresh.max_budget) {best} bring raw "
        f"JSD lowest, to {jsd_raw[best]:.3f}; give a higher target, raise the limit, or plan with a budget."
    )


def _plan_rows(measured: WeekCoverage, plan: Plan, states: list[BinState]) -> pl.DataFrame:
    bins = measured.coverage.bins
    return pl.DataFrame(
        {
            "bin": [row.bin for row in bins],
            "label": [row.label for row in bins],
            "production_share": [row.production_share for row in bins],
            "golden_cases": [row.golden_cases for row in bins],
            "is_blind_spot": [row.is_blind_spot for row in bins],
            "quota": [quota.labels for quota in plan.quotas],
            "yield_share": [state.yield_share for state in states],
            "cases_after": [quota.cases_after for quota in plan.quotas],
            "reason": [quota.reason for quota in plan.quotas],
            "gain": [quota.gain for quota in plan.quotas],
        }
    ).with_columns(
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
            wanted = home.settings.review.reviewers_per_item
            decision = decide(row["trace_id"], row["source"], row["output"], reviews, wanted)
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
    """Traces that seem to have failed and are neither cases as of the week nor in another queue."""
    taken = _taken_elsewhere(home, measured)
    return sum(failure.trace_id not in taken for failure in failures(home, measured.week))


def _n_judged(home: Home, measured: WeekCoverage) -> int:
    """Traces of the week that a grader has judged and that are neither cases as of the week nor in another queue."""
    return len(set(judged(home, measured.week)["trace_id"]) - _taken_elsewhere(home, measured))


def _taken_elsewhere(home: Home, measured: WeekCoverage) -> set[str]:
    taken = {trace_id for case in home.ledger.as_of(measured.golden_as_of) for trace_id in case.trace_ids}
    return taken | {item.trace_id for item in QueueIndex(home).items() if not item.is_of(measured.week)}


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


def _plan_metadata(draft: Draft) -> dict[str, Any]:
    rows, retirable = draft.rows, draft.retirable
    head = rows.row(0, named=True)
    wanted = rows.filter(pl.col("quota") > 0).sort("quota", "production_share", descending=True)
    table = [
        f"| {row['bin']} | {as_cell(row['label'])} | {row['production_share']:.1%} | {row['golden_cases']} | {row['quota']} | {row['reason']} |"
        for row in wanted.iter_rows(named=True)
    ]
    retire = [
        f"| {as_cell(row['case_id'])} | {as_cell(row['label'])} | {row['reason']} |"
        for row in retirable.head(30).iter_rows(named=True)
    ]
    curve = [
        f"| {labels}{' (the plan)' if labels == draft.budget else ''} | {'no suite' if value is None else format(value, '.3f')} |"
        for labels, value in curve_points(draft.curve.iter_rows(), draft.budget)
    ]
    return {
        "dagster/partition_row_count": len(rows),
        "budget": head["budget"],
        "target raw JSD": head["target_jsd"],
        "labels for failures": head["failure_labels"],
        "labels drawn at random": head["calibration_labels"],
        "raw JSD before": _rounded(head["jsd_raw_before"]),
        "raw JSD predicted": _rounded(head["jsd_raw_predicted"]),
        "golden as of": str(head["golden_as_of"]),
        "quotas": dg.MetadataValue.md(
            "\n".join(["| bin | label | production | cases | labels | why |", "|---|---|---|---|---|---|", *table])
        ),
        "curve": dg.MetadataValue.md("\n".join(["| labels | raw JSD predicted |", "|---|---|", *curve])),
        "cases to retire": len(retirable),
        "retirement": dg.MetadataValue.md("\n".join(["| case | bin | why |", "|---|---|---|", *retire]))
        if retire
        else None,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
