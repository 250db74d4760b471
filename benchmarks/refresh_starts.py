"""Evidence: labels to raw JSD .10 by the plan and at random, from suites that are wrong in different ways. No data needed.

Traffic: K shares, lognormal. Suites of n cases: a random one that never saw 25 or 40 % of the traffic (whole bins), one
from before a launch of 25 % of the traffic in few bins, one spread evenly over the bins, one random from traffic whose
bins have changed places since. Only suites that start above .11 count. The plan is the one by target, with its floors and
with blind spots as coverage has them; "random" draws production until raw JSD first reaches the target, mean of 20 runs.

    python benchmarks/refresh_starts.py [--worlds 20]
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from evalflow.core.blind_spots import find_blind_spots
from evalflow.core.divergence import jsd
from evalflow.core.inference import EffectiveTraces
from evalflow.core.planning import BinState, Floors, plans_up_to
from evalflow.settings import Refresh

TARGET, RUNS, N_TRACES = 0.10, 20, 3_230
SIZES = ((30, 80), (50, 150), (80, 300))
Suite = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=20)
    worlds = parser.parse_args().worlds
    print(f"{'start':<24}" + "".join(f"K={k}, n={n}".rjust(30) for k, n in SIZES))
    for name, start in STARTS.items():
        print(f"{name:<24}" + "".join(_cell(start, k, n, worlds).rjust(30) for k, n in SIZES), flush=True)
    share, cases = with_hole(np.random.default_rng(0), 80, 300, 0.25)
    begun = time.process_time()
    plans_up_to(1000, _states(share, cases), FLOORS)
    print(f"all plans of up to 1,000 labels over 80 bins: {time.process_time() - begun:.2f} s")


def with_hole(rng: np.random.Generator, n_bins: int, n: int, hole: float) -> Suite:
    share = _shares(rng, n_bins)
    untested = np.zeros(n_bins, dtype=bool)
    for i in rng.permutation(n_bins):
        untested[i] = share[untested].sum() + share[i] <= hole + 0.01
    tested = np.where(untested, 0.0, share)
    return share, rng.multinomial(n, tested / tested.sum())


def before_launch(rng: np.random.Generator, n_bins: int, n: int) -> Suite:
    n_new = n_bins // 10
    old, new = _shares(rng, n_bins - n_new), _shares(rng, n_new)
    cases = np.concatenate([rng.multinomial(n, old), np.zeros(n_new, dtype=int)])
    return np.concatenate([0.75 * old, 0.25 * new]), cases


def flat(rng: np.random.Generator, n_bins: int, n: int) -> Suite:
    return _shares(rng, n_bins), np.full(n_bins, n // n_bins)


def re_ranked(rng: np.random.Generator, n_bins: int, n: int) -> Suite:
    share = _shares(rng, n_bins)
    return share, rng.multinomial(n, rng.permutation(share))


STARTS: dict[str, Callable[[np.random.Generator, int, int], Suite]] = {
    "hole of 25 %": lambda rng, k, n: with_hole(rng, k, n, 0.25),
    "hole of 40 %": lambda rng, k, n: with_hole(rng, k, n, 0.40),
    "launch of 25 %": before_launch,
    "flat suite": flat,
    "re-ranked traffic": re_ranked,
}
FLOORS = Floors(Refresh().blind_spot_floor, Refresh().edge_floor, 0.0)


def _cell(start: Callable[[np.random.Generator, int, int], Suite], n_bins: int, n: int, worlds: int) -> str:
    """Mean JSD at the start, labels by the plan / at random, and their ratio, over the worlds."""
    found = []
    for seed in range(worlds):
        rng = np.random.default_rng([seed, n_bins, n])
        share, cases = start(rng, n_bins, n)
        if jsd(share, cases) <= TARGET + 0.01:
            continue
        found.append((jsd(share, cases), _by_plan(share, cases), _at_random(rng, share, cases)))
    if not found:
        return "no suite above .11"
    before, by_plan, at_random = np.mean(found, axis=0)
    return f"{before:.2f}: {by_plan:.0f} / {at_random:.0f} = {by_plan / at_random:.2f} ({len(found)})"


def _by_plan(share: np.ndarray, cases: np.ndarray) -> int:
    for most in (200, 2_000):
        needed = plans_up_to(most, _states(share, cases), FLOORS).labels_for(TARGET)
        if needed is not None:
            return needed
    raise SystemExit(f"{TARGET} is out of reach for {len(share)} bins and {cases.sum()} cases")


def _at_random(rng: np.random.Generator, share: np.ndarray, cases: np.ndarray) -> float:
    needed = []
    for _ in range(RUNS):
        counts, n = cases.astype(float), 0
        while jsd(share, counts) > TARGET:
            counts[rng.choice(len(share), p=share)] += 1
            n += 1
        needed.append(n)
    return float(np.mean(needed))


def _states(share: np.ndarray, cases: np.ndarray) -> list[BinState]:
    blind = find_blind_spots(cases, share, EffectiveTraces(N_TRACES, np.full(len(share), float(N_TRACES)))).is_blind
    return [
        BinState(f"c{i:02d}", float(p), int(n), bool(is_blind))
        for i, (p, n, is_blind) in enumerate(zip(share, cases, blind, strict=True))
    ]


def _shares(rng: np.random.Generator, n_bins: int) -> np.ndarray:
    share = rng.lognormal(0, 1, n_bins)
    return share / share.sum()


if __name__ == "__main__":
    main()
