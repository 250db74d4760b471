"""Themes: short notes grouped by what they mean, and where a new note belongs.

The groups are a proposal that people edit; from then on a theme is its list of codes. Source: docs/methods.md,
"Error analysis". Keep out: vectors' origin, files, and names from a model (``adapters``).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evalflow.core.text import normalise

FEWEST_THEMES, MOST_THEMES = 5, 10
"""What people can keep in mind; fewer where there are not two codes for each."""
MOST_GROUPED = 2_000
"""Texts in one grouping: the distances between twice as many take four times the memory. The others join the nearest group."""
LIKE_DISTANCE = 0.55
"""Cosine distance up to which a new code belongs to the theme of the nearest known one."""
DIGITS = 6
"""Distances are rounded, so that no grouping hangs on the last bit of a product of matrices."""


def code_key(code: str) -> str:
    """What makes two codes one: neither case nor white space."""
    return normalise(code).casefold()


def theme_groups(vectors: np.ndarray) -> np.ndarray:
    """The group of each code, numbered by size: agglomerative, average linkage over cosine distance.

    The number of groups is that of 5 to 10 with the largest silhouette, the smallest of equals; no more than half the
    codes, so that 4 to 9 codes give half as many, rounded down; fewer than 4 codes are a theme each.

    Args:
        vectors: unit vectors of distinct codes, shape (n, d), the most frequent first: beyond 2,000 a code joins the
            group of its nearest.

    Returns:
        Shape (n,), integers from 0; the largest group first, equal ones in the order of their first code.
    """
    from sklearn.metrics import silhouette_score

    n = len(vectors)
    if n < 4:
        return np.arange(n)
    distances = _distances(vectors[:MOST_GROUPED])
    most = min(MOST_THEMES, len(distances) // 2)
    best, best_score = np.zeros(len(distances), dtype=int), -np.inf
    for k in range(min(FEWEST_THEMES, most), most + 1):
        groups = _agglomerated(distances, n_clusters=k)
        score = round(float(silhouette_score(distances, groups, metric="precomputed")), DIGITS)
        if score > best_score:
            best, best_score = groups, score
    return _numbered(_joined(vectors, best))


def like_groups(vectors: np.ndarray, distance: float) -> np.ndarray:
    """Groups of texts, merged while their mean cosine distance stays below ``distance``: as many as there are.

    Args and returns as of ``theme_groups``.
    """
    if len(vectors) < 2:
        return np.zeros(len(vectors), dtype=int)
    groups = _agglomerated(_distances(vectors[:MOST_GROUPED]), n_clusters=None, distance_threshold=distance)
    return _numbered(_joined(vectors, groups))


def central(vectors: np.ndarray) -> list[int]:
    """The texts of a group by their mean cosine to all of it, the most central first, equals in their order."""
    closeness = np.round((vectors @ vectors.mean(axis=0)).astype(float), DIGITS)
    return [int(i) for i in np.argsort(-closeness, kind="stable")]


class Nearest(NamedTuple):
    """The nearest known code by its place, and its cosine distance."""

    place: int
    distance: float


def nearest_code(vector: np.ndarray, known: np.ndarray) -> Nearest | None:
    """The nearest of the known codes, the first of equals; None where it is farther than ``LIKE_DISTANCE``, or there is none."""
    if not len(known):
        return None
    distance = np.round(np.maximum(1 - (known @ vector).astype(float), 0.0), DIGITS)
    place = int(np.argmin(distance))
    return Nearest(place, float(distance[place])) if distance[place] <= LIKE_DISTANCE else None


def inherited(groups: Sequence[frozenset[str]], before: Sequence[frozenset[str]]) -> list[int | None]:
    """For each group the one of ``before`` with which it shares more than half of the members of both, else None.

    Above one half a group can have one such partner only, so that none is inherited twice.
    """
    return [
        next((i for i, old in enumerate(before) if len(group & old) > len(group | old) / 2), None) for group in groups
    ]


def _distances(vectors: np.ndarray) -> np.ndarray:
    distances = np.round(np.clip(1 - (vectors @ vectors.T).astype(float), 0.0, 2.0), DIGITS)
    np.fill_diagonal(distances, 0.0)
    return np.asarray((distances + distances.T) / 2)


def _agglomerated(distances: np.ndarray, n_clusters: int | None, distance_threshold: float | None = None) -> np.ndarray:
    from sklearn.cluster import AgglomerativeClustering

    model = AgglomerativeClustering(
        n_clusters=n_clusters, distance_threshold=distance_threshold, metric="precomputed", linkage="average"
    )
    return np.asarray(model.fit_predict(distances))


def _joined(vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The groups with the texts beyond the grouped ones in that of their nearest."""
    n = len(groups)
    if n == len(vectors):
        return groups
    nearest = np.argmax(np.round((vectors[n:] @ vectors[:n].T).astype(float), DIGITS), axis=1)
    return np.concatenate([groups, groups[nearest]])


def _numbered(groups: np.ndarray) -> np.ndarray:
    """The same groups, numbered from the largest, equal ones in the order of their first member."""
    names, first, inverse, size = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    number = np.empty(len(names), dtype=int)
    number[np.lexsort((first, -size))] = np.arange(len(names))
    return np.asarray(number[inverse])
