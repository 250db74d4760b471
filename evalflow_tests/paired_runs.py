"""Planted suites whose cases pass and fail together within their families, run twice: a baseline and a candidate."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from evalflow.core.attempts import Attempts
from evalflow.core.families import Families


@dataclass(frozen=True)
class World:
    """Chances to pass, by case; which cases share a family; and how often a family's cases share their luck in a run."""

    chances: np.ndarray
    family: np.ndarray
    together: float

    @property
    def ids(self) -> list[str]:
        return [f"c{position}" for position in range(len(self.chances))]

    @property
    def families(self) -> Families:
        return Families({case_id: f"f{number}" for case_id, number in zip(self.ids, self.family, strict=True)})


def world_of(rng: np.random.Generator, sizes: list[int], together: float, rate: float = 0.85) -> World:
    """Families of the given sizes. Each family has one chance to pass, from Beta(4 rate, 4 (1 - rate)), mean ``rate``."""
    family = np.repeat(np.arange(len(sizes)), sizes)
    return World(rng.beta(4 * rate, 4 * (1 - rate), len(sizes))[family], family, together)


def run_of(rng: np.random.Generator, world: World, attempts: int = 1, lost: float = 0.0) -> np.ndarray:
    """Which attempts at each case passed, shape (cases, attempts). ``lost``: by so much every family's chance is lower.

    In a share ``together`` of the families, drawn anew in each attempt, one number decides for all of their cases.
    """
    chances = np.clip(world.chances - lost, 0.0, 1.0)
    n_families = int(world.family.max()) + 1
    passed = np.zeros((len(chances), attempts), dtype=bool)
    for number in range(attempts):
        shared = rng.random(n_families) < world.together
        luck = np.where(shared[world.family], rng.random(n_families)[world.family], rng.random(len(chances)))
        passed[:, number] = luck < chances
    return passed


def as_attempts(world: World, passed: np.ndarray) -> dict[str, Attempts]:
    return {case_id: Attempts(tuple(map(bool, row))) for case_id, row in zip(world.ids, passed, strict=True)}


def family_sums(world: World, before: np.ndarray, after: np.ndarray) -> list[Fraction]:
    """D_f of every family as the gate takes them: of unequal numbers of attempts the first of the longer run count."""
    k = min(before.shape[1], after.shape[1])
    drops = before[:, :k].sum(axis=1) - after[:, :k].sum(axis=1)
    sums = np.zeros(int(world.family.max()) + 1, dtype=int)
    np.add.at(sums, world.family, drops)
    return [Fraction(int(value), k) for value in sums]
