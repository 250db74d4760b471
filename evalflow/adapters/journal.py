"""An append-only folder of immutable JSONL files: the storage of golden ledger, reviews and suite runs.

Each file is written whole, created exclusively and named by its content; its first line is a header that signs the
rest. Nothing is ever overwritten, and a file that was changed by hand is noticed when it is read.
Keep out: what the lines mean.
"""

import fcntl
import hashlib
import os
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


@dataclass(frozen=True)
class JournalFile:
    """One file: its name without ending, when it was recorded, and its lines without the header."""

    name: str
    recorded_at: str
    lines: list[bytes]


class Journal:
    """One folder of a home. ``holds`` names what is in it, for error messages."""

    def __init__(self, root: Path, holds: str) -> None:
        self.root = root
        self.holds = holds

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the folder alone while reading what is there and appending to it."""
        with locked(self.root.with_suffix(".lock")):
            yield

    def append(self, kind: str, lines: Sequence[bytes], source: str, recorded_at: datetime) -> Path | None:
        """Write the lines as one new file; None when there are none. The same lines again are the same file."""
        if not lines:
            return None
        header: dict[str, str] = {"kind": kind, "source": source, "recorded_at": recorded_at.isoformat()}
        header["sha256_128"] = _digest([_unsigned(header), *lines])
        self.root.mkdir(parents=True, exist_ok=True)
        # Named by the lines alone: the same append a second later finds its file there.
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

    def names(self) -> list[str]:
        """The files' names without ending, sorted; their content is not read."""
        return sorted(path.stem for path in self.root.glob("*.jsonl"))

    def holding(self, lines: Sequence[bytes]) -> list[str]:
        """The names of the files that hold exactly these lines."""
        return [name for name in self.names() if name.endswith(_digest(lines))]

    def files(self, names: Collection[str] | None = None) -> list[JournalFile]:
        """Every file, or those named, in the order of its name.

        Raises:
            BadInputError: a file's content no longer has the hash that its header states.
        """
        found = []
        for path in sorted(self.root.glob("*.jsonl")):
            if names is not None and path.stem not in names:
                continue
            head, *lines = path.read_bytes().rstrip(b"\n").split(b"\n")
            header = _header_of(head)
            is_named_so = path.stem.endswith(_digest(lines))
            if not is_named_so or _digest([_unsigned(header), *lines]) != header.get("sha256_128"):
                raise BadInputError(
                    f"The {self.holds} file {path} was changed after it was written (its hash is not "
                    f"{header.get('sha256_128')}); restore it from a backup: what it says is changed by appending anew."
                )
            found.append(JournalFile(path.stem, header["recorded_at"], lines))
        return found

    def publish(self, lake: Lake, table: Table, row_of: Callable[[bytes, str], dict[str, Any]]) -> None:
        """Give every file its partition in the lake, where SQL reads it; files are immutable, so once is enough."""
        present = set(lake.keys(table))
        for file in self.files():
            if file.name not in present:
                rows = [row_of(line, file.recorded_at) for line in file.lines]
                lake.write(table, file.name, pl.DataFrame(rows, schema=table.schema))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file of the home alone, waiting for it if need be; a process that is killed lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _header_of(line: bytes) -> dict[str, Any]:
    """A file's first line; empty when it is none, so that a cut or garbled file fails the check of its hash."""
    try:
        header = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return {}
    return header if isinstance(header, dict) else {}


def _digest(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:32]


def _unsigned(header: dict[str, str]) -> bytes:
    """The header without its own signature, as it is signed."""
    return msgspec.json.encode({key: value for key, value in header.items() if key != "sha256_128"}, order="sorted")
