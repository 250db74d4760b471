"""Station grades: verdicts on the sampled traces, and the week's pass rate, latency and cost they add up to.

The signals grader speaks about every sampled trace and costs nothing; the LLM judge, when the settings name one, about a
second draw from the sample. Nothing else waits for the judge: what it could not grade is left for the next run.
Keep out: how a verdict is reached (``core/grading.py``) and how an endpoint is asked (``adapters/judge.py``).
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from typing import Any, NamedTuple

import dagster as dg
import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.judge import Judged, JudgeItem, JudgeVerdict, LlmJudge, judge_version
from evalflow.adapters.rubrics import asked_rubrics
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    JUDGE_GRADES,
    QUALITY_METRICS,
    STRATIFIED_SAMPLES,
    TRACE_SIGNALS,
)
from evalflow.adapters.taxonomy import taxonomy_in_force
from evalflow.core.calendar import sunday_of
from evalflow.core.grading import (
    SIGNALS_GRADER,
    SIGNALS_VERSION,
    Rubric,
    grade_by_signals,
    grader_of,
    weighted_mean,
    weighted_quantile,
    weighted_rate,
)
from evalflow.core.sampling import random_numbers
from evalflow.core.weighting import hajek_standard_error
from evalflow.defs.partitions import WEEKS, Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_DAILY, FRESH_WEEKLY, OWNERS, SINGLE_RUN, Station, dates, parents, report
from evalflow.errors import UnreachableError
from evalflow.settings import Judge

GROUP = "grades"
LATENCY_QUANTILE = 0.95
NO_RATE = {"pass_rate": None, "pass_rate_se": None, "pass_rate_traffic": None}
UNFINISHED = ""
"""Stored in place of a fingerprint when verdicts are still missing: no input gives it, so the next run goes on."""


def _grade_inputs(home: Home, day: date) -> Iterable[Any]:
    judge = home.settings.judge
    yield SIGNALS_VERSION
    yield home.settings.sampling.uncertain_below
    versions = [judge_version(judge, rubric) for rubric in _asked(home)]
    yield [versions, judge.target_per_day, judge.max_answer_tokens, home.settings.sampling.salt] if versions else None
    yield from parents(home, STRATIFIED_SAMPLES, [day])
    yield from parents(home, TRACE_SIGNALS, [day])


def _quality_inputs(home: Home, week: date) -> Iterable[Any]:
    window = home.calendar.window(week)
    yield _versions_in_use(home)
    yield [str(day) for day in _unfinished(home, window)]
    yield from parents(home, BIN_ASSIGNMENTS, [week])
    yield from parents(home, JUDGE_GRADES, window)
    yield from parents(home, STRATIFIED_SAMPLES, window)


GRADES = Station("judge_grades", JUDGE_GRADES, "day", "1", _grade_inputs, may_be_unfinished=True)
QUALITY = Station("quality_metrics", QUALITY_METRICS, "week", "4", _quality_inputs)


EXAMPLE_OF_RUBRIC = JudgeVerdict(
    verdict="unscored", reason="the rubric shows this trace to the judge as an example, with its verdict"
)


class Judging(NamedTuple):
    """What one rubric came to over all days of a run; None stands for the general question."""

    rubric: Rubric | None
    judged: Judged


class Draw(NamedTuple):
    """The traces of one day that the judge is asked about, in the order of their numbers, and the chance of each."""

    rows: pl.DataFrame
    pi_grade: float


def grade_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"openai", "polars", "parquet"},
        code_version=GRADES.version,
        partitions_def=partitions.daily,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_DAILY),
        deps=["stratified_samples", "trace_signals"],
        description="A grader's verdict on a sampled trace: the signals grader on each of them, the LLM judge on a draw of "
        "them when the settings name its model, once for each rubric (llm, llm:NAME). A day that the judge could not "
        "finish is picked up by the next run.",
    )
    def judge_grades(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        lake, days = workspace.lake, dates(context)
        lake.require(STRATIFIED_SAMPLES, days)
        lake.require(TRACE_SIGNALS, days)
        made_from = {day: GRADES.made_from(workspace, day) for day in days}
        rubrics = _asked(workspace)
        draws = {day: draw_for_judge(workspace, day) for day in days} if rubrics else {}
        judgings = _judge_together(workspace, draws, rubrics)
        for day in days:
            rows, n_missing = _signals_rows(workspace, day), 0
            for judging in judgings:
                by_judge = _judge_rows(workspace.settings.judge, day, draws[day], judging)
                rows, n_missing = pl.concat([rows, by_judge]), n_missing + len(draws[day].rows) - len(by_judge)
            lake.write(JUDGE_GRADES, day, rows, made_from=UNFINISHED if n_missing else made_from[day])
            report(context, day, _grade_metadata(rows, workspace.settings.judge, judgings, n_missing))
        failure = next((each.judged.failure for each in judgings if each.judged.failure is not None), None)
        if failure is not None:
            raise UnreachableError(
                f"{failure} Every verdict that was obtained is kept, and `evalflow run` goes on from there."
            )

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "parquet"},
        code_version=QUALITY.version,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_WEEKLY),
        deps=[
            "bin_assignments",
            dg.AssetDep("judge_grades", partition_mapping=WEEKS),
            dg.AssetDep("stratified_samples", partition_mapping=WEEKS),
        ],
        description="A grader's pass rate over the week's window, for each bin and for all of them together (bin null), "
        "weighted to traffic, with latency and cost. Raw: no grader's own error rates are corrected here.",
    )
    def quality_metrics(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        for week in dates(context):
            made_from = QUALITY.made_from(workspace, week)
            rows = quality_of_week(workspace, week)
            workspace.lake.write(QUALITY_METRICS, week, rows, made_from=made_from)
            n_unfinished = len(_unfinished(workspace, workspace.calendar.window(week)))
            report(context, week, _quality_metadata(rows, n_unfinished))

    return [judge_grades, quality_metrics]


# -- grades of a day -------------------------------------------------------------------------------------------


def draw_for_judge(home: Home, day: date) -> Draw:
    """A second Poisson draw from the day's sample, by a salt of its own: pi_grade = min(1, target / sampled).

    In the order of the numbers, so that what a cut-short run has judged of a day is a random part of it too.
    """
    sample = home.lake.read(
        STRATIFIED_SAMPLES, [day], ["trace_id", "session_id", "text", "output", "inclusion_probability"]
    )
    pi_grade = min(1.0, home.settings.judge.target_per_day / len(sample)) if len(sample) else 1.0
    number = pl.Series("number", random_numbers(f"{home.settings.sampling.salt}/judge", sample["trace_id"]), pl.Float64)
    drawn = sample.with_columns(number).filter(pl.col("number") < pi_grade)
    return Draw(drawn.sort("number", "trace_id"), pi_grade)


def _asked(home: Home) -> list[Rubric | None]:
    """What the judge is asked, the general question as None; nothing without a model."""
    judge = home.settings.judge
    return asked_rubrics(home.path, judge.rubrics) if judge.model else []


def _judge_together(home: Home, draws: dict[date, Draw], rubrics: list[Rubric | None]) -> list[Judging]:
    """All days of the run, rubric after rubric, against one cap; after a failure no further rubric is asked."""
    judge, judgings = home.settings.judge, []
    left_usd, failure = judge.max_usd_per_run, None
    for rubric in rubrics:
        shown = {example.trace_id for example in rubric.examples} if rubric else set()
        rows = [(day, row) for day, drawn in draws.items() for row in drawn.rows.iter_rows(named=True)]
        items = [
            JudgeItem(_item_id(day, row["trace_id"]), row["text"], row["output"])
            for day, row in rows
            if row["trace_id"] not in shown
        ]
        known = {_item_id(day, row["trace_id"]): EXAMPLE_OF_RUBRIC for day, row in rows if row["trace_id"] in shown}
        if failure is None:
            judged = LlmJudge(judge, home.cache, rubric).judge(items, left_usd)
            left_usd, failure = left_usd - judged.spent_usd, judged.failure
        else:
            judged = Judged({}, 0.0, 0, 0, None)
        judgings.append(Judging(rubric, replace(judged, verdicts=judged.verdicts | known)))
    return judgings


def _item_id(day: date, trace_id: str) -> str:
    return f"{day}/{trace_id}"


def _signals_rows(home: Home, day: date) -> pl.DataFrame:
    sample = home.lake.read(STRATIFIED_SAMPLES, [day], ["trace_id", "inclusion_probability"])
    signals = sample.join(
        home.lake.read(TRACE_SIGNALS, [day]), on="trace_id", how="left", maintain_order="left", validate="1:1"
    )
    graded = grade_by_signals(signals, home.settings.sampling.uncertain_below)
    return _completed(
        graded.with_columns(
            signals["session_id"],
            signals["inclusion_probability"],
            grader=pl.lit(SIGNALS_GRADER),
            grader_version=pl.lit(SIGNALS_VERSION),
            pi_grade=pl.lit(1.0),
        )
    )


def _judge_rows(judge: Judge, day: date, drawn: Draw, judging: Judging) -> pl.DataFrame:
    """The verdicts that were obtained, in the order of the trace ids."""
    rows = [
        {
            "trace_id": row["trace_id"],
            "session_id": row["session_id"],
            "inclusion_probability": row["inclusion_probability"],
            "verdict": verdict.verdict,
            "reason": verdict.reason,
            "input_tokens": verdict.input_tokens,
            "output_tokens": verdict.output_tokens,
            "cost_usd": verdict.cost_usd,
        }
        for row in drawn.rows.sort("trace_id").iter_rows(named=True)
        if (verdict := judging.judged.verdicts.get(_item_id(day, row["trace_id"]))) is not None
    ]
    frame = pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(schema=JUDGE_GRADES.schema)
    return _completed(
        frame.with_columns(
            grader=pl.lit(grader_of(judging.rubric)),
            grader_version=pl.lit(judge_version(judge, judging.rubric)),
            pi_grade=pl.lit(drawn.pi_grade),
        )
    )


def _completed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        (pl.col(name) if name in rows.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in JUDGE_GRADES.schema.items()
    )


# -- quality of a week -----------------------------------------------------------------------------------------


def _versions_in_use(home: Home) -> dict[str, str]:
    of_judge = {grader_of(rubric): judge_version(home.settings.judge, rubric) for rubric in _asked(home)}
    return {SIGNALS_GRADER: SIGNALS_VERSION, **of_judge}


def _unfinished(home: Home, days: Iterable[date]) -> list[date]:
    """The days that still wait for verdicts of the judge; one that was never graded is none of them."""
    return [day for day in days if home.lake.made_from(JUDGE_GRADES, day) == UNFINISHED]


def _unfinished_graders(home: Home, days: Iterable[date]) -> set[str]:
    """The graders that were asked about fewer traces of some day than were drawn for them, and those not asked at all."""
    unfinished: set[str] = set()
    for day in _unfinished(home, days):
        sample = home.lake.read(STRATIFIED_SAMPLES, [day], ["trace_id"])
        numbers = random_numbers(f"{home.settings.sampling.salt}/judge", sample["trace_id"])
        grades = home.lake.read(JUDGE_GRADES, [day], ["grader", "pi_grade"]).filter(pl.col("grader") != SIGNALS_GRADER)
        graded = {
            row[0]: row[1:] for row in grades.group_by("grader").agg(pl.len(), pl.col("pi_grade").max()).iter_rows()
        }
        drawn = {grader: int((numbers < pi_grade).sum()) for grader, (_, pi_grade) in graded.items()}
        unfinished |= {grader for grader, (n, _) in graded.items() if n < drawn[grader]}
        unfinished |= set(_versions_in_use(home)) - {SIGNALS_GRADER} - set(graded)
    return unfinished


def quality_of_week(home: Home, week: date) -> pl.DataFrame:
    """From the grades that there are: a day that was never graded is left out.

    A rubric of the judge has no pass rate while it has not finished a day: what the cap cut short is no random part of
    the window.
    """
    lake, window = home.lake, home.calendar.window(week)
    lake.require(BIN_ASSIGNMENTS, [week])
    unfinished = _unfinished_graders(home, window)
    production = (
        lake.read(BIN_ASSIGNMENTS, [week])
        .filter(pl.col("side") == "production")
        .select("day", "session_id", "bin", "weight", "weight_traffic", "weighting", "taxonomy_id", trace_id="item_id")
    )
    measured = lake.read(STRATIFIED_SAMPLES, window, ["trace_id", "latency_ms", "cost_usd"], with_key=True)
    production = production.join(measured, on=["day", "trace_id"], how="left", maintain_order="left", validate="1:1")
    grades = lake.read(
        JUDGE_GRADES, window, ["trace_id", "grader", "grader_version", "verdict", "pi_grade"], with_key=True
    )
    graded = production.join(grades, on=["day", "trace_id"], how="inner", maintain_order="left")
    bins: list[str | None] = [None, *sorted(production["bin"].unique())]
    rows = [
        {
            "bin": name,
            "grader": grader,
            "grader_version": version,
            **_quality_of(_within(production, name), _within(graded.filter(_by(grader, version)), name)),
            **(NO_RATE if grader in unfinished else {}),
            "weighting": production["weighting"][0],
            "taxonomy_id": production["taxonomy_id"][0],
        }
        for grader, version in _version_per_grader(graded, _versions_in_use(home)).items()
        for name in bins
    ]
    if not rows:
        return pl.DataFrame(schema=QUALITY_METRICS.schema)
    labels = taxonomy_in_force(home, week).bins
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(
        pl.Series("label", [labels.get(row["bin"]) for row in rows], pl.String), as_of=pl.lit(sunday_of(week))
    )


def _version_per_grader(graded: pl.DataFrame, in_use: dict[str, str]) -> dict[str, str]:
    """One version for each grader, since two are never pooled: the one in use, else the one with the most rows."""
    counts = graded.group_by("grader", "grader_version").len().sort("grader", "len", "grader_version")
    most = dict(counts.select("grader", "grader_version").iter_rows())  # the last of each grader
    there = set(counts.select("grader", "grader_version").iter_rows())
    return {
        grader: in_use[grader] if (grader, in_use.get(grader)) in there else version for grader, version in most.items()
    }


def _by(grader: str, version: str) -> pl.Expr:
    return (pl.col("grader") == grader) & (pl.col("grader_version") == version)


def _within(rows: pl.DataFrame, name: str | None) -> pl.DataFrame:
    return rows if name is None else rows.filter(pl.col("bin") == name)


def _quality_of(production: pl.DataFrame, graded: pl.DataFrame) -> dict[str, Any]:
    """Latency and cost over all sampled traces, the pass rate over those that the grader was asked about.

    Each figure under the week's weighting and, with the suffix ``_traffic``, under ``traffic``.
    """
    rate = weighted_rate(graded["verdict"], graded["weight"] / graded["pi_grade"])
    scored = graded.filter(pl.col("verdict") != "unscored")
    return {
        "n_graded": rate.n_graded,
        "n_unscored": rate.n_unscored,
        "pass_rate": rate.pass_rate,
        "pass_rate_se": hajek_standard_error(
            scored["verdict"] == "pass",
            scored["weight"] / scored["pi_grade"],
            scored["session_id"].fill_null(scored["trace_id"]),
        ),
        "pass_rate_traffic": weighted_rate(graded["verdict"], graded["weight_traffic"] / graded["pi_grade"]).pass_rate,
        **_measured(production, "weight", ""),
        **_measured(production, "weight_traffic", "_traffic"),
    }


def _measured(production: pl.DataFrame, weight: str, suffix: str) -> dict[str, float | None]:
    return {
        f"latency_p95_ms{suffix}": weighted_quantile(production["latency_ms"], production[weight], LATENCY_QUANTILE),
        f"cost_per_trace_usd{suffix}": weighted_mean(production["cost_usd"], production[weight]),
    }


# -- metadata --------------------------------------------------------------------------------------------------


def _grade_metadata(rows: pl.DataFrame, judge: Judge, judgings: list[Judging], n_missing: int) -> dict[str, Any]:
    counts = rows.group_by("grader", "verdict").len().sort("grader", "verdict")
    lines = [f"| {grader} | {verdict} | {n} |" for grader, verdict, n in counts.iter_rows()]
    metadata = {
        "dagster/partition_row_count": len(rows),
        "verdicts": dg.MetadataValue.md("\n".join(["| grader | verdict | traces |", "|---|---|---|", *lines])),
    }
    if not judgings:
        return metadata
    has_prices = judge.usd_per_million_input_tokens or judge.usd_per_million_output_tokens
    n_left = sum(each.judged.n_left for each in judgings)
    return {
        **metadata,
        "judge": ", ".join(judge_version(judge, each.rubric) for each in judgings),
        "drawn but not judged yet": n_missing,
        "paid by the run (usd)": sum(each.judged.paid_usd for each in judgings),
        "from the cache in the run": sum(each.judged.n_cached for each in judgings),
        "left by the cost cap in the run": n_left,
        "note": _note(n_left, judge, bool(has_prices)),
    }


def _note(n_left: int, judge: Judge, has_prices: bool) -> str | None:
    if n_left:
        return (
            f"judge.max_usd_per_run = {judge.max_usd_per_run:g} left {n_left} verdicts unasked; run again, or raise it"
        )
    if not has_prices:
        return "the judge's prices are not set, so that costs read 0 and judge.max_usd_per_run cannot hold"
    return None


def _quality_metadata(rows: pl.DataFrame, n_unfinished: int) -> dict[str, Any]:
    overall = rows.filter(pl.col("bin").is_null())
    table = [
        f"| {row['grader']} | {row['n_graded']} | {row['n_unscored']} | {_percent(row['pass_rate'])} "
        f"| {_percent(row['pass_rate_se'])} | {_percent(row['pass_rate_traffic'])} |"
        for row in overall.iter_rows(named=True)
    ]
    head = overall.row(0, named=True) if len(overall) else {}
    return {
        "dagster/partition_row_count": len(rows),
        "p95 latency (ms)": head.get("latency_p95_ms"),
        "cost per trace (usd)": head.get("cost_per_trace_usd"),
        "weighting": head.get("weighting"),
        "pass rates, raw": dg.MetadataValue.md(
            "\n".join(
                [
                    "| grader | graded | unscored | pass rate | standard error | by traffic |",
                    "|---|---|---|---|---|---|",
                    *table,
                ]
            )
        ),
        "reason": _reason(rows, n_unfinished),
    }


def _reason(rows: pl.DataFrame, n_unfinished: int) -> str | None:
    if rows.is_empty():
        return "no graded traces in the window"
    if n_unfinished:
        return f"the judge has no pass rate for what it was not yet asked: {n_unfinished} of the window's days still wait for verdicts"
    return None


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
