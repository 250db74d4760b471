"""What a golden set is made of: where its cases come from, how old they are, who vouches for them, and what is lacking.

Counting, and plain sentences about what the counts mean. Source: docs/methods.md, "Ledger".
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from evalflow.core.records import Origin

Age = Literal["0-30", "31-90", "91-180", "over 180", "unknown"]
ConfirmedBy = Literal["human", "script", "policy", "nobody here"]
"""Whose word made a case of it: a person's, a script's, a promotion policy's; an imported case has none in this home."""
ORIGINS: tuple[Origin, ...] = get_args(Origin)
AGES: tuple[Age, ...] = get_args(Age)
CONFIRMED_BY: tuple[ConfirmedBy, ...] = get_args(ConfirmedBy)
_BUCKETS: tuple[tuple[int, Age], ...] = ((30, "0-30"), (90, "31-90"), (180, "91-180"))
NOT_STATED = "not stated"


class CaseFacts(NamedTuple):
    """What is counted of a case. ``age_days``: whole days since ``created_at``; None where it has none."""

    origin: Origin
    age_days: int | None
    is_regression: bool
    has_expected_output: bool
    has_provenance: bool
    confirmed_by: ConfirmedBy
    expected_from: str | None = None
    bin: str | None = None


@dataclass(frozen=True)
class BinRow:
    """One bin: its part of the traffic (None where that is not known) and its cases by origin."""

    bin: str | None
    label: str | None
    traffic_share: float | None
    n_cases: int
    by_origin: dict[str, int]


@dataclass(frozen=True)
class Composition:
    """Counts of one suite; every table has all its rows, those with 0 too.

    ``traffic_without_production``: the share of traffic in bins without a case born in production; None where traffic
    or bins are not known. ``expected_from``: who says what the right answer is, over the cases that have one.
    """

    n_cases: int
    by_origin: dict[str, int]
    by_age: dict[str, dict[str, int]]
    bins: list[BinRow]
    n_regressions: int
    n_without_expected_output: int
    n_without_provenance: int
    confirmed_by: dict[str, int]
    expected_from: dict[str, int]
    n_bins: int
    n_bins_without_production: int
    traffic_without_production: float | None
    warnings: list[str]


def composition(
    cases: Sequence[CaseFacts], shares: Mapping[str, float] | None, labels: Mapping[str, str] | None = None
) -> Composition:
    """Count a suite.

    Args:
        cases: the suite.
        shares: the traffic's share by bin; None where it is not known, and then no bin is counted.
        labels: the bins' names.

    Returns:
        The counts; an empty suite has zeros and one warning.
    """
    by_origin = Counter(case.origin for case in cases)
    bins = [] if shares is None else _bins(cases, shares, labels or {})
    with_traffic = [row for row in bins if row.traffic_share]
    untried = [row for row in with_traffic if not row.by_origin["production"]]
    found = Composition(
        n_cases=len(cases),
        by_origin={name: by_origin[name] for name in ORIGINS},
        by_age={age: _origins(case for case in cases if age_of(case.age_days) == age) for age in AGES},
        bins=bins,
        n_regressions=sum(case.is_regression for case in cases),
        n_without_expected_output=sum(not case.has_expected_output for case in cases),
        # Only a case of production has a trace that it could name.
        n_without_provenance=sum(case.origin == "production" and not case.has_provenance for case in cases),
        confirmed_by=_counted((case.confirmed_by for case in cases), CONFIRMED_BY),
        expected_from=_counted(case.expected_from or NOT_STATED for case in cases if case.has_expected_output),
        n_bins=len(with_traffic),
        n_bins_without_production=len(untried),
        traffic_without_production=None if shares is None else float(sum(row.traffic_share or 0.0 for row in untried)),
        warnings=[],
    )
    found.warnings.extend(_warnings(found))
    return found


def age_of(days: int | None) -> Age:
    """The bucket of an age in whole days; a case that is dated ahead is young."""
    if days is None:
        return "unknown"
    return next((age for most, age in _BUCKETS if days <= most), "over 180")


def _bins(cases: Sequence[CaseFacts], shares: Mapping[str, float], labels: Mapping[str, str]) -> list[BinRow]:
    """The bins with traffic, the largest first, then those with cases alone; cases without a bin last."""
    held: dict[str | None, list[CaseFacts]] = {}
    for case in cases:
        held.setdefault(case.bin, []).append(case)
    alone = sorted(name for name in held if name is not None and name not in shares)
    names = [*sorted(shares, key=lambda name: (-shares[name], name)), *alone, *([None] if None in held else [])]
    return [
        BinRow(
            name,
            None if name is None else labels.get(name),
            None if name is None else shares.get(name, 0.0),
            len(held.get(name, [])),
            _origins(held.get(name, [])),
        )
        for name in names
    ]


def _origins(cases: Iterable[CaseFacts]) -> dict[str, int]:
    return _counted((case.origin for case in cases), ORIGINS)


def _counted(values: Iterable[str], names: Sequence[str] = ()) -> dict[str, int]:
    counts = Counter(values)
    return {name: counts[name] for name in [*names, *sorted(counts.keys() - set(names))]}


def _warnings(found: Composition) -> list[str]:
    """What a reader should not have to see for himself, one sentence each; ``more than half`` is the only limit."""
    n = found.n_cases
    if not n:
        return ["The golden set is empty."]
    said = []
    if not found.by_origin["production"]:
        said.append("No case comes from production: the suite tests what was imagined, not what happened.")
    elif found.n_bins_without_production:
        said.append(
            f"{found.n_bins_without_production} of {found.n_bins} bins with traffic "
            f"({found.traffic_without_production:.0%} of it) have no case from production."
        )
    if not found.n_regressions:
        said.append("No case is a frozen regression: no failure that was fixed is kept from coming back.")
    if found.n_without_expected_output:
        said.append(
            f"{_cases(found.n_without_expected_output)} of {n} without an expected output: pass and fail rest on the grader alone."
        )
    if found.n_without_provenance:
        said.append(f"{_cases(found.n_without_provenance)} said to come from production without a trace that says so.")
    if found.confirmed_by["policy"]:
        said.append(f"{_cases(found.confirmed_by['policy'])} promoted by a policy; no person has confirmed them.")
    if found.confirmed_by["script"]:
        said.append(f"{_cases(found.confirmed_by['script'])} confirmed by a script, not by a person.")
    by_judge = sum(count for name, count in found.expected_from.items() if name.startswith("judge"))
    if by_judge:
        said.append(f"{_cases(by_judge)} with an expected output that a judge wrote, not a person.")
    old, unknown = sum(found.by_age["over 180"].values()), sum(found.by_age["unknown"].values())
    if 2 * old > n:
        said.append(f"{old} of {n} cases are older than 180 days.")
    if 2 * unknown > n:
        said.append(f"{unknown} of {n} cases have no created_at, so their age is unknown.")
    return said


def _cases(number: int) -> str:
    return f"{number:,} {'case' if number == 1 else 'cases'}"
