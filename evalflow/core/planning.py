"""The refresh plan: which bins the next labels should go to, for every number of labels at once.

So many labels are divided such that the raw JSD of the resulting suite is the lowest that they can reach, above floors
for blind spots and for the pool of small bins, and above a light quota that keeps well-covered bins from growing old.
Source: docs/methods.md, "Refresh plan". Keep out: which traces fill a quota (``diversity.py``, ``defs/filling.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evalflow.core.blind_spots import UNDER_TESTED
from evalflow.core.coverage import EDGE_CASES
from evalflow.core.divergence import jsd

PRIOR_LABELS = 5
"""A bin's own yield counts as much as the overall one after so many labels."""
LEAST_YIELD = 0.1
"""A bin that never gave a case still gets ten labels for one, not endlessly many."""
MOST_TRIES = 5
"""With unequal yields so many bins are tried that might give up a label."""
ROUNDING = 1e-12
"""Two falls of JSD that are closer than this are equal: their bins take turns."""


@dataclass(frozen=True)
class BinState:
    """A bin before the plan: its production share, its golden cases, and how many cases a label there gives."""

    bin: str
    production_share: float
    golden_cases: int
    is_blind_spot: bool
    yield_share: float = 1.0


@dataclass(frozen=True)
class Floors:
    """What a plan gives out whatever it does to JSD; see the settings of the same names."""

    blind_spot: int
    edge: int
    covered_share: float


@dataclass(frozen=True)
class Quota:
    """Labels for one bin: how many, why, the cases expected after them, and what they bring.

    ``gain``: raw JSD of the planned suite without this bin's labels less that with them; below 0 where labels that keep
    a bin fresh cost a little.
    """

    bin: str
    labels: int
    reason: str
    cases_after: float
    gain: float


@dataclass(frozen=True)
class Plan:
    """Quotas in the order of the bins given. JSDs are raw; ``jsd_before`` is None where there is no suite yet."""

    quotas: tuple[Quota, ...]
    jsd_before: float | None
    jsd_predicted: float | None


@dataclass(frozen=True)
class Plans:
    """The plan of every number of labels from 0 on, for the same bins and floors.

    ``labels`` (n + 1, k): row n is the division of n labels. ``jsd_raw`` (n + 1,): the raw JSD that it predicts, NaN
    where there is no suite or no traffic.
    """

    bins: tuple[BinState, ...]
    floors: Floors
    labels: np.ndarray
    jsd_raw: np.ndarray

    def labels_for(self, target: float) -> int | None:
        """The fewest labels whose plan predicts a raw JSD at or below the target; None where none of them does."""
        reached = np.flatnonzero(self.jsd_raw <= target)
        return int(reached[0]) if len(reached) else None

    def plan(self, n_labels: int) -> Plan:
        """The plan of so many labels."""
        share, cases, gives = _columns(self.bins)
        labels = self.labels[n_labels]
        after = cases + labels * gives
        least = _least(self.bins, share, cases, self.floors, n_labels)
        predicted = _known(self.jsd_raw[n_labels])
        quotas = []
        for i, row in enumerate(self.bins):
            without = after - np.where(np.arange(len(after)) == i, labels * gives, 0.0)
            worse = (jsd(share, without) if without.sum() else 1.0) if labels[i] else 0.0
            gain = worse - predicted if labels[i] and predicted is not None else 0.0
            reason = _reason(row, int(labels[i]), int(least.floors[i]), int(least.light[i]))
            quotas.append(Quota(row.bin, int(labels[i]), reason, float(after[i]), gain))
        return Plan(tuple(quotas), _known(self.jsd_raw[0]), predicted)


def plans_up_to(most: int, bins: Sequence[BinState], floors: Floors) -> Plans:
    """Divide 0, 1, ... ``most`` labels over the bins that have traffic, each number as well as it can be.

    For a final suite of N cases raw JSD is a sum of one convex term per bin, so a division is the best where no label can
    be moved from one bin to another with profit (Ibaraki and Katoh 1988). Each number starts from the division of the one
    before and moves labels until that holds. Where a label gives as many cases in all bins this is the optimum; where
    yields differ N hangs on the division too, and it is one that the most promising moves no longer improve.

    Args:
        most: the largest number of labels.
        bins: every bin of the week; shares need not sum to one exactly.
        floors: what is given out whatever it does to JSD.

    Returns:
        All plans; without any traffic every division is zero and every JSD NaN.
    """
    share, cases, gives = _columns(bins)
    labels = np.zeros((most + 1, len(bins)), dtype=int)
    values = np.full(most + 1, np.nan)
    if len(bins) and share.sum() > 0:
        share = share / share.sum()
        now = np.zeros(len(bins), dtype=int)
        for n in range(most + 1):
            least = _least(bins, share, cases, floors, n)
            now = _divided(n, now, least.floors + least.light, share, cases, gives)
            labels[n] = now
            after = cases + now * gives
            if after.sum() > 0:
                values[n] = jsd(share, after)
    return Plans(tuple(bins), floors, labels, values)


def whole_part(share: float, budget: int) -> int:
    """So many whole labels of the budget; .29 of 100 is 29, whatever its last bit says."""
    return int(share * budget + 1e-9)


def yields(labels: Mapping[str, int], cases: Mapping[str, int], bins: Sequence[str]) -> dict[str, float]:
    """Cases that a label gave in each bin so far, drawn towards the overall yield; 1 where nothing was labelled yet.

    Args:
        labels: answered labels by bin.
        cases: how many of them became cases, by bin.
        bins: the bins that are wanted.
    """
    n_labels = sum(labels.values())
    overall = sum(cases.values()) / n_labels if n_labels else 1.0
    return {
        name: max(LEAST_YIELD, (cases.get(name, 0) + PRIOR_LABELS * overall) / (labels.get(name, 0) + PRIOR_LABELS))
        for name in bins
    }


