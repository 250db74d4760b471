"""The qualified score: how a run of the suite did, weighted by the traffic, and never without what it does not cover.

Belongs here: the covered-mass arithmetic that the gate and the weekly series share, the changes over four weeks, and
what they say together. Keep out: where runs, bins and shares come from. Source: docs/methods.md, "Qualified score".
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from math import inf, isfinite, sqrt
from statistics import NormalDist
from typing import Literal, NamedTuple, TypeVar

from evalflow.core.intervals import CONFIDENCE, Interval, wilson

Trend = Literal["rising", "falling", "flat"]
Finding = Literal["coverage_gap", "model_prompt_or_world_changed", "overfitting", "none", "cannot_tell"]
Run = TypeVar("Run")
OVERFITTING_P = 0.05
"""One-sided: so often at most is a suite called overfitted whose score rose as much as production's."""
PRIOR_CASES = 5.0
"""A bin's own pass rate is drawn towards the suite's by this many cases where its spread is estimated: with 1 of 1 the
bin alone would be certain. Simulated for 5: intervals cover 92 to 99 %; for 2: 89 to 98 %."""
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_ROUNDING = 1e-12
"""A change below this is a last bit, not a change."""


@dataclass(frozen=True)
class SuiteCase:
    """One golden case as gate and score see it. ``bin``: where it falls in the taxonomy; None where it was not placed."""

    case_id: str
    is_regression: bool
    bin: str | None = None


@dataclass(frozen=True)
class Unqualified:
    """Why there are no production shares to qualify the score by."""

    reason: str


@dataclass(frozen=True)
class PassRate:
    """Passed of scored cases; ``interval`` is Wilson's at 95 %. ``rate`` is None where nothing was scored.

    ``passed`` is whole where each case was tried once; else each case counts with its share of passed attempts.
    """

    passed: float
    scored: int
    rate: float | None
    interval: Interval


@dataclass(frozen=True)
class BinResult:
    """One bin: its share of production (None without coverage), its cases, and how they did."""

    bin: str
    production_share: float | None
    n_cases: int
    n_scored: int
    n_passed: float
    """Whole where each case was tried once; else the sum of the cases' shares of passed attempts."""

    @property
    def pass_rate(self) -> float | None:
        return self.n_passed / self.n_scored if self.n_scored else None

    @property
    def lost_share(self) -> float:
        """Share of production times failing share of the bin's scored cases: what the failures stand for."""
        return (self.production_share or 0.0) * (1 - self.n_passed / self.n_scored) if self.n_scored else 0.0


@dataclass(frozen=True)
class CoveredScore:
    """The score weighted by traffic and what it stands for.

    ``rate``: sum p_k pass_k / sum p_k over bins with a scored case; ``se`` and ``interval`` (95 %) belong to it; all
    three None where nothing is covered. ``covered_share``: the sum p_k of those. ``bounds``: the rate over all traffic if
    what is not covered failed or passed throughout; (0, 1) without traffic.
    """

    rate: float | None
    se: float | None
    interval: Interval | None
    covered_share: float
    bounds: Interval


def covered_score(rows: Sequence[BinResult], m_eff: float | None) -> CoveredScore:
    """Weigh the pass rates of the bins by their share of production.

    The variance is sum a_k^2 r_k (1 - r_k) / n_k over covered bins, a_k = p_k / sum p_k, where r_k is the bin's pass rate
    drawn towards that of the suite by ``PRIOR_CASES``; plus what the sample of production adds,
    sum a_k (pass_k - rate)^2 / (m_eff * covered share). The interval is Wilson's with as many cases as have that variance.

    Args:
        rows: every bin with production or cases, shares known.
        m_eff: how many independent traces the shares rest on; None: the shares are taken as known.
    """
    scored = [row for row in rows if row.n_scored and row.production_share]
    total = sum((row.production_share or 0.0 for row in rows), 0.0)
    share = sum((row.production_share or 0.0 for row in scored), 0.0)
    passing = sum(((row.production_share or 0.0) - row.lost_share for row in scored), 0.0)
    bounds = Interval(min(passing, 1.0), min(passing + max(total - share, 0.0), 1.0))
    if not share > 0:
        return CoveredScore(None, None, None, 0.0, bounds if total > 0 else Interval(0.0, 1.0))
    rate = min(passing / share, 1.0)
    weight = [(row.production_share or 0.0) / share for row in scored]
    n_kish = 1 / sum(a * a / row.n_scored for a, row in zip(weight, scored, strict=True))
    centre = (rate * n_kish + 2) / (n_kish + 4)  # Agresti and Coull's: never 0 or 1
    variance = 0.0
    for a, row in zip(weight, scored, strict=True):
        own = (row.n_passed + PRIOR_CASES * centre) / (row.n_scored + PRIOR_CASES)
        variance += a * a * own * (1 - own) / row.n_scored
        if m_eff:
            variance += a * (row.n_passed / row.n_scored - rate) ** 2 / (m_eff * share)
    n = centre * (1 - centre) / variance
    return CoveredScore(rate, sqrt(variance), wilson(min(rate * n, n), n), min(share, 1.0), bounds)


