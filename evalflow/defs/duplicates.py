"""Dedup by the settings in force: the limits for a suite of a given size, and whether they were chosen for this model.

Keep out: the three stages themselves (``core/dedup.py``).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from evalflow.adapters.embedder import Embedder
from evalflow.adapters.home import Home
from evalflow.adapters.native import Line
from evalflow.adapters.scrubber import Scrubber
from evalflow.core.dedup import KnownInputs, allowed_distance
from evalflow.core.dedup_calibration import LOOSE_PRECISION, TIGHT_PRECISION, Point, precision_and_recall, widest_limit
from evalflow.core.records import Unusable
from evalflow.core.text import text_hash
from evalflow.errors import CannotTellError
from evalflow.settings import Promotion, Settings


def known_inputs(settings: Settings, n_cases: int) -> KnownInputs:
    """An empty set of known inputs with the limits for a suite of ``n_cases`` that are not retired."""
    return KnownInputs(settings.promotion.near_duplicate, duplicate_distance(settings.promotion, n_cases))


def duplicate_distance(limits: Promotion, n_cases: int) -> float:
    """Cosine distance up to which two inputs ask the same, in a suite of ``n_cases``: tight while it is small."""
    return allowed_distance(
        n_cases, limits.duplicate_distance, limits.duplicate_distance_large, limits.small_suite, limits.large_suite
    )


def calibration_warning(limits: Promotion, model_id: str) -> str | None:
    """A sentence where the limits were chosen for another model than the one that embeds; None where they fit."""
    if limits.calibrated_for == model_id:
        return None
    return (
        f"The limits of dedup were chosen for {limits.calibrated_for}, the model is {model_id}: what counts as the same "
        "question may be too much or too little; choose them with `evalflow golden calibrate-dedup`."
    )


class LabelledPair(msgspec.Struct, frozen=True):
    """Two inputs, and whether people say that they ask the same."""

    a: str
    b: str
    is_duplicate: bool


@dataclass(frozen=True)
class DedupCalibration:
    """What labelled pairs say of each limit. ``tight`` and ``loose`` are None where no limit surely reaches its precision.

    ``n_by_words``: pairs that the first two stages merge without a vector, ``n_by_words_wrong`` of them wrongly; the points
    are of the others.
    """

    model_id: str
    n_pairs: int
    n_duplicates: int
    n_by_words: int
    n_by_words_wrong: int
    points: list[Point]
    tight: float | None
    loose: float | None


def parse_pairs(lines: Iterable[Line]) -> tuple[list[LabelledPair], list[tuple[int, str]]]:
    """The pairs of a file, and number and reason of each line that is none."""
    pairs, unusable = [], []
    for line in lines:
        found = line.row if isinstance(line.row, Unusable) else _pair(line.row)
        if isinstance(found, Unusable):
            unusable.append((line.number, found.reason))
        else:
            pairs.append(found)
    return pairs, unusable


def calibrate(home: Home, pairs: Sequence[LabelledPair]) -> DedupCalibration:
    """Hold labelled pairs against the home's model, scrubbed and normalised as inputs are.

    Raises:
        CannotTellError: there are no pairs of one of the two kinds.
    """
    n_duplicates = sum(pair.is_duplicate for pair in pairs)
    if not 0 < n_duplicates < len(pairs):
        raise CannotTellError(
            f"{n_duplicates} of {len(pairs)} pairs are duplicates; it takes both kinds: pair each input with its "
            "nearest others, as dedup will meet them, and label those."
        )
    scrubber, embedder = Scrubber(home.settings.privacy), Embedder(home.settings.embedding, home.cache)
    sides = [(scrubber.scrub(pair.a).text, scrubber.scrub(pair.b).text) for pair in pairs]
    names = {key: place for place, key in enumerate(sorted({text_hash(text) for side in sides for text in side}))}
    vectors = embedder.embed([text for side in sides for text in side])
    by_words = np.array([_is_same_by_words(home.settings.promotion, *side) for side in sides])
    left, right = (np.array([names[text_hash(side[place])] for side in sides]) for place in (0, 1))
    a, b = (np.stack([vectors[text_hash(side[place])] for side in sides]) for place in (0, 1))
    distance = np.maximum(1.0 - np.einsum("ij,ij->i", a, b), 0.0)
    is_duplicate = np.array([pair.is_duplicate for pair in pairs])
    rest = ~by_words
    points = precision_and_recall(distance[rest], is_duplicate[rest], left[rest], right[rest])
    return DedupCalibration(
        embedder.model_id,
        len(pairs),
        n_duplicates,
        int(by_words.sum()),
        int((by_words & ~is_duplicate).sum()),
        points,
        widest_limit(points, TIGHT_PRECISION),
        widest_limit(points, LOOSE_PRECISION),
    )


def _pair(row: Any) -> LabelledPair | Unusable:
    try:
        pair = msgspec.convert(row, LabelledPair)
    except msgspec.ValidationError as error:
        return Unusable(f'{error}; a line is {{"a": "...", "b": "...", "is_duplicate": true or false}}')
    return pair if pair.a.strip() and pair.b.strip() else Unusable("one of the two inputs is blank")


def _is_same_by_words(limits: Promotion, one: str, other: str) -> bool:
    known = KnownInputs(limits.near_duplicate, -1.0)  # no distance lies below it
    nowhere = np.zeros(1)
    known.add("other", other, nowhere)
    return known.duplicate_of(one, nowhere) is not None
