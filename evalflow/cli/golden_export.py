"""`evalflow golden export`: the suite as of a day, in evalflow's own form or another tool's, with its lock.

Keep out: what a format looks like (``adapters/exporters``) and what a lock holds (``adapters/lock.py``).
"""

import json
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from evalflow.adapters.exporters import EXPORTERS, ExportedSuite, Exporter, Format, described
from evalflow.adapters.exporters.case import as_lines
from evalflow.adapters.exporters.loss import LossReport
from evalflow.adapters.exporters.native import REGRESSIONS_FILE, document
from evalflow.adapters.home import Home, open_home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.lock import FOLDER_LOCK, LOCK_SUFFIX, lock_path, lock_text, read_lock, suite_hash
from evalflow.cli.terminal import AsJson, HomeOption, counted, day_of, err, print_json, shown, write_files
from evalflow.core.calendar import monday_of
from evalflow.errors import CannotTellError, EvalflowError, UsageError

app = typer.Typer()
LOSS_SUFFIX, FOLDER_LOSS = ".loss.json", "evalflow.loss.json"


@app.command("export", epilog="Example: evalflow golden export --format promptfoo --out evals/")
def golden_export(
    target: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; a folder where the format is of several files. Default: stdout."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="Whose format.")] = "native",
    as_of: Annotated[str | None, typer.Option(help="The suite as it counted on this day. Default: today.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Write the golden set as of a day, with a lock and a report of what the format loses; native JSONL to stdout."""
    exporter = EXPORTERS[form]
    if target is None and form != "native":
        raise UsageError(f"--format {form} needs --out; name a {'folder' if exporter.is_folder else 'file'} to write.")
    if target is not None:
        _refuse_target(target, form, exporter)
    workspace = open_home(home)
    day = day_of(as_of, "--as-of") or workspace.calendar.now
    cases = workspace.ledger.as_of(day)
    if not cases:
        raise CannotTellError("The golden set is empty; import one with `evalflow golden import`.")
    placed = _placed(workspace, cases, day)
    strata = workspace.settings.sampling.strata_columns
    suite = ExportedSuite(
        tuple(described(case, placed.bins, placed.labels, strata) for case in cases), day, suite_hash(cases)
    )
    if target is not None:
        loss = exporter.loss(suite)
        _write(target, form, exporter, suite, loss)
        _report(target, form, exporter, suite, loss)
        if as_json:
            print_json(_document(target, form, exporter, suite, loss))
    elif as_json:
        print_json([document(case) for case in suite.cases])
    else:
        sys.stdout.write(as_lines([document(case) for case in suite.cases]))
    if placed.reason:
        err.print(f"[yellow]without bins:[/yellow] {shown(placed.reason)}", soft_wrap=True)


class _Placed(NamedTuple):
    """The bin of each case and the label of each bin; empty, and why, where there are none: a suite is whole without."""

    bins: dict[str, str]
    labels: dict[str, str]
    reason: str


def _placed(workspace: Home, cases: Sequence[CaseVersion], day: date) -> _Placed:
    """Where the cases fall in the newest week that was over by the day, so that the same day gives the same bins later.

    Where no week was over by then, it is the running one, as for the gate.
    """
    from evalflow.defs import suite
    from evalflow.defs.suite import newest_measured_week, taxonomy_in_force

    try:
        try:
            week = newest_measured_week(workspace, monday_of(day) - timedelta(days=1))
        except CannotTellError:
            week = newest_measured_week(workspace, day)
        taxonomy = taxonomy_in_force(workspace, week)
        return _Placed(suite.bins_in(workspace, taxonomy, cases), taxonomy.bins, "")
    except EvalflowError as reason:
        return _Placed({}, {}, str(reason))


def _write(target: Path, form: Format, exporter: Exporter, suite: ExportedSuite, loss: LossReport) -> None:
    """The files, the loss report and, last of all, the lock: a half-written export has none that fits."""
    files = _named(target, exporter, suite)
    report = {"format": form, "as_of": str(suite.as_of), "n_cases": len(suite.cases), "suite_hash": suite.suite_hash}
    lock = lock_text(form, suite.as_of, [case.version for case in suite.cases], files)
    folder = target if exporter.is_folder else target.parent
    contents: dict[Path, str | bytes] = {folder / name: content for name, content in files.items()}
    contents[_loss_path(target, exporter)] = json.dumps(report | loss.document(), ensure_ascii=False, indent=1) + "\n"
    contents[lock_path(target, is_folder=exporter.is_folder)] = lock
    if exporter.is_folder:
        _make_folders(target, [path.parent for path in contents])
    write_files(contents)


def _named(target: Path, exporter: Exporter, suite: ExportedSuite) -> dict[str, str | bytes]:
    """The files by their names in the folder; where the target is a file, the first of them has its name."""
    files = dict(exporter.files(suite))
    if exporter.is_folder:
        return files
    first = next(iter(files))
    return {target.name if name == first else name: content for name, content in files.items()}


def _make_folders(target: Path, folders: Sequence[Path]) -> None:
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"The folder {target} cannot be made ({error.strerror}); name one that can be written."
        ) from error


def _loss_path(target: Path, exporter: Exporter) -> Path:
    return target / FOLDER_LOSS if exporter.is_folder else target.with_name(target.name + LOSS_SUFFIX)


def _report(target: Path, form: Format, exporter: Exporter, suite: ExportedSuite, loss: LossReport) -> None:
    n_frozen = sum(case.version.is_regression for case in suite.cases)
    if form == "native":
        beside = target.with_name(REGRESSIONS_FILE)
        err.print(f"{counted(len(suite.cases), 'case')} written to {shown(str(target))}", soft_wrap=True)
        err.print(f"{counted(n_frozen, 'frozen regression')} written to {shown(str(beside))}", soft_wrap=True)
    else:
        frozen = f", {n_frozen:,} of them frozen," if n_frozen else ""
        cases = counted(len(suite.cases), "case")
        err.print(f"{cases}{frozen} written for {form} to {shown(str(target))}", soft_wrap=True)
        err.print(f"loss: {loss.headline}; in full in {shown(str(_loss_path(target, exporter)))}", soft_wrap=True)
    for own in loss.cases:
        err.print(f"[yellow]{counted(own.n_cases, 'case')}:[/yellow] {shown(own.what)}", soft_wrap=True)
    lock = lock_path(target, is_folder=exporter.is_folder)
    err.print(f"locked as of {suite.as_of} in {shown(str(lock))}", soft_wrap=True)


def _document(target: Path, form: Format, exporter: Exporter, suite: ExportedSuite, loss: LossReport) -> dict[str, Any]:
    n_frozen = sum(case.version.is_regression for case in suite.cases)
    beside = {"regressions_path": str(target.with_name(REGRESSIONS_FILE))} if form == "native" else {}
    return {
        "format": form,
        "as_of": str(suite.as_of),
        "cases": len(suite.cases),
        "regressions": n_frozen,
        "path": str(target),
        **beside,
        "suite_hash": suite.suite_hash,
        "lock_path": str(lock_path(target, is_folder=exporter.is_folder)),
        "loss_path": str(_loss_path(target, exporter)),
        "loss": loss.document(),
    }


def _refuse_target(target: Path, form: Format, exporter: Exporter) -> None:
    if exporter.is_folder:
        _refuse_folder(target, form)
        return
    if target.name.lower() == REGRESSIONS_FILE:
        raise UsageError(
            f"{target} is where the frozen cases of an export go; give the suite another name, such as suite.jsonl."
        )
    if target.name.endswith((LOCK_SUFFIX, LOSS_SUFFIX)):
        raise UsageError(
            f"{target} has the name of a lock or a loss report; give the suite another, such as suite.jsonl."
        )
    if target.exists() and not target.is_file():
        advice = "name one, or leave --out away to print the suite" if form == "native" else "name one"
        raise UsageError(f"{target} is no plain file; {advice}.")


def _refuse_folder(target: Path, form: Format) -> None:
    """An export into a folder with other things in it would mix with them."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{target} is no folder, and --format {form} writes several files; name a folder.")
    if not any(target.iterdir()):
        return
    if not (target / FOLDER_LOCK).is_file():
        raise UsageError(f"The folder {target} holds files that no lock names; name a new folder, or empty it.")
    held = read_lock(target).lock.format
    if held != form:
        raise UsageError(f"The folder {target} holds an export for {held}; name another folder for {form}.")
