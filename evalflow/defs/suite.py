"""The suite as it stands now: in which bin of the newest taxonomy each golden case falls, for the gate and for exports,
and which cases belong to one family, for the gate.

Keep out: the suite as of a past week, which ``bin_assignments`` holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from evalflow.adapters.embedder import Embedder
from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.results import Results
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import BIN_ASSIGNMENTS
from evalflow.adapters.taxonomy import Taxonomy, taxonomy_in_force
from evalflow.core.attempts import Attempts
from evalflow.core.calendar import monday_of
from evalflow.core.dedup import turn_before, with_context
from evalflow.core.families import Families, Kin, families_of
from evalflow.core.gate import GateVerdict, decide
from evalflow.core.score import SuiteCase, Unqualified
from evalflow.core.text import text_hash
from evalflow.defs.clusters import place_golden
from evalflow.defs.coverage import measure_week
from evalflow.defs.duplicates import duplicate_distance
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


def gate_suite(
    home: Home,
    cases: Sequence[CaseVersion],
    read: Results,
    day: date,
    min_pass_rate: float,
    baseline: Mapping[str, Attempts] | None = None,
) -> GatedSuite:
    """Hold results against the cases as they stand in the traffic of the newest closed week up to ``day``.

    ``baseline``: the attempts of the run to compare with, by case; None: the candidate is judged by itself.
    """
    traffic = suite_in_traffic(home, cases, day)
    limits = home.settings.gate
    verdict = decide(
        [SuiteCase(case.case_id, case.is_regression, traffic.bins.get(case.case_id)) for case in cases],
        read.attempts,
        traffic.shares,
        min_pass_rate,
        limits.min_covered_share,
        len(read.unusable),
        traffic.m_eff,
        families=families_in(home, cases, traffic.shares),
        baseline=baseline,
        max_detectable_drop=limits.max_detectable_drop,
    )
    return GatedSuite(verdict, traffic)


def families_in(home: Home, cases: Sequence[CaseVersion], shares: Mapping[str, float] | Unqualified) -> Families:
    """The families of the cases, by session and by the thresholds that promotion merges duplicates by.

    Inputs are compared by their vectors only where the cases could be placed in the traffic: then the model is there and
    most vectors are known already. Else their texts speak alone, and why is said.
    """
    # Vectors are of scrubbed text. Where texts alone speak nothing leaves this function: a few seconds are saved.
    scrubber = None if isinstance(shares, Unqualified) else Scrubber(home.settings.privacy)
    kin = []
    for case in cases:
        conversation = _turns_of(case)
        text = scrubber.scrub(case.input).text if scrubber else case.input
        kin.append(Kin(case.case_id, _session_of(case), with_context(text, conversation), turn_before(conversation)))
    vectors, why = None, shares.reason if isinstance(shares, Unqualified) else None
    if kin and why is None:
        try:
            by_hash = Embedder(home.settings.embedding, home.cache).embed([case.text for case in kin])
            vectors = np.stack([by_hash[text_hash(case.text)] for case in kin])
        except EvalflowError as reason:  # a failing regression must still block
            why = str(reason)
    limits = home.settings.promotion
    return families_of(kin, limits.near_duplicate, duplicate_distance(limits, len(kin)), vectors, why)


def _session_of(case: CaseVersion) -> str | None:
    """The production session of a case, or the one that its author names in tags or metadata."""
    named = [_mapping(held).get("session_id") for held in (case.tags, case.metadata)]
    found = [case.provenance.session_id if case.provenance else None, *named]
    return next((session for session in found if isinstance(session, str) and session), None)


def _turns_of(case: CaseVersion) -> list[dict[str, Any]] | None:
    """The turns before the case; None where it holds none, or something else of that name."""
    held = _mapping(case.metadata).get("conversation")
    return held if isinstance(held, list) and all(isinstance(turn, dict) for turn in held) else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


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
