"""What a promoted case weighs, whether its failure was seen again, and which traces a policy may promote.

A weight is novelty x severity x difficulty, each in [0, 1] and kept apart with its reason.
Source: docs/methods.md, "Triage and golden set".
"""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from evalflow.core.records import Reproduction, Severity, WeightPart, WeightParts

SEVERITY_VALUES: dict[Severity, float] = {"low": 0.25, "medium": 0.5, "high": 0.75, "critical": 1.0}
UNKNOWN_SEVERITY = 0.5
REPEATS_TO_HALF = 10
"""So many further reports of a failure bring its severity half of the way to 1: each is one more user who met it."""


class Tried(NamedTuple):
    """How often the system failed in so many scored attempts, and where: ``in production``, or by which system."""

    n_failed: int
    n_attempts: int
    where: str


def weigh(
    distance: float, novel_above: float, severity: Severity | None, tried: Tried, severity_from: str = "review"
) -> WeightParts:
    """The parts of a case's weight.

    Args:
        distance: cosine distance to the nearest case of the suite; infinite where there is none.
        novel_above: the taxonomy's novelty distance, at which novelty reaches 1.
        severity: as the reviewers, or a policy, gave it.
        tried: shrunk by a uniform Beta prior, so that one failure in one attempt is .67, five in five .86.
        severity_from: who gave it.
    """
    if math.isinf(distance):
        novelty = WeightPart(value=1.0, reason="the suite was empty")
    else:
        value = min(1.0, distance / novel_above) if novel_above > 0 else float(distance > 0)
        reason = f"cosine distance {distance:.3f} to the nearest case, full at {novel_above:.3f}"
        novelty = WeightPart(value=value, reason=reason)
    return WeightParts(
        novelty=novelty,
        severity=severity_part(severity, 0, severity_from),
        difficulty=WeightPart(
            value=(tried.n_failed + 1) / (tried.n_attempts + 2),
            reason=f"failed {tried.n_failed} of {tried.n_attempts} times {tried.where}, shrunk by Beta(1, 1)",
        ),
    )


def severity_part(severity: Severity | None, n_repeats: int, severity_from: str = "review") -> WeightPart:
    """s + (1 - s) m / (m + 10): s as it was given, m further traces that failed at the same and were merged.

    Never below s and never above 1; without repeats it is s.
    """
    given = UNKNOWN_SEVERITY if severity is None else SEVERITY_VALUES[severity]
    reason = "not given" if severity is None else f"{severity}, from {severity_from}"
    if n_repeats:
        traces = "1 more trace" if n_repeats == 1 else f"{n_repeats} more traces"
        reason += f"; raised from {given:g} because {traces} failed at the same"
    return WeightPart(value=given + (1 - given) * n_repeats / (n_repeats + REPEATS_TO_HALF), reason=reason)


def weight_of(parts: WeightParts) -> float:
    return parts.novelty.value * parts.severity.value * parts.difficulty.value


# -- reproduction ----------------------------------------------------------------------------------------------


def tried_by(reproduction: Reproduction | None, failed_in_production: bool) -> Tried:
    """What difficulty is counted from: scored attempts where there are any, else production's own single one."""
    n_scored = reproduction.attempts - reproduction.unscored if reproduction else 0
    if reproduction is None or not n_scored:
        return Tried(int(failed_in_production), 1, "in production")
    return Tried(reproduction.failed, n_scored, f"by {reproduction.system}")


def why_not_yet(reproduction: Reproduction | None, attempts_wanted: int) -> str | None:
    """Why a confirmed failure has to wait where the system can be called; None where its attempts say enough.

    One failing attempt is enough. That it does not fail again takes all of them, scored.
    """
    if reproduction is None:
        return "it was not tried on the system yet"
    if reproduction.failed:
        return None
    n_scored = reproduction.attempts - reproduction.unscored
    if not n_scored:
        return f"none of its {reproduction.attempts} attempts could be scored"
    if n_scored < attempts_wanted:
        left = f" ({reproduction.unscored} more could not be scored)" if reproduction.unscored else ""
        return f"it was tried {n_scored} of {attempts_wanted} times{left}"
    return None


def is_hard(is_failure: bool, reproduction: Reproduction | None) -> bool:
    """Whether a confirmed failure becomes a frozen regression: unless it was tried and never failed again."""
    return is_failure and (reproduction is None or reproduction.failed > 0)


# -- policies --------------------------------------------------------------------------------------------------


class Policy(Protocol):
    """Traces queued for one of ``sources`` that show all of ``signals``."""

    @property
    def name(self) -> str: ...
    @property
    def sources(self) -> Sequence[str]: ...
    @property
    def signals(self) -> Sequence[str]: ...


def applies(policy: Policy, source: str, signals: Collection[str]) -> bool:
    """Whether a policy takes a trace. ``signals``: those that are true of it, such as ``is_reported``."""
    return source in policy.sources and set(policy.signals) <= set(signals)
