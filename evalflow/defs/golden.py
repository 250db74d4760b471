"""Station golden: answers become versions in the ledger (``golden_set``), which everything else reads as of a day.

``reviews`` and ``golden_ledger`` are written by people and by imports, and report here. The ledger is an external
asset on purpose: coverage reads it and promotion writes it, a cycle that Dagster would refuse.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg
import msgspec
import numpy as np
from pydantic import Field

from evalflow.adapters.embedder import Embedder
from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import COVERAGE_METRICS, REFRESH_PLAN
from evalflow.core.calendar import sunday_of
from evalflow.core.dedup import KnownInputs, with_context
from evalflow.core.promotion import weigh, weight_of
from evalflow.core.records import Provenance
from evalflow.core.reviewing import BY_REVIEWER
from evalflow.core.text import text_hash
from evalflow.defs.coverage import measure_week
from evalflow.defs.partitions import Partitions
from evalflow.defs.queue import Item, queued_items
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import OWNERS
from evalflow.errors import EvalflowError, UsageError

LEDGER_ASSET, REVIEWS_ASSET = "golden_ledger", "reviews"
GROUP = "golden"


class PromotionConfig(dg.Config):
    """From which day promoted cases count."""

    effective_on: str | None = Field(
        default=None,
        description="UTC day such as 2026-08-24; when not given, today. Never in a week that is published.",
    )


@dataclass(frozen=True)
class Promotion:
    """What a promotion did: new cases, cases that took in duplicates with a note on each, what has to wait and why."""

    effective_on: date
    promoted: list[CaseVersion]
    merged: list[CaseVersion]
    notes: list[str]
    waiting: list[str]
    n_dismissed: int


def golden_specs(partitions: Partitions) -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            REVIEWS_ASSET,
            group_name=GROUP,
            owners=OWNERS,
            kinds={"json"},
            description="A person's answer about a queued trace. Append-only; written by `evalflow triage import`.",
        ),
        dg.AssetSpec(
            LEDGER_ASSET,
            group_name=GROUP,
            owners=OWNERS,
            kinds={"json"},
            partitions_def=partitions.effective_on,
            description="A version of a golden case, by the day from which coverage counts it. Append-only; written by imports "
            "and by promotion, which report here.",
        ),
    ]


def golden_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"json"},
        code_version="1",
        deps=[REVIEWS_ASSET, "triage_queue"],
        description="Promotes every answered and confirmed trace that is not promoted yet into golden_ledger: deduplicated, "
        "weighed, with its provenance. What has to wait is listed with the reason.",
    )
    def golden_set(
        context: dg.AssetExecutionContext, config: PromotionConfig, home: HomeResource
    ) -> dg.MaterializeResult:
        workspace = home.open()
        done = promote(workspace, _effective_on(workspace, config.effective_on))
        _report_all(context.instance, partitions, workspace, [*done.promoted, *done.merged])
        workspace.publish()
        return dg.MaterializeResult(metadata=_metadata(workspace, done))

    return [golden_set]


def promote(home: Home, effective_on: date) -> Promotion:
    """Write the cases that people's answers have confirmed to the ledger, as one file; safe to repeat and to kill."""
    with home.ledger.held():
        items = [item for item in queued_items(home) if item.case_id is None]
        confirmed = [item for item in items if item.decision.state == "confirmed"]
        repeats = [item for item in items if item.decision.state == "duplicate" and item.decision.duplicate_of]
        waiting = [item.decision.why for item in items if item.decision.why]
        suite = home.ledger.newest()
        writer = _Writer(home, suite, effective_on)
        for item in confirmed:
            writer.add(item)
        for item in repeats:
            target = str(item.decision.duplicate_of)
            if target in writer.known.names:
                writer.merge(target, item, "named by a reviewer")
            else:
                waiting.append(
                    f"{item.row['trace_id']}: it is said to repeat {target!r}, which is no case of the suite; correct duplicate_of"
                )
        home.ledger.record("promotion", writer.versions, "reviews", home.now())
    return Promotion(
        effective_on,
        [version for version in writer.versions if version.case_id not in suite],
        [version for version in writer.versions if version.case_id in suite],
        writer.notes,
        waiting,
        sum(item.decision.state == "dismissed" for item in items),
    )


