"""The command line: the same stations from a shell.

Every command takes ``--json`` (one document on stdout, everything else on stderr) and ends with one of the exit
codes of ``errors.py``. Keep out: computing; a command asks a station or the runner and prints the answer.
"""

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.tables import RAW_TRACES
from evalflow.core.calendar import monday_of, previous_month, sunday_of
from evalflow.errors import CannotTellError, EvalflowError, ExitCode, UsageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Keeps an eval suite representative of production traffic. Exit codes: 0 fine, 1 fail, 2 usage error, "
    "3 cannot tell, 4 bad input data, 5 unreachable or missing dependency.",
)
golden_app = typer.Typer(no_args_is_help=True, help="The golden set: import, list, export.")
app.add_typer(golden_app, name="golden")

PIPED_WIDTH = 10_000
"""Where no screen sets the width, a table shows its cells whole."""


def _console(*, stderr: bool = False) -> Console:
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else PIPED_WIDTH
    # Without emoji, or line 100 of a file would be printed as one: "traces.jsonl:100: ...".
    return Console(stderr=stderr, emoji=False, width=width)


out, err = _console(), _console(stderr=True)
SHOWN_BINS = 20

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
HomeOption = Annotated[
    Path | None, typer.Option("--home", envvar="EVALFLOW_HOME", help="The home to work in. Default: ./data.")
]


def main() -> None:
    """Entry point of the ``evalflow`` command: errors a user can mend end as one sentence and an exit code."""
    warnings.simplefilter("ignore")  # libraries' warnings are for the tests, where they are errors
    try:
        result = app(standalone_mode=False)
        code = result if isinstance(result, int) else int(ExitCode.OK)  # a typer.Exit comes back as its code
    except EvalflowError as error:
        code = _say(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("Stopped. What was finished is kept; the same command goes on from here.")
        code = 130
    except Exception as error:
        if not _is_usage_error(error):
            raise
        code = _say(error.format_message(), ExitCode.USAGE)  # type: ignore[attr-defined]  # click's UsageError
    sys.exit(code)


def _say(message: str, code: ExitCode) -> int:
    """The error as one sentence on stderr, and with --json as a document on stdout too."""
    if message:  # empty after the help that a bare `evalflow` prints
        err.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
        if "--json" in sys.argv:
            _print_json({"error": message, "exit_code": int(code)})
    return int(code)


def entry() -> None:
    """What the console script calls: ``main`` without Python's own teardown of loaded libraries.

    DuckDB's bindings print pages about leaked objects when the interpreter unloads them beside torch. Everything is
    closed and flushed by then, so the process simply ends.
    """
    try:
        main()
    except SystemExit as stop:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stop.code if isinstance(stop.code, int) else int(ExitCode.FAIL))


def _is_usage_error(error: Exception) -> bool:
    return any(kind.__name__ == "ClickException" for kind in type(error).__mro__)


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
    with instance_of(workspace) as instance, _progress(as_json) as on_range:
        on_range("trace_files", date.min, date.min, 0, 1)
        report = land_files(workspace, instance, path)
        on_range("trace_files", date.min, date.min, 1, 1)
        workspace = workspace.reloaded()
        newest = newest_landed_day(workspace.lake)
        if newest:
            # Feedback reaches back: it changes the signals of the days before it. What a stopped command has left is made up for.
            walk(workspace, instance, workspace.calendar.start, newest, (RAW, LATER, SIGNALS), on_range)
    if as_json:
        _print_json(report)
    else:
        _print_landing(report)
    if report["quarantined"]:
        raise typer.Exit(ExitCode.BAD_INPUT)


