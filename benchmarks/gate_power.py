"""Is the gate right as often as it says? Simulations with planted truth, more of them than the tests make.

    python benchmarks/gate_power.py [--runs 2000]

Suites of 200 cases in families whose cases pass and fail together; chances to pass from a Beta distribution with mean .85.
Every share comes with its Monte Carlo error. Prints the tables of docs/evidence.md. About ten minutes with 2,000 runs.
"""

import argparse
import sys
from collections import Counter
from fractions import Fraction
from math import sqrt
from pathlib import Path

import numpy as np
from scipy.stats import binom, norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evalflow.core.attempts import attempts_of
from evalflow.core.families import Families
from evalflow.core.gate import decide
from evalflow.core.intervals import wilson
from evalflow.core.pairing import WORSE_P, compare, detectable_drop, sign_flips
from evalflow.core.score import SuiteCase
from evalflow_tests.paired_runs import World, as_attempts, family_sums, run_of, world_of

SUITES = {
    "200 x 1": [1] * 200,
    "50 x 4": [4] * 50,
    "40 x 5": [5] * 40,
    "20 x 10": [10] * 20,
    "5 x 20 + 50 x 2": [20] * 5 + [2] * 50,
    "1 x 40 + 160 x 1": [40] + [1] * 160,
}
TOGETHER = (0.0, 0.5, 1.0)
LIMIT = 0.1


def share(hits: float, runs: int) -> str:
    p = hits / runs
    return f"{p:.3f} +- {sqrt(max(p * (1 - p), 1 / runs) / runs):.3f}"


def false_fails(runs: int) -> None:
    """Equal candidates: how often a test at 5 % calls them worse."""
    print(
        "\n| equal candidates, 200 cases | cases together | attempts | gate fails | pooled McNemar |\n|---|---|---|---|---|"
    )
    for name, sizes in SUITES.items():
        for together in TOGETHER:
            for before, after in ((1, 1), (3, 3), (1, 3)):
                rng = np.random.default_rng([1, len(sizes), int(10 * together), before, after])
                ours = pooled = 0
                for _ in range(runs):
                    world = world_of(rng, sizes, together)
                    ran = [run_of(rng, world, before), run_of(rng, world, after)]
                    ours += sign_flips(family_sums(world, *ran)).p_value <= WORSE_P
                    drops = ran[0].mean(axis=1) - ran[1].mean(axis=1)
                    pooled += mcnemar(int((drops > 0).sum()), int((drops < 0).sum())) <= WORSE_P
                beside = share(pooled, runs) if before == after else ""
                print(f"| {name} | {together:.0%} | {before} and {after} | {share(ours, runs)} | {beside} |")


def mcnemar(regressions: int, fixes: int) -> float:
    return float(binom.sf(regressions - 1, regressions + fixes, 0.5))


def power(runs: int) -> None:
    """200 single cases, 12 expected regressions and 3 expected fixes, for four pass rates of the baseline."""
    print("\n| 12 regressions and 3 fixes expected in 200, baseline passes | paired | unpaired |\n|---|---|---|")
    for rate in (0.7, 0.8, 0.85, 0.9):
        rng = np.random.default_rng([2, int(100 * rate)])
        paired = unpaired = 0
        for _ in range(runs):
            baseline, candidate = planted(rng, 200, rate, 12 / 200, 3 / 200)
            paired += compare(baseline, attempts_of(candidate), attempts_of(baseline), Families({}), LIMIT).is_worse
            unpaired += two_proportions(sum(baseline.values()), sum(candidate.values()), 200) <= WORSE_P
        print(f"| {rate:.0%} | {share(paired, runs)} | {share(unpaired, runs)} |")


def planted(
    rng: np.random.Generator, n: int, rate: float, regressions: float, fixes: float
) -> tuple[dict[str, bool], dict[str, bool]]:
    """Two runs with the given shares of all cases expected to regress and to be fixed."""
    before = rng.random(n) < rate
    u = rng.random(n)
    after = np.where(before, u >= regressions / rate, u < fixes / (1 - rate))
    ids = [f"c{position}" for position in range(n)]
    return dict(zip(ids, map(bool, before), strict=True)), dict(zip(ids, map(bool, after), strict=True))


def two_proportions(before: int, after: int, n: int) -> float:
    """One-sided z-test that takes the runs as independent samples."""
    pooled = (before + after) / (2 * n)
    return float(norm.sf((before - after) / n / sqrt(max(2 * pooled * (1 - pooled) / n, 1e-12))))


