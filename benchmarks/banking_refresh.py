"""Evidence: a refresh with 80 labels against 80 labels drawn at random, in week 12 of the banking stream.

For each home that banking_coverage.py has left (--home KEEP_HERE): refresh, answers by a scripted reviewer who knows
truth.jsonl.gz, promotion effective 2026-08-24, coverage of the last week with that suite; the published weeks must
stay byte-identical. Beside it suites of the same size drawn at random from production, by design weight. For both,
how many of the 15 new intents have a case, by truth and not by our own bins, and how far the traffic is from its nearest
case. Last the labels that bring raw JSD to .10: by target, with the light quota, and at random.

    python benchmarks/banking_refresh.py FOLDER KEEP_HERE [--seeds 7 8 9] [--budget 80] [--draws 10]
"""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from evalflow.adapters.embedder import Embedder, vectors_of
from evalflow.adapters.home import Home, open_home
from evalflow.adapters.tables import BIN_ASSIGNMENTS, EMBEDDINGS, STRATIFIED_SAMPLES
from evalflow.core.divergence import jsd
from evalflow.core.planning import BinState, Floors, plans_up_to
from evalflow.core.text import text_hash
from evalflow.defs.coverage import WeekCoverage, measure_week

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
        measured = measure_week(workspace, workspace.calendar.weeks()[-1])
        traffic = Traffic(workspace, measured)
        drawn = [traffic.drawn(options.budget, draw) for draw in range(options.draws)]
        values = [traffic.jsd_with(traces) for traces in drawn]
        intents = [len({truth[trace]["intent"] for trace in traces} & new_intents) for traces in drawn]
        ok = after["jsd_raw"] < TARGET and same
        missed += not ok
        print(
            f"seed {seed}: raw JSD {plan['jsd_raw_before']:.3f} -> {after['jsd_raw']:.3f} (plan predicted {plan['jsd_raw_predicted']:.3f}) "
            f"with {plan['queue']['traces']} labels: {done['promoted']} cases, {done['regressions']} regressions, {done['merged']} merged into, "
            f"{done['dismissed']} dismissed; {len(covered)} of {len(new_intents)} new intents; published weeks "
            f"{'byte-identical' if same else 'CHANGED'}\n"
            f"        random, {options.draws} draws: raw JSD {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}), "
            f"{np.mean(intents):.1f} new intents ({min(intents)} to {max(intents)})",
            flush=True,
        )
        distances = [traffic.distance_to([*traffic.suite, *traffic.texts(traces)]) for traces in drawn]
        print(
            f"        mean cosine distance of traffic to its nearest case: {traffic.distance_to(traffic.suite):.3f} before, "
            f"{traffic.distance_to([case.input for case in workspace.ledger.as_of(date.fromisoformat(EFFECTIVE_ON))]):.3f} after, "
            f"{np.mean(distances):.3f} with random labels",
            flush=True,
        )
        fewest, fresh, at_random = labels_to_target(workspace, measured)
        print(
            f"        labels until raw JSD {TARGET:.2f}: {fewest} by target ({fresh} with the light quota), {at_random:.0f} at random "
            f"(mean of {RUNS} runs), ratio {fewest / at_random:.2f} ({fresh / at_random:.2f})",
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


class Traffic:
    """The last week's sample and suite: random labels, and how far traffic is from cases."""

    def __init__(self, home: Home, measured: WeekCoverage) -> None:
        self.home, self.measured = home, measured
        rows = home.lake.read(BIN_ASSIGNMENTS, [measured.week], ["side", "item_id", "text_hash", "bin", "weight"])
        self.production = rows.filter(pl.col("side") == "production")
        self.weight = self.production["weight"].to_numpy()
        self.bin_of = dict(self.production.select("item_id", "bin").iter_rows())
        self.suite = [case.input for case in home.ledger.as_of(measured.golden_as_of)]
        vectors = home.lake.read(EMBEDDINGS, measured.window, ["text_hash", "vector"]).unique("text_hash")
        vector = dict(zip(vectors["text_hash"], vectors_of(vectors["vector"]), strict=True))
        self.vectors = np.stack([vector[key] for key in self.production["text_hash"]])
        text = home.lake.read(STRATIFIED_SAMPLES, measured.window, ["trace_id", "text"])
        self.text_of = dict(text.iter_rows())

    def drawn(self, n: int, seed: int) -> list[str]:
        p = self.weight / self.weight.sum()
        chosen = np.random.default_rng(seed).choice(len(p), n, replace=False, p=p)
        return self.production["item_id"][chosen.tolist()].to_list()

    def texts(self, traces: list[str]) -> list[str]:
        return [self.text_of[trace] for trace in traces]

    def jsd_with(self, traces: list[str]) -> float:
        added = Counter(self.bin_of[trace] for trace in traces)
        bins = self.measured.coverage.bins
        share = np.array([row.production_share for row in bins])
        return jsd(share, np.array([float(row.golden_cases + added[row.bin]) for row in bins]))

    def distance_to(self, inputs: list[str]) -> float:
        found = Embedder(self.home.settings.embedding, self.home.cache).embed(inputs)
        cases = np.stack([found[text_hash(text)] for text in inputs])
        return float(np.average(1 - (self.vectors @ cases.T).max(axis=1), weights=self.weight))


def labels_to_target(home: Home, measured: WeekCoverage) -> tuple[int, int, float]:
    """Labels that bring the last week's raw JSD to the target: the fewest, with the light quota, and at random."""
    bins, settings = measured.coverage.bins, home.settings.refresh
    states = [BinState(row.bin, row.production_share, row.golden_cases, row.is_blind_spot) for row in bins]
    fewest, fresh = (
        plans_up_to(
            settings.max_budget, states, Floors(settings.blind_spot_floor, settings.edge_floor, light)
        ).labels_for(TARGET)
        for light in (0.0, settings.covered_share)
    )
    if fewest is None or fresh is None:
        raise SystemExit(f"raw JSD {TARGET} is out of reach")
    share = np.array([row.production_share for row in bins])
    needed = []
    for seed in range(RUNS):
        rng, counts = np.random.default_rng(seed), np.array([float(row.golden_cases) for row in bins])
        n = 0
        while jsd(share, counts) > TARGET:
            counts[rng.choice(len(share), p=share / share.sum())] += 1
            n += 1
        needed.append(n)
    return fewest, fresh, float(np.mean(needed))


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
