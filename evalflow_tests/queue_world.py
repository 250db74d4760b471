"""Queued traces written straight into a lake: rows as a refresh leaves them, without the pipeline before it."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.tables import TRIAGE_QUEUE, Table
from evalflow.core.text import text_hash

WEEK = date(2026, 6, 1)
LAST = date(2026, 6, 7)
TODAY = date(2026, 6, 8)


def closed_home(path: Path) -> Home:
    """A home of one week whose today is the Monday after it."""
    write_setting(path, "traffic_start", WEEK)
    write_setting(path, "traffic_end", LAST)
    return open_home(path).prepare()


def queued(trace_id: str, **given: Any) -> dict[str, Any]:
    """One row of the queue."""
    text = given.get("text", f"where is parcel {trace_id}")
    return {
        "trace_id": trace_id,
        "session_id": None,
        "turn_index": 0,
        "timestamp": datetime(2026, 6, 3, 12, tzinfo=UTC),
        "source": "quota",
        "reason": "blind spot",
        "priority": 0.5,
        "queue": "general",
        "bin": "c000",
        "label": "parcels",
        "selected_by": "sample",
        "inclusion_probability": 0.5,
        "label_probability": None,
        "text": text,
        "text_hash": text_hash(text),
        "output": "It is on its way.",
        "context": json.dumps({"conversation": [], "turns": [{"place": "this", "input": text}]}),
        "negative_signals": [],
        "signals": "{}",
        "grades": "[]",
        "novel_above": 0.5,
        "model": "m",
        "prompt_version": None,
        "variant": None,
        "user_tier": "free",
        "locale": "de-DE",
        "queued_on": TODAY,
        "taxonomy_id": "t",
        **given,
    }


def fill(home: Home, rows: list[dict[str, Any]], week: date = WEEK, table: Table = TRIAGE_QUEUE) -> None:
    home.lake.write(table, week, pl.DataFrame(rows, schema=table.schema), made_from="test")
