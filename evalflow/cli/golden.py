"""`evalflow golden`: import, list, export and retirement of golden cases."""

import json
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.ledger import CaseVersion
from evalflow.cli.terminal import (
    AsJson,
    HomeOption,
    counted,
    day_of,
    err,
    out,
    print_bad_lines,
    print_json,
    shortened,
    shown,
    write_files,
)
from evalflow.errors import CannotTellError, EvalflowError, ExitCode, UsageError

app = typer.Typer(no_args_is_help=True, help="The golden set: import, list, export, retire.")
REGRESSIONS_FILE = "regressions.jsonl"
"""Lies beside every exported file and holds its frozen cases alone."""

SHOWN_RETIRED = 10


@app.command("import", epilog="Example: evalflow golden import suite.jsonl")
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
            "retired": list(done.retired),
        }
        print_json(document)
    else:
        since = f", counting from {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""
        out.print(f"{counted(len(done.added), 'case')} added to the ledger{since}; {done.unchanged} there already.")
        _print_retired(done.retired)
        lines = [f"{row['file']}:{row['line']}: {row['reason']}" for row in done.unusable]
        print_bad_lines(lines, len(lines), "correct them and import again")
    if done.unusable:
        raise typer.Exit(ExitCode.BAD_INPUT)


@app.command("list", epilog="Example: evalflow golden list --as-of 2026-08-23")
def golden_list(
    as_of: Annotated[str | None, typer.Option(help="The suite as it counted on this day. Default: today.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """The golden set as of a day."""
    workspace = open_home(home)
    cases = workspace.ledger.as_of(day_of(as_of, "--as-of") or workspace.calendar.now)
    if as_json:
        print_json([{**_case_document(case), "is_regression": case.is_regression} for case in cases])
        return
    table = Table("case", "v", "effective", "origin", "regression", "input")
    for case in cases:
        cells = (
            case.case_id,
            str(case.version),
            case.effective_on,
            case.origin,
            "frozen" if case.is_regression else "",
            shortened(case.input, 70),
        )
        table.add_row(*map(shown, cells))
    out.print(table if cases else "The golden set is empty; import one with `evalflow golden import`.")
    if cases:
        n_frozen = sum(case.is_regression for case in cases)
        out.print(f"{len(cases)} cases" + (f", {n_frozen} of them frozen regressions" if n_frozen else ""))


@app.command("export", epilog="Example: evalflow golden export --out suite.jsonl")
def golden_export(
    target: Annotated[
        Path | None,
        typer.Option("--out", help=f"File to write, with {REGRESSIONS_FILE} beside it. Default: stdout."),
    ] = None,
    as_of: Annotated[str | None, typer.Option(help="The suite as it counted on this day. Default: today.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Write the golden set as native JSONL, one case per line (with --json: one document)."""
    if target is not None:
        _refuse_target(target)
    workspace = open_home(home)
    day = day_of(as_of, "--as-of") or workspace.calendar.now
    cases = workspace.ledger.as_of(day)
    if not cases:
        raise CannotTellError("The golden set is empty; import one with `evalflow golden import`.")
    bins, without_bins = _bins(workspace, cases, day)
    documents = [_export_document(case, bins.get(case.case_id)) for case in cases]
    if target is not None:
        frozen = [document for document in documents if document["is_regression"]]
        beside = target.with_name(REGRESSIONS_FILE)
        write_files({target: _as_lines(documents), beside: _as_lines(frozen)})
        err.print(f"{counted(len(documents), 'case')} written to {shown(str(target))}", soft_wrap=True)
        err.print(f"{counted(len(frozen), 'frozen regression')} written to {shown(str(beside))}", soft_wrap=True)
        if as_json:
            print_json(
                {
                    "cases": len(documents),
                    "path": str(target),
                    "regressions": len(frozen),
                    "regressions_path": str(beside),
                }
            )
    elif as_json:
        print_json(documents)
    else:
        sys.stdout.write(_as_lines(documents))
    if without_bins:
        err.print(f"[yellow]without bins:[/yellow] {shown(without_bins)}", soft_wrap=True)


@app.command("retire", epilog="Example: evalflow golden retire parcel-1 --because 'feature gone'")
def golden_retire(
    case_id: Annotated[list[str], typer.Argument(help="The cases to take out of the suite, from today on.")],
    because: Annotated[str, typer.Option(help="Why; kept in the ledger with the cases.")],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Take cases out of the suite; what past weeks counted stays what it was."""
    if not because.strip():
        raise UsageError("--because is empty; say why the cases leave the suite.")
    from evalflow.runner import instance_of, retire_golden

    workspace = open_home(home).prepare()
    with instance_of(workspace) as instance:
        done = retire_golden(workspace, instance, case_id, because.strip())
    retired = [version.case_id for version in done.added]
    since = done.added[0].retired_on if done.added else None
    if as_json:
        print_json({"retired": retired, "retired_on": since, "unchanged": done.unchanged})
        return
    out.print(
        f"{counted(len(retired), 'case')} retired"
        + (f" from {since}" if since else "")
        + f"; {done.unchanged} retired before.",
    )


def _print_retired(case_ids: Sequence[str]) -> None:
    if not case_ids:
        return
    stay = "case is retired and stays so" if len(case_ids) == 1 else "cases are retired and stay so"
    more = f" and {len(case_ids) - SHOWN_RETIRED:,} more" if len(case_ids) > SHOWN_RETIRED else ""
    named = shown(", ".join(case_ids[:SHOWN_RETIRED]))
    out.print(f"{len(case_ids):,} {stay}: {named}{more}; what counts again needs a new case_id.", soft_wrap=True)


def _case_document(case: CaseVersion) -> dict[str, Any]:
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


def _export_document(case: CaseVersion, bin_: str | None) -> dict[str, Any]:
    return {
        **_case_document(case),
        "bin": bin_,
        "is_regression": case.is_regression,
        "weight_parts": msgspec.to_builtins(case.weight_parts),
        "provenance": msgspec.to_builtins(case.provenance),
        "merged_trace_ids": case.merged_trace_ids,
        "is_random_draw": case.is_random_draw,
    }


def _bins(workspace: Home, cases: Sequence[CaseVersion], day: date) -> tuple[dict[str, str], str]:
    """The bin of each case, or none and why: a suite is whole without its bins."""
    from evalflow.defs.suite import bins_of_suite

    try:
        return bins_of_suite(workspace, cases, day), ""
    except EvalflowError as reason:
        return {}, str(reason)


def _as_lines(documents: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)


def _refuse_target(target: Path) -> None:
    if target.name.lower() == REGRESSIONS_FILE:
        raise UsageError(
            f"{target} is where the frozen cases of an export go; give the suite another name, such as suite.jsonl."
        )
    if target.exists() and not target.is_file():
        raise UsageError(f"{target} is no plain file; name one, or leave --out away to print the suite.")
