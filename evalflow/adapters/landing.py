"""Lands source files: each new or changed file is read once, its rows go to the days they belong to.

A file counts as landed when its row in ``trace_files`` is written, which happens last; rows of an interrupted
landing are ignored by ``raw_traces`` and overwritten by the next try, under the same names.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.lake import Lake
from evalflow.adapters.native import FoundFiles, Line, file_hash, find_files, read_lines
from evalflow.adapters.tables import LANDING, LANDING_FEEDBACK, QUARANTINE, TRACE_FILES, Table
from evalflow.core.records import (
    FeedbackEvent,
    Limits,
    Trace,
    Unusable,
    feedback_row,
    parse_record,
    trace_row,
)

ROWS_PER_PART = 50_000
"""Rows held in memory before they are written as one more part of their days."""


@dataclass
class FileReport:
    """What became of one source file."""

    path: str
    file_hash: str
    is_new: bool = True
    n_traces: int = 0
    n_feedback: int = 0
    n_quarantined: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    first_bad: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class LandingReport:
    """What one landing did: files in the order read, the days touched, files left aside."""

    files: list[FileReport] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    touched_days: set[date] = field(default_factory=set)
    start_moved_to: date | None = None

    @property
    def n_traces(self) -> int:
        return sum(report.n_traces for report in self.files)

    @property
    def n_feedback(self) -> int:
        return sum(report.n_feedback for report in self.files)

    @property
    def n_quarantined(self) -> int:
        return sum(report.n_quarantined for report in self.files)

    @property
    def n_skipped(self) -> int:
        return sum(not report.is_new for report in self.files)


def land(
    home: Home, paths: Iterable[str], on_file: Callable[[FileReport], None] = lambda report: None
) -> LandingReport:
    """Land every file under ``paths`` that is new or changed; calls ``on_file`` after each.

    Raises:
        BadInputError: a path names nothing that can be read.
    """
    report = LandingReport()
    register = home.lake.read(TRACE_FILES, home.lake.keys(TRACE_FILES))
    landed = set(register["file_hash"])
    next_seq = max(register["landed_seq"].to_list(), default=0) + 1
    found = [_without_own_files(home, find_files(path)) for path in paths]
    report.ignored = [item for group in found for item in group.ignored]
    for path in dict.fromkeys(item for group in found for item in group.files):
        digest = file_hash(path)
        if digest in landed:
            file_report = FileReport(path, digest, is_new=False)
        else:
            file_report = _land_file(home, path, digest, next_seq, report.touched_days)
            landed.add(digest)
            next_seq += 1
        report.files.append(file_report)
        on_file(file_report)
    trace_days = (
        home.lake.read(TRACE_FILES, home.lake.keys(TRACE_FILES), ["trace_days"])["trace_days"].explode().drop_nulls()
    )
    first_day = trace_days.min()
    if isinstance(first_day, date) and home.move_traffic_start(first_day):
        report.start_moved_to = first_day
    return report


def newest_landed_day(lake: Lake) -> date | None:
    """The newest day for which a trace or a feedback event has landed, or None while nothing has."""
    register = _register(lake, tuple(lake.keys(TRACE_FILES)))
    return max(
        (day for name in ("trace_days", "feedback_days") for day in register[name].explode().drop_nulls()), default=None
    )


def _without_own_files(home: Home, found: FoundFiles) -> FoundFiles:
    """A folder that holds the home must not feed the home's own tables back into it."""
    own = [str(home.lake.root), *(str(home.path / name) for name in ("ledger", "cache", "marts"))]
    owner = {item: next((folder for folder in own if Path(item).is_relative_to(folder)), None) for item in found.files}
    left_aside = sorted({folder for folder in owner.values() if folder})
    return FoundFiles([item for item in found.files if owner[item] is None], [*left_aside, *found.ignored])


def landing_files(lake: Lake, table: Table, days_column: str, days: Iterable[date]) -> dict[date, list[str]]:
    """For each day, the landing files that finished landing, oldest first."""
    register = _register(lake, tuple(lake.keys(TRACE_FILES)))
    wanted: dict[date, list[str]] = {day: [] for day in days}
    for row in register.iter_rows(named=True):
        for day in row[days_column]:
            if day in wanted:
                wanted[day] += sorted(
                    str(path) for path in lake.fs.glob(lake.path(table, day, f"{row['file_hash']}-*"))
                )
    return wanted


@lru_cache(maxsize=4)
def _register(lake: Lake, landed: tuple[str, ...]) -> pl.DataFrame:
    """Rows of ``trace_files`` are never rewritten, so the same set of keys is the same register."""
    return lake.read(TRACE_FILES, landed).sort("landed_seq", "file_hash")


