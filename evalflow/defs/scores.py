"""Station scores: how the newest run of the suite did, weighted by the week's traffic, week by week, and what it means.

``suite_runs`` is written by `evalflow score import` and reports here. Off the critical path, beside the grades that it
reads. Keep out: the arithmetic (``core/score.py``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal, NamedTuple

import dagster as dg
import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.suite_runs import RunKey, SuiteRun
from evalflow.adapters.tables import BIN_ASSIGNMENTS, COVERAGE_METRICS, QUALITY_METRICS, SUITE_SCORES, Table
from evalflow.core.calendar import WINDOW_WEEKS, sunday_of
from evalflow.core.grading import LLM_GRADER, SIGNALS_GRADER
from evalflow.core.score import (
    Change,
    CoveredScore,
    JsdWeek,
    Paired,
    PassRate,
    ProductionRate,
    SuiteCase,
    covered_score,
    days_in_force,
    diagnose,
    jsd_change,
    mean_outcomes,
    pass_rate_of,
    production_change,
    results_by_bin,
    score_change,
)
from evalflow.defs.partitions import SPAN, Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_WEEKLY, OWNERS, SINGLE_RUN, Station, dates, parents, report
from evalflow.errors import EarlierVersionError

GROUP = "grades"
RUNS_ASSET = "suite_runs"
APART = timedelta(weeks=WINDOW_WEEKS)
"""What a week is compared with: the last one whose window shares no day with its own, so that errors are independent."""
GRADERS = (SIGNALS_GRADER, LLM_GRADER)
"""Whose pass rate stands for production, in this order: signals see the whole sample and share no judge with the suite."""
SHOWN_WEEKS = 8
_SHOWN = ("jsd", "weighted_pass_rate", "covered_share", "pass_rate_signals", "diagnosis")
_OPERATIONS = ("latency_p95_ms", "cost_per_trace_usd")
_NO_COVERAGE = "the coverage of the week is not known, or its window holds no traces"


def _inputs(home: Home, week: date) -> Iterable[Any]:
    runs = _runs_of(home, week)
    yield home.calendar.is_provisional(week)
    yield [[(key.run_id, days) for key, days in end.items()] for end in runs]
    # The content of a case decides whether a result still counts: on the Sunday, and on the days of the runs.
    days = {sunday_of(week), *(key.ran_on for end in runs for key in end)}
    yield [home.ledger.fingerprint_as_of(day) for day in sorted(days)]
    yield from parents(home, BIN_ASSIGNMENTS, [week])
    yield from parents(home, COVERAGE_METRICS, _span(week))
    yield from parents(home, QUALITY_METRICS, [week - APART, week])


SCORES = Station("suite_scores", SUITE_SCORES, "week", "2", _inputs)


def score_specs() -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            RUNS_ASSET,
            group_name=GROUP,
            owners=OWNERS,
            kinds={"json"},
            description="What one run of the suite said of a case. Append-only; written by `evalflow score import`.",
        )
    ]


def score_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "parquet"},
        code_version=SCORES.version,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_WEEKLY),
        deps=[
            RUNS_ASSET,
            "bin_assignments",
            dg.AssetDep("coverage_metrics", partition_mapping=SPAN),
            dg.AssetDep("quality_metrics", partition_mapping=SPAN),
        ],
        description="The newest run of the suite up to the week's Sunday: its pass rate weighted by traffic, the share of "
        "traffic that it stands for, and a diagnosis of what four weeks changed beside JSD and production.",
    )
    def suite_scores(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        for week in dates(context):
            made_from = SCORES.made_from(workspace, week)
            row = score_week(workspace, week)
            rows = pl.DataFrame([row], schema=SUITE_SCORES.schema)
            workspace.lake.write(SUITE_SCORES, week, rows, made_from=made_from)
            shown = [week - timedelta(weeks=back) for back in range(SHOWN_WEEKS)]
            report(context, week, _metadata(row, workspace.lake.read(SUITE_SCORES, shown, _SHOWN, with_key=True)))

    return [suite_scores]


def report_suite_run(instance: dg.DagsterInstance, n_results: int) -> None:
    """Tell Dagster that a run of the suite was recorded."""
    instance.report_runless_asset_event(dg.AssetMaterialization(RUNS_ASSET, metadata={"results added": n_results}))


def score_week(home: Home, week: date) -> dict[str, Any]:
    """The row of ``suite_scores`` for a week, from what was known of it on its Sunday.

    Raises:
        CannotTellError: the week's bins were not computed yet; the message says what to do.
    """
    home.lake.require(BIN_ASSIGNMENTS, [week])
    before = week - APART
    suite, shares, runs = _suite_of(home, week), _shares(home, week), _runs_of(home, week)
    key = next(iter(runs.now), None)
    held = {at: _held_against(home, suite, at) for at in sorted({key for end in runs for key in end})}
    run = held[key] if key else _held_against(home, suite, None)
    passed = pass_rate_of(run.outcome.values())
    by_bin = results_by_bin(suite.cases, run.outcome, shares.by_bin)
    score = covered_score(by_bin, shares.m_eff) if shares.by_bin else None
    like_for_like = _score_change(week, suite, runs, held, shares)
    served = _served_change(week, suite, runs, held, shares)
    production = production_change(_production(home, before), _production(home, week))
    jsd = jsd_change([_jsd_week(home, at) for at in _span(week)])
    found = diagnose(jsd, like_for_like, served, production)
    row = {
        "as_of": sunday_of(week),
        "is_provisional": home.calendar.is_provisional(week),
        "run_id": key and key.run_id,
        "run_name": run.name,
        "ran_on": key and key.ran_on,
        "run_age_days": key and (sunday_of(week) - key.ran_on).days,
        "n_cases": len(suite.cases),
        "n_unscored": run.n_unscored,
        "n_missing": run.n_missing,
        "n_changed": run.n_changed,
        **(_figures(passed, score) if key else {}),
        "reason": _reason(week, suite, key, passed, score),
        **shares.headline,
        **_operations(home, week),
        "compared_week": before,
        "n_paired": like_for_like.n_cases,
        "production_grader": production.grader,
        **_change("jsd", jsd),
        **_change("score", like_for_like),
        **_change("served_score", served),
        **_change("production", production.change),
        "overfitting_p": found.overfitting_p,
        "diagnosis": found.finding,
        "diagnosis_text": found.text,
    }
    return {name: row.get(name) for name in SUITE_SCORES.schema}


# -- what a week is scored by ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shares:
    """The week's traffic by bin, how many independent traces that rests on, and the headline beside it."""

    by_bin: dict[str, float]
    m_eff: float | None
    headline: dict[str, Any]


