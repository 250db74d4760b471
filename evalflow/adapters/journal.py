"""An append-only folder of immutable JSONL files: the storage of golden ledger, reviews and suite runs.

Each file is written whole, created exclusively and named by its content; its first line is a header that signs the
rest. Nothing is ever overwritten, and a file that was changed by hand is noticed when it is read.

A chained journal notices files that are gone, too: each header names the files that it follows, and the file ``HEAD``
those that nothing follows. A kill between the two leaves ``HEAD`` one file behind, which the next append mends.
Files from before there was a chain are named by the first one of it. Lines of ``HEAD`` that name no file, such as the
marks that git leaves in a conflict, are passed over: both sides' files then count.
Keep out: what the lines mean.
"""

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from evalflow.adapters.lake import Lake
from evalflow.adapters.tables import Table
from evalflow.errors import BadInputError

HEAD = "HEAD"
_NAME = re.compile(r"[a-z_]+-(?:[0-9a-f]{8}-)?[0-9a-f]{32}")


@dataclass(frozen=True)
class JournalFile:
    """One file: its name without ending, its lines without the header, and what the header says.

    ``because`` and ``by``: the reason and the person that were given with it. ``follows``: the files that were there
    before it and that no other one followed; None in a file of an unchained journal. ``lost``: files that it declares
    lost for good.
    """

    name: str
    recorded_at: str
    lines: list[bytes]
    kind: str = ""
    source: str = ""
    because: str | None = None
    by: str | None = None
    follows: tuple[str, ...] | None = None
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """Every file that can be read, a sentence for each that was changed, and the names of those that are gone."""

    files: list[JournalFile]
    changed: list[str]
    gone: dict[str, str]
    """By name, with what says that the file was there."""


