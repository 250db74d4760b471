"""The golden ledger: every version of every golden case, append-only, with two dates.

``effective_on`` is the UTC day from which coverage counts a version, ``recorded_at`` when it was written. As of D
means: effective on or before D, newest version of each case, not retired by D. One immutable file per import or
promotion, created exclusively and named by its content: two writers cannot lose each other's cases, and the same
import twice is one.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec

from evalflow.core.lineage import fingerprint
from evalflow.core.records import GoldenCase
from evalflow.errors import BadInputError


class CaseVersion(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=False):
    """One version of a golden case as the ledger holds it. ``retired_on`` set means: this entry retires the case."""

    case_id: str
    version: int
    input: str
    expected_output: str | None
    origin: str
    created_at: str | None
    effective_on: str
    tags: Any = None
    metadata: Any = None
    weight: float = 1.0
    retired_on: str | None = None
    retired_because: str | None = None

    @property
    def content(self) -> tuple[Any, ...]:
        """What makes it a different version: everything that a reader of the case sees."""
        return (self.input, self.expected_output, self.origin, self.created_at, self.tags, self.metadata)


@dataclass(frozen=True)
class Recorded:
    """What an append did."""

    path: Path | None
    added: list[CaseVersion]
    unchanged: int


class Ledger:
    """The folder ``ledger/`` of a home."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def import_cases(self, cases: Iterable[GoldenCase], source: str, recorded_at: datetime) -> Recorded:
        """Append the cases that are new or changed as one file.

        A new case is effective on its ``created_at`` day (or the day of recording when it has none); a changed one
        from the day of recording, so that what past weeks counted stays what it was.
        """
        newest = self._newest()
        today = recorded_at.date().isoformat()
        added: list[CaseVersion] = []
        unchanged = 0
        for case in cases:
            old = newest.get(case.case_id)
            created_at = None if case.created_at is None else case.created_at.isoformat()
            version = CaseVersion(
                case_id=case.case_id,
                version=old.version + 1 if old else 1,
                input=case.input,
                expected_output=case.expected_output,
                origin=case.origin,
                created_at=created_at,
                effective_on=created_at[:10] if created_at and not old else today,
                tags=case.tags,
                metadata=case.metadata,
            )
            if old and old.content == version.content:  # also when retired: a nightly import revives nothing
                unchanged += 1
                continue
            newest[case.case_id] = version
            added.append(version)
        return Recorded(self._append("import", added, source, recorded_at), added, unchanged)

    def _append(self, kind: str, versions: list[CaseVersion], source: str, recorded_at: datetime) -> Path | None:
        if not versions:
            return None
        lines = [msgspec.json.encode(version) for version in versions]
        header: dict[str, str] = {"kind": kind, "source": source, "recorded_at": recorded_at.isoformat()}
        header["sha256_128"] = _digest([_unsigned(header), *lines])
        self.root.mkdir(parents=True, exist_ok=True)
        # Named by the cases alone: the same import a second later finds its file there.
        path = self.root / f"{kind}-{_digest(lines)}.jsonl"
        temporary = self.root / f".{secrets.token_hex(8)}.tmp"
        try:
            with temporary.open("xb") as file:
                file.write(b"\n".join([msgspec.json.encode(header), *lines, b""]))
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # fails when the file exists: nobody's entry is ever overwritten
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def entries(self) -> list[tuple[str, CaseVersion]]:
        """Every (recorded_at, version) in the order of recording.

        Raises:
            BadInputError: a file's content no longer has the hash that its header states.
        """
        found: list[tuple[str, str, CaseVersion]] = []
        for path in sorted(self.root.glob("*.jsonl")):
            head, *lines = path.read_bytes().rstrip(b"\n").split(b"\n")
            header = _header_of(head)
            is_named_so = path.stem.endswith(_digest(lines))
            if not is_named_so or _digest([_unsigned(header), *lines]) != header.get("sha256_128"):
                raise BadInputError(
                    f"The ledger file {path} was changed after it was written (its hash is not {header.get('sha256_128')}); "
                    "restore it from a backup, and change a case by importing a new version instead."
                )
            decoder = msgspec.json.Decoder(CaseVersion)
            found += [(header["recorded_at"], path.name, decoder.decode(line)) for line in lines]
        found.sort(key=lambda entry: (entry[0], entry[2].version, entry[1], entry[2].case_id))
        return [(recorded_at, version) for recorded_at, _, version in found]

    def as_of(self, day: date) -> list[CaseVersion]:
        """The suite as it counted on ``day``, sorted by case_id."""
        text = day.isoformat()
        newest: dict[str, CaseVersion] = {}
        for _, version in self.entries():
            held = newest.get(version.case_id)
            if version.effective_on <= text and (held is None or version.version >= held.version):
                newest[version.case_id] = version
        return [
            newest[case_id]
            for case_id in sorted(newest)
            if newest[case_id].retired_on is None or str(newest[case_id].retired_on) > text
        ]

    def fingerprint_as_of(self, day: date) -> str:
        return fingerprint([(v.case_id, v.version, v.input, v.weight, v.effective_on) for v in self.as_of(day)])

    def _newest(self) -> dict[str, CaseVersion]:
        newest: dict[str, CaseVersion] = {}
        for _, version in self.entries():
            held = newest.get(version.case_id)
            if held is None or version.version >= held.version:
                newest[version.case_id] = version
        return newest


def _header_of(line: bytes) -> dict[str, Any]:
    """A file's first line; empty when it is none, so that a cut or garbled file fails the check of its hash."""
    try:
        header = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return {}
    return header if isinstance(header, dict) else {}


def _digest(lines: list[bytes]) -> str:
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:32]


def _unsigned(header: dict[str, str]) -> bytes:
    """The header without its own signature, as it is signed."""
    return msgspec.json.encode({key: value for key, value in header.items() if key != "sha256_128"}, order="sorted")
