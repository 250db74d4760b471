"""The golden ledger: every version of every golden case, append-only, with two dates.

``effective_on`` is the UTC day from which coverage counts a version, ``recorded_at`` when it was written. As of D
means: effective on or before D, newest version of each case, not retired by D. One immutable file per import,
promotion or retirement (``journal.py``), written while the ledger is held: two writers cannot lose each other's
cases, and the same import twice is one.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec

from evalflow.adapters.journal import Journal
from evalflow.adapters.lake import Lake
from evalflow.adapters.tables import GOLDEN_LEDGER
from evalflow.core.lineage import fingerprint
from evalflow.core.records import GoldenCase, Provenance, WeightParts
from evalflow.errors import UsageError


class CaseVersion(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=False):
    """One version of a golden case as the ledger holds it. ``retired_on`` set means: this entry retires the case.

    ``is_regression``: frozen from a confirmed failure; the gate lets none of these fail. ``merged_trace_ids``: later
    production traces that asked the same and were merged into the case, as evidence of how much it matters.
    ``is_random_draw``: drawn from traffic at random, so that the suite says something of what it was drawn from.
    """

    case_id: str
    version: int
    input: str
    expected_output: str | None
    origin: str
    created_at: str | None
    effective_on: str
    tags: Any = None
    metadata: Any = None
    is_regression: bool = False
    weight: float = 1.0
    weight_parts: WeightParts | None = None
    provenance: Provenance | None = None
    merged_trace_ids: list[str] = []
    is_random_draw: bool = False
    retired_on: str | None = None
    retired_because: str | None = None

    @property
    def content(self) -> tuple[Any, ...]:
        """What makes it a different version: everything that a reader of the case sees."""
        return (
            self.input,
            self.expected_output,
            self.origin,
            self.created_at,
            self.tags,
            self.metadata,
            self.is_regression,
            self.is_random_draw,
        )

    @property
    def trace_ids(self) -> list[str]:
        """The production traces that the case stands for: the one that it was made from, and those merged into it."""
        return [*([self.provenance.trace_id] if self.provenance else []), *self.merged_trace_ids]


@dataclass(frozen=True)
class Recorded:
    """What an append did; ``retired`` names the cases that stay retired though an import holds them changed."""

    path: Path | None
    added: list[CaseVersion]
    unchanged: int
    retired: tuple[str, ...] = ()


class Ledger:
    """The folder ``ledger/`` of a home."""

    def __init__(self, root: Path) -> None:
        self.journal = Journal(root, "ledger")

    def held(self) -> AbstractContextManager[None]:
        """Hold the ledger alone, from reading the newest versions to recording those that follow from them."""
        return self.journal.exclusive()

    def record(self, kind: str, versions: list[CaseVersion], source: str, recorded_at: datetime) -> Path | None:
        """Append versions as one file. The caller holds the ledger."""
        return self.journal.append(kind, [msgspec.json.encode(version) for version in versions], source, recorded_at)

    def import_cases(self, cases: Iterable[GoldenCase], source: str, recorded_at: datetime) -> Recorded:
        """Append the cases that are new or changed as one file.

        A new case is effective on its ``created_at`` day (or the day of recording when it has none); a changed one
        from the day of recording, so that what past weeks counted stays what it was. A regression stays one, an
        expected answer that the file lacks is kept, and a retired case stays retired, whatever the file says of it.
        """
        with self.held():
            newest = self.newest()
            today = recorded_at.date().isoformat()
            added: list[CaseVersion] = []
            retired: dict[str, None] = {}
            unchanged = 0
            for case in cases:
                old = newest.get(case.case_id)
                version = _imported(case, old, today)
                is_same = old is not None and old.content == version.content
                if is_same or (old and old.retired_on):  # a nightly import revives nothing
                    unchanged += 1
                    if not is_same:
                        retired[case.case_id] = None
                    continue
                newest[case.case_id] = version
                added.append(version)
            return Recorded(self.record("import", added, source, recorded_at), added, unchanged, tuple(retired))

    def retire(self, case_ids: Iterable[str], because: str, source: str, recorded_at: datetime) -> Recorded:
        """Append a retirement of each case that is in the suite; from the day of recording it counts no more.

        Raises:
            UsageError: a case is unknown, so that none is retired.
        """
        with self.held():
            newest = self.newest()
            chosen = sorted(set(case_ids))
            unknown = [case_id for case_id in chosen if case_id not in newest]
            if unknown:
                raise UsageError(
                    f"There is no case {unknown[0]!r} in the golden set; `evalflow golden list` shows what is there."
                )
            today = recorded_at.date().isoformat()
            added = [
                msgspec.structs.replace(
                    newest[case_id],
                    version=newest[case_id].version + 1,
                    effective_on=today,
                    retired_on=today,
                    retired_because=because,
                )
                for case_id in chosen
                if newest[case_id].retired_on is None
            ]
            return Recorded(self.record("retirement", added, source, recorded_at), added, len(chosen) - len(added))

    def entries(self) -> list[tuple[str, CaseVersion]]:
        """Every (recorded_at, version) in the order of recording.

        Raises:
            BadInputError: a file was changed after it was written.
        """
        decoder = msgspec.json.Decoder(CaseVersion)
        found = [
            (file.recorded_at, file.name, decoder.decode(line)) for file in self.journal.files() for line in file.lines
        ]
        found.sort(key=lambda entry: (entry[0], entry[2].version, entry[1], entry[2].case_id))
        return [(recorded_at, version) for recorded_at, _, version in found]

    def as_of(self, day: date) -> list[CaseVersion]:
        """The suite as it counted on ``day``, sorted by case_id."""
        text = day.isoformat()
        newest = _newest_of(version for _, version in self.entries() if version.effective_on <= text)
        return [
            newest[case_id]
            for case_id in sorted(newest)
            if newest[case_id].retired_on is None or str(newest[case_id].retired_on) > text
        ]

    def fingerprint_as_of(self, day: date) -> str:
        return fingerprint(
            [
                (v.case_id, v.version, v.input, v.weight, v.effective_on, v.origin, v.is_random_draw)
                for v in self.as_of(day)
            ]
        )

    def newest(self) -> dict[str, CaseVersion]:
        """The newest version of every case ever recorded, retired ones too, by case_id."""
        return _newest_of(version for _, version in self.entries())

    def publish(self, lake: Lake) -> None:
        """Bring the lake's table ``golden_ledger`` up to date."""
        self.journal.publish(lake, GOLDEN_LEDGER, _row)


