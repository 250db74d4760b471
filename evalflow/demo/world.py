"""Ten weeks of a made-up support assistant, from a seed: traffic, late feedback, a suite, and the truth.

Pure: the same seed and corpus give the same rows. Fernhill sells plants; on 13 April it opens Fernhill Host
(gardeners by the hour, tool hire, greenhouse space, smart watering), which soon is most of what people ask,
while the suite stays as it was written in February. Keep out: running the pipeline on it (``story.py``).
"""

import gzip
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from random import Random
from typing import Any

from evalflow.core.calendar import days_between, monday_of
from evalflow.demo.corpus import Corpus, Intent
from evalflow.demo.wording import ORDERS, RENTALS, TOPICS, VISITS, varied, with_personal_data

SEED = 7
"""Any seed tells the same story (measured for 7, 8 and 9); this is the first that was tried."""

FIRST_DAY = date(2026, 3, 2)  # a Monday, so that ten weeks are ten whole weeks
LAST_DAY = date(2026, 5, 10)
LAUNCH_DAY = date(2026, 4, 13)
"""A Monday four weeks before the end: the last window is all after the launch, and April, the month on which
May's taxonomy is fitted, holds 18 days of it. So the last figure does not hang on novelty: by then the new
questions have bins of their own."""
PROMOTION_DAYS = (date(2026, 4, 1), date(2026, 4, 2))
PROMOTION_FACTOR = 3.0
PROMOTION_MIX = {"discount_code_not_working": 0.45, "where_is_my_order": 0.22}
SUITE_WRITTEN_AT = datetime(2026, 2, 20, 9, tzinfo=UTC)
N_GOLDEN = 120

TRACES_BY_WEEKDAY = (142, 134, 128, 126, 122, 82, 76)
"""Monday to Sunday: about 8,600 in all, which one pair of cores embeds in half a minute."""
TURN_CHANCES = (0.5, 0.28, 0.14, 0.08)
STAY_ON_TOPIC = 0.6
LAUNCH_CEILING, LAUNCH_DAYS_TO_SETTLE = 0.77, 3.0
"""Share of the new product in the end, and how fast it gets there: seven tenths of the four weeks from the launch.
With less, 20 coarse bins can hide it: a sixth of the suite then lies in bins that are mostly about the launch."""
FAILURE_RATE = {False: 0.08, True: 0.30}
"""Of the old questions and of those about the new product, which the assistant was never tested on."""
PERSONAL_DATA_CHANCE = 0.03
N_USERS = 2400
GZIP_MAGIC = b"\x1f\x8b"

Row = dict[str, Any]
OnRange = Callable[[str, date, date, int, int], None]
"""Progress, as `runner.walk` reports it."""


@dataclass(frozen=True)
class World:
    """Rows in the native formats, in the order of time; ``truth`` has one row per trace, in their order."""

    seed: int
    traces: list[Row]
    feedback: list[Row]
    golden: list[Row]
    truth: list[Row]


@dataclass(frozen=True)
class _Habits:
    """What a seed fixes once: how often each intent is asked, how that drifts, how often it goes wrong."""

    base: dict[str, float]
    launch: dict[str, float]
    drift: dict[str, float]
    failure_rate: dict[str, float]


def generate(seed: int, corpus: Corpus) -> World:
    """The world of a seed. Every day and user has a stream of random numbers of its own."""
    habits = _habits(seed, corpus)
    intents = {intent.name: intent for intent in (*corpus.base, *corpus.launch)}
    launched = {intent.name for intent in corpus.launch}
    traces: list[Row] = []
    truth: list[Row] = []
    feedback: list[Row] = []
    for day in days_between(FIRST_DAY, LAST_DAY):
        rng = Random(f"{seed}/{day}")
        of_day = [turn for session in _sessions(rng, seed, day, habits, intents, launched) for turn in session]
        of_day.sort(key=lambda turn: (turn[0]["timestamp"], turn[0]["trace_id"]))
        traces += [trace for trace, _ in of_day]
        truth += [known for _, known in of_day]
        feedback += [event for trace, known in of_day if (event := _late_feedback(rng, day, trace, known))]
    feedback.sort(key=lambda event: (event["timestamp"], event["trace_id"]))
    return World(seed, traces, feedback, _golden(seed, corpus, habits), truth)


