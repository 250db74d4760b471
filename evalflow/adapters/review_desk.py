"""What lies on the reviewers' desk: half-written answers, who is working on what, what was put aside.

One small SQLite file in the home, shared by every server that is open on it; each change is on the disk before it is
confirmed, so that a killed server loses none. Finished answers are not here but in the journal (``reviews.py``).
Keep out: which items there are.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import msgspec

from evalflow.errors import UsageError

BUSY_S = 10.0
"""How long a change waits for another server's: each takes a few milliseconds."""
_TABLES = """
create table if not exists drafts (
    trace_id text, reviewer text, revision integer not null, fields text not null, saved_at text not null,
    primary key (trace_id, reviewer)
) without rowid;
create table if not exists reservations (
    trace_id text, reviewer text, until text not null, primary key (trace_id, reviewer)
) without rowid;
create table if not exists skips (
    trace_id text, reviewer text, at text not null, primary key (trace_id, reviewer)
) without rowid;
"""


@dataclass(frozen=True)
class Draft:
    """A half-written answer: the form's fields as they stand. ``revision`` counts the times it was saved, from 1."""

    fields: dict[str, Any]
    revision: int
    saved_at: datetime


class Wanted(NamedTuple):
    """An item that wants answers, and from how many more people."""

    trace_id: str
    n_open: int


class Reservation(NamedTuple):
    reviewer: str
    until: datetime


