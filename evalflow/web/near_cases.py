"""Which golden cases a trace may repeat, quick enough to be shown beside it: by the words that they share.

A hint for the reviewer, not dedup: that is decided at promotion (``core/dedup.py``). Keep out: embeddings.
"""

import math
import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion

SHOWN, LEAST = 5, 0.15
"""So many cases at most, and none that shares less than this."""
_WORD = re.compile(r"\w+")


class Near(NamedTuple):
    """``share``: weight of the shared words in that of all words of both, in [0, 1]; rare words weigh more."""

    case_id: str
    input: str
    share: float


@dataclass(frozen=True)
class _Words:
    """Cases that are in the suite, the words of each, where a word occurs, and what it weighs."""

    cases: dict[str, CaseVersion]
    words: dict[str, frozenset[str]]
    having: dict[str, list[str]]
    weight: dict[str, float]


class NearCases:
    """The suite by its words; read again when the ledger has grown. Thread-safe."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._lock = threading.Lock()
        self._names: list[str] | None = None
        self._held = _Words({}, {}, {}, {})

    def cases(self) -> dict[str, CaseVersion]:
        """The cases of the suite by id, without those that are retired."""
        return self._current().cases

    def near(self, text: str) -> list[Near]:
        """The nearest cases, the nearest first; those of equal share by id."""
        known = self._current()
        own = frozenset(_WORD.findall(text.casefold()))
        shared: Counter[str] = Counter()
        for word in own:
            for case_id in known.having.get(word, ()):
                shared[case_id] += known.weight[word]  # type: ignore[assignment]  # weights, not counts
        rare = math.log(1 + len(known.cases))
        mine = sum(known.weight.get(word, rare) for word in own)
        found = []
        for case_id, both in shared.items():
            theirs = sum(known.weight[word] for word in known.words[case_id])
            share = both / (mine + theirs - both) if both else 0.0
            if share >= LEAST:
                found.append(Near(case_id, known.cases[case_id].input, share))
        return sorted(found, key=lambda near: (-near.share, near.case_id))[:SHOWN]

    def _current(self) -> _Words:
        names = self.home.ledger.journal.names()
        with self._lock:
            if names != self._names:
                self._held = _words_of({c.case_id: c for c in self.home.ledger.newest().values() if not c.retired_on})
                self._names = names
            return self._held


def _words_of(cases: dict[str, CaseVersion]) -> _Words:
    words = {case_id: frozenset(_WORD.findall(case.input.casefold())) for case_id, case in cases.items()}
    having: dict[str, list[str]] = {}
    for case_id, own in words.items():
        for word in own:
            having.setdefault(word, []).append(case_id)
    return _Words(cases, words, having, {word: math.log(1 + len(cases) / len(ids)) for word, ids in having.items()})