def launch_share(day: date) -> float:
    """How much of the day's traffic is about the new product: nothing before it opens, then a fast ramp."""
    age = (day - LAUNCH_DAY).days + 1
    return LAUNCH_CEILING * (1 - math.exp(-age / LAUNCH_DAYS_TO_SETTLE)) if age > 0 else 0.0


def files_of(world: World) -> dict[str, bytes]:
    """The world as files, by name: traces by week, feedback, the suite, and the truth apart from them."""
    weeks: dict[date, list[Row]] = defaultdict(list)
    for trace in world.traces:
        weeks[monday_of(date.fromisoformat(trace["timestamp"][:10]))].append(trace)
    files = {f"traces-{monday}.jsonl.gz": _zipped(_lines(rows)) for monday, rows in weeks.items()}
    return files | {
        "feedback.jsonl": _lines(world.feedback),
        "golden.jsonl": _lines(world.golden),
        "truth.jsonl.gz": _zipped(_lines(world.truth)),
    }


def write(world: World, folder: Path) -> list[Path]:
    """Write the world's files; one that is there already with the same content is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    files = files_of(world)
    changed = {path.name for path in differing_files(world, folder)}
    for name, content in files.items():
        if name in changed or not (folder / name).exists():
            temporary = folder / f".{name}.tmp"
            temporary.write_bytes(content)
            temporary.replace(folder / name)
    return [folder / name for name in files]


def differing_files(world: World, folder: Path) -> list[Path]:
    """The world's files that are in the folder with other content; how zlib packed them does not matter."""
    return [
        folder / name
        for name, content in files_of(world).items()
        if (folder / name).exists() and _unzipped((folder / name).read_bytes()) != _unzipped(content)
    ]


def _habits(seed: int, corpus: Corpus) -> _Habits:
    rng = Random(f"{seed}/habits")
    intents = (*corpus.base, *corpus.launch)
    launched = {intent.name for intent in corpus.launch}
    return _Habits(
        base=_by_rank(rng, corpus.base, flat_until=7),
        launch=_by_rank(rng, corpus.launch, flat_until=8),
        drift={intent.name: rng.gauss(0, 0.2) for intent in intents},
        failure_rate={intent.name: FAILURE_RATE[intent.name in launched] * rng.uniform(0.7, 1.3) for intent in intents},
    )


def _intent_shares(habits: _Habits, day: date) -> dict[str, float]:
    """The mix of a day; sums to one."""
    progress = (day - FIRST_DAY).days / (LAST_DAY - FIRST_DAY).days
    base = _normalised({name: share * math.exp(habits.drift[name] * progress) for name, share in habits.base.items()})
    if day in PROMOTION_DAYS:
        left = 1 - sum(PROMOTION_MIX.values())
        return {name: left * share + PROMOTION_MIX.get(name, 0.0) for name, share in base.items()}
    new = launch_share(day)
    old = {name: (1 - new) * share for name, share in base.items()}
    return old | {name: new * share for name, share in habits.launch.items()} if new else old


def _by_rank(rng: Random, intents: Iterable[Intent], flat_until: int) -> dict[str, float]:
    """Zipf-like shares in the order of the corpus, shaken by the seed; none is rare enough to vanish."""
    return _normalised(
        {intent.name: (rank + flat_until) ** -0.8 * rng.uniform(0.8, 1.25) for rank, intent in enumerate(intents)}
    )


