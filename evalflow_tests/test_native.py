"""Native files and records: every good row is read, every bad one is named with its line and reason, nothing raises."""

import gzip
import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalflow.adapters.native import FoundFiles, find_files, read_lines
from evalflow.core.records import (
    FeedbackEvent,
    GoldenCase,
    Limits,
    Trace,
    Unusable,
    feedback_row,
    parse_golden_case,
    parse_record,
    trace_row,
)
from evalflow.errors import BadInputError

LIMITS = Limits(datetime(2024, 1, 1, tzinfo=UTC), datetime(2026, 6, 30, tzinfo=UTC), max_text_bytes=1_000_000)
AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
Record = Trace | FeedbackEvent
Numbered = list[tuple[int, Record]]
Refused = list[tuple[int, str]]


def trace(number: int = 1, **changed: Any) -> dict[str, Any]:
    return {"trace_id": f"t{number}", "timestamp": "2026-06-01T12:00:00Z", "input": f"question {number}", **changed}


def line_of(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


GOOD = [line_of(trace(number)) for number in (1, 2, 3)]
"""Three good lines, to stand around a bad one."""


def sorted_out(path: Path) -> tuple[Numbered, Refused]:
    """The file's good records and its bad lines, each with its line number."""
    good: Numbered = []
    bad: Refused = []
    for line in read_lines(str(path)):
        record = line.row if isinstance(line.row, Unusable) else parse_record(line.row, LIMITS)
        if isinstance(record, Unusable):
            bad.append((line.number, record.reason))
        else:
            good.append((line.number, record))
    return good, bad


def read(tmp_path: Path, content: bytes, name: str = "traces.jsonl") -> tuple[Numbered, Refused]:
    path = tmp_path / name
    path.write_bytes(content)
    return sorted_out(path)


def ids(good: Numbered) -> list[str]:
    return [record.trace_id for _, record in good]


# -- one bad line ------------------------------------------------------------------------------------------

BAD_LINES: dict[str, tuple[bytes, str]] = {
    "malformed": (b'{"trace_id": "x", "inp\n', "malformed JSON: invalid character (byte 22)"),
    "not JSON at all": (b"hello\n", "malformed JSON: invalid character (byte 0)"),
    "a list": (b"[1, 2]\n", "a line must be a JSON object, this is a list"),
    "a number": (b"17\n", "a line must be a JSON object, this is a int"),
    "wrong type": (line_of(trace(input=5)), "input: Expected `str`, got `int`"),
    "null input": (line_of(trace(input=None)), "input: Expected `str`, got `null`"),
    "empty input": (line_of(trace(input="")), "input: Expected `str` of length >= 1"),
    "blank input": (line_of(trace(input=" \t ")), "input is blank"),
    "empty id": (line_of(trace(trace_id="")), "trace_id: Expected `str` of length >= 1"),
    "endless id": (line_of(trace(trace_id="x" * 513)), "trace_id: Expected `str` of length <= 512"),
    "missing input": (
        line_of({"trace_id": "x", "timestamp": "2026-06-01T12:00:00Z"}),
        "missing required field `input`",
    ),
    "missing id": (line_of({"input": "x", "timestamp": "2026-06-01T12:00:00Z"}), "missing required field `trace_id`"),
    "missing timestamp": (line_of({"trace_id": "x", "input": "x"}), "missing required field `timestamp`"),
    "no zone": (
        line_of(trace(timestamp="2026-06-01T12:00:00")),
        "timestamp has no time zone; write it in UTC, for example 2026-06-01T12:00:00Z",
    ),
    "no time": (line_of(trace(timestamp="2026-06-01")), "write it in UTC, for example 2026-06-01T12:00:00Z"),
    "epoch number": (
        line_of(trace(timestamp=1780000000)),
        "timestamp: Expected `datetime`, got `int`; write it in UTC",
    ),
    "future": (line_of(trace(timestamp="2031-01-01T00:00:00Z")), "lies after 2026-06-30T00:00:00+00:00"),
    "ancient": (line_of(trace(timestamp="1970-01-01T00:00:00Z")), "lies before 2024-01-01T00:00:00+00:00"),
    "before year one in UTC": (line_of(trace(timestamp="0001-01-01T00:00:00+23:00")), "a value cannot be read"),
    "after year 9999 in UTC": (line_of(trace(timestamp="9999-12-31T23:59:59-23:00")), "a value cannot be read"),
    "5 MB prompt": (
        line_of(trace(input="x" * 5_000_000)),
        "input has 5,000,000 bytes, above ingest.max_text_bytes = 1,000,000",
    ),
    "5 MB answer": (line_of(trace(output="ä" * 2_500_000)), "output has 5,000,000 bytes"),
    "NUL byte": (line_of(trace()).replace(b"question", b"que\0stion"), "the line contains NUL bytes"),
    "escaped NUL": (line_of(trace(input="a\0b")), "input contains a NUL character"),
    "NUL in the model's name": (line_of(trace(model="a\0b")), "model contains a NUL character"),
    "not UTF-8": (line_of(trace()).replace(b"question", b"q\xff"), "not UTF-8: invalid start byte"),
    "lone high surrogate": (line_of(trace()).replace(b"question", rb"\ud800 and more text"), "malformed JSON"),
    "lone low surrogate": (line_of(trace()).replace(b"question", rb"\udc00 and more text"), "malformed JSON"),
    "NaN": (line_of(trace(latency_ms=math.nan)), "malformed JSON: invalid character"),
    "out of range number": (line_of(trace(latency_ms=0)).replace(b"0}", b"1e999}"), "Number out of range"),
    "int beyond 64 bit": (line_of(trace(input_tokens=2**63)), "input_tokens: Expected `int` <= 9223372036854775807"),
    "int beyond any float": (line_of(trace(latency_ms=10**400)), "Number out of range"),
    "huge edit": (
        line_of(trace(signals={"edited_chars": 10**30})),
        "signals.edited_chars: Expected `int` <= 9223372036854775807",
    ),
    "turn beyond 32 bit": (line_of(trace(turn_index=2**31)), "turn_index: Expected `int` <= 2147483647"),
    "half a token": (line_of(trace(input_tokens=1.5)), "input_tokens: Expected `int | null`, got `float`"),
    "negative cost": (line_of(trace(cost_usd=-0.1)), "cost_usd: Expected `float` >= 0.0"),
    "six stars": (line_of(trace(signals={"rating": 6})), "signals.rating: Expected `int` <= 5"),
    "thumbs sideways": (
        line_of(trace(signals={"thumbs": "sideways"})),
        "signals.thumbs: Invalid enum value 'sideways'",
    ),
    "1 for true": (line_of(trace(signals={"accepted": 1})), "signals.accepted: Expected `bool | null`, got `int`"),
    "sure beyond sure": (line_of(trace(signals={"confidence": 1.01})), "signals.confidence: Expected `float` <= 1.0"),
    "tools as text": (line_of(trace(tool_calls="search")), "tool_calls: Expected `array | null`, got `str`"),
    "nested too deeply": (
        b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        "malformed JSON: nested too deeply",
    ),
    "feedback with a list": (
        line_of({"trace_id": "t1", "timestamp": "2026-06-01T12:00:00Z", "name": "thumbs", "value": ["down"]}),
        "value: Expected `bool | int | float | str | null`, got `array`",
    ),
    "golden case": (
        line_of({"case_id": "c", "input": "x"}),
        "this is a golden case; import it with `evalflow golden import`",
    ),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_alone_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    content, reason = BAD_LINES[name]
    good, bad = read(tmp_path, content)
    assert good == []
    assert len(bad) == 1
    assert reason in bad[0][1]


@pytest.mark.parametrize("name", BAD_LINES)
def test_the_good_rows_around_a_bad_line_are_read(tmp_path: Path, name: str) -> None:
    content, reason = BAD_LINES[name]
    good, bad = read(tmp_path, GOOD[0] + content + GOOD[1] + GOOD[2])
    assert [(number, record.trace_id) for number, record in good] == [(1, "t1"), (3, "t2"), (4, "t3")]
    assert [number for number, _ in bad] == [2]
    assert reason in bad[0][1]


def test_all_bad_lines_in_one_file_keep_their_numbers(tmp_path: Path) -> None:
    content = b"".join(bad + GOOD[0] for bad, _ in BAD_LINES.values())
    good, bad = read(tmp_path, content)
    # Bad lines stand at 1, 3, 5, ... and good ones at 2, 4, 6, ...
    assert [number for number, _ in bad] == list(range(1, 2 * len(BAD_LINES), 2))
    assert [number for number, _ in good] == list(range(2, 2 * len(BAD_LINES) + 1, 2))


def test_a_reason_is_one_line_and_its_excerpt_is_short(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_bytes(b"".join(content for content, _ in BAD_LINES.values()))
    for line in read_lines(str(path)):
        record = line.row if isinstance(line.row, Unusable) else parse_record(line.row, LIMITS)
        assert isinstance(record, Unusable)
        assert "\n" not in record.reason
        assert len(record.reason) < 300
        assert len(line.excerpt) <= 200
        assert "\0" not in line.excerpt


# -- whole files -------------------------------------------------------------------------------------------

MANY = b"".join(line_of(trace(number)) for number in range(1, 1001))
PACKED = gzip.compress(MANY, mtime=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("traces.jsonl", b""),
        ("traces.jsonl", b"\n \n\r\n"),
        ("traces.jsonl", b"\xef\xbb\xbf"),
        ("traces.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("traces.jsonl.gz", b""),
        ("traces.parquet", b""),
    ],
)
def test_an_empty_file_is_reported_once(tmp_path: Path, name: str, content: bytes) -> None:
    assert read(tmp_path, content, name) == ([], [(0, "the file is empty")])


NOISE = bytes((number * 37 + number // 7) % 256 for number in range(20_000))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(NOISE, id="noise"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + NOISE, id="picture"),
        pytest.param(b"{" + NOISE, id="noise that begins like an object"),
        pytest.param("\n".join(["{}"] * 5).encode("utf-16"), id="UTF-16"),
        pytest.param(gzip.compress(NOISE, mtime=0), id="packed noise"),
        pytest.param(NOISE * 100, id="two megabytes"),
    ],
)
def test_a_binary_file_is_one_report_and_not_one_per_line(tmp_path: Path, content: bytes) -> None:
    reason = "the file is binary or not UTF-8; evalflow reads JSONL, JSONL.gz and Parquet"
    assert read(tmp_path, content) == ([], [(0, reason)])


def test_good_rows_after_a_run_of_nul_bytes_are_read(tmp_path: Path) -> None:
    """A machine that lost power leaves such logs behind."""
    good, bad = read(tmp_path, b"\0" * 4096 + b"\n" + MANY)
    assert len(good) == 1000
    assert bad == [(1, "the line contains NUL bytes")]


def test_a_gzip_that_was_cut_off_gives_its_whole_rows_first(tmp_path: Path) -> None:
    whole = len(PACKED) // 2
    good, bad = read(tmp_path, PACKED[:whole], "traces.jsonl.gz")
    assert ids(good) == [f"t{number}" for number in range(1, len(good) + 1)]
    assert 300 < len(good) < 700  # half of the packed bytes are about half of the rows
    assert bad == [
        (
            len(good) + 1,
            "the gzip stream is broken from here on: Compressed file ended before the end-of-stream marker was reached",
        )
    ]


def test_a_gzip_with_garbage_in_the_middle_gives_the_rows_before_it(tmp_path: Path) -> None:
    middle = len(PACKED) // 2
    good, bad = read(tmp_path, PACKED[:middle] + b"\xff" * 200 + PACKED[middle + 200 :], "traces.jsonl.gz")
    assert ids(good)[:400] == [f"t{number}" for number in range(1, 401)]
    assert "the gzip stream is broken from here on" in bad[-1][1]


def test_a_gzip_with_a_wrong_checksum_gives_its_rows_and_says_so(tmp_path: Path) -> None:
    good, bad = read(tmp_path, PACKED[:-8] + b"\0" * 8, "traces.jsonl.gz")
    assert len(good) == 1000
    assert bad[0][0] == 1001
    assert "CRC check failed" in bad[0][1]


def test_a_gzip_of_several_members_is_one_file(tmp_path: Path) -> None:
    good, bad = read(tmp_path, b"".join(gzip.compress(line) for line in GOOD), "traces.jsonl.gz")
    assert ids(good) == ["t1", "t2", "t3"]
    assert bad == []


def test_a_long_line_in_a_gzip_is_one_line(tmp_path: Path) -> None:
    content = GOOD[0] + line_of(trace(2, input="word " * 190_000)) + GOOD[2].rstrip(b"\n")
    good, bad = read(tmp_path, gzip.compress(content), "traces.jsonl.gz")
    assert [number for number, _ in good] == [1, 2, 3]
    assert bad == []


def test_the_content_decides_and_not_the_ending(tmp_path: Path) -> None:
    assert ids(read(tmp_path, PACKED, "traces.jsonl")[0])[0] == "t1"
    assert ids(read(tmp_path, MANY, "traces.parquet")[0])[0] == "t1"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"".join(GOOD).replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(b"\xef\xbb\xbf" + b"".join(GOOD), id="BOM"),
        pytest.param(b"".join(GOOD).rstrip(b"\n"), id="no newline at the end"),
        pytest.param(b"".join(b"  " + line.rstrip(b"\n") + b" \t\n" for line in GOOD), id="indented"),
    ],
)
def test_line_ends_and_marks_of_other_systems_are_read(tmp_path: Path, content: bytes) -> None:
    good, bad = read(tmp_path, content)
    assert [(number, record.trace_id) for number, record in good] == [(1, "t1"), (2, "t2"), (3, "t3")]
    assert bad == []


def test_blank_lines_are_passed_over_but_counted(tmp_path: Path) -> None:
    good, bad = read(tmp_path, b"\n" + GOOD[0] + b"   \n\r\n" + GOOD[1] + b"\n\n")
    assert [number for number, _ in good] == [2, 5]
    assert bad == []


# -- what a record keeps -----------------------------------------------------------------------------------


def good_trace(**fields: Any) -> Trace:
    record = parse_record(trace(**fields), LIMITS)
    assert isinstance(record, Trace), record
    return record


@pytest.mark.parametrize(
    "name", ["regenerated", "accepted", "reported", "schema_valid", "abandoned", "escalated", "fallback"]
)
def test_null_absent_and_false_are_kept_apart(name: str) -> None:
    """Absent and null are both "unknown"; false is an answer."""
    assert trace_row(good_trace(signals={name: False}))[name] is False
    assert trace_row(good_trace(signals={name: True}))[name] is True
    assert trace_row(good_trace(signals={name: None}))[name] is None
    assert trace_row(good_trace(signals={}))[name] is None
    assert trace_row(good_trace())[name] is None


def test_zero_empty_and_null_are_kept_apart() -> None:
    row = trace_row(
        good_trace(output="", input_tokens=0, latency_ms=0, tool_calls=[], tags=[], signals={"edited_chars": 0})
    )
    assert (row["output"], row["input_tokens"], row["latency_ms"], row["edited_chars"]) == ("", 0, 0.0, 0)
    assert (row["tool_calls"], row["tags"]) == ("[]", "[]")
    empty = trace_row(good_trace())
    assert {name for name, value in empty.items() if value is not None} == {"trace_id", "timestamp", "input"}


def test_unknown_fields_are_kept_in_metadata() -> None:
    row = trace_row(
        good_trace(
            colour="blue",
            nested={"a": [1, None]},
            signals={"rating": 4, "mood": "grim"},
            tool_calls=[{"name": "search"}, {"name": "pay", "id": "call_1"}],
            metadata={"own": 10**40, "colour": "the trace's own metadata wins"},
        )
    )
    assert msgspec.json.decode(row["metadata"]) == {
        "colour": "the trace's own metadata wins",
        "nested": {"a": [1, None]},
        "signals.mood": "grim",
        "tool_calls.1.id": "call_1",
        "own": 10**40,
    }
    assert row["rating"] == 4


def test_a_whole_number_written_with_a_point_is_whole() -> None:
    """JSON knows one kind of number, and Parquet writers store counts with gaps as doubles."""
    row = trace_row(good_trace(turn_index=3.0, input_tokens=12.0, signals={"rating": 4.0, "edited_chars": 7.0}))
    assert (row["turn_index"], row["input_tokens"], row["rating"], row["edited_chars"]) == (3, 12, 4, 7)


def test_a_timestamp_in_another_zone_is_the_same_instant_in_utc() -> None:
    # 01:30 in +05:30 is 20:00 UTC of the day before.
    assert good_trace(timestamp="2026-06-02T01:30:00+05:30").timestamp == datetime(2026, 6, 1, 20, tzinfo=UTC)


def test_both_ends_of_the_accepted_time_are_accepted() -> None:
    for at in (LIMITS.earliest, LIMITS.latest):
        assert good_trace(timestamp=at.isoformat()).timestamp == at
    for at in (LIMITS.earliest - timedelta(microseconds=1), LIMITS.latest + timedelta(microseconds=1)):
        assert isinstance(parse_record(trace(timestamp=at.isoformat()), LIMITS), Unusable)


def test_a_text_of_exactly_the_limit_is_accepted() -> None:
    assert len(good_trace(input="x" * 1_000_000).input) == 1_000_000
    assert isinstance(parse_record(trace(input="x" * 1_000_001), LIMITS), Unusable)


@pytest.mark.parametrize("value", ["down", -1, 0.5, True, None])
def test_feedback_of_every_type_is_read(value: Any) -> None:
    event = parse_record(
        {"trace_id": "t1", "timestamp": "2026-06-01T12:00:00Z", "name": "thumbs", "value": value}, LIMITS
    )
    assert isinstance(event, FeedbackEvent)
    assert feedback_row(event)["value"] == {"down": "down", -1: "-1", 0.5: "0.5", True: "true", None: None}[value]


def test_feedback_without_a_value_has_none() -> None:
    """A Parquet file cannot tell an absent value from a null one, so JSON must not either."""
    event = parse_record({"trace_id": "t1", "timestamp": "2026-06-01T12:00:00Z", "name": "opened"}, LIMITS)
    assert isinstance(event, FeedbackEvent)
    assert event.value is None


def test_a_trace_with_fields_called_name_and_value_is_a_trace() -> None:
    assert isinstance(parse_record(trace(name="thumbs", value="down"), LIMITS), Trace)


def test_half_a_surrogate_pair_from_a_python_source_is_refused() -> None:
    """JSON and Parquet cannot carry one; Python's own json module gives it."""
    record = parse_record(trace(input="a \ud800 b"), LIMITS)
    assert record == Unusable("input contains half of a surrogate pair, which is not text")


def test_a_golden_case_keeps_unknown_fields_and_drops_what_the_ledger_gives() -> None:
    row = {
        "case_id": "c1",
        "input": "x",
        "category": "refunds",
        "version": 3,
        "effective_on": "2026-06-01",
        "weight": 1.0,
    }
    case = parse_golden_case(row, 1000)
    assert isinstance(case, GoldenCase)
    assert case.metadata == {"category": "refunds"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "a line must be a JSON object, this is a list"),
        (trace(), "this is a trace, not a golden case; land it with `evalflow ingest`"),
        ({"case_id": "c1"}, "Object missing required field `input`"),
        ({"case_id": "c1", "input": "x", "origin": "guessed"}, "origin: Invalid enum value 'guessed'"),
        (
            {"case_id": "c1", "input": "x", "created_at": "2026-06-01T00:00:00"},
            "created_at has no time zone; write it in UTC",
        ),
        ({"case_id": "c1", "input": "x", "created_at": "0001-01-01T00:00:00+10:00"}, "a value cannot be read"),
        ({"case_id": "c1", "input": "x" * 1001}, "input has 1,001 bytes, above ingest.max_text_bytes = 1,000"),
        ({"case_id": "c1", "input": "  "}, "input is blank"),
    ],
)
def test_an_unusable_golden_case_has_its_reason(row: Any, reason: str) -> None:
    case = parse_golden_case(row, 1000)
    assert isinstance(case, Unusable)
    assert reason in case.reason


