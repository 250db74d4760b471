"""Is this input already in the suite? Three stages: the same text, nearly the same text, the same question.

An input of a conversation is the same only after the same turn. Keep out: how the limits are chosen
(``dedup_calibration.py``). Source: docs/methods.md, "Triage and golden set" (Broder 1997 for the resemblance of
shingles).
"""

import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evalflow.core.text import normalise

Stage = Literal["exact", "near", "embedding"]
SHINGLE = 3
SHORT_INPUT = 25
"""Below so many characters an input is compared together with the turn before it."""
LONG_INPUT = 1_000
"""From so many characters on an input is compared by its words alone: a sentence model of 256 tokens has not read its end."""
LONG_SHINGLE = 9
"""Shingles of long inputs: any two long texts of one language share most of their 3-grams."""
CONTEXT_RESEMBLANCE = 0.5
"""Jaccard of shingles from which two turns before an input are the same: half of the words may have been put otherwise."""


@dataclass(frozen=True)
class Duplicate:
    """The known input that a text repeats, and how that was seen: Jaccard for ``near``, cosine distance for ``embedding``."""

    name: str
    stage: Stage
    value: float


class KnownInputs:
    """The inputs of a suite, or of a queue in the making, by name; asked before one more is added."""

    def __init__(self, near_duplicate: float, duplicate_distance: float) -> None:
        """``near_duplicate``: Jaccard from which texts are the same; ``duplicate_distance``: cosine distance up to which."""
        self.near_duplicate = near_duplicate
        self.duplicate_distance = duplicate_distance
        self.names: list[str] = []
        self._vectors: list[np.ndarray] = []
        self._matrix: np.ndarray | None = None
        self._before: list[str] = []
        self._is_long: list[bool] = []
        self._by_form: dict[str, list[int]] = {}
        self._n_shingles: list[int] = []
        self._having: dict[str, list[int]] = {}
        """Which inputs hold a shingle: only those that share one can be near."""

    def add(self, name: str, text: str, vector: np.ndarray, before: str = "") -> None:
        """``before``: the turn that the input follows, as ``turn_before`` gives it; empty where it opens a conversation."""
        form = _form(text)
        shingles = _shingles(form)
        for shingle in shingles:
            self._having.setdefault(shingle, []).append(len(self.names))
        self._by_form.setdefault(form, []).append(len(self.names))
        self.names.append(name)
        self._vectors.append(vector)
        self._matrix = None
        self._before.append(before)
        self._is_long.append(len(form) >= LONG_INPUT)
        self._n_shingles.append(len(shingles))

    def duplicate_of(self, text: str, vector: np.ndarray, before: str = "") -> Duplicate | None:
        """The first stage that finds the text among the known inputs speaks; None where it is new."""
        return next(self._matches(text, vector, before), None)

    def apart_from(self, text: str, vector: np.ndarray, before: str = "") -> Duplicate | None:
        """The known input that the text would repeat, had it not been said after another turn; None where there is none."""
        if self.duplicate_of(text, vector, before):
            return None
        return next(self._matches(text, vector, None), None)

    def _matches(self, text: str, vector: np.ndarray, before: str | None) -> Iterator[Duplicate]:
        """What the text repeats, the surest first; ``before`` None: after whatever turn."""
        form = _form(text)
        for position in self._by_form.get(form, ()):
            if self._is_after(position, before):
                yield Duplicate(self.names[position], "exact", 1.0)
        jaccard = self._resemblance(_shingles(form))
        for position in _best_first(np.flatnonzero(jaccard >= self.near_duplicate), -jaccard):
            if self._is_after(position, before):
                yield Duplicate(self.names[position], "near", float(jaccard[position]))
        if len(form) >= LONG_INPUT or not self._vectors:
            return
        distance = np.maximum(1.0 - self._all() @ vector, 0.0)
        for position in _best_first(np.flatnonzero(distance <= self.duplicate_distance), distance):
            if not self._is_long[position] and self._is_after(position, before):
                yield Duplicate(self.names[position], "embedding", float(distance[position]))

    def _is_after(self, position: int, before: str | None) -> bool:
        return before is None or is_same_turn(before, self._before[position])

    def same_text(self, text: str) -> list[str]:
        """Every known input with the same or nearly the same text, whatever it means."""
        near = self._resemblance(_shingles(_form(text))) >= self.near_duplicate
        return [self.names[position] for position in np.flatnonzero(near)]

    def distance(self, vector: np.ndarray) -> float:
        """Cosine distance in [0, 2] to the nearest known input; infinite where none is known."""
        if not self._vectors:
            return float("inf")
        return max(0.0, 1.0 - float((self._all() @ vector).max()))

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """The same of each row of ``vectors`` (n, d), shape (n,)."""
        if not self._vectors:
            return np.full(len(vectors), np.inf)
        return np.maximum(1.0 - (vectors @ self._all().T).max(axis=1), 0.0)

    def _all(self) -> np.ndarray:
        if self._matrix is None:
            self._matrix = np.stack(self._vectors)
        return self._matrix

    def _resemblance(self, own: frozenset[str]) -> np.ndarray:
        """Jaccard of the shingles with those of each known input, shape (n,).

        Zero where more differs than may in a text of ``LONG_INPUT`` characters: of a long prompt that is filled in anew each
        time, the part that counts is small.
        """
        hits = [position for shingle in own for position in self._having.get(shingle, ())]
        shared = np.bincount(np.array(hits, dtype=int), minlength=len(self.names))
        union = len(own) + np.array(self._n_shingles, dtype=int) - shared
        return np.where(union - shared <= (1 - self.near_duplicate) * LONG_INPUT, shared / union, 0.0)


