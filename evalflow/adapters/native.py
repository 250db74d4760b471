"""Reads native files: JSONL, JSONL.gz and Parquet, line by line, good and bad alike.

A damaged file gives its good rows first and then one damage report. Memory holds one row (JSONL) or one batch
(Parquet) at a time.
Keep out: what a record means (``core/records.py``) and other formats.
"""

import glob
import gzip
import hashlib
import json
import zlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import msgspec

from evalflow.core.records import Unusable
from evalflow.errors import BadInputError

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".parquet")
_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"
_EXCERPT_CHARS = 200


@dataclass(frozen=True)
class Line:
    """One row of a file: its number (from 1; 0 is the file as a whole), and the row or why there is none."""

    number: int
    row: Any
    excerpt: str = ""


@dataclass(frozen=True)
class FoundFiles:
    """The files that a path names, and what was left aside in a folder because of its ending."""

    files: list[str]
    ignored: list[str]


def find_files(path: str) -> FoundFiles:
    """The native files that ``path`` names: a file, a folder (searched in depth), a glob, or an fsspec URL.

    Raises:
        BadInputError: nothing is there, or a named file has an ending that is not read.
    """
    if "://" in path:
        return _found_remote(path)
    local = Path(path).expanduser()
    if local.is_dir():
        inside = sorted(str(item) for item in local.rglob("*") if item.is_file() and not item.name.startswith("."))
        files = [item for item in inside if item.endswith(SUFFIXES)]
        if not files:
            raise BadInputError(f"The folder {path} holds no file ending in {', '.join(SUFFIXES)}; name one that does.")
        return FoundFiles(files, [item for item in inside if not item.endswith(SUFFIXES)])
    files = [str(local)] if local.is_file() else sorted(glob.glob(str(local), recursive=True))  # noqa: PTH207 - the pattern may be absolute
    files = [item for item in files if Path(item).is_file()]
    if not files:
        raise BadInputError(f"There is no file at {path}; name a file, a folder or a glob in quotes.")
    return FoundFiles([str(Path(item).absolute()) for item in _readable(files)], [])


def _found_remote(url: str) -> FoundFiles:
    try:
        fs, root = fsspec.core.url_to_fs(url)
        found = fs.glob(root) if "*" in root else fs.find(root)
    except (OSError, ValueError, ImportError) as error:
        raise BadInputError(f"{url} cannot be read ({error}); check the URL, its package and its credentials.") from error
    if not found:
        raise BadInputError(f"There is no file at {url}; name a file, a folder or a glob in quotes.")
    return FoundFiles(_readable([fs.unstrip_protocol(item) for item in sorted(found)]), [])


def _readable(files: list[str]) -> list[str]:
    wrong = [item for item in files if not item.endswith(SUFFIXES)]
    if wrong and len(wrong) == len(files):
        raise BadInputError(f"{wrong[0]} does not end in {', '.join(SUFFIXES)}; convert it, or name another file.")
    return [item for item in files if item.endswith(SUFFIXES)]


def open_file(path: str) -> BinaryIO:
    """A local or remote file opened for reading bytes."""
    return fsspec.open(path, "rb").open()


def file_hash(path: str) -> str:
    """First 128 bits of the SHA-256 of the file's bytes, in hex: a file's name in the landing zone."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:32]


def read_lines(path: str) -> Iterator[Line]:
    """Every row of the file in order; a row that cannot be decoded comes as ``Unusable`` with its reason."""
    with open_file(path) as file:
        head = file.read(1024)
        file.seek(0)
        if not head:
            yield Line(0, Unusable("the file is empty"))
        elif head.startswith(_PARQUET_MAGIC):
            yield from _parquet_rows(file)
        elif head.startswith(_GZIP_MAGIC):
            yield from _json_lines(gzip.GzipFile(fileobj=file))
        elif b"\x00" in head and not head.lstrip().startswith(b"{"):
            yield Line(0, Unusable("the file is binary, not JSONL, JSONL.gz or Parquet"))
        else:
            yield from _json_lines(file)


def _json_lines(file: Any) -> Iterator[Line]:
    number = 0
    try:
        for number, line in enumerate(file, start=1):
            if number == 1 and (line.isspace() or line.startswith(b"\xef\xbb\xbf")):
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.isspace() or not line:
                continue
            yield Line(number, _decoded(line), _excerpt(line))
        if number == 0:
            yield Line(0, Unusable("the file is empty"))
    except (OSError, EOFError, zlib.error) as error:
        yield Line(number + 1, Unusable(f"the gzip stream is broken from here on: {error}"))


def _decoded(line: bytes) -> Any:
    if b"\x00" in line:
        return Unusable("the line contains NUL bytes")
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        return Unusable(f"malformed JSON: {error}")
    except UnicodeDecodeError as error:
        return Unusable(f"not UTF-8: {error.reason} at byte {error.start}")
    except RecursionError:
        return Unusable("malformed JSON: nested too deeply")


def _excerpt(line: bytes) -> str:
    return line[: 4 * _EXCERPT_CHARS].decode("utf-8", errors="replace")[:_EXCERPT_CHARS].replace("\x00", "\ufffd").rstrip("\n")


def _parquet_rows(file: BinaryIO) -> Iterator[Line]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=8192):
            for row in batch.to_pylist():
                number += 1
                yield Line(number, _without_absent(row), _excerpt(json.dumps(row, default=str).encode()))
        if number == 0:
            yield Line(0, Unusable("the file is empty"))
    except (pa.ArrowException, OSError) as error:
        yield Line(number + 1, Unusable(f"the Parquet file is broken from here on: {error}"))


def _without_absent(row: dict[str, Any]) -> dict[str, Any]:
    """Parquet writes every column on every row; a null there is the same as a field that JSON leaves out.

    Nested values that a Parquet writer stored as JSON text are opened again.
    """
    present = {key: value for key, value in row.items() if value is not None}
    for key in ("signals", "tool_calls", "messages", "tags", "metadata"):
        value = present.get(key)
        if isinstance(value, str):
            try:
                present[key] = msgspec.json.decode(value)
            except msgspec.DecodeError:
                continue  # left as it is: the record's own check then names the field and its type
        elif isinstance(value, list) and value and isinstance(value[0], tuple):
            present[key] = dict(value)  # Arrow maps arrive as pairs
    return present
