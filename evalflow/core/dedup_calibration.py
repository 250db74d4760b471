"""How far apart may two inputs be and still ask the same? Precision and recall on labelled pairs, limit by limit.

Intervals resample texts (or topics), not pairs: a text that stands in forty pairs is one text. Keep out: embedding of
the texts, and what is done with the limit (``dedup.py``). Source: docs/methods.md, "Triage and golden set".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalflow.core.intervals import Interval, wilson

TIGHT_PRECISION, LOOSE_PRECISION = 0.97, 0.95
"""Which share of merges must surely be right, in a small suite and in a large one: all but one in 33, and one in 20.

A wrong merge loses the test of a confirmed failure and freezes another case for it; a missed one costs a redundant case.
Beyond .97 labels say little: people give identical words different labels as often as that.
"""
LIMITS = tuple(round(0.01 * step, 2) for step in range(1, 61))
"""The limits that are tried, as cosine distances."""
REPLICATES = 200
SEED = 7


@dataclass(frozen=True)
class Point:
    """What a limit would do to the pairs: how many it merges, how many of them rightly, and which part of the duplicates.

    ``precision`` and ``recall`` are None where nothing is merged, or nothing is to be found.
    """

    limit: float
    n_merged: int
    precision: float | None
    precision_interval: Interval
    recall: float | None
    recall_interval: Interval


def precision_and_recall(
    distance: np.ndarray,
    is_duplicate: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    limits: Sequence[float] = LIMITS,
) -> list[Point]:
    """A point per limit.

    The intervals are Wilson's on the effective number of pairs, p (1 - p) / var, with the variance of resampled clusters:
    a pair counts as often as both of its clusters are drawn (once, where they are one). Where every merge is right, the
    variance says nothing, and the number of clusters stands in.

    Args:
        distance: cosine distance of each pair, shape (n,).
        is_duplicate: what people say of it.
        left, right: the cluster of each side, as numbers from 0: the text itself, or its topic.
        limits: ascending.

    Source: Owen 2007, "The pigeonhole bootstrap", Ann. Appl. Stat. 1.
    """
    within = np.searchsorted(np.asarray(limits), distance, side="left")  # the first limit that merges the pair
    size, n_clusters = len(limits), int(max(left.max(initial=-1), right.max(initial=-1))) + 1

    def counts(weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, float]:
        """Rightly and wrongly merged pairs up to each limit, and all duplicates."""
        own = np.ones(len(distance)) if weight is None else weight
        right_ones = np.bincount(within[is_duplicate], own[is_duplicate], minlength=size + 1)
        wrong_ones = np.bincount(within[~is_duplicate], own[~is_duplicate], minlength=size + 1)
        return np.cumsum(right_ones)[:size], np.cumsum(wrong_ones)[:size], float(right_ones.sum())

    rng = np.random.default_rng(SEED)
    precisions, recalls = np.full((REPLICATES, size), np.nan), np.full((REPLICATES, size), np.nan)
    for replicate in range(REPLICATES):
        drawn = np.bincount(rng.integers(0, n_clusters, n_clusters), minlength=n_clusters).astype(float)
        weight = np.where(left == right, drawn[left], drawn[left] * drawn[right])
        hits, misses, total = counts(weight)
        np.divide(hits, hits + misses, out=precisions[replicate], where=hits + misses > 0)
        if total > 0:
            recalls[replicate] = hits / total
    hits, misses, total = counts(None)
    points = []
    for at, limit in enumerate(limits):
        n_merged = int(hits[at] + misses[at])
        merged = within <= at
        touched = len(np.union1d(left[merged], right[merged]))
        sought = len(np.union1d(left[is_duplicate], right[is_duplicate]))
        precision = float(hits[at] / n_merged) if n_merged else None
        recall = float(hits[at] / total) if total else None
        points.append(
            Point(
                limit,
                n_merged,
                precision,
                _interval(precision, n_merged, touched, precisions[:, at]),
                recall,
                _interval(recall, int(total), sought, recalls[:, at]),
            )
        )
    return points


def widest_limit(points: Sequence[Point], precision: float) -> float | None:
    """The largest limit whose precision surely reaches the target (lower end of its interval); None where none does."""
    return max((p.limit for p in points if p.n_merged and p.precision_interval.low >= precision), default=None)


def _interval(share: float | None, n_pairs: int, n_clusters: int, drawn: np.ndarray) -> Interval:
    if share is None:
        return wilson(0, 0)
    known = drawn[~np.isnan(drawn)]
    spread = float(known.var(ddof=1)) if len(known) > 1 else 0.0
    n = float(min(n_pairs, n_clusters)) if spread == 0.0 else min(float(n_pairs), share * (1 - share) / spread)
    return wilson(share * n, n)
