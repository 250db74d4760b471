"""The native records: a trace, a feedback event, a golden case, a review, and what makes one unusable.

``parse_record`` turns one decoded JSON object (or Parquet row) into a typed record or a reason for quarantine.
Absent is null, never false. Fields that the format does not know are kept in ``metadata``.
Keep out: files (``adapters/native.py``) and every other project's format.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, get_args

import msgspec

UtcTime = Annotated[datetime, msgspec.Meta(tz=True)]
Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
Origin = Literal["hand-authored", "synthetic", "production"]
Verdict = Literal["real_failure", "not_a_failure", "duplicate", "unsure"]
Severity = Literal["low", "medium", "high", "critical"]


class Signals(msgspec.Struct, forbid_unknown_fields=False):
    schema_valid: bool | None = None
    regenerated: bool | None = None
    edited_chars: Count | None = None
    accepted: bool | None = None
    thumbs: Literal["up", "down"] | None = None
    rating: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None
    reported: bool | None = None
    escalated: bool | None = None
    fallback: bool | None = None
    guardrail: str | bool | None = None
    abandoned: bool | None = None
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class ToolCall(msgspec.Struct):
    name: str | None = None
    arguments: Any = None
    error: Any = None


class Trace(msgspec.Struct, kw_only=True):
    trace_id: Identifier
    timestamp: UtcTime
    input: Annotated[str, msgspec.Meta(min_length=1)]
    session_id: Identifier | None = None
    turn_index: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] | None = None
    output: str | None = None
    messages: list[Any] | None = None
    model: str | None = None
    prompt_version: str | None = None
    variant: str | None = None
    user_id: str | None = None
    user_tier: str | None = None
    locale: str | None = None
    intent: str | None = None
    tool_calls: list[ToolCall] | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    context_tokens: Count | None = None
    latency_ms: Amount | None = None
    cost_usd: Amount | None = None
    error: Any = None
    signals: Signals | None = None
    tags: dict[str, Any] | list[str] | None = None
    metadata: dict[str, Any] | None = None


class FeedbackEvent(msgspec.Struct, kw_only=True):
    trace_id: Identifier
    timestamp: UtcTime
    name: Identifier
    value: str | int | float | bool | None = None
    comment: str | None = None
    source: str | None = None


class WeightPart(msgspec.Struct, kw_only=True, frozen=True):
    """One factor of a case's weight in [0, 1], and where it comes from."""

    value: Annotated[float, msgspec.Meta(ge=0, le=1)]
    reason: str


class WeightParts(msgspec.Struct, kw_only=True, frozen=True):
    """The factors of a promoted case's weight: their product."""

    novelty: WeightPart
    severity: WeightPart
    difficulty: WeightPart


class Reproduction(msgspec.Struct, kw_only=True, frozen=True):
    """How the system under test did on a trace when it was asked again: so many attempts, failed or unscored."""

    attempts: Count
    failed: Count
    unscored: Count = 0
    system: str
    system_version: str | None = None
    scorer: str | None = None
    at: UtcTime | None = None


class Provenance(msgspec.Struct, kw_only=True, frozen=True):
    """Where a case of production comes from, who confirmed it and why it was looked at.

    ``expected_from``: who says what the right answer is. ``reviewer_kind``: ``human``, ``script``, or ``policy`` where
    nobody looked; ``policy`` then names the one that decided. ``inclusion_probability`` and ``label_probability``: the
    chances of being sampled, and of being put before people; null where it was picked.
    """

    trace_id: Identifier
    session_id: str | None = None
    occurred_at: UtcTime | None = None
    queued_on: date | None = None
    queued_for: str | None = None
    reason: str | None = None
    verdict: str | None = None
    severity: str | None = None
    reviewers: list[str] = []
    reviewer_kind: str | None = None
    reviewed_at: UtcTime | None = None
    expected_from: str | None = None
    queue: str | None = None
    inclusion_probability: float | None = None
    label_probability: float | None = None
    comments: list[str] = []
    open_codes: list[str] = []
    review_tags: list[str] = []
    policy: str | None = None
    reproduction: Reproduction | None = None


class GoldenCase(msgspec.Struct, kw_only=True):
    case_id: Identifier
    input: Annotated[str, msgspec.Meta(min_length=1)]
    expected_output: str | None = None
    origin: Origin = "hand-authored"
    created_at: UtcTime | None = None
    tags: dict[str, Any] | list[str] | None = None
    metadata: dict[str, Any] | None = None
    is_regression: bool | None = None
    weight: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    weight_parts: WeightParts | None = None
    provenance: Provenance | None = None
    merged_trace_ids: list[str] = []
    n_merged_failures: Count = 0
    """How many of the merged traces failed too."""
    is_random_draw: bool | None = None
    """Drawn from traffic at random, each trace with a chance in proportion to what it stands for."""


