"""Evidence: the signals grader against the truth of a stream, from the grades of a home that exists.

TRUTH is the stream's truth.jsonl(.gz) with trace_id and is_failure. Positive = failure found: TPR is the share of real
failures that the grader fails, TNR the share of good answers that it passes.

    python benchmarks/signals_grader.py HOME TRUTH
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import polars as pl

from evalflow.adapters.home import open_home
from evalflow.adapters.tables import JUDGE_GRADES
from evalflow.core.grading import SIGNALS_GRADER, weighted_mean
from evalflow.core.intervals import wilson


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="an EVALFLOW_HOME whose judge_grades are computed")
    parser.add_argument("truth", type=Path, help="truth.jsonl or truth.jsonl.gz")
    options = parser.parse_args()
    truth = read_truth(options.truth)
    home = open_home(options.home)
    grades = home.lake.read(JUDGE_GRADES, home.lake.keys(JUDGE_GRADES)).filter(pl.col("grader") == SIGNALS_GRADER)
    if grades.is_empty():
        raise SystemExit(f"{options.home} holds no grades of the signals grader; run `evalflow run` there first.")
    rows = grades.join(truth, on="trace_id", how="inner", maintain_order="left").with_columns(
        weight=1 / pl.col("inclusion_probability")
    )
    if len(rows) != len(grades):
        raise SystemExit(f"{len(grades) - len(rows)} graded traces are not in {options.truth}; give its own truth.")
    print_report(rows, truth)


def read_truth(path: Path) -> pl.DataFrame:
    content = path.read_bytes()
    return pl.read_ndjson(gzip.decompress(content) if path.suffix == ".gz" else content).select(
        "trace_id", "is_failure"
    )


def print_report(rows: pl.DataFrame, truth: pl.DataFrame) -> None:
    scored = rows.filter(pl.col("verdict") != "unscored")
    print(f"{len(rows)} sampled traces of {len(truth)}, grader signals; positive = failure")
    for name, side, verdict in (("TPR", pl.col("is_failure"), "fail"), ("TNR", ~pl.col("is_failure"), "pass")):
        chosen = scored.filter(side)
        weight = chosen["weight"].to_numpy()
        n_kish = float(weight.sum() ** 2 / (weight**2).sum())
        rate = share(chosen, chosen["verdict"] == verdict)
        interval = wilson(rate * n_kish, n_kish)
        print(f"{name} {rate:.3f} [{interval.low:.3f}, {interval.high:.3f}], n {len(chosen)}, Kish {n_kish:.0f}")
    unscored = rows["verdict"] == "unscored"
    print(f"unscored {share(rows, unscored):.3f} of traffic ({int(unscored.sum())} traces)")
    graded, sampled = share(scored, scored["verdict"] == "fail"), share(rows, rows["is_failure"])
    print(f"failure rate as graded {graded:.3f} (Hajek); true: {sampled:.3f} in the sample (Hajek), ", end="")
    print(f"{np.mean(truth['is_failure'].to_numpy()):.3f} over all traces")
    print(
        "The graded rate is raw: it is not corrected for the grader's own errors, and is no estimate of the true one."
    )


def share(rows: pl.DataFrame, hits: pl.Series) -> float:
    """The Hajek mean of ``hits``; NaN without rows."""
    mean = weighted_mean(hits.cast(pl.Float64), rows["weight"])
    return float("nan") if mean is None else mean


if __name__ == "__main__":
    main()
