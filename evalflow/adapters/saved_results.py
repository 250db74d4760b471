"""A run of the suite on disk, a line per attempt from the moment it is done, so that an interrupted run goes on from it.

The lines are results that `evalflow gate` reads like any other. Keep out: what results decide, and reading those of other
tools as outcomes (``results.py``).
"""

import fcntl
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

from evalflow.adapters.attempting import Attempt
from evalflow.adapters.native import find_files, read_lines
from evalflow.adapters.scoring import Scorer
from evalflow.adapters.system import SystemUnderTest, Task
from evalflow.core.lineage import fingerprint
from evalflow.errors import UsageError

_BEGINNING = '{"case_id": "'
"""Of every line that a run writes: a half one at the end of a file without it is somebody else's."""


class Said(NamedTuple):
    """What one attempt came to, as a line holds it."""

    passed: bool | None
    output: str | None = None
    reason: str | None = None
    latency_ms: float | None = None


def run_id_of(system: SystemUnderTest, scorer: Scorer | None, tasks: Sequence[Task]) -> str:
    """Names what is asked of whom and how it is scored: only attempts of the same one are taken over.

    What a function imports is not seen; ``system.version`` tells two candidates apart.
    """
    questions = sorted({(task.key, json.dumps(task[1:-1], sort_keys=True, default=str)) for task in tasks})
    return fingerprint(system.name, system.version, system.code, scorer.name if scorer else None, questions)


class SavedRun:
    """The file that a run writes; as a context manager it is open from entering to leaving.

    Entering keeps the attempts that stand, ``found`` by case and repeat, and drops those that say nothing of the system,
    which are made again, and half a line that a kill has left.
    """

    def __init__(self, path: Path, run_id: str) -> None:
        self.path, self.run_id = path, run_id
        self.file: TextIO | None = None
        self.found: dict[tuple[str, int], Said] = {}

    def __enter__(self) -> "SavedRun":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self._opened()
            self._keep_what_stands()
        except (OSError, UnicodeDecodeError) as error:
            self.close()
            raise UsageError(f"{self.path} cannot be written ({error}); name a file that can with --save.") from error
        except UsageError:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def _opened(self) -> TextIO:
        """The file, held against another run that would write into it; a process that ends lets go of it."""
        file = self.path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UsageError(f"Another run is writing {self.path}; wait for it, or give --save another file.") from None
        return file

    def _keep_what_stands(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        known = text.removesuffix("\n").split("\n") if text else []  # no other sign ends a line of JSON
        lines: list[str] = []
        for number, line in enumerate(known, start=1):
            row = self._row_of(line, number, is_last=number == len(known))
            if row is not None and not row.get("again"):
                self.found[row["case_id"], row["repeat"]] = _said_in(row)
                lines.append(line + "\n")
        if "".join(lines) != text:
            temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}.tmp")
            temporary.write_text("".join(lines), encoding="utf-8")
            held = self.file
            temporary.replace(self.path)
            self.file = self._opened()
            if held is not None:
                held.close()

    def add(self, attempt: Attempt) -> None:
        """Write one attempt to the disk at once."""
        row: dict[str, Any] = {
            "case_id": attempt.task.key,
            "repeat": attempt.task.repeat,
            "pass": attempt.passed,
            "output": attempt.output,
            "reason": attempt.reason,
            "latency_ms": attempt.latency_ms,
            "run": self.run_id,
        }
        if not attempt.is_final:
            row["again"] = True  # says nothing about the system: a run that goes on makes it anew
        if self.file is None:
            raise ValueError("the file is not open")
        self.file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.file.flush()

    def _row_of(self, line: str, number: int, is_last: bool) -> dict[str, Any] | None:
        """The line's attempt; None for half a line at the end.

        Raises:
            UsageError: the line is not of this run.
        """
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if is_last and line.startswith(_BEGINNING[: len(line)]):
                return None
            row = {}
        if not isinstance(row, dict) or row.get("run") != self.run_id:
            raise UsageError(
                f"{self.path}:{number} is not of this run: the suite, the system, its version or the scorer was another; "
                "give --save another file, or delete this one."
            )
        return row


def said_in(path: str) -> dict[str, list[Said]]:
    """What each case's lines say beside their outcome, for reports; lines that cannot be used say nothing."""
    found: dict[str, list[Said]] = {}
    for file in find_files(path).files:
        for line in read_lines(file):
            row = line.row
            if isinstance(row, Mapping) and isinstance(row.get("case_id"), str):
                found.setdefault(row["case_id"], []).append(_said_in(row))
    return found


def _said_in(row: Mapping[str, Any]) -> Said:
    passed, output, reason, latency = (row.get(name) for name in ("pass", "output", "reason", "latency_ms"))
    return Said(
        passed if isinstance(passed, bool) else None,
        output if isinstance(output, str) else None,
        reason if isinstance(reason, str) else None,
        float(latency) if isinstance(latency, int | float) and not isinstance(latency, bool) else None,
    )
