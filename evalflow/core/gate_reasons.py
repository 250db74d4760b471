"""What the gate says of each tier: why a candidate fails, why it cannot be told, and what should be known beside.

One function per tier and kind, each from that tier's facts alone, each giving no sentence where there is nothing to say.
A doubt says what would remove it. Keep out: how the facts come about (``core/gate.py``, ``core/pairing.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from evalflow.core.attempts import Attempts
from evalflow.core.intervals import trials_to_tell
from evalflow.core.pairing import PairedTest
from evalflow.core.score import CoveredScore, PassRate, Unqualified

NAMED_CASES = 3
"""So many cases are named in a reason; all of them stand in the verdict's own fields."""
MANY_CASES = 1_000_000
"""Beyond this, "so many more cases would tell" is no advice."""


class FlakyRegression(NamedTuple):
    """A frozen regression that failed in some of its scored attempts, but not often enough to block."""

    case_id: str
    n_failed: int
    n_scored: int


@dataclass(frozen=True)
class RegressionTier:
    """The frozen regressions that do not simply pass, each in one list. ``unscored``: at least one attempt is."""

    failing: tuple[str, ...]
    flaky: tuple[FlakyRegression, ...]
    unscored: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class RateTier:
    """The pass rate of all cases and of those that are not regressions; ``worst_*``: with what is open as failures.

    ``n_open``: cases without a result or with an unscored attempt. ``design_effect``: cases per independent one.
    """

    suite: PassRate
    sampled: PassRate
    worst_suite: PassRate
    worst_sampled: PassRate
    wanted: float
    design_effect: float
    n_open: int


def fails_of_regressions(tier: RegressionTier) -> list[str]:
    if not tier.failing:
        return []
    what, fail = _counted(len(tier.failing), "frozen regression"), "fails" if len(tier.failing) == 1 else "fail"
    return [f"{what} {fail}: {_named(tier.failing)}; each one blocks."]


def doubts_of_regressions(tier: RegressionTier) -> list[str]:
    doubts = []
    if tier.missing:
        what = _counted(len(tier.missing), "frozen regression")
        doubts.append(f"{what} without a result: {_named(tier.missing)}; run them.")
    if tier.unscored:
        what = _counted(len(tier.unscored), "frozen regression")
        doubts.append(f"{what} unscored: {_named(tier.unscored)}; score them.")
    if tier.flaky:
        shown = [f"{case_id!r} failed {failed} of {scored}" for case_id, failed, scored in tier.flaky[:NAMED_CASES]]
        what = _counted(len(tier.flaky), "frozen regression")
        doubts.append(
            f"{what} failed once: {_listed(shown, len(tier.flaky))}; run more repeats: a second failure blocks, and "
            "only a run in which it never fails passes."
        )
    return doubts


def fails_of_rate(tier: RateTier) -> list[str]:
    if tier.suite.interval.high < tier.wanted:
        return [f"{_rate_text('The pass rate', tier.suite)}, surely below the wanted {tier.wanted:.1%}."]
    if tier.sampled.interval.high < tier.wanted:
        what = "The pass rate of the cases that are not regressions"
        return [f"{_rate_text(what, tier.sampled)}, surely below the wanted {tier.wanted:.1%}."]
    return []


def doubts_of_rate(tier: RateTier) -> list[str]:
    """Why the pass rate is not surely high enough, were it only for results that are not there."""
    if tier.suite.rate is None:
        return ["No case of the suite has a verdict in the results."]
    if fails_of_rate(tier):
        return []
    if tier.suite.interval.low < tier.wanted:
        more = trials_to_tell(tier.suite.rate, tier.wanted) * tier.design_effect - tier.suite.scored
        advice = (
            f"about {max(ceil(more), 1):,} more cases would tell if the rate stays"
            if more <= MANY_CASES
            else "so close to the limit no number of cases tells"
        )
        return [f"{_rate_text('The pass rate', tier.suite)}, which holds the wanted {tier.wanted:.1%}: {advice}."]
    worst = tier.worst_suite
    if worst.interval.low < tier.wanted or tier.worst_sampled.interval.high < tier.wanted:
        have = "has" if tier.n_open == 1 else "have"
        return [
            f"With the {_counted(tier.n_open, 'case')} that {have} no verdict counted as failures, "
            f"{_number(worst.passed)} of {worst.scored:,} pass and the wanted {tier.wanted:.1%} is no longer sure: "
            "give every case a result."
        ]
    return []


def fails_of_pairs(paired: PairedTest | None) -> list[str]:
    if paired is None or not paired.is_worse:
        return []
    return [f"Surely worse than the baseline: {_moves(paired)}; worse: {_named(paired.regressed)}."]