def results_by_bin(
    suite: Sequence[SuiteCase],
    outcome: Mapping[str, float | None],
    production_share: Mapping[str, float] | Unqualified,
) -> tuple[BinResult, ...]:
    """Every bin with traffic or cases, by share, largest first; ``outcome`` holds a key for each case of the suite.

    An outcome is True, False, the share of attempts that passed, or None where none was scored.
    """
    shares = {} if isinstance(production_share, Unqualified) else production_share
    inside: dict[str, list[float | None]] = defaultdict(list)
    for case in suite:
        if case.bin is not None:
            inside[case.bin].append(outcome[case.case_id])
    rows = [
        BinResult(
            bin=name,
            production_share=None if isinstance(production_share, Unqualified) else shares.get(name, 0.0),
            n_cases=len(inside[name]),
            n_scored=sum(passed is not None for passed in inside[name]),
            n_passed=sum(passed or 0 for passed in inside[name]),
        )
        for name in sorted({*shares, *inside})
    ]
    return tuple(sorted(rows, key=lambda row: -(row.production_share or 0.0)))


def pass_rate_of(outcomes: Iterable[bool | None]) -> PassRate:
    """Passed of scored; what is unscored (None) is in neither."""
    scored = [passed for passed in outcomes if passed is not None]
    passed = sum(scored)
    return PassRate(passed, len(scored), passed / len(scored) if scored else None, wilson(passed, len(scored)))