@golden_app.command("import", epilog="Example: evalflow golden import suite.jsonl")
def golden_import(
    path: Annotated[str, typer.Argument(help="A native file of golden cases (JSONL, JSONL.gz or Parquet).")],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Append golden cases to the ledger; cases that are there already, unchanged, are left as they are."""
    from evalflow.runner import import_golden, instance_of

    workspace = open_home(home).prepare()
    with instance_of(workspace) as instance:
        done = import_golden(workspace, instance, path)
    days = sorted({version.effective_on for version in done.added})
    if as_json:
        document = {
            "added": len(done.added),
            "unchanged": done.unchanged,
            "effective_on": days,
            "unusable": done.unusable,
        }
        _print_json(document)
    else:
        since = f", counting from {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""
        out.print(f"{_count(len(done.added), 'case')} added to the ledger{since}; {done.unchanged} there already.")
        lines = [f"{row['file']}:{row['line']}: {row['reason']}" for row in done.unusable]
        _print_bad_lines(lines, len(lines), "correct them and import again")
    if done.unusable:
        raise typer.Exit(ExitCode.BAD_INPUT)


@golden_app.command("list", epilog="Example: evalflow golden list --as-of 2026-08-23")
def golden_list(
    as_of: Annotated[str | None, typer.Option(help="The suite as it counted on this day. Default: today.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """The golden set as of a day."""
    workspace = open_home(home)
    cases = workspace.ledger.as_of(_day(as_of, "--as-of") or workspace.calendar.now)
    if as_json:
        _print_json([_case_document(case) for case in cases])
        return
    table = Table("case", "v", "effective", "origin", "input")
    for case in cases:
        table.add_row(
            *map(escape, (case.case_id, str(case.version), case.effective_on, case.origin, _short(case.input, 70)))
        )
    out.print(table if cases else "The golden set is empty; import one with `evalflow golden import`.")
    if cases:
        out.print(f"{len(cases)} cases")


@golden_app.command("export", epilog="Example: evalflow golden export --out suite.jsonl")
def golden_export(
    target: Annotated[Path | None, typer.Option("--out", help="File to write. Default: stdout.")] = None,
    as_of: Annotated[str | None, typer.Option(help="The suite as it counted on this day. Default: today.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Write the golden set as native JSONL, one case per line (with --json: one document)."""
    workspace = open_home(home)
    cases = workspace.ledger.as_of(_day(as_of, "--as-of") or workspace.calendar.now)
    if not cases:
        raise CannotTellError("The golden set is empty; import one with `evalflow golden import`.")
    documents = [_case_document(case) for case in cases]
    text = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    if target is not None:
        try:
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"{target} cannot be written ({error.strerror}); name a file in a folder that exists."
            ) from error
        err.print(f"{len(cases)} cases written to {escape(str(target))}")
        if as_json:
            _print_json({"cases": len(cases), "path": str(target)})
    elif as_json:
        _print_json(documents)
    else:
        sys.stdout.write(text)


