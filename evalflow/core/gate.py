"""The gate: may this candidate ship, judged by its results on the suite?

Two tiers. Frozen regressions are hard: one that fails blocks, whatever else. All cases together must surely reach a
pass rate, and that rate counts only beside how much of the traffic the scored cases stand for: a score never stands
alone. What is missing can hold a pass back, never bring one about. Source: docs/methods.md, "Gate".
Keep out: where results and bins come from, and how a verdict is printed.

Cases are taken as independent. Clustering of cases by session, and the paired comparison with a baseline (which
tells smaller differences), are not part of this first form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from evalflow.core.intervals import Interval, trials_to_tell
from evalflow.core.score import (
    BinResult,
    CoveredScore,
    PassRate,
    SuiteCase,
    Unqualified,
    covered_score,
    pass_rate_of,
    results_by_bin,
)

Decision = Literal["pass", "fail", "cannot tell"]
NAMED_CASES = 3
"""So many cases are named in a reason; all of them stand in the verdict's own fields."""
MANY_CASES = 1_000_000
"""Beyond this, "so many more cases would tell" is no advice."""


@dataclass(frozen=True)
class GateVerdict:
    """The decision and everything it rests on.

    ``reasons``: what fails first, then what holds a pass back, then remarks. ``sampled``: the cases that are not
    regressions. ``weighted_pass_rate``, its ``weighted_interval``, ``covered_share`` and ``bounds`` are those of
    ``CoveredScore``; all None without coverage, rate and interval also where nothing is covered. ``bins`` by share, largest first.
    """

    verdict: Decision
    reasons: tuple[str, ...]
    n_cases: int
    n_regressions: int
    n_passed: int
    n_failed: int
    n_unscored: int
    n_missing: int
    failing_regressions: tuple[str, ...]
    unscored_regressions: tuple[str, ...]
    missing_regressions: tuple[str, ...]
    suite: PassRate
    sampled: PassRate
    weighted_pass_rate: float | None
    weighted_interval: Interval | None
    covered_share: float | None
    bounds: Interval | None
    bins: tuple[BinResult, ...]

    @property
    def pass_rate(self) -> float | None:
        """Passed of all scored cases, None where none is scored."""
        return self.suite.rate


def decide(
    suite: Sequence[SuiteCase],
    results: Mapping[str, bool | None],
    production_share: Mapping[str, float] | Unqualified,
    min_pass_rate: float,
    min_covered_share: float,
    n_unusable: int = 0,
    m_eff: float | None = None,
) -> GateVerdict:
    """Judge the results of one candidate.

    Args:
        suite: every case that counts, each once.
        results: pass (True), fail (False) or unscored (None) by case; cases outside the suite are passed over.
        production_share: share of traffic by bin, in [0, 1], or why there is none.
        min_pass_rate: fail when the interval of the pass rate lies below it, pass only when the interval lies at or
            above it. The sampled cases alone must not lie below it either, or enough passing regressions would hide
            that everything else fails.
        min_covered_share: a pass needs scored cases in bins that hold at least this share of traffic.
        n_unusable: lines of the results that could not be read; any one of them holds a pass back.
        m_eff: how many independent traces the shares rest on; None: the shares are taken as known.

    Returns:
        The verdict. Leaving out results never makes a pass of what is none: a pass must also hold with every case
        that is missing or unscored counted as a failure.

    Raises:
        ValueError: a limit lies outside 0 to 1 or is NaN, to which nothing compares as below.
    """
    if not (0 <= min_pass_rate <= 1 and 0 <= min_covered_share <= 1):
        raise ValueError(f"min_pass_rate {min_pass_rate} and min_covered_share {min_covered_share} must be in [0, 1]")
    outcome = {case.case_id: results.get(case.case_id) for case in suite}
    is_open = {case_id for case_id, passed in outcome.items() if passed is None}
    missing = {case_id for case_id in is_open if case_id not in results}
    regressions = [case.case_id for case in suite if case.is_regression]
    sampled = [case.case_id for case in suite if not case.is_regression]
    failing = tuple(case_id for case_id in regressions if outcome[case_id] is False)
    unscored_regressions = tuple(case_id for case_id in regressions if case_id in is_open - missing)
    missing_regressions = tuple(case_id for case_id in regressions if case_id in missing)
    of_suite, of_sampled = pass_rate_of(outcome.values()), pass_rate_of(outcome[case_id] for case_id in sampled)

    fails = []
    if failing:
        fails.append(
            f"{_counted(len(failing), 'frozen regression')} {'fails' if len(failing) == 1 else 'fail'}: {_named(failing)}; each one blocks."
        )
    if of_suite.interval.high < min_pass_rate:
        fails.append(f"{_rate_text('The pass rate', of_suite)}, surely below the wanted {min_pass_rate:.1%}.")
    elif of_sampled.interval.high < min_pass_rate:
        fails.append(
            f"{_rate_text('The pass rate of the cases that are not regressions', of_sampled)}, "
            f"surely below the wanted {min_pass_rate:.1%}."
        )

    rows = results_by_bin(suite, outcome, production_share)
    coverage = None if isinstance(production_share, Unqualified) else covered_score(rows, m_eff)
    doubts = [
        *_doubts_of_regressions(missing_regressions, unscored_regressions),
        *_doubts_of_rate(outcome, sampled, of_suite, of_sampled, min_pass_rate),
        *_doubts_of_coverage(coverage, production_share, min_covered_share),
    ]
    if n_unusable:
        doubts.append(f"{_counted(n_unusable, 'line')} of the results could not be used; correct them.")
    if not suite:
        doubts = ["The suite has no cases, so there is nothing to judge by."]
    remarks = []
    if is_open and suite:
        remarks.append(
            f"{len(missing):,} without a result and {len(is_open) - len(missing):,} unscored, of {_counted(len(suite), 'case')}."
        )
    return GateVerdict(
        verdict="fail" if fails else "cannot tell" if doubts else "pass",
        reasons=(*fails, *doubts, *remarks),
        n_cases=len(suite),
        n_regressions=len(regressions),
        n_passed=of_suite.passed,
        n_failed=of_suite.scored - of_suite.passed,
        n_unscored=len(is_open) - len(missing),
        n_missing=len(missing),
        failing_regressions=failing,
        unscored_regressions=unscored_regressions,
        missing_regressions=missing_regressions,
        suite=of_suite,
        sampled=of_sampled,
        weighted_pass_rate=coverage.rate if coverage else None,
        weighted_interval=coverage.interval if coverage else None,
        covered_share=coverage.covered_share if coverage else None,
        bounds=coverage.bounds if coverage else None,
        bins=rows,
    )


