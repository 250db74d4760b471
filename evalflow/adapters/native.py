"""Reads native files: JSONL, JSONL.gz and Parquet, line by line, good and bad alike.

A damaged file gives its good rows first and then one damage report. Memory holds one row (JSONL) or one batch
(Parquet) at a time.
Keep out: what a record means (``core/records.py``) and other formats.
"""

import glob
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
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
_GZIP_STEP = 1024
"""Bytes unpacked at a time: what is lost before the damaged place of a gzip stream is less than this."""
_OBJECT_START = re.compile(rb'\s*\{\s*"')
_UNDECIDED_LINES = 1000
"""So many lines without the start of one JSON object, some with NUL bytes, make a file binary."""
_HAS_NUL = Unusable("the line contains NUL bytes")
_IS_BINARY = Unusable("the file is binary or not UTF-8; evalflow reads JSONL, JSONL.gz and Parquet")


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
    if not path.strip():
        raise BadInputError("The path is empty; name a file, a folder or a glob in quotes.")
    if "://" in path:
        return _found_remote(path)
    local = Path(path).expanduser()
    if local.is_dir():
        inside = sorted(
            str(item) for item in local.absolute().rglob("*") if item.is_file() and not item.name.startswith(".")
        )
        files = [item for item in inside if item.endswith(SUFFIXES)]
        if not files:
            raise BadInputError(f"The folder {path} holds no file ending in {', '.join(SUFFIXES)}; name one that does.")
        return FoundFiles(files, [item for item in inside if not item.endswith(SUFFIXES)])
    files = [str(local)] if local.is_file() else sorted(glob.glob(str(local), recursive=True))  # noqa: PTH207 - the pattern may be absolute
    files = [item for item in files if Path(item).is_file()]
    if not files:
        raise BadInputError(f"There is no file at {path}; name a file, a folder or a glob in quotes.")
    return _readable([str(Path(item).absolute()) for item in files])


def _found_remote(url: str) -> FoundFiles:
    try:
        fs, root = fsspec.core.url_to_fs(url)
        found = fs.glob(root) if "*" in root else fs.find(root)
    except (OSError, ValueError, ImportError) as error:
        raise BadInputError(
            f"{url} cannot be read ({error}); check the URL, its package and its credentials."
        ) from error
    if not found:
        raise BadInputError(f"There is no file at {url}; name a file, a folder or a glob in quotes.")
    return _readable([fs.unstrip_protocol(item) for item in sorted(found)])


def _readable(files: list[str]) -> FoundFiles:
    found = FoundFiles(
        [item for item in files if item.endswith(SUFFIXES)], [item for item in files if not item.endswith(SUFFIXES)]
    )
    if not found.files:
        raise BadInputError(
            f"{found.ignored[0]} does not end in {', '.join(SUFFIXES)}; convert it, or name another file."
        )
    return found


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
        head = file.read(4)
        file.seek(0)
        if not head:
            yield Line(0, Unusable("the file is empty"))
        elif head == _PARQUET_MAGIC:
            yield from _parquet_rows(file)
        elif head.startswith(_GZIP_MAGIC):
            yield from _json_lines(_unpacked_lines(file))
        else:
            yield from _json_lines(file)


def _json_lines(lines: Iterable[bytes]) -> Iterator[Line]:
    """The lines as rows; a file of nothing but garbage with NUL bytes is one damage report, not one per "line"."""
    undecided: list[Line] | None = []
    has_nul = False
    for line in _numbered_rows(lines):
        if undecided is None:
            yield line
            continue
        undecided.append(line)
        has_nul = has_nul or line.row is _HAS_NUL
        if not isinstance(line.row, Unusable) or _OBJECT_START.match(line.excerpt.encode()):
            yield from undecided
            undecided = None
        elif len(undecided) == _UNDECIDED_LINES:
            if has_nul:
                break
            yield from undecided
            undecided = None
    if undecided:
        yield from [Line(0, _IS_BINARY)] if has_nul else undecided


