"""What a measurement raises the alarm about, each with what was seen, against what, and in words.

Source: docs/methods.md, "Alarms". Keep out: what follows from an alarm (a refresh, a refit).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evalflow.core.blind_spots import BLIND_SPOT_SHARE

if TYPE_CHECKING:
    from evalflow.core.coverage import Coverage, Limits

AlarmKind = Literal["jsd", "blind_spot", "uncovered", "novelty", "stale"]
Reason = Literal["drift", "suite_too_small"]
DRIFT_P = 0.001
"""So rarely is a random suite as far off before the figure is called drift."""
NOVELTY_RISE = 0.03
"""A taxonomy is outdated when the novel share lies surely so far above its own calibration share."""
NAMED_CAUSES = 3
LAST_BITS = 1e-9
"""Two sums of the same shares may differ by so much."""


@dataclass(frozen=True)
class Alarm:
    """What was seen (``value``), against which ``limit``, in which ``bin`` (None: the suite as a whole), in words.

    ``reason`` of an alarm of kind ``jsd``: the traffic has moved away, or the suite is too small to tell.
    """

    kind: AlarmKind
    value: float
    limit: float
    bin: str | None
    text: str
    reason: Reason | None = None


def alarms_of(measured: "Coverage", limits: "Limits") -> tuple[Alarm, ...]:
    """Every alarm of a measurement: JSD first, then blind spots, uncovered mass, novelty, stale bins."""
    return (
        *_of_jsd(measured, limits.jsd_threshold),
        *_of_blind_spots(measured),
        *_of_uncovered(measured),
        *_of_novelty(measured),
        *_of_stale(measured, limits.stale_days),
    )


def reason_of(measured: "Coverage", jsd_threshold: float) -> Reason | None:
    """Why JSD is above its threshold; None where it is not."""
    if measured.jsd is None or measured.jsd <= jsd_threshold or measured.jsd_p_value is None:
        return None
    return "drift" if measured.jsd_p_value <= DRIFT_P else "suite_too_small"


def above(value: float, limit: float) -> str:
    """A JSD above its limit in words, with as many digits as it takes to see that it is."""
    digits = next((n for n in range(3, 16) if f"{value:.{n}f}" != f"{limit:.{n}f}"), 16)
    return f"JSD {value:.{digits}f} is above {limit:g}"


def _of_jsd(measured: "Coverage", limit: float) -> Iterator[Alarm]:
    reason = reason_of(measured, limit)
    if reason is None or measured.jsd is None:
        return
    causes = sorted((row for row in measured.bins if row.jsd_term), key=lambda row: -(row.jsd_term or 0))
    named = ", ".join(
        f"{row.label} ({'under' if row.golden_share < row.production_share else 'over'}-tested)"
        for row in causes[:NAMED_CAUSES]
    )
    if reason == "drift":
        why = f"drift, since a random suite of {measured.n_golden:,} cases is so far off in 1 of 1,000 at most"
    else:
        enough = (
            f"about {measured.cases_to_settle:,} cases would tell"
            if measured.cases_to_settle
            else f"the sample, worth {measured.m_eff:,.0f} traces, is too small for any number of cases to tell"
        )
        why = (
            f"suite too small, since random suites of {measured.n_golden:,} cases show {measured.floor_mean:.3f} on "
            f"average; {enough}"
        )
    yield Alarm(
        "jsd",
        measured.jsd,
        limit,
        None,
        f"{above(measured.jsd, limit)}: {why}; most of it comes from {named}",
        reason,
    )


def _of_blind_spots(measured: "Coverage") -> Iterator[Alarm]:
    for row in measured.bins:
        if row.is_blind_spot:
            due = row.production_share * measured.n_golden
            text = (
                f"blind spot: {row.label} is {row.production_share:.1%} of traffic and {row.golden_cases} of "
                f"{measured.n_golden} cases, where {due:.0f} would be due"
            )
            yield Alarm("blind_spot", row.production_share, BLIND_SPOT_SHARE, row.bin, text)


def _of_uncovered(measured: "Coverage") -> Iterator[Alarm]:
    limit = measured.uncovered_floor_p99
    if limit is not None and measured.uncovered_share > limit + LAST_BITS:
        text = (
            f"{measured.uncovered_share:.1%} of traffic has no case, where 99 of 100 random suites of "
            f"{measured.n_golden:,} cases leave at most {limit:.1%}"
        )
        yield Alarm("uncovered", measured.uncovered_share, limit, None, text)


def _of_novelty(measured: "Coverage") -> Iterator[Alarm]:
    if measured.week_novel_share is None or not measured.is_novelty_risen:
        return
    calibration, low = measured.novel_calibration or 0.0, measured.week_novel_share_low or 0.0
    text = (
        f"{measured.week_novel_share:.1%} of the week's traffic is novel (surely at least {low:.1%}), against {calibration:.1%} when "
        "the taxonomy was fitted: it no longer knows what users ask"
    )
    yield Alarm("novelty", measured.week_novel_share, calibration + NOVELTY_RISE, "novel", text)


def _of_stale(measured: "Coverage", stale_days: int) -> Iterator[Alarm]:
    for row in measured.bins:
        if row.is_stale and row.age_days is not None and row.share_change is not None:
            text = (
                f"stale: the newest case of {row.label} is {row.age_days} days old, while its traffic grew by "
                f"{100 * row.share_change:.1f} points to {row.production_share:.1%} of the window"
            )
            yield Alarm("stale", float(row.age_days), float(stale_days), row.bin, text)
