"""How often a case passed, failed or went unscored in one run of the suite.

Belongs here: what several attempts at a case say together. Keep out: where they come from (``adapters/results.py``) and
what a verdict makes of them (``core/gate.py``). Source: docs/methods.md, "Gate".
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attempts:
    """The attempts of one run at one case, in the order of their repeats: pass, fail, or unscored (None)."""

    outcomes: tuple[bool | None, ...] = ()

    @property
    def n_passed(self) -> int:
        return sum(1 for passed in self.outcomes if passed)

    @property
    def n_failed(self) -> int:
        return self.n_scored - self.n_passed

    @property
    def n_unscored(self) -> int:
        return sum(1 for passed in self.outcomes if passed is None)

    @property
    def n_scored(self) -> int:
        return self.n_attempts - self.n_unscored

    @property
    def n_attempts(self) -> int:
        return len(self.outcomes)

    @property
    def share(self) -> float | None:
        """Passed of scored attempts; whole (0 or 1) where they agree, None where none is scored."""
        n_passed, n_scored = self.n_passed, self.n_scored
        if not n_scored:
            return None
        return int(n_passed > 0) if n_passed in (0, n_scored) else n_passed / n_scored

    @property
    def outcome(self) -> bool | None:
        """One word for all: the majority of the scored attempts, a tie fails, unscored (None) only where none is scored."""
        return self.n_passed > self.n_failed if self.n_scored else None

    def first_scored(self, k: int) -> "Attempts":
        """The first k of the scored attempts."""
        return Attempts(tuple(passed for passed in self.outcomes if passed is not None)[:k])


def attempts_of(outcomes: Mapping[str, bool | None]) -> dict[str, Attempts]:
    """A run that tried every case once."""
    return {case_id: Attempts((passed,)) for case_id, passed in outcomes.items()}
