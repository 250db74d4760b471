"""The commands that turn the flywheel: refresh, reproduce, promote.

Everything that comes from traces is hostile text: `shown` stands between it and the terminal.
"""

from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

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
    print_json,
    print_waiting,
    shortened,
    shown,
)
from evalflow.errors import CannotTellError, ExitCode

if TYPE_CHECKING:
    from evalflow.defs.reproduction import ReproduceRun

app = typer.Typer()
SHOWN_QUOTAS, SHOWN_NOTES = 15, 10


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
    """Promote what people's answers have confirmed into the golden set.

    Where a system is configured, a confirmed failure waits until `evalflow reproduce` has tried it. Safe to repeat.
    """
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
    for number, sentence in (
        (report["by_policy"], "promoted by a policy, which nobody has looked at"),
        (report["expected_from_judge"], "with an expected answer from the judge, which nobody has confirmed"),
        (report["not_reproduced"], "that did not fail again and is no regression"),
    ):
        if number:
            out.print(f"Of them {counted(number, 'case')} {sentence}.", soft_wrap=True)
    if report["scrubbed"]:
        out.print(f"Personal data found at this last look and replaced: {report['scrubbed']}.")
    if report["dismissed"]:
        out.print(f"{counted(report['dismissed'], 'trace')} dismissed so far: not a failure after all.")
    if report["warning"]:
        out.print(f"[yellow]dedup:[/yellow] {shown(report['warning'])}", soft_wrap=True)
    for note in report["notes"][:SHOWN_NOTES]:
        out.print(shown(note), soft_wrap=True)
    if len(report["notes"]) > SHOWN_NOTES:
        out.print(f"{len(report['notes']) - SHOWN_NOTES} more notes: --json shows all.")
    print_waiting(report["waiting"])
    jsd = report["jsd_raw"]
    if jsd and jsd["predicted"] is not None and jsd["actual"] is not None:
        before = "no suite" if jsd["before"] is None else f"{jsd['before']:.3f}"
        out.print(
            f"Raw JSD of the week of {jsd['week']}: {before} before, {jsd['predicted']:.3f} predicted by the plan, "
            f"[bold]{jsd['actual']:.3f}[/bold] with the suite as it is now.",
            soft_wrap=True,
        )


@app.command(epilog="Example: evalflow reproduce --system python:my_app.evals:answer --scorer judge")
def reproduce(
    trace_ids: Annotated[
        list[str] | None, typer.Argument(help="These traces only. Default: all that are ready to be promoted.")
    ] = None,
    attempts: Annotated[
        int | None, typer.Option(min=1, max=100, help="Calls for each trace. Default: promotion.attempts.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(help="python:package.module:function or an endpoint's address. Default: the settings [system]."),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(help="exact, contains, judge or python:package.module:function. Default: system.scorer."),
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Ask the system what is ready to be promoted, several times each: does it fail again?

    The attempts are kept, and promotion reads them: how difficult a case is, and whether a failure becomes a frozen
    regression. Safe to stop and to repeat: only what is missing is asked.
    """
    from evalflow.defs.reproduction import reproduce as start

    workspace = open_home(home).prepare()

    def said(done: int, total: int) -> None:
        if not as_json and (done % 50 == 0 or done == total):
            err.print(f"{done} of {total} calls", highlight=False)

    run = start(workspace, trace_ids or (), attempts, system, scorer, said)
    workspace.publish()
    if as_json:
        print_json(_reproduced_document(run))
    else:
        _print_reproduced(run)
    if run.stopped is not None:
        raise typer.Exit(ExitCode.UNREACHABLE)


# -- printing ------------------------------------------------------------------------------------------------


def _reproduced_document(run: "ReproduceRun") -> dict[str, Any]:
    """What `evalflow reproduce --json` prints. Keys are only ever added."""
    return {
        "system": run.system,
        "scorer": run.scorer,
        "attempts_wanted": run.attempts,
        "calls": run.n_asked,
        "calls_without_result": run.n_broken,
        "usd": run.paid_usd,
        "stopped": run.stopped,
        "traces": [
            {
                "trace_id": row.trace_id,
                "is_failure": row.is_failure,
                "attempts": row.reproduction.attempts,
                "failed": row.reproduction.failed,
                "unscored": row.reproduction.unscored,
            }
            for row in run.traces
        ],
        "waiting": run.waiting,
    }


def _print_reproduced(run: "ReproduceRun") -> None:
    if not run.traces and not run.n_asked:
        out.print("No trace is ready to be promoted, so there is nothing to try.")
        print_waiting(run.waiting)
        return
    failures = [row for row in run.traces if row.is_failure]
    again = sum(row.reproduction.failed > 0 for row in failures)
    out.print(
        f"[bold]{again} of {counted(len(failures), 'confirmed failure')}[/bold] failed again on {shown(run.system)}; "
        f"{counted(run.n_asked, 'call')} now{f', USD {run.paid_usd:.4f}' if run.paid_usd else ''}.",
        soft_wrap=True,
    )
    table = Table("trace", "failed", "scored", "unscored", "request")
    for row in run.traces[:SHOWN_QUOTAS]:
        held = row.reproduction
        cells = (str(held.failed), str(held.attempts - held.unscored), str(held.unscored))
        table.add_row(shown(row.trace_id), *cells, shown(shortened(row.text, 60)))
    out.print(table)
    if len(run.traces) > SHOWN_QUOTAS:
        out.print(f"{len(run.traces) - SHOWN_QUOTAS} more traces: --json shows all.")
    if run.n_broken:
        out.print(
            f"[yellow]{counted(run.n_broken, 'call')} came to nothing[/yellow] and will be made again by the same command."
        )
    if run.stopped is not None:
        out.print(f"[yellow]stopped:[/yellow] {shown(run.stopped)}", soft_wrap=True)
    print_waiting(run.waiting)
    out.print("Next: evalflow promote")


def _recorded_document(home: Home, week: date) -> dict[str, Any]:
    from evalflow.defs.queue import queued_items

    items = [item for item in queued_items(home) if item.is_of(week)]
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
        "calibration_labels": head.get("calibration_labels"),
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
        out.print(
            "Next: evalflow review, or evalflow triage export --out queue.jsonl, answer, evalflow triage import queue.jsonl",
            soft_wrap=True,
        )


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
