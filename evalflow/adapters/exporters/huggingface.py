"""Hugging Face: a dataset folder, one Parquet file and its card.

Source: docs/formats.md, "Exports for other tools".
"""

import io
import json
from collections import Counter
from typing import Any

import polars as pl

from evalflow.adapters.exporters.case import ExportedCase, ExportedSuite
from evalflow.adapters.exporters.loss import LossReport, fates, flattened, losses, unanswered, unreadable

DATA_FILE = "data/test.parquet"
SHOWN_BINS = 20
COLUMNS: dict[str, tuple[Any, str]] = {
    "case_id": (pl.String, "names the case over all its versions"),
    "version": (pl.Int64, "version of the case, from 1"),
    "input": (pl.String, "what the user asks"),
    "expected_output": (pl.String, "the answer, or what it must do; null: nobody has said"),
    "conversation": (
        pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
        "the turns before the input; empty: it opens its conversation",
    ),
    "origin": (pl.String, "`hand-authored`, `synthetic` or `production`"),
    "created_at": (pl.String, "when the case was made, UTC; null: not known"),
    "effective_on": (pl.String, "the UTC day from which this version counts"),
    "weight": (pl.Float64, "0 to 1: how much the case matters; 1 where nobody has weighed it"),
    "bin": (pl.String, "where the case falls in the taxonomy of the traffic; null: not known"),
    "cluster": (pl.String, "the label of that bin"),
    "slice": (pl.String, "what the tags say about the columns that traffic is stratified by"),
    "is_regression": (pl.Boolean, "frozen from a confirmed failure: a gate lets none of these fail"),
    "is_random_draw": (pl.Boolean, "drawn from the traffic at random"),
    "merged_trace_ids": (pl.List(pl.String), "production traces that asked the same"),
    "n_merged_failures": (pl.Int64, "how many of these failed too"),
    "tags": (pl.String, "JSON"),
    "weight_parts": (pl.String, "JSON: novelty, severity and difficulty with their reasons"),
    "provenance": (pl.String, "JSON: where a case of production comes from and who confirmed it"),
    "metadata": (pl.String, "JSON: anything else, with the conversation where its turns hold more than role and text"),
}
"""Type and meaning by name. What has no fixed shape is JSON text, so that the column has one type in every suite."""
_JSON = ("tags", "weight_parts", "provenance", "metadata")


def files(suite: ExportedSuite) -> dict[str, str | bytes]:
    rows = [_row(case) for case in suite.cases]
    frame = pl.DataFrame(rows, schema={name: kind for name, (kind, _) in COLUMNS.items()})
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return {"README.md": _card(suite), DATA_FILE: buffer.getvalue()}


def loss(suite: ExportedSuite) -> LossReport:
    return LossReport(
        fates({name: f"{name} (JSON text)" if name in _JSON else name for name in COLUMNS}, "", {}),
        losses((unanswered(suite, "expected_output is null"), flattened(suite), unreadable(suite))),
    )


def _row(case: ExportedCase) -> dict[str, Any]:
    kept = case.kept
    if case.loses_in_plain_messages:
        kept["metadata"] = case.version.metadata
    return {
        "input": case.input,
        "expected_output": case.expected_output,
        "conversation": case.plain_messages[:-1],
        **{name: _as_json(value) if name in _JSON else value for name, value in kept.items()},
    }


def _as_json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _card(suite: ExportedSuite) -> str:
    """The dataset card: what the columns mean, what the suite is made of, which day and content it is."""
    origins = Counter(case.version.origin for case in suite.cases)
    bins = Counter((case.bin, case.cluster or "") for case in suite.cases if case.bin)
    n_cases = len(suite.cases)
    lines = [
        "---",
        "pretty_name: Golden set",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: test",
        f"    path: {DATA_FILE}",
        "size_categories:",
        f"- {_size_category(n_cases)}",
        "tags:",
        "- evaluation",
        "---",
        "",
        "# Golden set",
        "",
        f"The suite as it counted on {suite.as_of}: {n_cases:,} cases, written by evalflow.",
        f"Content hash: `{suite.suite_hash}`.",
        "",
        "It is made to test a system, not to train one.",
        "",
        "## Columns",
        "",
        "| column | meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, (_, meaning) in COLUMNS.items()),
        "",
        "## Composition",
        "",
        "| part | cases |",
        "|---|---|",
        *(f"| origin: {origin} | {number:,} |" for origin, number in sorted(origins.items())),
        f"| frozen regressions | {sum(case.version.is_regression for case in suite.cases):,} |",
        f"| with a conversation | {sum(bool(case.conversation) for case in suite.cases):,} |",
        f"| without an expected output | {len(suite.ungraded):,} |",
        f"| without a bin | {sum(case.bin is None for case in suite.cases):,} |",
    ]
    if bins:
        largest = sorted(bins.items(), key=lambda own: (-own[1], own[0]))
        lines += ["", "## Bins", "", "| bin | label | cases |", "|---|---|---|"]
        lines += [f"| {_cell(name)} | {_cell(label)} | {number:,} |" for (name, label), number in largest[:SHOWN_BINS]]
        left = largest[SHOWN_BINS:]
        if left:
            lines.append(f"| {len(left):,} more | | {sum(number for _, number in left):,} |")
    return "\n".join([*lines, ""])


def _size_category(n_cases: int) -> str:
    """The hub's own names for how large a dataset is."""
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in limits if n_cases < limit), "1M<n<10M")


def _cell(text: str) -> str:
    """A label comes from what users wrote: in the card it is text in one cell, neither Markdown nor HTML."""
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    return "".join(f"&#{ord(sign)};" if sign in "&<>|`*_[]()!\\#~$" else sign for sign in plain)
