"""Evidence: the shift that a year made in a public benchmark, explained by bins.

The prompts of Arena-Hard v0.1 (2024) are the golden set, those of v2.0 (2025) the traffic. The folder is the data folder
of lmarena/arena-hard-auto (Apache-2.0), with arena-hard-v0.1/question.jsonl and arena-hard-v2.0/question.jsonl.

    python benchmarks/arena_hard.py FOLDER [--home KEEP_HERE]

Neither file has timestamps: the prompts of v2.0 are spread over four weeks in the order of their ids, and those of v0.1
count from the day before. The taxonomy is therefore fitted on the traffic itself (in sample).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

FIRST, DAYS = datetime(2025, 4, 7, tzinfo=UTC), 28
SHOWN = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--home", type=Path, help="keep the home here")
    options = parser.parse_args()
    work = options.home or Path(tempfile.mkdtemp(prefix="evalflow-arena-"))
    old = _rows(options.folder / "arena-hard-v0.1" / "question.jsonl")
    new = _rows(options.folder / "arena-hard-v2.0" / "question.jsonl")
    if not (work / "evalflow.toml").exists():
        _land(work, old, new)
    measured = json.loads(_evalflow(work, "coverage", "--json", "--as-of", "2025-05-04"))
    _report(work, measured, {row["uid"]: row for row in old}, {row["uid"]: row for row in new})


def _land(work: Path, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    (work / "evalflow.toml").write_text("traffic_start = 2025-04-07\ntraffic_end = 2025-05-04\n")
    step = timedelta(days=DAYS) / len(new)
    traces = [
        {"trace_id": row["uid"], "timestamp": (FIRST + number * step).isoformat(), "input": row["prompt"]}
        for number, row in enumerate(sorted(new, key=lambda row: row["uid"]))
    ]
    cases = [
        {"case_id": row["uid"], "input": row["prompt"], "origin": "production", "created_at": "2025-04-06T00:00:00Z"}
        for row in old
    ]
    for name, rows in (("traces.jsonl", traces), ("golden.jsonl", cases)):
        (work / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    _evalflow(work, "ingest", str(work / "traces.jsonl"))
    _evalflow(work, "golden", "import", str(work / "golden.jsonl"))
    _evalflow(work, "run")


def _report(work: Path, measured: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> None:
    from evalflow.adapters.home import open_home
    from evalflow.adapters.tables import BIN_ASSIGNMENTS

    rows = open_home(work).lake.read(BIN_ASSIGNMENTS, [open_home(work).calendar.weeks()[-1]])
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for name, bin in rows.filter(pl.col("side") == "production").select("item_id", "bin").iter_rows():
        kinds[bin][new[name]["subcategory"]] += 1
    topics: dict[str, Counter[str]] = defaultdict(Counter)
    for name, bin in rows.filter(pl.col("side") == "golden").select("item_id", "bin").iter_rows():
        topics[bin][old[name]["cluster"]] += 1
    print(
        f"{measured['n_golden']} prompts of v0.1 against {measured['n_sampled']} of v2.0, "
        f"{measured['taxonomy']['n_bins']} bins\n"
    )
    print(
        f"JSD {measured['jsd']:.3f} [{measured['jsd_low']:.3f}, {measured['jsd_high']:.3f}], "
        f"raw {measured['jsd_raw']:.3f}; random suites of this size {measured['floor_mean']:.3f} "
        f"(95 of 100 below {measured['floor_p95']:.3f}), p {measured['jsd_p_value']:.2g}; "
        f"reason: {measured['jsd_reason']}"
    )
    print(
        f"uncovered {measured['uncovered_share']:.1%} (floor {measured['uncovered_floor_mean']:.1%}, "
        f"p99 {measured['uncovered_floor_p99']:.1%})\n"
    )
    for alarm in measured["alarms"]:
        print(f"- {alarm['kind']}: {alarm['text']}")
    print(
        "\n| bin | label | v2.0 | v0.1 | JSD term | | v2.0 prompts are | v0.1 prompts are "
        "|\n|---|---|---|---|---|---|---|---|"
    )
    for row in sorted(measured["bins"], key=lambda row: -row["jsd_term"])[:SHOWN]:
        side = "under-tested" if row["golden_share"] < row["production_share"] else "over-tested"
        made_of = ", ".join(f"{n} {kind}" for kind, n in kinds[row["bin"]].most_common(2))
        asked = "; ".join(topic for topic, _ in topics[row["bin"]].most_common(2))
        print(
            f"| {row['bin']} | {row['label']} | {row['production_share']:.1%} | {row['golden_share']:.1%} "
            f"| {row['jsd_term']:.4f} | {'blind spot' if row['is_blind_spot'] else side} | "
            f"{made_of} | {asked} |"
        )
    creative = {
        row["bin"] for row in measured["bins"] if row["density_ratio"] is not None and row["density_ratio"] < 0.5
    }
    n_creative = sum(count["creative_writing"] for count in kinds.values())
    seen = sum(kinds[bin]["creative_writing"] for bin in creative)
    other = sum(count.total() for count in kinds.values()) - n_creative
    seen_other = sum(kinds[bin].total() - kinds[bin]["creative_writing"] for bin in creative)
    from_creative = sum(
        row["jsd_term"]
        for row in measured["bins"]
        if kinds[row["bin"]]["creative_writing"] > kinds[row["bin"]].total() / 2
    )
    print(
        f"\nThe known change is creative writing, which v0.1 has no category for: {seen} of "
        f"its {n_creative} prompts lie in bins with under half of their due of cases, of the "
        f"others {seen_other} of {other}; bins that are mostly creative writing make {from_creative / measured['jsd_raw']:.0%} "
        "of raw JSD."
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _evalflow(home: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("evalflow")), *arguments, "--home", str(home)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout


if __name__ == "__main__":
    main()
