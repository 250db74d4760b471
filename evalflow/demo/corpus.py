"""The hand-written corpus: what people ask the assistant of Fernhill, a made-up shop for home and garden.

Belongs here: where the corpus lies and how it is read. Keep out: making traffic of it (``world.py``).
"""

import json
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]
IN_CHECKOUT = PACKAGE.parent / "data" / "demo"
IN_WHEEL = PACKAGE / "demo_corpus"


class Intent(NamedTuple):
    """One thing that people want, in many words, with answers that help and answers that do not."""

    name: str
    phrasings: tuple[str, ...]
    good_answers: tuple[str, ...]
    bad_answers: tuple[str, ...]


class Corpus(NamedTuple):
    """``base`` is asked from the first day; ``launch`` is about Fernhill Host, which opens later."""

    base: tuple[Intent, ...]
    launch: tuple[Intent, ...]


def is_checkout() -> bool:
    """True when the package runs from a checkout rather than from an installed wheel."""
    return (IN_CHECKOUT / "intents_base.jsonl").is_file()


def load_corpus() -> Corpus:
    folder = IN_CHECKOUT if is_checkout() else IN_WHEEL
    return Corpus(_intents(folder / "intents_base.jsonl"), _intents(folder / "intents_launch.jsonl"))


def _intents(path: Path) -> tuple[Intent, ...]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return tuple(
        Intent(row["intent"], tuple(row["phrasings"]), tuple(row["good_answers"]), tuple(row["bad_answers"]))
        for row in rows
    )
