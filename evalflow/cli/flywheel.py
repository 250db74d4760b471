"""The commands that turn the flywheel: refresh, triage, promote.

Everything that comes from traces is hostile text: `shown` stands between it and the terminal.
"""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import msgspec
import polars as pl
import typer
from rich.table import Table

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.tables import REFRESH_CURVE, REFRESH_PLAN, RETIREMENT_CANDIDATES
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
    shortened,
    shown,
    write_files,
)
from evalflow.errors import CannotTellError, ExitCode, UsageError

app = typer.Typer()
triage = typer.Typer(
    no_args_is_help=True, help="The queue of traces for people to look at: list, show, export, import."
)
app.add_typer(triage, name="triage")
SHOWN_ITEMS, SHOWN_QUOTAS, SHOWN_NOTES = 30, 15, 10
ANSWER_FIELDS = ("verdict", "expected_output", "severity", "duplicate_of", "comment", "reviewer")
"""What a reviewer fills in, in this order, at the end of each exported line."""


@app.command(epilog="Example: evalflow refresh --as-of 2026-08-23 --budget 80")
def refresh(
    budget: Annotated[
        int | None, typer.Option(min=1, help="How many labels people can give. Default: refresh.budget.")
    ] = None,
    target_jsd: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Instead of a budget: the raw JSD to reach with the fewest labels."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(help="Any day of the week that is wanted. Default: the newest closed week, else the running one."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and what more labels would bring; queue nothing.")
    ] = False,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Plan where the next labels lower JSD most, and queue the traces that people should look at.

    The plan is made from the suite as of the week's Sunday. Safe to repeat: a queue only grows, and no trace is queued
    twice.
    """
    from evalflow.defs.plan import draft_plan, met, refresh_week
    from evalflow.runner import instance_of
    from evalflow.runner import refresh as start_refresh

    workspace = open_home(home)
    if workspace.settings.traffic_start is None:
        raise no_traces(workspace)
    week = refresh_week(workspace, day_of(as_of, "--as-of"))
    if week not in workspace.calendar.weeks():
        raise CannotTellError(
            f"There is no traffic in the week of {week}: it runs from {workspace.calendar.start} to "
            f"{workspace.calendar.last_day}; choose a day in between with --as-of."
        )
    # A target decides how many labels it takes, which may be none: that is known before anything is started.
    draft = draft_plan(workspace, week, budget, target_jsd) if dry_run or target_jsd is not None else None
    if draft is not None and (dry_run or draft.is_met):
        document = _refresh_document(week, draft.rows, draft.curve, draft.retirable, None)
        if as_json:
            print_json(document)
        elif draft.is_met:
            out.print(met(draft), soft_wrap=True)
        else:
            _print_refresh(document)
        return
    with instance_of(workspace.prepare()) as instance:
        start_refresh(workspace, instance, week, budget, target_jsd)
    document = _recorded_document(workspace, week)
    if as_json:
        print_json(document)
    else:
        _print_refresh(document)
    if not document["quotas"]:
        raise typer.Exit(ExitCode.CANNOT_TELL)


@app.command(epilog="Example: evalflow promote")
def promote(
    effective_on: Annotated[
        str | None,
        typer.Option(
            help="UTC day from which the cases count, for replays. Default: today; after every published week."
        ),
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Promote what people's answers have confirmed into the golden set."""
    from evalflow.runner import instance_of
    from evalflow.runner import promote as start_promotion

    workspace = open_home(home).prepare()
    day_of(effective_on, "--effective-on")
    with instance_of(workspace) as instance:
        report = start_promotion(workspace, instance, effective_on)
    if as_json:
        print_json(report)
        return
    if report["promoted"] or report["merged"]:
        out.print(
            f"{counted(report['promoted'], 'case')} promoted, {report['regressions']} of them frozen regressions; "
            f"{counted(report['merged'], 'case')} took in duplicates. They count from {report['effective_on']}: "
            f"{report['golden_cases']} cases in all.",
            soft_wrap=True,
        )
    else:
        out.print("Nothing new to promote.")
    if report["dismissed"]:
        out.print(f"{counted(report['dismissed'], 'trace')} dismissed so far: not a failure after all.")
    for note in report["notes"][:SHOWN_NOTES]:
        out.print(shown(note), soft_wrap=True)
    if len(report["notes"]) > SHOWN_NOTES:
        out.print(f"{len(report['notes']) - SHOWN_NOTES} more were merged: --json shows all.")
    _print_waiting(report["waiting"])
    jsd = report["jsd_raw"]
    if jsd and jsd["predicted"] is not None and jsd["actual"] is not None:
        before = "no suite" if jsd["before"] is None else f"{jsd['before']:.3f}"
        out.print(
            f"Raw JSD of the week of {jsd['week']}: {before} before, {jsd['predicted']:.3f} predicted by the plan, "
            f"[bold]{jsd['actual']:.3f}[/bold] with the suite as it is now.",
            soft_wrap=True,
        )


