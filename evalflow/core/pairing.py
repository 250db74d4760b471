"""Is the candidate worse than the baseline on the cases that both ran? A paired, one-sided test over families.

Belongs here: the test, what it could have detected, and what left-out results would have changed at worst. Keep out:
which families there are (``core/families.py``) and what a verdict makes of it (``core/gate.py``). Source:
docs/methods.md, "Gate".
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, gcd, lcm, sqrt
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from evalflow.core.attempts import Attempts
from evalflow.core.families import Families

Test = Literal["exact McNemar", "exact sign flips", "sampled sign flips", "none"]
WORSE_P = 0.05
"""One-sided: so often at most is a candidate called worse that is as good as the baseline."""
POWER = 0.8
"""So often a drop of the detectable size is found."""
MAX_SUMS, MAX_STATES = 2_000_000, 100_000_000
"""Distinct sums, and sums times families, up to which sign flips are enumerated: 16 MB, about a quarter of a second."""
SAMPLED_FLIPS = 20_000
"""Beyond it so many flips are drawn: at p = .05 the Monte Carlo error is .0015."""
_SEED = 20_260_601
_Z_WORSE, _Z_POWER = NormalDist().inv_cdf(1 - WORSE_P), NormalDist().inv_cdf(POWER)
_NONE: Attempts = Attempts()


@dataclass(frozen=True)
class PairedTest:
    """What a candidate did beside a baseline, over the sampled cases that both have scored.

    ``n_regressions``, ``n_fixes``: pairs with a lower and with a higher share of passed attempts than the baseline's.
    ``drop``: by how much the share fell, mean over pairs; negative where it rose. ``p_value``: how often flips at random
    give a drop as large. ``worst_p_value``: the same with all ``lost`` cases, and those with an unscored attempt, as
    failures.
    ``discordant_share``: mean square of the families' sums per case, (n / N^2) sum D_f^2; with single cases the share of
    pairs that differ. ``detectable_drop``: the smallest drop found with probability ``POWER``; lost cases count in it as
    if they differed as much as they can; None where no drop up to 1 is. ``families_needed``: so many families of this
    kind would bring it to ``limit``. ``lost``: scored in the baseline, not in the candidate. ``n_without_baseline``:
    sampled cases that the baseline has not scored. ``n_uneven``: pairs at which one run made more attempts. Figures are
    None without any pair.
    """

    test: Test
    n_pairs: int
    n_families: int
    n_regressions: int
    n_fixes: int
    drop: float | None
    p_value: float | None
    worst_p_value: float | None
    discordant_share: float | None
    detectable_drop: float | None
    families_needed: int | None
    limit: float
    regressed: tuple[str, ...]
    fixed: tuple[str, ...]
    lost: tuple[str, ...]
    n_without_baseline: int
    n_uneven: int

    @property
    def is_worse(self) -> bool:
        """Surely: the p-value is at most ``WORSE_P``."""
        return self.p_value is not None and self.p_value <= WORSE_P

    @property
    def could_be_worse(self) -> bool:
        """It would be, if everything that the candidate lacks had failed."""
        return self.worst_p_value is not None and self.worst_p_value <= WORSE_P

    @property
    def is_sharp_enough(self) -> bool:
        """A drop of ``limit`` would have shown."""
        return self.detectable_drop is not None and self.detectable_drop <= self.limit


def compare(
    case_ids: Iterable[str],
    candidate: Mapping[str, Attempts],
    baseline: Mapping[str, Attempts],
    families: Families,
    limit: float,
) -> PairedTest:
    """Hold a candidate against a baseline, case by case.

    The unit is the family f with D_f, the sum of ``drop_of`` over its pairs. If the candidate is as good, each D_f is as
    likely with the other sign, whatever holds its cases together.

    Args:
        case_ids: the sampled cases, each once.
        candidate, baseline: the attempts by case; what is absent has none.
        families: which cases move together.
        limit: the drop that a pass must have been able to see.

    Raises:
        ValueError: the limit lies outside (0, 1] or is NaN.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"a detectable drop of {limit} is none; it must be in (0, 1]")
    drops: dict[str, Fraction] = {}
    extremes: dict[str, _Extremes] = {}
    lost: list[str] = []
    n_without_baseline = n_uneven = 0
    for case_id in case_ids:
        before, after = baseline.get(case_id, _NONE), candidate.get(case_id, _NONE)
        if not before.n_scored:
            n_without_baseline += 1
            continue
        extremes[case_id] = _extremes_of(before, after)
        if after.n_scored:
            drops[case_id] = drop_of(before, after)
            n_uneven += before.n_scored != after.n_scored
        else:
            lost.append(case_id)
    sums = _by_family(drops, families)
    tested = sign_flips(sums)
    is_plain = len(sums) == len(drops) and all(value in (-1, 0, 1) for value in sums)
    most = sign_flips(_by_family({case_id: found.most for case_id, found in extremes.items()}, families))
    noise = _noise(extremes, families)
    return PairedTest(
        test="none" if not drops else "exact McNemar" if is_plain else tested.test,
        n_pairs=len(drops),
        n_families=len(sums),
        n_regressions=sum(drop > 0 for drop in drops.values()),
        n_fixes=sum(drop < 0 for drop in drops.values()),
        drop=float(sum(drops.values()) / len(drops)) if drops else None,
        p_value=tested.p_value if drops else None,
        worst_p_value=most.p_value if extremes else None,
        discordant_share=_second_moment(sums, len(drops)) if drops else None,
        detectable_drop=detectable_drop(noise.n_families, noise.discordant_share, noise.clumping) if drops else None,
        families_needed=families_needed(limit, noise.discordant_share, noise.clumping) if drops else None,
        limit=limit,
        regressed=tuple(case_id for case_id, drop in drops.items() if drop > 0),
        fixed=tuple(case_id for case_id, drop in drops.items() if drop < 0),
        lost=tuple(lost),
        n_without_baseline=n_without_baseline,
        n_uneven=n_uneven,
    )


