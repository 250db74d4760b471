"""What the ledger tells about itself: composition, latency from failure to gate, and whether it is whole.

Belongs here: reading ledger, queue, answers and traffic together for these reports. Keep out: the counting and the
statistics (``core/composition.py``, ``core/latency.py``, ``core/ledger_checks.py``).
"""

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion, LedgerRecord, records_of
from evalflow.adapters.tables import GOLDEN_LEDGER
from evalflow.core.composition import CaseFacts, Composition, ConfirmedBy, composition
from evalflow.core.latency import Quantiles, Waiting, quantiles, waiting_times
from evalflow.core.ledger_checks import Finding, VersionFacts, check_versions
from evalflow.core.reviewing import FAILURE_SOURCES
from evalflow.defs.queue import QUEUES, Item, queued_items
from evalflow.defs.suite import suite_in_traffic

PROMISED_DAYS = 2.0
"""A failure should be in the gate within a day or two."""
STAGES = ("until queued", "until answered", "until promoted", "until it counts")
DAY_S = 86_400.0


# -- composition -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Audit:
    """The suite of a day in counts. ``without_bins``: why there are no bins; empty where there are."""

    day: date
    found: Composition
    source: dict[str, Any] | None
    without_bins: str


def audit_suite(home: Home, day: date) -> Audit:
    """Count the suite as of a day, by the bins of the newest closed week up to it."""
    cases = home.ledger.as_of(day)
    traffic = suite_in_traffic(home, cases, day)
    is_known = isinstance(traffic.shares, dict)
    facts = [_facts(case, traffic.bins.get(case.case_id), day) for case in cases]
    found = composition(facts, traffic.shares if isinstance(traffic.shares, dict) else None, traffic.labels)
    return Audit(day, found, traffic.source, "" if is_known else str(getattr(traffic.shares, "reason", "")))


def _facts(case: CaseVersion, bin_: str | None, day: date) -> CaseFacts:
    known = case.provenance
    return CaseFacts(
        origin=case.origin,  # type: ignore[arg-type]  # the record's own closed set
        age_days=None if case.created_at is None else (day - date.fromisoformat(case.created_at[:10])).days,
        is_regression=case.is_regression,
        has_expected_output=bool(case.expected_output),
        has_provenance=known is not None,
        confirmed_by=_confirmed_by(case),
        expected_from=known.expected_from if known else None,
        bin=bin_,
    )


def _confirmed_by(case: CaseVersion) -> ConfirmedBy:
    known = case.provenance
    if known is None:
        return "nobody here"
    if known.reviewer_kind in ("human", "script"):
        return known.reviewer_kind  # type: ignore[return-value]  # narrowed by the test
    return "policy" if known.policy else "nobody here"


# -- latency ---------------------------------------------------------------------------------------------------------


class FailureTimes(NamedTuple):
    """One queued failure. ``is_confirmed``: somebody said that it is one; else it still waits for its answer.

    ``answered_at`` is the first answer, ``in_gate_at`` when a case that names the trace was recorded and counts.
    """

    trace_id: str
    source: str
    state: str
    case_id: str | None
    is_confirmed: bool
    occurred_at: datetime
    queued_on: date
    answered_at: datetime | None
    recorded_at: datetime | None
    in_gate_at: datetime | None


@dataclass(frozen=True)
class Latency:
    """From failure to gate as of ``now``.

    ``arrived`` counts only what is in the gate. ``confirmed`` adds confirmed failures that wait, ``suspected`` also
    those that nobody has answered: the truth lies between the two. ``n_before``: failures whose trace lies after the
    clock of a later stage, as in a replay; they are left out of every figure.
    """

    now: datetime
    stages: dict[str, Quantiles]
    arrived: Quantiles
    confirmed: Waiting
    suspected: Waiting
    n_before: int
    waiting: list[FailureTimes]


def failure_latency(home: Home, first: date | None, last: date | None) -> Latency:
    """Latencies of the failures that happened from ``first`` to ``last``; None: from the first, to the newest."""
    now = home.now()
    found = [
        failure
        for failure in failure_times(home)
        if (first is None or failure.occurred_at.date() >= first)
        and (last is None or failure.occurred_at.date() <= last)
    ]
    usable = [failure for failure in found if all(span >= 0 for span in (*_spans(failure), days_waited(failure, now)))]
    confirmed = [failure for failure in usable if failure.is_confirmed]
    arrived = [failure for failure in confirmed if _is_there(failure, now)]
    spans = [_spans(failure) for failure in arrived]
    return Latency(
        now=now,
        stages={name: quantiles([span[place] for span in spans]) for place, name in enumerate(STAGES)},
        arrived=quantiles([days_waited(failure, now) for failure in arrived]),
        confirmed=_waiting(confirmed, now),
        suspected=_waiting(usable, now),
        n_before=len(found) - len(usable),
        waiting=sorted((f for f in confirmed if not _is_there(f, now)), key=lambda f: (f.occurred_at, f.trace_id)),
    )