class _Suite(NamedTuple):
    """The cases of a week's Sunday with their bins, and what each of them says."""

    cases: list[SuiteCase]
    content: dict[str, tuple[Any, ...]]


class _Held(NamedTuple):
    """A run held against a suite: an outcome for each case, None where there is none that counts, and why there is none.

    ``n_changed``: the case was changed, or came, after the run. Counted apart from cases that the run lacks.
    """

    name: str | None
    outcome: dict[str, bool | None]
    n_unscored: int
    n_missing: int
    n_changed: int


class _Runs(NamedTuple):
    """The runs that a week looks at, each with the days it stands for; empty where there is none.

    ``now``, ``then``: the newest of the week's Sunday and of that four weeks before. ``later``, ``earlier``: those in
    force in the windows of both.
    """

    now: dict[RunKey, int]
    then: dict[RunKey, int]
    later: dict[RunKey, int]
    earlier: dict[RunKey, int]


def _span(week: date) -> list[date]:
    return [week - timedelta(weeks=back) for back in reversed(range(WINDOW_WEEKS + 1))]


def _runs_of(home: Home, week: date) -> _Runs:
    """None but those up to the week's Sunday: later runs do not exist for it."""
    keys = home.suite_runs.up_to(sunday_of(week))
    ran_on = [key.ran_on for key in keys]

    def at(days: Sequence[date], end: Literal["earlier", "later"]) -> dict[RunKey, int]:
        return {keys[run]: n for run, n in sorted((days_in_force(ran_on, days, end) or {}).items())}

    return _Runs(
        now=at([sunday_of(week)], "later"),
        then=at([sunday_of(week - APART)], "later"),
        later=at(home.calendar.window(week), "later"),
        earlier=at(home.calendar.window(week - APART), "earlier"),
    )


