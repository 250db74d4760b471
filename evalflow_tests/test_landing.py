"""Landing: each file is read once, a trace is one row however often it comes, and nothing half-landed is ever seen."""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomlkit

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.landing import LandingReport, land, landing_files, newest_landed_day
from evalflow.adapters.tables import FEEDBACK, LANDING, QUARANTINE, RAW_TRACES, TRACE_FILES, TRACE_SIGNALS
from evalflow.definitions import LATER, RAW, SIGNALS
from evalflow.errors import BadInputError, ExitCode
from evalflow.runner import RunFailedError, land_files, walk
from evalflow.settings import load_settings

D1, D2, D3, END = date(2026, 6, 1), date(2026, 6, 2), date(2026, 6, 3), date(2026, 6, 10)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A closed home, so that "now" is 11 June 2026 whatever the clock says."""
    return closed_home(tmp_path / "home")


def closed_home(path: Path) -> Home:
    write_setting(path, "traffic_end", END)
    return open_home(path).prepare()


def trace(trace_id: str, day: date = D1, text: str = "where is my order", **changed: Any) -> dict[str, Any]:
    return {"trace_id": trace_id, "timestamp": f"{day}T12:00:00Z", "input": text, **changed}


def event(trace_id: str, day: date, name: str = "thumbs", value: Any = "down", **changed: Any) -> dict[str, Any]:
    return {"trace_id": trace_id, "timestamp": f"{day}T18:00:00Z", "name": name, "value": value, **changed}


def write(path: Path, *rows: dict[str, Any] | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return str(path)


def register(home: Home) -> pl.DataFrame:
    return home.lake.read(TRACE_FILES, home.lake.keys(TRACE_FILES)).sort("landed_seq")


def quarantine(home: Home) -> pl.DataFrame:
    return home.lake.read(QUARANTINE, home.lake.keys(QUARANTINE))


class Workplace:
    """A home with its Dagster instance: lands files and brings traces, feedback and signals up to date."""

    def __init__(self, home: Home, instance: dg.DagsterInstance) -> None:
        self.home, self.instance = home, instance

    def ingest(self, *paths: str) -> dict[str, Any]:
        report = land_files(self.home, self.instance, list(paths))
        self.catch_up()
        return report

    def catch_up(self) -> dict[str, int]:
        self.home = self.home.reloaded()
        return walk(self.home, self.instance, self.home.calendar.start, END, (RAW, LATER, SIGNALS)).computed

    def traces(self) -> dict[str, tuple[date, str]]:
        """Every trace that stands in any day, with its day and its text; each must stand once."""
        frame = self.home.lake.read(RAW_TRACES, self.home.lake.keys(RAW_TRACES), ["trace_id", "input"], with_key=True)
        rows = [(row[0], (date.fromisoformat(row[2]), row[1])) for row in frame.iter_rows()]
        assert len(rows) == len(dict(rows)), f"a trace stands twice: {rows}"
        return dict(rows)

    def signal(self, trace_id: str, name: str) -> Any:
        frame = self.home.lake.read(TRACE_SIGNALS, self.home.lake.keys(TRACE_SIGNALS))
        return frame.row(by_predicate=pl.col("trace_id") == trace_id, named=True)[name]


@pytest.fixture
def place(home: Home) -> Iterator[Workplace]:
    """With run records in memory: what they say is not asked here, and on disk they take most of the time."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Workplace(home, instance)


# -- files -------------------------------------------------------------------------------------------------


