"""Evidence: twelve weeks of real user queries from files to JSD, for several UMAP seeds, checked against the truth.

The folder holds traces-*.jsonl.gz, golden.jsonl.gz, truth.jsonl.gz and facts.json of the banking stream (real queries
of Banking77, PolyAI, CC BY 4.0; the stream around them is simulated).

    python benchmarks/banking_coverage.py FOLDER [--seeds 7 8 9] [--home KEEP_HERE]
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from evalflow.adapters.home import open_home
from evalflow.adapters.tables import BIN_ASSIGNMENTS
from evalflow.defs.coverage import measure_week

UNDER_TESTED_BELOW = 0.5
"""A bin counts as under-tested when its golden share is under half of its production share."""


def main() -> None:
    options = _options()
    folder = Path(options.folder)
    work = Path(options.home or tempfile.mkdtemp(prefix="evalflow-banking-"))
    facts = json.loads((folder / "facts.json").read_text())
    truth = pl.read_ndjson(gzip.decompress((folder / "truth.jsonl.gz").read_bytes()))
    base = work / "base"
    if not base.exists():
        base.mkdir(parents=True)
        (base / "evalflow.toml").write_text("traffic_start = 2026-06-01\ntraffic_end = 2026-08-23\n")
        _evalflow(base, {}, "ingest", f"{folder}/traces-*.jsonl.gz")
        _evalflow(base, {}, "golden", "import", str(folder / "golden.jsonl.gz"))
        # Everything up to the embeddings does not depend on the seed and is shared.
        _evalflow(base, {"EVALFLOW_CLUSTERING__SEED": str(options.seeds[0])}, "run")
    failures = []
    for seed in options.seeds:
        home = work / f"seed-{seed}"
        if not home.exists():
            shutil.copytree(base, home)
            with (home / "evalflow.toml").open("a") as file:
                file.write(f"[clustering]\nseed = {seed}\n")
        _evalflow(home, {}, "run")
        failures += _report(home, seed, facts["intents"]["new_from_week_7"], truth)
    print("every condition holds" if not failures else "MISSED: " + "; ".join(failures))
    sys.exit(1 if failures else 0)


def _report(home: Path, seed: int, new_intents: list[str], truth: pl.DataFrame) -> list[str]:
    workspace = open_home(home)
    weeks = [measure_week(workspace, week) for week in workspace.calendar.weeks()]
    print(f"\nseed {seed}\nweek  from        jsd_raw  traffic  bins  novel  uncovered  taxonomy")
    for number, measured in enumerate(weeks, start=1):
        c = measured.coverage
        mark = " in sample" if measured.taxonomy.is_in_sample else ""
        print(
            f"{number:>4}  {measured.week}  {c.jsd_raw:.4f}   {c.jsd_raw_traffic:.4f}   {len(measured.taxonomy.bins):>3}   "
            f"{c.novel_share:.3f}  {c.uncovered_share:.3f}      {measured.taxonomy.taxonomy_id} on {measured.taxonomy.fitted_on}{mark}"
        )
    jsd = [measured.coverage.jsd_raw or 0.0 for measured in weeks]
    novel = [measured.coverage.novel_share for measured in weeks]
    first_august = next(i for i, m in enumerate(weeks) if m.taxonomy.fitted.key.month == 8)
    seen = _intents_seen(workspace, weeks[: first_august + 1], new_intents, truth)
    held = {
        f"weeks 1 to 6 within .04 (spread {max(jsd[:6]) - min(jsd[:6]):.3f})": max(jsd[:6]) - min(jsd[:6]) <= 0.04,
        "weeks 9 to 12 rise each week": all(a < b for a, b in pairwise(jsd[8:])),
        f"week 12 at least twice week 6 (ratio {jsd[11] / jsd[5]:.2f})": jsd[11] >= 2 * jsd[5],
        f"new intents in a novel, uncovered or under-tested bin: {len(seen)} of {len(new_intents)}": len(seen) >= 12,
        f"novel share before the launch under .02 (largest {max(novel[:6]):.3f})": max(novel[:6]) < 0.02,
        f"novel share about .1 by week 9 ({novel[8]:.3f})": 0.07 <= novel[8] <= 0.15,
    }
    for text, ok in held.items():
        print(f"  {'holds ' if ok else 'MISSED'} {text}")
    return [f"seed {seed}: {text}" for text, ok in held.items() if not ok]


def _intents_seen(workspace: Any, weeks: list[Any], new_intents: list[str], truth: pl.DataFrame) -> set[str]:
    """New intents whose largest share, in some week up to the last given, lies in a bin that shows the hole."""
    seen: set[str] = set()
    for measured in weeks:
        row_of = {row.bin: row for row in measured.coverage.bins}
        shows = {
            name
            for name, row in row_of.items()
            if name == "novel"
            or row.is_uncovered
            or (row.density_ratio is not None and row.density_ratio < UNDER_TESTED_BELOW)
        }
        rows = workspace.lake.read(BIN_ASSIGNMENTS, [measured.week]).filter(pl.col("side") == "production")
        by_intent = (
            rows.join(truth.select("trace_id", "intent"), left_on="item_id", right_on="trace_id")
            .filter(pl.col("intent").is_in(new_intents))
            .group_by("intent", "bin")
            .agg(pl.col("weight").sum())
            .sort("weight", descending=True)
            .unique("intent", keep="first", maintain_order=True)
        )
        seen |= set(by_intent.filter(pl.col("bin").is_in(list(shows)))["intent"])
    return seen


def _evalflow(home: Path, environment: dict[str, str], *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("evalflow")), *arguments, "--home", str(home)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--home", help="keep the homes here, and go on from what is there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
