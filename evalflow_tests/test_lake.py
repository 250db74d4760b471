"""Lake: partitions are replaced as a whole or not at all, on a local folder and on an object store alike."""

import os
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from evalflow.adapters.lake import STALE_TEMPORARY_S, Lake, lake_at
from evalflow.adapters.tables import BORN, EMBEDDINGS, FEEDBACK, RAW_TRACES, TABLES
from evalflow.errors import CannotTellError, EarlierVersionError, ExitCode, UsageError

MONDAY = date(2026, 6, 1)
TUESDAY = date(2026, 6, 2)


@pytest.fixture(params=["local", "memory"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """A lake in a local folder, and one behind an fsspec URL."""
    if request.param == "local":
        return lake_at(str(tmp_path / "lake"))
    return lake_at(f"memory://{tmp_path.name}/lake")  # a store of its own, as the memory is shared by the process


def events(n: int, name: str = "thumbs") -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "trace_id": f"t{i}",
                "timestamp": datetime(2026, 6, 1, 12, tzinfo=UTC),
                "name": name,
                "value": "naïve 𝟚" if i % 2 else None,
                "comment": None,
                "source": "it's",
                "source_file": "a.jsonl",
                "line": i,
            }
            for i in range(n)
        ],
        schema=FEEDBACK.schema,
    )


def count(lake: Lake, table: str) -> int:
    with duckdb.connect() as connection, lake.attach(connection):
        return int(connection.execute(f"select count(*) from {table}").fetchall()[0][0])


def test_what_is_written_is_read_back(lake: Lake) -> None:
    lake.write(FEEDBACK, MONDAY, events(3))
    assert lake.read(FEEDBACK, [MONDAY]).equals(events(3))
    assert lake.read(FEEDBACK, [MONDAY], ["line", "name"]).columns == ["line", "name"]


def test_columns_are_put_in_order_and_cast_to_the_tables_types(lake: Lake) -> None:
    shuffled = events(2).select(reversed(FEEDBACK.schema)).with_columns(pl.col("line").cast(pl.Int8), extra=pl.lit(1))
    lake.write(FEEDBACK, MONDAY, shuffled)
    assert lake.read(FEEDBACK, [MONDAY]).equals(events(2))


def test_a_second_write_replaces_the_partition_and_no_other(lake: Lake) -> None:
    lake.write(FEEDBACK, MONDAY, events(3))
    lake.write(FEEDBACK, TUESDAY, events(5))
    lake.write(FEEDBACK, MONDAY, events(1, "rating"))
    assert lake.read(FEEDBACK, [MONDAY]).equals(events(1, "rating"))
    assert len(lake.read(FEEDBACK, [TUESDAY])) == 5
    assert lake.keys(FEEDBACK) == ["2026-06-01", "2026-06-02"]


def test_a_stamp_changes_with_its_partition_alone(lake: Lake) -> None:
    lake.write(FEEDBACK, MONDAY, events(3))
    lake.write(FEEDBACK, TUESDAY, events(5))
    before = dict(lake.stamps(FEEDBACK))
    assert dict(lake.stamps(FEEDBACK)) == before
    lake.write(FEEDBACK, MONDAY, events(3, "rating"))
    after = dict(lake.stamps(FEEDBACK))
    assert [key for key in after if after[key] != before[key]] == ["2026-06-01"]


def test_what_an_earlier_version_left_out_is_null_where_nothing_makes_the_table_again(lake: Lake) -> None:
    lake.write(FEEDBACK, MONDAY, events(2))
    with lake.fs.open(lake.path(FEEDBACK, MONDAY), "rb") as file:
        held = pl.read_parquet(file)
    with lake.fs.open(lake.path(FEEDBACK, MONDAY), "wb") as file:
        held.drop("comment", "line").write_parquet(file)
    nulls = events(2).with_columns(comment=pl.lit(None, pl.String), line=pl.lit(None, pl.Int64))
    assert lake.read(FEEDBACK, [MONDAY], is_kept=True).equals(nulls)
    assert lake.read(FEEDBACK, [MONDAY], ["line", "name"], is_kept=True).columns == ["line", "name"]
    with pytest.raises(EarlierVersionError):
        lake.read(FEEDBACK, [MONDAY])


