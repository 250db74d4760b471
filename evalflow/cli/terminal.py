"""What every command shares: consoles, options, progress bars, JSON documents, dates and counts as they are written.

Keep out: what a single command prints.
"""

import json
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from evalflow.adapters.home import Home
from evalflow.errors import CannotTellError, UsageError

PIPED_WIDTH = 10_000
"""Where no screen sets the width, a table shows its cells whole."""
_KEPT = "\n\t\u200c\u200d"
"""Not printable and harmless: the breaks of a text, and the joiners that Persian, Hindi and emoji are written with."""


def _console(*, stderr: bool = False) -> Console:
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else PIPED_WIDTH
    # Without emoji, or line 100 of a file would be printed as one: "traces.jsonl:100: ...".
    return Console(stderr=stderr, emoji=False, width=width)


out, err = _console(), _console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
HomeOption = Annotated[
    Path | None, typer.Option("--home", envvar="EVALFLOW_HOME", help="The home to work in. Default: ./data.")
]


@contextmanager
def progress_bars(as_json: bool) -> Iterator[Callable[[str, date, date, int, int], None]]:
    """Bars on stderr, one per station; plain lines where stderr is no terminal or JSON is asked for."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    is_plain = as_json or not err.is_terminal
    with Progress(*columns, console=err, disable=is_plain) as progress:
        tasks: dict[str, Any] = {}

        def on_range(name: str, first: date, last: date, done: int, total: int) -> None:
            if is_plain and done < total:
                err.print(f"{name}: {total - done} to do", highlight=False)
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done, total=total)

        yield on_range


def print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2, default=str) + "\n")


def print_bad_lines(lines: list[str], total: int, advice: str) -> None:
    if not total:
        return
    err.print(f"[yellow]{counted(total, 'line')} could not be used[/yellow] ({advice}):", soft_wrap=True)
    for line in lines[:20]:
        err.print(f"  {shown(line)}", soft_wrap=True)


def print_waiting(sentences: list[str]) -> None:
    for sentence in sentences[:10]:
        out.print(f"[yellow]waiting:[/yellow] {shown(sentence)}", soft_wrap=True)
    if len(sentences) > 10:
        out.print(f"{len(sentences) - 10} more are waiting: --json shows all.")


def day_of(text: str | None, option: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is not a day; write it as 2026-08-23.") from error


def write_files(contents: Mapping[Path, str | bytes]) -> None:
    """Replace the files, none before all are written in full beside them.

    Raises:
        UsageError: a file cannot be written; the message names the first.
    """
    written: dict[Path, Path] = {}
    path = next(iter(contents))
    with ExitStack() as cleanup:
        try:
            for path, content in contents.items():
                place = path.resolve()  # a link stays one; its target is replaced
                temporary = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
                cleanup.callback(temporary.unlink, missing_ok=True)
                temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
                written[place] = temporary
            for path, temporary in written.items():
                temporary.replace(path)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written ({error.strerror}); name a file in a folder that exists."
            ) from error


def no_traces(home: Home) -> CannotTellError:
    return CannotTellError(f"There are no traces in {home.path}; land some with `evalflow ingest PATH`.")


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shown(text: str) -> str:
    """Somebody else's text for a console: neither markup nor a control sequence of the terminal gets through.

    Line breaks and tabs stay; other spaces become plain ones, and what cannot be seen a replacement character.
    """
    return escape("".join(_harmless(sign) for sign in text))


def _harmless(sign: str) -> str:
    if sign.isprintable() or sign in _KEPT:
        return sign
    return " " if sign.isspace() else "\ufffd"


def shortened(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
