"""Which cluster of a new taxonomy is which of the one before: matched, split, merged, born or died.

Both taxonomies place the same texts; clusters are compared by the traffic that they share. What is matched keeps its
id and its label, so that ``c07`` of one month is ``c07`` of the next. Source: docs/methods.md, "Clusters" (Kuhn 1955
for the assignment). Keep out: how texts are placed, and what clusters are called.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Relation = Literal["matched", "split", "merged", "born", "died"]

MATCHED_ABOVE = 0.5
"""Weighted Jaccard above which two clusters are the same one; above a half, only one partner can be."""
PART_SHARE = 0.25
"""Part of a cluster that counts as a child (split) or a source (merged)."""
NOWHERE = -1


class Kinship(NamedTuple):
    """One relation between a cluster of the new taxonomy and one of the old, by number; None on the side without one.

    ``jaccard``: shared traffic over the traffic of either. ``share_of_previous``, ``share_of_own``: shared traffic over
    that of the old and of the new cluster. All three are None where a side is missing.
    """

    relation: Relation
    new: int | None
    old: int | None
    jaccard: float | None = None
    share_of_previous: float | None = None
    share_of_own: float | None = None


@dataclass(frozen=True)
class Identity:
    """What became of the clusters: ``kept`` maps new numbers to the old ones that they are; ``kinships`` says all."""

    kept: dict[int, int]
    kinships: list[Kinship]


def match_clusters(mass: np.ndarray, new: np.ndarray, old: np.ndarray, n_new: int, n_old: int) -> Identity:
    """Compare two taxonomies by the traffic of the same texts.

    Matched: the pairs of the assignment with the largest total Jaccard whose own Jaccard lies above ``MATCHED_ABOVE``.
    Split: an old cluster with two or more new ones that each hold ``PART_SHARE`` of its traffic; merged: the mirror.
    A pair may be matched and part of a split or merger too. Born and died: clusters without any relation.

    Args:
        mass: (n,) traffic of each text, any scale.
        new: (n,) cluster number of each text in the new taxonomy, -1 for none.
        old: (n,) the same in the old one, -1 for none; a text that is novel to it belongs to none.
        n_new, n_old: number of clusters on each side; one without any of the texts has no relation.

    Returns:
        The relations in the order matched, split, merged, born (by new number), died (by old number).
    """
    from scipy.optimize import linear_sum_assignment

    shared = np.zeros((n_old, n_new))
    both = (new != NOWHERE) & (old != NOWHERE)
    np.add.at(shared, (old[both], new[both]), mass[both])
    of_old, of_new = _mass_of(old, mass, n_old), _mass_of(new, mass, n_new)
    jaccard = _ratio(shared, of_old[:, None] + of_new[None, :] - shared)
    of_previous, of_own = _ratio(shared, of_old[:, None]), _ratio(shared, of_new[None, :])

    def kin(relation: Relation, i: int, j: int) -> Kinship:
        return Kinship(relation, j, i, float(jaccard[i, j]), float(of_previous[i, j]), float(of_own[i, j]))

    rows, columns = linear_sum_assignment(-jaccard)
    kept = {int(j): int(i) for i, j in zip(rows, columns, strict=True) if jaccard[i, j] > MATCHED_ABOVE}
    is_child, is_source = of_previous >= PART_SHARE, of_own >= PART_SHARE
    kinships = [kin("matched", i, j) for j, i in sorted(kept.items())]
    kinships += [
        kin("split", i, j) for i in range(n_old) if is_child[i].sum() > 1 for j in np.flatnonzero(is_child[i]).tolist()
    ]
    kinships += [
        kin("merged", i, j)
        for j in range(n_new)
        if is_source[:, j].sum() > 1
        for i in np.flatnonzero(is_source[:, j]).tolist()
    ]
    related_new, related_old = {each.new for each in kinships}, {each.old for each in kinships}
    kinships += [Kinship("born", j, None) for j in range(n_new) if j not in related_new]
    kinships += [Kinship("died", None, i) for i in range(n_old) if i not in related_old]
    return Identity(kept, kinships)


def all_anew(n_new: int, n_old: int) -> Identity:
    """Nothing can be compared: every new cluster is born and every old one has died."""
    born = [Kinship("born", j, None) for j in range(n_new)]
    return Identity({}, [*born, *(Kinship("died", None, i) for i in range(n_old))])


def numbers_of(identity: Identity, n_new: int, old_numbers: Sequence[int], n_ids: int) -> list[int]:
    """The lasting number of each new cluster, from 1: that of the cluster it is, else the next never given.

    Args:
        identity: what was matched.
        n_new: number of new clusters.
        old_numbers: the lasting number of each old cluster.
        n_ids: the highest number ever given.
    """
    numbers, highest = [], n_ids
    for new in range(n_new):
        if new in identity.kept:
            numbers.append(old_numbers[identity.kept[new]])
        else:
            highest += 1
            numbers.append(highest)
    return numbers


def _mass_of(cluster: np.ndarray, mass: np.ndarray, n: int) -> np.ndarray:
    known = cluster != NOWHERE
    return np.bincount(cluster[known], weights=mass[known], minlength=n)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    whole = np.broadcast_to(whole, part.shape)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