# -- Parquet -----------------------------------------------------------------------------------------------


def parquet(tmp_path: Path, columns: dict[str, Any], **options: Any) -> tuple[Numbered, Refused]:
    path = tmp_path / "traces.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return sorted_out(path)


def two(**columns: Any) -> dict[str, Any]:
    return {"trace_id": ["a", "b"], "input": ["x", "y"], "timestamp": pa.array([AT, AT]), **columns}


def rows_of(good: Numbered) -> list[dict[str, Any]]:
    return [trace_row(record) for _, record in good if isinstance(record, Trace)]


def test_parquet_with_native_types_reads_like_json(tmp_path: Path) -> None:
    good, bad = parquet(
        tmp_path,
        two(
            turn_index=pa.array([0, None], pa.int16()),
            latency_ms=pa.array([12.5, None], pa.float32()),
            cost_usd=pa.array([Decimal("0.02"), None]),
            input_tokens=pa.array([7.0, None], pa.float64()),
            locale=pa.array(["de", None]).dictionary_encode(),
            signals=pa.array([{"accepted": False, "rating": 4, "thumbs": None}, None]),
            tool_calls=pa.array([[{"name": "search", "arguments": '{"q": 1}', "error": None}], []]),
            messages=pa.array([[{"role": "user", "content": "x"}], None]),
            tags=pa.array([[("team", "a")], None], pa.map_(pa.string(), pa.string())),
            metadata=pa.array([{"when": date(2026, 6, 1)}, None]),
            seen=pa.array([b"\xff\x00", None]),
        ),
    )
    assert bad == []
    first, second = rows_of(good)
    assert (first["turn_index"], first["latency_ms"], first["cost_usd"], first["input_tokens"]) == (0, 12.5, 0.02, 7)
    assert (first["accepted"], first["rating"], first["thumbs"], first["locale"]) == (False, 4, None, "de")
    assert msgspec.json.decode(first["tool_calls"]) == [{"name": "search", "arguments": '{"q": 1}', "error": None}]
    assert msgspec.json.decode(first["tags"]) == {"team": "a"}
    assert msgspec.json.decode(first["metadata"]) == {"seen": "/wA=", "when": "2026-06-01"}
    assert {name for name, value in second.items() if value is not None} == {
        "trace_id",
        "timestamp",
        "input",
        "tool_calls",
    }