class Journal:
    """One folder of a home. ``holds`` names what is in it, for error messages."""

    def __init__(self, root: Path, holds: str, *, is_chained: bool = False) -> None:
        self.root = root
        self.holds = holds
        self.is_chained = is_chained

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the folder alone while reading what is there and appending to it."""
        with locked(self.root.with_suffix(".lock")):
            yield

    def append(
        self,
        kind: str,
        lines: Sequence[bytes],
        source: str,
        recorded_at: datetime,
        *,
        because: str | None = None,
        by: str | None = None,
    ) -> Path | None:
        """Write the lines as one new file; None when there are none. The same lines again are the same file."""
        if not lines:
            self._mend_head()
            return None
        return self._write(
            kind,
            {"kind": kind, "source": source, "recorded_at": recorded_at.isoformat(), "because": because, "by": by},
            lines,
        )

    def accept_loss(
        self, names: Collection[str], because: str, by: str | None, source: str, recorded_at: datetime
    ) -> Path:
        """Record that these files are lost for good, so that what is left can be read again."""
        lost = sorted(names)
        return self._write(
            f"loss-{_digest([name.encode() for name in lost])[:8]}",
            {
                "kind": "loss",
                "source": source,
                "recorded_at": recorded_at.isoformat(),
                "because": because,
                "by": by,
                "lost": lost,
            },
            [],
        )

    def _write(self, kind: str, header: dict[str, Any], lines: Sequence[bytes]) -> Path:
        header = {key: value for key, value in header.items() if value is not None}
        name = f"{kind}-{_digest(lines)}"  # by the lines alone: the same append a second later finds its file there
        if self.is_chained:
            header["follows"], lost = self._ends()
            if name in lost:  # a name that was declared lost would be missed by nobody
                name = f"{kind}-{_digest([end.encode() for end in header['follows']])[:8]}-{_digest(lines)}"
        header["sha256_128"] = _digest([_unsigned(header), *lines])
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / f"{name}.jsonl"
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
        self._mend_head()
        return path

    def names(self) -> list[str]:
        """The files' names without ending, sorted; their content is not read."""
        return sorted(path.stem for path in self.root.glob("*.jsonl"))

    def holding(self, lines: Sequence[bytes]) -> list[str]:
        """The names of the files that hold exactly these lines."""
        return [name for name in self.names() if name.endswith(_digest(lines))]

    def files(self, names: Collection[str] | None = None) -> list[JournalFile]:
        """Every file, or those named, in the order of its name.

        Raises:
            BadInputError: a file's content no longer has the hash that its header states, or a file is gone.
        """
        found = self.inspect(names)
        for sentence in found.changed:
            raise BadInputError(sentence)
        for name, witness in found.gone.items():
            raise BadInputError(self.gone_sentence(name, witness))
        return found.files

    def inspect(self, names: Collection[str] | None = None) -> Inspection:
        """The same without an error: everything that can be read, and everything that is wrong.

        Of files by name only these are looked at, and not whether others are gone.
        """
        head = self._head()  # before the files: a writer links its file first and writes the head then
        files: list[JournalFile] = []
        changed: list[str] = []
        for path in sorted(self.root.glob("*.jsonl")):
            if names is not None and path.stem not in names:
                continue
            first, *lines = path.read_bytes().rstrip(b"\n").split(b"\n")
            header = _header_of(first)
            is_named_so = path.stem.endswith(_digest(lines))
            if not is_named_so or _digest([_unsigned(header), *lines]) != header.get("sha256_128"):
                changed.append(
                    f"The {self.holds} file {path} was changed after it was written (its hash is not "
                    f"{header.get('sha256_128')}); restore it from a backup: what it says is changed by appending anew."
                )
                continue
            files.append(_file(path.stem, header, lines))
        gone = {} if names is not None else self._gone(files, head)
        there = set(self.names()) if gone else set()
        if there - {file.name for file in files} and not changed:
            return self.inspect()  # a writer was faster than the listing of the folder
        return Inspection(files, changed, {name: gone[name] for name in gone if name not in there})

    def gone_sentence(self, name: str, witness: str) -> str:
        return (
            f"The {self.holds} file {self._path(name)} is gone ({witness} names it); restore it from a backup. "
            "`evalflow golden verify` shows all that is wrong, and how to go on where there is no backup."
        )

    def _gone(self, files: Sequence[JournalFile], head: Collection[str]) -> dict[str, str]:
        there = {file.name for file in files} | {name for file in files for name in file.lost}
        named = {name: f"{file.name}.jsonl" for file in files for name in file.follows or ()}
        named |= dict.fromkeys(head, HEAD)
        return {name: named[name] for name in sorted(named) if name not in there}

    def _ends(self) -> tuple[list[str], set[str]]:
        """The files that no other one follows, sorted; and those that are declared lost."""
        names = self.names()
        followed: set[str] = set()
        lost: set[str] = set()
        for name in names:
            with self._path(name).open("rb") as file:
                header = _header_of(file.readline())
            followed |= set(header.get("follows", ()))
            lost |= set(header.get("lost", ()))
        return [name for name in names if name not in followed], lost

    def _head(self) -> list[str]:
        path = self.root / HEAD
        try:
            words = path.read_text(encoding="utf-8", errors="replace").split() if self.is_chained else []
        except FileNotFoundError:
            return []
        return [word for word in words if _NAME.fullmatch(word)]

    def _mend_head(self) -> None:
        """Let ``HEAD`` name the files that nothing follows; one that it names and that is gone stays named."""
        if not self.is_chained or not self.root.exists():
            return
        before = self._head()
        ends, lost = self._ends()
        gone = {name for name in before if name not in lost and not self._path(name).exists()}
        after = sorted({*ends, *gone})
        if after == before:
            return
        _sync(self.root)  # after a power cut HEAD must not name a file whose own entry was lost
        temporary = self.root / f".{secrets.token_hex(8)}.tmp"
        temporary.write_text("".join(f"{name}\n" for name in after), encoding="utf-8")
        temporary.replace(self.root / HEAD)

    def _path(self, name: str) -> Path:
        return self.root / f"{name}.jsonl"

    def publish(self, lake: Lake, table: Table, row_of: Callable[[bytes, str], dict[str, Any]]) -> None:
        """Give every file its partition in the lake, where SQL reads it; files are immutable, so once is enough.

        Of the files that were declared lost the lake holds nothing, until a backup brings one back.
        """
        present = set(lake.keys(table))
        files = self.files()
        held = {name: _height(lake, table, name) for file in files for name in file.lost if name in present}
        for file in files:
            if file.name not in present or held.get(file.name, len(file.lines)) != len(file.lines):
                rows = [row_of(line, file.recorded_at) for line in file.lines]
                lake.write(table, file.name, pl.DataFrame(rows, schema=table.schema))
        for name in sorted(held.keys() - {file.name for file in files}):
            if held[name]:
                lake.write(table, name, pl.DataFrame(schema=table.schema))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file of the home alone, waiting for it if need be; a process that is killed lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _height(lake: Lake, table: Table, name: str) -> int:
    return len(lake.read(table, [name], list(table.schema)[:1]))


def _file(name: str, header: dict[str, Any], lines: list[bytes]) -> JournalFile:
    follows = header.get("follows")
    return JournalFile(
        name=name,
        recorded_at=header["recorded_at"],
        lines=lines,
        kind=header["kind"],
        source=header["source"],
        because=header.get("because"),
        by=header.get("by"),
        follows=None if follows is None else tuple(follows),
        lost=tuple(header.get("lost", ())),
    )


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _header_of(line: bytes) -> dict[str, Any]:
    """A file's first line; empty when it is none, so that a cut or garbled file fails the check of its hash."""
    try:
        header = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return {}
    return header if isinstance(header, dict) else {}


def _digest(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:32]


def _unsigned(header: dict[str, Any]) -> bytes:
    """The header without its own signature, as it is signed."""
    return msgspec.json.encode({key: value for key, value in header.items() if key != "sha256_128"}, order="sorted")