@triage.command("list", epilog="Example: evalflow triage list")
def triage_list(
    everything: Annotated[bool, typer.Option("--all", help="Also what is answered, promoted or dismissed.")] = False,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """The queued traces that wait for an answer, the most urgent first."""
    from evalflow.defs.queue import queued_items

    workspace = open_home(home)
    items = queued_items(workspace)
    listed = [item for item in items if everything or item.is_waiting]
    if as_json:
        print_json([_item_document(item) for item in listed])
        return
    if not items:
        out.print("The queue is empty; `evalflow refresh --budget N` fills it.")
        return
    table = Table("trace", "priority", "source", "bin", "state", "input")
    for item in listed[:SHOWN_ITEMS]:
        row = item.row
        texts = (row["label"], item.state, shortened(row["text"], 60))
        table.add_row(*map(shown, (row["trace_id"], f"{row['priority']:.2f}", row["source"], *texts)))
    if listed:
        out.print(table)
    if len(listed) > SHOWN_ITEMS:
        out.print(f"{len(listed) - SHOWN_ITEMS} more: --json shows all.")
    n_waiting = sum(item.is_waiting for item in items)
    out.print(f"{counted(n_waiting, 'trace')} waiting, {len(items) - n_waiting} done.")
    _print_waiting([item.decision.why for item in items if item.decision.why and item.is_waiting])


@triage.command("show", epilog="Example: evalflow triage show TRACE_ID")
def triage_show(
    trace_id: Annotated[str, typer.Argument(help="A trace of `evalflow triage list`.")],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """One queued trace with everything that a reviewer needs: the conversation, the answer, signals and grades."""
    from evalflow.defs.queue import queued_items

    found = [item for item in queued_items(open_home(home)) if item.row["trace_id"] == trace_id]
    if not found:
        raise UsageError(f"There is no trace {trace_id!r} in the queue; `evalflow triage list --all` shows what is.")
    document = _item_document(found[0])
    if as_json:
        print_json(document)
        return
    for name in ("trace_id", "state", "case_id", "reason", "priority", "label", "timestamp", "model", "prompt_version"):
        if document[name] is not None:
            out.print(f"[dim]{name:<15}[/dim]{shown(str(document[name]))}", soft_wrap=True)
    for turn in document["context"].get("conversation", []):
        out.print(f"[dim]{shown(turn['role']):<15}[/dim]{shown(turn['content'])}", soft_wrap=True)
    out.print(f"[bold]{'user':<15}{shown(document['input'])}[/bold]", soft_wrap=True)
    out.print(f"[bold]{'assistant':<15}{shown(document['output'] or 'no answer')}[/bold]", soft_wrap=True)
    rest = {name: value for name, value in document["context"].items() if name != "conversation"}
    for name, value in [("signals", document["negative_signals"]), ("grades", document["grades"]), *rest.items()]:
        if value:
            out.print(f"[dim]{shown(name):<15}[/dim]{shown(json.dumps(value, ensure_ascii=False))}", soft_wrap=True)
    for review in document["reviews"]:
        out.print(f"[dim]{'review':<15}[/dim]{shown(json.dumps(review, ensure_ascii=False))}", soft_wrap=True)
    if found[0].decision.why:
        out.print(f"[yellow]{shown(found[0].decision.why)}[/yellow]", soft_wrap=True)


@triage.command("export", epilog="Example: evalflow triage export --out queue.jsonl")
def triage_export(
    target: Annotated[Path | None, typer.Option("--out", help="File to write. Default: stdout.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Write what waits as JSONL, one trace per line with empty fields for the answer, to be filled in and imported."""
    from evalflow.defs.queue import queued_items

    items = [item for item in queued_items(open_home(home)) if item.is_waiting]
    if not items:
        raise CannotTellError("Nothing waits in the queue; `evalflow refresh --budget N` fills it.")
    rows = [{**_item_document(item), **dict.fromkeys(ANSWER_FIELDS)} for item in items]
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    if target is not None:
        write_files({target: text})
        err.print(f"{counted(len(rows), 'trace')} written to {shown(str(target))}")
        if as_json:
            print_json({"traces": len(rows), "path": str(target)})
    elif as_json:
        print_json(rows)
    else:
        sys.stdout.write(text)


@triage.command("import", epilog="Example: evalflow triage import queue.jsonl")
def triage_import(
    path: Annotated[str, typer.Argument(help="A file of answers: the exported lines, filled in.")],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Take in people's answers: verdict, expected behaviour, severity, reviewer.

    Promoted by `evalflow promote`, or by the sensor promote_reviews where the UI is running.
    """
    from evalflow.runner import import_reviews, instance_of

    workspace = open_home(home).prepare()
    with instance_of(workspace) as instance:
        done = import_reviews(workspace, instance, path)
    waiting = [item.decision.why for item in done.items if item.decision.why and item.case_id is None]
    late = [_too_late(item) for item in done.items if item.case_id and item.row["trace_id"] in _changed(done.added)]
    n_ready = sum(item.is_ready for item in done.items)
    if as_json:
        print_json(
            {
                "added": len(done.added),
                "unchanged": done.unchanged,
                "unanswered": done.n_unanswered,
                "ready": n_ready,
                "waiting": waiting,
                "already_promoted": late,
                "unusable": done.unusable,
            }
        )
    else:
        out.print(
            f"{counted(len(done.added), 'answer')} added, {done.unchanged} there already, {done.n_unanswered} left open.",
            soft_wrap=True,
        )
        if n_ready:
            out.print(
                f"{counted(n_ready, 'trace')} ready: `evalflow promote`, or the sensor promote_reviews within a minute."
            )
        _print_waiting([*waiting, *late])
        lines = [f"{row['file']}:{row['line']}: {row['reason']}" for row in done.unusable]
        print_bad_lines(lines, len(lines), "correct them and import again")
    if done.unusable:
        raise typer.Exit(ExitCode.BAD_INPUT)


# -- printing ------------------------------------------------------------------------------------------------


def _recorded_document(home: Home, week: date) -> dict[str, Any]:
    from evalflow.defs.queue import queued_items

    items = [item for item in queued_items(home) if item.week == week]
    queue = {
        "traces": len(items),
        "waiting": sum(item.is_waiting for item in items),
        "by_source": {
            source: sum(item.row["source"] == source for item in items)
            for source in sorted({item.row["source"] for item in items})
        },
        "beyond_the_sample": sum(item.row["selected_by"] == "refresh_quota" for item in items),
    }
    plan, curve, retirable = (
        home.lake.read(table, [week]) for table in (REFRESH_PLAN, REFRESH_CURVE, RETIREMENT_CANDIDATES)
    )
    return _refresh_document(week, plan, curve, retirable, queue)


def _refresh_document(
    week: date, plan: pl.DataFrame, curve: pl.DataFrame, retirable: pl.DataFrame, queue: dict[str, Any] | None
) -> dict[str, Any]:
    """What `evalflow refresh --json` prints; ``queue`` is null where the plan was only drafted. Keys are only ever added."""
    from evalflow.core.calendar import sunday_of

    head = plan.row(0, named=True) if len(plan) else {}
    names = ("bin", "label", "production_share", "golden_cases", "is_blind_spot", "quota", "reason")
    return {
        "week": str(week),
        "as_of": str(sunday_of(week)),
        "budget": head.get("budget"),
        "target_jsd": head.get("target_jsd"),
        "failure_labels": head.get("failure_labels"),
        "jsd_raw_before": head.get("jsd_raw_before"),
        "jsd_raw_predicted": head.get("jsd_raw_predicted"),
        "golden_cases": int(plan["golden_cases"].sum()) if len(plan) else 0,
        "quotas": plan.select(names).filter(plan["quota"] > 0).sort("quota", descending=True).to_dicts(),
        "curve": curve.to_dicts(),
        "queue": queue,
        "retire": retirable.to_dicts(),
    }


def _print_refresh(document: dict[str, Any]) -> None:
    if not document["quotas"]:
        out.print(f"There is nothing to plan from in the week of {document['week']}: its window holds no traces.")
        return
    before, n_golden, target = document["jsd_raw_before"], document["golden_cases"], document["target_jsd"]
    now = "There is no suite yet" if before is None else f"Raw JSD is {before:.3f} with {counted(n_golden, 'case')}"
    brought = (
        f"{document['budget']} labels should bring it to [bold]{document['jsd_raw_predicted']:.3f}[/bold]"
        if target is None
        else f"to bring it to {target:g} takes [bold]{counted(document['budget'], 'label')}[/bold], "
        f"{document['jsd_raw_predicted']:.3f} predicted"
    )
    out.print(f"{now}; {brought}  (four weeks to {document['as_of']}).", soft_wrap=True)
    table = Table("bin", "label", "traffic", "cases", "labels", "why")
    for row in document["quotas"][:SHOWN_QUOTAS]:
        cells = (f"{row['production_share']:.1%}", str(row["golden_cases"]), str(row["quota"]), shown(row["reason"]))
        table.add_row(shown(row["bin"]), shown(row["label"]), *cells)
    out.print(table)
    if len(document["quotas"]) > SHOWN_QUOTAS:
        out.print(f"{len(document['quotas']) - SHOWN_QUOTAS} more bins: --json shows all.")
    _print_curve(document)
    if document["queue"] is not None:
        _print_queue(document)
    if document["retire"]:
        out.print(f"{counted(len(document['retire']), 'case')} may retire; look, then `evalflow golden retire`:")
        for row in document["retire"][:10]:
            out.print(f"  {shown(row['case_id'])}: {shown(row['reason'])}", soft_wrap=True)
    if document["queue"] is None:
        out.print("Nothing was written: the same command without --dry-run queues the traces.")
    else:
        out.print("Next: evalflow triage export --out queue.jsonl, answer, evalflow triage import queue.jsonl")


def _print_curve(document: dict[str, Any]) -> None:
    from evalflow.defs.plan import curve_points

    curve = ((row["labels"], row["jsd_raw_predicted"]) for row in document["curve"])
    known = [f"{labels} {value:.3f}" for labels, value in curve_points(curve, document["budget"]) if value is not None]
    out.print(f"Labels and the raw JSD that they bring: {', '.join(known)}.", soft_wrap=True)


def _print_queue(document: dict[str, Any]) -> None:
    queue = document["queue"]
    sources = ", ".join(f"{count} {source.replace('_', ' ')}" for source, count in queue["by_source"].items())
    out.print(f"{counted(queue['traces'], 'trace')} queued ({sources}), {queue['waiting']} waiting for an answer.")
    short = document["budget"] - queue["traces"]
    if short > 0:
        out.print(
            f"{counted(short, 'label')} found no new trace: what there is waits in the queue or repeats a known input."
        )


def _print_waiting(sentences: list[str]) -> None:
    for sentence in sentences[:10]:
        out.print(f"[yellow]waiting:[/yellow] {shown(sentence)}", soft_wrap=True)
    if len(sentences) > 10:
        out.print(f"{len(sentences) - 10} more are waiting: --json shows all.")


def _item_document(item: Any) -> dict[str, Any]:
    """One queued trace as reviewers and programs see it; nested values opened."""
    row = dict(item.row)
    return {
        "trace_id": row.pop("trace_id"),
        "state": item.state,
        "case_id": item.case_id,
        "week": str(item.week),
        "input": row.pop("text"),
        **row,
        "context": json.loads(row["context"]),
        "grades": json.loads(row["grades"]),
        "reviews": [msgspec.to_builtins(review) for review in item.reviews],
    }


def _changed(added: list[Any]) -> set[str]:
    return {review.trace_id for review in added}


def _too_late(item: Any) -> str:
    return (
        f"{item.row['trace_id']} is golden case {item.case_id} already; the answer is kept, and `evalflow golden retire "
        f"{item.case_id} --because ...` takes the case out"
    )