class _Writer:
    """Turns confirmed traces into versions: a new case, or a duplicate merged into the case that it repeats."""

    def __init__(self, home: Home, suite: dict[str, CaseVersion], effective_on: date) -> None:
        self.home, self.effective_on = home, effective_on
        self.newest = dict(suite)
        self.changed: dict[str, CaseVersion] = {}
        self.notes: list[str] = []
        self.scrubber = Scrubber(home.settings.privacy)
        self.embedder = Embedder(home.settings.embedding, home.cache)
        self.known = KnownInputs(home.settings.promotion.near_duplicate, home.settings.promotion.duplicate_distance)
        inputs = {
            case.case_id: with_context(self.scrubber.scrub(case.input).text, _conversation_of(case))
            for case in suite.values()
            if not case.retired_on
        }
        vectors = self.embedder.embed(list(inputs.values()))
        for case_id, text in inputs.items():
            self.known.add(case_id, text, vectors[text_hash(text)])

    @property
    def versions(self) -> list[CaseVersion]:
        return list(self.changed.values())

    def add(self, item: Item) -> None:
        text = self.scrubber.scrub(item.row["text"]).text
        conversation = json.loads(item.row["context"]).get("conversation")
        compared = with_context(text, conversation)
        vector = self.embedder.embed([compared])[text_hash(compared)]
        duplicate = self.known.duplicate_of(compared, vector)
        if duplicate:
            self.merge(duplicate.name, item, f"{duplicate.stage} duplicate, {duplicate.value:.3f}")
            return
        version = self._version(item, text, vector, conversation)
        self.known.add(version.case_id, compared, vector)
        self.newest[version.case_id] = self.changed[version.case_id] = version

    def merge(self, case_id: str, item: Item, how: str) -> None:
        """Keep the trace as evidence with the case that it repeats; a confirmed failure makes that case a regression."""
        old = self.newest[case_id]
        note = f"{item.row['trace_id']} is merged into case {case_id} ({how})"
        if item.decision.expected_from == BY_REVIEWER and old.expected_output:
            note += ", which keeps the answer that it expects"
        self.notes.append(note)
        version = msgspec.structs.replace(
            old,
            version=old.version if case_id in self.changed else old.version + 1,
            effective_on=max(old.effective_on, self.effective_on.isoformat()),
            merged_trace_ids=[*old.merged_trace_ids, item.row["trace_id"]],
            is_regression=old.is_regression or item.decision.is_regression,
            expected_output=old.expected_output or self._expected_output(item),
        )
        self.newest[case_id] = self.changed[case_id] = version

    def _version(
        self, item: Item, text: str, vector: np.ndarray, conversation: list[dict[str, str]] | None
    ) -> CaseVersion:
        row, decision = item.row, item.decision
        parts = weigh(
            self.known.distance(vector), row["novel_above"], decision.severity, int(decision.is_regression), 1
        )
        return CaseVersion(
            case_id=self._new_id(row["trace_id"]),
            version=1,
            input=text,
            expected_output=self._expected_output(item),
            origin="production",
            created_at=self.home.now().isoformat(),
            effective_on=self.effective_on.isoformat(),
            tags=slice_tags(row, self.home.settings.sampling.strata_columns) or None,
            metadata={"conversation": conversation} if conversation else None,
            is_regression=decision.is_regression,
            weight=weight_of(parts),
            weight_parts=parts,
            provenance=Provenance(
                trace_id=row["trace_id"],
                session_id=row["session_id"],
                occurred_at=row["timestamp"],
                queued_on=row["queued_on"],
                queued_for=row["source"],
                reason=row["reason"],
                verdict=decision.verdict,
                severity=decision.severity,
                reviewers=list(decision.reviewers),
                reviewer_kind=decision.reviewer_kind,
                reviewed_at=decision.reviewed_at,
                expected_from=decision.expected_from,
            ),
        )

    def _expected_output(self, item: Item) -> str | None:
        return self.scrubber.scrub(item.decision.expected_output).text or None

    def _new_id(self, trace_id: str) -> str:
        case_id, number = f"prod-{trace_id}", 2
        while case_id in self.newest:  # somebody imported a case of that very name
            case_id, number = f"prod-{trace_id}-{number}", number + 1
        return case_id


