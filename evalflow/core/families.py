"""Which cases of a suite are likely to pass and fail together: those of one production session, and near duplicates.

Statistics that count such cases as independent are too sure. Source: docs/methods.md, "Gate". Keep out: where texts and
vectors come from.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evalflow.core.dedup import LONG_INPUT, KnownInputs, is_same_turn

_BLOCK = 1_000
"""Rows of the distance matrix at a time: 1,000 x 10,000 single floats are 40 MB."""


class Kin(NamedTuple):
    """What a case may share with others: its session where it comes from production, its text and the turn before it.

    Both are as dedup compares them (``with_context``, ``turn_before``).
    """

    case_id: str
    session_id: str | None
    text: str
    before: str = ""


@dataclass(frozen=True)
class Families:
    """``of``: the family of each case by case_id, named after its first case.

    ``text_only_because``: why inputs were compared by text alone, without meaning; None where vectors were there.
    """

    of: Mapping[str, str]
    text_only_because: str | None = None

    def name_of(self, case_id: str) -> str:
        """The family of a case; one that is not known is a family of its own."""
        return self.of.get(case_id, case_id)

    def sizes(self, case_ids: Iterable[str]) -> list[int]:
        """How many of the cases each family holds, families without any left out."""
        return list(Counter(map(self.name_of, case_ids)).values())


def families_of(
    kin: Sequence[Kin],
    near_duplicate: float,
    duplicate_distance: float,
    vectors: np.ndarray | None,
    text_only_because: str | None = None,
) -> Families:
    """Connected components: two cases are linked by the same session, or as duplicates by the stages of ``core/dedup.py``.

    These are nearly the same text, or nearly the same vector where neither is long, after the same turn.

    Args:
        kin: the cases, each once.
        near_duplicate: Jaccard of shingles from which two texts are the same one.
        duplicate_distance: cosine distance up to which two inputs ask the same.
        vectors: a unit vector per case, shape (n, d); None: texts alone are compared.
        text_only_because: why there are no vectors.
    """
    parent = list(range(len(kin)))
    for a, b, is_session in _links(kin, near_duplicate, duplicate_distance, vectors):
        root_a, root_b = _root(parent, a), _root(parent, b)
        if root_a != root_b and (is_session or is_same_turn(kin[a].before, kin[b].before)):
            parent[max(root_a, root_b)] = min(root_a, root_b)
    return Families(
        {case.case_id: kin[_root(parent, position)].case_id for position, case in enumerate(kin)}, text_only_because
    )


def design_effect(sizes: Iterable[int]) -> float:
    """By how much the variance of a mean grows through families: sum m_f^2 / N, m_f of the N cases in family f.

    That is the size of the family that a case is in, on average: 1 where each has its own. Cases of a family are taken to
    pass and fail as one. How far they really do cannot be told from a few families, and an effect that is estimated from
    few of them is too low too often. 1 without cases. Source: Kish 1965, "Survey Sampling", with full correlation.
    """
    held = list(sizes)
    return sum(size * size for size in held) / sum(held) if held else 1.0


def _links(
    kin: Sequence[Kin], near_duplicate: float, duplicate_distance: float, vectors: np.ndarray | None
) -> Iterable[tuple[int, int, bool]]:
    """Pairs of positions that may hang together, and whether they surely do, by their session."""
    by_session: dict[str, list[int]] = defaultdict(list)
    for position, case in enumerate(kin):
        if case.session_id:
            by_session[case.session_id].append(position)
    for positions in by_session.values():
        yield from ((positions[0], position, True) for position in positions[1:])
    known = KnownInputs(near_duplicate, duplicate_distance)
    nowhere = np.zeros(1)  # orthogonal to everything: only the text speaks
    for position, case in enumerate(kin):
        for other in known.same_text(case.text):
            yield int(other), position, False
        known.add(str(position), case.text, nowhere)
    if vectors is not None:
        short = np.array([position for position, case in enumerate(kin) if len(case.text) < LONG_INPUT], dtype=int)
        compared = vectors[short]
        for start in range(0, len(short), _BLOCK):
            close = compared[start : start + _BLOCK] @ compared.T >= 1 - duplicate_distance
            pairs = zip(*np.nonzero(close), strict=True)
            yield from ((int(short[start + a]), int(short[b]), False) for a, b in pairs if start + a < b)


def _root(parent: list[int], position: int) -> int:
    while parent[position] != position:
        parent[position] = position = parent[parent[position]]
    return position
