"""The suite in the newest taxonomy: in which bin each golden case falls now, for the gate and for exports.

Keep out: the suite as of a past week, which ``bin_assignments`` holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.results import Results
from evalflow.adapters.tables import BIN_ASSIGNMENTS
from evalflow.adapters.taxonomy import Taxonomy, taxonomy_in_force
from evalflow.core.calendar import monday_of
from evalflow.core.gate import GateVerdict, decide
from evalflow.core.score import SuiteCase, Unqualified
from evalflow.defs.clusters import place_golden
from evalflow.defs.coverage import measure_week
from evalflow.errors import CannotTellError, EvalflowError


@dataclass(frozen=True)
class SuiteInTraffic:
    """What the suite stands for: shares and labels of the bins, the week that they are of, the bins of the cases.

    ``m_eff``: how many independent traces the shares rest on.
    """

    shares: dict[str, float] | Unqualified
    labels: dict[str, str]
    bins: dict[str, str]
    source: dict[str, Any] | None
    m_eff: float | None = None


def suite_in_traffic(home: Home, cases: Sequence[CaseVersion], day: date) -> SuiteInTraffic:
    """Production shares of the newest closed week up to ``day``, and the cases placed among them; or why there are none."""
    try:
        measured = measure_week(home, newest_measured_week(home, day))
        bins = bins_in(home, measured.taxonomy, cases)
    except EvalflowError as reason:  # whatever is missing, a failing regression must still block
        return SuiteInTraffic(Unqualified(str(reason)), {}, {}, None)
    return SuiteInTraffic(
        {row.bin: row.production_share for row in measured.coverage.bins},
        measured.taxonomy.bins,
        bins,
        {
            "week": str(measured.week),
            "provisional": measured.is_provisional,
            "window": {"from": str(measured.window[0]), "to": str(measured.window[-1]), "days": len(measured.window)},
            "taxonomy_id": measured.taxonomy.taxonomy_id,
            "weighting": measured.coverage.weighting,
        },
        measured.coverage.m_eff,
    )


class GatedSuite(NamedTuple):
    """What the gate says, and the traffic that it was said beside."""

    verdict: GateVerdict
    traffic: SuiteInTraffic


def gate_suite(home: Home, cases: Sequence[CaseVersion], read: Results, day: date, min_pass_rate: float) -> GatedSuite:
    """Hold results against the cases as they stand in the traffic of the newest closed week up to ``day``."""
    traffic = suite_in_traffic(home, cases, day)
    suite = [SuiteCase(case.case_id, case.is_regression, traffic.bins.get(case.case_id)) for case in cases]
    covered = home.settings.gate.min_covered_share
    verdict = decide(suite, read.outcomes, traffic.shares, min_pass_rate, covered, len(read.unusable), traffic.m_eff)
    return GatedSuite(verdict, traffic)


def newest_measured_week(home: Home, until: date) -> date:
    """The newest closed week with sampled traces up to the one that holds ``until``; else the running one.

    Raises:
        CannotTellError: no week has been computed yet.
    """
    measured = [
        week
        for week in sorted(map(date.fromisoformat, home.lake.keys(BIN_ASSIGNMENTS)), reverse=True)
        if week <= monday_of(until)
    ]
    measured.sort(key=home.calendar.is_provisional)  # stable: closed weeks first, newest first among them
    for week in measured:
        sides = home.lake.read(BIN_ASSIGNMENTS, [week], ["side"])["side"]
        if (sides == "production").any():
            return week
    raise CannotTellError(
        f"No week up to {until} has been measured; land traces with `evalflow ingest PATH`, then `evalflow run`."
    )


def bins_in(home: Home, taxonomy: Taxonomy, cases: Sequence[CaseVersion]) -> dict[str, str]:
    """The bin of each case by case_id, by the same frozen rule as production.

    Raises:
        EvalflowError: the embedding model is not there, or not the one that the taxonomy was fitted with.
    """
    placed = place_golden(home, taxonomy, list(cases)).select(pl.col("item_id", "bin"))
    return dict(placed.iter_rows())


def bins_of_suite(home: Home, cases: Sequence[CaseVersion], until: date) -> dict[str, str]:
    """The bin of each case in the taxonomy of the newest measured week up to ``until``.

    Raises:
        EvalflowError: there is no such taxonomy, or its model is not there; the message says what to do.
    """
    return bins_in(home, taxonomy_in_force(home, newest_measured_week(home, until)), cases)