def _numbered_rows(lines: Iterable[bytes]) -> Iterator[Line]:
    number, is_empty = 0, True
    try:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line and not line.isspace():
                is_empty = False
                yield Line(number, _decoded(line), _excerpt(line))
        if is_empty:
            yield Line(0, Unusable("the file is empty"))
    except (OSError, EOFError, zlib.error) as error:
        yield Line(number + 1, Unusable(f"the gzip stream is broken from here on: {error}"))


def _unpacked_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a gzip stream, every whole one before a damaged place included."""
    unpacked = gzip.GzipFile(fileobj=file)
    held: list[bytes] = []
    while chunk := unpacked.read1(_GZIP_STEP):
        first, *following = chunk.split(b"\n")
        held.append(first)
        if following:
            yield b"".join(held)
            *whole, last = following
            yield from whole
            held = [last]
    if any(held):
        yield b"".join(held)


def _decoded(line: bytes) -> Any:
    if b"\x00" in line:
        return _HAS_NUL
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        return Unusable(f"malformed JSON: {str(error).removeprefix('JSON is malformed: ')}")
    except UnicodeDecodeError as error:
        return Unusable(f"not UTF-8: {error.reason} at byte {error.start}")
    except RecursionError:
        return Unusable("malformed JSON: nested too deeply")


def _excerpt(line: bytes) -> str:
    return (
        line[: 4 * _EXCERPT_CHARS]
        .decode("utf-8", errors="replace")[:_EXCERPT_CHARS]
        .replace("\x00", "\ufffd")
        .rstrip("\n")
    )


def _parquet_rows(file: BinaryIO) -> Iterator[Line]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Line(0, Unusable(f"the Parquet file cannot be opened: {error}"))
        return
    number = 0
    for group in range(parquet.num_row_groups):
        end = number + parquet.metadata.row_group(group).num_rows
        try:
            for batch in parquet.iter_batches(batch_size=8192, row_groups=[group]):
                for row in _python_rows(batch):
                    number += 1
                    excerpt = _excerpt(json.dumps(row, default=str).encode()) if isinstance(row, dict) else ""
                    yield Line(number, _without_absent(row) if isinstance(row, dict) else row, excerpt)
        except (pa.ArrowException, OSError, ValueError) as error:
            yield Line(number + 1, Unusable(f"the Parquet file is broken from this row to row {end}: {error}"))
        number = end
    if number == 0:
        yield Line(0, Unusable("the file is empty"))


def _python_rows(batch: Any) -> Iterator[dict[str, Any] | Unusable]:
    """The batch as dictionaries; where a value has no Python counterpart only its row is unusable."""
    import pyarrow as pa

    for position, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":  # the lake keeps microseconds
            cast = batch.column(position).cast(pa.timestamp("us", column.type.tz), safe=False)
            batch = batch.set_column(position, column.name, cast)
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, ArithmeticError, LookupError):
        pass
    for position in range(len(batch)):
        try:
            yield from batch.slice(position, 1).to_pylist()
        except (ValueError, ArithmeticError, LookupError) as error:
            yield Unusable(f"a value cannot be read: {error}")


def _without_absent(row: dict[str, Any]) -> dict[str, Any]:
    """Parquet writes every column on every row; a null there is the same as a field that JSON leaves out.

    Nested values that a Parquet writer stored as JSON text are opened again.
    """
    present = {key: value for key, value in row.items() if value is not None}
    for key in ("signals", "tool_calls", "messages", "tags", "metadata"):
        value = present.get(key)
        if isinstance(value, str):
            opened = _decoded(value.encode())
            if not isinstance(opened, Unusable):  # else left as it is: the record's own check then names the field
                present[key] = opened
        elif isinstance(value, list) and value and isinstance(value[0], tuple):
            present[key] = dict(value)  # Arrow maps arrive as pairs
    return present