def limits_of(home: Home) -> Limits:
    """What a timestamp and a text may be in this home, from its settings and its "now"."""
    now, ingest = home.now(), home.settings.ingest
    latest = (
        datetime.combine(home.settings.traffic_end, time.max, tzinfo=UTC)
        if home.settings.traffic_end
        else now + timedelta(hours=ingest.max_ahead_hours)
    )
    return Limits(now - timedelta(days=ingest.max_age_days), latest, ingest.max_text_bytes)


class _Parts:
    """Rows of one file gathered by day and written in numbered parts."""

    def __init__(self, lake: Lake, table: Table, digest: str) -> None:
        self.lake, self.table, self.digest = lake, table, digest
        self.rows: dict[date, list[dict[str, Any]]] = {}
        self.held = 0
        self.parts: dict[date, int] = {}

    def add(self, day: date, row: dict[str, Any]) -> None:
        self.rows.setdefault(day, []).append(row)
        self.held += 1
        if self.held >= ROWS_PER_PART:
            self.flush()

    def flush(self) -> None:
        for day, rows in sorted(self.rows.items()):
            part = self.parts.get(day, 0)
            self.parts[day] = part + 1
            frame = pl.from_dicts(rows, schema=self.table.schema)
            self.lake.write(self.table, day, frame, name=f"{self.digest}-{part:04d}")
        self.rows, self.held = {}, 0


def _land_file(home: Home, path: str, digest: str, seq: int, touched: set[date]) -> FileReport:
    report = FileReport(path, digest)
    traces, feedback = _Parts(home.lake, LANDING, digest), _Parts(home.lake, LANDING_FEEDBACK, digest)
    quarantined: list[dict[str, Any]] = []
    limits = limits_of(home)
    for line in read_lines(path):
        record = line.row if isinstance(line.row, Unusable) else parse_record(line.row, limits)
        stamp = {"landed_seq": seq, "line": line.number, "source_file": path}
        if isinstance(record, Trace):
            traces.add(record.timestamp.date(), trace_row(record) | stamp | {"is_moved_away": False})
            report.n_traces += 1
        elif isinstance(record, FeedbackEvent):
            feedback.add(record.timestamp.date(), feedback_row(record) | stamp)
            report.n_feedback += 1
        else:
            quarantined.append(_quarantine(report, path, line, record.reason))
    traces.flush()
    feedback.flush()
    _mark_moved(home.lake, traces, seq, path)
    if quarantined:
        home.lake.write(QUARANTINE, digest, pl.from_dicts(quarantined, schema=QUARANTINE.schema))
    touched |= set(traces.parts) | set(feedback.parts)
    row = {
        "path": path,
        "file_hash": digest,
        "landed_seq": seq,
        "n_traces": report.n_traces,
        "n_feedback": report.n_feedback,
        "n_quarantined": report.n_quarantined,
        "trace_days": sorted(traces.parts),
        "feedback_days": sorted(feedback.parts),
    }
    home.lake.write(TRACE_FILES, digest, pl.from_dicts([row], schema=TRACE_FILES.schema), made_from=digest)
    return report


def _quarantine(report: FileReport, path: str, line: Line, reason: str) -> dict[str, Any]:
    report.n_quarantined += 1
    report.reasons[_kind(reason)] = report.reasons.get(_kind(reason), 0) + 1
    if len(report.first_bad) < 5:
        report.first_bad.append((line.number, reason))
    return {"path": path, "line": line.number, "reason": reason, "excerpt": line.excerpt}


def _kind(reason: str) -> str:
    """Reasons without their values, so that a million different timestamps make one line of a summary."""
    return "".join("#" if char.isdigit() else char for char in reason)


def _mark_moved(lake: Lake, traces: _Parts, seq: int, path: str) -> None:
    """A newer version of a trace with another day leaves a mark in the day that held the old one.

    Without it the trace would stand in both days, since each day is merged by itself.
    """
    mine = [
        lake.path(LANDING, day, f"{traces.digest}-{part:04d}") for day, n in traces.parts.items() for part in range(n)
    ]
    if not mine:
        return
    with duckdb.connect(":memory:") as connection, lake.attach(connection):
        rows = connection.execute(
            """
            with
            mine as (
                select trace_id, max_by(day, line) as day
                from read_parquet($mine, hive_partitioning = true) group by trace_id
            ),
            everything as (select distinct trace_id, day from landing)
            select everything.trace_id, everything.day, cast(mine.day as date) as new_day
            from everything join mine on everything.trace_id = mine.trace_id and everything.day <> mine.day
            order by 1, 2
            """,
            {"mine": [_for_duckdb(lake, item) for item in mine]},
        ).fetchall()
    for trace_id, old_day, new_day in rows:
        stamp = {"landed_seq": seq, "line": 2**62, "source_file": path}
        at = datetime.combine(new_day, time(), tzinfo=UTC)
        traces.add(old_day, {"trace_id": trace_id, "timestamp": at, "is_moved_away": True} | stamp)
    traces.flush()


def _for_duckdb(lake: Lake, path: str) -> str:
    return path if lake.is_local else str(lake.fs.unstrip_protocol(path))