@app.command(epilog="Example: evalflow run --since 2026-06-01 --as-of 2026-08-23")
def run(
    since: Annotated[
        str | None, typer.Option(help="First day whose week is wanted. Default: the first day of traffic.")
    ] = None,
    as_of: Annotated[str | None, typer.Option(help="Last day whose week is wanted. Default: now.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Land new files of the configured sources, then materialize every partition that is missing or changed."""
    from evalflow.definitions import STATIONS
    from evalflow.defs.coverage import measure_week, newest_week
    from evalflow.runner import instance_of, land_files, marts_are_stale, run_marts, walk

    workspace = open_home(home).prepare()
    landing: dict[str, Any] = {}
    with instance_of(workspace) as instance, _progress(as_json) as on_range:
        if workspace.settings.sources.traces:
            on_range("trace_files", date.min, date.min, 0, 1)
            landing = land_files(workspace, instance, [])
            on_range("trace_files", date.min, date.min, 1, 1)
            workspace = workspace.reloaded()
        first, last = _asked_days(workspace, since, as_of)
        walked = walk(workspace, instance, first, last, STATIONS, on_range)
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
        _print_json(
            {"landing": landing, "computed": walked.computed, "warnings": walked.failed_checks, "coverage": newest}
        )
    else:
        total = sum(walked.computed.values())
        out.print(f"{total} partitions computed." if total else "Everything is up to date.")
        for warning in walked.failed_checks:
            out.print(f"[yellow]warning:[/yellow] {escape(warning)}", soft_wrap=True)
        out.print(_headline(measured) if measured else escape(why_not), soft_wrap=True)
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
    asked = _day(as_of, "--as-of")
    if workspace.settings.traffic_start is None:
        raise _no_traces(workspace)
    week = monday_of(asked) if asked else newest_week(workspace, calendar.last_day)
    if week not in calendar.weeks():
        raise CannotTellError(
            f"There is no traffic in the week of {week}: it runs from {calendar.start} to {calendar.last_day}; "
            "choose a day in between with --as-of, or ingest traces of that week."
        )
    measured = measure_week(workspace, week, _day(golden_as_of, "--golden-as-of"))
    if as_json:
        _print_json(measured.document())
    else:
        _print_coverage(measured)
    if measured.coverage.jsd is None:
        raise typer.Exit(ExitCode.CANNOT_TELL)


@app.command(epilog="Example: evalflow status --json")
def status(home: HomeOption = None, as_json: AsJson = False) -> None:
    """What is in the home: partitions that are up to date, and every setting with its origin."""
    from evalflow.definitions import STATIONS
    from evalflow.settings import settings_with_origin

    workspace = open_home(home)
    calendar = workspace.calendar
    stations = {}
    for station in STATIONS:
        keys = station.keys(calendar)
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
        _print_json(document)
        return
    out.print(f"home    {escape(str(workspace.path))}")
    out.print(f"traffic {calendar.start} to {calendar.last_day}" + (" (closed)" if calendar.end else ""))
    out.print(f"golden  {document['golden_cases']} cases")
    table = Table("station", "partitions", "up to date", "changed", "missing")
    for name, row in stations.items():
        table.add_row(name, *(str(value) for value in row.values()))
    out.print(table)
    chosen = Table("setting", "value", "origin", "why")
    for key, value, origin, reason in settings:
        chosen.add_row(key, escape(str(value)), origin, reason)
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
        _print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape("" if value is None else str(value)) for value in row))
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
        f"The UI of {escape(str(workspace.path))} comes up at http://{host}:{port} (assets: /assets). Ctrl-C ends it."
    )
    dagster = str(Path(sys.executable).with_name("dagster"))
    arguments = ["dagster", "dev", "-m", "evalflow.definitions", "-h", host, "-p", str(port)]
    os.chdir(workspace.path)
    os.execve(dagster, arguments, environment)