# -- changes over four weeks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A difference with its standard error; or, where there is none (``value`` None), the reason.

    ``n_cases``: on how many cases it rests, where it rests on cases.
    """

    value: float | None
    se: float | None = None
    missing: str | None = None
    n_cases: int = 0

    @property
    def interval(self) -> Interval | None:
        """95 %, normal; None without a value."""
        if self.value is None or self.se is None:
            return None
        return Interval(self.value - _Z * self.se, self.value + _Z * self.se)

    @property
    def trend(self) -> Trend | None:
        """Rising or falling where the interval excludes 0, else flat; None without a value."""
        if self.interval is None:
            return None
        low, high = self.interval
        return "rising" if low > _ROUNDING else "falling" if high < -_ROUNDING else "flat"


class JsdWeek(NamedTuple):
    """One week's JSD as the series publishes it.

    ``previous``: the JSD of the same week under the taxonomy of the week before, known in the first week of a new one.
    """

    week: date
    jsd: float | None
    sd: float | None
    taxonomy_id: str | None
    previous: float | None


class Paired(NamedTuple):
    """A case scored on both ends: its bin this week, and the share of its runs that passed before and after."""

    bin: str
    before: float
    after: float


class Production(NamedTuple):
    """How production changed by one grader; ``room``: how far its rate could have risen at all."""

    grader: str | None
    change: Change
    room: float | None


class ProductionRate(NamedTuple):
    """A grader's pass rate of a week's window, with its standard error."""

    grader: str
    grader_version: str
    rate: float | None
    se: float | None


def jsd_change(weeks: Sequence[JsdWeek]) -> Change:
    """Change of JSD from the first to the last of consecutive weeks, as the sum of the weekly ones.

    Each step compares two weeks under one taxonomy: jsd(w) - jsd(w-1), or, in the first week of a new taxonomy,
    previous(w) - jsd(w-1), as an index is chained where its basket changes. The standard error is that of both ends;
    each seam before the last week adds its own week's variance, as if half of the error of its two figures were shared.
    """
    for week in weeks:
        if week.jsd is None:
            return Change(None, missing=f"the week of {week.week} has no JSD")
    first, last = weeks[0], weeks[-1]
    if first.sd is None or last.sd is None:
        without = first if first.sd is None else last
        return Change(None, missing=f"the JSD of the week of {without.week} has no standard deviation")
    value, variance = 0.0, first.sd**2 + last.sd**2
    for before, week in pairwise(weeks):
        reached = week.jsd
        if week.taxonomy_id != before.taxonomy_id:
            reached = week.previous
            variance += 0.0 if week is last else (week.sd or 0.0) ** 2
        if reached is None or before.jsd is None:
            return Change(
                None,
                missing=f"the taxonomy changed in the week of {week.week}, whose JSD under the one before is not known",
            )
        value += reached - before.jsd
    return Change(value, sqrt(variance))


def days_in_force(
    ran_on: Sequence[date], window: Sequence[date], end: Literal["earlier", "later"]
) -> dict[int, int] | None:
    """For how many days of a window each run stands, by its place in ``ran_on``; None where that is not known.

    What served between two runs may be either of them. In the later window such a day is given to the run before it, in
    the earlier window to the run after it: a gain, on whatever day it was shipped, then raises the later score no sooner
    than production's and the earlier one no later.

    Args:
        ran_on: the days of the runs, ascending; of several on a day the last counts.
    """
    days: Counter[int] = Counter()
    for day in window:
        at = bisect_right(ran_on, day) - 1
        if end == "earlier" and (following := bisect_left(ran_on, day)) < len(ran_on):
            at = bisect_right(ran_on, ran_on[following]) - 1
        if at < 0:
            return None
        days[at] += 1
    return dict(days) or None


def mean_outcomes(outcomes: Mapping[Run, Mapping[str, bool | None]], days: Mapping[Run, int]) -> dict[str, float]:
    """The share of days on which each case passed, for the cases that every run with a day has scored."""
    total = sum(days.values())
    first, *_ = days
    return {
        case_id: sum(n * (outcomes[run][case_id] is True) for run, n in days.items()) / total
        for case_id in outcomes[first]
        if all(outcomes[run].get(case_id) is not None for run in days)
    }


def score_change(pairs: Sequence[Paired], production_share: Mapping[str, float], m_eff: float | None) -> Change:
    """Like for like: the change of the weighted score on the cases that both ends scored, by this week's traffic.

    sum a_k d_k / n_k with a_k = p_k / sum p_k over the bins of those cases and d_k the sum of after - before. Suite and
    weights are the same on both ends, so that neither new cases nor moving traffic pass for a change of the system. Cases
    are paired: the variance is sum a_k^2 (s_k - m_k^2) / n_k, where s_k and m_k are the bin's mean square and mean of the
    differences drawn towards those of all by ``PRIOR_CASES``, which in turn are Bonett and Price's (one fixed and one
    broken case added).
    """
    inside: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        if production_share.get(pair.bin, 0.0) > 0:
            inside[pair.bin].append(pair.after - pair.before)
    if not inside:
        return Change(None, missing="the two runs share no scored case in a bin with traffic")
    names = sorted(inside)
    share = sum(production_share[name] for name in names)
    weight = {name: production_share[name] / share for name in names}
    n_of = {name: len(inside[name]) for name in names}
    moved = {name: sum(inside[name]) for name in names}
    squares = {name: sum(d * d for d in inside[name]) for name in names}
    n_kish = 1 / sum(weight[name] ** 2 / n_of[name] for name in names)
    value = sum(weight[name] * moved[name] / n_of[name] for name in names)
    square = sum(weight[name] * squares[name] / n_of[name] for name in names)
    mean_of_all, square_of_all = n_kish * value / (n_kish + 2), (n_kish * square + 2) / (n_kish + 2)
    variance = 0.0
    for name in names:
        m = (moved[name] + PRIOR_CASES * mean_of_all) / (n_of[name] + PRIOR_CASES)
        s = (squares[name] + PRIOR_CASES * square_of_all) / (n_of[name] + PRIOR_CASES)
        variance += weight[name] ** 2 * (s - m * m) / n_of[name]
        if m_eff:
            variance += weight[name] * (moved[name] / n_of[name] - value) ** 2 / (m_eff * share)
    return Change(value, sqrt(variance), n_cases=sum(n_of.values()))


def production_change(before: Sequence[ProductionRate], after: Sequence[ProductionRate]) -> Production:
    """Change of production's pass rate by one grader: the first of ``after`` that both weeks know.

    A grader counts only under one version: two versions are two yardsticks.
    """
    for now in after:
        for then in before:
            if (now.grader, now.grader_version) != (then.grader, then.grader_version):
                continue
            if now.rate is None or then.rate is None or now.se is None or then.se is None:
                continue
            return Production(now.grader, Change(now.rate - then.rate, sqrt(now.se**2 + then.se**2)), 1 - then.rate)
    return Production(
        None, Change(None, missing="no grader has a pass rate with its error, of one version, in both weeks"), None
    )


# -- what they say together --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Diagnosis:
    """``text`` quotes every change that is known; ``overfitting_p``: one-sided p that the served score rose no more."""

    finding: Finding
    text: str
    overfitting_p: float | None


def diagnose(jsd: Change, score: Change, served: Change, production: Production) -> Diagnosis:
    """Read the changes over four weeks together.

    | score on the same cases | and | finding |
    |---|---|---|
    | falling | | ``model_prompt_or_world_changed`` |
    | flat | JSD rising | ``coverage_gap`` |
    | rising | so does what served; production flat or falling, and surely behind it (one-sided p <= .05) | ``overfitting`` |
    | else | | ``none`` |

    At most one can hold, since each asks for another trend of the score. ``cannot_tell`` where a figure is missing that
    the row needs. A falling score needs no stable JSD here: cases and weights are held fixed, so that a shift of the
    traffic cannot pass for a worse system.

    Args:
        score: from the newest run four weeks ago to the newest run now.
        served: the same from window to window, each day by the run in force (``days_in_force``). Production's rate is a
            mean over those days, so only this may be held against it: a gain of yesterday is in one day of 28.
    """
    p = _rises_more(served, production.change)
    told = _Told(jsd, score, served, production.change)

    def found(finding: Finding, lead: str, *figures: str, after: str = "") -> Diagnosis:
        rest = [figure for figure in told.known() if not any(figure in text for text in (lead, *figures))]
        return Diagnosis(finding, "; ".join([lead, *figures, *rest]) + "." + after, p)

    if score.trend is None:
        return found("cannot_tell", f"Cannot tell: {score.missing}")
    if score.trend == "falling":
        also = " The traffic has moved away from the suite as well." if jsd.trend == "rising" else ""
        return found("model_prompt_or_world_changed", f"Model, prompt or world changed: {told.score}", after=also)
    if score.trend == "flat":
        if jsd.trend is None:
            return found("cannot_tell", f"Cannot tell: {jsd.missing}")
        if jsd.trend == "rising":
            seen = " The suite does not see what the traffic does now."
            return found("coverage_gap", f"Coverage gap: {told.jsd}, while {told.score}", after=seen)
        return found("none", f"No pattern: {told.score}")
    if production.change.trend == "rising":
        return found("none", f"No pattern: {told.score}, and {told.production}")
    if production.change.trend is None or production.room is None or p is None:
        return found("cannot_tell", f"Cannot tell: {production.change.missing or served.missing}")
    if served.trend != "rising":
        young = "Cannot tell: production's windows hold too few days that are surely of the gain"
        return found("cannot_tell", young, told.score, told.served)
    if production.room < (served.value or 0.0):
        full = f"Cannot tell: production passed {1 - production.room:.1%} before, so that it could not rise as much"
        return found("cannot_tell", full, told.served)
    behind = f"{told.served}, while {told.production}", f"so large a lead is seen with {_p_said(p)} if both rose alike"
    if p <= OVERFITTING_P:
        return found("overfitting", f"Overfitting: {behind[0]}", behind[1], after=" The gain does not reach the users.")
    return found("none", f"No pattern: {behind[0]}", behind[1])


class _Told:
    """The changes in words, each with its interval."""

    def __init__(self, jsd: Change, score: Change, served: Change, production: Change) -> None:
        self._changes = score, jsd, production, served
        self.jsd = f"JSD {_said(jsd, '')}"
        self.score = (
            f"the score on the {_cases(score)} that both runs scored, weighted by this week's traffic, {_said(score)}"
        )
        self.served = (
            f"over the days of production's two windows the score on the {_cases(served)} that every run in force scored "
            f"{_said(served)}"
        )
        self.production = f"production's pass rate {_said(production)}"

    def known(self) -> list[str]:
        texts = self.score, self.jsd, self.production, self.served
        return [text for text, change in zip(texts, self._changes, strict=True) if change.value is not None]


def _rises_more(score: Change, production: Change) -> float | None:
    """One-sided p of score's change against production's, whose errors are independent; None where one is missing."""
    if score.value is None or production.value is None:
        return None
    behind = score.value - production.value
    se = sqrt((score.se or 0.0) ** 2 + (production.se or 0.0) ** 2)
    z = behind / se if se > 0 else inf if behind > _ROUNDING else -inf
    return 1 - NormalDist().cdf(z) if isfinite(z) else float(z < 0)


def _said(change: Change, unit: Literal["", " points"] = " points") -> str:
    if change.value is None or change.interval is None:
        return ""
    verb = {"rising": "rose", "falling": "fell", "flat": "stayed flat"}[change.trend or "flat"]
    figures = [change.value, *change.interval]
    by, low, high = (f"{figure * 100:+.1f}" if unit else f"{figure:+.3f}" for figure in figures)
    return f"{verb} ({by}{unit}, 95 % interval {low} to {high})"


def _cases(change: Change) -> str:
    return f"{change.n_cases:,} case{'' if change.n_cases == 1 else 's'}"


def _p_said(p: float) -> str:
    return "p <= .001" if p <= 0.001 else f"p = {p:.2g}".replace("= 0.", "= .")