class ReviewDesk:
    """The file ``review/desk.sqlite`` of a home. Safe for several threads, and for several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "desk.sqlite"
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._database.execute("pragma journal_mode = wal")
            self._database.execute("pragma synchronous = full")
            self._database.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise UsageError(
                f"The review desk {self.path} cannot be opened ({error}); make {folder} writable."
            ) from error

    def __enter__(self) -> "ReviewDesk":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._database.close()

    # -- drafts -----------------------------------------------------------------------------------------------

    def draft(self, trace_id: str, reviewer: str) -> Draft | None:
        with self._change() as database:
            return self._draft(database, trace_id, reviewer)

    def save_draft(
        self, trace_id: str, reviewer: str, fields: dict[str, Any], now: datetime, base: int | None = None
    ) -> int | Draft:
        """Put the fields in place of what was saved before; returns the revision. On the disk when it returns.

        Fields that are all empty take the draft away, and the revision is 0. Where ``base`` is given, the revision over
        which these fields were written, a different text that another window has saved since stays and is returned.
        """
        with self._change() as database:
            held = self._draft(database, trace_id, reviewer)
            if held is not None and base is not None and held.revision != base and held.fields != fields:
                return held
            if not any(fields.values()):
                database.execute("delete from drafts where trace_id = ? and reviewer = ?", (trace_id, reviewer))
                return 0
            row = database.execute(
                "insert into drafts values (?, ?, 1, ?, ?) on conflict do update set revision = revision + 1, "
                "fields = excluded.fields, saved_at = excluded.saved_at returning revision",
                (trace_id, reviewer, msgspec.json.encode(fields).decode(), _text(now)),
            ).fetchone()
        return int(row[0])

    def drafts_of(self, reviewer: str) -> set[str]:
        """The items of which this reviewer has a half-written answer."""
        with self._change() as database:
            rows = database.execute("select trace_id from drafts where reviewer = ?", (reviewer,)).fetchall()
        return {row[0] for row in rows}

    def clear(self, trace_id: str, reviewer: str) -> None:
        """Take this reviewer's draft, reservation and mark of being put aside off the desk: the item is answered."""
        with self._change() as database:
            for table in ("drafts", "reservations", "skips"):
                database.execute(f"delete from {table} where trace_id = ? and reviewer = ?", (trace_id, reviewer))

    # -- who works on what ------------------------------------------------------------------------------------

    def reserve_next(
        self, wanted: Iterable[Wanted], reviewer: str, now: datetime, minutes: float, after: str | None = None
    ) -> str | None:
        """The first item with room for this reviewer, reserved for him; None where there is none.

        An item has room while fewer people have it reserved than it wants. What he put aside comes after all the
        others, the longest ago first. ``after`` is not given again unless nothing else is left. Two servers that ask
        at the same time are given different items.
        """
        with self._change() as database:
            self._forget_old(database, now, minutes)
            held: dict[str, int] = {}
            for trace_id, who in database.execute("select trace_id, reviewer from reservations"):
                held[trace_id] = held.get(trace_id, 0) + (who != reviewer)
            put_aside = dict(database.execute("select trace_id, at from skips where reviewer = ?", (reviewer,)))
            late: list[tuple[bool, str, int, str]] = []
            for place, item in enumerate(wanted):
                if held.get(item.trace_id, 0) >= item.n_open:
                    continue
                if item.trace_id not in put_aside and item.trace_id != after:
                    chosen = item.trace_id
                    break
                late.append((item.trace_id == after, put_aside.get(item.trace_id, ""), place, item.trace_id))
            else:
                if not late:
                    return None
                chosen = min(late)[-1]
            self._hold(database, chosen, reviewer, now, minutes)
        return chosen

    def hold(self, trace_id: str, reviewer: str, now: datetime, minutes: float) -> list[Reservation]:
        """Reserve this one, or renew it, whoever else has it; returns the others' reservations."""
        with self._change() as database:
            self._forget_old(database, now, minutes)
            self._hold(database, trace_id, reviewer, now, minutes)
            rows = database.execute(
                "select reviewer, until from reservations where trace_id = ? and reviewer != ? order by reviewer",
                (trace_id, reviewer),
            ).fetchall()
        return [Reservation(who, datetime.fromisoformat(until)) for who, until in rows]

    def held_by_others(self, reviewer: str, now: datetime) -> dict[str, list[str]]:
        """Who else is working on which item."""
        with self._change() as database:
            self._forget_old(database, now)
            rows = database.execute(
                "select trace_id, reviewer from reservations where reviewer != ? order by 1, 2", (reviewer,)
            ).fetchall()
        found: dict[str, list[str]] = {}
        for trace_id, who in rows:
            found.setdefault(trace_id, []).append(who)
        return found

    def put_aside(self, trace_id: str, reviewer: str, now: datetime) -> None:
        """Let go of an item without an answer; it comes back to him after the others."""
        with self._change() as database:
            database.execute("delete from reservations where trace_id = ? and reviewer = ?", (trace_id, reviewer))
            database.execute("insert or replace into skips values (?, ?, ?)", (trace_id, reviewer, _text(now)))

    # -- inside -----------------------------------------------------------------------------------------------

    def _draft(self, database: sqlite3.Connection, trace_id: str, reviewer: str) -> Draft | None:
        row = database.execute(
            "select fields, revision, saved_at from drafts where trace_id = ? and reviewer = ?", (trace_id, reviewer)
        ).fetchone()
        return None if row is None else Draft(msgspec.json.decode(row[0]), row[1], datetime.fromisoformat(row[2]))

    def _hold(self, database: sqlite3.Connection, trace_id: str, reviewer: str, now: datetime, minutes: float) -> None:
        # One item at a time: who goes on to the next has left the one before.
        database.execute("delete from reservations where reviewer = ? and trace_id != ?", (reviewer, trace_id))
        until = _text(now + timedelta(minutes=minutes))
        database.execute("insert or replace into reservations values (?, ?, ?)", (trace_id, reviewer, until))

    def _forget_old(self, database: sqlite3.Connection, now: datetime, minutes: float | None = None) -> None:
        database.execute("delete from reservations where until <= ?", (_text(now),))
        if minutes is not None:  # longer than anybody is given one: the clock was set back
            database.execute("delete from reservations where until > ?", (_text(now + timedelta(minutes=minutes)),))

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone among all threads and processes."""
        with self._lock:
            try:
                self._database.execute("begin immediate")
            except sqlite3.Error as error:
                raise self._unwritable(error) from error
            try:
                yield self._database
                self._database.execute("commit")
            except BaseException as error:
                if self._database.in_transaction:
                    self._database.execute("rollback")
                if isinstance(error, sqlite3.Error):
                    raise self._unwritable(error) from error
                raise

    def _unwritable(self, error: sqlite3.Error) -> UsageError:
        return UsageError(
            f"The review desk {self.path} cannot be written ({error}); free the disk or make it writable."
        )


def _text(moment: datetime) -> str:
    """In UTC and of fixed width, so that texts compare as times do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
