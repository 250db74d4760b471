"""Signals: each is true, false, or null where it cannot be known. Every expected value is worked out by hand."""

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalflow.adapters.tables import FEEDBACK, RAW_TRACES, TRACE_SIGNALS
from evalflow.core.records import Limits, Trace, parse_record, trace_row
from evalflow.core.signals import NEGATIVE_SIGNALS, trace_signals

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
LIMITS = Limits(datetime(2024, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), 1_000_000)
Event = tuple[str, Any]


def raw(trace_id: str = "t1", **fields: Any) -> dict[str, Any]:
    """A row of ``raw_traces`` as landing would have made it from native JSON."""
    record = parse_record({"trace_id": trace_id, "timestamp": AT.isoformat(), "input": "x", **fields}, LIMITS)
    assert isinstance(record, Trace), record
    return {**trace_row(record), "source_file": "traces.jsonl", "line": 1}


def later(trace_id: str, *events: Event) -> list[dict[str, Any]]:
    return [
        {
            "trace_id": trace_id,
            "timestamp": AT,
            "name": name,
            "value": value,
            "source_file": "feedback.jsonl",
            "line": 1,
        }
        for name, value in events
    ]


def signals(rows: list[dict[str, Any]], events: list[dict[str, Any]]) -> pl.DataFrame:
    return trace_signals(pl.DataFrame(rows, schema=RAW_TRACES.schema), pl.DataFrame(events, schema=FEEDBACK.schema))


def one(*events: Event, **fields: Any) -> dict[str, Any]:
    return signals([raw(**fields)], later("t1", *events)).row(0, named=True)


TABLE: list[tuple[str, dict[str, Any], bool | None]] = [
    # signal, the trace's fields, what is known
    *[
        (f"is_{name}", {"signals": {name: value}}, value)
        for name in ("regenerated", "abandoned", "escalated", "fallback", "reported")
        for value in (True, False, None)
    ],
    ("is_edited", {"signals": {"edited_chars": 1}}, True),
    ("is_edited", {"signals": {"edited_chars": 0}}, False),
    ("is_edited", {"signals": {"edited_chars": None}}, None),
    ("is_thumbs_down", {"signals": {"thumbs": "down"}}, True),
    ("is_thumbs_down", {"signals": {"thumbs": "up"}}, False),
    ("is_thumbs_down", {"signals": {"thumbs": None}}, None),
    ("is_low_rated", {"signals": {"rating": 1}}, True),
    ("is_low_rated", {"signals": {"rating": 2}}, True),
    ("is_low_rated", {"signals": {"rating": 3}}, False),
    ("is_low_rated", {"signals": {"rating": 5}}, False),
    ("is_low_rated", {"signals": {"rating": None}}, None),
    ("is_guardrail_hit", {"signals": {"guardrail": True}}, True),
    ("is_guardrail_hit", {"signals": {"guardrail": "self_harm"}}, True),
    ("is_guardrail_hit", {"signals": {"guardrail": False}}, False),
    ("is_guardrail_hit", {"signals": {"guardrail": "none"}}, False),
    ("is_guardrail_hit", {"signals": {"guardrail": ""}}, False),
    ("is_guardrail_hit", {"signals": {"guardrail": None}}, None),
    ("is_schema_failure", {"signals": {"schema_valid": False}}, True),
    ("is_schema_failure", {"signals": {"schema_valid": True}}, False),
    ("is_schema_failure", {"signals": {"schema_valid": None}}, None),
    ("is_tool_failure", {"tool_calls": [{"name": "a", "error": "timeout"}]}, True),
    ("is_tool_failure", {"tool_calls": [{"name": "a"}, {"name": "b", "error": {"code": 500}}]}, True),
    ("is_tool_failure", {"tool_calls": [{"name": "a", "error": None}, {"name": "b"}]}, False),
    ("is_tool_failure", {"tool_calls": [{"name": "a", "error": False}]}, False),
    ("is_tool_failure", {"tool_calls": [{"name": "a", "error": ""}]}, False),
    ("is_tool_failure", {"tool_calls": [{"name": "log", "arguments": {"error": "seen by the user"}}]}, False),
    ("is_tool_failure", {"tool_calls": [{"name": "log", "arguments": '{"error": "seen"}'}]}, False),
    ("is_tool_failure", {"tool_calls": []}, False),
    ("is_tool_failure", {"tool_calls": None}, None),
    ("is_tool_failure", {}, None),
    ("is_error", {"error": "timeout"}, True),
    ("is_error", {"error": {"code": 500}}, True),
    ("is_error", {"error": True}, True),
    # A trace without an error says nothing about whether one was looked for.
    ("is_error", {"error": None}, None),
    ("is_error", {"error": False}, None),
    ("is_error", {"error": ""}, None),
    ("is_error", {}, None),
]


@pytest.mark.parametrize(("name", "fields", "expected"), TABLE)
def test_each_signal_of_a_trace_by_itself(name: str, fields: dict[str, Any], expected: bool | None) -> None:
    row = one(**fields)
    assert row[name] is expected
    assert row["is_negative"] is (expected is True)
    assert row["negative_signals"] == ([name.removeprefix("is_")] if expected else [])
    others = [other for other in NEGATIVE_SIGNALS if other != name]
    assert {row[other] for other in others} == {None}


