"""evalflow's own JSONL: every field of every case, and the frozen ones once more in a file of their own.

It imports again unchanged. Source: docs/formats.md, "Golden export".
"""

from typing import Any

import msgspec

from evalflow.adapters.exporters.case import ExportedCase, ExportedSuite, as_lines
from evalflow.adapters.exporters.loss import LossReport, fates

REGRESSIONS_FILE = "regressions.jsonl"
"""Lies beside every exported file and holds its frozen cases alone."""
_MAPPED = (
    "case_id",
    "version",
    "input",
    "expected_output",
    "origin",
    "created_at",
    "effective_on",
    "weight",
    "tags",
    "metadata",
    "bin",
    "is_regression",
    "weight_parts",
    "provenance",
    "merged_trace_ids",
    "n_merged_failures",
    "is_random_draw",
)


def files(suite: ExportedSuite) -> dict[str, str]:
    return {
        "suite.jsonl": as_lines([document(case) for case in suite.cases]),
        REGRESSIONS_FILE: as_lines([document(case) for case in suite.cases if case.version.is_regression]),
    }


def loss(suite: ExportedSuite) -> LossReport:
    mapped = {name: name for name in _MAPPED} | {"conversation": "metadata.conversation"}
    return LossReport(
        fates(
            mapped,
            "",
            {
                "cluster": "it is the label of the bin, which `evalflow coverage` prints",
                "slice": "it is read from the tags",
            },
        ),
        (),
    )


def document(case: ExportedCase) -> dict[str, Any]:
    """The line of one case."""
    return {name: case.bin if name == "bin" else msgspec.to_builtins(getattr(case.version, name)) for name in _MAPPED}
