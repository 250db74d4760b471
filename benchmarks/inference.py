"""Is what evalflow says of a JSD true as often as it claims? Simulations with planted truth, more of them than the tests make.

    python benchmarks/inference.py [--runs 400]

Production is clustered in sessions and of unequal weight; suites are drawn at random unless said otherwise. Prints the
tables of docs/evidence.md. About fifteen minutes on two cores with 400 runs.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evalflow.core.alarms import DRIFT_P
from evalflow.core.blind_spots import find_blind_spots
from evalflow.core.divergence import jsd
from evalflow.core.inference import (
    bootstrap_shares,
    effective_size,
    headline,
    jackknife,
    size_floor,
    source_estimate,
)
from evalflow_tests.windows import clustered_mass, moved, shares

BINS, CASES = (20, 40, 80), (50, 100, 200, 400)
DISTANCES = (0.0, 0.01, 0.03, 0.08, 0.25)


def families_of(counts: np.ndarray) -> np.ndarray:
    return np.repeat(np.eye(len(counts), dtype=int), counts, axis=0)


def headline_cover(k: int, distance: float, runs: int) -> float:
    rng = np.random.default_rng([1, k, int(1000 * distance)])
    held = 0
    for _ in range(runs):
        p = shares(rng, k)
        q = moved(rng, p, distance) if distance else p
        mass = clustered_mass(rng, p)
        found = headline(mass.sum(axis=0), q, bootstrap_shares(mass, 400), len(mass))
        held += found.low <= jsd(p, q) <= found.high
    return held / runs


def source(k: int, n: int, distance: float, runs: int) -> tuple[float, float, float]:
    """Bias of the jackknife, cover of the source's interval, cover of the headline's on random suites."""
    rng = np.random.default_rng([2, k, n, int(1000 * distance)])
    bias, held, held_headline = [], 0, 0
    for _ in range(runs):
        p = shares(rng, k)
        drawn_from = moved(rng, p, distance) if distance else p
        mass = clustered_mass(rng, p)
        seen, counts, resampled = mass.sum(axis=0), rng.multinomial(n, drawn_from), bootstrap_shares(mass, 200)
        truth = jsd(p, drawn_from)
        bias.append(jackknife(seen, families_of(counts), resampled).value - truth)
        found = source_estimate(seen, families_of(counts), effective_size(mass).overall, resampled)
        held += found.low - 1e-9 <= truth <= found.high
        suite = headline(seen, counts / n, resampled, len(mass))
        held_headline += suite.low <= jsd(p, counts) <= suite.high
    return float(np.mean(bias)), held / runs, held_headline / runs


def null_size(k: int, n: int, runs: int) -> float:
    rng = np.random.default_rng([3, k, n])
    rejected = 0
    for _ in range(runs):
        p = shares(rng, k)
        mass = clustered_mass(rng, p)
        rejected += (
            size_floor(mass.sum(axis=0), rng.multinomial(n, p) / n, n, effective_size(mass).overall).p_value <= 0.05
        )
    return rejected / runs


def false_alarms(k: int, n: int, pairs: int) -> tuple[int, int, int]:
    """Of independent null pairs: above .25, called drift, and with a blind spot."""
    rng = np.random.default_rng([4, k, n])
    n_above = n_drift = n_blind = 0
    for _ in range(pairs):
        p = shares(rng, k)
        mass = clustered_mass(rng, p)
        seen, counts, m_eff = mass.sum(axis=0), rng.multinomial(n, p), effective_size(mass)
        n_blind += bool(find_blind_spots(counts, seen, m_eff).is_blind.any())
        if jsd(seen, counts) > 0.25 and headline(seen, counts / n, bootstrap_shares(mass, 400), len(mass)).value > 0.25:
            n_above += 1
            n_drift += size_floor(seen, counts / n, n, m_eff.overall).p_value <= DRIFT_P
    return n_above, n_drift, n_blind


def quota_suite(k: int, n: int, distance: float, runs: int) -> tuple[int, int, float]:
    """A suite filled by quota whose traffic has moved: how often it fires, how often as drift, what the jackknife would read."""
    rng = np.random.default_rng([5, k, n])
    fired, n_drift, jackknifed = 0, 0, []
    for _ in range(runs):
        p = shares(rng, k)
        counts = np.floor(n * p).astype(int)
        counts[np.argsort(counts - n * p)[: n - counts.sum()]] += 1
        mass = clustered_mass(rng, moved(rng, counts / n, distance))
        seen, resampled = mass.sum(axis=0), bootstrap_shares(mass, 400)
        found = headline(seen, counts / n, resampled, len(mass))
        floor = size_floor(seen, counts / n, n, effective_size(mass).overall)
        fired += found.value > 0.25
        n_drift += found.value > 0.25 and floor.p_value <= DRIFT_P
        jackknifed.append(jackknife(seen, families_of(counts), resampled).value)
    return fired, n_drift, float(np.mean(jackknifed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args().runs
    with ProcessPoolExecutor(2) as pool:
        covers = {(k, d): pool.submit(headline_cover, k, d, runs) for k in BINS for d in DISTANCES[1:]}
        sources = {
            (k, n, d): pool.submit(source, k, n, d, max(runs // 4, 10))
            for k in BINS
            for n in CASES
            for d in (0.0, 0.08, 0.25)
        }
        sizes = {(k, n): pool.submit(null_size, k, n, runs) for k in BINS for n in CASES}
        nulls = {(k, n): pool.submit(false_alarms, k, n, 1000) for k in (40, 55, 80) for n in (k, 2 * k, 4 * k)}
        quota = pool.submit(quota_suite, 80, 100, 0.31, 100)

        print(f"Cover of the headline's 95 % interval, {runs} runs each, by true JSD\n")
        print("| bins | " + " | ".join(f"{d:g}" for d in DISTANCES[1:]) + " |\n|---" * 1 + "|---" * 4 + "|")
        for k in BINS:
            print(f"| {k} | " + " | ".join(f"{covers[k, d].result():.3f}" for d in DISTANCES[1:]) + " |")
        print(
            f"\nSources, {max(runs // 4, 10)} runs each: bias of the jackknife; cover of the source's interval; of the headline's\n"
        )
        print("| bins | cases | source at 0 | at .08 | at .25 |\n|---|---|---|---|---|")
        for k in BINS:
            for n in CASES:
                cells = [sources[k, n, d].result() for d in (0.0, 0.08, 0.25)]
                print(f"| {k} | {n} | " + " | ".join(f"{b:+.3f}; {c:.2f}; {h:.2f}" for b, c, h in cells) + " |")
        print(f"\nRandom suites called none at a nominal 5 %, {runs} runs each\n")
        print("| bins | " + " | ".join(f"n = {n}" for n in CASES) + " |\n|---" + "|---" * 4 + "|")
        for k in BINS:
            print(f"| {k} | " + " | ".join(f"{sizes[k, n].result():.3f}" for n in CASES) + " |")
        print("\n1,000 independent pairs of a random suite and a window: above .25; called drift; with a blind spot\n")
        print("| bins | n = k | n = 2 k | n = 4 k |\n|---|---|---|---|")
        for k in (40, 55, 80):
            cells = [nulls[k, n].result() for n in (k, 2 * k, 4 * k)]
            print(f"| {k} | " + " | ".join(f"{a}; {d}; {b}" for a, d, b in cells) + " |")
        fired, n_drift, jackknifed = quota.result()
        print("\n100 quota-filled suites of 100 cases over 80 bins, traffic moved to JSD .31: ", end="")
        print(f"{fired} fire, {n_drift} as drift; the jackknife would have read {jackknifed:.2f}")


if __name__ == "__main__":
    main()
