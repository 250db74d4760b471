"""`evalflow triage`: the queue of traces for people to look at, and their answers.

Everything that comes from traces is hostile text: `shown` stands between it and the terminal.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.review_files import ENDINGS, ReviewFormat, written
from evalflow.cli.terminal import (
    AsJson,
    HomeOption,
    counted,
    day_of,
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
NEXT = "Next: evalflow review, or evalflow triage export --out queue.jsonl"
QueueOption = Annotated[str | None, typer.Option("--queue", help="Only this named queue. Default: all of them.")]
FormatOption = Annotated[
    ReviewFormat | None, typer.Option("--format", help="jsonl, csv for spreadsheets, or label-studio.")
]


@app.command("list", epilog="Example: evalflow triage list --queue payments")
def triage_list(
    queue: QueueOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what is answered, promoted or dismissed.")] = False,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """The queued traces that wait for an answer, the most urgent first; urgency rises while a trace waits."""
    workspace = open_home(home)
    items = _items_of(workspace, queue)
    listed = [item for item in items if everything or item.is_waiting]
    if as_json:
        print_json([_listed_document(item) for item in listed])
        return
    if not items:
        out.print("The queue is empty; `evalflow refresh --budget N` fills it.")
        return
    waiting = [item for item in items if item.is_waiting]
    n_overdue = sum(item.is_overdue for item in waiting)
    late = f", [yellow]{n_overdue} overdue[/yellow] (over {_due_days(workspace)} in the queue)" if n_overdue else ""
    out.print(f"{counted(len(waiting), 'trace')} waiting{late}, {len(items) - len(waiting)} done.")
    out.print(_by_queue(waiting), soft_wrap=True)
    table = Table("trace", "urgency", "queue", "source", "age", "bin", "state", "input")
    for item in listed[:SHOWN_ITEMS]:
        row = item.row
        age = f"{item.age_days} d" + (" !" if item.is_overdue else "")
        texts = (row["label"], item.state, shortened(row["text"], 60))
        table.add_row(*map(shown, (item.trace_id, f"{item.urgency:.2f}", item.queue, row["source"], age, *texts)))
    if listed:
        out.print(table)
    if len(listed) > SHOWN_ITEMS:
        out.print(f"{len(listed) - SHOWN_ITEMS:,} more: --json shows all.")
    print_waiting([item.decision.why for item in items if item.decision.why and item.is_waiting])
    for sentence in _idle_routes(workspace):
        out.print(f"[yellow]route:[/yellow] {shown(sentence)}", soft_wrap=True)
    if waiting:
        out.print(NEXT, soft_wrap=True)


@app.command("capture", epilog="Example: evalflow triage capture")
def triage_capture(
    as_of: Annotated[
        str | None, typer.Option(help="Any day of the week that is wanted. Default: the newest week that is computed.")
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Queue the week's new failures without waiting for a refresh, up to triage.captured_per_day for each of its days.

    The same that the schedule daily_capture does every night. Safe to repeat: no trace is queued twice.
    """
    from evalflow.adapters.tables import BIN_ASSIGNMENTS
    from evalflow.core.calendar import monday_of
    from evalflow.defs.queue import QueueIndex
    from evalflow.runner import capture, instance_of

    workspace = open_home(home)
    day = day_of(as_of, "--as-of")
    placed = [
        key
        for key in map(date.fromisoformat, workspace.lake.keys(BIN_ASSIGNMENTS))
        if key in workspace.calendar.weeks()
    ]
    week = monday_of(day) if day else max(placed, default=None)
    if week is None or week not in placed:
        raise CannotTellError(
            f"No traffic is placed{f' in the week of {week}' if week else ''} yet; `evalflow run` does it, after "
            "`evalflow ingest PATH` where nothing has landed."
        )
    before = {item.trace_id for item in QueueIndex(workspace).items()}
    with instance_of(workspace.prepare()) as instance:
        capture(workspace, instance, week)
    items = QueueIndex(workspace).items()
    added = [item for item in items if item.trace_id not in before]
    sources = Counter(item.row["source"] for item in added)
    n_waiting = sum(item.is_waiting for item in items)
    if as_json:
        print_json(
            {"week": str(week), "added": len(added), "by_source": dict(sorted(sources.items())), "waiting": n_waiting}
        )
        return
    why = ", ".join(f"{count} {source.replace('_', ' ')}" for source, count in sources.most_common())
    out.print(
        f"{counted(len(added), 'failure')} of the week of {week} queued{f' ({why})' if why else ''}; "
        f"{counted(n_waiting, 'trace')} waiting.",
        soft_wrap=True,
    )
    if n_waiting:
        out.print(NEXT, soft_wrap=True)


