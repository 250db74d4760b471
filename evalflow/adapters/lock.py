"""The lock of an exported suite: which cases, as of which day, in which files, each by its hash.

It lies beside the export and goes into version control with it. Whoever gates on the suite can then show that nobody
changed it: the files by themselves, and the ledger behind them where it is at hand.
Keep out: what is exported (``exporters/``) and what follows from a mismatch.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import evalflow
from evalflow.adapters.ledger import CaseVersion, Ledger
from evalflow.errors import BadInputError, UsageError

LOCK_SUFFIX = ".lock.json"
FOLDER_LOCK = "evalflow.lock.json"
_SHOWN_CASES = 10
_NO_CONTENT = ("retired_on", "retired_because")
"""What ends a case is no part of what it says while it counts."""


class Lock(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What was exported. ``files``: by name beside the lock; every hash is ``sha256:`` and 64 hexadecimal digits."""

    format: str
    as_of: date
    n_cases: int
    suite_hash: str
    evalflow_version: str
    files: dict[str, str]
    cases: dict[str, str]


class ReadLock(NamedTuple):
    """A lock and where it lies."""

    path: Path
    lock: Lock


@dataclass(frozen=True)
class LockCheck:
    """What was found; each mismatch is one sentence that names the case or the file and says what to do."""

    path: Path
    lock: Lock
    mismatches: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.mismatches


def check_lock(path: Path, ledger: Ledger | None) -> LockCheck:
    """Hold the files beside a lock against their hashes, and the ledger as of the lock's day where one is given.

    Args:
        path: the lock, or the exported file or folder that it belongs to.
        ledger: None where only the exported files are at hand.

    Raises:
        UsageError: there is no lock.
        BadInputError: it is none, or a file of the ledger was changed.
    """
    found = read_lock(path)
    mismatches = [*_own_mismatches(found.lock), *_file_mismatches(found)]
    if ledger is not None:
        mismatches += _suite_mismatches(found.lock, ledger)
    return LockCheck(found.path, found.lock, tuple(mismatches))


def read_lock(path: Path) -> ReadLock:
    """Read a lock; ``path`` is the lock itself, or the exported file or folder that it belongs to.

    Raises:
        UsageError: there is none.
        BadInputError: the file is no lock.
    """
    place = path if path.name.endswith((LOCK_SUFFIX, FOLDER_LOCK)) else lock_path(path, is_folder=path.is_dir())
    try:
        text = place.read_bytes()
    except OSError as error:
        raise UsageError(
            f"There is no lock {place} ({error.strerror}); `evalflow golden export --out PATH` writes one."
        ) from error
    try:
        return ReadLock(place, msgspec.json.decode(text, type=Lock))
    except msgspec.MsgspecError as error:
        raise BadInputError(f"{place} is no lock of an export ({error}); restore it, or export again.") from error


def lock_path(target: Path, *, is_folder: bool) -> Path:
    """Where the lock of an exported file or folder lies."""
    return target / FOLDER_LOCK if is_folder else target.with_name(target.name + LOCK_SUFFIX)


def lock_text(form: str, as_of: date, cases: Sequence[CaseVersion], files: Mapping[str, str | bytes]) -> str:
    """The lock of an export as its file has it: no clock, one case and one file per line, sorted."""
    hashes = case_hashes(cases)
    lock = Lock(
        format=form,
        as_of=as_of,
        n_cases=len(cases),
        suite_hash=_hash_of(hashes),
        evalflow_version=evalflow.__version__,
        files={name: _sha256(files[name]) for name in sorted(files)},
        cases=hashes,
    )
    return json.dumps(msgspec.to_builtins(lock), ensure_ascii=False, indent=1) + "\n"


def suite_hash(cases: Sequence[CaseVersion]) -> str:
    """One hash over the content of every case, whatever their order.

    Of a case counts everything that a native export says of it but its bin, which follows from the traffic. Fields at
    their default are left out, so that a field that a later evalflow adds does not break a lock.
    Source: docs/formats.md, "Lock".
    """
    return _hash_of(case_hashes(cases))


def case_hashes(cases: Sequence[CaseVersion]) -> dict[str, str]:
    """The hash of each case's content by case_id, sorted."""
    return {case.case_id: _sha256(_canonical(_content(case))) for case in sorted(cases, key=lambda case: case.case_id)}


def _content(case: CaseVersion) -> dict[str, Any]:
    return {name: value for name, value in _told(case).items() if name not in _NO_CONTENT}


def _told(struct: msgspec.Struct) -> dict[str, Any]:
    """The fields that say something, in nested records too: neither null nor at their default."""
    told = {}
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if value is not None and value != field.default and value != []:  # an empty list is the default of any list
            told[field.name] = _told(value) if isinstance(value, msgspec.Struct) else msgspec.to_builtins(value)
    return told


def _hash_of(hashes: Mapping[str, str]) -> str:
    return _sha256(_canonical(hashes))


def _canonical(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _sha256(content: str | bytes) -> str:
    data = content if isinstance(content, bytes) else content.encode()
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _own_mismatches(lock: Lock) -> list[str]:
    if lock.suite_hash == _hash_of(lock.cases) and lock.n_cases == len(lock.cases):
        return []
    return ["The lock was edited: its cases do not have the suite hash that it states; restore it, or export again."]


def _file_mismatches(found: ReadLock) -> list[str]:
    sentences = []
    for name, expected in found.lock.files.items():
        place = found.path.parent / name
        if Path(name).is_absolute() or ".." in Path(name).parts:  # a lock that a stranger wrote opens no other file
            sentences.append(f"The lock names {name}, which lies elsewhere; restore the lock, or export again.")
            continue
        try:
            hashed = _sha256(place.read_bytes())
        except OSError as error:
            sentences.append(
                f"{place}, which the lock names, cannot be read ({error.strerror}); restore it, or export again."
            )
            continue
        if hashed != expected:
            sentences.append(
                f"{place} is not what was exported (its hash is {hashed}, the lock says {expected}); restore it, or "
                "export again: the golden set is changed in the ledger, and one folder holds one export."
            )
    return sentences


def _suite_mismatches(lock: Lock, ledger: Ledger) -> list[str]:
    now = {case.case_id: case for case in ledger.as_of(lock.as_of)}
    hashes = case_hashes(list(now.values()))
    day = lock.as_of
    sentences = []
    for case_id in sorted(lock.cases.keys() | hashes.keys()):
        if case_id not in hashes:
            sentences.append(
                f"Case {case_id!r} is locked and does not count as of {day} in this ledger: it was retired that day, or "
                "this is another ledger; export again, or restore the ledger."
            )
        elif case_id not in lock.cases:
            sentences.append(
                f"Case {case_id!r} counts as of {day} and is not in the lock: it came into the ledger since, with that "
                "day or an earlier one; export again to lock it in."
            )
        elif hashes[case_id] != lock.cases[case_id]:
            sentences.append(
                f"Case {case_id!r} as of {day} is not what was locked (it is version {now[case_id].version} now); "
                "export again, or restore the ledger."
            )
    if len(sentences) > _SHOWN_CASES:
        left = len(sentences) - _SHOWN_CASES
        return [*sentences[:_SHOWN_CASES], f"{left:,} more cases differ between the lock and the ledger as of {day}."]
    return sentences
