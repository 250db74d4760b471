"""The schema of every table in the lake, declared once.

Each table is a folder of Parquet files, one per partition. The partition column (``day``, ``week``, ``month`` or
``file``) is the folder's name and not part of the file.
"""

from dataclasses import dataclass
from typing import Literal

import polars as pl

PartitionUnit = Literal["day", "week", "month", "file"]
UTC_TIME = pl.Datetime("us", "UTC")
VECTOR = pl.List(pl.Float32)

BORN = {"day": "0001-01-01", "week": "0001-01-01", "month": "0001-01-01", "file": "none"}
"""Key of the zero-row partition that every table is born with: it carries the schema for globs."""


@dataclass(frozen=True)
class Table:
    """A table of the lake: its name, what it is partitioned by, what one row is, and its columns."""

    name: str
    unit: PartitionUnit
    row_is: str
    schema: dict[str, pl.DataType | type[pl.DataType]]


_TRACE: dict[str, pl.DataType | type[pl.DataType]] = {
    "trace_id": pl.String,
    "session_id": pl.String,
    "turn_index": pl.Int32,
    "timestamp": UTC_TIME,
    "input": pl.String,
    "output": pl.String,
    "messages": pl.String,
    "model": pl.String,
    "prompt_version": pl.String,
    "variant": pl.String,
    "user_id": pl.String,
    "user_tier": pl.String,
    "locale": pl.String,
    "intent": pl.String,
    "tool_calls": pl.String,
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "context_tokens": pl.Int64,
    "latency_ms": pl.Float64,
    "cost_usd": pl.Float64,
    "error": pl.String,
    "schema_valid": pl.Boolean,
    "regenerated": pl.Boolean,
    "edited_chars": pl.Int64,
    "accepted": pl.Boolean,
    "thumbs": pl.String,
    "rating": pl.Int8,
    "reported": pl.Boolean,
    "escalated": pl.Boolean,
    "fallback": pl.Boolean,
    "guardrail": pl.String,
    "abandoned": pl.Boolean,
    "confidence": pl.Float64,
    "tags": pl.String,
    "metadata": pl.String,
}
_FEEDBACK: dict[str, pl.DataType | type[pl.DataType]] = {
    "trace_id": pl.String,
    "timestamp": UTC_TIME,
    "name": pl.String,
    "value": pl.String,
    "comment": pl.String,
    "source": pl.String,
}
_LANDED: dict[str, pl.DataType | type[pl.DataType]] = {
    "landed_seq": pl.Int64,  # order in which files were landed; the later version of an id wins
    "line": pl.Int64,
    "source_file": pl.String,
}

