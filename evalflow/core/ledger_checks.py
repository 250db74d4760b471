"""Whether the versions of a ledger make sense together: numbers without gaps, times in order, inputs and traces once.

``broken`` is what only an accident can do; ``notice`` is what a person should look at. Keep out: whether the files
are as they were written (``adapters/journal.py``).
"""

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from evalflow.core.text import normalise

Level = Literal["broken", "notice"]


class Finding(NamedTuple):
    """One thing that is wrong, as a sentence that says what to do."""

    level: Level
    text: str


@dataclass(frozen=True)
class VersionFacts:
    """One version as it was recorded. ``text``: what is asked, with its context. ``kind``: what recorded it."""

    case_id: str
    version: int
    recorded_at: str
    kind: str
    text: str
    is_retired: bool
    trace_id: str | None
    merged_trace_ids: Sequence[str]


def check_versions(
    versions: Sequence[VersionFacts], known_trace_ids: Collection[str], has_accepted_loss: bool
) -> list[Finding]:
    """Everything that is wrong with the versions.

    Args:
        versions: in the order of recording.
        known_trace_ids: every trace that was ever queued in this home.
        has_accepted_loss: whether files were declared lost, so that gaps in the numbers are to be expected.
    """
    by_case: dict[str, list[VersionFacts]] = {}
    for version in versions:
        by_case.setdefault(version.case_id, []).append(version)
    newest = [max(found, key=lambda v: v.version) for _, found in sorted(by_case.items())]
    return [
        *(finding for case_id in sorted(by_case) for finding in _numbers(case_id, by_case[case_id], has_accepted_loss)),
        *_traces(newest),
        *_unknown_traces(versions, known_trace_ids),
        *_same_inputs(newest),
    ]


def _numbers(case_id: str, versions: Sequence[VersionFacts], has_accepted_loss: bool) -> Iterable[Finding]:
    numbers = sorted(version.version for version in versions)
    for number in sorted({number for number in numbers if numbers.count(number) > 1}):
        yield Finding(
            "broken",
            f"Case {case_id!r} has version {number} more than once: two ledgers were mixed, as by a merge of branches; restore "
            "one from a backup, or move one of the two files away (`evalflow golden history CASE_ID --json` names them), "
            "accept its loss and record what it said again.",
        )
    missing = sorted(set(range(1, numbers[-1] + 1)) - set(numbers))
    if missing:
        named = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        lost = "went with the files that were declared lost" if has_accepted_loss else "restore it from a backup"
        yield Finding(
            "notice" if has_accepted_loss else "broken",
            f"Case {case_id!r} lacks version {named} of {numbers[-1]}; {lost}.",
        )
    ordered = sorted(versions, key=lambda version: version.version)
    for before, after in itertools.pairwise(ordered):
        if after.recorded_at < before.recorded_at:
            yield Finding(
                "notice",
                f"Case {case_id!r}: version {after.version} was recorded at {after.recorded_at}, before version "
                f"{before.version} ({before.recorded_at}); a clock was set back, and dates of recording mislead.",
            )


def _traces(newest: Sequence[VersionFacts]) -> Iterable[Finding]:
    """A trace that two cases claim counts as evidence twice."""
    holders: dict[str, list[str]] = {}
    for version in newest:
        for trace_id in dict.fromkeys([*([version.trace_id] if version.trace_id else []), *version.merged_trace_ids]):
            holders.setdefault(trace_id, []).append(version.case_id)
    for trace_id, names in sorted(holders.items()):
        if len(names) > 1:
            yield Finding("notice", f"The trace {trace_id!r} stands in {len(names)} cases: {_listed(names)}.")


def _unknown_traces(versions: Sequence[VersionFacts], known: Collection[str]) -> Iterable[Finding]:
    """A promotion takes its traces from the queue; what an import brings along may come from another home."""
    seen: set[tuple[str, str]] = set()
    for version in versions:
        for trace_id in [*([version.trace_id] if version.trace_id else []), *version.merged_trace_ids]:
            if trace_id in known or (version.case_id, trace_id) in seen:
                continue
            seen.add((version.case_id, trace_id))
            if version.kind == "promotion":
                yield Finding(
                    "notice",
                    f"Case {version.case_id!r} was promoted from trace {trace_id!r}, which no queue of this home holds; "
                    "restore the lake's triage_queue from a backup.",
                )


def _same_inputs(newest: Sequence[VersionFacts]) -> Iterable[Finding]:
    asking: dict[str, list[str]] = {}
    for version in newest:
        if not version.is_retired:
            asking.setdefault(normalise(version.text), []).append(version.case_id)
    for names in sorted(asking.values()):
        if len(names) > 1:
            yield Finding(
                "notice",
                f"{len(names)} cases ask the same: {_listed(names)}; retire all but one, or the question counts {len(names)} times.",
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(repr(name) for name in sorted(names)[:5]) + more