def test_partitions_are_read_in_the_order_asked_and_missing_ones_give_no_rows(lake: Lake) -> None:
    lake.write(FEEDBACK, MONDAY, events(1))
    lake.write(FEEDBACK, TUESDAY, events(2))
    rows = lake.read(FEEDBACK, [TUESDAY, date(2026, 6, 9), MONDAY], ["line"], with_key=True)
    assert rows.rows() == [(0, TUESDAY), (1, TUESDAY), (0, MONDAY)]


def test_a_table_without_partitions_reads_as_no_rows_of_its_schema(lake: Lake) -> None:
    assert lake.read(FEEDBACK, [MONDAY]).schema == FEEDBACK.schema
    assert lake.read(FEEDBACK, [], ["line"], with_key=True).schema == {"line": pl.Int64, "day": pl.Date}
    assert lake.keys(FEEDBACK) == []


def test_every_table_of_a_new_lake_can_be_queried_and_is_empty(lake: Lake) -> None:
    lake.create_tables()
    lake.create_tables()
    with duckdb.connect() as connection, lake.attach(connection):
        for table in TABLES.values():
            assert connection.execute(f"select * from {table.name}").fetchall() == []
            described = [row[0] for row in connection.execute(f"describe {table.name}").fetchall()]
            assert described == [*table.schema, table.unit]
    assert all(lake.keys(table) == [] for table in TABLES.values())


def test_sql_sees_the_rows_with_their_partition(lake: Lake) -> None:
    lake.create_tables()
    lake.write(FEEDBACK, TUESDAY, events(2))
    with duckdb.connect() as connection, lake.attach(connection):
        assert connection.execute("select day, count(*) from feedback group by all").fetchall() == [(TUESDAY, 2)]
        assert connection.execute("select distinct timestamp::varchar from feedback").fetchall() == [
            ("2026-06-01 12:00:00+00",)
        ]


@pytest.mark.parametrize("folder", ["[2026] it's a * lake?", "lake {a,b}", "Überlauf"])
def test_a_folders_name_may_hold_any_character(folder: str, tmp_path: Path) -> None:
    lake = lake_at(str(tmp_path / folder / "lake"))
    lake.create_tables()
    lake.write(FEEDBACK, MONDAY, events(2))
    assert lake.keys(FEEDBACK) == ["2026-06-01"]
    assert count(lake, "feedback") == 2


def test_a_partition_carries_the_fingerprint_of_what_it_was_made_from(lake: Lake) -> None:
    assert lake.made_from(FEEDBACK, MONDAY) is None
    lake.write(FEEDBACK, MONDAY, events(1), made_from="abc123")
    assert lake.made_from(FEEDBACK, MONDAY) == "abc123"
    lake.write(FEEDBACK, MONDAY, events(1))
    assert lake.made_from(FEEDBACK, MONDAY) == ""


def test_a_partition_without_a_finished_fingerprint_still_tells_its_rows_apart(lake: Lake) -> None:
    """An empty fingerprint marks it as unfinished; what is made from it must notice when its rows change."""
    assert lake.content(FEEDBACK, MONDAY) is None
    lake.write(FEEDBACK, MONDAY, events(1), made_from="")
    before = lake.content(FEEDBACK, MONDAY)
    assert lake.made_from(FEEDBACK, MONDAY) == ""
    lake.write(FEEDBACK, MONDAY, events(2), made_from="")
    assert before
    assert lake.content(FEEDBACK, MONDAY) not in ("", before)
    lake.write(FEEDBACK, MONDAY, events(1), made_from="finished")
    assert lake.content(FEEDBACK, MONDAY) == before


def test_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    lake = lake_at(str(tmp_path))
    first = Path(lake.write(FEEDBACK, MONDAY, events(50), made_from="x")).read_bytes()
    assert Path(lake.write(FEEDBACK, MONDAY, events(50), made_from="x")).read_bytes() == first


def test_a_partition_that_was_never_made_is_named_with_what_to_do(lake: Lake) -> None:
    lake.write(FEEDBACK, MONDAY, events(0))
    lake.require(FEEDBACK, [MONDAY])
    with pytest.raises(CannotTellError) as caught:
        lake.require(FEEDBACK, [MONDAY, TUESDAY, date(2026, 6, 3)])
    assert (
        str(caught.value) == "feedback has no day 2026-06-02 and 1 more; run `evalflow run`, or materialize it first."
    )
    assert caught.value.exit_code == ExitCode.CANNOT_TELL


def test_an_unknown_scheme_is_named_with_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"The lake nope://x cannot be opened \(.*\); set lake_url to a folder"):
        lake_at("nope://x")


