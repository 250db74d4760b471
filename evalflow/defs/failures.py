"""Traces that people might look at because something speaks against them, and those that a grader has judged.

Belongs here: reading signals, grades and alarms together. Keep out: which of them are queued (``triage.py``).
"""

from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    COVERAGE_ALARMS,
    COVERAGE_METRICS,
    JUDGE_GRADES,
    TRACE_SIGNALS,
)
from evalflow.core.calendar import DAYS_PER_WEEK, days_between
from evalflow.core.grading import COMPLAINTS, HARD_FAILURES, IMPLICIT_SIGNALS, LLM_GRADER, SIGNALS_GRADER
from evalflow.core.reviewing import Source
from evalflow.core.sampling import random_numbers

FEEDBACK_PRIORITY, JUDGED_PRIORITY, HARD_PRIORITY, DRIFT_PRIORITY = 0.95, 0.8, 0.75, 0.7
IMPLICIT_PRIORITY, DOUBT_PRIORITY = 0.6, 0.55
"""Where failures stand in the queue: a user's complaint, a judge's verdict, a recorded failure, traffic that no case
tests, what a user did, and a system that was unsure of itself."""
DRIFT_ALARMS = ("blind_spot", "novelty")


@dataclass(frozen=True)
class Failure:
    """A trace that seems to have failed: where it is, how sure, and everything that speaks against it.

    ``source`` and ``priority`` are those of the surest of these.
    """

    trace_id: str
    day: date
    source: Source
    priority: float
    reason: str


def failures(home: Home, week: date) -> list[Failure]:
    """What speaks against traces of the week's window, the surest and newest first; each trace once.

    Signals are those of all traffic, grades those of the sample, drift that of the week itself.
    """
    found: dict[str, list[Failure]] = {}
    graded: dict[str, Failure] = {}
    for day in home.calendar.window(week):
        for failure in _signalled(home, day):
            found.setdefault(failure.trace_id, []).append(failure)
        grades = home.lake.read(JUDGE_GRADES, [day]).filter(pl.col("verdict") == "fail")
        for row in grades.iter_rows(named=True):
            reason = f"graded fail by {row['grader']} {row['grader_version']}: {row['reason']}"
            is_judge = row["grader"] != SIGNALS_GRADER
            priority = JUDGED_PRIORITY if is_judge else DOUBT_PRIORITY
            failure = Failure(row["trace_id"], day, "failed_grade", priority, reason)
            if is_judge:
                found.setdefault(failure.trace_id, []).append(failure)
            else:
                graded[failure.trace_id] = failure
    for failure in _drifted(home, week):
        found.setdefault(failure.trace_id, []).append(failure)
    for trace_id, failure in graded.items():
        found.setdefault(trace_id, [failure])  # where signals are given they are its only reasons
    surest = [_together(said) for said in found.values()]
    ids = pl.Series([failure.trace_id for failure in surest], dtype=pl.String)
    number = dict(zip(ids, random_numbers(f"{home.settings.sampling.salt}/refresh", ids), strict=True))
    return sorted(surest, key=lambda f: (-f.priority, -f.day.toordinal(), number[f.trace_id]))


def judged(home: Home, week: date) -> pl.DataFrame:
    """The traces of the week itself that a grader has judged: ``trace_id``, ``day``, ``grader``, ``verdict``, ``has_signal``.

    By the LLM judge where it judged any (by its general question, else by the first of its rubrics), else by the signals
    grader.
    """
    days = days_of(home, week)
    grades = home.lake.read(JUDGE_GRADES, days, ["trace_id", "grader", "verdict"], with_key=True)
    judges = sorted({name for name in grades["grader"] if name.startswith(LLM_GRADER)})
    grader = judges[0] if judges else SIGNALS_GRADER
    signals = home.lake.read(TRACE_SIGNALS, days, ["trace_id", "is_negative"])
    return (
        grades.filter(pl.col("grader") == grader)
        .unique("trace_id", keep="first", maintain_order=True)
        .join(signals.unique("trace_id"), on="trace_id", how="inner", maintain_order="left")
        .rename({"is_negative": "has_signal"})
        .select("trace_id", "day", "grader", "verdict", "has_signal")
    )


def days_of(home: Home, week: date) -> list[date]:
    """The days of the week itself that have traffic partitions."""
    own = set(days_between(week, week + timedelta(days=DAYS_PER_WEEK - 1)))
    return [day for day in home.calendar.window(week) if day in own]


def _signalled(home: Home, day: date) -> list[Failure]:
    """Complaints, recorded failures and telling deeds of the day; a thumbs-up outweighs the last."""
    columns = (*COMPLAINTS, *HARD_FAILURES, *IMPLICIT_SIGNALS)
    signals = home.lake.read(TRACE_SIGNALS, [day], ["trace_id", *columns])
    said = signals.filter(pl.any_horizontal(pl.col(name).fill_null(False) for name in columns))
    found = []
    for row in said.iter_rows(named=True):
        kinds: tuple[tuple[Source, float, str, tuple[str, ...]], ...] = (
            ("feedback", FEEDBACK_PRIORITY, "its user complained", COMPLAINTS),
            ("signal", HARD_PRIORITY, "the system recorded", HARD_FAILURES),
            ("signal", IMPLICIT_PRIORITY, "its user's doing", IMPLICIT_SIGNALS),
        )
        for source, priority, words, names in kinds:
            given = [name.removeprefix("is_").replace("_", " ") for name in names if row[name]]
            is_outweighed = names == IMPLICIT_SIGNALS and row["is_thumbs_down"] is False
            if given and not is_outweighed:
                found.append(Failure(row["trace_id"], day, source, priority, f"{words}: {', '.join(given)}"))
    return found


def _drifted(home: Home, week: date) -> list[Failure]:
    """Sampled traces of the week in bins that no case tests and that one of the week's alarms names."""
    alarms = home.lake.read(COVERAGE_ALARMS, [week], ["kind", "bin", "text"])
    said = {
        row["bin"]: row["text"]
        for row in alarms.iter_rows(named=True)
        if row["kind"] in DRIFT_ALARMS and row["bin"] is not None
    }
    cases = home.lake.read(COVERAGE_METRICS, [week], ["bin", "golden_cases"])
    untested = cases.filter(pl.col("bin").is_in(list(said)) & (pl.col("golden_cases") == 0))["bin"].to_list()
    rows = home.lake.read(BIN_ASSIGNMENTS, [week], ["side", "item_id", "day", "bin"])
    rows = rows.filter(
        (pl.col("side") == "production") & pl.col("bin").is_in(untested) & pl.col("day").is_in(days_of(home, week))
    )
    return [
        Failure(row["item_id"], row["day"], "drift", DRIFT_PRIORITY, f"traffic without a case: {said[row['bin']]}")
        for row in rows.iter_rows(named=True)
    ]


def _together(said: list[Failure]) -> Failure:
    ordered = sorted(said, key=lambda failure: -failure.priority)
    first = ordered[0]
    return Failure(
        first.trace_id,
        first.day,
        first.source,
        first.priority,
        "; ".join(dict.fromkeys(failure.reason for failure in ordered)),
    )