def _newest_of(versions: Iterable[CaseVersion]) -> dict[str, CaseVersion]:
    newest: dict[str, CaseVersion] = {}
    for version in versions:
        held = newest.get(version.case_id)
        if held is None or version.version >= held.version:
            newest[version.case_id] = version
    return newest


def _imported(case: GoldenCase, old: CaseVersion | None, today: str) -> CaseVersion:
    """The next version of the case; a file that does not know what promotion has added takes nothing of it away."""
    created_at = None if case.created_at is None else case.created_at.isoformat()
    return CaseVersion(
        case_id=case.case_id,
        version=old.version + 1 if old else 1,
        input=case.input,
        expected_output=old.expected_output if old and not case.expected_output else case.expected_output,
        origin=case.origin,
        created_at=created_at,
        effective_on=created_at[:10] if created_at and not old else today,
        tags=case.tags,
        metadata=case.metadata,
        is_regression=bool(case.is_regression) or bool(old and old.is_regression),
        weight=old.weight if old else 1.0 if case.weight is None else case.weight,
        weight_parts=old.weight_parts if old else case.weight_parts,
        provenance=old.provenance if old else case.provenance,
        merged_trace_ids=old.merged_trace_ids if old else case.merged_trace_ids,
        is_random_draw=bool(case.is_random_draw),
    )


def _row(line: bytes, recorded_at: str) -> dict[str, Any]:
    version = msgspec.json.decode(line, type=CaseVersion)
    known, parts = version.provenance, version.weight_parts
    row = {name: getattr(version, name, None) for name in GOLDEN_LEDGER.schema}
    for name in ("trace_id", "session_id", "queued_for", "verdict", "severity", "reviewers", "reviewer_kind"):
        row[name] = getattr(known, name, None)
    return row | {
        "created_at": _time(version.created_at),
        "effective_on": date.fromisoformat(version.effective_on),
        "recorded_at": _time(recorded_at),
        "weight_novelty": parts.novelty.value if parts else None,
        "weight_severity": parts.severity.value if parts else None,
        "weight_difficulty": parts.difficulty.value if parts else None,
        "occurred_at": known.occurred_at if known else None,
        "queued_on": known.queued_on if known else None,
        "reviewed_at": known.reviewed_at if known else None,
        "retired_on": date.fromisoformat(version.retired_on) if version.retired_on else None,
    }


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
