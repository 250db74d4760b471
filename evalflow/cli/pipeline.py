"""The commands that move traffic through the pipeline and look at it: ingest, run, coverage, status, sql, ui, doctor, demo."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.tables import RAW_TRACES
from evalflow.cli.terminal import (
    AsJson,
    HomeOption,
    counted,
    day_of,
    err,
    no_traces,
    out,
    print_bad_lines,
    print_json,
    progress_bars,
    shown,
)
from evalflow.core.calendar import monday_of, previous_month, sunday_of
from evalflow.errors import CannotTellError, EvalflowError, ExitCode, UsageError

app = typer.Typer()
SHOWN_BINS = 20


@app.command(epilog="Example: evalflow ingest 'logs/*.jsonl.gz'")
def ingest(
    path: Annotated[list[str], typer.Argument(help="Files, folders or globs of native traces or feedback.")],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Land trace files and bring the touched days' traces and signals up to date."""
    from evalflow.adapters.landing import newest_landed_day
    from evalflow.definitions import LATER, RAW, SIGNALS
    from evalflow.runner import instance_of, land_files, walk

    workspace = open_home(home).prepare()
    with instance_of(workspace) as instance, progress_bars(as_json) as on_range:
        on_range("trace_files", date.min, date.min, 0, 1)
        report = land_files(workspace, instance, path)
        on_range("trace_files", date.min, date.min, 1, 1)
        workspace = workspace.reloaded()
        newest = newest_landed_day(workspace.lake)
        if newest:
            # Feedback reaches back: it changes the signals of the days before it. What a stopped command has left is made up for.
            walk(workspace, instance, workspace.calendar.start, newest, (RAW, LATER, SIGNALS), on_range)
    if as_json:
        print_json(report)
    else:
        _print_landing(report)
    if report["quarantined"]:
        raise typer.Exit(ExitCode.BAD_INPUT)


