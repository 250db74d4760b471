"""The golden ledger: every version of every golden case, append-only, with two dates.

``effective_on`` is the UTC day from which coverage counts a version, ``recorded_at`` when it was written. As of D
means: effective on or before D, newest version of each case, not retired by D. One immutable file per import,
promotion, revision or retirement (``journal.py``), written while the ledger is held: two writers cannot lose each
other's cases, and the same import twice is one. The files are chained: one that is edited or gone is noticed.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from evalflow.adapters.journal import Journal, JournalFile
from evalflow.adapters.lake import Lake
from evalflow.adapters.tables import GOLDEN_LEDGER
from evalflow.core.lineage import fingerprint
from evalflow.core.records import GoldenCase, Provenance, WeightParts
from evalflow.errors import UsageError


class CaseVersion(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=False):
    """One version of a golden case as the ledger holds it. ``retired_on`` set means: this entry retires the case.

    ``is_regression``: frozen from a confirmed failure; the gate lets none of these fail. ``merged_trace_ids``: later
    production traces that asked the same and were merged into the case, as evidence of how much it matters;
    ``n_merged_failures`` of them failed too.
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
    n_merged_failures: int = 0
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
    def test(self) -> tuple[Any, ...]:
        """What is frozen in a regression: what is asked, after which turns, and what is expected."""
        turns = self.metadata.get("conversation") if isinstance(self.metadata, dict) else None
        return (self.input, turns, self.expected_output)

    @property
    def trace_ids(self) -> list[str]:
        """The production traces that the case stands for: the one that it was made from, and those merged into it."""
        return [*([self.provenance.trace_id] if self.provenance else []), *self.merged_trace_ids]


@dataclass(frozen=True)
class LedgerRecord:
    """One version with how it came into the ledger: by what, from where, by whom and why, as far as that was given."""

    version: CaseVersion
    recorded_at: str
    file: str
    kind: str
    source: str
    by: str | None
    because: str | None


@dataclass(frozen=True)
class Recorded:
    """What an append did.

    ``retired`` names the cases that stay retired though an import holds them changed, ``frozen`` the regressions that
    stay as they are though an import asks or expects something else of them.
    """

    path: Path | None
    added: list[CaseVersion]
    unchanged: int
    retired: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()


class Ledger:
    """The folder ``ledger/`` of a home."""

    def __init__(self, root: Path) -> None:
        self.journal = Journal(root, "ledger", is_chained=True)

    def held(self) -> AbstractContextManager[None]:
        """Hold the ledger alone, from reading the newest versions to recording those that follow from them."""
        return self.journal.exclusive()

    def record(
        self,
        kind: str,
        versions: list[CaseVersion],
        source: str,
        recorded_at: datetime,
        *,
        because: str | None = None,
        by: str | None = None,
    ) -> Path | None:
        """Append versions as one file. The caller holds the ledger."""
        lines = [msgspec.json.encode(version) for version in versions]
        return self.journal.append(kind, lines, source, recorded_at, because=because, by=by)

    def import_cases(self, cases: Iterable[GoldenCase], source: str, recorded_at: datetime) -> Recorded:
        """Append the cases that are new or changed as one file.

        A new case is effective on its ``created_at`` day (or the day of recording when it has none); a changed one
        from the day of recording, so that what past weeks counted stays what it was. A regression stays one and keeps
        its test, an expected answer that the file lacks is kept, and a retired case stays retired, whatever the file
        says of it.
        """
        with self.held():
            newest = self.newest()
            today = recorded_at.date().isoformat()
            added: list[CaseVersion] = []
            retired: dict[str, None] = {}
            frozen: dict[str, None] = {}
            unchanged = 0
            for case in cases:
                old = newest.get(case.case_id)
                version = _imported(case, old, today)
                is_same = old is not None and old.content == version.content
                is_frozen = old is not None and old.is_regression and old.test != version.test
                if old and (is_same or old.retired_on or is_frozen):  # a nightly import revives and thaws nothing
                    unchanged += 1
                    if not is_same:
                        (retired if old.retired_on else frozen)[case.case_id] = None
                    continue
                newest[case.case_id] = version
                added.append(version)
            path = self.record("import", added, source, recorded_at)
            return Recorded(path, added, unchanged, tuple(retired), tuple(frozen))

    def revise(
        self,
        case_id: str,
        changes: dict[str, str],
        because: str,
        source: str,
        recorded_at: datetime,
        by: str | None = None,
    ) -> Recorded:
        """Append the next version of one case, frozen ones too; it counts from the day of recording.

        Args:
            case_id: the case.
            changes: ``input``, ``expected_output`` or both; what is said already changes nothing.
            because: why, kept with the version.
            source: what it was recorded by.
            recorded_at: when.
            by: who.

        Raises:
            UsageError: the case is unknown or retired.
        """
        with self.held():
            newest = self.newest()
            old = newest.get(case_id)
            if old is None:
                raise _unknown(case_id)
            if old.retired_on is not None:
                raise UsageError(
                    f"The case {case_id!r} is retired since {old.retired_on}; what is to count again needs a new case_id."
                )
            version = msgspec.structs.replace(
                old,
                **changes,
                version=old.version + 1,
                effective_on=max(old.effective_on, recorded_at.date().isoformat()),
            )
            if version.content == old.content:
                return Recorded(None, [], 1)
            path = self.record("revision", [version], source, recorded_at, because=because, by=by)
            return Recorded(path, [version], 0)

    def retire(
        self, case_ids: Iterable[str], because: str, source: str, recorded_at: datetime, by: str | None = None
    ) -> Recorded:
        """Append a retirement of each case that is in the suite; from the day of recording it counts no more.

        Raises:
            UsageError: a case is unknown, so that none is retired.
        """
        with self.held():
            newest = self.newest()
            chosen = sorted(set(case_ids))
            unknown = [case_id for case_id in chosen if case_id not in newest]
            if unknown:
                raise _unknown(unknown[0])
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
            path = self.record("retirement", added, source, recorded_at, because=because, by=by)
            return Recorded(path, added, len(chosen) - len(added))

    def accept_loss(self, lake: Lake, names: list[str], because: str, by: str | None, recorded_at: datetime) -> None:
        """Declare files lost for good, so that the others can be read again. The caller holds the ledger."""
        self.journal.accept_loss(names, because, by, "evalflow golden verify", recorded_at)
        for name in set(names) & set(lake.keys(GOLDEN_LEDGER)):  # killed before this, the next publication does it
            lake.write(GOLDEN_LEDGER, name, pl.DataFrame(schema=GOLDEN_LEDGER.schema))

    def records(self) -> list[LedgerRecord]:
        """Every version in the order of recording, with how it came here.

        Raises:
            BadInputError: a file was changed after it was written, or is gone.
        """
        return records_of(self.journal.files())

    def entries(self) -> list[tuple[str, CaseVersion]]:
        """Every (recorded_at, version) in the order of recording.

        Raises:
            BadInputError: a file was changed after it was written, or is gone.
        """
        return [(record.recorded_at, record.version) for record in self.records()]

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


