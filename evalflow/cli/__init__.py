"""The command line: the same stations from a shell.

Every command takes ``--json`` (one document on stdout, everything else on stderr) and ends with one of the exit
codes of ``errors.py``. Keep out: computing; a command asks a station or the runner and prints the answer.
"""

import os
import sys
import warnings

import typer

from evalflow.cli import (
    dedup,
    errors,
    flywheel,
    gate,
    golden,
    golden_export,
    golden_reports,
    pipeline,
    refit,
    review,
    score,
    triage,
)
from evalflow.cli.terminal import err, print_json, shown
from evalflow.errors import EvalflowError, ExitCode

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Keeps an eval suite representative of production traffic. Exit codes: 0 fine, 1 fail, 2 usage error, "
    "3 cannot tell, 4 bad input data, 5 unreachable or missing dependency.",
)
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
app.add_typer(pipeline.app)
app.add_typer(flywheel.app)
app.add_typer(triage.app, name="triage")
app.add_typer(review.app)
app.add_typer(errors.app, name="errors")
app.add_typer(refit.app)
golden.app.add_typer(golden_export.app)
golden.app.add_typer(dedup.app)
golden.app.add_typer(golden_reports.app)
app.add_typer(golden.app, name="golden")
app.add_typer(gate.app)
app.add_typer(score.app, name="score")


def main() -> None:
    """Entry point of the ``evalflow`` command: errors a user can mend end as one sentence and an exit code."""
    warnings.simplefilter("ignore")  # libraries' warnings are for the tests, where they are errors
    try:
        result = app(standalone_mode=False)
        code = result if isinstance(result, int) else int(ExitCode.OK)  # a typer.Exit comes back as its code
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except EvalflowError as error:
        code = _say(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("Stopped. What was finished is kept; the same command goes on from here.")
        code = INTERRUPTED
    except Exception as error:
        if not _is_usage_error(error):
            raise
        code = _say(error.format_message(), ExitCode.USAGE)  # type: ignore[attr-defined]  # click's UsageError
    sys.exit(code)


def _say(message: str, code: ExitCode) -> int:
    """The error as one sentence on stderr, and with --json as a document on stdout too."""
    if message:  # empty after the help that a bare `evalflow` prints
        err.print(f"[red]error:[/red] {shown(message)}", soft_wrap=True)
        if "--json" in sys.argv:
            print_json({"error": message, "exit_code": int(code)})
    return int(code)


def entry() -> None:
    """What the console script calls: ``main`` without Python's own teardown of loaded libraries.

    DuckDB's bindings print pages about leaked objects when the interpreter unloads them beside torch. Everything is
    closed and flushed by then, so the process simply ends.
    """
    try:
        main()
    except SystemExit as stop:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stop.code if isinstance(stop.code, int) else int(ExitCode.FAIL))


def _is_usage_error(error: Exception) -> bool:
    return any(kind.__name__ == "ClickException" for kind in type(error).__mro__)
