"""`evalflow triage`: the queue of traces for people to look at, and their answers.

Everything that comes from traces is hostile text: `shown` stands between it and the terminal.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from evalflow.adapters.home import open_home
from evalflow.cli.terminal import (
    AsJson,
    HomeOption,
    counted,
    err,
    out,
    print_bad_lines,
    print_json,
    print_waiting,
    shortened,
    shown,
    write_files,
)
from evalflow.errors import CannotTellError, ExitCode, UsageError

app = typer.Typer(no_args_is_help=True, help="The queue of traces for people to look at: list, show, export, import.")
SHOWN_ITEMS = 30
ANSWER_FIELDS = ("verdict", "expected_output", "severity", "duplicate_of", "comment", "reviewer")
"""What a reviewer fills in, in this order, at the end of each exported line."""


@app.command("list", epilog="Example: evalflow triage list")
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
    print_waiting([item.decision.why for item in items if item.decision.why and item.is_waiting])


@app.command("show", epilog="Example: evalflow triage show TRACE_ID")
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


@app.command("export", epilog="Example: evalflow triage export --out queue.jsonl")
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


@app.command("import", epilog="Example: evalflow triage import queue.jsonl")
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
        print_waiting([*waiting, *late])
        lines = [f"{row['file']}:{row['line']}: {row['reason']}" for row in done.unusable]
        print_bad_lines(lines, len(lines), "correct them and import again")
    if done.unusable:
        raise typer.Exit(ExitCode.BAD_INPUT)


# -- printing ---------------------------------------------------------------


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