def slice_tags(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, str]:
    """The slice that a trace belongs to, as tags: its case then speaks for that slice, and for no other."""
    return {name: row[name] for name in columns if row.get(name) is not None}


def _conversation_of(case: CaseVersion) -> list[dict[str, str]] | None:
    return case.metadata.get("conversation") if isinstance(case.metadata, dict) else None


def _effective_on(home: Home, asked: str | None) -> date:
    """The day from which the promotion counts.

    Raises:
        UsageError: it is no day, or lies in a week whose figures are published.
    """
    if asked is None:
        day = home.calendar.now
    else:
        try:
            day = date.fromisoformat(asked)
        except ValueError as error:
            raise UsageError(f"effective_on {asked!r} is not a day; write it as 2026-08-24.") from error
    published = [
        sunday_of(week)
        for week in map(date.fromisoformat, home.lake.keys(COVERAGE_METRICS))
        if not home.calendar.is_provisional(week)
    ]
    if published and day <= max(published):
        raise UsageError(
            f"Cases effective on {day} would change the published week to {max(published)}; the earliest day is "
            f"{max(published) + timedelta(days=1)}."
        )
    return day


def predicted_and_actual(home: Home, effective_on: date) -> dict[str, Any]:
    """The newest plan's raw JSD: before it, as it predicted, and as the suite of ``effective_on`` has it; {} without a plan."""
    weeks = [date.fromisoformat(key) for key in home.lake.keys(REFRESH_PLAN)]
    for week in reversed(weeks):
        plan = home.lake.read(REFRESH_PLAN, [week], ["jsd_raw_before", "jsd_raw_predicted"])
        if plan.is_empty():
            continue
        try:
            actual = measure_week(home, week, effective_on).coverage.jsd_raw
        except EvalflowError:  # the cases are recorded; only the comparison cannot be made
            return {}
        return {"week": str(week), "before": plan[0, 0], "predicted": plan[0, 1], "actual": actual}
    return {}


def report_recorded(instance: dg.DagsterInstance, partitions: Partitions, added: Iterable[CaseVersion]) -> None:
    """Tell Dagster which days of the ledger gained versions."""
    by_day: dict[str, int] = {}
    for version in added:
        by_day[version.effective_on] = by_day.get(version.effective_on, 0) + 1
    name = partitions.effective_on.name
    if not by_day or name is None:
        return
    instance.add_dynamic_partitions(name, sorted(by_day))
    for day, count in sorted(by_day.items()):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(LEDGER_ASSET, partition=day, metadata={"versions added": count})
        )


def _report_all(instance: dg.DagsterInstance, partitions: Partitions, home: Home, added: list[CaseVersion]) -> None:
    """Report what was added, and what a process that was killed had written without reporting it."""
    known = set(instance.get_materialized_partitions(dg.AssetKey(LEDGER_ASSET)))
    fresh = [version for version in added if version.effective_on in known]
    late = [version for _, version in home.ledger.entries() if version.effective_on not in known]
    report_recorded(instance, partitions, [*fresh, *late])


def report_reviews(instance: dg.DagsterInstance, n_added: int) -> None:
    """Tell Dagster that answers arrived."""
    if n_added:
        instance.report_runless_asset_event(dg.AssetMaterialization(REVIEWS_ASSET, metadata={"answers added": n_added}))


def _metadata(home: Home, done: Promotion) -> dict[str, Any]:
    jsd = predicted_and_actual(home, done.effective_on)
    report = {
        "promoted": len(done.promoted),
        "regressions": sum(version.is_regression for version in done.promoted),
        "merged": len(done.merged),
        "dismissed": done.n_dismissed,
        "effective_on": str(done.effective_on),
        "golden_cases": len(home.ledger.as_of(done.effective_on)),
        "notes": done.notes,
        "waiting": done.waiting,
        "jsd_raw": jsd,
    }
    return {
        "cases promoted": report["promoted"],
        "of them frozen regressions": report["regressions"],
        "cases that took in duplicates": report["merged"],
        "dismissed so far": report["dismissed"],
        "effective on": report["effective_on"],
        "golden cases": report["golden_cases"],
        **{
            f"raw JSD {name}": round(jsd[name], 4)
            for name in ("before", "predicted", "actual")
            if jsd.get(name) is not None
        },
        "waiting": len(done.waiting),
        "report": dg.MetadataValue.json(report),
    }