FEEDBACK_TABLE: list[tuple[str, str, Any, bool | None]] = [
    # signal, the event's name and value as text, what it says
    ("is_thumbs_down", "thumbs", "down", True),
    ("is_thumbs_down", "thumbs", "up", False),
    ("is_thumbs_down", "Thumbs", "DOWN", True),
    ("is_thumbs_down", "thumb", "thumbs_down", True),
    ("is_thumbs_down", "user_feedback", "-1", True),
    ("is_thumbs_down", "user_feedback", "-1.0", True),
    ("is_thumbs_down", "user_feedback", "0", True),
    ("is_thumbs_down", "user_feedback", "0.0", True),
    ("is_thumbs_down", "user_feedback", "1", False),
    ("is_thumbs_down", "user_feedback", "1.0", False),
    ("is_thumbs_down", "user_feedback", "false", True),
    ("is_thumbs_down", "user_feedback", "true", False),
    ("is_thumbs_down", "thumbs", None, None),
    ("is_low_rated", "rating", "1", True),
    ("is_low_rated", "rating", "2", True),
    ("is_low_rated", "rating", "2.0", True),
    ("is_low_rated", "rating", "2.5", False),
    ("is_low_rated", "stars", "5", False),
    ("is_low_rated", "rating", "great", None),
    ("is_low_rated", "rating", None, None),
    ("is_reported", "reported", "true", True),
    ("is_reported", "report", "abusive", True),
    ("is_reported", "reported", "1", True),
    ("is_reported", "reported", "false", False),
    ("is_reported", "reported", "0", False),
    ("is_reported", "reported", "0.0", False),
    ("is_reported", "reported", None, None),
]


@pytest.mark.parametrize(("name", "event", "value", "expected"), FEEDBACK_TABLE)
def test_each_kind_of_later_feedback(name: str, event: str, value: str | None, expected: bool | None) -> None:
    row = one((event, value))
    assert row[name] is expected
    assert row["is_negative"] is (expected is True)


@pytest.mark.parametrize("event", [("comment", "down"), ("rating_reason", "1"), ("reporter", "true")])
def test_feedback_of_another_kind_says_nothing(event: Event) -> None:
    row = one(event)
    assert {row[name] for name in NEGATIVE_SIGNALS} == {None}


@pytest.mark.parametrize("now", [True, False, None])
@pytest.mark.parametrize("afterwards", [True, False, None])
@pytest.mark.parametrize(
    ("name", "field", "event", "values"),
    [
        ("is_thumbs_down", "thumbs", "thumbs", {True: ("down", "down"), False: ("up", "up"), None: (None, None)}),
        ("is_low_rated", "rating", "rating", {True: (1, "1"), False: (5, "5"), None: (None, None)}),
        ("is_reported", "reported", "reported", {True: (True, "true"), False: (False, "false"), None: (None, None)}),
    ],
)
def test_trace_and_later_feedback_together(
    name: str, field: str, event: str, values: dict[bool | None, Any], now: bool | None, afterwards: bool | None
) -> None:
    """True if either says so, null only when neither is known, else false."""
    known = {now, afterwards} - {None}
    expected = True if True in known else False if known else None
    row = one((event, values[afterwards][1]), signals={field: values[now][0]})
    assert row[name] is expected


def test_one_complaint_among_several_events_counts() -> None:
    """A user who first complains and then thanks has complained."""
    row = one(("thumbs", "down"), ("thumbs", "up"), ("rating", "5"), ("rating", None), ("stars", "2"))
    assert (row["is_thumbs_down"], row["is_low_rated"], row["is_reported"]) == (True, True, None)
    assert row["negative_signals"] == ["thumbs_down", "low_rated"]


def test_feedback_goes_to_its_own_trace_and_makes_no_new_rows() -> None:
    frame = signals(
        [raw("b"), raw("a"), raw("c")], [*later("a", ("thumbs", "down")), *later("elsewhere", ("thumbs", "down"))]
    )
    assert frame["trace_id"].to_list() == ["b", "a", "c"]  # in the order of the traces
    assert frame["is_thumbs_down"].to_list() == [None, True, None]
    assert frame["is_negative"].to_list() == [False, True, False]


def test_all_negative_signals_are_listed_in_one_order() -> None:
    row = one(
        ("reported", "true"),
        error="timeout",
        tool_calls=[{"error": "x"}],
        signals={
            "schema_valid": False,
            "regenerated": True,
            "edited_chars": 3,
            "thumbs": "down",
            "rating": 1,
            "escalated": True,
            "fallback": True,
            "guardrail": "pii",
            "abandoned": True,
            "confidence": 0.25,
            "accepted": False,
        },
    )
    assert row["negative_signals"] == [name.removeprefix("is_") for name in NEGATIVE_SIGNALS]
    assert row["confidence"] == 0.25


def test_no_traces_give_no_rows_with_the_right_columns() -> None:
    frame = signals([], later("t1", ("thumbs", "down")))
    assert frame.is_empty()
    assert dict(frame.schema) == {
        name: dtype if isinstance(dtype, pl.DataType) else dtype() for name, dtype in TRACE_SIGNALS.schema.items()
    }


@given(
    calls=st.none()
    | st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "name": st.text(max_size=5),
                "arguments": st.dictionaries(st.sampled_from(["error", "q"]), st.text()),
                "error": st.none() | st.text(),
            },
        ),
        max_size=4,
    )
)
@settings(max_examples=100)
def test_a_tool_failure_is_a_call_with_an_error_whatever_its_arguments_say(calls: list[dict[str, Any]] | None) -> None:
    if any("\0" in str(value) for call in calls or [] for value in call.values()):
        return
    expected = None if calls is None else any(call.get("error") for call in calls)
    assert one(tool_calls=calls)["is_tool_failure"] is expected
