"""`evalflow golden`: import, list, revision, history and retirement of golden cases, and whether the ledger is whole.

What is written for others: ``golden_export.py``. What the ledger tells about the suite: ``golden_reports.py``.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.ledger import CaseVersion, LedgerRecord
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
)
from evalflow.core.suite_diff import suite_diff
from evalflow.errors import ExitCode, UsageError

app = typer.Typer(no_args_is_help=True, help="The golden set: what is in it, how it changes, and what it is made of.")
SHOWN_IDS = 10
By = Annotated[
    str | None, typer.Option("--by", envvar="USER", help="Who decides; kept in the ledger. Default: the login name.")
]


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
            "frozen": list(done.frozen),
        }
        print_json(document)
    else:
        since = f", counting from {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""
        out.print(f"{counted(len(done.added), 'case')} added to the ledger{since}; {done.unchanged} there already.")
        _print_left(done.retired, "case is retired and stays so", "cases are retired and stay so", _NEW_ID)
        _print_left(done.frozen, "frozen case stays as it is", "frozen cases stay as they are", _REVISE)
        lines = [f"{row['file']}:{row['line']}: {row['reason']}" for row in done.unusable]
        print_bad_lines(lines, len(lines), "correct them and import again")
    if done.unusable or done.frozen:
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
        out.print(counted(len(cases), "case") + (f", {n_frozen} of them frozen regressions" if n_frozen else ""))


@app.command("revise", epilog="Example: evalflow golden revise parcel-1 --input 'Where?' --because typo")
def golden_revise(
    case_id: Annotated[str, typer.Argument(help="The case to change, frozen or not.")],
    because: Annotated[str, typer.Option(help="Why; kept in the ledger with the version.")],
    expected_output: Annotated[str | None, typer.Option(help="What the answer should be from now on.")] = None,
    text: Annotated[str | None, typer.Option("--input", help="What the case asks from now on.")] = None,
    by: By = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Give a case its next version, from today on; what past weeks counted stays what it was."""
    changes = {
        name: value for name, value in (("input", text), ("expected_output", expected_output)) if value is not None
    }
    for name, value in {"because": because, **changes}.items():
        if not value.strip():
            raise UsageError(f"--{name.replace('_', '-')} is empty; say what it should be.")
    if not changes:
        raise UsageError("Nothing is said to change; give --expected-output, --input or both.")
    from evalflow.runner import instance_of, revise_golden

    workspace = open_home(home).prepare()
    with instance_of(workspace) as instance:
        done = revise_golden(workspace, instance, case_id, changes, because.strip(), by)
    version = done.added[0] if done.added else None
    if as_json:
        print_json(
            {
                "case_id": case_id,
                "version": version and version.version,
                "effective_on": version and version.effective_on,
                "unchanged": done.unchanged,
            }
        )
    elif version is None:
        out.print(f"{shown(case_id)} says that already; nothing is recorded.", soft_wrap=True)
    else:
        frozen = ", a frozen regression," if version.is_regression else ""
        out.print(
            f"{shown(case_id)}{frozen} is version {version.version} from {version.effective_on}; "
            "`evalflow golden history` shows what it was.",
            soft_wrap=True,
        )