class Review(msgspec.Struct, kw_only=True, frozen=True):
    """One person's answer about one queued trace. ``number``: its place in the order of recording, given there."""

    trace_id: Identifier
    verdict: Verdict
    reviewer: Identifier
    number: int = 0
    expected_output: str | None = None
    severity: Severity | None = None
    duplicate_of: Identifier | None = None
    comment: str | None = None
    open_codes: list[str] = []
    """What went wrong first, in the reviewer's own words: the raw material of error analysis."""
    tags: list[str] = []
    reviewer_kind: Literal["human", "script"] = "human"
    reviewed_at: UtcTime | None = None

    @property
    def answer(self) -> tuple[str | tuple[str, ...] | None, ...]:
        """What was said, apart from when: the same answer again says nothing new."""
        return (
            self.trace_id,
            self.verdict,
            self.reviewer,
            self.expected_output,
            self.severity,
            self.duplicate_of,
            self.comment,
            tuple(self.open_codes),
            tuple(self.tags),
            self.reviewer_kind,
        )


@dataclass(frozen=True)
class Limits:
    """What a timestamp and a text may be; ``earliest`` and ``latest`` are inclusive."""

    earliest: datetime
    latest: datetime
    max_text_bytes: int


@dataclass(frozen=True)
class Unusable:
    """Why a line goes to quarantine."""

    reason: str


Record = Trace | FeedbackEvent | GoldenCase | Review
_TRACE_FIELDS = frozenset(Trace.__struct_fields__)
_SIGNAL_FIELDS = frozenset(Signals.__struct_fields__)
_TOOL_CALL_FIELDS = frozenset(ToolCall.__struct_fields__)
_LEDGER_FIELDS = frozenset({"version", "effective_on", "bin"})
"""What `evalflow golden export` adds to a case and the ledger gives anew on import."""
_REVIEW_FIELDS = frozenset(Review.__struct_fields__) - {"number"}
_CASE_FIELDS = frozenset(GoldenCase.__struct_fields__) | _LEDGER_FIELDS
_ONLY_IN_TRACES = (
    _TRACE_FIELDS - frozenset(FeedbackEvent.__struct_fields__) - {"session_id", "user_id", "metadata", "tags"}
)
"""A row with any of these is a trace, however broken: never feedback."""
_TRACE_COUNTS = ("turn_index", "input_tokens", "output_tokens", "context_tokens")
_SIGNAL_COUNTS = ("edited_chars", "rating")
_TIME_ADVICE = "write it in UTC, for example 2026-06-01T12:00:00Z"


def parse_record(row: Any, limits: Limits) -> Trace | FeedbackEvent | Unusable:
    """One row of a traffic file: a trace, a feedback event, or the reason why it is neither."""
    if not isinstance(row, dict):
        return Unusable(f"a line must be a JSON object, this is a {type(row).__name__}")
    if "case_id" in row and "trace_id" not in row:
        return Unusable("this is a golden case; import it with `evalflow golden import`")
    is_feedback = "name" in row and not _ONLY_IN_TRACES & row.keys()
    whole = _with_whole_counts(row)
    try:
        record = msgspec.convert(whole, FeedbackEvent) if is_feedback else msgspec.convert(whole, Trace)
        record.timestamp = record.timestamp.astimezone(UTC)
    except msgspec.ValidationError as error:
        return Unusable(_reason(error))
    except (ValueError, OverflowError) as error:
        return Unusable(f"a value cannot be read: {error}")
    if isinstance(record, Trace):
        _keep_unknown_fields(record, row)
    return _out_of_bounds(record, record.timestamp, limits) or record


def parse_golden_case(row: Any, max_text_bytes: int) -> GoldenCase | Unusable:
    """One row of a golden-case file, or the reason why it is unusable."""
    if not isinstance(row, dict):
        return Unusable(f"a line must be a JSON object, this is a {type(row).__name__}")
    if "trace_id" in row and "case_id" not in row:
        return Unusable("this is a trace, not a golden case; land it with `evalflow ingest`")
    if _is_whole(row.get("n_merged_failures")):
        row = row | {"n_merged_failures": int(row["n_merged_failures"])}
    try:
        case = msgspec.convert(row, GoldenCase)
        case.created_at = None if case.created_at is None else case.created_at.astimezone(UTC)
    except msgspec.ValidationError as error:
        return Unusable(_reason(error))
    except (ValueError, OverflowError) as error:
        return Unusable(f"a value cannot be read: {error}")
    unknown = {key: value for key, value in row.items() if key not in _CASE_FIELDS}
    if unknown:
        case.metadata = {**unknown, **(case.metadata or {})}
    return _unusable_text(case, max_text_bytes) or case


