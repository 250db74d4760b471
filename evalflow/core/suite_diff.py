"""What changed in the golden set between two days: cases that came, cases that left, and which fields of the others.

Belongs here: comparing two suites. Keep out: which versions count on a day (``adapters/ledger.py``).
Source: docs/methods.md, "Ledger".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Case = Mapping[str, Any]
BOOKKEEPING = ("version", "effective_on", "retired_on", "retired_because")
"""Fields that change with every version and are no change of the case."""


@dataclass(frozen=True)
class CaseChange:
    """One case on both days. ``fields``: what differs, in the order of the record; empty when only the version does."""

    case_id: str
    fields: tuple[str, ...]
    before: Case
    after: Case

    @property
    def became_regression(self) -> bool:
        return bool(self.after["is_regression"]) and not self.before["is_regression"]

    @property
    def merged_trace_ids(self) -> list[str]:
        """The traces that were merged into the case meanwhile."""
        known = set(self.before["merged_trace_ids"])
        return [trace_id for trace_id in self.after["merged_trace_ids"] if trace_id not in known]


@dataclass(frozen=True)
class SuiteDiff:
    """From one suite to another, each list in the order of case_id. ``removed`` holds the cases as they last counted."""

    added: list[Case]
    removed: list[Case]
    changed: list[CaseChange]


def suite_diff(before: Mapping[str, Case], after: Mapping[str, Case]) -> SuiteDiff:
    """What leads from ``before`` to ``after``, both by case_id; the same suite twice gives three empty lists."""
    return SuiteDiff(
        [after[case_id] for case_id in sorted(after.keys() - before.keys())],
        [before[case_id] for case_id in sorted(before.keys() - after.keys())],
        [
            CaseChange(case_id, _differing(before[case_id], after[case_id]), before[case_id], after[case_id])
            for case_id in sorted(before.keys() & after.keys())
            if before[case_id] != after[case_id]
        ],
    )


def _differing(before: Case, after: Case) -> tuple[str, ...]:
    return tuple(name for name in after if name not in BOOKKEEPING and before[name] != after[name])