LANDING = Table("landing", "day", "a trace as a file gave it", {**_TRACE, **_LANDED, "is_moved_away": pl.Boolean})
LANDING_FEEDBACK = Table("landing_feedback", "day", "a feedback event as a file gave it", {**_FEEDBACK, **_LANDED})
TRACE_FILES = Table(
    "trace_files",
    "file",
    "a landed source file",
    {
        "path": pl.String,
        "file_hash": pl.String,
        "landed_seq": pl.Int64,
        "n_traces": pl.Int64,
        "n_feedback": pl.Int64,
        "n_quarantined": pl.Int64,
        "trace_days": pl.List(pl.Date),
        "feedback_days": pl.List(pl.Date),
    },
)
QUARANTINE = Table(
    "quarantine",
    "file",
    "a line that could not be used, with its reason",
    {"path": pl.String, "line": pl.Int64, "reason": pl.String, "excerpt": pl.String},
)
RAW_TRACES = Table(
    "raw_traces", "day", "a trace, newest version", {**_TRACE, "source_file": pl.String, "line": pl.Int64}
)
FEEDBACK = Table("feedback", "day", "a feedback event", {**_FEEDBACK, "source_file": pl.String, "line": pl.Int64})
TRACE_SIGNALS = Table(
    "trace_signals",
    "day",
    "a trace's signals: true, false, or null where it cannot be known",
    {
        "trace_id": pl.String,
        "session_id": pl.String,
        "turn_index": pl.Int32,
        "is_regenerated": pl.Boolean,
        "is_edited": pl.Boolean,
        "is_abandoned": pl.Boolean,
        "is_escalated": pl.Boolean,
        "is_fallback": pl.Boolean,
        "is_reported": pl.Boolean,
        "is_thumbs_down": pl.Boolean,
        "is_low_rated": pl.Boolean,
        "is_guardrail_hit": pl.Boolean,
        "is_schema_failure": pl.Boolean,
        "is_tool_failure": pl.Boolean,
        "is_error": pl.Boolean,
        "confidence": pl.Float64,
        "negative_signals": pl.List(pl.String),
        "is_negative": pl.Boolean,
    },
)
STRATIFIED_SAMPLES = Table(
    "stratified_samples",
    "day",
    "a sampled trace, text scrubbed",
    {
        "trace_id": pl.String,
        "session_id": pl.String,
        "turn_index": pl.Int32,
        "timestamp": UTC_TIME,
        "text": pl.String,
        "text_hash": pl.String,
        "output": pl.String,
        "model": pl.String,
        "prompt_version": pl.String,
        "variant": pl.String,
        "user_tier": pl.String,
        "locale": pl.String,
        "intent": pl.String,
        "latency_ms": pl.Float64,
        "cost_usd": pl.Float64,
        "negative_signals": pl.List(pl.String),
        "day_traces": pl.Int64,
        "pi_session": pl.Float64,
        "pi_trace": pl.Float64,
        "inclusion_probability": pl.Float64,
        "rules": pl.List(pl.String),
        "n_scrubbed": pl.Int64,
    },
)
EMBEDDINGS = Table(
    "embeddings",
    "day",
    "a distinct sampled text of the day with its vector",
    {"text_hash": pl.String, "model_id": pl.String, "vector": VECTOR},
)
CLUSTERS = Table(
    "clusters",
    "month",
    "a cluster of the taxonomy in force",
    {
        "cluster_id": pl.String,
        "label": pl.String,
        "terms": pl.List(pl.String),
        "example": pl.String,
        "n_texts": pl.Int64,
        "traffic_share": pl.Float64,
        "is_edge": pl.Boolean,
        "taxonomy_id": pl.String,
        "fitted_on": pl.String,
        "is_provisional": pl.Boolean,
        "method": pl.String,
        "min_cluster_share": pl.Float64,
        "n_clusters": pl.Int64,
        "n_fit_texts": pl.Int64,
        "noise_share": pl.Float64,
        "dbcv": pl.Float64,
        "novel_above": pl.Float64,
        "model_id": pl.String,
        "seed": pl.Int64,
    },
)
TAXONOMY_TEXTS = Table(
    "taxonomy_texts",
    "month",
    "a distinct text of the fit sample with its label: together they are the frozen taxonomy",
    {"text_hash": pl.String, "cluster_id": pl.String, "taxonomy_id": pl.String, "vector": VECTOR},
)
BIN_ASSIGNMENTS = Table(
    "bin_assignments",
    "week",
    "a sampled trace of the window or a golden case as of the week",
    {
        "side": pl.String,
        "item_id": pl.String,
        "session_id": pl.String,
        "day": pl.Date,
        "text_hash": pl.String,
        "bin": pl.String,
        "cluster_id": pl.String,
        "distance": pl.Float64,
        "is_novel": pl.Boolean,
        "is_in_sample": pl.Boolean,
        "inclusion_probability": pl.Float64,
        "weight": pl.Float64,
        "weight_traffic": pl.Float64,
        "weighting": pl.String,
        "case_weight": pl.Float64,
        "taxonomy_id": pl.String,
    },
)
COVERAGE_METRICS = Table(
    "coverage_metrics",
    "week",
    "a bin of the week's window; the week's headline figures repeat on every row",
    {
        "bin": pl.String,
        "label": pl.String,
        "production_share": pl.Float64,
        "production_share_traffic": pl.Float64,
        "n_sampled": pl.Int64,
        "golden_cases": pl.Int64,
        "golden_share": pl.Float64,
        "jsd_term": pl.Float64,
        "density_ratio": pl.Float64,
        "is_uncovered": pl.Boolean,
        "production_share_low": pl.Float64,
        "blind_spot_p": pl.Float64,
        "is_blind_spot": pl.Boolean,
        "newest_case_on": pl.Date,
        "as_of": pl.Date,
        "is_provisional": pl.Boolean,
        "is_in_sample": pl.Boolean,
        "window_from": pl.Date,
        "window_to": pl.Date,
        "window_days": pl.Int64,
        "taxonomy_id": pl.String,
        "fitted_on": pl.String,
        "n_bins": pl.Int64,
        "weighting": pl.String,
        "week_n_sampled": pl.Int64,
        "week_n_golden": pl.Int64,
        "m_eff": pl.Float64,
        "jsd": pl.Float64,
        "jsd_raw": pl.Float64,
        "jsd_raw_traffic": pl.Float64,
        "band": pl.String,
        "uncovered_share": pl.Float64,
        "novel_share": pl.Float64,
    },
)
JUDGE_GRADES = Table(
    "judge_grades",
    "day",
    "a grader's verdict on a sampled trace",
    {
        "trace_id": pl.String,
        "session_id": pl.String,
        "grader": pl.String,
        "grader_version": pl.String,
        "verdict": pl.String,
        "reason": pl.String,
        "inclusion_probability": pl.Float64,
        "pi_grade": pl.Float64,  # the chance that a sampled trace was graded; the product of both is the trace's own
        "input_tokens": pl.Int64,
        "output_tokens": pl.Int64,
        "cost_usd": pl.Float64,
    },
)
QUALITY_METRICS = Table(
    "quality_metrics",
    "week",
    "a grader's view of the week's window, of one bin or of all of them together (bin null)",
    {
        "bin": pl.String,
        "label": pl.String,
        "grader": pl.String,
        "grader_version": pl.String,
        "n_graded": pl.Int64,
        "n_unscored": pl.Int64,
        "pass_rate": pl.Float64,
        "latency_p95_ms": pl.Float64,
        "cost_per_trace_usd": pl.Float64,
        "as_of": pl.Date,
        "weighting": pl.String,
        "taxonomy_id": pl.String,
    },
)
REFRESH_PLAN = Table(
    "refresh_plan",
    "week",
    "a bin and its quota of labels; the plan's headline figures repeat on every row",
    {
        "bin": pl.String,
        "label": pl.String,
        "production_share": pl.Float64,
        "golden_cases": pl.Int64,
        "is_blind_spot": pl.Boolean,
        "quota": pl.Int64,
        "yield_share": pl.Float64,
        "cases_after": pl.Float64,
        "reason": pl.String,
        "gain": pl.Float64,
        "budget": pl.Int64,
        "failure_labels": pl.Int64,
        "jsd_raw_before": pl.Float64,
        "jsd_raw_predicted": pl.Float64,
        "golden_as_of": pl.Date,
        "taxonomy_id": pl.String,
    },
)
RETIREMENT_CANDIDATES = Table(
    "retirement_candidates",
    "week",
    "a golden case that nothing in the window's traffic resembles any more",
    {
        "case_id": pl.String,
        "bin": pl.String,
        "label": pl.String,
        "input": pl.String,
        "reason": pl.String,
    },
)
TRIAGE_QUEUE = Table(
    "triage_queue",
    "week",
    "a trace for people to look at, scrubbed, with the reason why",
    {
        "trace_id": pl.String,
        "session_id": pl.String,
        "turn_index": pl.Int32,
        "timestamp": UTC_TIME,
        "source": pl.String,
        "reason": pl.String,
        "priority": pl.Float64,
        "bin": pl.String,
        "label": pl.String,
        "selected_by": pl.String,
        "inclusion_probability": pl.Float64,
        "text": pl.String,
        "text_hash": pl.String,
        "output": pl.String,
        "context": pl.String,
        "negative_signals": pl.List(pl.String),
        "grades": pl.String,
        "novel_above": pl.Float64,
        "model": pl.String,
        "prompt_version": pl.String,
        "variant": pl.String,
        "user_tier": pl.String,
        "locale": pl.String,
        "queued_on": pl.Date,
        "taxonomy_id": pl.String,
    },
)
REVIEWS = Table(
    "reviews",
    "file",
    "a person's answer about a queued trace",
    {
        "trace_id": pl.String,
        "verdict": pl.String,
        "expected_output": pl.String,
        "severity": pl.String,
        "duplicate_of": pl.String,
        "comment": pl.String,
        "reviewer": pl.String,
        "reviewer_kind": pl.String,
        "reviewed_at": UTC_TIME,
        "recorded_at": UTC_TIME,
    },
)
GOLDEN_LEDGER = Table(
    "golden_ledger",
    "file",
    "a version of a golden case, as the ledger's files hold it",
    {
        "case_id": pl.String,
        "version": pl.Int64,
        "input": pl.String,
        "expected_output": pl.String,
        "origin": pl.String,
        "created_at": UTC_TIME,
        "effective_on": pl.Date,
        "recorded_at": UTC_TIME,
        "is_regression": pl.Boolean,
        "weight": pl.Float64,
        "weight_novelty": pl.Float64,
        "weight_severity": pl.Float64,
        "weight_difficulty": pl.Float64,
        "trace_id": pl.String,
        "session_id": pl.String,
        "occurred_at": UTC_TIME,
        "queued_on": pl.Date,
        "queued_for": pl.String,
        "verdict": pl.String,
        "severity": pl.String,
        "reviewers": pl.List(pl.String),
        "reviewer_kind": pl.String,
        "reviewed_at": UTC_TIME,
        "merged_trace_ids": pl.List(pl.String),
        "retired_on": pl.Date,
        "retired_because": pl.String,
    },
)

TABLES = {
    table.name: table
    for table in (
        LANDING,
        LANDING_FEEDBACK,
        TRACE_FILES,
        QUARANTINE,
        RAW_TRACES,
        FEEDBACK,
        TRACE_SIGNALS,
        STRATIFIED_SAMPLES,
        EMBEDDINGS,
        CLUSTERS,
        TAXONOMY_TEXTS,
        BIN_ASSIGNMENTS,
        COVERAGE_METRICS,
        JUDGE_GRADES,
        QUALITY_METRICS,
        REFRESH_PLAN,
        RETIREMENT_CANDIDATES,
        TRIAGE_QUEUE,
        REVIEWS,
        GOLDEN_LEDGER,
    )
}
