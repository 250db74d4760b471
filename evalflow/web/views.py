"""How a queued trace is laid out for a reviewer: rows of the queue, the conversation, the spans, answers of others.

Belongs here: turning items into what the templates print, and who may see whose answer. Keep out: HTML, requests.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evalflow.adapters.review_desk import Wanted
from evalflow.core.error_analysis import answered_at
from evalflow.core.records import Review
from evalflow.defs.queue import Item

Tab = Literal["todo", "waiting", "unsettled", "ready", "closed", "all"]
TABS: dict[Tab, str] = {
    "todo": "To answer",
    "waiting": "Waiting for others",
    "unsettled": "Unsettled",
    "ready": "Ready",
    "closed": "Closed",
    "all": "All",
}
FIELDS = ("verdict", "severity", "expected_output", "open_codes", "tags", "duplicate_of", "comment")
"""Of the form, and so of a draft."""
_PLAIN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def slug_of(trace_id: str) -> str:
    """The trace's name in an address: itself where that is safe, else a hash of it."""
    if _PLAIN_ID.fullmatch(trace_id):
        return trace_id
    return "~" + hashlib.sha256(trace_id.encode("utf-8", "surrogatepass")).hexdigest()[:24]


@dataclass(frozen=True)
class Standing:
    """Where an item stands for one reviewer, who sees what others said only after his own answer.

    ``mine`` is his newest answer; ``others`` are those of the others, empty until they may be seen; ``n_others`` is how
    many there are. ``n_open``: from how many more people it wants an answer.
    """

    item: Item
    mine: Review | None
    others: list[Review]
    n_others: int
    is_revealed: bool
    n_open: int

    @property
    def tab(self) -> Tab:
        if self.item.case_id:
            return "closed"
        if self.n_open and not self.mine:
            return "todo"
        if not self.is_revealed:
            return "waiting" if self.mine else "closed"  # others have settled it
        if self.item.is_waiting:
            return "unsettled"
        return "ready" if self.item.is_ready else "closed"

    @property
    def severities(self) -> set[str]:
        """What this reviewer said, and the others where that may be seen."""
        return {review.severity for review in [self.mine, *self.others] if review is not None and review.severity}

    @property
    def state(self) -> str:
        """In words, without telling what others said before that may be seen."""
        if self.item.case_id or self.is_revealed:
            return "in the golden set" if self.item.case_id else self.item.state
        n = self.n_others + bool(self.mine)
        if not n:
            return "open"
        wanted = max(n, self.item.decision.n_wanted)
        return f"yours, {n} of {wanted}" if self.mine else f"{n} of {wanted} answered"


def standing_of(item: Item, reviewer: str) -> Standing:
    newest = {review.reviewer: review for review in sorted(item.reviews, key=answered_at)}
    mine = newest.pop(reviewer, None)
    n_wanted = item.decision.n_wanted
    is_revealed = mine is not None and len(newest) + 1 >= n_wanted
    n_open = max(1, n_wanted - item.decision.n_votes) if item.is_waiting else 0
    others = list(newest.values()) if is_revealed else []
    return Standing(item, mine, others, len(newest), is_revealed, n_open)


@dataclass(frozen=True)
class Filters:
    """What of the queue is listed. Empty fields let everything through."""

    tab: Tab = "todo"
    queue: str = ""
    source: str = ""
    bin: str = ""
    severity: str = ""
    text: str = ""
    is_overdue: bool = False

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Filters":
        tab: Tab = next((tab for tab in TABS if tab == query.get("tab")), "todo")
        given = {name: query.get(name, "").strip() for name in ("queue", "source", "bin", "severity", "text")}
        return cls(tab, **given, is_overdue=query.get("overdue") == "1")

    def query(self) -> dict[str, str]:
        """As it stands in an address; only what is set."""
        given = {"tab": self.tab if self.tab != "todo" else "", "queue": self.queue, "source": self.source}
        given |= {"bin": self.bin, "severity": self.severity, "text": self.text}
        given |= {"overdue": "1" if self.is_overdue else ""}
        return {name: value for name, value in given.items() if value}

    def lets_through(self, standing: Standing) -> bool:
        """Whether an item is listed, whatever its tab."""
        item, row = standing.item, standing.item.row
        return (
            (not self.queue or item.queue == self.queue)
            and (not self.source or row["source"] == self.source)
            and (not self.bin or row["bin"] == self.bin)
            and (not self.severity or self.severity in standing.severities)
            and (not self.is_overdue or item.is_overdue)
            and (not self.text or self._is_in(row))
        )

    def _is_in(self, row: Mapping[str, Any]) -> bool:
        wanted = self.text.casefold()
        return any(wanted in (row[name] or "").casefold() for name in ("text", "trace_id", "reason"))


