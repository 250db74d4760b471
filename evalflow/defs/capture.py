"""What people see of a queued trace: its conversation before and after, tool calls, signals, grades and feedback.

Everything is scrubbed and bounded, and what was left out is counted. Belongs here: reading one trace's story from the
lake. Keep out: which traces are queued (``triage.py``, ``errors.py``).
"""

import json
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import FEEDBACK, JUDGE_GRADES, RAW_TRACES, TRACE_SIGNALS
from evalflow.core.signals import NEGATIVE_SIGNALS
from evalflow.core.text import text_hash

DEEPEST = 50
"""Nesting of a tool call or of metadata beyond this is no longer for people's eyes."""
MOST_CHARS = 200_000
"""Characters of a trace's story: some sixty pages. What is nearest to the trace comes first."""
MOST_VALUES = 1_000
"""Entries of one list or object."""
MOST_TURNS_BEFORE, MOST_TURNS_AFTER = 50, 5
"""Turns of the session that are shown: those nearest to the trace."""
ROW_COLUMNS = (
    "session_id",
    "turn_index",
    "timestamp",
    "model",
    "prompt_version",
    "variant",
    "user_tier",
    "locale",
)
_TURN_COLUMNS = (
    *("trace_id", "turn_index", "timestamp", "model", "prompt_version", "latency_ms"),
    *("input_tokens", "output_tokens", "context_tokens", "cost_usd"),
)
_TEXTS = ("input", "output", "value", "comment", "name", "source")
_FEEDBACK_COLUMNS = ("timestamp", "name", "value", "comment", "source")


def contexts_of(home: Home, day: date, trace_ids: list[str], scrubber: Scrubber) -> dict[str, dict[str, Any]]:
    """For each trace of the day what a reviewer needs, as columns of a queue's row.

    ``context`` holds one JSON document: ``conversation`` (the texts before it), ``turns`` (those before, this one and
    those after, each with its tool calls: a tree of spans), ``feedback`` about it, its ``messages``, ``tags`` and
    ``metadata``, and ``left_out`` where something was too much to show. A trace that is not there gives no entry.
    """
    around = home.lake.read(RAW_TRACES, [day - timedelta(days=1), day, day + timedelta(days=1)])
    chosen = around.filter(pl.col("trace_id").is_in(trace_ids) & (pl.col("timestamp").dt.date() == day))
    sessions = chosen["session_id"].drop_nulls().unique().to_list()
    turns = around.filter(pl.col("session_id").is_in(sessions)).sort(
        "timestamp", "turn_index", "trace_id", nulls_last=True
    )
    said = pl.concat(
        [
            home.lake.read(TRACE_SIGNALS, [other], ["trace_id", *NEGATIVE_SIGNALS, "confidence", "negative_signals"])
            for other in (day - timedelta(days=1), day, day + timedelta(days=1))
        ]
    )
    wanted = [*trace_ids, *turns["trace_id"]]
    signals = {row.pop("trace_id"): row for row in said.filter(pl.col("trace_id").is_in(wanted)).to_dicts()}
    grades = home.lake.read(JUDGE_GRADES, [day], ["trace_id", "grader", "grader_version", "verdict", "reason"])
    grades = grades.filter(pl.col("trace_id").is_in(trace_ids)).sort("grader")
    until = home.calendar.feedback_days(day, home.settings.ingest.feedback_days)
    feedback = home.lake.read(FEEDBACK, until, ["trace_id", *_FEEDBACK_COLUMNS])
    feedback = feedback.filter(pl.col("trace_id").is_in(trace_ids)).sort("timestamp", "name", nulls_last=True)
    found = {}
    for row in chosen.iter_rows(named=True):
        trace_id, own = row["trace_id"], signals.get(row["trace_id"], {})
        text = scrubber.scrub(row["input"]).text
        session = turns.filter(pl.col("session_id") == row["session_id"]).to_dicts() if row["session_id"] else [row]
        events = feedback.filter(pl.col("trace_id") == trace_id).drop("trace_id").to_dicts()
        story = _Story(scrubber).tell(row, session, events, signals)
        own_grades = grades.filter(pl.col("trace_id") == trace_id).drop("trace_id").to_dicts()
        known = {name: value for name, value in own.items() if name != "negative_signals" and value is not None}
        found[trace_id] = {
            **{name: row[name] for name in ROW_COLUMNS},
            "text": text,
            "text_hash": text_hash(text),
            "output": None if row["output"] is None else scrubber.scrub(row["output"]).text,
            "context": json.dumps(story, ensure_ascii=False),
            "negative_signals": own.get("negative_signals", []),
            "signals": json.dumps(known, ensure_ascii=False),
            "grades": json.dumps(own_grades, ensure_ascii=False),
        }
    return found


