"""A trace's signals: what its user and its system did that hints at a failure.

Each is true, false, or null where it cannot be known. Source: docs/methods.md, "Signals".
"""

import polars as pl

from evalflow.core.tool_calls import tool_use

LOW_RATING = 2
"""Ratings of 1 and 2 out of 5 count as a complaint."""
NEGATIVE_SIGNALS = (
    "is_regenerated",
    "is_edited",
    "is_abandoned",
    "is_escalated",
    "is_fallback",
    "is_reported",
    "is_thumbs_down",
    "is_low_rated",
    "is_guardrail_hit",
    "is_schema_failure",
    "is_tool_failure",
    "is_error",
)


def trace_signals(traces: pl.DataFrame, feedback: pl.DataFrame) -> pl.DataFrame:
    """One row of signals per trace.

    Args:
        traces: rows of ``raw_traces``.
        feedback: rows of ``feedback`` that may belong to them; others are passed over.

    Returns:
        The columns of ``trace_signals``, in the order of ``traces``.
    """
    later = _from_feedback(feedback)
    joined = traces.join(later, on="trace_id", how="left", maintain_order="left")
    signals = joined.select(
        "trace_id",
        "session_id",
        "turn_index",
        is_regenerated=pl.col("regenerated"),
        is_edited=pl.col("edited_chars") > 0,
        is_abandoned=pl.col("abandoned"),
        is_escalated=pl.col("escalated"),
        is_fallback=pl.col("fallback"),
        is_reported=_either(pl.col("reported"), pl.col("later_reported")),
        is_thumbs_down=_either(pl.col("thumbs") == "down", pl.col("later_thumbs_down")),
        is_low_rated=_either(pl.col("rating") <= LOW_RATING, pl.col("later_low_rated")),
        is_guardrail_hit=~pl.col("guardrail").is_in(["false", "none", ""]),
        is_schema_failure=~pl.col("schema_valid"),
        is_tool_failure=tool_use(joined["tool_calls"]).n_errors > 0,
        is_error=pl.when(pl.col("error").is_not_null()).then(pl.lit(True)),
        confidence=pl.col("confidence"),
    )
    names = pl.concat_list(
        [pl.when(pl.col(name).fill_null(False)).then(pl.lit(name.removeprefix("is_"))) for name in NEGATIVE_SIGNALS]
    ).list.drop_nulls()
    return signals.with_columns(negative_signals=names).with_columns(
        is_negative=pl.col("negative_signals").list.len() > 0
    )


def _either(now: pl.Expr, later: pl.Expr) -> pl.Expr:
    """True if either says so, null only when neither is known."""
    return pl.coalesce(now | later, now, later)


def _from_feedback(feedback: pl.DataFrame) -> pl.DataFrame:
    """Per trace: whether any later event was a thumbs-down, a low rating or a report."""
    name, value = pl.col("name").str.to_lowercase(), pl.col("value").str.to_lowercase()
    is_thumb = name.is_in(["thumbs", "thumb", "user_feedback"])
    is_rating = name.is_in(["rating", "stars"])
    number = value.cast(pl.Float64, strict=False)
    return (
        feedback.with_columns(
            later_thumbs_down=pl.when(is_thumb).then(
                value.is_in(["down", "false", "thumbs_down"]) | (number <= 0).fill_null(False)
            ),
            later_low_rated=pl.when(is_rating).then(number <= LOW_RATING),
            later_reported=pl.when(name.is_in(["reported", "report"])).then(
                ~(value.is_in(["false", "no"]) | (number == 0).fill_null(False))
            ),
        )
        .group_by("trace_id")
        .agg(pl.col("later_thumbs_down", "later_low_rated", "later_reported").max())
        .sort("trace_id")
    )
