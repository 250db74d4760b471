"""The second half of the demo: the sensor fires, a scripted reviewer answers, cases are promoted, releases are gated.

Belongs here: playing people and releases, and driving the very stations that a home uses. Keep out: figures of its
own; every number is read from the home.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import dagster as dg

from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.tables import REFRESH_PLAN
from evalflow.core.gate import GateVerdict
from evalflow.demo.corpus import Corpus
from evalflow.demo.world import LAST_DAY, OnRange, World

REVIEWS_FILE = "reviews.jsonl"
REVIEWER = "scripted-reviewer"


@dataclass(frozen=True)
class Release:
    """A release of the assistant: how often it passes an ordinary case, and one that was frozen from a failure."""

    name: str
    passes_case: float
    passes_regression: float


IN_PRODUCTION = Release("support-8", 0.95, 0.1)
"""The release of the launch: its own failures are what the regressions were made from."""
CANDIDATE = Release("support-9", 0.97, 1.0)


@dataclass(frozen=True)
class GateRun:
    """One release held against one state of the suite."""

    release: str
    results: Path
    as_of: str
    n_cases: int
    min_covered_share: float
    verdict: GateVerdict


@dataclass(frozen=True)
class Turn:
    """One turn of the flywheel, as read back from the home."""

    week: str
    reason: str
    budget: int
    n_queued: int
    jsd_predicted: float
    verdicts: dict[str, int]
    n_promoted: int
    n_regressions: int
    n_merged: int
    effective_on: str
    jsd_before: float
    jsd_after: float
    gates: list[GateRun]

    def document(self) -> dict[str, Any]:
        return {
            "week": self.week,
            "reason": self.reason,
            "budget": self.budget,
            "queued": self.n_queued,
            "answers": self.verdicts,
            "promoted": self.n_promoted,
            "regressions": self.n_regressions,
            "merged": self.n_merged,
            "effective_on": self.effective_on,
            "jsd_before": self.jsd_before,
            "jsd_predicted": self.jsd_predicted,
            "jsd_after": self.jsd_after,
            "gates": [
                {
                    "release": run.release,
                    "results": str(run.results),
                    "as_of": run.as_of,
                    "n_cases": run.n_cases,
                    "verdict": run.verdict.verdict,
                    "pass_rate": run.verdict.pass_rate,
                    "covered_share": run.verdict.covered_share,
                    "failing_regressions": len(run.verdict.failing_regressions),
                    "reasons": list(run.verdict.reasons),
                }
                for run in self.gates
            ],
        }


def turn_flywheel(
    home: Home, instance: dg.DagsterInstance, world: World, corpus: Corpus, folder: Path, on_range: OnRange
) -> Turn | None:
    """Let the breach sensor decide, run what it asks for, answer, promote, gate. None where it asks for nothing.

    Safe to repeat: what was done is left as it is.
    """
    from evalflow.core.calendar import monday_of
    from evalflow.defs.automation import REASON, breach
    from evalflow.defs.coverage import measure_week
    from evalflow.defs.queue import queued_items
    from evalflow.runner import import_reviews, promote, refresh

    asked = breach(home, None).run_requests
    if not asked:
        return None
    request, week = asked[0], monday_of(LAST_DAY)
    if home.lake.read(REFRESH_PLAN, [week]).is_empty():
        on_range("refresh", week, week, 0, 1)
        refresh(home, instance, week, None, tags={REASON: request.tags[REASON]})
        on_range("refresh", week, week, 1, 1)
    reviews = folder / REVIEWS_FILE
    if any(item.state == "open" for item in queued_items(home)):
        reviews.write_text(_lines(_answers([item.row for item in queued_items(home)], world, corpus)), encoding="utf-8")
        import_reviews(home, instance, str(reviews))
    if any(item.is_ready for item in queued_items(home)):
        on_range("promotion", week, week, 0, 1)
        promote(home, instance, None)
        on_range("promotion", week, week, 1, 1)
    plan = home.lake.read(REFRESH_PLAN, [week]).row(0, named=True)
    effective_on = home.calendar.now
    cases = home.ledger.as_of(effective_on)
    promoted = [case for case in cases if case.origin == "production"]
    items = queued_items(home)
    return Turn(
        week=str(week),
        reason=request.tags[REASON],
        budget=plan["budget"],
        n_queued=len(items),
        jsd_predicted=plan["jsd_raw_predicted"],
        verdicts=dict(Counter(item.decision.verdict or item.state for item in items)),
        n_promoted=len(promoted),
        n_regressions=sum(case.is_regression for case in promoted),
        n_merged=sum(len(case.merged_trace_ids) for case in cases),
        effective_on=str(effective_on),
        jsd_before=plan["jsd_raw_before"],
        jsd_after=measure_week(home, week, effective_on).coverage.jsd_raw or 0.0,
        gates=[
            _gate(home, IN_PRODUCTION, home.ledger.as_of(LAST_DAY), str(LAST_DAY), folder),
            _gate(home, IN_PRODUCTION, cases, str(effective_on), folder),
            _gate(home, CANDIDATE, cases, str(effective_on), folder),
        ],
    )


def _answers(queue: list[dict[str, Any]], world: World, corpus: Corpus) -> list[dict[str, Any]]:
    """What a reviewer who knows the truth says of each queued trace; marked as a script, and so in the provenance."""
    truth = {row["trace_id"]: row for row in world.truth}
    intents = {intent.name: intent for intent in (*corpus.base, *corpus.launch)}
    answers = []
    for row in queue:
        known = truth[row["trace_id"]]
        rng = Random(f"{world.seed}/review/{row['trace_id']}")
        answers.append(
            {
                "trace_id": row["trace_id"],
                "verdict": "real_failure" if known["is_failure"] else "not_a_failure",
                "expected_output": rng.choice(intents[known["intent"]].good_answers) if known["is_failure"] else None,
                "severity": rng.choice(("low", "medium", "high")) if known["is_failure"] else None,
                "reviewer": REVIEWER,
                "reviewer_kind": "script",
            }
        )
    return answers


def _gate(home: Home, release: Release, cases: list[CaseVersion], as_of: str, folder: Path) -> GateRun:
    """The release's results on the suite, written beside the demo's files, and what the gate says of them."""
    from evalflow.adapters.results import read_results
    from evalflow.defs.suite import gate_suite

    path = folder / f"results-{release.name}-{as_of}.jsonl"
    path.write_text(_lines(_results(release, cases)), encoding="utf-8")
    limits = home.settings.gate
    verdict = gate_suite(home, cases, read_results(str(path)), home.calendar.now, limits.min_pass_rate).verdict
    return GateRun(release.name, path, as_of, len(cases), limits.min_covered_share, verdict)


def _results(release: Release, cases: list[CaseVersion]) -> list[dict[str, Any]]:
    return [
        {
            "case_id": case.case_id,
            "pass": Random(f"{release.name}/{case.case_id}").random()
            < (release.passes_regression if case.is_regression else release.passes_case),
        }
        for case in cases
    ]


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