ROWS = 200_000
WRITER = f"""
import sys
from datetime import date
from pathlib import Path
import numpy as np
import polars as pl
from evalflow.adapters.lake import lake_at
from evalflow.adapters.tables import EMBEDDINGS

lake = lake_at(sys.argv[1])
vectors = np.random.default_rng(0).random(({ROWS}, 16), dtype=np.float32)
frame = pl.DataFrame({{"text_hash": ["x"] * {ROWS}, "model_id": ["m"] * {ROWS}, "vector": vectors}})
paths = [lake.write(EMBEDDINGS, date(2026, 6, day), frame) for day in (1, 2, 3)]
content = Path(paths[0]).read_bytes()
print("writing", flush=True)
while True:
    for path in paths:
        lake._put(path, content)  # without the encoding, so that nearly every kill meets a write
"""


def test_a_kill_in_the_middle_of_writing_never_leaves_a_broken_file(tmp_path: Path) -> None:
    lake = lake_at(str(tmp_path / "lake"))
    lake.create_tables()
    for kill in range(4):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "lake")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
            time.sleep(0.05 + 0.013 * kill)
            writer.kill()
        files = sorted((tmp_path / "lake" / "embeddings").rglob("*"))
        assert [path.name for path in files if path.is_file()] == ["part.parquet"] * 4
        for day in (1, 2, 3):
            assert len(lake.read(EMBEDDINGS, [date(2026, 6, day)])) == ROWS
        assert count(lake, "embeddings") == 3 * ROWS


def test_a_folder_without_a_file_is_no_partition(lake: Lake) -> None:
    """A kill between the folder and its file leaves one; a key is one with a file, whatever the file's name."""
    lake.write(FEEDBACK, MONDAY, events(1), name="a-0000")
    lake.write(FEEDBACK, MONDAY, events(1), name="a-0001")
    lake.write(FEEDBACK, TUESDAY, events(0))
    lake.fs.makedirs(lake.path(FEEDBACK, date(2026, 6, 3)).rpartition("/")[0], exist_ok=True)
    assert lake.keys(FEEDBACK) == [str(MONDAY), str(TUESDAY)]


def test_a_write_that_fails_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = lake_at(str(tmp_path / "lake"))

    def fails(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        lake.write(FEEDBACK, MONDAY, events(1))
    assert not (tmp_path / "lake" / "feedback").exists()


def test_what_a_kill_left_is_swept_once_it_is_a_day_old(tmp_path: Path) -> None:
    lake = lake_at(str(tmp_path))
    temporaries = tmp_path / ".tmp"
    temporaries.mkdir()
    for name, age in (("old", STALE_TEMPORARY_S + 60), ("running", 60)):
        (temporaries / name).write_bytes(b"half a file")
        then = time.time() - age
        os.utime(temporaries / name, (then, then))
    # Another process's file that was put in place between listing and looking: here, a link to nowhere.
    (temporaries / "gone").symlink_to(temporaries / "nowhere")
    lake.create_tables()
    assert sorted(path.name for path in temporaries.iterdir() if path.exists()) == ["running"]


def test_the_zero_row_partition_is_no_key_and_survives_being_asked_for(lake: Lake) -> None:
    lake.create_tables()
    assert lake.read(FEEDBACK, [BORN["day"]]).schema == FEEDBACK.schema
    assert lake.keys(FEEDBACK) == []
    days = [MONDAY + timedelta(days=n) for n in (9, 0, 3)]
    for day in days:
        lake.write(FEEDBACK, day, events(0))
    assert lake.keys(FEEDBACK) == [str(day) for day in sorted(days)]


def test_a_partition_of_an_earlier_version_is_named_and_its_table_gets_the_new_columns(tmp_path: Path) -> None:
    """A file without a column of today is an error of one sentence; the zero-row partition is simply written again."""
    lake = Lake(str(tmp_path))
    lake.create_tables()
    born = Path(lake.path(RAW_TRACES, "0001-01-01"))
    for path in (born, Path(lake.path(RAW_TRACES, date(2026, 6, 1)))):
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"trace_id": ["t1"]}).head(0 if path == born else 1).write_parquet(path)
    with pytest.raises(EarlierVersionError, match="raw_traces of the day 2026-06-01 was made by an earlier version"):
        lake.read(RAW_TRACES, [date(2026, 6, 1)])
    lake.create_tables()
    assert list(pl.read_parquet_schema(born)) == list(RAW_TRACES.schema)
