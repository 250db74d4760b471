"""Evidence: a refresh with 80 labels against 80 labels drawn at random, in week 12 of the banking stream.

For each home that banking_coverage.py has left (--home KEEP_HERE): refresh, answers by a scripted reviewer who knows
truth.jsonl.gz, promotion effective 2026-08-24, coverage of the last week with that suite; the published weeks must
stay byte-identical. Beside it suites of the same size drawn at random from production, by design weight. For both,
how many of the 15 new intents have a case, by truth and not by our own bins.

    python benchmarks/banking_refresh.py FOLDER KEEP_HERE [--seeds 7 8 9] [--budget 80] [--draws 10]
"""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.tables import BIN_ASSIGNMENTS
from evalflow.core.coverage import jsd, measure
from evalflow.core.planning import BinState, Floors, plan_refresh
from evalflow.defs.coverage import measure_week

AS_OF, EFFECTIVE_ON, TARGET = "2026-08-23", "2026-08-24", 0.10
RUNS = 20
PUBLISHED = ("bin_assignments", "coverage_metrics", "clusters", "taxonomy_texts")


def main() -> None:
    options = _options()
    folder = Path(options.folder)
    new_intents = set(json.loads((folder / "facts.json").read_text())["intents"]["new_from_week_7"])
    lines = gzip.decompress((folder / "truth.jsonl.gz").read_bytes()).splitlines()
    truth = {row["trace_id"]: row for row in map(json.loads, lines)}
    missed = 0
    for seed in options.seeds:
        home = Path(options.homes) / f"refreshed-{seed}"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(Path(options.homes) / f"seed-{seed}", home)
        evalflow(home, "run")
        published = _bytes(home)
        plan = evalflow(home, "refresh", "--as-of", AS_OF, "--budget", str(options.budget))
        answers = answered(home, truth)
        evalflow(home, "triage", "import", str(answers))
        done = evalflow(home, "promote", "--effective-on", EFFECTIVE_ON)
        after = evalflow(home, "coverage", "--as-of", AS_OF, "--golden-as-of", EFFECTIVE_ON)
        evalflow(home, "run")
        same = published == _bytes(home)
        workspace = open_home(home)
        promoted = {trace for case in workspace.ledger.newest().values() for trace in case.trace_ids}
        covered = {truth[trace]["intent"] for trace in promoted} & new_intents
        drawn = [_random(workspace, options.budget, draw, truth, new_intents) for draw in range(options.draws)]
        jsd = [value for value, _ in drawn]
        ok = after["jsd_raw"] < TARGET and same
        missed += not ok
        print(
            f"seed {seed}: raw JSD {plan['jsd_raw_before']:.3f} -> {after['jsd_raw']:.3f} (plan predicted {plan['jsd_raw_predicted']:.3f}) "
            f"with {plan['queue']['traces']} labels: {done['promoted']} cases, {done['regressions']} regressions, {done['merged']} merged into, "
            f"{done['dismissed']} dismissed; {len(covered)} of {len(new_intents)} new intents; published weeks "
            f"{'byte-identical' if same else 'CHANGED'}\n"
            f"        random, {options.draws} draws: raw JSD {np.mean(jsd):.3f} ({min(jsd):.3f} to {max(jsd):.3f}), "
            f"{np.mean([n for _, n in drawn]):.1f} new intents ({min(n for _, n in drawn)} to {max(n for _, n in drawn)})",
            flush=True,
        )
        by_plan, at_random = _labels_to_target(workspace)
        print(
            f"        labels until raw JSD {TARGET:.2f}: {by_plan} by the plan, {at_random:.0f} at random (mean of {RUNS} runs), "
            f"ratio {by_plan / at_random:.2f}",
            flush=True,
        )
    print("every condition holds" if not missed else f"MISSED for {missed} seeds")
    sys.exit(1 if missed else 0)


def answered(home: Path, truth: dict[str, dict[str, Any]]) -> Path:
    """The exported queue with the answers of a reviewer who knows the truth."""
    path = home / "answers.jsonl"
    rows = evalflow(home, "triage", "export")
    for row in rows:
        known = truth[row["trace_id"]]
        row["verdict"] = "real_failure" if known["is_failure"] else "not_a_failure"
        row["expected_output"] = known["expected_output"]
        row |= {"severity": "medium", "reviewer": "truth", "reviewer_kind": "script"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evalflow(home: Path, *arguments: str) -> Any:
    """The JSON document of one command, which must end well."""
    command = [str(Path(sys.executable).with_name("evalflow")), *arguments, "--home", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _random(
    home: Home, budget: int, seed: int, truth: dict[str, dict[str, Any]], new_intents: set[str]
) -> tuple[float, int]:
    """Raw JSD and new intents of the old suite with ``budget`` production traces drawn by their weight."""
    week = home.calendar.weeks()[-1]
    measured = measure_week(home, week)
    rows = home.lake.read(BIN_ASSIGNMENTS, [week])
    production, golden = rows.filter(pl.col("side") == "production"), rows.filter(pl.col("side") == "golden")
    weight = production["weight"].to_numpy()
    chosen = np.random.default_rng(seed).choice(len(production), budget, replace=False, p=weight / weight.sum())
    suite = pl.concat([golden, production[chosen.tolist()]])
    value = measure(production, suite, measured.taxonomy.bins, "steady_state", 1.0).jsd_raw
    intents = {truth[trace]["intent"] for trace in production["item_id"][chosen.tolist()]}
    return float(value or 0.0), len(intents & new_intents)


def _labels_to_target(home: Home) -> tuple[int, float]:
    """Labels that bring the last week's raw JSD to the target: by the plan's own prediction, and by random draws."""
    bins = measure_week(home, home.calendar.weeks()[-1]).coverage.bins
    states = [BinState(row.bin, row.production_share, row.golden_cases, row.is_blind_spot) for row in bins]
    settings = home.settings.refresh
    floors = Floors(settings.blind_spot_floor, settings.edge_floor, settings.covered_share)
    by_plan = next(b for b in range(1, 2000) if (plan_refresh(states, b, floors).jsd_predicted or 0.0) <= TARGET)
    share = np.array([row.production_share for row in bins])
    needed = []
    for seed in range(RUNS):
        rng, counts = np.random.default_rng(seed), np.array([float(row.golden_cases) for row in bins])
        n = 0
        while jsd(share, counts) > TARGET:
            counts[rng.choice(len(share), p=share / share.sum())] += 1
            n += 1
        needed.append(n)
    return by_plan, float(np.mean(needed))


def _bytes(home: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for table in PUBLISHED for path in (home / "lake" / table).rglob("*.parquet")}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("homes", help="where banking_coverage.py --home has left its homes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--budget", type=int, default=80)
    parser.add_argument("--draws", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