def test_parquet_with_json_text_reads_like_json(tmp_path: Path) -> None:
    good, bad = parquet(
        tmp_path,
        two(
            signals=['{"accepted": false, "rating": 4}', None],
            tool_calls=['[{"name": "search", "error": "timeout"}]', "[]"],
            metadata=['{"colour": "blue"}', None],
            tags=['["beta"]', '{"team": "a"}'],
        ),
    )
    assert bad == []
    first, second = rows_of(good)
    assert (first["accepted"], first["rating"], first["metadata"], first["tags"]) == (
        False,
        4,
        '{"colour":"blue"}',
        '["beta"]',
    )
    assert (second["tool_calls"], second["tags"]) == ("[]", '{"team":"a"}')


@pytest.mark.parametrize("text", ["not JSON", "[" * 5000, '"text"', '{"rating": 9}'])
def test_parquet_with_broken_json_text_loses_that_row_only(tmp_path: Path, text: str) -> None:
    good, bad = parquet(tmp_path, two(signals=[text, "{}"]))
    assert ids(good) == ["b"]
    assert bad[0][0] == 1
    assert bad[0][1].startswith("signals")


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array([AT, AT], pa.timestamp("us", "America/New_York")), id="another zone"),
        pytest.param(pa.array([AT, AT], pa.timestamp("s", "+05:30")), id="an offset"),
        pytest.param(pa.array([1780315200_000_000_001] * 2, pa.timestamp("ns", "UTC")), id="nanoseconds"),
        pytest.param(pa.array(["2026-06-01T12:00:00Z"] * 2), id="text"),
    ],
)
def test_parquet_timestamps_with_a_zone_are_the_same_instant(tmp_path: Path, column: pa.Array) -> None:
    good, bad = parquet(tmp_path, two(timestamp=column))
    assert bad == []
    assert {record.timestamp for _, record in good} == {AT}


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_parquet_timestamps_without_a_zone_are_refused(tmp_path: Path, unit: str) -> None:
    naive = AT.replace(tzinfo=None)
    good, bad = parquet(tmp_path, two(timestamp=pa.array([naive, naive], pa.timestamp(unit))))
    assert good == []
    reason = "timestamp has no time zone; write it in UTC, for example 2026-06-01T12:00:00Z"
    assert bad == [(1, reason), (2, reason)]