@app.command(epilog="Example: evalflow doctor")
def doctor(home: HomeOption = None, as_json: AsJson = False) -> None:
    """Is everything there? Model and its hash, home, Dagster instance, disk, keys: one line each."""
    from evalflow.adapters.embedder import Embedder
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

    probes: dict[str, Callable[[], str]] = {
        "model": model,
        "home": lambda: f"{workspace.path}, {len(workspace.lake.keys(RAW_TRACES))} days of traces",
        "instance": instance,
        "disk": disk,
        "keys": lambda: "none needed: no station calls an endpoint",
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
        _print_json(findings)
    else:
        for name, finding in findings.items():
            mark = "[green]ok[/green] " if finding["ok"] else "[red]bad[/red]"
            out.print(f"{mark} {name:<9}{escape(finding['text'])}", soft_wrap=True)
    if worst:
        raise typer.Exit(worst)


@app.command(epilog="Example: evalflow demo")
def demo(
    home: Annotated[
        Path | None, typer.Option("--home", help="A home for the demo alone. Default: data/demo/home.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ten weeks of a made-up support assistant: a suite that passes while the traffic walks away from it."""
    from evalflow.demo.story import play

    with _progress(as_json) as on_range:
        story = play(home, on_range)
    if as_json:
        _print_json(story.document())
    else:
        story.tell(out)


# -- printing ------------------------------------------------------------------------------------------------


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[str, date, date, int, int], None]]:
    """Bars on stderr, one per station; plain lines where stderr is no terminal or JSON is asked for."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    is_plain = as_json or not err.is_terminal
    with Progress(*columns, console=err, disable=is_plain) as progress:
        tasks: dict[str, Any] = {}

        def on_range(name: str, first: date, last: date, done: int, total: int) -> None:
            if is_plain and done < total:
                err.print(f"{name}: {total - done} to do", highlight=False)
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done, total=total)

        yield on_range


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n")


def _print_landing(report: dict[str, Any]) -> None:
    known = sum(not file["is_new"] for file in report["files"])
    out.print(
        f"{_count(report['traces'], 'trace')} and {_count(report['feedback'], 'feedback event')} landed from "
        f"{_count(len(report['files']) - known, 'new file')}, {_count(len(report['days']), 'day')} touched"
        + (f"; {_count(known, 'file')} landed before." if known else "."),
        soft_wrap=True,
    )
    if report["traffic_start"]:
        out.print(f"traffic_start is now {report['traffic_start']}; reload the code location in a UI that is open.")
    for path in report["ignored"][:10]:
        out.print(f"left aside, not a trace file: {escape(path)}", soft_wrap=True)
    _print_bad_lines(
        [f"{file['path']}:{bad['line']}: {bad['reason']}" for file in report["files"] for bad in file["first_bad"]],
        report["quarantined"],
        "all of them: evalflow sql 'select * from quarantine'",
    )


def _print_bad_lines(lines: list[str], total: int, advice: str) -> None:
    if not total:
        return
    err.print(f"[yellow]{_count(total, 'line')} could not be used[/yellow] ({advice}):", soft_wrap=True)
    for line in lines[:20]:
        err.print(f"  {escape(line)}", soft_wrap=True)


def _headline(measured: Any) -> str:
    coverage = measured.coverage
    figure = "no suite yet" if coverage.jsd is None else f"JSD {coverage.jsd:.3f} ({coverage.band})"
    marks = [
        mark
        for mark, holds in (("provisional", measured.is_provisional), ("in sample", measured.taxonomy.is_in_sample))
        if holds
    ]
    return f"[bold]{figure}[/bold]  week of {measured.week}" + (f"  ({', '.join(marks)})" if marks else "")


def _print_coverage(measured: Any) -> None:
    coverage, window = measured.coverage, measured.window
    out.print(_headline(measured))
    out.print(
        f"{coverage.n_sampled:,} sampled traces from {window[0]} to {window[-1]} ({len(window)} days, {coverage.weighting}), "
        f"{coverage.n_golden} golden cases as of {measured.golden_as_of}, {len(measured.taxonomy.bins)} bins of taxonomy "
        f"{measured.taxonomy.taxonomy_id}",
        soft_wrap=True,
    )
    out.print(f"uncovered {coverage.uncovered_share:.1%} of traffic, novel {coverage.novel_share:.1%}")
    for alarm in coverage.alarms:
        out.print(f"[red]alarm:[/red] {escape(alarm.text)}", soft_wrap=True)
    if coverage.jsd is None:
        out.print(
            "Import a golden set with `evalflow golden import FILE`, then `evalflow run`; these are the bins by share:"
        )
    table = Table("bin", "label", "traffic", "cases", "suite", "JSD term", "")
    bins = coverage.bins if coverage.jsd is None else sorted(coverage.bins, key=lambda row: -(row.jsd_term or 0))
    for row in bins[:SHOWN_BINS]:
        term = "" if row.jsd_term is None else f"{row.jsd_term:.4f}"
        flag = "uncovered" if row.is_uncovered else ""
        table.add_row(
            row.bin,
            escape(row.label),
            f"{row.production_share:.1%}",
            str(row.golden_cases),
            f"{row.golden_share:.1%}",
            term,
            flag,
        )
    out.print(table)
    if len(bins) > SHOWN_BINS:
        out.print(f"{len(bins) - SHOWN_BINS} more bins: --json shows all.")


def _case_document(case: Any) -> dict[str, Any]:
    names = (
        "case_id",
        "version",
        "input",
        "expected_output",
        "origin",
        "created_at",
        "effective_on",
        "weight",
        "tags",
        "metadata",
    )
    return {name: getattr(case, name) for name in names}


def _day(text: str | None, option: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is not a day; write it as 2026-08-23.") from error


def _no_traces(home: Home) -> CannotTellError:
    return CannotTellError(f"There are no traces in {home.path}; land some with `evalflow ingest PATH`.")


def _asked_days(home: Home, since: str | None, as_of: str | None) -> tuple[date, date]:
    """The days to bring up to date: those asked for, and the earlier ones that their windows and taxonomy need."""
    calendar = home.calendar
    if home.settings.traffic_start is None:
        raise _no_traces(home)
    first, last = _day(since, "--since") or calendar.start, _day(as_of, "--as-of") or calendar.last_day
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


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
