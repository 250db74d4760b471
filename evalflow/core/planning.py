"""The refresh plan: which bins the next labels should go to.

Each label goes to the bin where one more case lowers the raw JSD of the resulting suite most, after floors for blind
spots and for the pool of small bins, and beside a light quota that keeps well-covered bins from growing old.
Source: docs/methods.md, "Refresh plan". Keep out: which traces fill a quota (``defs/triage.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evalflow.core.coverage import EDGE_CASES, UNDER_TESTED, jsd, jsd_terms

PRIOR_LABELS = 5
"""A bin's own yield counts as much as the overall one after so many labels."""
LEAST_YIELD = 0.1
"""A bin that never gave a case still gets ten labels for one, not endlessly many."""


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
    """What is given out before and beside the greedy part; see the settings of the same names."""

    blind_spot: int
    edge: int
    covered_share: float


@dataclass(frozen=True)
class Quota:
    """Labels for one bin: how many, why, the cases expected after them, and the fall in raw JSD that they bring."""

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


def plan_refresh(bins: Sequence[BinState], budget: int, floors: Floors) -> Plan:
    """Spread ``budget`` labels over the bins that have traffic.

    Args:
        bins: every bin of the week; shares need not sum to one exactly.
        budget: labels to give out.
        floors: the parts that are not greedy.

    Returns:
        A quota for every bin, zero where nothing is needed. Without any traffic all are zero and both JSDs None.
    """
    share = np.array([row.production_share for row in bins])
    cases = np.array([float(row.golden_cases) for row in bins])
    gives = np.array([row.yield_share for row in bins])
    labels = np.zeros(len(bins), dtype=int)
    reasons: list[list[str]] = [[] for _ in bins]
    if not len(bins) or share.sum() <= 0:
        return Plan(tuple(Quota(row.bin, 0, "", float(row.golden_cases), 0.0) for row in bins), None, None)
    before = jsd(share, cases) if cases.sum() else None
    left = budget
    for i in np.argsort(-share, kind="stable"):
        row = bins[i]
        floor = floors.blind_spot if row.is_blind_spot else floors.edge if row.bin == EDGE_CASES and share[i] else 0
        given = min(floor, left)
        if given:
            labels[i] += given
            left -= given
            reasons[i].append(f"{'blind spot' if row.is_blind_spot else 'pool of small bins'}: {given}")
    light = _light_quota(share, cases, labels, min(left, whole_part(floors.covered_share, budget)))
    for i in np.flatnonzero(light):
        labels[i] += light[i]
        reasons[i].append(f"kept fresh: {light[i]}")
    left -= int(light.sum())
    counts = cases + labels * gives
    gain = np.zeros(len(bins))
    greedy = np.zeros(len(bins), dtype=int)
    for _ in range(left):
        best, fall = _best_bin(share, counts, gives)
        counts[best] += gives[best]
        greedy[best] += 1
        gain[best] += fall
    for i in np.flatnonzero(greedy):
        reasons[i].insert(0, f"lowers JSD: {greedy[i]}")
    labels += greedy
    quotas = tuple(
        Quota(row.bin, int(labels[i]), ", ".join(reasons[i]), float(counts[i]), float(gain[i]))
        for i, row in enumerate(bins)
    )
    return Plan(quotas, before, jsd(share, counts) if counts.sum() else None)


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


def _light_quota(share: np.ndarray, cases: np.ndarray, labels: np.ndarray, budget: int) -> np.ndarray:
    """One label each for well-covered bins, the largest first, until the light quota is spent or each has one."""
    light = np.zeros(len(share), dtype=int)
    if not cases.sum():
        return light
    is_covered = (cases / cases.sum() >= UNDER_TESTED * share) & (share > 0) & (cases > 0) & (labels == 0)
    for i in [i for i in np.argsort(-share, kind="stable") if is_covered[i]][:budget]:
        light[i] = 1
    return light


def _best_bin(share: np.ndarray, counts: np.ndarray, gives: np.ndarray) -> tuple[int, float]:
    """The bin in which one more label lowers JSD most, and by how much; ties go to the larger untested mass."""
    k = len(share)
    after = counts + np.diag(gives)
    value = np.array([jsd_terms(share, row).sum() if share[i] > 0 else np.inf for i, row in enumerate(after)])
    gap = share - (counts / counts.sum() if counts.sum() else np.zeros(k))
    best = int(np.lexsort((-gap, np.round(value, 12)))[0])
    now = jsd_terms(share, counts).sum() if counts.sum() else 1.0
    return best, float(now - value[best])