def failure_times(home: Home) -> list[FailureTimes]:
    """Every queued trace that is a confirmed failure or still may be one, in the order of trace_id.

    Dismissed traces, duplicates and answers that were right are no failures. What an answer does not say about a
    promoted trace, the case that it became says.
    """
    queued = _first_queued(home)
    named = _first_named(home.ledger.records())
    suite = home.ledger.newest()
    found = []
    for item in queued_items(home):
        trace_id = item.row["trace_id"]
        is_confirmed = _is_confirmed(item, suite)
        is_suspected = item.case_id is None and item.is_waiting and item.row["source"] in FAILURE_SOURCES
        if not is_confirmed and not is_suspected:
            continue
        record = named.get(trace_id)
        recorded_at = datetime.fromisoformat(record.recorded_at) if record else None
        counts_from = _midnight(date.fromisoformat(record.version.effective_on)) if record else None
        found.append(
            FailureTimes(
                trace_id=trace_id,
                source=item.row["source"],
                state=item.state,
                case_id=item.case_id,
                is_confirmed=is_confirmed,
                occurred_at=item.row["timestamp"],
                queued_on=queued.get(trace_id, item.row["queued_on"]),
                answered_at=min((r.reviewed_at for r in item.reviews if r.reviewed_at), default=None),
                recorded_at=recorded_at,
                in_gate_at=max(recorded_at, counts_from) if recorded_at and counts_from else None,
            )
        )
    return sorted(found, key=lambda failure: failure.trace_id)


def _is_confirmed(item: Item, suite: Mapping[str, CaseVersion]) -> bool:
    if item.decision.verdict is not None:
        return item.decision.verdict == "real_failure"
    if item.decision.state == "incomplete":  # the verdict is there, the expected answer is not
        return all(review.verdict in ("real_failure", "unsure") for review in item.reviews)
    case = suite.get(item.case_id or "")  # promoted by a policy, without an answer
    return bool(case and case.is_regression and case.provenance and case.provenance.trace_id == item.row["trace_id"])


def _first_queued(home: Home) -> dict[str, date]:
    """The day on which each trace was first queued, whichever week asked for it."""
    days: dict[str, date] = {}
    for table in QUEUES:
        for trace_id, day in home.lake.read(table, home.lake.keys(table), ["trace_id", "queued_on"]).iter_rows():
            days[trace_id] = min(day, days.get(trace_id, day))
    return days


def _first_named(records: Iterable[LedgerRecord]) -> dict[str, LedgerRecord]:
    """For each trace the first version that names it, as the mart ``fct_triage_latency`` has it."""
    named: dict[str, LedgerRecord] = {}
    for record in records:
        for trace_id in record.version.trace_ids:
            named.setdefault(trace_id, record)
    return named


def _waiting(failures: list[FailureTimes], now: datetime) -> Waiting:
    return waiting_times(
        [days_waited(failure, now) for failure in failures],
        [_is_there(failure, now) for failure in failures],
        PROMISED_DAYS,
    )


def _is_there(failure: FailureTimes, now: datetime) -> bool:
    """Whether a case keeps the failure from coming back by now; one that is announced does not yet."""
    return failure.in_gate_at is not None and failure.in_gate_at <= now


def days_waited(failure: FailureTimes, now: datetime) -> float:
    """Days from the failure to the gate, or to now."""
    return (min(failure.in_gate_at or now, now) - failure.occurred_at).total_seconds() / DAY_S


def _spans(failure: FailureTimes) -> list[float]:
    """Days spent in each stage, of those that are over.

    The queue keeps a day and no time: a trace counts as queued from the day's first moment on, or from its own.
    """
    at = [failure.occurred_at, max(failure.occurred_at, _midnight(failure.queued_on))]
    answered_at = failure.answered_at
    if answered_at and failure.recorded_at and answered_at > failure.recorded_at:  # it came after a policy's promotion
        answered_at = None
    at += [moment for moment in (answered_at, failure.recorded_at, failure.in_gate_at) if moment]
    if failure.in_gate_at and not answered_at:  # promoted by a policy: the answer took no time of its own
        at.insert(2, at[1])
    return [(later - earlier).total_seconds() / DAY_S for earlier, later in itertools.pairwise(at)]


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


# -- is it whole -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verification:
    """What was looked at and what was found. ``gone``: files that are missing and not declared lost."""

    n_files: int
    n_versions: int
    n_cases: int
    findings: list[Finding]
    gone: list[str]

    @property
    def is_broken(self) -> bool:
        return any(finding.level == "broken" for finding in self.findings)


def verify_ledger(home: Home) -> Verification:
    """Everything that is wrong with the ledger, not the first thing alone. Reads only.

    The lake's copy is a witness: it names files that are gone together with all that named them.
    """
    journal = home.ledger.journal
    published = home.lake.keys(GOLDEN_LEDGER)  # before the files: a writer publishes what is in its place already
    seen = journal.inspect()
    lost = {name for file in seen.files for name in file.lost}
    there = {*journal.names(), *lost}
    gone = dict(seen.gone) | {name: "the lake's table golden_ledger" for name in published if name not in there}
    records = records_of(seen.files)
    findings = [
        *(Finding("broken", sentence) for sentence in seen.changed),
        *(Finding("broken", journal.gone_sentence(name, gone[name])) for name in sorted(gone)),
        *check_versions([_version_facts(record) for record in records], _first_queued(home).keys(), bool(lost)),
    ]
    names = {record.version.case_id for record in records}
    return Verification(len(journal.names()), len(records), len(names), findings, sorted(gone))


def _version_facts(record: LedgerRecord) -> VersionFacts:
    version = record.version
    turns = version.metadata.get("conversation") if isinstance(version.metadata, dict) else None
    return VersionFacts(
        case_id=version.case_id,
        version=version.version,
        recorded_at=record.recorded_at,
        kind=record.kind,
        # The same words after other turns are another question.
        text=f"{json.dumps(turns, ensure_ascii=False)} {version.input}" if turns else version.input,
        is_retired=version.retired_on is not None,
        trace_id=version.provenance.trace_id if version.provenance else None,
        merged_trace_ids=version.merged_trace_ids,
    )