def test_parquet_with_a_day_for_a_timestamp_says_what_to_write(tmp_path: Path) -> None:
    _, bad = parquet(tmp_path, two(timestamp=pa.array([AT.date()] * 2)))
    assert bad[0][1] == "timestamp: Expected `datetime`, got `date`; write it in UTC, for example 2026-06-01T12:00:00Z"


INVALID_TEXT = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b"fine"], pa.binary()).buffers())


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param(
            {"timestamp": pa.array([2**62, int(AT.timestamp() * 1000)], pa.timestamp("ms", "UTC"))},
            id="year 146 million",
        ),
        pytest.param({"input": INVALID_TEXT}, id="invalid UTF-8"),
        pytest.param({"latency_ms": [math.nan, 1.0]}, id="NaN"),
        pytest.param({"latency_ms": [math.inf, 1.0]}, id="infinity"),
        pytest.param({"input_tokens": pa.array([2**64 - 1, 1], pa.uint64())}, id="beyond 64 bit"),
        pytest.param({"trace_id": [None, "b"]}, id="null id"),
        pytest.param({"input": ["a\0b", "y"]}, id="NUL"),
    ],
)
def test_a_parquet_value_that_cannot_be_read_loses_its_row_only(tmp_path: Path, columns: dict[str, Any]) -> None:
    good, bad = parquet(tmp_path, two(**columns))
    assert ids(good) == ["b"]
    assert [number for number, _ in bad] == [1]


