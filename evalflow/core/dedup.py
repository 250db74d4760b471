"""Is this input already in the suite? Three stages: the same text, nearly the same text, the same question.

Source: docs/methods.md, "Triage and golden set" (Broder 1997 for the resemblance of shingles).
"""

import unicodedata
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evalflow.core.text import normalise

Stage = Literal["exact", "near", "embedding"]
SHINGLE = 3
SHORT_INPUT = 25
"""Below so many characters an input is compared together with the turn before it."""


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
        self._by_form: dict[str, str] = {}
        self._n_shingles: list[int] = []
        self._having: dict[str, list[int]] = {}
        """Which inputs hold a shingle: only those that share one can be near."""

    def add(self, name: str, text: str, vector: np.ndarray) -> None:
        form = _form(text)
        shingles = _shingles(form)
        for shingle in shingles:
            self._having.setdefault(shingle, []).append(len(self.names))
        self.names.append(name)
        self._vectors.append(vector)
        self._matrix = None
        self._by_form.setdefault(form, name)
        self._n_shingles.append(len(shingles))

    def duplicate_of(self, text: str, vector: np.ndarray) -> Duplicate | None:
        """The first stage that finds the text among the known inputs speaks; None where it is new."""
        form = _form(text)
        if form in self._by_form:
            return Duplicate(self._by_form[form], "exact", 1.0)
        jaccard = self._resemblance(_shingles(form))
        best = int(jaccard.argmax()) if len(jaccard) else -1
        if best >= 0 and jaccard[best] >= self.near_duplicate:
            return Duplicate(self.names[best], "near", float(jaccard[best]))
        nearest, distance = self._nearest(vector)
        if distance <= self.duplicate_distance:
            return Duplicate(self.names[nearest], "embedding", distance)
        return None

    def distance(self, vector: np.ndarray) -> float:
        """Cosine distance in [0, 2] to the nearest known input; infinite where none is known."""
        return self._nearest(vector)[1]

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """The same of each row of ``vectors`` (n, d), shape (n,)."""
        if not self._vectors:
            return np.full(len(vectors), np.inf)
        return np.maximum(1.0 - (vectors @ self._all().T).max(axis=1), 0.0)

    def _all(self) -> np.ndarray:
        if self._matrix is None:
            self._matrix = np.stack(self._vectors)
        return self._matrix

    def _nearest(self, vector: np.ndarray) -> tuple[int, float]:
        if not self._vectors:
            return -1, float("inf")
        similarity = self._all() @ vector
        best = int(similarity.argmax())
        return best, max(0.0, 1.0 - float(similarity[best]))

    def _resemblance(self, own: frozenset[str]) -> np.ndarray:
        """Jaccard of the shingles with those of each known input, shape (n,)."""
        hits = [position for shingle in own for position in self._having.get(shingle, ())]
        shared = np.bincount(np.array(hits, dtype=int), minlength=len(self.names))
        return shared / (len(own) + np.array(self._n_shingles, dtype=int) - shared)


def with_context(text: str, conversation: list[dict[str, str]] | None) -> str:
    """What is compared of an input: a short one ("yes, do it") says nothing without the turn that it answers."""
    if conversation and len(normalise(text)) < SHORT_INPUT:
        return f"{conversation[-1].get('content', '')} {text}"
    return text


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
    return frozenset(form[i : i + SHINGLE] for i in range(max(1, len(form) - SHINGLE + 1)))