def test_a_file_is_read_once(home: Home, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", trace("t1"), trace("t2", D2))
    first, second = land(home, [path]), land(home, [path])
    assert [(f.is_new, f.n_traces) for f in first.files] == [(True, 2)]
    assert [(f.is_new, f.n_traces) for f in second.files] == [(False, 0)]
    assert (first.touched_days, second.touched_days) == ({D1, D2}, set())
    assert (first.n_skipped, second.n_skipped) == (0, 1)
    assert len(register(home)) == 1


def test_the_same_content_under_two_names_is_read_once(home: Home, tmp_path: Path) -> None:
    write(tmp_path / "in/a.jsonl", trace("t1"))
    write(tmp_path / "in/b.jsonl", trace("t1"))
    report = land(home, [str(tmp_path / "in")])
    assert [f.is_new for f in report.files] == [True, False]


def test_a_file_named_twice_in_one_call_is_reported_once(home: Home, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", trace("t1"))
    report = land(home, [path, str(tmp_path), f"{tmp_path}/*.jsonl"])
    assert [f.path for f in report.files] == [path]


def test_a_file_changed_in_place_is_read_again(home: Home, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", trace("t1"))
    land(home, [path])
    write(tmp_path / "a.jsonl", trace("t1"), trace("t2", D2))
    report = land(home, [path])
    assert [(f.is_new, f.n_traces) for f in report.files] == [(True, 2)]
    assert report.touched_days == {D1, D2}
    assert register(home)["path"].to_list() == [path, path]
    assert register(home)["landed_seq"].to_list() == [1, 2]


def test_a_folder_that_holds_the_home_does_not_feed_the_lake_back(home: Home, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", trace("t1"))
    land(home, [path])
    report = land(home, [str(tmp_path)])
    assert [f.path for f in report.files] == [path]
    assert str(home.path / "lake") in report.ignored


def test_jsonl_gzip_and_parquet_land_alike(home: Home, tmp_path: Path) -> None:
    write(tmp_path / "in/a.jsonl", trace("t1", output="yes", tags=["x"]))
    write(tmp_path / "in/b.jsonl.gz", gzip.compress(json.dumps(trace("t2", output="yes", tags=["x"])).encode()))
    at = datetime(2026, 6, 1, 12, tzinfo=UTC)
    row = {"trace_id": "t3", "timestamp": at, "input": "where is my order", "output": "yes", "tags": ["x"]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in/c.parquet")
    assert land(home, [str(tmp_path / "in")]).n_traces == 3
    files = landing_files(home.lake, LANDING, "trace_days", [D1])[D1]
    rows = pl.concat([pl.read_parquet(file, hive_partitioning=False) for file in files])
    assert rows["trace_id"].to_list() == ["t1", "t2", "t3"]
    assert rows.drop("trace_id", "landed_seq", "source_file").unique().height == 1


def test_an_object_store_is_read_like_a_folder(home: Home) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/logs/a.jsonl", json.dumps(trace("t1")).encode())
    memory.pipe_file("/logs/deep/b.jsonl.gz", gzip.compress(json.dumps(trace("t2", D2)).encode()))
    memory.pipe_file("/logs/notes.txt", b"hello")
    try:
        report = land(home, ["memory://logs"])
        assert (report.n_traces, report.touched_days, len(report.ignored)) == (2, {D1, D2}, 1)
        assert [f.path for f in report.files] == ["memory:///logs/a.jsonl", "memory:///logs/deep/b.jsonl.gz"]
        assert land(home, ["memory://logs/*.jsonl"]).n_skipped == 1
    finally:
        memory.rm("/logs", recursive=True)


def test_a_wrong_path_lands_nothing_at_all(home: Home, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", trace("t1"))
    with pytest.raises(BadInputError, match="There is no file at"):
        land(home, [path, str(tmp_path / "b.jsonl")])
    assert register(home).is_empty()


# -- quarantine --------------------------------------------------------------------------------------------


def test_good_rows_land_and_bad_ones_are_kept_with_file_line_and_reason(home: Home, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        trace("t1"),
        b"{nonsense\n",
        trace("t2", timestamp="2026-06-01T12:00:00"),
        trace("t3", END + timedelta(days=1)),
        b"\n",
        trace("t4", date(1999, 1, 1)),
        trace("t5", text="x" * 5_000_000),
        b'{"trace_id": "t6\0"}\n',
        trace("t7", input_tokens=2**64),
        trace("t8", D2),
    )
    report = land(home, [path])
    assert (report.n_traces, report.n_quarantined, report.touched_days) == (2, 7, {D1, D2})
    kept = quarantine(home)
    assert kept["path"].unique().to_list() == [path]
    assert kept["line"].to_list() == [2, 3, 4, 6, 7, 8, 9]  # line 5 is blank
    reasons = kept["reason"].to_list()
    assert reasons[0].startswith("malformed JSON")
    assert reasons[1].startswith("timestamp has no time zone")
    assert (
        reasons[2]
        == "timestamp 2026-06-11T12:00:00+00:00 lies after 2026-06-10T23:59:59.999999+00:00, the latest accepted"
    )
    assert "lies before 2023-06-07T00:00:00+00:00, the earliest accepted" in reasons[3]  # 11 June 2026 less 1100 days
    assert reasons[4] == "input has 5,000,000 bytes, above ingest.max_text_bytes = 1,000,000"
    assert reasons[5] == "the line contains NUL bytes"
    assert reasons[6].startswith("input_tokens")
    assert kept["excerpt"].str.len_chars().max() == 200
    row = register(home).row(0, named=True)
    assert (row["n_traces"], row["n_quarantined"], row["trace_days"]) == (2, 7, [D1, D2])


def test_a_summary_counts_reasons_and_not_values(home: Home, tmp_path: Path) -> None:
    rows = [trace(f"t{n}", timestamp=f"2031-01-01T00:00:{n:02}Z") for n in range(30)]
    report = land(home, [write(tmp_path / "a.jsonl", *rows)])
    assert list(report.files[0].reasons.values()) == [30]
    assert len(report.files[0].first_bad) == 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.jsonl", b""),
        ("binary.jsonl", b"\x89PNG\r\n\x1a\n\0\0" * 50),
        ("cut.parquet", b"PAR1"),
        ("cut.jsonl.gz", b"\x1f\x8b\x08"),
    ],
)
def test_a_useless_file_is_one_quarantined_row_and_its_neighbours_land(
    home: Home, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    write(tmp_path / "in/zz.jsonl", trace("t1"))
    report = land(home, [str(tmp_path / "in")])
    assert (report.n_traces, report.n_quarantined) == (1, 1)
    assert quarantine(home)["path"].to_list() == [str(tmp_path / "in" / name)]
    assert land(home, [str(tmp_path / "in")]).n_skipped == 2  # it is not read again either


def test_nothing_after_the_end_of_a_closed_home_lands(home: Home, tmp_path: Path) -> None:
    rows = [trace("last", timestamp="2026-06-10T23:59:59.999Z"), trace("late", timestamp="2026-06-11T00:00:00Z")]
    report = land(home, [write(tmp_path / "a.jsonl", *rows)])
    assert (report.n_traces, report.n_quarantined, report.touched_days) == (1, 1, {END})


def test_an_open_home_accepts_a_clock_that_is_a_little_ahead(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home").prepare()
    now = datetime.now(UTC)
    rows = [
        trace(name, timestamp=(now + timedelta(hours=ahead)).isoformat()) for name, ahead in (("near", 23), ("far", 25))
    ]
    report = land(home, [write(tmp_path / "a.jsonl", *rows)])
    assert (report.n_traces, report.n_quarantined) == (1, 1)
    assert "lies after" in quarantine(home)["reason"][0]


# -- the first day of traffic ------------------------------------------------------------------------------


def test_traffic_start_is_written_moved_back_and_never_forward(home: Home, tmp_path: Path) -> None:
    report = land(home, [write(tmp_path / "a.jsonl", trace("t1", D2))])
    assert report.start_moved_to == D2
    home = home.reloaded()
    assert home.settings.traffic_start == D2
    assert land(home, [write(tmp_path / "b.jsonl", trace("t2", D3))]).start_moved_to is None
    assert land(home, [write(tmp_path / "c.jsonl", trace("t3", D1))]).start_moved_to == D1
    assert home.reloaded().settings.traffic_start == D1


def test_traffic_start_leaves_the_owners_settings_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "home"
    path.mkdir()
    own = '# my settings\n\n[sources]\ntraces = ["logs/"]  # hourly\n\n[sampling]\ntarget_per_day = 50\n'
    (path / "evalflow.toml").write_text(own)
    land(open_home(path).prepare(), [write(tmp_path / "a.jsonl", trace("t1", D1))])
    text = (path / "evalflow.toml").read_text()
    settings = load_settings(path)
    assert (settings.traffic_start, settings.sources.traces, settings.sampling.target_per_day) == (D1, ["logs/"], 50)
    assert "# my settings" in text
    assert "# hourly" in text
    assert tomlkit.parse(text)["traffic_start"] == D1


def test_feedback_alone_does_not_begin_the_traffic(home: Home, tmp_path: Path) -> None:
    report = land(home, [write(tmp_path / "a.jsonl", event("t1", D1))])
    assert (report.n_feedback, report.touched_days, report.start_moved_to) == (1, {D1}, None)
    assert newest_landed_day(home.lake) == D1


# -- one row per trace -------------------------------------------------------------------------------------


def test_the_same_trace_in_two_files_is_one_row_and_the_later_version_wins(place: Workplace, tmp_path: Path) -> None:
    place.ingest(write(tmp_path / "a.jsonl", trace("t1", text="old"), trace("t2", text="other")))
    report = place.ingest(write(tmp_path / "b.jsonl", trace("t1", text="new")))
    assert report["days"] == [str(D1)]
    assert place.traces() == {"t1": (D1, "new"), "t2": (D1, "other")}


def test_within_one_file_the_last_line_of_a_trace_wins(place: Workplace, tmp_path: Path) -> None:
    place.ingest(
        write(tmp_path / "a.jsonl", trace("t1", D2, "first"), trace("t1", D1, "second"), trace("t1", D3, "third"))
    )
    assert place.traces() == {"t1": (D3, "third")}


def test_a_later_version_of_another_day_moves_the_trace(place: Workplace, tmp_path: Path) -> None:
    place.ingest(write(tmp_path / "a.jsonl", trace("t1", D1, "a"), trace("t2", D1, "a")))
    report = place.ingest(write(tmp_path / "b.jsonl", trace("t1", D2, "b")))
    assert report["days"] == [str(D1), str(D2)]  # the day that it left is touched as well
    assert place.traces() == {"t1": (D2, "b"), "t2": (D1, "a")}
    place.ingest(write(tmp_path / "c.jsonl", trace("t1", D3, "c")))
    place.ingest(write(tmp_path / "d.jsonl", trace("t1", D1, "d")))  # and back again
    assert place.traces() == {"t1": (D1, "d"), "t2": (D1, "a")}


def test_a_move_to_before_the_first_day_moves_the_start(place: Workplace, tmp_path: Path) -> None:
    place.ingest(write(tmp_path / "a.jsonl", trace("t1", D2, "a")))
    report = place.ingest(write(tmp_path / "b.jsonl", trace("t1", D1, "b")))
    assert report["traffic_start"] == str(D1)
    assert place.traces() == {"t1": (D1, "b")}


def test_landing_order_decides_and_not_the_order_of_days(place: Workplace, tmp_path: Path) -> None:
    """Files of one call land in the order in which they are named or sorted."""
    write(tmp_path / "in/1.jsonl", trace("t1", D3, "first file"))
    write(tmp_path / "in/2.jsonl", trace("t1", D1, "second file"))
    place.ingest(str(tmp_path / "in"))
    assert place.traces() == {"t1": (D1, "second file")}


def test_only_touched_days_are_computed_again(place: Workplace, tmp_path: Path) -> None:
    place.ingest(write(tmp_path / "a.jsonl", trace("t1", D1), trace("t2", D2)))
    assert place.catch_up() == {"raw_traces": 0, "feedback": 0, "trace_signals": 0}
    land_files(place.home, place.instance, [write(tmp_path / "b.jsonl", trace("t3", D2))])
    assert place.catch_up() == {"raw_traces": 1, "feedback": 0, "trace_signals": 1}


def test_the_order_of_landing_does_not_matter_for_different_traces(tmp_path: Path) -> None:
    """The same files one by one and all at once give the same rows."""
    write(tmp_path / "in/a.jsonl", trace("t1", D1), trace("t2", D2))
    write(tmp_path / "in/b.jsonl", trace("t3", D1))
    stored = []
    for name, calls in (("one", [["b.jsonl"], ["a.jsonl"]]), ("both", [["a.jsonl", "b.jsonl"]])):
        home = closed_home(tmp_path / name)
        with dg.DagsterInstance.ephemeral() as instance:
            place = Workplace(home, instance)
            for call in calls:
                place.ingest(*(str(tmp_path / "in" / file) for file in call))
            stored.append(place.home.lake.read(RAW_TRACES, [D1, D2]))
    assert stored[0].equals(stored[1])


# -- interruption ------------------------------------------------------------------------------------------


def test_an_interrupted_landing_is_not_seen_and_is_repeated_cleanly(place: Workplace, tmp_path: Path) -> None:
    """The register's row is written last: without it the file has not landed."""
    place.ingest(write(tmp_path / "a.jsonl", trace("t1", D1, "old")))
    path = write(tmp_path / "b.jsonl", trace("t1", D1, "new"), trace("t2", D2), b"nonsense\n")
    report = land(place.home, [path])
    Path(place.home.lake.path(TRACE_FILES, report.files[0].file_hash)).unlink()
    assert place.catch_up()["raw_traces"] == 0
    assert place.traces() == {"t1": (D1, "old")}

    repeated = place.ingest(path)
    assert (repeated["traces"], repeated["quarantined"], repeated["days"]) == (2, 1, [str(D1), str(D2)])
    assert place.traces() == {"t1": (D1, "new"), "t2": (D2, "where is my order")}
    assert len(quarantine(place.home)) == 1


def test_an_interrupted_move_leaves_the_trace_where_it_was(place: Workplace, tmp_path: Path) -> None:
    place.ingest(write(tmp_path / "a.jsonl", trace("t1", D1, "old")))
    path = write(tmp_path / "b.jsonl", trace("t1", D2, "new"))
    report = land(place.home, [path])
    Path(place.home.lake.path(TRACE_FILES, report.files[0].file_hash)).unlink()
    place.catch_up()
    assert place.traces() == {"t1": (D1, "old")}
    place.ingest(path)
    assert place.traces() == {"t1": (D2, "new")}


# -- feedback ----------------------------------------------------------------------------------------------


def test_feedback_that_arrives_later_joins_its_traces_signals(place: Workplace, tmp_path: Path) -> None:
    place.ingest(write(tmp_path / "a.jsonl", trace("t1", D1), trace("t2", D1)))
    assert place.signal("t1", "is_thumbs_down") is None
    report = place.ingest(write(tmp_path / "f.jsonl", event("t1", D3), event("t2", D3, value="up")))
    assert (report["feedback"], report["days"]) == (2, [str(D3)])
    assert (place.signal("t1", "is_thumbs_down"), place.signal("t2", "is_thumbs_down")) == (True, False)
    assert (place.signal("t1", "is_negative"), place.signal("t2", "is_negative")) == (True, False)


def test_feedback_that_comes_before_its_trace_waits_for_it(place: Workplace, tmp_path: Path) -> None:
    place.ingest(write(tmp_path / "f.jsonl", event("t1", D2)))
    place.ingest(write(tmp_path / "a.jsonl", trace("t1", D1)))
    assert place.signal("t1", "is_thumbs_down") is True


def test_feedback_counts_for_a_week(place: Workplace, tmp_path: Path) -> None:
    eighth, ninth = D1 + timedelta(days=7), D1 + timedelta(days=8)
    place.ingest(write(tmp_path / "a.jsonl", trace("t1", D1), trace("t2", D1), event("t1", eighth), event("t2", ninth)))
    assert (place.signal("t1", "is_thumbs_down"), place.signal("t2", "is_thumbs_down")) == (True, None)


def test_the_same_feedback_twice_is_one_event(place: Workplace, tmp_path: Path) -> None:
    place.ingest(write(tmp_path / "f.jsonl", trace("t1"), event("t1", D1), event("t1", D1, name="rating", value=1)))
    place.ingest(write(tmp_path / "g.jsonl", event("t1", D1), event("t1", D1, name="rating", value=5)))
    rows = place.home.lake.read(FEEDBACK, [D1], ["name", "value"]).sort("name").rows()
    assert rows == [("rating", "5"), ("thumbs", "down")]  # the later version of an event replaces the earlier one


# -- through Dagster ---------------------------------------------------------------------------------------


def test_the_report_of_a_run_is_the_report_of_the_landing(place: Workplace, tmp_path: Path) -> None:
    path = write(tmp_path / "in/a.jsonl", trace("t1"), b"[]\n", event("t1", D2))
    write(tmp_path / "in/notes.txt", b"hello")
    report = place.ingest(str(tmp_path / "in"))
    assert report == {
        "traces": 1,
        "feedback": 1,
        "quarantined": 1,
        "files": [
            {
                "path": path,
                "is_new": True,
                "traces": 1,
                "feedback": 1,
                "quarantined": 1,
                "first_bad": [{"line": 2, "reason": "a line must be a JSON object, this is a list"}],
            }
        ],
        "ignored": [str(tmp_path / "in/notes.txt")],
        "days": [str(D1), str(D2)],
        "traffic_start": str(D1),
    }


def test_the_sources_of_the_settings_are_landed_when_no_path_is_given(place: Workplace, tmp_path: Path) -> None:
    write(tmp_path / "in/a.jsonl", trace("t1"))
    write_setting(place.home.path, "sources.traces", [str(tmp_path / "in")])
    place.home = place.home.reloaded()
    assert place.ingest()["traces"] == 1
    assert place.ingest()["traces"] == 0
    assert set(place.traces()) == {"t1"}


def test_a_wrong_path_ends_the_run_with_its_own_sentence(place: Workplace, tmp_path: Path) -> None:
    with pytest.raises(RunFailedError) as caught:
        place.ingest(str(tmp_path / "nothing.jsonl"))
    assert (
        str(caught.value) == f"There is no file at {tmp_path}/nothing.jsonl; name a file, a folder or a glob in quotes."
    )
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_many_rows_of_a_day_are_written_in_parts(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalflow.adapters.landing.ROWS_PER_PART", 4)
    rows = [trace(f"t{n}", D1 if n % 2 else D2) for n in range(11)]
    report: LandingReport = land(home, [write(tmp_path / "a.jsonl", *rows)])
    files = landing_files(home.lake, LANDING, "trace_days", [D1, D2])
    assert report.n_traces == 11
    # Flushed after 4, 8 and 11 rows; each flush writes a part for each of the two days.
    assert {day: len(parts) for day, parts in files.items()} == {D1: 3, D2: 3}
    landed = pl.concat([pl.read_parquet(part, hive_partitioning=False) for parts in files.values() for part in parts])
    assert sorted(landed["trace_id"]) == sorted(row["trace_id"] for row in rows)