def test_parquet_mixes_traces_and_feedback(tmp_path: Path) -> None:
    good, bad = parquet(tmp_path, two(input=["x", None], name=[None, "thumbs"], value=[None, "down"]))
    assert bad == []
    assert [type(record) for _, record in good] == [Trace, FeedbackEvent]


def test_a_parquet_file_without_rows_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "traces.parquet"
    pq.write_table(pa.table(two()).slice(0, 0), path)
    assert sorted_out(path) == ([], [(0, "the file is empty")])


def test_a_damaged_row_group_does_not_take_the_others_along(tmp_path: Path) -> None:
    path = tmp_path / "traces.parquet"
    n = 3000
    table = pa.table(
        {
            "trace_id": [f"t{i}" for i in range(n)],
            "input": [f"question {i:05}" for i in range(n)],
            "timestamp": [AT] * n,
        }
    )
    pq.write_table(table, path, row_group_size=1000, use_dictionary=False, compression="none", write_statistics=False)
    content = bytearray(path.read_bytes())
    middle = content.find(b"question 01500")
    content[middle - 200 : middle] = b"\xff" * 200  # lengths of strings become absurd there
    path.write_bytes(bytes(content))
    good, bad = sorted_out(path)
    assert ids(good) == [f"t{i}" for i in [*range(1000), *range(2000, 3000)]]
    assert [number for number, _ in bad] == [1001]
    assert "broken from this row to row 2000" in bad[0][1]