def _sessions(
    rng: Random, seed: int, day: date, habits: _Habits, intents: Mapping[str, Intent], launched: set[str]
) -> Iterable[list[tuple[Row, Row]]]:
    """Sessions of 1 to 4 turns until the day's number of traces is reached."""
    shares = _intent_shares(habits, day)
    names, weights = list(shares), list(shares.values())
    expected = TRACES_BY_WEEKDAY[day.weekday()] * (PROMOTION_FACTOR if day in PROMOTION_DAYS else 1.0)
    left = round(expected * math.exp(rng.gauss(0, 0.05)))
    number = 0
    while left > 0:
        n_turns = min(left, rng.choices(range(1, 5), TURN_CHANCES)[0])
        left -= n_turns
        number += 1
        user = _user(seed, rng.randrange(N_USERS))
        shared = {"session_id": f"s-{day:%m%d}-{number:03d}", **user, **_served_by(user, day)}
        is_assisted = rng.random() < 0.1
        # Busiest at noon; the last session starts at half past nine, so that none crosses midnight.
        at = datetime.combine(day, time(7), UTC) + timedelta(seconds=round(rng.triangular(0, 14.5 * 3600, 5 * 3600)))
        turns: list[tuple[Row, Row]] = []
        for turn in range(n_turns):
            if turn == 0 or rng.random() >= STAY_ON_TOPIC:
                name = rng.choices(names, weights)[0]
            is_failure = rng.random() < habits.failure_rate[name]
            has_personal_data = rng.random() < PERSONAL_DATA_CHANCE
            trace = {
                "trace_id": f"fh-{day:%m%d}-{number:03d}-{turn}",
                **shared,
                "turn_index": turn,
                "timestamp": f"{at:%Y-%m-%dT%H:%M:%SZ}",
                **_exchange(rng, intents[name], is_failure, has_personal_data),
            }
            context = 640 + sum(earlier["input_tokens"] + earlier["output_tokens"] for earlier, _ in turns)
            trace |= _expenses(rng, trace, context, is_failure)
            trace["signals"] = _signals(rng, is_failure, is_assisted, is_last=turn == n_turns - 1)
            known = {
                "trace_id": trace["trace_id"],
                "intent": name,
                "is_failure": is_failure,
                "is_launch": name in launched,
                "has_pii": has_personal_data,
            }
            turns.append((trace, known))
            at += timedelta(seconds=rng.randrange(25, 240))
        yield turns


def _user(seed: int, number: int) -> Row:
    rng = Random(f"{seed}/user/{number}")
    return {
        "user_id": f"u-{number:04d}",
        "user_tier": rng.choices(("guest", "member", "trade"), (0.5, 0.38, 0.12))[0],
        "locale": rng.choices(("en-GB", "en-IE", "en-US"), (0.84, 0.1, 0.06))[0],
        "variant": rng.choices(("control", "concise"), (0.85, 0.15))[0],
    }


def _served_by(user: Row, day: date) -> Row:
    """Trade customers are served by the larger model; the prompt was edited for the launch."""
    return {
        "model": "fernhill-large" if user["user_tier"] == "trade" else "fernhill-small",
        "prompt_version": "support-8" if day >= LAUNCH_DAY else "support-7",
    }


def _exchange(rng: Random, intent: Intent, is_failure: bool, has_personal_data: bool) -> Row:
    text = varied(rng, rng.choice(intent.phrasings), intent.name)
    if has_personal_data:
        text = with_personal_data(rng, text)
    answer = rng.choice(intent.bad_answers if is_failure else intent.good_answers)
    if rng.random() < 0.2:
        answer = f"{answer} {rng.choice(('Is there anything else?', 'I hope that helps.', 'Happy gardening!'))}"
    return {"input": text, "output": answer, "tool_calls": _tool_calls(rng, intent.name, is_failure)}


def _tool_calls(rng: Random, intent: str, is_failure: bool) -> list[Row]:
    topic = TOPICS.get(intent)
    if topic not in (ORDERS, VISITS, RENTALS) or rng.random() < 0.3:
        return []
    name = "find_order" if topic is ORDERS else "find_booking"
    error = "not found" if rng.random() < (0.2 if is_failure else 0.01) else None
    return [{"name": name, "arguments": {"number": rng.randrange(10_000, 99_999)}, "error": error}]


