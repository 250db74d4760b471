"""Which traces of a bin people should look at: those that together lie near most of what the bin holds.

Greedy facility location: each next trace is the one that brings most of the bin's other traffic nearer to a known
input. It passes over what a case tests already, and over outliers, which stand for nothing but themselves.
Source: docs/methods.md, "Triage and golden set" (Nemhauser, Wolsey and Fisher 1978). Keep out: how many a bin gets.
"""

import heapq
from collections.abc import Callable

import numpy as np

MOST_TEXTS = 4_000
"""Of a bin with more texts these many stand for it, those with the lowest ranks: 64 MB of distances."""
FARTHEST = 2.0
"""The largest cosine distance: how far everything is where no input is known."""
DIGITS = 9
"""Gains that agree in so many digits are equal, and rank decides: distances are of single precision."""


def choose(
    vectors: np.ndarray,
    mass: np.ndarray,
    single: np.ndarray,
    distance: np.ndarray,
    rank: np.ndarray,
    wanted: int,
    accept: Callable[[int], bool],
) -> list[int]:
    """Choose texts one by one, each the one of the largest gain, until ``wanted`` are accepted or none is left.

    gain(c) = sum over j of mass_j max(0, d_j - d(j, c)) - single_c d_c: how much nearer the other traffic of the bin comes
    to the nearest known input, in mass times cosine distance, with d_j that distance so far.

    Args:
        vectors: (n, d), unit length, one per distinct text.
        mass: (n,), what the traces of each text stand for, not negative.
        single: (n,), the part of it that is one trace, which counts for nothing when that one is chosen.
        distance: (n,), cosine distance of each to the nearest known input; infinite where none is known.
        rank: (n,), decides between equal gains, the lowest first, and which texts stand for a bin of too many.
        wanted: how many.
        accept: asked about a text when it would be chosen; a False one brings nothing nearer and is not asked again.

    Returns:
        Positions of the accepted texts, in order of choice.

    Raises:
        ValueError: a vector or a mass is not finite, or a mass is negative.
    """
    if not np.isfinite(vectors).all() or not np.isfinite(mass).all() or (mass < 0).any():
        raise ValueError("a vector or a mass is NaN or infinite, or a mass is negative")
    place = np.argsort(rank, kind="stable")[:MOST_TEXTS]
    own = np.asarray(vectors[place], dtype=np.float32)
    apart = np.maximum(1.0 - own @ own.T, 0.0)
    np.fill_diagonal(apart, 0.0)
    nearest = np.minimum(distance[place], FARTHEST).astype(np.float64)
    weight, alone = (np.asarray(part[place], dtype=np.float64) / (mass.sum() or 1.0) for part in (mass, single))

    def gain(i: int) -> float:
        return round(float(weight @ np.maximum(nearest - apart[i], 0.0) - alone[i] * nearest[i]), DIGITS)

    # Gains only fall as texts are chosen, so one that is on top when looked at again is the largest (Minoux 1978).
    waiting = [(-gain(i), i) for i in range(len(place))]
    heapq.heapify(waiting)
    chosen: list[int] = []
    while waiting and len(chosen) < wanted:
        before, i = heapq.heappop(waiting)
        now = -gain(i)
        if now > before and waiting and (now, i) > waiting[0]:
            heapq.heappush(waiting, (now, i))
        elif accept(int(place[i])):
            chosen.append(int(place[i]))
            nearest = np.minimum(nearest, apart[i])
    return chosen
