"""What a promotion may promote: what people confirmed, what the judge completed, what a policy takes.

The judge is asked before the ledger is held, since that takes its time; what may be promoted is read while it is held.
Keep out: dedup, weights and writing (``golden.py``), and asking the system under test (``reproduction.py``).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, NamedTuple

from evalflow.adapters.attempts import KeptAttempt
from evalflow.adapters.expecting import Proposed, Proposer, Unexpected
from evalflow.adapters.home import Home
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.system import Task
from evalflow.core.calendar import monday_of
from evalflow.core.expecting import Proposal, expected_from
from evalflow.core.promotion import applies
from evalflow.core.records import Reproduction
from evalflow.core.reviewing import Decision
from evalflow.defs.queue import Item, queued_items
from evalflow.settings import PromotionPolicy

BY_POLICY = "by policy"
"""The verdict of a case that nobody looked at."""
NOT_ASKED = Proposal(None, "the judge was not asked yet")


@dataclass(frozen=True)
class Candidate:
    """A queued trace with what was decided of it. ``policy`` is set where a rule decided, not a person."""

    item: Item
    decision: Decision
    policy: PromotionPolicy | None = None

    @property
    def trace_id(self) -> str:
        return self.item.trace_id


@dataclass(frozen=True)
class Candidates:
    """What may be promoted, the most urgent first; a sentence for each trace that has to wait; all that is no case yet."""

    ready: list[Candidate]
    waiting: list[str]
    items: list[Item]


def propose(home: Home, effective_on: date) -> Proposed:
    """Ask the judge what the answers should have been of which nobody said it; nothing where it is not wanted."""
    limits = home.settings.promotion
    if home.settings.judge.model is None or not (limits.expected_from_judge or limits.policies):
        return Proposed()
    wanted = _without_expectation(home, _open_items(home), effective_on).candidates
    scrubber = Scrubber(home.settings.privacy)
    asked = [
        Unexpected(
            candidate.trace_id,
            scrubber.scrub(candidate.item.row["text"]).text,
            scrubbed(conversation_of(candidate.item), scrubber),
            scrubber.scrub(candidate.item.row["output"]).text or None,
            [scrubber.scrub(remark).text for remark in _remarks(candidate.item)],
        )
        for candidate in wanted
    ]
    return Proposer(home.settings.judge, home.cache).propose(asked)


def candidates_of(home: Home, effective_on: date, proposed: Proposed) -> Candidates:
    """Every queued trace that is no case yet and about which enough is known, each once.

    Args:
        home: its queue, answers and ledger.
        effective_on: the day from which cases would count; policies have so many cases in its week.
        proposed: what the judge has said.
    """
    items = _open_items(home)
    confirmed = [Candidate(item, item.decision) for item in items if item.decision.state == "confirmed"]
    lacking = _without_expectation(home, items, effective_on)
    completed, why_not = _completed(home, lacking.candidates, proposed)
    named = {candidate.trace_id for candidate in lacking.candidates}
    waiting = [item.decision.why for item in items if item.decision.why and item.trace_id not in named]
    order = {item.trace_id: place for place, item in enumerate(items)}
    ready = sorted([*confirmed, *completed], key=lambda candidate: order[candidate.trace_id])
    return Candidates(ready, [*waiting, *why_not, *lacking.over], items)


def _open_items(home: Home) -> list[Item]:
    return [item for item in queued_items(home) if item.case_id is None]


class _Lacking(NamedTuple):
    """Traces for which the judge has to say what would have been right, and what of a policy is over its limit."""

    candidates: list[Candidate]
    over: list[str]


def _without_expectation(home: Home, items: Sequence[Item], effective_on: date) -> _Lacking:
    unexpected = [Candidate(item, item.decision) for item in items if _wants_judge(home, item)]
    chosen, over = _chosen_by_policy(home, items, effective_on)
    return _Lacking([*unexpected, *chosen], over)


def _wants_judge(home: Home, item: Item) -> bool:
    """Confirmed by people as a failure, without a word on what would have been right."""
    settings = home.settings
    is_open = item.decision.state == "incomplete" and item.decision.verdict == "real_failure"
    return is_open and settings.promotion.expected_from_judge and settings.judge.model is not None


def _chosen_by_policy(home: Home, items: Sequence[Item], effective_on: date) -> tuple[list[Candidate], list[str]]:
    """Traces that nobody has answered and that a policy takes, the first one that fits, as many as it may have this week."""
    policies = home.settings.promotion.policies
    if not policies:
        return [], []
    left = {policy.name: policy.max_per_week for policy in policies}
    over: dict[str, int] = {}
    for _, version in home.ledger.entries():
        name = version.provenance.policy if version.provenance else None
        if version.version == 1 and name in left:
            left[name] -= monday_of(date.fromisoformat(version.effective_on)) == monday_of(effective_on)
    chosen = []
    for item in items:
        if item.reviews or item.decision.state != "open":
            continue  # somebody has answered, if only to say that he is unsure
        if item.row["label_probability"] is not None:
            continue  # drawn for people: a rate from such labels must not lack just those that a policy takes
        signals = {f"is_{name}" for name in item.row["negative_signals"] or ()}
        policy = next((policy for policy in policies if applies(policy, item.row["source"], signals)), None)
        if policy is None:
            continue
        if left[policy.name] <= 0:
            over[policy.name] = over.get(policy.name, 0) + 1
            continue
        left[policy.name] -= 1
        decision = Decision(
            "confirmed",
            is_regression=True,
            severity=policy.severity,
            reviewers=(f"policy {policy.name}",),
            reviewer_kind="policy",
            reviewed_at=home.now(),
            verdict=BY_POLICY,
        )
        chosen.append(Candidate(item, decision, policy))
    said = [
        f"policy {policy.name}: {over[policy.name]} more would fit, beyond the {policy.max_per_week} that it may take this week; "
        "people can answer them"
        for policy in policies
        if over.get(policy.name)
    ]
    return chosen, said


def _completed(home: Home, candidates: Sequence[Candidate], proposed: Proposed) -> tuple[list[Candidate], list[str]]:
    """Those for which the judge has said what would have been right, and a sentence for each other one."""
    model = home.settings.judge.model
    if model is None:
        lacking = sorted({candidate.policy.name for candidate in candidates if candidate.policy})
        sentence = "nothing says what the answers should have been; set judge.model, or remove the policy"
        return [], [f"policy {name}: {sentence}" for name in lacking]
    completed, why_not = [], []
    for candidate in candidates:
        proposal = proposed.proposals.get(candidate.trace_id, NOT_ASKED)
        if proposal.text is None:
            why_not.append(
                f"{candidate.trace_id}: {_called(candidate)} a failure, and no right answer is known: {proposal.reason}; "
                "add expected_output"
            )
            continue
        decision = replace(
            candidate.decision,
            state="confirmed",
            why="",
            is_regression=True,
            expected_output=proposal.text,
            expected_from=expected_from(model),
        )
        completed.append(replace(candidate, decision=decision))
    return completed, why_not


def _called(candidate: Candidate) -> str:
    return f"policy {candidate.policy.name} calls it" if candidate.policy else "people call it"


def _remarks(item: Item) -> list[str]:
    """What reviewers wrote, in their own words."""
    return [text for review in item.reviews for text in (review.comment, *review.open_codes) if text]


# -- a trace as a question -------------------------------------------------------------------------------------


def conversation_of(item: Item) -> list[dict[str, str]]:
    """The turns before the trace; empty where it opens its conversation."""
    found = json.loads(item.row["context"]).get("conversation")
    return found if isinstance(found, list) else []


def scrubbed(value: Any, scrubber: Scrubber) -> Any:
    """Every text inside a nested value, scrubbed once more; keys are names of fields and stay."""
    if isinstance(value, dict):
        return {key: scrubbed(inner, scrubber) for key, inner in value.items()}
    if isinstance(value, list):
        return [scrubbed(inner, scrubber) for inner in value]
    return scrubber.scrub(value).text if isinstance(value, str) else value


def task_of_trace(candidate: Candidate, scrubber: Scrubber, repeat: int = 1) -> Task:
    """The question that the case will ask, as the system under test is asked it."""
    row = candidate.item.row
    return Task(
        candidate.trace_id,
        scrubber.scrub(row["text"]).text,
        scrubbed(conversation_of(candidate.item), scrubber),
        scrubber.scrub(candidate.decision.expected_output).text or None,
        repeat=repeat,
    )


def reproduction_of(attempts: Iterable[KeptAttempt], task: Task) -> Reproduction | None:
    """What the recorded attempts at a question come to, of the system, version and scorer that were asked last.

    Those that were scored against another expected answer do not count.
    """
    asked = [attempt for attempt in attempts if attempt.is_at(task)]
    if not asked:
        return None
    last = asked[-1]
    same = [attempt for attempt in asked if _asked_by(attempt) == _asked_by(last)]
    return Reproduction(
        attempts=len(same),
        failed=sum(attempt.verdict == "fail" for attempt in same),
        unscored=sum(attempt.verdict == "unscored" for attempt in same),
        system=last.system,
        system_version=last.system_version,
        scorer=last.scorer,
        at=datetime.fromisoformat(last.recorded_at),
    )


def _asked_by(attempt: KeptAttempt) -> tuple[str, str | None, str | None]:
    return attempt.system, attempt.system_version, attempt.scorer