def verdicts(runs: int) -> None:
    """What the whole gate says; a pass of a candidate that is worse by the limit is the error that the limit is about."""
    print("\n| cases | noise | candidate | pass | cannot tell | fail |\n|---|---|---|---|---|---|")
    for n in (60, 100, 140, 200, 400):
        for noise in (0.04, 0.1, 0.2):
            for drop in (0.0, LIMIT):
                rng = np.random.default_rng([3, n, int(100 * noise), int(100 * drop)])
                found: Counter[str] = Counter()
                for _ in range(runs // 4):
                    baseline, candidate = planted(rng, n, 0.85, noise / 2 + drop, noise / 2)
                    found[gated(baseline, candidate)] += 1
                row = " | ".join(share(found[kind], runs // 4) for kind in ("pass", "cannot tell", "fail"))
                print(f"| {n} | {noise} | {'equal' if not drop else f'worse by {drop}'} | {row} |")


def gated(baseline: dict[str, bool], candidate: dict[str, bool]) -> str:
    suite = [SuiteCase(case_id, False, "all") for case_id in baseline]
    return decide(
        suite,
        attempts_of(candidate),
        {"all": 1.0},
        0.0,
        0.5,
        baseline=attempts_of(baseline),
        max_detectable_drop=LIMIT,
    ).verdict


def detectable(runs: int) -> None:
    """Families that drop as a whole by exactly the printed detectable drop: it should be found in 80 % or more."""
    print("\n| families | noise | detectable drop | found |\n|---|---|---|---|")
    for name, sizes in SUITES.items():
        for noise in (0.0, 0.04, 0.1):
            rng = np.random.default_rng([4, len(sizes), int(100 * noise)])
            n, total = len(sizes), sum(sizes)
            clumping = n * sum(size * size for size in sizes) / total**2
            drop = steady_drop(n, noise, clumping)
            if drop is None or drop + noise > 1:
                print(f"| {name} | {noise} | none | |")
                continue
            found = 0
            for _ in range(runs):
                moves = rng.choice([1, -1, 0], n, p=[noise / 2 + drop, noise / 2, 1 - noise - drop])
                sums = [Fraction(int(move) * size) for move, size in zip(moves, sizes, strict=True)]
                found += sign_flips(sums).p_value <= WORSE_P
            print(f"| {name} | {noise} | {drop:.3f} | {share(found, runs)} |")


def steady_drop(n: int, noise: float, clumping: float) -> float | None:
    """The drop that is its own detectable drop, with the noise that it makes itself."""
    drop = detectable_drop(n, noise * clumping, clumping)
    for _ in range(100):
        if drop is None:
            return None
        drop = detectable_drop(n, min((noise + drop) * clumping, clumping), clumping)
    return drop


def cover(runs: int) -> None:
    """How often the 95 % interval of the pass rate holds the expected pass rate of suites like this one."""
    print(
        "\n| families | cases together | attempts | gate | Wilson over cases | Wilson over attempts |\n|---|---|---|---|---|---|"
    )
    for name, sizes in SUITES.items():
        for together in TOGETHER:
            for attempts in (1, 5):
                rng = np.random.default_rng([5, len(sizes), int(10 * together), attempts])
                held = [0, 0, 0]
                for _ in range(runs):
                    world = world_of(rng, sizes, together)
                    passed = run_of(rng, world, attempts)
                    for position, (low, high) in enumerate(intervals(world, passed, attempts)):
                        held[position] += low <= 0.85 <= high
                row = " | ".join(share(count, runs) for count in held)
                print(f"| {name} | {together:.0%} | {attempts} | {row} |")


def intervals(world: World, passed: np.ndarray, attempts: int) -> list[tuple[float, float]]:
    suite = [SuiteCase(case_id, False, "all") for case_id in world.ids]
    tried = as_attempts(world, passed)
    gate = decide(suite, tried, {"all": 1.0}, 0.0, 0.0, families=world.families).suite.interval
    n, total = len(passed), int(passed.sum())
    return [gate, wilson(total / attempts, n), wilson(total, n * attempts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2_000)
    runs = parser.parse_args().runs
    false_fails(runs)
    power(runs)
    verdicts(runs)
    detectable(runs)
    cover(runs)


if __name__ == "__main__":
    main()