# -- the test ----------------------------------------------------------------------------------------------------


class SignFlips(NamedTuple):
    """How the p-value came about, and it."""

    test: Literal["exact sign flips", "sampled sign flips"]
    p_value: float


def sign_flips(sums: Sequence[Fraction]) -> SignFlips:
    """One-sided p-value of the sum of ``sums``: the share of all 2^n choices of signs whose sum is at least as large.

    Where all sums but 0 are equally large that is McNemar's exact test: P(X >= regressions), X ~ Bin(regressions + fixes,
    1/2). Else the distribution of the sums is built family by family, over whole multiples of their common unit; where that
    takes more than ``MAX_SUMS`` or ``MAX_STATES``, ``SAMPLED_FLIPS`` flips are drawn with a fixed seed and (1 + as large) /
    (1 + drawn) is given, which is never too small on average (Phipson and Smyth 2010). No sum, or none but 0, gives 1.

    More of a drop in any family never raises the p-value: it is the chance that what is flipped sums to 0 or less.
    """
    unit = lcm(*(value.denominator for value in sums)) if sums else 1
    scaled = [int(value * unit) for value in sums]
    common = gcd(*scaled) or 1
    steps = [value // common for value in scaled]
    sizes = sorted(abs(step) for step in steps if step)
    if not sizes or sizes[-1] == 1:
        return SignFlips("exact sign flips", _mcnemar(steps.count(1), steps.count(-1)))
    if sum(sizes) <= MAX_SUMS and sum(sizes) * len(sizes) <= MAX_STATES:
        return SignFlips("exact sign flips", _enumerated(steps, sizes))
    return SignFlips("sampled sign flips", _sampled(sums))


def _mcnemar(regressions: int, fixes: int) -> float:
    from scipy.special import betainc

    # P(X >= k), X ~ Bin(n, 1/2), is the regularised incomplete beta function I_1/2(k, n - k + 1).
    return float(betainc(regressions, fixes + 1, 0.5)) if regressions else 1.0


def _enumerated(steps: Sequence[int], sizes: Sequence[int]) -> float:
    """P(sum of s_f |D_f| >= sum D_f): in terms of the subset B that keeps its sign, 2 |B| - total >= sum D_f."""
    total = sum(sizes)
    chance = np.zeros(total + 1)
    chance[0] = 1.0
    reached = 0
    for size in sizes:  # the smallest first, so that the array fills late
        before = chance[: reached + 1].copy()
        chance[: reached + 1] *= 0.5
        chance[size : reached + size + 1] += 0.5 * before
        reached += size
    least = (sum(steps) + total) // 2  # both have the same parity
    return min(float(chance[least:].sum()), 1.0)


def _sampled(sums: Sequence[Fraction]) -> float:
    rng = np.random.default_rng(_SEED)
    values = np.array([float(value) for value in sums])
    slack = 1e-9 * float(np.abs(values).sum())  # sums that are equal but for the last bits
    as_large = 0
    for drawn in np.array_split(np.arange(SAMPLED_FLIPS), 20):
        flipped = rng.random((len(drawn), len(values))) < 0.5
        as_large += int((flipped @ values <= slack).sum())
    return (1 + as_large) / (1 + SAMPLED_FLIPS)


# -- what it could have seen ---------------------------------------------------------------------------------------


def detectable_drop(n_families: int, discordant_share: float, clumping: float = 1.0) -> float | None:
    """The smallest drop of the pass rate that the test finds with probability ``POWER``; None where none up to 1 is.

    Solves d = (z_.95 sqrt(psi) + z_.80 sqrt(psi - d^2)) / sqrt(n) + 1 / n, where 1 / n makes up for the steps in which a
    count moves. psi is never less than ``clumping`` * d: a drop of d makes at least that many pairs differ, so that no
    discordant pair seen does not mean that any drop would have shown. Source: Miettinen 1968, Biometrics 24, and Connor
    1987, Biometrics 43, for pairs.

    Args:
        n_families: the independent units.
        discordant_share: psi, mean square of the families' sums per case; between 0 and ``clumping``.
        clumping: n sum m_f^2 / N^2, m_f cases in family f of N: 1 where all families are equally large.
    """
    if n_families == 0:
        return None
    low, high = 0.0, 1.0
    if _needed(high, n_families, discordant_share, clumping) > high:
        return None
    for _ in range(60):
        middle = (low + high) / 2
        if _needed(middle, n_families, discordant_share, clumping) > middle:
            low = middle
        else:
            high = middle
    return high


def families_needed(limit: float, discordant_share: float, clumping: float = 1.0) -> int:
    """How many families of this kind it takes until a drop of ``limit`` is detectable: the same equation, solved for n."""
    psi = max(discordant_share, clumping * limit)
    spread = _Z_WORSE * sqrt(psi) + _Z_POWER * sqrt(max(psi - limit**2, 0.0))
    root = (spread + sqrt(spread**2 + 4 * limit)) / (2 * limit)
    return ceil(root**2 - 1e-9)


def _needed(drop: float, n: int, discordant_share: float, clumping: float) -> float:
    psi = max(discordant_share, clumping * drop)
    return (_Z_WORSE * sqrt(psi) + _Z_POWER * sqrt(max(psi - drop**2, 0.0))) / sqrt(n) + 1 / n


# -- cases and families ------------------------------------------------------------------------------------------


class _Extremes(NamedTuple):
    """How much a case may have dropped at least and at most, whatever its missing and unscored attempts would say."""

    least: Fraction
    most: Fraction


class _Noise(NamedTuple):
    n_families: int
    discordant_share: float
    clumping: float


def drop_of(before: Attempts, after: Attempts) -> Fraction:
    """By how much the share of passed attempts fell, on as many attempts of either run as both have scored.

    If one run made more, its first ones count: shares of 1 and of 3 attempts do not differ upwards as often as downwards,
    and a test that takes them to is wrong too often (simulated: up to 8 % for 5).
    """
    k = min(before.n_scored, after.n_scored)
    return Fraction(before.first_scored(k).n_passed - after.first_scored(k).n_passed, k)


def _extremes_of(before: Attempts, after: Attempts) -> _Extremes:
    if after.n_scored and not after.n_unscored:
        exact = drop_of(before, after)
        return _Extremes(exact, exact)
    return _Extremes(-Fraction(before.n_failed > 0), Fraction(before.n_passed > 0))


def _by_family(drops: Mapping[str, Fraction], families: Families) -> list[Fraction]:
    sums: dict[str, Fraction] = defaultdict(Fraction)
    for case_id, drop in drops.items():
        sums[families.name_of(case_id)] += drop
    return list(sums.values())


def _noise(extremes: Mapping[str, _Extremes], families: Families) -> _Noise:
    """The noise of all cases that the baseline has scored, as large as what is not known of them allows.

    Otherwise a candidate without results for the cases that vary would look the more exactly measured for it.
    """
    least = _by_family({case_id: found.least for case_id, found in extremes.items()}, families)
    most = _by_family({case_id: found.most for case_id, found in extremes.items()}, families)
    widest = [max(abs(low), abs(high)) for low, high in zip(least, most, strict=True)]
    n, n_cases = len(widest), len(extremes)
    if not n:
        return _Noise(0, 0.0, 1.0)
    sizes = families.sizes(extremes)
    clumping = n * sum(size * size for size in sizes) / n_cases**2
    return _Noise(n, _second_moment(widest, n_cases), clumping)


def _second_moment(sums: Sequence[Fraction], n_cases: int) -> float:
    return float(len(sums) * sum(value * value for value in sums) / Fraction(n_cases) ** 2)