def doubts_of_pairs(paired: PairedTest | None) -> list[str]:
    """Why "not worse than the baseline" cannot be said, though nothing shows that it is worse."""
    if paired is None or paired.is_worse:
        return []
    if not paired.n_pairs:
        why = (
            f"the candidate has no verdict for the {_counted(len(paired.lost), 'case')} that the baseline has scored: run them"
            if paired.lost
            else "the baseline has scored no case of the suite that is not a regression: give one that has"
            if paired.n_without_baseline
            else "every case of the suite is a frozen regression, which is judged by itself: leave the baseline out"
        )
        return [f"Nothing can be compared with the baseline: {why}."]
    doubts = []
    if paired.could_be_worse:
        lost = f" ({len(paired.lost):,} of the baseline's cases: {_named(paired.lost)})" if paired.lost else ""
        doubts.append(
            f"With what the candidate has no verdict for{lost} counted as failures it would be worse than the baseline "
            f"(p = {paired.worst_p_value:.2g}): give every case a result."
        )
    if not paired.is_sharp_enough:
        smallest = (
            "no drop from the baseline, however large, would surely have shown"
            if paired.detectable_drop is None
            else f"the smallest drop from the baseline that would surely have shown is {_points(paired.detectable_drop)}"
        )
        more = max((paired.families_needed or 0) - paired.n_families, 1)
        doubts.append(
            f"With {_moves(paired)}, {smallest}, and a pass asks for {_points(paired.limit)}: "
            f"about {_counted(more, 'more independent case')} would do."
        )
    return doubts


def doubts_of_coverage(
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


def doubts_of_unusable(n_unusable: int) -> list[str]:
    return [f"{_counted(n_unusable, 'line')} of the results could not be used; correct them."] if n_unusable else []


def remarks_on(
    attempts: Mapping[str, Attempts],
    n_families: int,
    rates: RateTier,
    paired: PairedTest | None,
    text_only_because: str | None,
) -> list[str]:
    """What decides nothing and should be known beside the verdict."""
    remarks = []
    n_missing = sum(not tried.n_attempts for tried in attempts.values())
    n_unscored = sum(not tried.n_scored for tried in attempts.values()) - n_missing
    if n_missing or n_unscored:
        of = _counted(len(attempts), "case")
        remarks.append(f"{n_missing:,} without a result and {n_unscored:,} unscored, of {of}.")
    if rates.design_effect > 1:
        remarks.append(
            f"{len(attempts):,} cases in {_counted(n_families, 'family', 'families')} (of one session, or near duplicates) "
            f"weigh as much as {len(attempts) / rates.design_effect:,.1f} independent ones."
        )
    if paired and (paired.lost or paired.n_without_baseline):
        remarks.append(
            f"Compared with the baseline on {_counted(paired.n_pairs, 'case')}: it has no verdict for "
            f"{paired.n_without_baseline:,} others, and the candidate none for {len(paired.lost):,} that it has scored."
        )
    if paired and paired.n_uneven:
        remarks.append(
            f"At {_counted(paired.n_uneven, 'case')} the baseline and the candidate made unequal numbers of attempts, and only "
            "the first of the larger number were compared; run both with the same repeats."
        )
    if text_only_because and paired:
        remarks.append(f"Near duplicates were found by their text alone: {text_only_because}")
    return remarks


def _moves(paired: PairedTest) -> str:
    n, families = _counted(paired.n_pairs, "case"), _counted(paired.n_families, "family", "families")
    in_families = "" if paired.n_families == paired.n_pairs else f" in {families}"
    return (
        f"{paired.n_regressions:,} worse and {paired.n_fixes:,} better of {n}{in_families} "
        f"({paired.test}, one-sided p = {paired.p_value:.2g})"
    )


def _rate_text(what: str, measured: PassRate) -> str:
    low, high = measured.interval
    return (
        f"{what} is {measured.rate:.1%} ({_number(measured.passed)} of {measured.scored:,}, "
        f"95 % interval {low:.1%} to {high:.1%})"
    )


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _number(count: float) -> str:
    """Cases; a decimal where shares of attempts were summed."""
    return f"{count:,.0f}" if float(count).is_integer() else f"{count:,.1f}"


def _named(case_ids: Sequence[str]) -> str:
    return _listed([repr(case_id) for case_id in case_ids[:NAMED_CASES]], len(case_ids))


def _listed(shown: Sequence[str], n: int) -> str:
    return ", ".join(shown) + (f" and {n - len(shown):,} more" if n > len(shown) else "")


def _counted(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