class _Story:
    """One trace's story in the making, and what of its characters is left."""

    def __init__(self, scrubber: Scrubber) -> None:
        self.scrubber = scrubber
        self.chars_left = MOST_CHARS
        self.n_turns_out = self.n_values_out = 0

    def tell(
        self,
        row: Mapping[str, Any],
        session: list[dict[str, Any]],
        events: list[dict[str, Any]],
        signals: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, Any]:
        at = next(place for place, turn in enumerate(session) if turn["trace_id"] == row["trace_id"])
        before, after = session[:at], session[at + 1 :]
        shown = before[-MOST_TURNS_BEFORE:], after[:MOST_TURNS_AFTER]
        self.n_turns_out = len(before) + len(after) - len(shown[0]) - len(shown[1])
        # The nearest first, so that what is too much is far away.
        this = self._turn(row, "this", signals)
        heard = [self._present(event, _FEEDBACK_COLUMNS) for event in events]
        earlier = [self._turn(turn, "before", signals) for turn in reversed(shown[0])][::-1]
        later = [self._turn(turn, "after", signals) for turn in shown[1]]
        rest = {name: self._value(_opened(row[name])) for name in ("messages", "tags", "metadata") if row[name]}
        left_out = {"turns": self.n_turns_out, "values": self.n_values_out}
        return {
            "conversation": [
                {"role": role, "content": turn[name]}
                for turn in earlier
                for role, name in (("user", "input"), ("assistant", "output"))
                if name in turn
            ],
            "turns": [*earlier, this, *later],
            **({"feedback": heard} if heard else {}),
            **rest,
            **({"left_out": left_out} if any(left_out.values()) else {}),
        }

    def _turn(self, row: Mapping[str, Any], place: str, signals: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """One turn as a span: who answered, how long, at what price, its texts, its calls; nulls left out."""
        turn = {"place": place, **self._present(row, (*_TURN_COLUMNS, "input", "output"))}
        for name in ("error", "tool_calls"):
            if row[name]:
                turn[name] = self._value(_opened(row[name]))
        negative = signals.get(row["trace_id"], {}).get("negative_signals")
        return {**turn, "signals": negative} if negative else turn

    def _present(self, row: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        return {name: self._shown(name, row[name]) for name in names if row[name] is not None}

    def _shown(self, name: str, value: Any) -> Any:
        """Somebody's text scrubbed; ids, names of models and numbers as they are."""
        if isinstance(value, datetime):
            return value.isoformat()
        return self._value(value) if name in _TEXTS else value

    def _value(self, value: Any, depth: int = 0) -> Any:
        """Every text inside a nested value scrubbed, long numbers too; keys are names of fields and stay."""
        if self.chars_left <= 0 or depth > DEEPEST:
            self.n_values_out += 1
            return "(too much to be shown)" if depth <= DEEPEST else "(nested too deeply to be shown)"
        self.chars_left -= 1
        if isinstance(value, Mapping):
            return {key: self._value(inner, depth + 1) for key, inner in self._some(list(value.items()))}
        if isinstance(value, list):
            return [self._value(inner, depth + 1) for inner in self._some(value)]
        if isinstance(value, str):
            return self._cut(self.scrubber.scrub(value).text)
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = str(value)  # a card or a phone number may be written as a number
            found = self.scrubber.scrub(text)
            return found.text if found.n_replaced else value
        return value

    def _some(self, values: list[Any]) -> list[Any]:
        """The first of many values."""
        self.n_values_out += max(0, len(values) - MOST_VALUES)
        return values[:MOST_VALUES]

    def _cut(self, text: str) -> str:
        kept = text[: self.chars_left]
        self.chars_left -= len(kept)
        if len(kept) == len(text):
            return text
        self.n_values_out += 1
        return f"{kept}… ({len(text) - len(kept):,} characters left out)"


def _opened(value: str) -> Any:
    """What the lake keeps as JSON text, opened; an error may be plain text, and a few documents are past opening."""
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value