def _doubts_of_regressions(missing: Sequence[str], unscored: Sequence[str]) -> list[str]:
    doubts = []
    if missing:
        doubts.append(f"{_counted(len(missing), 'frozen regression')} without a result: {_named(missing)}; run them.")
    if unscored:
        doubts.append(f"{_counted(len(unscored), 'frozen regression')} unscored: {_named(unscored)}; score them.")
    return doubts


def _doubts_of_rate(
    outcome: Mapping[str, bool | None],
    sampled: Sequence[str],
    of_suite: PassRate,
    of_sampled: PassRate,
    wanted: float,
) -> list[str]:
    """Why the pass rate is not surely high enough, were it only for results that are not there."""
    if of_suite.rate is None:
        return ["No case of the suite has a verdict in the results."]
    if of_suite.interval.high < wanted or of_sampled.interval.high < wanted:
        return []  # it is surely too low: that is said already
    if of_suite.interval.low < wanted:
        more = trials_to_tell(of_suite.rate, wanted) - of_suite.scored
        advice = (
            f"about {max(ceil(more), 1):,} more cases would tell if the rate stays"
            if more <= MANY_CASES
            else "so close to the limit no number of cases tells"
        )
        return [f"{_rate_text('The pass rate', of_suite)}, which holds the wanted {wanted:.1%}: {advice}."]
    worst = pass_rate_of(passed is True for passed in outcome.values())
    worst_sampled = pass_rate_of(outcome[case_id] is True for case_id in sampled)
    if worst.interval.low < wanted or worst_sampled.interval.high < wanted:
        n_open = worst.scored - of_suite.scored
        return [
            f"With the {_counted(n_open, 'case')} that {'has' if n_open == 1 else 'have'} no verdict counted as failures, "
            f"{worst.passed:,} of {worst.scored:,} pass and the wanted {wanted:.1%} is no longer sure: give every case a result."
        ]
    return []


def _doubts_of_coverage(
    coverage: CoveredScore | None, production_share: Mapping[str, float] | Unqualified, wanted: float
) -> list[str]:
    if isinstance(production_share, Unqualified):
        return [f"How much of the traffic the suite stands for is not known: {production_share.reason}"]
    if coverage is not None and coverage.covered_share < wanted:
        return [
            f"Bins with a scored case hold {coverage.covered_share:.1%} of the traffic, below the wanted {wanted:.1%}: "
            "score cases in the bins that have none."
        ]
    return []


def _rate_text(what: str, measured: PassRate) -> str:
    low, high = measured.interval
    return f"{what} is {measured.rate:.1%} ({measured.passed:,} of {measured.scored:,}, 95 % interval {low:.1%} to {high:.1%})"


def _named(case_ids: Sequence[str]) -> str:
    more = f" and {len(case_ids) - NAMED_CASES:,} more" if len(case_ids) > NAMED_CASES else ""
    return ", ".join(repr(case_id) for case_id in case_ids[:NAMED_CASES]) + more


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
