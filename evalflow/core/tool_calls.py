"""What a trace's tool calls were: their names in order, and how many failed.

``tool_calls`` is the JSON text that ``raw_traces`` holds. Keep out: arguments and results, which are unscrubbed text.
"""

from typing import Any, NamedTuple

import msgspec
import polars as pl

MAX_NAME_CHARS = 80
"""A tool's name is an identifier; one that is longer is text that got there by mistake, and is cut."""
UNNAMED = "unnamed"
"""Stands for a call without a name, so that the order of the others is kept."""


class ToolUse(NamedTuple):
    """Per trace: names of the calls in order (List[String]) and failed calls (Int64). Null where calls were not logged."""

    names: pl.Series
    n_errors: pl.Series


class _Call(msgspec.Struct):
    name: str | None = None
    error: Any = None

    @property
    def is_failure(self) -> bool:
        return self.error not in (None, False, "")


_CALLS = msgspec.json.Decoder(list[_Call])


def tool_use(tool_calls: pl.Series) -> ToolUse:
    """Names and failures of each trace's calls; a trace that logged an empty list used no tool, which is known.

    A call failed when its own ``error`` is set; a field of that name among its arguments says nothing.
    """
    calls = [None if text is None else _CALLS.decode(text) for text in tool_calls]
    names = [None if made is None else [(call.name or UNNAMED)[:MAX_NAME_CHARS] for call in made] for made in calls]
    n_errors = [None if made is None else sum(call.is_failure for call in made) for made in calls]
    return ToolUse(
        pl.Series("tools", names, dtype=pl.List(pl.String)), pl.Series("n_tool_errors", n_errors, dtype=pl.Int64)
    )