def parse_review(row: Any, max_text_bytes: int) -> Review | Unusable | None:
    """One line of a file of answers: an answer, None where it was left unanswered, or why it is unusable.

    Fields that are not part of an answer, such as those that `evalflow triage export` writes for the reader, are
    passed over.
    """
    if not isinstance(row, dict):
        return Unusable(f"a line must be a JSON object, this is a {type(row).__name__}")
    known = {key: value for key, value in row.items() if key in _REVIEW_FIELDS and not _is_blank(value)}
    if "verdict" not in known:
        return None
    for name in ("verdict", "severity"):
        if isinstance(known.get(name), str):
            known[name] = known[name].strip().lower().replace(" ", "_").replace("-", "_")
    if known["verdict"] not in get_args(Verdict):
        return Unusable(f"verdict {row['verdict']!r} is none of {', '.join(get_args(Verdict))}")
    try:
        review = msgspec.convert(known, Review)
        if review.reviewed_at is not None:
            review = msgspec.structs.replace(review, reviewed_at=review.reviewed_at.astimezone(UTC))
    except msgspec.ValidationError as error:
        return Unusable(_reason(error))
    except (ValueError, OverflowError) as error:
        return Unusable(f"a value cannot be read: {error}")
    return _unusable_text(review, max_text_bytes) or review


def _with_whole_counts(row: dict[str, Any]) -> dict[str, Any]:
    """12.0 is the integer 12 to JSON, and Parquet writers turn a count column with gaps into doubles."""
    whole: dict[str, Any] = {name: int(row[name]) for name in _TRACE_COUNTS if _is_whole(row.get(name))}
    signals = row.get("signals")
    if isinstance(signals, dict):
        whole_signals = {name: int(signals[name]) for name in _SIGNAL_COUNTS if _is_whole(signals.get(name))}
        whole |= {"signals": signals | whole_signals} if whole_signals else {}
    return row | whole if whole else row


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _keep_unknown_fields(trace: Trace, row: dict[str, Any]) -> None:
    unknown = {key: value for key, value in row.items() if key not in _TRACE_FIELDS}
    signals = row.get("signals")
    if isinstance(signals, dict):
        unknown |= {f"signals.{key}": value for key, value in signals.items() if key not in _SIGNAL_FIELDS}
    for number, call in enumerate(row.get("tool_calls") or []):
        unknown |= {f"tool_calls.{number}.{key}": value for key, value in call.items() if key not in _TOOL_CALL_FIELDS}
    if unknown:
        trace.metadata = {**unknown, **(trace.metadata or {})}


def _out_of_bounds(record: Trace | FeedbackEvent, at: datetime, limits: Limits) -> Unusable | None:
    if at < limits.earliest:
        return Unusable(f"timestamp {at.isoformat()} lies before {limits.earliest.isoformat()}, the earliest accepted")
    if at > limits.latest:
        return Unusable(f"timestamp {at.isoformat()} lies after {limits.latest.isoformat()}, the latest accepted")
    return _unusable_text(record, limits.max_text_bytes)


def _unusable_text(record: Record, max_text_bytes: int) -> Unusable | None:
    for name, value in _texts_of(record):
        if "\x00" in value:
            return Unusable(f"{name} contains a NUL character")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            return Unusable(f"{name} contains half of a surrogate pair, which is not text")
        if size > max_text_bytes:
            return Unusable(f"{name} has {size:,} bytes, above ingest.max_text_bytes = {max_text_bytes:,}")
    if not getattr(record, "input", "x").strip():
        return Unusable("input is blank")
    return None


def _texts_of(record: Record) -> Iterator[tuple[str, str]]:
    """Every text of a record by the field that holds it, those of lists too."""
    for name in record.__struct_fields__:
        value = getattr(record, name)
        yield from ((name, one) for one in (value if isinstance(value, list) else [value]) if isinstance(one, str))


def _reason(error: msgspec.ValidationError) -> str:
    """msgspec's message in the field's own terms: `$.signals.rating` becomes `signals.rating`."""
    text = str(error)
    message, _, path = text.partition(" - at `")
    field = path.rstrip("`").rpartition("$")[2].lstrip(".")
    if "timezone component" in message:
        return f"{field} has no time zone; {_TIME_ADVICE}"
    if field in ("timestamp", "created_at"):
        return f"{field}: {message}; {_TIME_ADVICE}"
    return f"{field}: {message}" if field else message


def trace_row(trace: Trace) -> dict[str, Any]:
    """The trace as one flat row of the ``landing`` table; nested values become JSON text."""
    signals = trace.signals or Signals()
    row = {name: getattr(trace, name) for name in Trace.__struct_fields__ if name != "signals"}
    row |= {name: getattr(signals, name) for name in Signals.__struct_fields__}
    for name in ("messages", "tool_calls", "tags", "metadata"):
        row[name] = None if row[name] is None else msgspec.json.encode(row[name]).decode()
    row["guardrail"] = _as_text(row["guardrail"])
    row["error"] = None if trace.error in (None, False, "") else _as_text(trace.error)
    return row


def feedback_row(event: FeedbackEvent) -> dict[str, Any]:
    """The event as one row of ``landing_feedback``; its value becomes text."""
    row = {name: getattr(event, name) for name in FeedbackEvent.__struct_fields__}
    row["value"] = _as_text(event.value)
    return row


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()
