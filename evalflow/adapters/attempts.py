"""Attempts of the system under test at traces and cases, kept: append-only, scrubbed, each one numbered.

What a reviewer compares production's answer with, and what difficulty is counted from. Keep out: making an attempt
(``attempting.py``).
"""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from evalflow.adapters.journal import Journal
from evalflow.adapters.lake import Lake
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import ATTEMPTS
from evalflow.core.grading import Grade
from evalflow.core.text import text_hash

if TYPE_CHECKING:
    from evalflow.adapters.attempting import Ran
    from evalflow.adapters.system import Task

_KIND = "attempts"


class KeptAttempt(msgspec.Struct, kw_only=True, frozen=True):
    """One attempt. ``item_id``: a trace_id or a case_id, as ``kind`` says.

    ``attempt`` counts from 1 over all attempts of the same system and version at the same question, whose ``input_hash``
    covers its conversation. ``expected_hash`` names what it was scored against. ``recorded_at`` is that of the file.
    """

    kind: Literal["trace", "case"]
    item_id: str
    input_hash: str
    expected_hash: str | None = None
    system: str
    system_version: str | None
    scorer: str | None
    attempt: int
    output: str | None
    verdict: Grade
    reason: str
    latency_ms: float | None
    recorded_at: str = ""

    @property
    def question(self) -> tuple[str, str, str, str, str | None]:
        """What was asked of whom: attempts with the same one are tries of the same thing."""
        return self.kind, self.item_id, self.input_hash, self.system, self.system_version

    def is_at(self, task: "Task") -> bool:
        """Whether just this was asked and this was expected: a corrected expectation makes verdicts before it stale."""
        return (self.input_hash, self.expected_hash) == (input_hash(task), _expected_hash(task))


class AttemptJournal:
    """The folder ``attempts/`` of a home."""

    def __init__(self, root: Path) -> None:
        self.journal = Journal(root, "attempts")

    def add(
        self, kind: Literal["trace", "case"], ran: "Ran", scrubber: Scrubber, recorded_at: datetime
    ) -> list[KeptAttempt]:
        """Append the attempts of a run that say something of the system, as one file; those that do not are left out."""
        with self.journal.exclusive():
            counts: dict[tuple[Any, ...], int] = {}
            for kept in self.all():
                counts[kept.question] = max(counts.get(kept.question, 0), kept.attempt)
            added: list[KeptAttempt] = []
            for attempt in ran.attempts:
                if not attempt.is_final:
                    continue
                kept = KeptAttempt(
                    kind=kind,
                    item_id=attempt.task.key,
                    input_hash=input_hash(attempt.task),
                    expected_hash=_expected_hash(attempt.task),
                    system=ran.system,
                    system_version=ran.version,
                    scorer=ran.scorer,
                    attempt=0,
                    output=None if attempt.output is None else scrubber.scrub(attempt.output).text,
                    verdict=attempt.verdict,
                    reason=scrubber.scrub(attempt.reason).text,
                    latency_ms=attempt.latency_ms,
                )
                counts[kept.question] = counts.get(kept.question, 0) + 1
                added.append(msgspec.structs.replace(kept, attempt=counts[kept.question]))
            lines = [msgspec.json.encode(_unstamped(kept)) for kept in added]
            # Numbered, so that names are in the order of recording: a closed home's clock stands still.
            number = len(self.journal.names()) + 1
            self.journal.append(f"{_KIND}-{number:06d}", lines, ran.system, recorded_at)
        return [msgspec.structs.replace(kept, recorded_at=recorded_at.isoformat()) for kept in added]

    def all(self) -> list[KeptAttempt]:
        """Every attempt in the order of recording.

        Raises:
            BadInputError: a file was changed after it was written.
        """
        decoder = msgspec.json.Decoder(KeptAttempt)
        return [
            msgspec.structs.replace(decoder.decode(line), recorded_at=file.recorded_at)
            for file in self.journal.files()
            for line in file.lines
        ]

    def of_trace(self, trace_id: str) -> list[KeptAttempt]:
        return [kept for kept in self.all() if (kept.kind, kept.item_id) == ("trace", trace_id)]

    def of_case(self, case_id: str) -> list[KeptAttempt]:
        return [kept for kept in self.all() if (kept.kind, kept.item_id) == ("case", case_id)]

    def publish(self, lake: Lake) -> None:
        """Bring the lake's table ``attempts`` up to date."""
        self.journal.publish(lake, ATTEMPTS, _row)


def input_hash(task: "Task") -> str:
    """A name for what was asked: the input alone where nothing stands before it, as in every other table."""
    if not task.conversation:
        return text_hash(task.input)
    return text_hash(json.dumps([*map(dict, task.conversation), task.input], ensure_ascii=False, default=str))


def _expected_hash(task: "Task") -> str | None:
    return None if task.expected_output is None else text_hash(task.expected_output)


def _unstamped(kept: KeptAttempt) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(kept).items() if name != "recorded_at"}


def _row(line: bytes, recorded_at: str) -> dict[str, Any]:
    kept = msgspec.json.decode(line, type=KeptAttempt)
    row = {name: getattr(kept, name, None) for name in ATTEMPTS.schema}
    return row | {f"{kept.kind}_id": kept.item_id, "recorded_at": datetime.fromisoformat(recorded_at)}
