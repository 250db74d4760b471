"""`evalflow golden`: import, list and export of the golden set."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from evalflow.adapters.home import open_home
from evalflow.cli.terminal import AsJson, HomeOption, counted, day_of, err, out, print_bad_lines, print_json, shortened
from evalflow.errors import CannotTellError, ExitCode, UsageError

app = typer.Typer(no_args_is_help=True, help="The golden set: import, list, export.")


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
        }
        print_json(document)
    else:
        since = f", counting from {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""
        out.print(f"{counted(len(done.added), 'case')} added to the ledger{since}; {done.unchanged} there already.")
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
        print_json([_case_document(case) for case in cases])
        return
    table = Table("case", "v", "effective", "origin", "input")
    for case in cases:
        table.add_row(
            *map(escape, (case.case_id, str(case.version), case.effective_on, case.origin, shortened(case.input, 70)))
        )
    out.print(table if cases else "The golden set is empty; import one with `evalflow golden import`.")
    if cases:
        out.print(f"{len(cases)} cases")


@app.command("export", epilog="Example: evalflow golden export --out suite.jsonl")
def golden_export(
    target: Annotated[Path | None, typer.Option("--out", help="File to write. Default: stdout.")] = None,
    as_of: Annotated[str | None, typer.Option(help="The suite as it counted on this day. Default: today.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Write the golden set as native JSONL, one case per line (with --json: one document)."""
    workspace = open_home(home)
    cases = workspace.ledger.as_of(day_of(as_of, "--as-of") or workspace.calendar.now)
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
            print_json({"cases": len(cases), "path": str(target)})
    elif as_json:
        print_json(documents)
    else:
        sys.stdout.write(text)


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