@pytest.mark.parametrize("kept", [5, 100, -10])
def test_a_parquet_file_that_was_cut_off_is_one_report(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "traces.parquet"
    pq.write_table(pa.table(two()), path)
    path.write_bytes(path.read_bytes()[:kept])
    good, bad = sorted_out(path)
    assert good == []
    assert bad[0][0] == 0
    assert bad[0][1].startswith("the Parquet file cannot be opened")


def test_a_parquet_file_whose_column_names_are_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "traces.parquet"
    pq.write_table(pa.table(two()), path)
    path.write_bytes(path.read_bytes().replace(b"trace_id", b"trac\x96_id"))
    good, bad = sorted_out(path)
    assert good == []
    assert bad


# -- fuzz --------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from([*Trace.__struct_fields__, *FeedbackEvent.__struct_fields__, "case_id", "unknown"])
SIGNALS = st.dictionaries(st.sampled_from(["accepted", "rating", "thumbs", "guardrail", "edited_chars", "odd"]), JSON)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good row with fields replaced or removed, or with bytes of its line overwritten."""
    row = trace(draw(st.integers(0, 99)))
    for name in draw(st.lists(FIELDS, max_size=3)):
        if draw(st.booleans()):
            row.pop(name, None)
        else:
            row[name] = draw(SIGNALS if name == "signals" else JSON)
    line = bytearray(json.dumps(row, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass"))
    for position in draw(st.lists(st.integers(0, len(line) - 1), max_size=2)):
        line[position] = draw(st.integers(0, 255))
    return bytes(line)


def marked(number: int) -> bytes:
    return json.dumps({**trace(number), "trace_id": f"surely-good-{number}"}).encode()


LINES = st.lists(
    st.one_of(
        st.integers(0, 9).map(marked),
        mutated(),
        st.binary(max_size=40),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.sampled_from([content.rstrip(b"\n") for content, _ in BAD_LINES.values() if len(content) < 10_000]),
    ).map(lambda line: line.replace(b"\n", b" ")),
    max_size=12,
)


def is_surely_good(line: bytes) -> bool:
    return any(line == marked(number) for number in range(10))


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], tuple[Numbered, Refused]]:
    path = tmp_path_factory.mktemp("fuzz") / "traces.jsonl"

    def write_and_read(content: bytes) -> tuple[Numbered, Refused]:
        path.write_bytes(content)
        return sorted_out(path)

    return write_and_read


@given(lines=LINES, is_packed=st.booleans(), newline=st.sampled_from([b"\n", b"\r\n"]))
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_no_file_of_lines_raises_or_loses_a_good_row(
    fuzzed: Callable[[bytes], tuple[Numbered, Refused]], lines: list[bytes], is_packed: bool, newline: bytes
) -> None:
    """Every line that is not blank is either a record or a reason, except that a binary file is one reason."""
    content = newline.join(lines)
    if content[:4] in (b"PAR1",) or content[:2] == b"\x1f\x8b":
        return  # these first bytes make it a file of another kind
    good, bad = fuzzed(gzip.compress(content) if is_packed else content)
    texts = [line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line for number, line in enumerate(lines)]
    not_blank = sum(bool(line.strip()) for line in texts)
    if [number for number, _ in bad] == [0]:
        assert good == []
        assert not_blank == 0 or b"\0" in content
    else:
        assert len(good) + len(bad) == not_blank
    surely = [
        (number, json.loads(line)["trace_id"]) for number, line in enumerate(texts, start=1) if is_surely_good(line)
    ]
    read_ids = {number: record.trace_id for number, record in good}
    assert [(number, read_ids.get(number)) for number, _ in surely] == surely
    for _, record in good:  # what is good can be written
        row = trace_row(record) if isinstance(record, Trace) else feedback_row(record)
        assert all(not isinstance(value, (dict, list)) for value in row.values())


@given(flips=st.lists(st.tuples(st.integers(0, len(PACKED) - 1), st.integers(1, 255)), min_size=1, max_size=5))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_gzip_never_raises(
    fuzzed: Callable[[bytes], tuple[Numbered, Refused]], flips: list[tuple[int, int]]
) -> None:
    content = bytearray(PACKED)
    for position, change in flips:
        content[position] ^= change
    good, bad = fuzzed(bytes(content))
    assert good or bad


@given(depth=st.integers(1, 1500))
@settings(max_examples=60)
def test_nesting_of_any_depth_is_read_or_refused(
    fuzzed: Callable[[bytes], tuple[Numbered, Refused]], depth: int
) -> None:
    line = line_of(trace()).replace(b"}\n", b', "deep": ' + b"[" * depth + b"]" * depth + b"}\n")
    good, bad = fuzzed(line)
    assert len(good) + len(bad) == 1
    for row in rows_of(good):
        assert row["metadata"] == '{"deep":' + "[" * depth + "]" * depth + "}"


@given(minutes=st.integers(-14 * 60, 14 * 60), at=st.datetimes())
def test_any_timestamp_with_an_offset_is_read_or_refused(minutes: int, at: datetime) -> None:
    text = at.replace(tzinfo=timezone(timedelta(minutes=minutes))).isoformat()
    record = parse_record(trace(timestamp=text), LIMITS)
    if isinstance(record, Trace):
        assert LIMITS.earliest <= record.timestamp <= LIMITS.latest
    else:
        assert isinstance(record, Unusable)
        assert "timestamp" in record.reason or "a value cannot be read" in record.reason


# -- finding files -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jsonl", "b.jsonl.gz", "deep/c.parquet", "deep/d.ndjson", "notes.txt", ".hidden.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(GOOD[0])
    return tmp_path


def names(found: FoundFiles) -> tuple[list[str], list[str]]:
    return [Path(item).name for item in found.files], [Path(item).name for item in found.ignored]


def test_a_folder_is_searched_in_depth_and_says_what_it_leaves_aside(folder: Path) -> None:
    assert names(find_files(str(folder))) == (["a.jsonl", "b.jsonl.gz", "c.parquet", "d.ndjson"], ["notes.txt"])


def test_a_glob_says_what_it_leaves_aside(folder: Path) -> None:
    assert names(find_files(f"{folder}/*")) == (["a.jsonl", "b.jsonl.gz"], ["notes.txt"])
    assert names(find_files(f"{folder}/**/*.parquet")) == (["c.parquet"], [])


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_bytes(GOOD[0])
    assert names(find_files(f"{tmp_path}/a[1].jsonl")) == (["a[1].jsonl"], [])


def test_a_relative_path_is_found_under_its_absolute_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_files("a.jsonl").files == find_files("*.jsonl").files == [str(folder / "a.jsonl")]
    assert find_files(".").files[0] == find_files(str(folder)).files[0]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "{folder}/nothing.jsonl",
            "There is no file at {folder}/nothing.jsonl; name a file, a folder or a glob in quotes.",
        ),
        ("{folder}/*.csv", "There is no file at {folder}/*.csv; name a file, a folder or a glob in quotes."),
        ("{folder}/notes.txt", "{folder}/notes.txt does not end in .jsonl"),
        ("{folder}/*.txt", "notes.txt does not end in .jsonl"),
        ("{folder}/empty", "The folder {folder}/empty holds no file ending in .jsonl"),
        ("", "The path is empty; name a file, a folder or a glob in quotes."),
        ("nowhere://bucket/x", "nowhere://bucket/x cannot be read"),
        ("memory://nothing/here", "There is no file at memory://nothing/here"),
    ],
)
def test_a_path_that_names_nothing_says_what_to_do(folder: Path, path: str, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(BadInputError) as caught:
        find_files(path.format(folder=folder))
    assert message.format(folder=folder) in str(caught.value)
