"""What is, or might be, in front of people: queued traces with their state, and traces that seem to have failed.

Belongs here: reading the queue, the answers and the ledger together. Keep out: filling the queue (``triage.py``).
"""

from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.tables import JUDGE_GRADES, TRACE_SIGNALS, TRIAGE_QUEUE
from evalflow.core.grading import COMPLAINTS
from evalflow.core.records import Review
from evalflow.core.reviewing import WAITING, Decision, decide
from evalflow.core.sampling import random_numbers

COMPLAINT_PRIORITY, JUDGED_PRIORITY, GRADED_PRIORITY = 0.95, 0.8, 0.6
"""Where failures stand in the queue: a user's complaint, a judge's verdict, signals alone."""


@dataclass(frozen=True)
class Item:
    """One queued trace and where it stands. ``case_id`` is set once it is in the golden set, as a case or merged into one."""

    row: dict[str, Any]
    week: date
    decision: Decision
    reviews: list[Review]
    case_id: str | None
    is_merged: bool

    @property
    def state(self) -> str:
        return "promoted" if self.case_id else self.decision.state

    @property
    def is_ready(self) -> bool:
        """Whether a promotion would write something for it."""
        is_named = self.decision.state == "duplicate" and self.decision.duplicate_of is not None
        return self.case_id is None and (self.decision.state == "confirmed" or is_named)

    @property
    def is_waiting(self) -> bool:
        return self.case_id is None and self.decision.state in WAITING


def queued_items(home: Home) -> list[Item]:
    """Every trace that was ever queued, once, the most urgent first."""
    lake = home.lake
    rows = lake.read(TRIAGE_QUEUE, [date.fromisoformat(key) for key in lake.keys(TRIAGE_QUEUE)], with_key=True)
    rows = rows.unique("trace_id", keep="first", maintain_order=True)
    reviews: dict[str, list[Review]] = {}
    for review in home.reviews.all():
        reviews.setdefault(review.trace_id, []).append(review)
    cases = list(home.ledger.newest().values())
    case_of = {trace_id: case.case_id for case in cases for trace_id in case.trace_ids}
    merged = {trace_id for case in cases for trace_id in case.merged_trace_ids}
    items = [
        Item(
            {name: value for name, value in row.items() if name != "week"},
            row["week"],
            decide(row["trace_id"], row["source"], row["output"], reviews.get(row["trace_id"], [])),
            reviews.get(row["trace_id"], []),
            case_of.get(row["trace_id"]),
            row["trace_id"] in merged,
        )
        for row in rows.iter_rows(named=True)
    ]
    return sorted(items, key=lambda item: (-item.row["priority"], item.row["trace_id"]))


@dataclass(frozen=True)
class Failure:
    """A trace that seems to have failed: where it is, how sure, and what says so."""

    trace_id: str
    day: date
    source: str
    priority: float
    reason: str


def failures(home: Home, week: date) -> list[Failure]:
    """Failing grades of the window's sample and complaints of all its traffic, the surest and newest first."""
    found: dict[str, Failure] = {}
    for day in home.calendar.window(week):
        grades = home.lake.read(JUDGE_GRADES, [day]).filter(pl.col("verdict") == "fail")
        for row in grades.iter_rows(named=True):
            priority = GRADED_PRIORITY if row["grader"] == "signals" else JUDGED_PRIORITY
            reason = f"graded fail by {row['grader']} {row['grader_version']}: {row['reason']}"
            held = found.get(row["trace_id"])
            if held is None or held.priority < priority:
                found[row["trace_id"]] = Failure(row["trace_id"], day, "failed_grade", priority, reason)
        signals = home.lake.read(TRACE_SIGNALS, [day], ["trace_id", *COMPLAINTS])
        complained = signals.filter(pl.any_horizontal(pl.col(name).fill_null(False) for name in COMPLAINTS))
        for row in complained.iter_rows(named=True):
            said = ", ".join(name.removeprefix("is_").replace("_", " ") for name in COMPLAINTS if row[name])
            reason = f"its user complained: {said}"
            found[row["trace_id"]] = Failure(row["trace_id"], day, "signal", COMPLAINT_PRIORITY, reason)
    number = dict(
        zip(
            found,
            random_numbers(f"{home.settings.sampling.salt}/refresh", pl.Series(list(found), dtype=pl.String)),
            strict=True,
        )
    )
    return sorted(found.values(), key=lambda f: (-f.priority, -f.day.toordinal(), number[f.trace_id]))
