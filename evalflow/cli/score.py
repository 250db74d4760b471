"""`evalflow score`: the qualified score week by week, and `score import`, which records a run of the suite.

Keep out: the figures (``core/score.py``, ``defs/scores.py``) and what the gate decides.
"""

from datetime import date
from typing import Annotated, Any

import typer
from rich.table import Table

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.results import read_results
from evalflow.cli.gate import left_out_of
from evalflow.cli.gate_report import print_left_aside
from evalflow.cli.terminal import AsJson, HomeOption, counted, day_of, err, out, print_bad_lines, print_json, shown
from evalflow.core.calendar import monday_of, sunday_of
from evalflow.errors import BadInputError, CannotTellError, ExitCode, UsageError

app = typer.Typer()
MOST_NAME = 200
"""Characters of a candidate's name: it stands in tables."""
_NO_RUN = "record one with `evalflow score import results.jsonl`"


@app.callback(invoke_without_command=True, epilog="Example: evalflow score --as-of 2026-08-23 --weeks 12")
def score(
    context: typer.Context,
    as_of: Annotated[
        str | None, typer.Option(help="Any day of the last week that is wanted. Default: the newest measured week.")
    ] = None,
    weeks: Annotated[int, typer.Option(min=1, help="How many weeks to show.")] = 8,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """How good is the system, by what the suite stands for? The weekly series, and what the last four weeks say.

    Exit code 3 when no week shown has a score.
    """
    if context.invoked_subcommand:
        _refuse_options_before(context)
        return
    from evalflow.defs.scores import run_text, score_week

    workspace = open_home(home)
    rows = [
        {"week": week, **score_week(workspace, week)}
        for week in _measured_weeks(workspace, day_of(as_of, "--as-of"))[-weeks:]
    ]
    newest = rows[-1]
    if as_json:
        print_json({"weeks": rows})
    else:
        out.print(_headline(newest), soft_wrap=True)
        if run := run_text(newest):
            out.print(f"run: {shown(run)}; {_counts(newest)}", soft_wrap=True)
        out.print(_table(rows))
        out.print(shown(f"{newest['compared_week']} to {newest['week']}: {newest['diagnosis_text']}"), soft_wrap=True)
    if all(row["weighted_pass_rate"] is None for row in rows):
        if not as_json and newest["ran_on"] is None:
            err.print(f"There is no run of the suite up to {newest['as_of']}; {_later_run(workspace)}.", soft_wrap=True)
        raise typer.Exit(ExitCode.CANNOT_TELL)


@app.command("import", epilog="Example: evalflow score import results.jsonl --ran-on 2026-08-20 --name candidate-7")
def score_import(
    results: Annotated[
        str, typer.Argument(help='A file of results, one line per case: {"case_id": ..., "pass": true, false or null}.')
    ],
    ran_on: Annotated[
        str | None,
        typer.Option(help="The UTC day on which the suite was run. Default: today, or the last day of closed traffic."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What you call the candidate that was run.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Record a run of the suite for the weekly series; the same results of the same day are recorded once.

    Record only runs of what serves traffic on that day: the series is held against production. Ask `evalflow gate` about
    candidates.
    """
    from evalflow.runner import import_suite_run, instance_of

    workspace = open_home(home)
    today = workspace.calendar.now
    day = day_of(ran_on, "--ran-on") or min(today, workspace.calendar.last_day)
    if day > today:
        raise UsageError(
            f"--ran-on {day} lies in the future, today is {today}; give the day on which the suite was run."
        )
    called = _name_of(name)
    read = read_results(results)
    if read.unusable:
        lines = [f"{bad.file}:{bad.line}: {bad.reason}" for bad in read.unusable]
        print_bad_lines(lines, len(lines), "correct them and import again")
        raise BadInputError(
            f"{counted(len(lines), 'line')} of {results} could not be used, the first at {lines[0]}; correct them and "
            "import again: nothing was recorded, for half a run would stay in the series."
        )
    cases = workspace.ledger.as_of(day)
    if not cases:
        raise CannotTellError(
            f"The golden set has no cases as of {day}; import one with `evalflow golden import`, or give the day of the "
            "run with --ran-on."
        )
    left_out = left_out_of(workspace, read, cases)
    if len(left_out) == len(read.outcomes):
        raise BadInputError(
            f"None of the {counted(len(left_out), 'case')} of {results} is in the suite as of {day}, the first, "
            f"{left_out[0]['case_id']!r}, because: {left_out[0]['reason']}; nothing was recorded."
        )
    workspace.prepare()
    with instance_of(workspace) as instance:
        added = import_suite_run(workspace, instance, read, day, called, results)
    found = [read.outcomes.get(case.case_id, "missing") for case in cases]
    counts = {
        "n_cases": len(cases),
        "n_passed": sum(outcome is True for outcome in found),
        "n_failed": sum(outcome is False for outcome in found),
        "n_unscored": sum(outcome is None for outcome in found),
        "n_missing": sum(outcome == "missing" for outcome in found),
    }
    if as_json:
        document = {"run_id": added.key.run_id, "is_new": added.is_new, "ran_on": str(day), "name": called}
        seen = {
            "standing_run_id": added.standing.run_id,
            "first_week": str(monday_of(day)),
            "is_in_a_measured_week": _is_measured(workspace, day),
        }
        print_json({**document, **seen, **counts, "left_out": left_out, "repeated": list(read.repeated)})
        return
    out.print(
        f"The run of {day} {'is recorded' if added.is_new else 'was recorded before, nothing was added'}: "
        f"{counted(counts['n_cases'], 'case')} in the suite, {counts['n_passed']:,} passed, {counts['n_failed']:,} failed, "
        f"{counts['n_unscored']:,} unscored, {counts['n_missing']:,} without a result.",
        soft_wrap=True,
    )
    print_left_aside(read, left_out)
    if added.standing != added.key:
        out.print(
            f"It does not count: another run of {day} was recorded after it. To make it count, give it another --name.",
            soft_wrap=True,
        )
    elif _is_measured(workspace, day):
        out.print("`evalflow score` shows what it stands for.")
    else:
        out.print(
            f"No measured week ends on or after {day}: the run counts {_counts_from(workspace, day)}.", soft_wrap=True
        )


def _weeks(workspace: Home) -> list[date]:
    from evalflow.adapters.tables import BIN_ASSIGNMENTS

    return [date.fromisoformat(key) for key in workspace.lake.keys(BIN_ASSIGNMENTS)]


def _is_measured(workspace: Home, day: date) -> bool:
    return any(day <= sunday_of(week) for week in _weeks(workspace))


def _counts_from(workspace: Home, day: date) -> str:
    """From which week a run counts, and what stands against it."""
    calendar, week = workspace.calendar, monday_of(day)
    if _is_measured(workspace, day):
        return f"from the week of {week}"
    if calendar.is_closed and week > calendar.last_day:
        return f"from the week of {week}, but traffic ends on {calendar.end}; record a run of that time with --ran-on"
    return f"from the week of {week}, once `evalflow run` has measured it"


def _later_run(workspace: Home) -> str:
    keys = workspace.suite_runs.keys()
    if not keys:
        return _NO_RUN
    day = keys[-1].ran_on
    return f"the newest run is of {day}, which counts {_counts_from(workspace, day)}"


def _refuse_options_before(context: typer.Context) -> None:
    """An option before the subcommand would be dropped, and with --home the run would land in another home."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = "--json" if name == "as_json" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} stands before `{context.invoked_subcommand}`; give it after it.")


def _name_of(name: str | None) -> str | None:
    if name is None:
        return None
    if not name.strip() or len(name) > MOST_NAME or not name.isprintable():
        raise UsageError(f"--name {name[:40]!r} is no name: give one line of 1 to {MOST_NAME} characters.")
    return name.strip()


def _measured_weeks(workspace: Home, until: date | None) -> list[date]:
    found = [week for week in _weeks(workspace) if until is None or week <= until]
    if not found:
        named = f" up to {until}" if until else ""
        raise CannotTellError(
            f"No week{named} has been measured; land traces with `evalflow ingest PATH`, then `evalflow run`."
        )
    return found


# -- printing ------------------------------------------------------------------------------------------------


def _headline(row: dict[str, Any]) -> str:
    """The weighted rate and what it stands for in one line; without the one there is not the other."""
    mark = f"(week of {row['week']}{', provisional' if row['is_provisional'] else ''})"
    if row["weighted_pass_rate"] is None:
        return f"[bold]no score[/bold]  {row['reason']}  {mark}"
    return (
        f"[bold]{row['weighted_pass_rate']:.1%} pass[/bold] (95 % interval {row['weighted_pass_rate_low']:.1%} to "
        f"{row['weighted_pass_rate_high']:.1%}) over the {row['covered_share']:.1%} of the traffic that scored cases stand "
        f"for; {row['bound_low']:.1%} of all traffic if the rest fails, {row['bound_high']:.1%} if it passes  {mark}"
    )


def _counts(row: dict[str, Any]) -> str:
    changed = f", {row['n_changed']:,} changed since" if row["n_changed"] else ""
    unweighted = ""
    if row["pass_rate"] is not None:
        unweighted = f" ({row['pass_rate']:.1%}, not weighted)"
    return (
        f"{row['n_passed']:,} of {row['n_scored']:,} scored cases pass{unweighted}; of {counted(row['n_cases'], 'case')} "
        f"{row['n_unscored']:,} unscored, {row['n_missing']:,} without a result{changed}"
    )


def _table(rows: list[dict[str, Any]]) -> Table:
    head = (
        "week",
        "JSD",
        "bins",
        "weighted pass rate",
        "covered",
        "bounds",
        "cases",
        "signals",
        "llm",
        "p95 ms",
        "usd",
    )
    table = Table(*head, "diagnosis")
    for row in rows:
        has_score = row["weighted_pass_rate"] is not None
        table.add_row(
            f"{row['week']}{'*' if row['is_provisional'] else ''}",
            _number(row["jsd"], ".3f"),
            _number(row["n_bins"], "d"),
            f"{row['weighted_pass_rate']:.1%} ({row['weighted_pass_rate_low']:.1%} to {row['weighted_pass_rate_high']:.1%})"
            if has_score
            else "",
            _number(row["covered_share"], ".1%"),
            f"{row['bound_low']:.1%} to {row['bound_high']:.1%}" if has_score else "",
            f"{row['n_passed']}/{row['n_scored']}" if has_score else "",
            _number(row["pass_rate_signals"], ".1%"),
            _number(row["pass_rate_llm"], ".1%"),
            _number(row["latency_p95_ms"], ",.0f"),
            _number(row["cost_per_trace_usd"], ".4f"),
            row["diagnosis"],
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
