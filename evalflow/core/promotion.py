"""What a promoted case weighs: novelty x severity x difficulty, each in [0, 1] and kept apart with its reason.

Source: docs/methods.md, "Triage and golden set".
"""

import math

from evalflow.core.records import Severity, WeightPart, WeightParts

SEVERITY_VALUES: dict[Severity, float] = {"low": 0.25, "medium": 0.5, "high": 0.75, "critical": 1.0}
UNKNOWN_SEVERITY = 0.5


def weigh(
    distance: float, novel_above: float, severity: Severity | None, n_failed: int, n_attempts: int
) -> WeightParts:
    """The parts of a case's weight.

    Args:
        distance: cosine distance to the nearest case of the suite; infinite where there is none.
        novel_above: the taxonomy's novelty distance, at which novelty reaches 1.
        severity: as the reviewers gave it.
        n_failed, n_attempts: how often the system failed on it; shrunk by a uniform Beta prior.
    """
    if math.isinf(distance):
        novelty = WeightPart(value=1.0, reason="the suite was empty")
    else:
        value = min(1.0, distance / novel_above) if novel_above > 0 else float(distance > 0)
        reason = f"cosine distance {distance:.3f} to the nearest case, full at {novel_above:.3f}"
        novelty = WeightPart(value=value, reason=reason)
    return WeightParts(
        novelty=novelty,
        severity=WeightPart(value=UNKNOWN_SEVERITY, reason="not given")
        if severity is None
        else WeightPart(value=SEVERITY_VALUES[severity], reason=f"{severity}, from review"),
        difficulty=WeightPart(
            value=(n_failed + 1) / (n_attempts + 2),
            reason=f"failed {n_failed} of {n_attempts} times in production, shrunk by Beta(1, 1)",
        ),
    )


def weight_of(parts: WeightParts) -> float:
    return parts.novelty.value * parts.severity.value * parts.difficulty.value
