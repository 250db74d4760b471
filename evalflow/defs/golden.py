"""Station golden: answers become versions in the ledger (``golden_set``), which everything else reads as of a day.

``reviews`` and ``golden_ledger`` are written by people and by imports, and report here. The ledger is an external
asset on purpose: coverage reads it and promotion writes it, a cycle that Dagster would refuse.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg
import msgspec
import numpy as np
from pydantic import Field

from evalflow.adapters.attempts import KeptAttempt
from evalflow.adapters.embedder import Embedder
from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.system import has_system
from evalflow.adapters.tables import COVERAGE_METRICS, REFRESH_PLAN
from evalflow.core.calendar import sunday_of
from evalflow.core.dedup import turn_before, with_context
from evalflow.core.promotion import is_hard, severity_part, tried_by, weigh, weight_of, why_not_yet
from evalflow.core.records import Provenance, Reproduction, Severity
from evalflow.core.reviewing import BY_REVIEWER, SEVERITIES, SUSPECTED
from evalflow.core.text import text_hash
from evalflow.defs.candidates import (
    Candidate,
    candidates_of,
    conversation_of,
    propose,
    reproduction_of,
    task_of_trace,
)
from evalflow.defs.coverage import measure_week
from evalflow.defs.duplicates import calibration_warning, known_inputs
from evalflow.defs.partitions import Partitions
from evalflow.defs.queue import Item
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
    """What a promotion did.

    New cases, cases that took in duplicates, a note on each thing worth knowing, and what has to wait and why.
    ``n_by_policy`` of the new cases were looked at by nobody, for ``n_expected_by_judge`` nobody wrote what would be
    right, ``n_not_reproduced`` did not fail again. ``n_scrubbed``: personal data found at this last look.
    """

    effective_on: date
    promoted: list[CaseVersion]
    merged: list[CaseVersion]
    notes: list[str]
    waiting: list[str]
    n_dismissed: int
    n_by_policy: int
    n_expected_by_judge: int
    n_not_reproduced: int
    n_scrubbed: int
    judge_usd: float
    duplicate_distance: float
    warning: str | None


def golden_specs(partitions: Partitions) -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            REVIEWS_ASSET,
            group_name=GROUP,
            owners=OWNERS,
            kinds={"json"},
            description="A person's answer about a queued trace. Append-only; written by `evalflow triage import` and `evalflow review`.",
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
        code_version="2",
        deps=[REVIEWS_ASSET, "triage_queue"],
        description="Promotes every answered and confirmed trace that is not promoted yet into golden_ledger: tried again where "
        "the system can be called, deduplicated, weighed, with its provenance. What has to wait is listed with the reason.",
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
    """Write the confirmed cases to the ledger as one file; safe to repeat, to kill, and to run twice at once."""
    proposed = propose(home, effective_on)  # before the ledger is held: an endpoint takes its time
    with home.ledger.held():
        found = candidates_of(home, effective_on, proposed)
        suite = home.ledger.newest()
        writer = _Writer(home, suite, effective_on)
        waiting = list(found.waiting)
        for candidate in found.ready:
            waiting += writer.take(candidate)
        for item in found.items:
            target = item.decision.duplicate_of
            if item.decision.state != "duplicate" or not target:
                continue
            if target in writer.known.names:
                writer.merge(target, item, _seems_failed(item), "named by a reviewer")
            else:
                waiting.append(
                    f"{item.trace_id}: it is said to repeat {target!r}, which is no case of the suite; correct duplicate_of"
                )
        home.ledger.record("promotion", writer.versions, "reviews", home.now())
    promoted = [version for version in writer.versions if version.case_id not in suite]
    known = [version.provenance for version in promoted if version.provenance]
    return Promotion(
        effective_on,
        promoted,
        [version for version in writer.versions if version.case_id in suite],
        writer.notes,
        waiting,
        sum(item.decision.state == "dismissed" for item in found.items),
        sum(own.policy is not None for own in known),
        sum(_is_by_judge(own) for own in known),
        sum(
            own.reproduction is not None and not own.reproduction.failed
            for own in known
            if own.verdict != "not_a_failure"
        ),
        writer.n_scrubbed,
        proposed.paid_usd,
        writer.known.duplicate_distance,
        calibration_warning(home.settings.promotion, writer.embedder.model_id),
    )


class _Writer:
    """Turns candidates into versions: a new case, or a duplicate merged into the case that it repeats."""

    def __init__(self, home: Home, suite: dict[str, CaseVersion], effective_on: date) -> None:
        self.home, self.effective_on = home, effective_on
        self.newest = dict(suite)
        self.changed: dict[str, CaseVersion] = {}
        self.notes: list[str] = []
        self.n_scrubbed = 0
        self.scrubber = Scrubber(home.settings.privacy)
        self.embedder = Embedder(home.settings.embedding, home.cache)
        self.attempts: dict[str, list[KeptAttempt]] = {}
        for attempt in home.attempts.all():
            if attempt.kind == "trace":
                self.attempts.setdefault(attempt.item_id, []).append(attempt)
        counted = [case for case in suite.values() if not case.retired_on]
        self.known = known_inputs(home.settings, len(counted))
        inputs = {
            case.case_id: with_context(self.scrubber.scrub(case.input).text, _conversation_of(case)) for case in counted
        }
        vectors = self.embedder.embed(list(inputs.values()))
        for case in counted:
            text = inputs[case.case_id]
            self.known.add(case.case_id, text, vectors[text_hash(text)], turn_before(_conversation_of(case)))

    @property
    def versions(self) -> list[CaseVersion]:
        return list(self.changed.values())

    def take(self, candidate: Candidate) -> list[str]:
        """Write what follows from one candidate; returns why it has to wait, which is nothing when it need not."""
        item, decision, settings = candidate.item, candidate.decision, self.home.settings
        task = task_of_trace(candidate, self.scrubber)
        reproduction = reproduction_of(self.attempts.get(item.trace_id, ()), task)
        if decision.is_regression and has_system(settings):
            if why := why_not_yet(reproduction, settings.promotion.attempts):
                return [f"{item.trace_id}: confirmed, but {why}; run `evalflow reproduce`"]
            if candidate.policy and reproduction and not reproduction.failed:
                return [
                    f"{item.trace_id}: policy {candidate.policy.name} takes it, but it did not fail again in "
                    f"{reproduction.attempts} attempts; a person has to answer it"
                ]
        is_failure = decision.is_regression and not (candidate.policy and reproduction is None)
        is_regression = is_hard(is_failure, reproduction)
        if decision.is_regression and not is_regression and reproduction is not None:
            self.notes.append(
                f"{item.trace_id} did not fail again in {reproduction.attempts} attempts of {reproduction.system}: it joins the "
                "suite as an ordinary case, not as a regression"
            )
        conversation = conversation_of(item)
        compared, before = with_context(task.input, task.conversation), turn_before(task.conversation)
        vector = self.embedder.embed([compared])[text_hash(compared)]
        if duplicate := self.known.duplicate_of(compared, vector, before):
            how = f"{duplicate.stage} duplicate, {duplicate.value:.3f}"
            self.merge(duplicate.name, item, is_regression, how)
            return []
        if apart := self.known.apart_from(compared, vector, before):
            self.notes.append(
                f"{item.trace_id} asks what case {apart.name} asks, after another turn: kept apart; where the turn does not "
                "matter, answer duplicate and name the case"
            )
        version = self._version(candidate, vector, conversation, reproduction, is_regression)
        self.known.add(version.case_id, compared, vector, before)
        self.newest[version.case_id] = self.changed[version.case_id] = version
        return []

    def merge(self, case_id: str, item: Item, is_failure: bool, how: str) -> None:
        """Keep the trace as evidence with the case that it repeats; a failure makes that case a regression, and graver.

        What a policy or a judge added to the trace stays out of it: only a person's word changes what a case tests.
        """
        old, said = self.newest[case_id], item.decision
        is_regression = old.is_regression or (is_failure and said.verdict == "real_failure")
        note = f"{item.trace_id} is merged into case {case_id} ({how})"
        known = old.provenance
        may_gain = not old.expected_output or (_is_by_judge(known) and not old.is_regression)
        if may_gain and said.expected_output is not None:
            old = msgspec.structs.replace(old, expected_output=self._scrubbed(said.expected_output))
            known = known and msgspec.structs.replace(known, expected_from=said.expected_from)
        elif said.expected_from == BY_REVIEWER:
            note += ", which keeps the answer that it expects"
        elif is_regression and not old.expected_output:
            note += f", a regression that expects no answer; `evalflow golden revise {case_id}` gives it one"
        self.notes.append(note)
        graver = _gravest(_severity_in(known), said.severity)
        n_failures = old.n_merged_failures + is_failure
        parts = old.weight_parts
        if parts is not None:
            part = severity_part(graver, n_failures)
            # What an import brought may hold repeats that this home has not seen.
            parts = msgspec.structs.replace(parts, severity=part) if part.value > parts.severity.value else parts
        version = msgspec.structs.replace(
            old,
            version=old.version if case_id in self.changed else old.version + 1,
            effective_on=max(old.effective_on, self.effective_on.isoformat()),
            merged_trace_ids=[*old.merged_trace_ids, item.trace_id],
            n_merged_failures=n_failures,
            is_regression=is_regression,
            weight=old.weight if parts is None else weight_of(parts),
            weight_parts=parts,
            provenance=known and msgspec.structs.replace(known, severity=graver),
        )
        self.newest[case_id] = self.changed[case_id] = version

    def _version(
        self,
        candidate: Candidate,
        vector: np.ndarray,
        conversation: list[dict[str, str]],
        reproduction: Reproduction | None,
        is_regression: bool,
    ) -> CaseVersion:
        row, decision, reviews = candidate.item.row, candidate.decision, candidate.item.reviews
        severity_from = f"policy {candidate.policy.name}" if candidate.policy else "review"
        tried = tried_by(reproduction, decision.is_regression)
        parts = weigh(self.known.distance(vector), row["novel_above"], decision.severity, tried, severity_from)
        turns = self._scrubbed(conversation)
        return CaseVersion(
            case_id=self._new_id(row["trace_id"]),
            version=1,
            input=self._scrubbed(row["text"]),
            expected_output=self._scrubbed(decision.expected_output) or None,
            origin="production",
            created_at=self.home.now().isoformat(),
            effective_on=self.effective_on.isoformat(),
            tags=self._scrubbed(slice_tags(row, self.home.settings.sampling.strata_columns)) or None,
            metadata={"conversation": turns} if turns else None,
            is_regression=is_regression,
            weight=weight_of(parts),
            weight_parts=parts,
            provenance=Provenance(
                trace_id=row["trace_id"],
                session_id=row["session_id"],
                occurred_at=row["timestamp"],
                queued_on=row["queued_on"],
                queued_for=row["source"],
                reason=self._scrubbed(row["reason"]),
                verdict=decision.verdict,
                severity=decision.severity,
                reviewers=list(decision.reviewers),
                reviewer_kind=decision.reviewer_kind,
                reviewed_at=decision.reviewed_at,
                expected_from=decision.expected_from,
                queue=candidate.item.queue,
                inclusion_probability=row["inclusion_probability"],
                label_probability=row["label_probability"],
                comments=[self._scrubbed(review.comment) for review in reviews if review.comment],
                open_codes=self._scrubbed(_distinct(code for review in reviews for code in review.open_codes)),
                review_tags=self._scrubbed(_distinct(tag for review in reviews for tag in review.tags)),
                policy=candidate.policy.name if candidate.policy else None,
                reproduction=reproduction,
            ),
        )

    def _scrubbed(self, value: Any) -> Any:
        """Every text inside a value, looked at once more before it goes into a case; what was found is counted."""
        if isinstance(value, Mapping):
            return {key: self._scrubbed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._scrubbed(inner) for inner in value]
        if not isinstance(value, str):
            return value
        found = self.scrubber.scrub(value)
        self.n_scrubbed += found.n_replaced
        return found.text

    def _new_id(self, trace_id: str) -> str:
        case_id, number = f"prod-{trace_id}", 2
        while case_id in self.newest:  # somebody imported a case of that very name
            case_id, number = f"prod-{trace_id}-{number}", number + 1
        return case_id


def _seems_failed(item: Item) -> bool:
    """Whether a trace that a reviewer calls a duplicate was queued as a failure, not for coverage and not at random."""
    return item.row["source"] in SUSPECTED


def _is_by_judge(known: Provenance | None) -> bool:
    return known is not None and (known.expected_from or "").startswith("judge ")


def _severity_in(known: Provenance | None) -> Severity | None:
    return next((level for level in SEVERITIES if known and known.severity == level), None)


def _gravest(*given: Severity | None) -> Severity | None:
    return max((level for level in given if level), key=SEVERITIES.index, default=None)


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


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
        "by_policy": done.n_by_policy,
        "expected_from_judge": done.n_expected_by_judge,
        "not_reproduced": done.n_not_reproduced,
        "scrubbed": done.n_scrubbed,
        "judge_usd": done.judge_usd,
        "duplicate_distance": done.duplicate_distance,
        "warning": done.warning,
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
        "by policy, seen by nobody": report["by_policy"],
        "expected answer from a judge": report["expected_from_judge"],
        "did not fail again": report["not_reproduced"],
        "personal data found at promotion": report["scrubbed"],
        "judge's cost in USD": report["judge_usd"],
        "the same question up to cosine distance": round(done.duplicate_distance, 4),
        **({"dedup": done.warning} if done.warning else {}),
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