@app.command(epilog="Example: evalflow run --since 2026-06-01 --as-of 2026-08-23")
def run(
    since: Annotated[
        str | None, typer.Option(help="First day whose week is wanted. Default: the first day of traffic.")
    ] = None,
    as_of: Annotated[str | None, typer.Option(help="Last day whose week is wanted. Default: now.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Land new files of the configured sources, then materialize every partition that is missing or changed.

    Grades come last: a judge that does not answer ends the command with 5 when all the rest is done.
    """
    from evalflow.definitions import GRADING, STATIONS
    from evalflow.defs.coverage import measure_week, newest_week
    from evalflow.runner import RunFailedError, instance_of, land_files, marts_are_stale, run_marts, walk

    workspace = open_home(home).prepare()
    landing: dict[str, Any] = {}
    with instance_of(workspace) as instance, progress_bars(as_json) as on_range:
        if workspace.settings.sources.traces:
            on_range("trace_files", date.min, date.min, 0, 1)
            landing = land_files(workspace, instance, [])
            on_range("trace_files", date.min, date.min, 1, 1)
            workspace = workspace.reloaded()
        first, last = _asked_days(workspace, since, as_of)
        walked = walk(workspace, instance, first, last, STATIONS, on_range)
        not_graded = None
        for station in GRADING:
            try:
                walked.computed |= walk(workspace, instance, first, last, (station,), on_range).computed
            except RunFailedError as error:  # off the critical path: all the rest is finished first
                not_graded = not_graded or error
        if marts_are_stale(workspace):
            on_range("marts", first, last, 0, 1)
            run_marts(workspace, instance)
            on_range("marts", first, last, 1, 1)
    try:
        measured = measure_week(workspace, newest_week(workspace, last))
    except CannotTellError as reason:
        measured, why_not = None, str(reason)
    if as_json:
        newest = measured.document() if measured else {"jsd": None, "reason": why_not}
        print_json(
            {
                "landing": landing,
                "computed": walked.computed,
                "warnings": walked.failed_checks,
                "not_graded": str(not_graded) if not_graded else None,
                "coverage": newest,
            }
        )
    else:
        total = sum(walked.computed.values())
        out.print(f"{total} partitions computed." if total else "Everything is up to date.")
        for warning in walked.failed_checks:
            out.print(f"[yellow]warning:[/yellow] {shown(warning)}", soft_wrap=True)
        out.print(_headline(measured) if measured else shown(why_not), soft_wrap=True)
        if not_graded:
            err.print(f"[red]error:[/red] {shown(str(not_graded))}", soft_wrap=True)
    if not_graded:
        raise typer.Exit(not_graded.exit_code)
    if landing.get("quarantined"):
        raise typer.Exit(ExitCode.BAD_INPUT)


@app.command(epilog="Example: evalflow coverage --as-of 2026-08-23 --json")
def coverage(
    as_of: Annotated[
        str | None, typer.Option(help="Any day of the week that is wanted. Default: the newest week with traces.")
    ] = None,
    golden_as_of: Annotated[
        str | None, typer.Option(help="Measure with the suite as of this day; nothing is written.")
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """How far is the suite from the traffic? The week's JSD, and the bins that cause it."""
    from evalflow.defs.coverage import measure_week, newest_week

    workspace = open_home(home)
    calendar = workspace.calendar
    asked = day_of(as_of, "--as-of")
    if workspace.settings.traffic_start is None:
        raise no_traces(workspace)
    week = monday_of(asked) if asked else newest_week(workspace, calendar.last_day)
    if week not in calendar.weeks():
        raise CannotTellError(
            f"There is no traffic in the week of {week}: it runs from {calendar.start} to {calendar.last_day}; "
            "choose a day in between with --as-of, or ingest traces of that week."
        )
    measured = measure_week(workspace, week, day_of(golden_as_of, "--golden-as-of"))
    if as_json:
        print_json(measured.document())
    else:
        _print_coverage(measured)
    if measured.coverage.jsd is None:
        raise typer.Exit(ExitCode.CANNOT_TELL)


@app.command(epilog="Example: evalflow status --json")
def status(home: HomeOption = None, as_json: AsJson = False) -> None:
    """What is in the home: partitions that are up to date, and every setting with its origin."""
    from evalflow.definitions import GRADING, STATIONS
    from evalflow.settings import settings_with_origin

    workspace = open_home(home)
    calendar = workspace.calendar
    stations = {}
    for station in (*STATIONS, *GRADING):
        keys = station.wanted(workspace)
        stored = {key: workspace.lake.made_from(station.table, key) for key in keys}
        fresh = sum(made == station.made_from(workspace, key) for key, made in stored.items() if made is not None)
        present = sum(made is not None for made in stored.values())
        stations[station.name] = {
            "partitions": len(keys),
            "up_to_date": fresh,
            "changed": present - fresh,
            "missing": len(keys) - present,
        }
    settings = list(settings_with_origin(workspace.path))
    document = {
        "home": str(workspace.path),
        "traffic": {
            "start": str(calendar.start),
            "last_day": str(calendar.last_day),
            "is_closed": calendar.end is not None,
        },
        "golden_cases": len(workspace.ledger.as_of(calendar.now)),
        "stations": stations,
        "settings": [row._asdict() for row in settings],
    }
    if as_json:
        print_json(document)
        return
    out.print(f"home    {shown(str(workspace.path))}")
    out.print(f"traffic {calendar.start} to {calendar.last_day}" + (" (closed)" if calendar.end else ""))
    out.print(f"golden  {document['golden_cases']} cases")
    table = Table("station", "partitions", "up to date", "changed", "missing")
    for name, row in stations.items():
        table.add_row(name, *(str(value) for value in row.values()))
    out.print(table)
    chosen = Table("setting", "value", "origin", "why")
    for key, value, origin, reason in settings:
        chosen.add_row(key, shown(str(value)), origin, reason)
    out.print(chosen)


@app.command(epilog='Example: evalflow sql "select day, count(*) from raw_traces group by day"')
def sql(
    query: Annotated[str, typer.Argument(help="A DuckDB query over the lake's tables and the marts.")],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Ask the lake in SQL; every table and every mart is a view."""
    import duckdb

    workspace = open_home(home).prepare()
    with duckdb.connect(":memory:") as connection, workspace.attach(connection):
        try:
            relation = connection.sql(query)
            columns, rows = (relation.columns, relation.fetchall()) if relation is not None else ([], [])
        except duckdb.Error as error:
            raise UsageError(f"DuckDB cannot run that query: {str(error).strip()}") from error
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    table = Table(*map(shown, columns))
    for row in rows:
        table.add_row(*(shown("" if value is None else str(value)) for value in row))
    out.print(table)


@app.command(epilog="Example: evalflow ui --port 3001")
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 3000,
    host: Annotated[str, typer.Option(help="Address to listen on; the UI has no login.")] = "127.0.0.1",
    home: HomeOption = None,
) -> None:
    """Open the Dagster UI on this home; it shows the same runs as the command line. Ctrl-C ends it."""
    workspace = open_home(home).prepare()
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(workspace.path),
        "EVALFLOW_HOME": str(workspace.path),
        "PYTHONWARNINGS": "ignore:Function",  # Dagster's advice to type `dg dev` instead of this very command
    }
    err.print(
        f"The UI of {shown(str(workspace.path))} comes up at http://{host}:{port} (assets: /assets). Ctrl-C ends it."
    )
    dagster = str(Path(sys.executable).with_name("dagster"))
    arguments = ["dagster", "dev", "-m", "evalflow.definitions", "-h", host, "-p", str(port)]
    os.chdir(workspace.path)
    os.execve(dagster, arguments, environment)


@app.command(epilog="Example: evalflow doctor")
def doctor(home: HomeOption = None, as_json: AsJson = False) -> None:
    """Is everything there? Model and its hash, home, Dagster instance, disk, judge: one line each. Asks the judge once."""
    from evalflow.adapters.embedder import Embedder
    from evalflow.adapters.judge import JudgeItem, LlmJudge
    from evalflow.adapters.rubrics import asked_rubrics
    from evalflow.runner import instance_of

    workspace = open_home(home).prepare()

    def model() -> str:
        embedder = Embedder(workspace.settings.embedding, workspace.cache)
        return f"{embedder.model_id}, weights sha256 {embedder.weights_sha256}"

    def instance() -> str:
        with instance_of(workspace) as opened:
            return f"{opened.get_runs_count()} runs recorded in {workspace.path}"

    def disk() -> str:
        usage = shutil.disk_usage(workspace.path)
        if usage.free < 1 << 30:
            raise UsageError(f"only {usage.free / 2**30:.1f} GiB are free at {workspace.path}; make room")
        return f"{usage.free / 2**30:.0f} GiB free"

    def judge() -> str:
        settings = workspace.settings.judge
        if not settings.model:
            return "none set: the signals grader speaks alone and needs no key"
        asked_rubrics(workspace.path, settings.rubrics)  # a misspelt one would stop the next grading
        with tempfile.TemporaryDirectory() as no_cache:
            asked = LlmJudge(settings, Path(no_cache)).judge([JudgeItem("doctor", "What is 2 + 2?", "2 + 2 is 4.")])
        if asked.failure:
            raise asked.failure
        if "doctor" not in asked.verdicts:
            raise UsageError("one question may cost more than judge.max_usd_per_run allows; raise it")
        return f"{settings.model} answers: {asked.verdicts['doctor'].verdict}"

    probes: dict[str, Callable[[], str]] = {
        "model": model,
        "home": lambda: f"{workspace.path}, {len(workspace.lake.keys(RAW_TRACES))} days of traces",
        "instance": instance,
        "disk": disk,
        "judge": judge,
    }
    findings: dict[str, dict[str, Any]] = {}
    worst = ExitCode.OK
    for name, probe in probes.items():
        try:
            findings[name] = {"ok": True, "text": probe()}
        except EvalflowError as error:
            findings[name] = {"ok": False, "text": str(error)}
            worst = max(worst, error.exit_code)
    if as_json:
        print_json(findings)
    else:
        for name, finding in findings.items():
            mark = "[green]ok[/green] " if finding["ok"] else "[red]bad[/red]"
            out.print(f"{mark} {name:<9}{shown(finding['text'])}", soft_wrap=True)
    if worst:
        raise typer.Exit(worst)


@app.command(epilog="Example: evalflow demo")
def demo(
    home: Annotated[
        Path | None, typer.Option("--home", help="A home for the demo alone. Default: data/demo/home.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ten weeks of a made-up support assistant: the traffic walks away from its suite, and a refresh brings it back."""
    from evalflow.demo.story import play

    with progress_bars(as_json) as on_range:
        story = play(home, on_range)
    if as_json:
        print_json(story.document())
    else:
        story.tell(out)


# -- printing ------------------------------------------------------------------------------------------------


def _print_landing(report: dict[str, Any]) -> None:
    known = sum(not file["is_new"] for file in report["files"])
    out.print(
        f"{counted(report['traces'], 'trace')} and {counted(report['feedback'], 'feedback event')} landed from "
        f"{counted(len(report['files']) - known, 'new file')}, {counted(len(report['days']), 'day')} touched"
        + (f"; {counted(known, 'file')} landed before." if known else "."),
        soft_wrap=True,
    )
    if report["traffic_start"]:
        out.print(f"traffic_start is now {report['traffic_start']}; reload the code location in a UI that is open.")
    for path in report["ignored"][:10]:
        out.print(f"left aside, not a trace file: {shown(path)}", soft_wrap=True)
    print_bad_lines(
        [f"{file['path']}:{bad['line']}: {bad['reason']}" for file in report["files"] for bad in file["first_bad"]],
        report["quarantined"],
        "all of them: evalflow sql 'select * from quarantine'",
    )


def _headline(measured: Any) -> str:
    coverage = measured.coverage
    figure = "no suite yet"
    if coverage.jsd is not None:
        sure = "" if coverage.jsd_low is None else f" [{coverage.jsd_low:.3f}, {coverage.jsd_high:.3f}]"
        figure = f"JSD {coverage.jsd:.3f}{escape(sure)} ({coverage.band})"
    marks = [
        mark
        for mark, holds in (("provisional", measured.is_provisional), ("in sample", measured.taxonomy.is_in_sample))
        if holds
    ]
    return f"[bold]{figure}[/bold]  week of {measured.week}" + (f"  ({', '.join(marks)})" if marks else "")


def _variants(measured: Any) -> str:
    """The same divergence, otherwise weighed."""
    coverage = measured.coverage
    said = [f"raw {coverage.jsd_raw:.3f}"]
    if coverage.jsd_traffic is not None:
        said.append(f"under traffic weighting {coverage.jsd_traffic:.3f}")
    if coverage.jsd_weighted is not None:
        said.append(f"with case weights {coverage.jsd_weighted:.3f}")
    if coverage.jsd_previous is not None:
        said.append(f"by the taxonomy of the week before {coverage.jsd_previous:.3f} ({measured.n_bins_previous} bins)")
    return "; ".join(said)


def _print_coverage(measured: Any) -> None:
    from evalflow.defs.coverage import flag_of, novelty_text, size_text, source_text

    coverage, window = measured.coverage, measured.window
    out.print(_headline(measured))
    out.print(
        f"{coverage.n_sampled:,} sampled traces from {window[0]} to {window[-1]} ({len(window)} days, {coverage.weighting}), "
        f"{coverage.n_golden} golden cases as of {measured.golden_as_of}, {len(measured.taxonomy.bins)} bins of taxonomy "
        f"{measured.taxonomy.taxonomy_id}",
        soft_wrap=True,
    )
    if coverage.jsd is not None:
        out.print(_variants(measured), soft_wrap=True)
        out.print(size_text(coverage), soft_wrap=True)
        out.print(f"what the cases were drawn from: {source_text(coverage)}", markup=False, soft_wrap=True)
    uncovered = f"uncovered {coverage.uncovered_share:.1%} of traffic"
    if coverage.uncovered_floor_p99 is not None:
        uncovered += f" (random suites of this size leave {coverage.uncovered_floor_mean:.1%}, 99 of 100 at most {coverage.uncovered_floor_p99:.1%})"
    out.print(f"{uncovered}, novel {coverage.novel_share:.1%}", soft_wrap=True)
    if novelty := novelty_text(coverage):
        out.print(f"novel: {novelty}", soft_wrap=True, markup=False)
    if coverage.smallest_visible_hole is not None:
        out.print(
            f"the smallest hole that {coverage.n_golden} cases can show is {coverage.smallest_visible_hole:.1%} of traffic"
        )
    elif coverage.jsd is not None:
        out.print(f"{counted(coverage.n_golden, 'case')} can show no hole, however large")
    for alarm in coverage.alarms:
        out.print(f"[red]alarm:[/red] {shown(alarm.text)}", soft_wrap=True)
    if coverage.jsd is None:
        out.print(
            "Import a golden set with `evalflow golden import FILE`, then `evalflow run`; these are the bins by share:"
        )
    table = Table("bin", "label", "traffic", "cases", "suite", "JSD term", "")
    bins = coverage.bins if coverage.jsd is None else sorted(coverage.bins, key=lambda row: -(row.jsd_term or 0))
    for row in bins[:SHOWN_BINS]:
        term = "" if row.jsd_term is None else f"{row.jsd_term:.4f}"
        table.add_row(
            shown(row.bin),
            shown(row.label),
            f"{row.production_share:.1%}",
            str(row.golden_cases),
            f"{row.golden_share:.1%}",
            term,
            flag_of(row),
        )
    out.print(table)
    if len(bins) > SHOWN_BINS:
        out.print(f"{len(bins) - SHOWN_BINS} more bins: --json shows all.")


def _asked_days(home: Home, since: str | None, as_of: str | None) -> tuple[date, date]:
    """The days to bring up to date: those asked for, and the earlier ones that their windows and taxonomy need."""
    calendar = home.calendar
    if home.settings.traffic_start is None:
        raise no_traces(home)
    first, last = day_of(since, "--since") or calendar.start, day_of(as_of, "--as-of") or calendar.last_day
    if last < first:
        raise UsageError(f"--as-of {last} lies before --since {first}; exchange them.")
    if last < calendar.start or first > calendar.last_day:
        raise CannotTellError(
            f"There is no traffic from {first} to {last}: it runs from {calendar.start} to {calendar.last_day}."
        )
    week = monday_of(first)
    needed = min(calendar.window(week)[:1] or [first])
    return max(min(needed, previous_month(calendar.month_in_force(week))), calendar.start), min(
        sunday_of(monday_of(last)), calendar.last_day
    )
