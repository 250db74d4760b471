"""Tool calls: names in order and failures, and never an argument; what was not logged is not known."""

import json

import polars as pl

from evalflow.core.tool_calls import MAX_NAME_CHARS, tool_use


def test_names_keep_their_order_and_failures_are_counted() -> None:
    calls = [{"name": "search", "arguments": {"name": "Ann", "error": "x"}}, {"name": "pay", "error": "declined"}]
    used = tool_use(pl.Series([json.dumps(calls), json.dumps([]), None]))
    assert used.names.to_list() == [["search", "pay"], [], None]
    assert used.n_errors.to_list() == [1, 0, None]


def test_errors_that_say_none_are_none() -> None:
    calls = [{"name": "a", "error": none} for none in (None, False, "")] + [{"name": "a", "error": {"code": 500}}]
    assert tool_use(pl.Series([json.dumps(calls)])).n_errors.to_list() == [1]


def test_a_call_without_a_name_keeps_its_place_and_a_long_one_is_cut() -> None:
    calls = [{"arguments": {}}, {"name": ""}, {"name": "x" * 1000}]
    assert tool_use(pl.Series([json.dumps(calls)])).names.to_list() == [["unnamed", "unnamed", "x" * MAX_NAME_CHARS]]


def test_a_day_without_traces_or_without_calls_keeps_the_types() -> None:
    for nothing in ([], [None, None]):
        used = tool_use(pl.Series(nothing, dtype=pl.String))
        assert (used.names.dtype, used.n_errors.dtype) == (pl.List(pl.String), pl.Int64)
        assert used.names.null_count() == len(nothing)
