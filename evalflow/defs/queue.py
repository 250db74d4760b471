"""What is in front of people: every queued trace with its answers, where it stands, how old and how urgent it is.

Belongs here: reading the queues, the answers and the ledger together. Keep out: filling a queue (``triage.py``,
``errors.py``) and which traces seem to have failed (``failures.py``).
"""

import dataclasses
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.journal import locked
from evalflow.adapters.tables import ERROR_BATCH, TRIAGE_QUEUE, Table
from evalflow.core.records import Review
from evalflow.core.reviewing import BY_PRODUCTION, WAITING, Decision, decide
from evalflow.core.routing import DEFAULT_QUEUE, effective_priority, queue_of

QUEUES = (TRIAGE_QUEUE, ERROR_BATCH)
"""Tables that hold queued traces; one that stands in both is taken from the first."""
LOCK = "triage.lock"
"""Held in the home while a queue's table is written."""
HEAVY_COLUMNS = ("output", "context", "signals", "grades")
"""What a list does not show."""
EXCERPT_CHARS = 300


@dataclass(frozen=True)
class Item:
    """One queued trace and where it stands. ``case_id`` is set once it is in the golden set, as a case or merged into one.

    ``age_days``: whole days since it was queued. ``urgency``: its priority, which rises with age while it waits.
    ``is_overdue``: it waits longer than triage.due_days. ``table``: the one that holds it.
    """

    row: dict[str, Any]
    week: date
    decision: Decision
    reviews: list[Review]
    case_id: str | None
    is_merged: bool
    table: str = TRIAGE_QUEUE.name
    age_days: int = 0
    urgency: float = 0.0
    is_overdue: bool = False

    @property
    def trace_id(self) -> str:
        return str(self.row["trace_id"])

    @property
    def queue(self) -> str:
        return self.row.get("queue") or DEFAULT_QUEUE  # an earlier version gave none

    @property
    def state(self) -> str:
        return "promoted" if self.case_id else self.decision.state

    @property
    def is_ready(self) -> bool:
        """Whether a promotion would write something for it."""
        is_named = self.decision.state == "duplicate" and self.decision.duplicate_of is not None
        return self.case_id is None and (self.decision.state == "confirmed" or is_named)

    def is_of(self, week: date) -> bool:
        """Whether the week's refreshes queued it."""
        return self.table == TRIAGE_QUEUE.name and self.week == week

    @property
    def is_waiting(self) -> bool:
        return self.case_id is None and self.decision.state in WAITING


def queued_items(home: Home, trace_ids: Collection[str] | None = None) -> list[Item]:
    """Every trace that was ever queued, or those named, once and with all that is known of it, the most urgent first."""
    rows = [row for part in _parts(home, list(TRIAGE_QUEUE.schema), trace_ids) for row in part]
    return _items(home, rows, home.reviews.all(), _Cases.of(home))


def queued_item(home: Home, trace_id: str) -> Item | None:
    """One trace in full, of which only the week that holds it is read; None where it is not queued."""
    for table in QUEUES:
        for key in reversed(home.lake.keys(table)):
            if trace_id in home.lake.read(table, [key], ["trace_id"])["trace_id"]:
                frame = home.lake.read(table, [date.fromisoformat(key)], with_key=True, is_kept=True)
                rows = _rows(table, frame.filter(pl.col("trace_id") == trace_id))
                return _items(home, rows, home.reviews.all(), _Cases.of(home))[0]
    return None


