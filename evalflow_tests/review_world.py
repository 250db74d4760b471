"""A queue for the review page, written straight into a home: believable traces, and hostile ones."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import polars as pl

from evalflow.adapters.attempts import KeptAttempt
from evalflow.adapters.home import Home, open_home
from evalflow.adapters.tables import TRIAGE_QUEUE
from evalflow.core.records import GoldenCase
from evalflow.core.text import text_hash

WEEK = date(2026, 6, 1)
NOON = datetime(2026, 6, 3, 12, tzinfo=UTC)
QUESTIONS = (
    (
        "Where is my parcel? It was due on Monday and the tracking page has not moved for three days.",
        "delivery",
        "I am sorry to hear that. Your parcel is on its way.",
    ),
    (
        "I was charged twice for order 4417, please refund one of them.",
        "refunds",
        "You can find our refund policy on the website.",
    ),
    (
        "How do I change the delivery address after ordering?",
        "address change",
        "Open your order and press Change address; this works until it is packed.",
    ),
    (
        "Mein Gutschein wird nicht angenommen, was mache ich falsch?",
        "vouchers",
        "Vouchers cannot be combined with a sale.",
    ),
    (
        "Does the blue jacket run small? I am between M and L and usually wear a slim fit.",
        "sizes",
        "It runs true to size; between two sizes we suggest the larger one.",
    ),
    (
        "Cancel my subscription now and confirm by mail.",
        "subscription",
        "I have escalated your request to a colleague.",
    ),
    (
        "Ihr Chat hat mir gestern etwas anderes gesagt als heute. Was stimmt denn nun?",
        "complaints",
        "Thank you for your feedback!",
    ),
    ("Can I return shoes that I have worn outside once?", "returns", "Yes, within 30 days, in any condition."),
)
SOURCES = ("feedback", "failed_grade", "signal", "quota", "calibration")
REASONS = {
    "feedback": "its user said so: thumbs down",
    "failed_grade": "graded fail by llm 3f2a1c: the answer does not do what was asked",
    "signal": "its system escalated it to a person",
    "quota": "blind spot: 4.2% of traffic, 0 of 120 cases; 6 labels planned",
    "calibration": "drawn at random from the sample, so that graders can be held against people",
}
SIGNALS = {"feedback": ["thumbs_down"], "signal": ["escalated", "regenerated"]}
GRADE = {
    "grader": "llm",
    "grader_version": "3f2a1c",
    "verdict": "fail",
    "reason": "It repeats a policy instead of saying where the parcel is.",
}


def queue_row(number: int, **given: Any) -> dict[str, Any]:
    """One believable row of the queue; ``given`` replaces columns, and ``context`` may be a dict."""
    chance = Random(number)
    text, label, output = QUESTIONS[number % len(QUESTIONS)]
    source = SOURCES[number % len(SOURCES)]
    at = NOON - timedelta(minutes=7 * number)
    row: dict[str, Any] = dict.fromkeys(TRIAGE_QUEUE.schema)
    row |= {
        "trace_id": f"t-{number:05d}",
        "session_id": f"s-{number:05d}",
        "turn_index": 1,
        "timestamp": at,
        "source": source,
        "reason": REASONS[source],
        "priority": round(0.95 - 0.9 * (number % 97) / 97, 4),
        "queue": "general" if number % 4 else "payments",
        "bin": f"b{number % len(QUESTIONS):02d}",
        "label": label,
        "selected_by": "sample",
        "inclusion_probability": 0.3,
        "text": text,
        "output": output,
        "negative_signals": SIGNALS.get(source, []),
        "signals": {**dict.fromkeys(SIGNALS.get(source, []), True), "confidence": round(chance.random(), 2)},
        "grades": [GRADE] if source == "failed_grade" else [],
        "novel_above": 0.4,
        "model": "answers-7b",
        "prompt_version": "v12",
        "user_tier": "free" if number % 3 else "business",
        "locale": "de-DE" if "ich" in text else "en-GB",
        "queued_on": date(2026, 6, 7) - timedelta(days=number % 12),
        "taxonomy_id": "2026-06-01",
    }
    row["context"] = _context(number, at, text, output, source)
    row |= given
    row["text_hash"] = text_hash(row["text"])
    return row | {name: json.dumps(row[name], ensure_ascii=False) for name in ("context", "signals", "grades")}


def _context(number: int, at: datetime, text: str, output: str, source: str) -> dict[str, Any]:
    """The session: a turn before, the one that is asked about with two calls of tools, and one after."""
    opening, reply = "Hello, I have a question about my order.", "Of course. What would you like to know?"
    common = {"model": "answers-7b", "prompt_version": "v12"}
    is_late = number % 3 == 0
    calls = [
        {"name": "find_order", "arguments": {"query": "order 4417", "limit": 3}},
        {
            "name": "carrier_status",
            "arguments": {"order_id": "4417"},
            "error": "timeout after 1500 ms" if is_late else None,
        },
    ]
    before = {"place": "before", "turn_index": 0, "timestamp": str(at - timedelta(minutes=2)), "latency_ms": 410.0}
    this = {"place": "this", "turn_index": 1, "timestamp": str(at), "latency_ms": 1843.0, "cost_usd": 0.0031}
    after = {"place": "after", "turn_index": 2, "timestamp": str(at + timedelta(minutes=1)), "latency_ms": 388.0}
    return {
        "conversation": [{"role": "user", "content": opening}, {"role": "assistant", "content": reply}],
        "turns": [
            {**common, **before, "input": opening, "output": reply, "input_tokens": 211, "output_tokens": 14},
            {
                **common,
                **this,
                "input": text,
                "output": output,
                "input_tokens": 1204,
                "output_tokens": 58,
                "context_tokens": 3120,
                "tool_calls": calls,
            },
            {
                **common,
                **after,
                "input": "That does not answer my question.",
                "output": "Let me connect you to a colleague.",
            },
        ],
        "feedback": [{"name": "thumbs", "value": "down", "comment": "It ignored what I asked."}]
        if source == "feedback"
        else [],
        "metadata": {"channel": "web", "experiment": {"arm": "b", "since": "2026-05-20"}},
    }


def home_with_queue(path: Path, rows: list[dict[str, Any]], *, settings: str = "", cases: int = 0) -> Home:
    """A home of its own, closed on 7 June, with these rows queued and so many golden cases; other tables are not there yet."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "evalflow.toml").write_text(f"traffic_start = 2026-05-01\ntraffic_end = 2026-06-07\n{settings}")
    home = open_home(path)
    home.lake.write(TRIAGE_QUEUE, WEEK, pl.DataFrame(rows, schema=TRIAGE_QUEUE.schema), made_from="")
    golden = [
        GoldenCase(case_id=f"case-{number}", input=QUESTIONS[number % len(QUESTIONS)][0], expected_output="Say so.")
        for number in range(cases)
    ]
    if golden:
        home.ledger.import_cases(golden, "test", home.now())
    return home


def add_attempts(home: Home, answers: dict[str, str], version: str = "v13") -> None:
    """A candidate's answers to queued traces, as a run of the system under test leaves them."""
    kept = [
        KeptAttempt(
            kind="trace",
            item_id=trace_id,
            input_hash="",
            system="python:candidate:answer",
            system_version=version,
            scorer=None,
            attempt=1,
            output=output,
            verdict="unscored",
            reason="",
            latency_ms=None,
        )
        for trace_id, output in answers.items()
    ]
    home.attempts.journal.append("attempts", [msgspec.json.encode(attempt) for attempt in kept], "test", home.now())
