"""Runs of the suite, as teams report them: append-only, one file per run, the same results for the same day once.

A file's name says when the run was and in which order runs were recorded, so that the newest up to a day is found
without reading any. Keep out: what a run is worth (``core/score.py``).
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from evalflow.adapters.journal import Journal
from evalflow.adapters.lake import Lake
from evalflow.adapters.tables import SUITE_RUNS
from evalflow.core.attempts import Attempts
from evalflow.errors import BadInputError

SuiteVerdict = Literal["pass", "fail", "unscored"]
_VERDICTS: dict[bool | None, SuiteVerdict] = {True: "pass", False: "fail", None: "unscored"}
_OUTCOMES = {verdict: outcome for outcome, verdict in _VERDICTS.items()}
_KIND = "run"
_NAME = re.compile(rf"{_KIND}-(\d{{4}}-\d\d-\d\d)-(\d{{6,}})-[0-9a-f]{{32}}")


class RunKey(NamedTuple):
    """A run by what its file's name says; in order of time, then of recording. ``run_id`` changes with every result."""

    ran_on: date
    number: int
    run_id: str


@dataclass(frozen=True)
class SuiteRun:
    """One run: its key, what the team calls the candidate, and how often each case passed, failed or went unscored."""

    key: RunKey
    name: str | None
    attempts: dict[str, Attempts]

    @property
    def outcomes(self) -> dict[str, bool | None]:
        """Pass, fail or unscored (None) by case: of several attempts the majority, a tie fails."""
        return {case_id: tried.outcome for case_id, tried in self.attempts.items()}


class RunAdded(NamedTuple):
    """Where a run is kept, whether it was not there before, and the run that counts on its day."""

    key: RunKey
    is_new: bool
    standing: RunKey


class _Line(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """``attempts`` is written only where there are several: a run of one attempt each reads as it always has."""

    ran_on: str
    name: str | None
    case_id: str
    verdict: SuiteVerdict
    attempts: list[SuiteVerdict] | None = None


class SuiteRuns:
    """The folder ``suite_runs/`` of a home."""

    def __init__(self, root: Path) -> None:
        self.journal = Journal(root, "suite runs")

    def add(
        self, attempts: Mapping[str, Attempts], ran_on: date, name: str | None, source: str, recorded_at: datetime
    ) -> RunAdded:
        """Append one run; the same results of the same day under the same name add nothing."""
        lines = [
            msgspec.json.encode(
                _Line(
                    ran_on=str(ran_on),
                    name=name,
                    case_id=case_id,
                    verdict=_VERDICTS[attempts[case_id].outcome],
                    attempts=_several(attempts[case_id]),
                )
            )
            for case_id in sorted(attempts)
        ]
        with self.journal.exclusive():
            for held in self.journal.holding(lines):
                return RunAdded(_key_of(held), False, max(key for key in self.keys() if key.ran_on == ran_on))
            # Numbered, because of two runs on a day the one recorded later counts, and a closed home's clock stands still.
            number = max((key.number for key in self.keys()), default=0) + 1
            path = self.journal.append(f"{_KIND}-{ran_on}-{number:06d}", lines, source, recorded_at)
            if path is None:
                raise ValueError("a run without results is none")
            key = _key_of(path.stem)
            return RunAdded(key, True, key)

    def keys(self) -> list[RunKey]:
        """Every run in order of time, then of recording; no file is read."""
        return sorted(_key_of(name) for name in self.journal.names())

    def up_to(self, day: date) -> list[RunKey]:
        """The runs of that day and before, in order; later ones do not exist for it."""
        return [key for key in self.keys() if key.ran_on <= day]

    def read(self, key: RunKey) -> SuiteRun:
        """One run with its results.

        Raises:
            BadInputError: its file was changed after it was written.
        """
        (file,) = self.journal.files({key.run_id})
        lines = [msgspec.json.decode(line, type=_Line) for line in file.lines]
        attempts = {
            line.case_id: Attempts(tuple(_OUTCOMES[verdict] for verdict in line.attempts or [line.verdict]))
            for line in lines
        }
        return SuiteRun(key, lines[0].name, attempts)

    def publish(self, lake: Lake) -> None:
        """Bring the lake's table ``suite_runs`` up to date."""
        self.journal.publish(lake, SUITE_RUNS, _row)


def _several(tried: Attempts) -> list[SuiteVerdict] | None:
    return [_VERDICTS[passed] for passed in tried.outcomes] if tried.n_attempts > 1 else None


def _key_of(name: str) -> RunKey:
    with suppress(ValueError):  # a day that no calendar has
        if found := _NAME.fullmatch(name):
            return RunKey(date.fromisoformat(found[1]), int(found[2]), name)
    raise BadInputError(f"The suite runs hold a file {name}.jsonl that evalflow did not write; move it elsewhere.")


def _row(line: bytes, recorded_at: str) -> dict[str, Any]:
    found = msgspec.json.decode(line, type=_Line)
    return {
        "ran_on": date.fromisoformat(found.ran_on),
        "name": found.name,
        "case_id": found.case_id,
        "verdict": found.verdict,
        "recorded_at": datetime.fromisoformat(recorded_at),
    }