def allowed_distance(n_cases: int, tight: float, loose: float, small: int, large: int) -> float:
    """Cosine distance up to which two inputs ask the same, in a suite of ``n_cases``.

    ``tight`` up to ``small`` cases, ``loose`` from ``large`` on, in between linear in log n. In a small suite one more
    way to ask still adds something and a lost test leaves a hole; in a large one redundant cases are what costs.
    """
    if n_cases <= small:
        return tight
    if n_cases >= large:
        return loose
    return tight + (loose - tight) * math.log(n_cases / small) / math.log(large / small)


def with_context(text: str, conversation: Sequence[Mapping[str, Any]] | None) -> str:
    """What is compared of an input: a short one ("yes, do it") says nothing without the turn that it answers."""
    if conversation and len(normalise(text)) < SHORT_INPUT:
        return f"{conversation[-1].get('content', '')} {text}"
    return text


def turn_before(conversation: Sequence[Mapping[str, Any]] | None) -> str:
    """The last user turn before an input and what was answered; empty where the input opens its conversation.

    Of a long history only this turn counts: what an input refers to ("and how long does that take?") stands there.
    """
    turns = list(conversation or ())
    opened = max((n for n, turn in enumerate(turns) if turn.get("role") == "user"), default=0)
    return " ".join(str(turn.get("content") or "") for turn in turns[opened:]).strip()


def is_same_turn(one: str, other: str) -> bool:
    """Whether two turns before an input are the same: none at all in both, or nearly the same words."""
    if not one or not other:
        return one == other
    a, b = _shingles(_form(one)), _shingles(_form(other))
    return len(a & b) >= CONTEXT_RESEMBLANCE * len(a | b)


def _best_first(positions: np.ndarray, badness: np.ndarray) -> Iterable[int]:
    """Of equals the first that was added."""
    return (int(position) for position in positions[np.argsort(badness[positions], kind="stable")])


def _form(text: str) -> str:
    """The text without case and punctuation: what makes an exact duplicate for people."""
    kept = (character if _is_kept(character) else " " for character in normalise(text).casefold())
    form = " ".join("".join(kept).split())
    return form or normalise(text)  # a text of signs alone is itself


def _is_kept(character: str) -> bool:
    """Letters, digits, the marks that belong to them (vowel signs, tones), and signs that mean something: + < $ and emoji."""
    category = unicodedata.category(character)
    return category[0] in "LNM" or category in ("Sc", "Sm", "So")


def _shingles(form: str) -> frozenset[str]:
    size = SHINGLE if len(form) < LONG_INPUT else LONG_SHINGLE
    return frozenset(form[i : i + size] for i in range(max(1, len(form) - size + 1)))
