"""Station growth: what each week did to the golden set, beside its traffic and its failures.

One row a week, from the difference of the suite of two Sundays, so that sizes and changes always add up. Off the
critical path, as it reads grades. Keep out: the arithmetic (``core/growth.py``, ``core/suite_diff.py``).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg
import msgspec
import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.tables import GOLDEN_GROWTH, JUDGE_GRADES, TRACE_SIGNALS
from evalflow.core.calendar import DAYS_PER_WEEK, days_between, sunday_of
from evalflow.core.grading import COMPLAINTS, SIGNALS_GRADER
from evalflow.core.growth import Association, Total, estimated_total, per_thousand, rank_association
from evalflow.core.suite_diff import SuiteDiff, suite_diff
from evalflow.defs.partitions import Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_WEEKLY, OWNERS, SINGLE_RUN, Station, dates, parents, report

GROUP = "golden"
SHOWN_WEEKS = 12


def _inputs(home: Home, week: date) -> Iterable[Any]:
    days = _days(home, week)
    yield home.calendar.is_provisional(week)
    yield [home.ledger.fingerprint_as_of(day) for day in (sunday_before(week), sunday_of(week))]
    yield from parents(home, TRACE_SIGNALS, days)
    yield from parents(home, JUDGE_GRADES, days)


GROWTH = Station("golden_growth", GOLDEN_GROWTH, "week", "1", _inputs)


def growth_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "parquet"},
        code_version=GROWTH.version,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_WEEKLY),
        deps=["trace_signals", "judge_grades"],
        description="What the week added to the golden set, changed in it and retired from it, beside the week's traffic "
        "and failures: growth should be fastest when production is messiest.",
    )
    def golden_growth(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        for week in dates(context):
            made_from = GROWTH.made_from(workspace, week)
            row = growth_of(workspace, week)
            rows = pl.DataFrame([row], schema=GOLDEN_GROWTH.schema)
            workspace.lake.write(GOLDEN_GROWTH, week, rows, made_from=made_from)
            shown = [week - timedelta(weeks=back) for back in range(SHOWN_WEEKS)]
            report(context, week, _metadata(row, workspace.lake.read(GOLDEN_GROWTH, shown, with_key=True)))

    return [golden_growth]


def growth_of(home: Home, week: date) -> dict[str, Any]:
    """The row of ``golden_growth`` for a week; in a week that is not over, as far as it has come."""
    before, after = (by_id(home.ledger.as_of(day)) for day in (sunday_before(week), sunday_of(week)))
    diff = suite_diff(before, after)
    n_traces, n_complaints = _traffic(home, week)
    failures = _failures(home, week)
    n_added_production = sum(case["origin"] == "production" for case in diff.added)
    return {
        "as_of": sunday_of(week),
        "is_provisional": home.calendar.is_provisional(week),
        "n_cases": len(after),
        "n_production": sum(case["origin"] == "production" for case in after.values()),
        "n_regressions": sum(case["is_regression"] for case in after.values()),
        **counts_of(diff),
        "n_added_production": n_added_production,
        "n_added_regressions": sum(case["is_regression"] for case in diff.added),
        "n_traces": n_traces,
        "n_complaints": n_complaints,
        "failures": failures and failures.value,
        "failures_se": failures and failures.se,
        "added_per_1000_traces": per_thousand(len(diff.added), n_traces),
        "added_production_per_1000_failures": per_thousand(n_added_production, failures and failures.value),
    }


def counts_of(diff: SuiteDiff) -> dict[str, int]:
    """How many cases came, left and changed; traces that were merged into a case that is new count too."""
    return {
        "n_added": len(diff.added),
        "n_retired": len(diff.removed),
        "n_changed": len(diff.changed),
        "n_became_regressions": sum(change.became_regression for change in diff.changed),
        "n_merged_traces": sum(len(change.merged_trace_ids) for change in diff.changed)
        + sum(len(case["merged_trace_ids"]) for case in diff.added),
    }


def by_id(cases: Iterable[CaseVersion]) -> dict[str, dict[str, Any]]:
    """A suite as plain rows by case_id, as ``suite_diff`` compares them."""
    return {case.case_id: msgspec.to_builtins(case) for case in cases}


def growth_association(rows: Sequence[Mapping[str, Any]]) -> Association | None:
    """Whether cases born in production come in the weeks of many failures; over closed weeks that know both."""
    known = [row for row in rows if row["failures"] is not None and not row["is_provisional"]]
    return rank_association([row["n_added_production"] for row in known], [row["failures"] for row in known])


def sunday_before(week: date) -> date:
    return sunday_of(week) - timedelta(days=DAYS_PER_WEEK)


def _days(home: Home, week: date) -> list[date]:
    """The days of the week that have traffic partitions."""
    return days_between(max(week, home.calendar.start), min(sunday_of(week), home.calendar.last_day))


def _traffic(home: Home, week: date) -> tuple[int, int]:
    """Traces and complaints of all traffic, sampled or not."""
    signals = home.lake.read(TRACE_SIGNALS, _days(home, week), COMPLAINTS)
    complained = signals.select(pl.any_horizontal(pl.col(name).fill_null(False) for name in COMPLAINTS).sum())
    return len(signals), int(complained.item()) if len(signals) else 0


def _failures(home: Home, week: date) -> Total | None:
    """What the signals grader fails, extended to all traffic; None where a day with traces is not graded."""
    columns = ["trace_id", "session_id", "grader", "verdict", "inclusion_probability"]
    graded = home.lake.read(JUDGE_GRADES, _days(home, week), columns)
    graded = graded.filter(pl.col("grader") == SIGNALS_GRADER)
    there = set(home.lake.keys(JUDGE_GRADES))  # and not the rows: of a quiet day nothing may have been sampled
    if any(
        str(day) not in there and len(home.lake.read(TRACE_SIGNALS, [day], ["trace_id"])) for day in _days(home, week)
    ):
        return None
    failed = graded.filter(pl.col("verdict") == "fail")
    return estimated_total(failed["inclusion_probability"], failed["session_id"].fill_null(failed["trace_id"]))


# -- metadata ----------------------------------------------------------------------------------------------------


def _metadata(row: Mapping[str, Any], shown: pl.DataFrame) -> dict[str, Any]:
    return {
        "dagster/partition_row_count": 1,
        "golden cases": row["n_cases"],
        "added": row["n_added"],
        "retired": row["n_retired"],
        "traces": row["n_traces"],
        "failures (estimate)": _rounded(row["failures"]),
        "added per 1000 traces": _rounded(row["added_per_1000_traces"], 3),
        "weeks": dg.MetadataValue.md(_table(shown)),
    }


def _table(shown: pl.DataFrame) -> str:
    head = [
        "| week | cases | added | from production | merged traces | retired | traces | complaints | failures (estimate) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines = [
        f"| {row['week']} | {row['n_cases']} | {row['n_added']} | {row['n_added_production']} | {row['n_merged_traces']} "
        f"| {row['n_retired']} | {row['n_traces']} | {row['n_complaints']} | {failures_text(row)} |"
        for row in shown.sort("week").iter_rows(named=True)
    ]
    return "\n".join([*head, *lines])


def failures_text(row: Mapping[str, Any]) -> str:
    """The estimate with its standard error; empty where the week is not graded."""
    return "" if row["failures"] is None else f"{row['failures']:,.0f} ± {row['failures_se']:,.0f}"


def _rounded(value: float | None, digits: int = 0) -> float | None:
    return None if value is None else round(value, digits)
