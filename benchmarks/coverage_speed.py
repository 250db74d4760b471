"""How long a week's coverage takes with all of its inference: 80 bins, 1,000 golden cases, 9,000 sampled traces.

    python benchmarks/coverage_speed.py

Prints the time of the whole measurement beside that of the plain divergence on the same rows, as a ratio in one run. All
cases are drawn at random, so that the estimate of their source, the dearest part, is made too.
"""

import statistics
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evalflow.core.coverage import Limits, measure
from evalflow.core.divergence import jsd
from evalflow_tests.windows import WEEK, golden, production, shares

K, N_CASES, N_TRACES, REPEATS = 80, 1000, 9000, 7


def main() -> None:
    rng = np.random.default_rng(1)
    names = [f"c{i:02d}" for i in range(K)]
    p = shares(rng, K)
    sessions = np.sort(rng.integers(0, 4_100, N_TRACES))
    bins = rng.choice(names, N_TRACES, p=p).tolist()
    days = [WEEK + timedelta(days=int(d)) for d in rng.integers(-21, 7, N_TRACES)]
    rows = production(bins, rng.choice([1.0, 3.0], N_TRACES), [f"s{s}" for s in sessions], day=days)
    cases = golden(rng.choice(names, N_CASES, p=p).tolist(), is_random_draw=True)
    labels = {name: name for name in names}
    limits = Limits(0.25, 90)
    whole, plain = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        measured = measure(rows, cases, labels, "traffic", limits, WEEK, novel_calibration=0.03)
        whole.append(time.perf_counter() - start)
        start = time.perf_counter()
        share = rows.group_by("bin").agg(w=rows["weight"].sum()).join(cases.group_by("bin").len(), on="bin", how="full")
        jsd(share["w"].fill_null(0).to_numpy(), share["len"].fill_null(0).to_numpy())
        plain.append(time.perf_counter() - start)
    assert measured.jsd_source is not None
    print(f"{K} bins, {N_CASES:,} golden cases, {N_TRACES:,} sampled traces in {len(set(sessions)):,} sessions")
    print(
        f"coverage with all inference: median {statistics.median(whole):.2f} s, slowest {max(whole):.2f} s (target: under 2 s)"
    )
    print(
        f"the plain divergence alone: {1000 * statistics.median(plain):.1f} ms, a ratio of {statistics.median(whole) / statistics.median(plain):,.0f}"
    )


if __name__ == "__main__":
    main()