def wanted_of(standings: Iterable[Standing]) -> list[Wanted]:
    """What a reviewer may be given next, in the order of the queue."""
    return [Wanted(standing.item.trace_id, standing.n_open) for standing in standings if standing.tab == "todo"]


# -- one trace ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """``place``: before, asked (what the user asked), answered (what is judged), after."""

    role: str
    text: str
    place: Literal["before", "asked", "answered", "after"]


@dataclass(frozen=True)
class Span:
    """A turn of the session with its tool calls, or one of these. ``facts``: latency, tokens and cost in words."""

    name: str
    facts: list[str]
    error: Any
    values: dict[str, Any]
    children: list["Span"]
    is_asked: bool = False

    @property
    def is_failed(self) -> bool:
        return self.error not in (None, False, "") or any(child.is_failed for child in self.children)


@dataclass(frozen=True)
class TraceView:
    """Everything that a reviewer sees of one trace."""

    messages: list[Message]
    spans: list[Span]
    negative_signals: list[str]
    known_signals: list[str]
    grades: list[dict[str, Any]]
    feedback: list[dict[str, Any]]
    extras: dict[str, Any]
    left_out: list[str]


def trace_view(row: Mapping[str, Any]) -> TraceView:
    """Lay a full row of the queue out; rows of an earlier version have no turns and show less."""
    context = json.loads(row["context"])
    signals = json.loads(row["signals"] or "{}")
    negative = list(row["negative_signals"])
    turns = context.get("turns") or []
    left_out = context.get("left_out") or {}
    return TraceView(
        messages=list(_messages(row, context, turns)),
        spans=[_turn_span(turn) for turn in turns] or _spans_of_calls(context),
        negative_signals=negative,
        known_signals=[
            _signal(name, value) for name, value in signals.items() if name.removeprefix("is_") not in negative
        ],
        grades=json.loads(row["grades"] or "[]"),
        feedback=context.get("feedback") or [],
        extras={name: context[name] for name in ("error", "messages", "tags", "metadata") if context.get(name)},
        left_out=[f"{count:,} {what}" for what, count in left_out.items() if count],
    )


def _messages(row: Mapping[str, Any], context: Mapping[str, Any], turns: list[dict[str, Any]]) -> Iterable[Message]:
    before = [turn for turn in turns if turn.get("place") == "before"]
    if before:
        for turn in before:
            yield from _said(turn, "before", "before")
    else:
        for said in context.get("conversation") or []:
            yield Message(str(said.get("role", "")), str(said.get("content", "")), "before")
    yield Message("user", row["text"], "asked")
    if row["output"] is not None:
        yield Message("assistant", row["output"], "answered")
    for turn in turns:
        if turn.get("place") == "after":
            yield from _said(turn, "after", "after")


def _said(
    turn: Mapping[str, Any], asked: Literal["before", "after"], answered: Literal["before", "after"]
) -> Iterable[Message]:
    if turn.get("input") is not None:
        yield Message("user", str(turn["input"]), asked)
    if turn.get("output") is not None:
        yield Message("assistant", str(turn["output"]), answered)


