"""`evalflow errors`: read a batch of traces, group what went wrong into themes, make rubrics of the largest.

Everything that comes from traces or reviewers is somebody else's text: `shown` stands between it and the terminal.
"""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import typer
from rich.table import Table

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.tables import ABANDONMENT_CLUSTERS, ERROR_BATCH, ERROR_DRAW, ERROR_THEMES
from evalflow.cli.terminal import (
    AsJson,
    HomeOption,
    counted,
    day_of,
    no_traces,
    out,
    print_json,
    shortened,
    shown,
    write_files,
)
from evalflow.errors import CannotTellError, UsageError

if TYPE_CHECKING:
    from evalflow.adapters.themes import ThemesVersion
    from evalflow.defs.themes import PlacedThemes

app = typer.Typer(
    no_args_is_help=True, help="Error analysis: batch, themes of what goes wrong, rubrics, abandoned sessions."
)
SHOWN_THEMES, SHOWN_CODES, SHOWN_NEW = 15, 3, 10
AsOf = Annotated[
    str | None,
    typer.Option(help="Any day of the week that is wanted. Default: the newest closed week, else the running one."),
]


@app.command(epilog="Example: evalflow errors batch --size 60")
def batch(
    size: Annotated[int | None, typer.Option(min=10, help="How many traces. Default: errors.batch.")] = None,
    as_of: AsOf = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Draw traces to read from the week's sample: where failures are likely, and a random baseline.

    Safe to repeat: the same traces are drawn again, a larger batch holds a smaller one, and no trace is queued twice.
    """
    from evalflow.defs.errors import pool_table
    from evalflow.runner import draw_errors, instance_of

    workspace = open_home(home)
    week = _week(workspace, as_of)
    there = set(workspace.lake.read(ERROR_BATCH, [week], ["trace_id"])["trace_id"])
    with instance_of(workspace.prepare()) as instance:
        draw_errors(workspace, instance, week, size)
    frame = workspace.lake.read(ERROR_DRAW, [week])
    queued = workspace.lake.read(ERROR_BATCH, [week], ["trace_id"])["trace_id"].to_list()
    if frame.is_empty():
        raise CannotTellError(f"There is nothing to draw from in the week of {week}: its window holds no traces.")
    document: dict[str, Any] = {
        "week": str(week),
        "as_of": _sunday(week),
        "drawn": int(frame["is_drawn"].sum()),
        "added": len(set(queued) - there),
        "there_before": len(there),
        "pools": pool_table(frame, queued),
    }
    if as_json:
        print_json(document)
        return
    elsewhere = sum(row["queued_before"] for row in document["pools"])
    others = f", {elsewhere} of them held by another queue or the suite" if elsewhere else ""
    out.print(
        f"[bold]{counted(document['drawn'], 'trace')}[/bold] drawn for error analysis, {document['added']} newly queued"
        f"{others}  (four weeks to {document['as_of']}).",
        soft_wrap=True,
    )
    table = Table("pool", "traffic", "in the sample", "drawn", "chance")
    for row in document["pools"]:
        chance = "" if row["label_probability"] is None else f"{row['label_probability']:.2g}"
        table.add_row(row["pool"], f"{row['traffic_share']:.1%}", str(row["sampled"]), str(row["drawn"]), chance)
    out.print(table)
    out.print("Next: read them and write down what went wrong first (open_codes), then evalflow errors themes")


@app.command(epilog="Example: evalflow errors themes --out themes.toml")
def themes(
    propose: Annotated[
        bool, typer.Option("--propose", help="Group all codes anew; a theme that mostly stays keeps its id and name.")
    ] = False,
    target: Annotated[Path | None, typer.Option("--out", help="Write the themes to this file, to be edited.")] = None,
    edited: Annotated[Path | None, typer.Option("--apply", help="Record an edited file as the new version.")] = None,
    as_of: AsOf = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Group the reviewers' open codes into themes, and count them in the week's traffic.

    The first call proposes themes; from then on they stay as people edited them, and new codes join the nearest one.
    """
    from evalflow.adapters.themes import themes_toml
    from evalflow.defs.themes import THEMES, apply_themes, record_proposal, themes_of
    from evalflow.runner import bring_up_to_date, instance_of

    if propose and edited is not None:
        raise UsageError("--propose and --apply exclude each other: either codes are grouped anew, or a file decides.")
    workspace = open_home(home)
    week = _week(workspace, as_of, ERROR_DRAW)
    workspace.prepare()
    held = workspace.themes.newest()
    notes: list[str] = []
    if edited is not None:
        held, notes = apply_themes(workspace, edited)
    elif propose or held is None:
        held, notes = record_proposal(workspace)
    placed = themes_of(workspace)
    with instance_of(workspace) as instance:
        bring_up_to_date(workspace, instance, THEMES, week)
    if target is not None:
        write_files({target: themes_toml(held, placed.unassigned)})
    document = _themes_document(workspace, week, held, placed, notes)
    if as_json:
        print_json(document)
        return
    _print_themes(document)
    if target is not None:
        out.print(
            f"Themes written to {shown(str(target))}; edit, then evalflow errors themes --apply {shown(str(target))}",
            soft_wrap=True,
        )
    else:
        out.print(
            "Next: edit them under Themes in evalflow review or by --out themes.toml, then evalflow errors rubric --top 3"
        )


@app.command(epilog="Example: evalflow errors rubric --top 3")
def rubric(
    top: Annotated[int, typer.Option(min=1, help="How many themes, the largest first.")] = 3,
    as_of: AsOf = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Make rubric files of the largest themes, which the LLM judge reads when judge.rubrics names them.

    A rubric that would say something new gets a new version; no file is ever overwritten.
    """
    from evalflow.defs.rubrics import make_rubrics
    from evalflow.defs.themes import THEMES
    from evalflow.runner import bring_up_to_date, instance_of

    workspace = open_home(home)
    week = _week(workspace, as_of, ERROR_DRAW)
    workspace.prepare()
    with instance_of(workspace) as instance:
        bring_up_to_date(workspace, instance, THEMES, week)
    made = make_rubrics(workspace, week, top)
    if as_json:
        print_json(
            [
                {
                    "theme_id": each.theme_id,
                    "theme": each.theme_name,
                    "name": each.rubric.name,
                    "version": each.rubric.version,
                    "outcome": each.outcome,
                    "path": str(each.path),
                    "examples": [example.trace_id for example in each.rubric.examples],
                    "is_replacing_edits": each.is_replacing_edits,
                }
                for each in made
            ]
        )
        return
    n_written = sum(each.outcome == "written" for each in made)
    out.print(f"[bold]{counted(n_written, 'rubric')} written[/bold], {len(made) - n_written} unchanged.")
    table = Table("theme", "rubric", "", "examples", "file")
    for each in made:
        name = f"{each.rubric.name} v{each.rubric.version}"
        cells = (
            each.theme_name,
            name,
            each.outcome,
            str(len(each.rubric.examples)),
            f"{each.path.parent.name}/{each.path.name}",
        )
        table.add_row(*map(shown, cells))
    out.print(table)
    for each in made:
        if each.is_replacing_edits:
            out.print(
                f"[yellow]{shown(each.rubric.name)}:[/yellow] version {each.rubric.version - 1} was edited by hand, and version "
                f"{each.rubric.version} is made from the theme without that; edit it too, or pin "
                f"{shown(each.rubric.name)}@{each.rubric.version - 1}.",
                soft_wrap=True,
            )
    names = ", ".join(f'"{each.rubric.name}"' for each in made)
    out.print(
        f'Next: read the files, then set judge.rubrics = ["general", {shown(names)}] and evalflow run', soft_wrap=True
    )


@app.command(epilog="Example: evalflow errors abandoned")
def abandoned(
    as_of: AsOf = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """What was the last thing the assistant said in the sessions that users abandoned?"""
    from evalflow.defs.abandonment import ABANDONED
    from evalflow.runner import bring_up_to_date, instance_of

    workspace = open_home(home)
    week = _week(workspace, as_of)
    with instance_of(workspace.prepare()) as instance:
        bring_up_to_date(workspace, instance, ABANDONED, week)
    rows = workspace.lake.read(ABANDONMENT_CLUSTERS, [week])
    head = rows.row(0, named=True)
    names = ("cluster_id", "label", "n_sessions", "share", "share_low", "share_high", "examples")
    document = {
        "week": str(week),
        "as_of": _sunday(week),
        "sessions": head["week_n_sessions"],
        "abandoned": head["week_n_abandoned"],
        **{name: head[name] for name in ("abandoned_share", "abandoned_share_low", "abandoned_share_high")},
        "without_answer": head["n_without_answer"],
        "reason": head["reason"],
        "clusters": rows.filter(pl.col("cluster_id").is_not_null()).select(names).to_dicts(),
    }
    if as_json:
        print_json(document)
        return
    if document["abandoned_share"] is not None:
        out.print(
            f"[bold]{_interval(document, 'abandoned_share')}[/bold] of the sessions were abandoned: {document['abandoned']} of "
            f"{document['sessions']} in the sample  (four weeks to {document['as_of']}).",
            soft_wrap=True,
        )
    if document["reason"]:
        out.print(f"There are no last answers to show: {shown(document['reason'])}.", soft_wrap=True)
        return
    table = Table("last answers like", "of these sessions", "seen", "for example")
    for row in document["clusters"]:
        table.add_row(
            shown(row["label"]),
            _interval(row, "share"),
            str(row["n_sessions"]),
            shown(shortened(row["examples"][0], 70)),
        )
    out.print(table)
    if document["without_answer"]:
        out.print(f"{counted(document['without_answer'], 'session')} more ended before any answer.")


# -- weeks, versions --------------------------------------------------------------------------------------------


def _week(home: Home, as_of: str | None, made: Any = None) -> date:
    """The week that is asked for; without a day the newest one that ``made`` has, else as a refresh chooses it."""
    from evalflow.defs.plan import refresh_week

    if home.settings.traffic_start is None:
        raise no_traces(home)
    day = day_of(as_of, "--as-of")
    there = home.lake.keys(made) if made is not None and day is None else []
    week = date.fromisoformat(max(there)) if there else refresh_week(home, day)
    if week not in home.calendar.weeks():
        raise CannotTellError(
            f"There is no traffic in the week of {week}: it runs from {home.calendar.start} to "
            f"{home.calendar.last_day}; choose a day in between with --as-of."
        )
    return week


def _sunday(week: date) -> str:
    from evalflow.core.calendar import sunday_of

    return str(sunday_of(week))


# -- printing ---------------------------------------------------------------------------------------------------


def _themes_document(
    home: Home, week: date, version: "ThemesVersion", placed: "PlacedThemes", notes: list[str]
) -> dict[str, Any]:
    """What `evalflow errors themes --json` prints. Keys are only ever added."""
    rows = home.lake.read(ERROR_THEMES, [week])
    head = rows.row(0, named=True)
    own = (
        *("theme_id", "name", "share", "share_low", "share_high", "failing_share", "failing_share_low"),
        *("failing_share_high", "n_coded", "also_seen", "codes"),
    )
    names = {theme.theme_id: theme.name for theme in version.themes}
    return {
        "week": str(week),
        "as_of": _sunday(week),
        "version": version.version,
        "origin": version.origin,
        "drawn": head["n_drawn"],
        "answered": head["n_answered"],
        "failing": head["n_failing"],
        **{name: head[f"failing_traffic_{name}"] for name in ("share", "share_low", "share_high")},
        "reason": head["reason"],
        "themes": rows.filter(pl.col("theme_id").is_not_null()).select(own).to_dicts(),
        "new_codes": [
            {"code": placed.codes[key].text, "theme": names[placed.theme_of[key]], "distance": distance}
            for key, distance in placed.placed.items()
        ],
        "unassigned": list(placed.unassigned),
        "notes": notes,
    }


def _print_themes(document: dict[str, Any]) -> None:
    themes = document["themes"]
    if document["share"] is not None:
        out.print(
            f"[bold]{_interval(document, 'share')}[/bold] of the traffic fails, from {document['answered']} of "
            f"{document['drawn']} traces that are answered  (four weeks to {document['as_of']}, themes version {document['version']}).",
            soft_wrap=True,
        )
    else:
        out.print(f"{counted(len(themes), 'theme')}, not counted: {shown(document['reason'])}.", soft_wrap=True)
    table = Table("theme", "of the traffic", "of the failing", "in the batch", "also seen", "codes")
    for row in themes[:SHOWN_THEMES]:
        shares = (_interval(row, "share"), _interval(row, "failing_share"))
        codes = shown(shortened("; ".join(row["codes"][:SHOWN_CODES]), 60))
        table.add_row(shown(row["name"]), *shares, str(row["n_coded"]), str(row["also_seen"]), codes)
    out.print(table)
    for row in document["new_codes"][:SHOWN_NEW]:
        out.print(f"new: {shown(repr(row['code']))} joined {shown(repr(row['theme']))} ({row['distance']:.2f} away)")
    for code in document["unassigned"][:SHOWN_NEW]:
        out.print(
            f"[yellow]unassigned:[/yellow] {shown(repr(code))} is near no theme; move it into one", soft_wrap=True
        )
    more = sum(max(0, len(document[name]) - SHOWN_NEW) for name in ("new_codes", "unassigned"))
    if more:
        out.print(f"{counted(more, 'code')} more: --json shows all.")
    for note in document["notes"][:SHOWN_NEW]:
        out.print(f"[yellow]{shown(note)}[/yellow]", soft_wrap=True)


def _interval(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return ""
    return f"{row[name]:.1%} ({row[f'{name}_low']:.1%} to {row[f'{name}_high']:.1%})"
