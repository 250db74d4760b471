"""The lake: every table a folder of Parquet files, one file per partition, replaced atomically.

Local folders and fsspec URLs behave the same. A partition's fingerprint (what it was made from) travels in the
file's own metadata, so file and fingerprint can never disagree.
Keep out: what the tables mean (``tables.py``) and any statistics.
"""

import glob
import hashlib
import io
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import BinaryIO

import duckdb
import fsspec
import polars as pl

from evalflow.adapters.tables import BORN, TABLES, Table
from evalflow.errors import CannotTellError, EarlierVersionError, UsageError

MADE_FROM, CONTENT = "evalflow_made_from", "evalflow_content"
"""Keys of a file's own metadata: what it was made from, and the hash of its rows."""
PART, SUFFIX = "part", ".parquet"
STALE_TEMPORARY_S = 24 * 3600

Key = date | str
_STAMP = ("size", "mtime", "ino", "LastModified", "ETag", "etag", "created")
"""What file systems say of a file's state, each in its own words."""


class Lake:
    """Reads and writes the tables under one root, a local folder or an fsspec URL."""

    def __init__(self, url: str) -> None:
        # Without a listing cache: the long-lived code server must see the partitions that runs have added since.
        self.fs, self.root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self.is_local = self.fs.protocol in ("file", ("file", "local"))
        self.url = self.root if self.is_local else self.fs.unstrip_protocol(self.root)

    # -- writing -------------------------------------------------------------------------------------------

    def create_tables(self) -> None:
        """Give every table its zero-row partition, so that globs never come up empty; safe to repeat.

        One that an earlier version left is written again when the table has got other columns since.
        """
        for table in TABLES.values():
            if self._columns(self.path(table, BORN[table.unit])) != list(table.schema):
                self.write(table, BORN[table.unit], pl.DataFrame(schema=table.schema))
        self._sweep_temporaries()

    def _columns(self, path: str) -> list[str]:
        if not self.fs.exists(path):
            return []
        with self.fs.open(path, "rb") as file:
            return list(pl.read_parquet_schema(file))

    def write(
        self, table: Table, key: Key, frame: pl.DataFrame, *, made_from: str | None = None, name: str = PART
    ) -> str:
        """Replace one partition (or one named file of it) atomically and return its path.

        ``frame`` must hold the table's columns, in any order; they are cast to the table's types. With ``made_from``,
        even an empty one for a partition that is unfinished, the hash of the rows is stored beside it.
        """
        ordered = frame.select(pl.col(column).cast(dtype) for column, dtype in table.schema.items())
        metadata = {MADE_FROM: made_from, CONTENT: _hash_of(_parquet(ordered, {}))} if made_from is not None else {}
        path = self.path(table, key, name)
        self._put(path, _parquet(ordered, metadata))
        return path

    def _put(self, path: str, content: bytes) -> None:
        if not self.is_local:
            self.fs.pipe_file(path, content)  # on an object store the put itself is the atomic step
            return
        # The temporary name must not end in .parquet, or a crash would leave a broken file inside every glob.
        temporary = Path(self.root) / ".tmp" / secrets.token_hex(8)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)

    def _sweep_temporaries(self) -> None:
        if not self.is_local:
            return
        for path in Path(self.root, ".tmp").glob("*"):
            with suppress(FileNotFoundError):  # another process has put its file in place meanwhile
                if time.time() - path.stat().st_mtime > STALE_TEMPORARY_S:
                    path.unlink()

    # -- reading -------------------------------------------------------------------------------------------

    def read(
        self,
        table: Table,
        keys: Iterable[Key],
        columns: Sequence[str] | None = None,
        *,
        with_key: bool = False,
        is_kept: bool = False,
    ) -> pl.DataFrame:
        """The rows of the given partitions, in the order of ``keys``; partitions that do not exist give none.

        ``with_key`` adds the partition as a column named after its unit. ``is_kept``: of a table that nothing makes
        again, so that columns which an earlier version did not write are null.

        Raises:
            EarlierVersionError: a partition lacks a column, because an earlier version made it.
        """
        wanted = list(columns) if columns is not None else list(table.schema)
        frames = []
        for key in keys:
            path = self.path(table, key)
            if not self.fs.exists(path):
                continue
            with self.fs.open(path, "rb") as file:
                try:
                    frame = _with_nulls(file, table, wanted) if is_kept else pl.read_parquet(file, columns=wanted)
                except pl.exceptions.ColumnNotFoundError as error:
                    raise EarlierVersionError(
                        f"{table.name} of the {table.unit} {key} was made by an earlier version; `evalflow run` makes it again."
                    ) from error
            frames.append(frame.with_columns(pl.lit(key).alias(table.unit)) if with_key else frame)
        if frames:
            return pl.concat(frames)
        schema = {column: table.schema[column] for column in wanted}
        if with_key:
            schema[table.unit] = pl.String if table.unit == "file" else pl.Date
        return pl.DataFrame(schema=schema)

    def stamps(self, table: Table) -> list[tuple[str, str]]:
        """The partitions and what changes whenever a file of theirs is replaced: its size, time and number."""
        found = []
        for key in self.keys(table):
            info = self.fs.info(self.path(table, key))
            found.append((key, repr([info.get(name) for name in _STAMP])))
        return found

    def require(self, table: Table, keys: Iterable[Key]) -> None:
        """Refuse to compute from partitions that were never made.

        Raises:
            CannotTellError: one is missing; the message names the first and says how to make it.
        """
        missing = [key for key in keys if not self.fs.exists(self.path(table, key))]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CannotTellError(
                f"{table.name} has no {table.unit} {missing[0]}{more}; run `evalflow run`, or materialize it first."
            )

    def made_from(self, table: Table, key: Key) -> str | None:
        """The stored fingerprint of a partition's inputs, empty without one; None when the partition does not exist."""
        return self._stored(table, key, MADE_FROM)

    def content(self, table: Table, key: Key) -> str | None:
        """The hash of a partition's rows, empty if it was not stored; None when the partition does not exist."""
        return self._stored(table, key, CONTENT)

    def _stored(self, table: Table, key: Key, name: str) -> str | None:
        path = self.path(table, key)
        if not self.fs.exists(path):
            return None
        with self.fs.open(path, "rb") as file:
            return pl.read_parquet_metadata(file).get(name, "")

    def keys(self, table: Table) -> list[str]:
        """The partition keys that hold a file, sorted, without the zero-row one; a folder alone is what a kill left."""
        folder, prefix = f"{self.root}/{table.name}", f"{table.unit}="
        if self.is_local:
            found = set(_folders_with_files(folder, prefix))
        else:
            paths = self.fs.glob(f"{glob.escape(folder)}/{prefix}*/*{SUFFIX}")
            found = {str(path).rsplit("/", 2)[1] for path in paths}
        return sorted(key for key in (name.removeprefix(prefix) for name in found) if key != BORN[table.unit])

    def path(self, table: Table, key: Key, name: str = PART) -> str:
        return f"{self.root}/{table.name}/{table.unit}={key}/{name}{SUFFIX}"

    def glob(self, table: Table) -> str:
        """A pattern for DuckDB that matches every file of the table."""
        return f"{glob.escape(self.url)}/{table.name}/*/*.parquet"

    @contextmanager
    def attach(self, connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open one view per table on an in-memory DuckDB connection, for SQL over the whole lake."""
        if not self.is_local:
            connection.register_filesystem(self.fs)
        connection.execute("set TimeZone = 'UTC'")
        for table in TABLES.values():
            pattern = self.glob(table).replace("'", "''")
            connection.execute(
                f"create or replace view {table.name} as "
                f"select * from read_parquet('{pattern}', hive_partitioning = true, union_by_name = true)"
            )
        yield connection


def _with_nulls(file: BinaryIO, table: Table, wanted: Sequence[str]) -> pl.DataFrame:
    held = pl.read_parquet_schema(file)
    present = [column for column in wanted if column in held]
    file.seek(0)
    missing = [pl.lit(None, table.schema[column]).alias(column) for column in wanted if column not in present]
    return pl.read_parquet(file, columns=present).with_columns(missing).select(wanted)


def _folders_with_files(folder: str, prefix: str) -> Iterator[str]:
    """Names of a local folder's own folders that hold a Parquet file."""
    if not Path(folder).is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and _holds_a_file(entry.path):
                yield entry.name


def _holds_a_file(folder: str) -> bool:
    usual = f"{folder}/{PART}{SUFFIX}"
    # Keys are asked for every partition of a walk, and a Path for each of a thousand folders costs more than the look.
    return os.path.exists(usual) or any(Path(folder).glob(f"*{SUFFIX}"))  # noqa: PTH110


def _parquet(frame: pl.DataFrame, metadata: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", metadata=metadata)
    return buffer.getvalue()


def _hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def lake_at(url: str) -> Lake:
    """The lake at a folder or fsspec URL.

    Raises:
        UsageError: the URL's scheme is unknown or its package is missing.
    """
    try:
        return Lake(url)
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"The lake {url} cannot be opened ({error}); set lake_url to a folder or a URL that fsspec knows."
        ) from error