def _turn_span(turn: Mapping[str, Any]) -> Span:
    index = turn.get("turn_index")
    place = {"before": "before", "this": "the one to judge", "after": "after"}.get(str(turn.get("place")), "")
    facts = [
        *([f"{turn['latency_ms']:,.0f} ms"] if turn.get("latency_ms") is not None else []),
        *([f"{turn['input_tokens']:,} tokens in"] if turn.get("input_tokens") is not None else []),
        *([f"{turn['output_tokens']:,} out"] if turn.get("output_tokens") is not None else []),
        *([f"{turn['context_tokens']:,} of context"] if turn.get("context_tokens") is not None else []),
        *([f"${turn['cost_usd']:.4f}"] if turn.get("cost_usd") is not None else []),
    ]
    known = ("trace_id", "timestamp", "model", "prompt_version", "signals")
    return Span(
        name=("Turn" if index is None else f"Turn {index + 1}") + (f", {place}" if place else ""),
        facts=facts,
        error=turn.get("error"),
        values={name: turn[name] for name in known if turn.get(name)},
        children=[_call_span(call) for call in turn.get("tool_calls") or []],
        is_asked=turn.get("place") == "this",
    )


def _spans_of_calls(context: Mapping[str, Any]) -> list[Span]:
    calls = [_call_span(call) for call in context.get("tool_calls") or [] if isinstance(call, dict)]
    return [Span("Turn, the one to judge", [], context.get("error"), {}, calls, is_asked=True)] if calls else []


def _call_span(call: Mapping[str, Any]) -> Span:
    values = {name: value for name, value in call.items() if name not in ("name", "error") and value is not None}
    return Span(str(call.get("name") or "unnamed call"), [], call.get("error"), values, [])


def _signal(name: str, value: Any) -> str:
    said = name.removeprefix("is_").replace("_", " ")
    if isinstance(value, bool):
        return said if value else f"not {said}"
    return f"{said} {value:g}" if isinstance(value, float) else f"{said} {value}"


# -- answers --------------------------------------------------------------------------------------------------


def fields_of(review: Review) -> dict[str, str]:
    """An answer as it stands in the form."""
    return {
        "verdict": review.verdict,
        "severity": review.severity or "",
        "expected_output": review.expected_output or "",
        "open_codes": "\n".join(review.open_codes),
        "tags": ", ".join(review.tags),
        "duplicate_of": review.duplicate_of or "",
        "comment": review.comment or "",
    }


def answer_row(fields: Mapping[str, str]) -> dict[str, Any]:
    """The form as a line of a file of answers has it; blank fields stay blank."""
    return {
        **{name: fields.get(name, "") for name in ("verdict", "severity", "expected_output", "comment")},
        "open_codes": _listed(fields.get("open_codes", "").split("\n")),
        "tags": _listed(re.split(r"[,\n]", fields.get("tags", ""))),
        "duplicate_of": fields.get("duplicate_of", "").strip() if fields.get("verdict") == "duplicate" else "",
    }


def _listed(parts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))


def verdicts_in_words(standing: Standing) -> str:
    """Whether the reviewers of a revealed item agree, as one sentence; empty while there is only one."""
    answers = [review for review in [standing.mine, *standing.others] if review is not None]
    if len(answers) < 2:
        return ""
    votes = Counter(review.verdict for review in answers if review.verdict != "unsure")
    if len(votes) == 1 and votes.total() == len(answers):
        return f"All {len(answers)} reviewers agree."
    counted = sorted(votes.items(), key=lambda vote: (-vote[1], vote[0]))
    said = ", ".join(f"{n} {verdict.replace('_', ' ')}" for verdict, n in counted)
    n_unsure = len(answers) - votes.total()
    return f"The reviewers differ: {said}." if len(votes) > 1 else f"{said}; {n_unsure} unsure.".lstrip("; ")


def common_codes(items: Sequence[Item], most: int = 8) -> list[str]:
    """The open codes that are used most, each as it was written last."""
    counts: Counter[str] = Counter()
    written: dict[str, str] = {}
    for item in items:
        for review in item.reviews:
            for code in review.open_codes:
                key = " ".join(code.casefold().split())
                counts[key] += 1
                written[key] = code
    return [written[key] for key, _ in sorted(counts.items(), key=lambda found: (-found[1], found[0]))[:most]]