@app.command("show", epilog="Example: evalflow triage show TRACE_ID")
def triage_show(
    trace_id: Annotated[str, typer.Argument(help="A trace of `evalflow triage list`.")],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """One queued trace with everything that a reviewer needs: the conversation, the answer, signals and grades."""
    from evalflow.defs.queue import queued_item

    item = queued_item(open_home(home), trace_id)
    if item is None:
        raise UsageError(f"There is no trace {trace_id!r} in the queue; `evalflow triage list --all` shows what is.")
    document = _item_document(item)
    if as_json:
        print_json(document)
        return
    for name in (
        *("trace_id", "state", "case_id", "queue", "reason", "priority", "age_days", "label"),
        *("timestamp", "model", "prompt_version"),
    ):
        if document[name] is not None:
            out.print(f"[dim]{name:<15}[/dim]{shown(str(document[name]))}", soft_wrap=True)
    context = document["context"]
    for turn in context.get("conversation", []):
        out.print(f"[dim]{shown(turn['role']):<15}[/dim]{shown(turn['content'])}", soft_wrap=True)
    out.print(f"[bold]{'user':<15}{shown(document['input'])}[/bold]", soft_wrap=True)
    for call in next((turn.get("tool_calls") or [] for turn in context.get("turns", []) if _is_this(turn)), []):
        out.print(f"[dim]{'tool call':<15}[/dim]{shown(json.dumps(call, ensure_ascii=False))}", soft_wrap=True)
    out.print(f"[bold]{'assistant':<15}{shown(document['output'] or 'no answer')}[/bold]", soft_wrap=True)
    for turn in (turn for turn in context.get("turns", []) if turn["place"] == "after"):
        for role, name in (("user", "input"), ("assistant", "output")):
            if name in turn:
                out.print(f"[dim]{role + ', later':<15}[/dim]{shown(turn[name])}", soft_wrap=True)
    rest = {name: value for name, value in context.items() if name not in ("conversation", "turns")}
    for name, value in [("signals", document["signals"]), ("grades", document["grades"]), *rest.items()]:
        if value:
            out.print(f"[dim]{shown(name):<15}[/dim]{shown(json.dumps(value, ensure_ascii=False))}", soft_wrap=True)
    for review in document["reviews"]:
        out.print(f"[dim]{'review':<15}[/dim]{shown(json.dumps(review, ensure_ascii=False))}", soft_wrap=True)
    if item.decision.why:
        out.print(f"[yellow]{shown(item.decision.why)}[/yellow]", soft_wrap=True)


@app.command("export", epilog="Example: evalflow triage export --format csv --out queue.csv")
def triage_export(
    target: Annotated[Path | None, typer.Option("--out", help="File to write. Default: stdout.")] = None,
    format: FormatOption = None,
    queue: QueueOption = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Write what waits, with empty fields for the answers, to be filled in and imported again.

    The format goes by --format, else by the ending of the file. With label-studio a second file beside the tasks holds
    the labelling interface.
    """
    from evalflow.defs.queue import queued_items

    workspace = open_home(home)
    by_ending: dict[str, ReviewFormat] = {ending: name for name, ending in ENDINGS.items()}
    chosen = format or by_ending.get(target.suffix if target else "", "jsonl")
    names = [item.trace_id for item in _items_of(workspace, queue) if item.is_waiting]
    if not names:
        where = f"the queue {queue!r}" if queue else "the queue"
        raise CannotTellError(f"Nothing waits in {where}; `evalflow refresh --budget N` fills it.")
    documents = [_item_document(item) for item in queued_items(workspace, names)]
    text = written(documents, chosen)
    if target is None:
        if as_json:
            print_json(documents)
        else:
            sys.stdout.write(text)
        if chosen == "label-studio":
            err.print("With --out FILE the labelling interface is written beside the tasks.")
        return
    files = {target: text}
    if chosen == "label-studio":
        from evalflow.adapters.review_label_studio import interface

        files[target.with_suffix(".interface.xml")] = interface()
    write_files(files)
    err.print(f"{counted(len(documents), 'trace')} written to {shown(', '.join(map(str, files)))}")
    if as_json:
        print_json({"traces": len(documents), "path": str(target), "format": chosen, "files": [*map(str, files)]})


@app.command("import", epilog="Example: evalflow triage import queue.jsonl")
def triage_import(
    path: Annotated[str, typer.Argument(help="A file of answers: what was exported, filled in.")],
    format: FormatOption = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Take in people's answers: verdict, expected behaviour, severity, codes, tags, reviewer.

    The format is told by the file's content. Promoted by `evalflow promote`, or by the sensor promote_reviews where the
    UI is running.
    """
    from evalflow.runner import import_reviews, instance_of

    workspace = open_home(home).prepare()
    with instance_of(workspace) as instance:
        done = import_reviews(workspace, instance, path, format)
    waiting = [item.decision.why for item in done.items if item.decision.why and item.case_id is None]
    late = [_too_late(item) for item in done.items if item.case_id and item.trace_id in _changed(done.added)]
    n_ready = sum(item.is_ready for item in done.items)
    if as_json:
        print_json(
            {
                "added": len(done.added),
                "unchanged": done.unchanged,
                "unanswered": done.n_unanswered,
                "drafts": done.n_drafts,
                "cancelled": done.n_cancelled,
                "ready": n_ready,
                "waiting": waiting,
                "already_promoted": late,
                "edited_inputs": list(done.edited),
                "unusable": done.unusable,
            }
        )
    else:
        left = [f"{done.unchanged} there already", f"{done.n_unanswered} left open"]
        left += [
            f"{number} {name}"
            for number, name in ((done.n_drafts, "drafts"), (done.n_cancelled, "cancelled"))
            if number
        ]
        out.print(f"{counted(len(done.added), 'answer')} added, {', '.join(left)}.", soft_wrap=True)
        if n_ready:
            out.print(
                f"{counted(n_ready, 'trace')} ready: `evalflow promote`, or the sensor promote_reviews within a minute."
            )
        print_waiting([*waiting, *late])
        for trace_id in done.edited[:SHOWN_ITEMS]:
            out.print(
                f"[yellow]{shown(trace_id)}[/yellow]: its input was changed in the file; the answer counts for the trace "
                "as it was queued.",
                soft_wrap=True,
            )
        lines = [f"{row['file']}:{row['line']}: {row['reason']}" for row in done.unusable]
        print_bad_lines(lines, len(lines), "correct them and import again")
    if done.unusable:
        raise typer.Exit(ExitCode.BAD_INPUT)


@app.command("reroute", epilog="Example: evalflow triage reroute")
def triage_reroute(home: HomeOption = None, as_json: AsJson = False) -> None:
    """Move what waits to the queues that the settings' routes name now; a trace keeps its queue until then."""
    from evalflow.defs.queue import reroute

    workspace = open_home(home).prepare()
    moved, idle = reroute(workspace), _idle_routes(workspace)
    if as_json:
        print_json({"moved": moved, "routes_that_take_nothing": idle})
        return
    told = ", ".join(f"{count:,} to {shown(name)}" for name, count in moved.items())
    out.print(f"Moved: {told}." if moved else "Every waiting trace is in the queue that its route names.")
    for sentence in idle:
        out.print(f"[yellow]route:[/yellow] {shown(sentence)}", soft_wrap=True)


# -- printing ---------------------------------------------------------------


def _items_of(home: Home, queue: str | None) -> list[Any]:
    """The light items of one queue, or of all.

    Raises:
        UsageError: neither a route nor any trace knows such a queue.
    """
    from evalflow.core.routing import DEFAULT_QUEUE
    from evalflow.defs.queue import QueueIndex

    items = QueueIndex(home).items()
    known = {item.queue for item in items} | {route.queue for route in home.settings.triage.routes} | {DEFAULT_QUEUE}
    if queue is not None and queue not in known:
        raise UsageError(f"There is no queue {queue!r}; there are {', '.join(sorted(known))}.")
    return [item for item in items if queue is None or item.queue == queue]


def _by_queue(waiting: Sequence[Any]) -> str:
    """One line: how many wait in each queue, how many of them too long, and the oldest."""
    parts = []
    for name in sorted({item.queue for item in waiting}):
        own = [item for item in waiting if item.queue == name]
        n_overdue, oldest = sum(item.is_overdue for item in own), max(item.age_days for item in own)
        late = f", {n_overdue} overdue" if n_overdue else ""
        parts.append(f"{shown(name)}: {len(own):,}{late}, oldest {counted(oldest, 'day')}")
    return "; ".join(parts)


def _due_days(home: Home) -> str:
    return counted(home.settings.triage.due_days, "day")


def _idle_routes(home: Home) -> list[str]:
    """A sentence for each bin or label of a route that the newest plan does not know; none where there is no plan."""
    from evalflow.adapters.tables import REFRESH_PLAN
    from evalflow.core.routing import idle_parts

    routes = home.settings.triage.routes
    keys = home.lake.keys(REFRESH_PLAN) if routes else []
    plan = home.lake.read(REFRESH_PLAN, keys[-1:], ["bin", "label"])
    return idle_parts(routes, dict(plan.iter_rows())) if len(plan) else []


def _listed_document(item: Any) -> dict[str, Any]:
    """One queued trace in a list: where it stands and the beginning of its input."""
    row = {name: value for name, value in item.row.items() if name not in ("text", "trace_id")}
    return {**_standing(item), "input": item.row["text"], **row, "n_reviews": len(item.reviews)}


def _item_document(item: Any) -> dict[str, Any]:
    """One queued trace as reviewers and programs see it; nested values opened."""
    row = dict(item.row)
    return {
        **_standing(item),
        "input": row.pop("text"),
        **row,
        "queue": item.queue,
        "context": json.loads(row["context"]),
        "signals": json.loads(row["signals"] or "{}"),
        "grades": json.loads(row["grades"]),
        "reviews": [msgspec.to_builtins(review) for review in item.reviews] if _is_open_to_all(item) else [],
        "n_reviews": len(item.reviews),
    }


def _standing(item: Any) -> dict[str, Any]:
    return {
        "trace_id": item.trace_id,
        "state": item.state,
        "case_id": item.case_id,
        "week": str(item.week),
        "queue": item.queue,
        "age_days": item.age_days,
        "is_overdue": item.is_overdue,
        "urgency": item.urgency,
    }


def _is_open_to_all(item: Any) -> bool:
    """Whether enough people have answered, so that what they said influences none of those who still have to."""
    return len({review.reviewer for review in item.reviews}) >= item.decision.n_wanted


def _is_this(turn: dict[str, Any]) -> bool:
    return turn["place"] == "this"


def _changed(added: list[Any]) -> set[str]:
    return {review.trace_id for review in added}


def _too_late(item: Any) -> str:
    return (
        f"{item.trace_id} is golden case {item.case_id} already; the answer is kept, and `evalflow golden retire "
        f"{item.case_id} --because ...` takes the case out"
    )