class QueueIndex:
    """The queue without what makes it heavy, kept until something changes: for lists, and for a server's pages.

    An item's row lacks output, context, signals and grades, has ``has_output`` instead, and the first characters of the
    text; its decision does not carry production's own answer. Safe for several threads.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._lock = threading.Lock()
        self._seen: dict[str, Any] = {}
        self._rows: list[dict[str, Any]] = []
        self._cases = _Cases({}, frozenset())
        self._items: list[Item] = []

    def items(self) -> list[Item]:
        """Every queued trace, the most urgent first."""
        with self._lock:
            home = self.home
            queue = [home.lake.stamps(table) for table in QUEUES]
            ledger, reviews = home.ledger.journal.names(), home.reviews.stamp()
            if is_new_queue := self._seen.get("queue") != queue:
                light = [name for name in TRIAGE_QUEUE.schema if name not in HEAVY_COLUMNS]
                self._rows = [_light(row) for part in _parts(home, [*light, "output"]) for row in part]
            if is_new_ledger := self._seen.get("ledger") != ledger:
                self._cases = _Cases.of(home)
            today = home.calendar.now
            is_new_otherwise = is_new_queue or is_new_ledger or self._seen.get("today") != today
            if is_new_otherwise or self._seen.get("reviews") != reviews:
                # An answer changes its own trace alone.
                kept = {} if is_new_otherwise else {item.trace_id: item for item in self._items}
                self._items = _items(home, self._rows, home.reviews.all(), self._cases, kept)
            self._seen = {"queue": queue, "ledger": ledger, "reviews": reviews, "today": today}
            return self._items


def reroute(home: Home) -> dict[str, int]:
    """Give every trace of the triage queue that waits the queue that the settings' routes name now; moved traces by queue.

    A trace keeps the queue that it was given until somebody asks for this.
    """
    moved: dict[str, int] = {}
    routes = home.settings.triage.routes
    with locked(home.path / LOCK):
        waiting = {item.trace_id for item in QueueIndex(home).items() if item.is_waiting}
        for key in home.lake.keys(TRIAGE_QUEUE):
            rows = home.lake.read(TRIAGE_QUEUE, [key], is_kept=True)
            queues = [
                queue_of(routes, row) if row["trace_id"] in waiting else row["queue"]
                for row in rows.iter_rows(named=True)
            ]
            changed = [new for new, old in zip(queues, rows["queue"], strict=True) if new != old]
            if changed:
                moved |= {name: moved.get(name, 0) + changed.count(name) for name in set(changed)}
                routed = rows.with_columns(queue=pl.Series(queues, dtype=pl.String))
                home.lake.write(TRIAGE_QUEUE, key, routed, made_from=home.lake.made_from(TRIAGE_QUEUE, key))
    return dict(sorted(moved.items()))


@dataclass(frozen=True)
class _Cases:
    """The golden case that each trace stands in, and which traces were merged into theirs."""

    of_trace: Mapping[str, str]
    merged: frozenset[str]

    @classmethod
    def of(cls, home: Home) -> "_Cases":
        cases = list(home.ledger.newest().values())
        return cls(
            {trace_id: case.case_id for case in cases for trace_id in case.trace_ids},
            frozenset(trace_id for case in cases for trace_id in case.merged_trace_ids),
        )


def _parts(home: Home, columns: list[str], trace_ids: Collection[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The rows of each week of each table in turn, so that memory holds no more text than is asked for."""
    for table in QUEUES:
        for key in home.lake.keys(table):
            frame = home.lake.read(table, [date.fromisoformat(key)], columns, with_key=True, is_kept=True)
            if trace_ids is not None:
                frame = frame.filter(pl.col("trace_id").is_in(list(trace_ids)))
            yield _rows(table, frame)


def _rows(table: Table, frame: pl.DataFrame) -> list[dict[str, Any]]:
    return [row | {"table": table.name} for row in frame.iter_rows(named=True)]


def _light(row: dict[str, Any]) -> dict[str, Any]:
    output = row.pop("output")
    return row | {"text": row["text"][:EXCERPT_CHARS], "has_output": bool(output)}


def _items(
    home: Home,
    rows: Iterable[dict[str, Any]],
    reviews: list[Review],
    cases: _Cases,
    kept: Mapping[str, Item] | None = None,
) -> list[Item]:
    """The rows as items, each trace once, the most urgent first; of ``kept`` those that got no new answer stay."""
    answers: dict[str, list[Review]] = {}
    for review in reviews:
        answers.setdefault(review.trace_id, []).append(review)
    items: dict[str, Item] = {}
    for row in rows:
        trace_id = row["trace_id"]
        if trace_id not in items:
            own, before = answers.get(trace_id, []), (kept or {}).get(trace_id)
            if before is None or len(before.reviews) != len(own):
                before = _item(home, row, own, cases)
            items[trace_id] = before
    return sorted(items.values(), key=lambda item: (-item.urgency, item.trace_id))


def _item(home: Home, row: dict[str, Any], reviews: list[Review], cases: _Cases) -> Item:
    trace_id, settings = row["trace_id"], home.settings
    is_light = "has_output" in row
    output = ("-" if row["has_output"] else None) if is_light else row["output"]
    decision = decide(trace_id, row["source"], output, reviews, settings.review.reviewers_per_item)
    if is_light and decision.expected_from == BY_PRODUCTION:
        decision = dataclasses.replace(decision, expected_output=None)
    case_id = cases.of_trace.get(trace_id)
    age = (home.calendar.now - row["queued_on"]).days
    is_waiting = case_id is None and decision.state in WAITING
    urgency = effective_priority(row["priority"], age, settings.triage.aging_days) if is_waiting else row["priority"]
    return Item(
        row={name: value for name, value in row.items() if name not in ("week", "table")},
        week=row["week"],
        decision=decision,
        reviews=reviews,
        case_id=case_id,
        is_merged=trace_id in cases.merged,
        table=row["table"],
        age_days=age,
        urgency=urgency,
        is_overdue=is_waiting and age > settings.triage.due_days,
    )
