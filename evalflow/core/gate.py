"""The gate: may this candidate ship, judged by its results on the suite?

Frozen regressions are hard: one that fails reproducibly blocks, whatever else. The other cases are a sample: they must
surely reach a pass rate and, beside a baseline, must not have become worse. The rate counts only beside how much of the
traffic the scored cases stand for: a score never stands alone. What is missing can hold a pass back, never bring one
about. Source: docs/methods.md, "Gate".
Keep out: where results, bins and families come from; the paired test (``core/pairing.py``); the sentences
(``core/gate_reasons.py``); and how a verdict is printed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evalflow.core.attempts import Attempts
from evalflow.core.families import Families, design_effect
from evalflow.core.gate_reasons import (
    FlakyRegression,
    RateTier,
    RegressionTier,
    doubts_of_coverage,
    doubts_of_pairs,
    doubts_of_rate,
    doubts_of_regressions,
    doubts_of_unusable,
    fails_of_pairs,
    fails_of_rate,
    fails_of_regressions,
    remarks_on,
)
from evalflow.core.intervals import Interval, wilson
from evalflow.core.pairing import PairedTest, compare
from evalflow.core.score import BinResult, PassRate, SuiteCase, Unqualified, covered_score, results_by_bin

Decision = Literal["pass", "fail", "cannot tell"]
REPRODUCED = 2
"""A regression that was tried several times fails for good from so many failures on; a single one may be chance."""


@dataclass(frozen=True)
class GateVerdict:
    """The decision and everything it rests on.

    ``reasons``: what fails first, then what holds a pass back, then remarks. ``n_passed`` and ``n_failed``: cases all of
    whose scored attempts did, ``n_mixed``: those with both. ``n_families``: how many families the suite has.
    ``flaky_regressions`` failed once of several attempts. ``sampled``: the cases that are not regressions. ``paired``:
    their comparison with the baseline, None without one. ``weighted_pass_rate``, its ``weighted_interval``,
    ``covered_share`` and ``bounds`` are those of ``CoveredScore``; all None without coverage, rate and interval also
    where nothing is covered. ``bins`` by share, largest first.
    """

    verdict: Decision
    reasons: tuple[str, ...]
    n_cases: int
    n_regressions: int
    n_families: int
    n_passed: int
    n_failed: int
    n_mixed: int
    n_unscored: int
    n_missing: int
    failing_regressions: tuple[str, ...]
    flaky_regressions: tuple[FlakyRegression, ...]
    unscored_regressions: tuple[str, ...]
    missing_regressions: tuple[str, ...]
    suite: PassRate
    sampled: PassRate
    paired: PairedTest | None
    weighted_pass_rate: float | None
    weighted_interval: Interval | None
    covered_share: float | None
    bounds: Interval | None
    bins: tuple[BinResult, ...]

    @property
    def pass_rate(self) -> float | None:
        """Mean share of passed attempts over all scored cases, None where none is scored."""
        return self.suite.rate


def decide(
    suite: Sequence[SuiteCase],
    results: Mapping[str, Attempts],
    production_share: Mapping[str, float] | Unqualified,
    min_pass_rate: float,
    min_covered_share: float,
    n_unusable: int = 0,
    m_eff: float | None = None,
    *,
    families: Families | None = None,
    baseline: Mapping[str, Attempts] | None = None,
    max_detectable_drop: float = 1.0,
) -> GateVerdict:
    """Judge the results of one candidate.

    Args:
        suite: every case that counts, each once.
        results: the attempts by case; cases outside the suite are passed over.
        production_share: share of traffic by bin, in [0, 1], or why there is none.
        min_pass_rate: fail when the interval of the pass rate lies below it, pass only when the interval lies at or
            above it. The sampled cases alone must not lie below it either, or enough passing regressions would hide
            that everything else fails.
        min_covered_share: a pass needs scored cases in bins that hold at least this share of traffic.
        n_unusable: lines of the results that could not be read; any one of them holds a pass back.
        m_eff: how many independent traces the shares rest on; None: the shares are taken as known.
        families: which cases move together; None: each on its own.
        baseline: the attempts of the run to compare with; None: without comparison.
        max_detectable_drop: a pass against a baseline must have been able to see a drop this large.

    Returns:
        The verdict. Leaving out results never makes a pass of what is none: a pass must also hold with every case
        that is missing and every attempt that is unscored counted as a failure.

    Raises:
        ValueError: a limit lies outside 0 to 1 or is NaN, to which nothing compares as below.
    """
    if not (0 <= min_pass_rate <= 1 and 0 <= min_covered_share <= 1):
        raise ValueError(f"min_pass_rate {min_pass_rate} and min_covered_share {min_covered_share} must be in [0, 1]")
    families = families or Families({})
    attempts = {case.case_id: results.get(case.case_id, Attempts()) for case in suite}
    sampled = [case.case_id for case in suite if not case.is_regression]
    regressions = _regressions_of({case.case_id: attempts[case.case_id] for case in suite if case.is_regression})
    rates = RateTier(
        suite=_rate_of(attempts, attempts, families),
        sampled=_rate_of(sampled, attempts, families),
        worst_suite=_rate_of(attempts, attempts, families, is_worst=True),
        worst_sampled=_rate_of(sampled, attempts, families, is_worst=True),
        wanted=min_pass_rate,
        design_effect=design_effect(families.sizes(attempts)),
        n_open=sum(tried.n_unscored > 0 or not tried.n_attempts for tried in attempts.values()),
    )
    paired = None if baseline is None else compare(sampled, attempts, baseline, families, max_detectable_drop)
    rows = results_by_bin(suite, {case_id: tried.share for case_id, tried in attempts.items()}, production_share)
    coverage = None if isinstance(production_share, Unqualified) else covered_score(rows, m_eff)

    fails = [*fails_of_regressions(regressions), *fails_of_rate(rates), *fails_of_pairs(paired)]
    doubts = [
        *doubts_of_regressions(regressions),
        *doubts_of_rate(rates),
        *doubts_of_pairs(paired),
        *doubts_of_coverage(coverage, production_share, min_covered_share),
        *doubts_of_unusable(n_unusable),
    ]
    n_families = len(families.sizes(attempts))
    text_only_because = families.text_only_because
    if isinstance(production_share, Unqualified) and text_only_because == production_share.reason:
        text_only_because = "the suite could not be placed in the traffic."  # said in full among the doubts
    remarks = remarks_on(attempts, n_families, rates, paired, text_only_because)
    if not suite:
        doubts, remarks = ["The suite has no cases, so there is nothing to judge by."], []
    shares = [tried.share for tried in attempts.values()]
    return GateVerdict(
        verdict="fail" if fails else "cannot tell" if doubts else "pass",
        reasons=(*fails, *doubts, *remarks),
        n_cases=len(suite),
        n_regressions=len(suite) - len(sampled),
        n_families=n_families,
        n_passed=shares.count(1),
        n_failed=shares.count(0),
        n_mixed=sum(share is not None and 0 < share < 1 for share in shares),
        n_unscored=sum(not tried.n_scored and tried.n_unscored > 0 for tried in attempts.values()),
        n_missing=sum(not tried.n_attempts for tried in attempts.values()),
        failing_regressions=regressions.failing,
        flaky_regressions=regressions.flaky,
        unscored_regressions=regressions.unscored,
        missing_regressions=regressions.missing,
        suite=rates.suite,
        sampled=rates.sampled,
        paired=paired,
        weighted_pass_rate=coverage.rate if coverage else None,
        weighted_interval=coverage.interval if coverage else None,
        covered_share=coverage.covered_share if coverage else None,
        bounds=coverage.bounds if coverage else None,
        bins=rows,
    )


def _regressions_of(attempts: Mapping[str, Attempts]) -> RegressionTier:
    """Failing: whatever was tried failed, or it failed ``REPRODUCED`` times. Flaky: one failure among passes."""
    failing = [
        case_id
        for case_id, tried in attempts.items()
        if tried.n_failed >= REPRODUCED or (tried.n_failed and not tried.n_passed)
    ]
    blocked = set(failing)
    rest = {case_id: tried for case_id, tried in attempts.items() if case_id not in blocked}
    return RegressionTier(
        failing=tuple(failing),
        flaky=tuple(
            FlakyRegression(case_id, tried.n_failed, tried.n_scored)
            for case_id, tried in rest.items()
            if tried.n_failed
        ),
        unscored=tuple(case_id for case_id, tried in rest.items() if tried.n_unscored and not tried.n_failed),
        missing=tuple(case_id for case_id, tried in rest.items() if not tried.n_attempts),
    )


def _rate_of(
    case_ids: Sequence[str] | Mapping[str, Attempts],
    attempts: Mapping[str, Attempts],
    families: Families,
    *,
    is_worst: bool = False,
) -> PassRate:
    """Mean of the cases' shares of passed attempts, with Wilson's interval for n / design effect cases.

    The design effect is that of all the cases, scored or not, so that it does not hang on which results are there.
    ``is_worst``: what is not scored counts as failed.
    """
    if is_worst:
        shares = [tried.n_passed / max(tried.n_attempts, 1) for tried in map(attempts.__getitem__, case_ids)]
    else:
        known = (attempts[case_id].share for case_id in case_ids)
        shares = [share for share in known if share is not None]
    effect = design_effect(families.sizes(case_ids))
    passed, n_effective = sum(shares), len(shares) / effect
    interval = wilson(min(passed / effect, n_effective), n_effective)
    return PassRate(passed, len(shares), passed / len(shares) if shares else None, interval)