def _expenses(rng: Random, trace: Row, context: int, is_failure: bool) -> Row:
    read, written = len(trace["input"]) // 4 + 1, len(trace["output"]) // 4 + 1
    per_token = 3e-6 if trace["model"] == "fernhill-large" else 4e-7
    latency = rng.lognormvariate(6.7, 0.3) + 6 * written + 700 * len(trace["tool_calls"]) + (400 if is_failure else 0)
    return {
        "input_tokens": read,
        "output_tokens": written,
        "context_tokens": context + read,
        "latency_ms": round(latency, 1),
        "cost_usd": round(per_token * (context + read + 4 * written), 8),
    }


def _signals(rng: Random, is_failure: bool, is_assisted: bool, is_last: bool) -> Row:
    """Hints, not proof: most failures leave one, and some good answers do. What nobody noted is absent."""

    def happens(when_failed: float, when_fine: float) -> bool:
        return rng.random() < (when_failed if is_failure else when_fine)

    signals: Row = {
        "schema_valid": not happens(0.05, 0.004),
        "regenerated": happens(0.32, 0.03),
        "escalated": happens(0.22, 0.015),
        "abandoned": is_last and happens(0.28, 0.04),
        "confidence": round(rng.betavariate(5, 4.5) if is_failure else rng.betavariate(11, 2.4), 3),
    }
    if is_assisted:  # a person sent the draft, and may have put it right first
        signals["edited_chars"] = rng.randrange(20, 220) if happens(0.75, 0.08) else 0
    if happens(0.1, 0.03):
        signals["thumbs"] = "down" if happens(0.85, 0.12) else "up"
    return signals


def _late_feedback(rng: Random, day: date, trace: Row, known: Row) -> Row | None:
    """One to three days later a few people answer the survey; nothing arrives after the last day."""
    if rng.random() >= (0.06 if known["is_failure"] else 0.015):
        return None
    arrives = day + timedelta(days=rng.randrange(1, 4))
    at = datetime.combine(arrives, time(rng.randrange(8, 20), rng.randrange(60), rng.randrange(60)), UTC)
    is_rating = rng.random() < 0.5
    if known["is_failure"]:
        value: Any = rng.choice((1, 1, 2, 3)) if is_rating else "down"
    else:
        value = rng.choice((4, 5, 5, 3)) if is_rating else rng.choice(("up", "up", "up", "down"))
    if arrives > LAST_DAY:
        return None
    name, source = ("rating", "survey") if is_rating else ("thumbs", "follow-up mail")
    return {
        "trace_id": trace["trace_id"],
        "timestamp": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "name": name,
        "value": value,
        "source": source,
    }


def _golden(seed: int, corpus: Corpus, habits: _Habits) -> list[Row]:
    """The suite as written before the first week: the old questions, about as often as they are asked.

    Its wordings are those of the corpus, which traffic varies. Held-out wordings would be novel in a world
    that has 24 ways to ask a thing, where real traffic has thousands.
    """
    rng = Random(f"{seed}/golden")
    rows = []
    for intent, count in _apportioned(habits.base, N_GOLDEN).items():
        source = next(item for item in corpus.base if item.name == intent)
        for number, text in enumerate(rng.sample(source.phrasings, count), start=1):
            rows.append(
                {
                    "case_id": f"{intent}-{number:02d}",
                    "input": text,
                    "expected_output": source.good_answers[number % len(source.good_answers)],
                    "origin": "hand-authored",
                    "created_at": f"{SUITE_WRITTEN_AT:%Y-%m-%dT%H:%M:%SZ}",
                    "tags": {"intent": intent},
                }
            )
    return rows


def _apportioned(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that add up to ``total`` in proportion to the shares, by largest remainder."""
    exact = {name: share * total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _normalised(weights: dict[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _lines(rows: Iterable[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _unzipped(content: bytes) -> bytes:
    return gzip.decompress(content) if content[:2] == GZIP_MAGIC else content