def _rows(home: Home, table: Table, week: date, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a week; none where it was not computed, or by a version that did not have these columns."""
    try:
        return home.lake.read(table, [week], columns).to_dicts()
    except EarlierVersionError:
        return []


def _shares(home: Home, week: date) -> _Shares:
    names = ("weighting", "taxonomy_id", "n_bins", "jsd", "jsd_sd")
    rows = _rows(home, COVERAGE_METRICS, week, ["bin", "production_share", "m_eff", *names])
    head = rows[0] if rows else {}
    return _Shares(
        {row["bin"]: row["production_share"] for row in rows},
        head.get("m_eff"),
        {name: head.get(name) for name in names},
    )


def _suite_of(home: Home, week: date) -> _Suite:
    placed = home.lake.read(BIN_ASSIGNMENTS, [week], ["side", "item_id", "bin"]).filter(pl.col("side") == "golden")
    bins = dict(placed.select("item_id", "bin").iter_rows())
    cases = home.ledger.as_of(sunday_of(week))
    return _Suite(
        [SuiteCase(case.case_id, case.is_regression, bins.get(case.case_id)) for case in cases], _content_of(cases)
    )


def _content_of(cases: Sequence[CaseVersion]) -> dict[str, tuple[Any, ...]]:
    """What a result is about: a case that asks or expects something else now has no result yet."""
    return {case.case_id: (case.input, case.expected_output) for case in cases}


def _held_against(home: Home, suite: _Suite, key: RunKey | None) -> _Held:
    """The outcomes that count: of cases that say now what they said on the day of the run."""
    run = home.suite_runs.read(key) if key else None
    found = _counting(home, suite, run)
    given = {} if run is None else run.outcomes
    names = [case.case_id for case in suite.cases]
    return _Held(
        run.name if run else None,
        {name: found.get(name) for name in names},
        n_unscored=sum(name in found and found[name] is None for name in names),
        n_missing=sum(name not in given for name in names),
        n_changed=sum(name in given and name not in found for name in names),
    )


def _counting(home: Home, suite: _Suite, run: SuiteRun | None) -> dict[str, bool | None]:
    if run is None:
        return {}
    then = _content_of(home.ledger.as_of(run.key.ran_on))
    return {
        case_id: passed
        for case_id, passed in run.outcomes.items()
        if case_id in suite.content and then.get(case_id) == suite.content[case_id]
    }


# -- four weeks --------------------------------------------------------------------------------------------------


def _score_change(week: date, suite: _Suite, runs: _Runs, held: Mapping[RunKey, _Held], shares: _Shares) -> Change:
    """From the newest run up to the Sunday four weeks ago to the newest one now."""
    if not runs.now or not runs.then:
        until = sunday_of(week - APART if runs.now else week)
        return Change(None, missing=f"no run of the suite is recorded up to {until}")
    if runs.now == runs.then:
        (only,) = runs.now
        return Change(None, missing=f"the suite was not run again since {only.ran_on}")
    return _between(suite, runs.then, runs.now, held, shares)


def _served_change(week: date, suite: _Suite, runs: _Runs, held: Mapping[RunKey, _Held], shares: _Shares) -> Change:
    """From window to window, each day by the run in force."""
    if not runs.later or not runs.earlier:
        return Change(None, missing="production's windows begin before any run of the suite or before any traffic")
    return _between(suite, runs.earlier, runs.later, held, shares)


def _between(
    suite: _Suite,
    before: dict[RunKey, int],
    after: dict[RunKey, int],
    held: Mapping[RunKey, _Held],
    shares: _Shares,
) -> Change:
    if not shares.by_bin:
        return Change(None, missing=_NO_COVERAGE)
    passed = [mean_outcomes({key: held[key].outcome for key in end}, end) for end in (before, after)]
    pairs = [
        Paired(case.bin, passed[0][case.case_id], passed[1][case.case_id])
        for case in suite.cases
        if case.bin is not None and all(case.case_id in end for end in passed)
    ]
    return score_change(pairs, shares.by_bin, shares.m_eff)


def _jsd_week(home: Home, week: date) -> JsdWeek:
    head = next(iter(_rows(home, COVERAGE_METRICS, week, ["jsd", "jsd_sd", "taxonomy_id", "jsd_previous"])), {})
    return JsdWeek(week, head.get("jsd"), head.get("jsd_sd"), head.get("taxonomy_id"), head.get("jsd_previous"))


def _production(home: Home, week: date) -> list[ProductionRate]:
    overall = {row["grader"]: row for row in _overall(home, week)}
    return [
        ProductionRate(grader, row["grader_version"], row["pass_rate"], row["pass_rate_se"])
        for grader in GRADERS
        if (row := overall.get(grader))
    ]


def _overall(home: Home, week: date) -> list[dict[str, Any]]:
    columns = ["bin", "grader", "grader_version", "pass_rate", "pass_rate_se", *_OPERATIONS]
    return [row for row in _rows(home, QUALITY_METRICS, week, columns) if row["bin"] is None]


# -- the row -----------------------------------------------------------------------------------------------------


def _figures(passed: PassRate, score: CoveredScore | None) -> dict[str, Any]:
    """Counts always; rates only where it is known what they stand for."""
    counts = {"n_scored": passed.scored, "n_passed": passed.passed}
    if score is None or passed.rate is None:
        return counts
    low, high = score.interval or (None, None)
    return {
        **counts,
        "pass_rate": passed.rate,
        "pass_rate_low": passed.interval.low,
        "pass_rate_high": passed.interval.high,
        "weighted_pass_rate": score.rate,
        "weighted_pass_rate_se": score.se,
        "weighted_pass_rate_low": low,
        "weighted_pass_rate_high": high,
        "covered_share": score.covered_share,
        "bound_low": score.bounds.low,
        "bound_high": score.bounds.high,
    }


def _reason(week: date, suite: _Suite, key: RunKey | None, passed: PassRate, score: CoveredScore | None) -> str | None:
    """Why there is no weighted pass rate; None where there is one."""
    if key is None:
        return f"no run of the suite is recorded up to {sunday_of(week)}"
    if not suite.cases:
        return f"the golden set has no cases as of {sunday_of(week)}"
    if not passed.scored:
        return f"the run of {key.ran_on} scored no case of the suite as it stands on {sunday_of(week)}"
    if score is None:
        return _NO_COVERAGE
    if score.rate is None:
        return "no scored case lies in a bin with traffic"
    return None


def _operations(home: Home, week: date) -> dict[str, Any]:
    rows = _overall(home, week)
    head = rows[0] if rows else {}
    by_grader = {row["grader"]: row for row in rows}
    rates = {
        f"{name}_{grader}{ending}": by_grader.get(grader, {}).get(f"{name}{ending}")
        for grader in GRADERS
        for name, ending in (("pass_rate", ""), ("pass_rate", "_se"))
    }
    return {**rates, **{name: head.get(name) for name in _OPERATIONS}}


def _change(name: str, change: Change) -> dict[str, Any]:
    return {f"{name}_change": change.value, f"{name}_change_se": change.se, f"{name}_trend": change.trend}


# -- metadata ----------------------------------------------------------------------------------------------------


def _metadata(row: Mapping[str, Any], shown: pl.DataFrame) -> dict[str, Any]:
    rate = row["weighted_pass_rate"]
    return {
        "dagster/partition_row_count": 1,
        "weighted pass rate": _rounded(rate),
        "95 % interval": None
        if rate is None
        else f"{row['weighted_pass_rate_low']:.1%} to {row['weighted_pass_rate_high']:.1%}",
        "covered share": _rounded(row["covered_share"]),
        "bounds": None if rate is None else f"{row['bound_low']:.1%} to {row['bound_high']:.1%}",
        "run": run_text(row),
        "reason": row["reason"],
        "diagnosis": row["diagnosis"],
        "in words": row["diagnosis_text"],
        "weeks": dg.MetadataValue.md(_table(shown)),
    }


def run_text(row: Mapping[str, Any]) -> str | None:
    """Which run a row is about; None without one."""
    if row["ran_on"] is None:
        return None
    name = f"{row['run_name']}, " if row["run_name"] else ""
    return f"{name}ran on {row['ran_on']}, {row['run_age_days']} days before the week's Sunday"


def _table(shown: pl.DataFrame) -> str:
    head = [
        "| week | JSD | weighted pass rate | covered | production (signals) | diagnosis |",
        "|---|---|---|---|---|---|",
    ]
    lines = [
        f"| {row['week']} | {'' if row['jsd'] is None else format(row['jsd'], '.3f')} | {_percent(row['weighted_pass_rate'])} "
        f"| {_percent(row['covered_share'])} | {_percent(row['pass_rate_signals'])} | {row['diagnosis']} |"
        for row in shown.sort("week").iter_rows(named=True)
    ]
    return "\n".join([*head, *lines])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
