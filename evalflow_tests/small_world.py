"""A small planted world: topics that are easy to tell apart, enough texts for a real fit, everything seeded."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

OPENINGS = (
    "please tell me",
    "i want to know",
    "can you explain",
    "help me understand",
    "quick question:",
    "hello,",
    "hi there,",
)
TOPICS = {
    "moon": (
        "the phases of the moon",
        "when the next full moon rises",
        "craters on the moon",
        "a lunar eclipse tonight",
    ),
    "bread": ("baking sourdough bread", "how long dough must rise", "why my bread is flat", "flour for a rye loaf"),
    "bicycle": (
        "changing a bicycle tyre",
        "a bike chain that slips",
        "brake pads for my bicycle",
        "the right saddle height",
    ),
    "tax": (
        "filing my tax return",
        "deducting office costs from tax",
        "when income tax is due",
        "a letter from the tax office",
    ),
    "piano": ("tuning an old piano", "learning piano scales", "a sticky piano key", "how often to practise the piano"),
    "coffee": (
        "grinding coffee beans",
        "an espresso that tastes bitter",
        "cleaning a coffee machine",
        "milk foam for a cappuccino",
    ),
    "whale": ("how whales sleep", "the song of the humpback whale", "what blue whales eat", "where to watch whales"),
    "chess": (
        "the queen's gambit in chess",
        "a chess endgame with rooks",
        "how knights move in chess",
        "rating my chess club",
    ),
}
DETAILS = (
    "today",
    "for a beginner",
    "in simple words",
    "step by step",
    "before the weekend",
    "again",
    "with an example",
    "if possible",
)
NEW_TOPIC = "volcano"
NEW_PHRASES = (
    "why a volcano erupts",
    "lava flowing from a volcano",
    "sleeping volcanoes in europe",
    "ash after an eruption",
)


def text_of(topic: str, chance: Random) -> str:
    phrases = NEW_PHRASES if topic == NEW_TOPIC else TOPICS[topic]
    return f"{chance.choice(OPENINGS)} {chance.choice(phrases)} {chance.choice(DETAILS)}"


def traces(
    first: datetime, days: int, per_day: int, seed: int, topics: Sequence[str] = tuple(TOPICS), prefix: str = "t"
) -> list[dict[str, Any]]:
    """Native traces: ``per_day`` a day in sessions of two, topics in equal shares."""
    chance = Random(seed)
    rows = []
    for day in range(days):
        for number in range(per_day):
            at = first + timedelta(days=day, minutes=2 * number)
            topic = topics[number % len(topics)]
            rows.append(
                {
                    "trace_id": f"{prefix}-{day:03d}-{number:04d}",
                    "session_id": f"{prefix}-{day:03d}-{number // 2:04d}",
                    "turn_index": number % 2,
                    "timestamp": at.astimezone(UTC).isoformat(),
                    "input": text_of(topic, chance),
                    "output": f"about {topic}",
                    "locale": "en-GB" if number % 3 else "de-DE",
                    "user_tier": "free",
                    "latency_ms": 100 + number,
                    "signals": {"regenerated": chance.random() < 0.1, "confidence": round(chance.random(), 3)},
                    "intent": topic,
                }
            )
    return rows


def cases(
    created_at: str, seed: int, per_topic: int = 5, topics: Sequence[str] = tuple(TOPICS), prefix: str = "g"
) -> list[dict[str, Any]]:
    """Golden cases: ``per_topic`` of each topic."""
    chance = Random(seed)
    return [
        {
            "case_id": f"{prefix}-{topic}-{number}",
            "input": text_of(topic, chance),
            "expected_output": f"about {topic}",
            "origin": "hand-authored",
            "created_at": created_at,
        }
        for topic in topics
        for number in range(per_topic)
    ]


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