def records_of(files: Iterable[JournalFile]) -> list[LedgerRecord]:
    """The versions that the files hold, in the order of recording."""
    decoder = msgspec.json.Decoder(CaseVersion)
    found = [
        LedgerRecord(decoder.decode(line), file.recorded_at, file.name, file.kind, file.source, file.by, file.because)
        for file in files
        for line in file.lines
    ]
    return sorted(found, key=lambda r: (r.recorded_at, r.version.version, r.file, r.version.case_id))


def _unknown(case_id: str) -> UsageError:
    return UsageError(f"There is no case {case_id!r} in the golden set; `evalflow golden list` shows what is there.")


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
        # A case that is announced for a later day does not come earlier by being changed.
        effective_on=max(old.effective_on, today) if old else created_at[:10] if created_at else today,
        tags=case.tags,
        metadata=case.metadata,
        is_regression=bool(case.is_regression) or bool(old and old.is_regression),
        weight=old.weight if old else 1.0 if case.weight is None else case.weight,
        weight_parts=old.weight_parts if old else case.weight_parts,
        provenance=old.provenance if old else case.provenance,
        merged_trace_ids=old.merged_trace_ids if old else case.merged_trace_ids,
        n_merged_failures=old.n_merged_failures if old else case.n_merged_failures,
        is_random_draw=bool(case.is_random_draw),
    )


_FROM_PROVENANCE = (
    *("trace_id", "session_id", "queued_for", "verdict", "severity", "reviewers", "reviewer_kind", "queue"),
    *("inclusion_probability", "label_probability", "expected_from", "policy"),
)


def _row(line: bytes, recorded_at: str) -> dict[str, Any]:
    version = msgspec.json.decode(line, type=CaseVersion)
    known, parts = version.provenance, version.weight_parts
    row = {name: getattr(version, name, None) for name in GOLDEN_LEDGER.schema}
    tried = known.reproduction if known else None
    for name in _FROM_PROVENANCE:
        row[name] = getattr(known, name, None)
    return row | {
        "reproduced_attempts": tried.attempts if tried else None,
        "reproduced_failed": tried.failed if tried else None,
        "reproduced_unscored": tried.unscored if tried else None,
        "reproduced_system": tried.system if tried else None,
        "reproduced_version": tried.system_version if tried else None,
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