class _Least(NamedTuple):
    """The least labels of each bin, shape (k,): the floors, and the light quota in other bins."""

    floors: np.ndarray
    light: np.ndarray


def _least(bins: Sequence[BinState], share: np.ndarray, cases: np.ndarray, floors: Floors, n_labels: int) -> _Least:
    """Floors and light quota of a plan of ``n_labels``, the largest bin first, as far as the labels go.

    The light quota is one label each for covered bins without a floor.
    """
    floor, light = np.zeros(len(bins), dtype=int), np.zeros(len(bins), dtype=int)
    left = n_labels
    by_size = np.argsort(-share, kind="stable")
    for i in by_size:
        wanted = floors.blind_spot if bins[i].is_blind_spot else floors.edge if bins[i].bin == EDGE_CASES else 0
        if share[i] > 0 and wanted:
            floor[i] = min(wanted, left)
            left -= floor[i]
    if cases.sum():
        is_covered = (cases / cases.sum() >= UNDER_TESTED * share) & (share > 0) & (cases > 0) & (floor == 0)
        n_light = min(left, whole_part(floors.covered_share, n_labels))
        light[by_size[is_covered[by_size]][:n_light]] = 1
    return _Least(floor, light)


def _divided(
    n_labels: int, start: np.ndarray, least: np.ndarray, share: np.ndarray, cases: np.ndarray, gives: np.ndarray
) -> np.ndarray:
    """The division of ``n_labels``, none below ``least``, reached from the division ``start`` of about as many."""
    labels = np.maximum(start, least)
    while labels.sum() < n_labels:
        labels[_best(share, cases + labels * gives, gives).bin] += 1
    while labels.sum() > n_labels:
        labels[_dispensable(share, cases, labels, least, gives)[0]] -= 1
    tries = 1 if np.ptp(gives) == 0 else MOST_TRIES
    now = jsd(share, cases + labels * gives) if n_labels or cases.sum() else 0.0
    while True:
        moves = []
        for off in _dispensable(share, cases, labels, least, gives)[:tries]:
            fewer = labels - (np.arange(len(labels)) == off)
            best = _best(share, cases + fewer * gives, gives)
            moves.append((best.jsd, best.bin, off))
        if not moves or min(moves)[0] >= now - ROUNDING:
            return labels
        now, to, off = min(moves)
        labels[to] += 1
        labels[off] -= 1


class _Best(NamedTuple):
    bin: int
    jsd: float


def _best(share: np.ndarray, counts: np.ndarray, gives: np.ndarray) -> _Best:
    """The bin where one more label leaves the lowest JSD, and that JSD; ties go to the larger untested mass.

    With N cases JSD = 1 + (sum p log p + sum q log q - sum (p + q) log (p + q)) / 2, and q = c / N: but for N, which is
    the same for all bins of one yield, a label changes one term of each sum.
    """
    size = counts.sum() + gives
    distinct, own = np.unique(gives, return_inverse=True)
    mixed = _x_log_x(share * (counts.sum() + distinct)[:, None] + counts).sum(axis=1)[own]
    mixed += _x_log_x(share * size + counts + gives) - _x_log_x(share * size + counts)
    golden = _x_log_x(counts).sum() + _x_log_x(counts + gives) - _x_log_x(counts)
    value = 1 + (_x_log_x(share).sum() + (golden - mixed) / size + np.log2(size)) / 2
    value = np.where(share > 0, value, np.inf)
    is_best = value <= value.min() + ROUNDING
    untested = np.where(is_best, share - counts / max(counts.sum(), ROUNDING), -np.inf)
    best = int(np.argmax(untested))
    return _Best(best, float(value[best]))


def _dispensable(
    share: np.ndarray, cases: np.ndarray, labels: np.ndarray, least: np.ndarray, gives: np.ndarray
) -> list[int]:
    """Bins with more labels than they need, the one first whose last label lowers JSD least at this size of the suite.

    A label also grows the suite: the JSD of counts that stay falls by m / N per case, m = sum q log2(2 q / (p + q)) / 2.
    Where all bins give the same that part is the same for all.
    """
    counts = cases + labels * gives
    size = max(float(counts.sum()), ROUNDING)
    golden, fewer = counts / size, np.maximum(counts - gives, 0.0) / size
    mixed = np.where(golden > 0, share + golden, 1.0)
    by_size = float((_x_log_x(golden) + golden - golden * np.log2(mixed)).sum()) / 2
    rise = _term(share, fewer) - _term(share, golden) + by_size * gives / size
    return [int(i) for i in np.argsort(rise, kind="stable") if labels[i] > least[i]]


def _term(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The bins' terms of the JSD for shares as they are: q need not sum to one."""
    return np.asarray((_x_log_x(p) + _x_log_x(q) - _x_log_x(p + q) + p + q) / 2)


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * np.log2(np.where(x > 0, x, 1.0)))


def _reason(row: BinState, labels: int, floor: int, light: int) -> str:
    parts = {
        "lowers JSD": labels - floor - light,
        "blind spot" if row.is_blind_spot else "pool of small bins": floor,
        "kept fresh": light,
    }
    return ", ".join(f"{why}: {n}" for why, n in parts.items() if n)


def _columns(bins: Sequence[BinState]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([row.production_share for row in bins], dtype=float),
        np.array([row.golden_cases for row in bins], dtype=float),
        np.array([row.yield_share for row in bins], dtype=float),
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