@app.command("history", epilog="Example: evalflow golden history parcel-1")
def golden_history(
    case_id: Annotated[str, typer.Argument(help="The case, also a retired one.")],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Every version of a case: from when, recorded when, by whom, why, and what changed."""
    records = [record for record in open_home(home).ledger.records() if record.version.case_id == case_id]
    if not records:
        raise UsageError(f"There is no case {case_id!r} in the golden set; `evalflow golden list` shows what is there.")
    rows = [_history_row(before, record) for before, record in zip([None, *records], records, strict=False)]
    if as_json:
        print_json({"case_id": case_id, "versions": rows})
        return
    newest = records[-1].version
    state = f"retired since {newest.retired_on}" if newest.retired_on else "in the suite"
    out.print(f"{shown(case_id)}: {counted(len(rows), 'version')}, {state}", soft_wrap=True)
    table = Table("v", "effective", "recorded", "by", "who", "why", "what changed")
    for row in rows:
        cells = (
            str(row["version"]),
            row["effective_on"],
            row["recorded_at"][:16].replace("T", " "),
            row["kind"],
            row["who"],
            row["because"] or "",
            ", ".join(row["changed"]),
        )
        table.add_row(*map(shown, cells))
    out.print(table)


@app.command("retire", epilog="Example: evalflow golden retire parcel-1 --because 'feature gone'")
def golden_retire(
    case_id: Annotated[list[str], typer.Argument(help="The cases to take out of the suite, from today on.")],
    because: Annotated[str, typer.Option(help="Why; kept in the ledger with the cases.")],
    by: By = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Take cases out of the suite; what past weeks counted stays what it was."""
    if not because.strip():
        raise UsageError("--because is empty; say why the cases leave the suite.")
    from evalflow.runner import instance_of, retire_golden

    workspace = open_home(home).prepare()
    with instance_of(workspace) as instance:
        done = retire_golden(workspace, instance, case_id, because.strip(), by)
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


@app.command("verify", epilog="Example: evalflow golden verify")
def golden_verify(
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="Declare the files that are gone lost for good, so that the rest is read."),
    ] = False,
    because: Annotated[
        str | None, typer.Option(help="With --accept-loss: how they were lost; kept in the ledger.")
    ] = None,
    by: By = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Is the ledger whole? Every file against its hash and its chain, every version against those before it.

    Exit code 4 when a file was edited or is gone, or versions contradict each other; what only deserves a look is a notice.
    """
    from evalflow.defs.ledger_reports import verify_ledger

    workspace = open_home(home)
    if accept_loss:
        _accept_loss(workspace, because, by)
    seen = verify_ledger(workspace)
    if as_json:
        print_json(
            {
                "is_whole": not seen.is_broken,
                "files": seen.n_files,
                "versions": seen.n_versions,
                "cases": seen.n_cases,
                "gone": seen.gone,
                "findings": [finding._asdict() for finding in seen.findings],
            }
        )
    else:
        amount = (
            f"{counted(seen.n_files, 'file')}, {counted(seen.n_versions, 'version')} of {counted(seen.n_cases, 'case')}"
        )
        out.print(
            f"[red]The ledger is broken[/red]: {amount} can be read."
            if seen.is_broken
            else f"The ledger is whole: {amount}."
        )
        for finding in seen.findings:
            colour = "red" if finding.level == "broken" else "yellow"
            out.print(f"[{colour}]{finding.level}:[/{colour}] {shown(finding.text)}", soft_wrap=True)
        if seen.gone:
            out.print(
                "Without a backup of them: `evalflow golden verify --accept-loss --because 'how they were lost'` lets the "
                "rest be read again; what only they held is gone.",
                soft_wrap=True,
            )
    if seen.is_broken:
        raise typer.Exit(ExitCode.BAD_INPUT)


def _accept_loss(workspace: Home, because: str | None, by: str | None) -> None:
    if not because or not because.strip():
        raise UsageError("--accept-loss needs --because; say how the files were lost.")
    from evalflow.defs.ledger_reports import verify_ledger

    with workspace.ledger.held():
        gone = verify_ledger(workspace).gone
        if not gone:
            raise UsageError("No file of the ledger is gone; there is no loss to accept.")
        workspace.ledger.accept_loss(workspace.lake, gone, because.strip(), by, workspace.now())
    err.print(f"{counted(len(gone), 'file')} declared lost: {shown(', '.join(gone))}", soft_wrap=True)


def _history_row(before: LedgerRecord | None, record: LedgerRecord) -> dict[str, Any]:
    version, known = record.version, record.version.provenance
    reviewers = known.reviewers if known and record.kind == "promotion" else []
    return {
        "version": version.version,
        "effective_on": version.effective_on,
        "recorded_at": record.recorded_at,
        "kind": record.kind,
        "who": record.by or ", ".join(reviewers) or record.source,
        "because": record.because or version.retired_because or (known.reason if known and before is None else None),
        "changed": [] if before is None else _changed(before.version, version),
        "is_regression": version.is_regression,
        "input": version.input,
        "expected_output": version.expected_output,
        "merged_trace_ids": version.merged_trace_ids,
        "retired_on": version.retired_on,
        "file": record.file,
    }


def _changed(before: CaseVersion, after: CaseVersion) -> list[str]:
    """The fields that differ; a retirement changes that the case counts, and nothing else."""
    (change,) = suite_diff({"": msgspec.to_builtins(before)}, {"": msgspec.to_builtins(after)}).changed
    return ["retired"] if after.retired_on and not before.retired_on else list(change.fields)


_NEW_ID = "what counts again needs a new case_id."
_REVISE = "`evalflow golden revise CASE_ID --expected-output ... --because ...` changes one, with its reason."


def _print_left(case_ids: Sequence[str], one: str, many: str, advice: str) -> None:
    """Name the cases that an import has left as they are though it says something else of them."""
    if not case_ids:
        return
    more = f" and {len(case_ids) - SHOWN_IDS:,} more" if len(case_ids) > SHOWN_IDS else ""
    named = shown(", ".join(case_ids[:SHOWN_IDS]))
    out.print(f"{len(case_ids):,} {one if len(case_ids) == 1 else many}: {named}{more}; {advice}", soft_wrap=True)


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
