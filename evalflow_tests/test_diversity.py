"""Which traces fill a quota: they reach what no case reaches, not what next to nobody asks, and always the same."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from evalflow.core import diversity
from evalflow.core.diversity import choose

DIMENSIONS = 32


def around(centre: np.ndarray, n: int, rng: np.random.Generator, spread: float = 0.5) -> np.ndarray:
    """n unit vectors about a direction, at a cosine distance of about .1 from it."""
    return unit(centre + spread * unit(rng.normal(size=(n, DIMENSIONS))))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def from_known(vectors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Cosine distance of each vector to the nearest known one; infinite without any."""
    return (1 - vectors @ known.T).min(axis=1) if len(known) else np.full(len(vectors), np.inf)


def chosen(
    vectors: np.ndarray, known: np.ndarray, wanted: int, mass: np.ndarray | None = None, refused: Sequence[int] = ()
) -> list[int]:
    mass = np.full(len(vectors), 1 / len(vectors)) if mass is None else mass
    return choose(
        vectors,
        mass=mass,
        single=mass,
        distance=from_known(vectors, known),
        rank=np.arange(len(vectors)),
        wanted=wanted,
        accept=lambda i: i not in refused,
    )


@pytest.fixture(scope="module")
def bin_of_three() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of a bin with topics of 60, 40 and 30 traces and ten outliers, their topics (-1), and a case in topic 0."""
    rng = np.random.default_rng(4)
    centres = unit(rng.normal(size=(3, DIMENSIONS)))
    topics = np.repeat([0, 1, 2], [60, 40, 30])
    parts = [around(centres[topic], int((topics == topic).sum()), rng) for topic in range(3)]
    outliers = unit(rng.normal(size=(10, DIMENSIONS)))
    mixed = rng.permutation(140)
    vectors = np.concatenate([*parts, outliers])[mixed]
    return vectors, np.concatenate([topics, np.full(10, -1)])[mixed], around(centres[0], 1, rng, spread=0.1)


def test_two_labels_go_to_the_two_topics_that_have_no_case(
    bin_of_three: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """The largest topic has one; the most typical trace of the bin would repeat it."""
    vectors, topics, known = bin_of_three
    assert topics[chosen(vectors, known, 2)].tolist() == [1, 2]


def test_without_any_case_each_topic_gets_one_label_the_largest_first(
    bin_of_three: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    vectors, topics, _ = bin_of_three
    assert topics[chosen(vectors, np.empty((0, DIMENSIONS)), 3)].tolist() == [0, 1, 2]


def test_an_outlier_is_not_chosen_before_a_topic_however_far_it_is_and_whatever_it_weighs(
    bin_of_three: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """A trace that was sampled with a small chance weighs as much as a whole topic, and resembles nothing all the same."""
    vectors, topics, known = bin_of_three
    distance = from_known(vectors, known)
    assert distance[topics == -1].mean() > 0.9, "the farthest of all"
    mass = np.ones(len(vectors))
    mass[np.flatnonzero(topics == -1)[0]] = 40
    assert topics[chosen(vectors, known, 2, mass)].tolist() == [1, 2]


def test_what_stands_for_more_traffic_comes_first() -> None:
    """Two topics alike but for their mass: ten traces of a heavy one against thirty of a light one."""
    rng = np.random.default_rng(8)
    heavy, light = unit(rng.normal(size=(2, DIMENSIONS)))
    vectors = np.concatenate([around(light, 30, rng), around(heavy, 10, rng)])
    mass = np.repeat([0.01, 0.07], [30, 10])
    assert chosen(vectors, np.empty((0, DIMENSIONS)), 1, mass)[0] >= 30
    assert chosen(vectors, np.empty((0, DIMENSIONS)), 1)[0] < 30


def test_a_text_that_many_ask_word_for_word_is_no_outlier() -> None:
    """Far from all else, one trace each: the one text stands for itself alone, the other for nine more."""
    vectors = np.concatenate([np.eye(4)[:2], np.repeat(np.eye(4)[2:3], 5, axis=0)])
    vectors[3:, 3] = np.arange(4) / 10  # a loose topic of five
    vectors = unit(vectors)
    mass, single = np.array([1.0, 10, 1, 1, 1, 1, 1]), np.ones(7)
    picked = choose(vectors, mass, single, np.ones(7), np.arange(7), 3, lambda i: True)
    assert picked[0] == 1
    assert picked[1] >= 2
    assert 0 not in picked


def test_cases_end_nearer_to_the_traffic_than_by_a_draw_in_proportion_to_it() -> None:
    """Twelve topics of very unequal size, four with a case. Eight labels: mean distance of the bin's mass to the nearest
    known input, against the mean of 50 weighted draws without replacement.
    """
    rng = np.random.default_rng(2)
    sizes = np.array([120, 90, 60, 50, 40, 35, 30, 25, 20, 15, 10, 5])
    centres = unit(rng.normal(size=(12, DIMENSIONS)))
    vectors = np.concatenate([around(centres[i], size, rng) for i, size in enumerate(sizes)])
    mass = rng.uniform(0.5, 1.5, len(vectors))
    known = around(centres[:4], 4, rng)

    def left(picked: Sequence[int]) -> float:
        return float(np.average(from_known(vectors, np.concatenate([known, vectors[list(picked)]])), weights=mass))

    drawn = [left(rng.choice(len(vectors), 8, replace=False, p=mass / mass.sum())) for _ in range(50)]
    assert left(chosen(vectors, known, 8, mass)) < 0.75 * np.mean(drawn)
    assert left(chosen(vectors, known, 8, mass)) < min(drawn)


def plain_greedy(vectors: np.ndarray, mass: np.ndarray, known: np.ndarray, wanted: int) -> list[int]:
    """The rule as it is written down, looking at every candidate each time."""
    apart = 1 - vectors @ vectors.T
    nearest, picked = np.minimum(from_known(vectors, known), 2.0), []
    for _ in range(wanted):
        gains = mass @ np.maximum(nearest[:, None] - apart, 0) - mass * nearest
        gains[picked] = -1
        picked.append(int(np.argmax(gains)))
        nearest = np.minimum(nearest, apart[picked[-1]])
    return picked


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(1, 12))
@hypothesis_settings(max_examples=40)
def test_looking_only_at_the_most_promising_gives_the_same_as_looking_at_all(
    seed: int, n_known: int, wanted: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors, known = unit(rng.normal(size=(40, 8))), unit(rng.normal(size=(n_known, 8)))
    mass = rng.uniform(0.1, 1, 40)
    assert chosen(vectors, known, wanted, mass) == plain_greedy(vectors, mass, known, wanted)


def test_equal_gains_go_by_rank() -> None:
    """Four directions at right angles, alike in mass: gains are equal, so the order is that of the ranks."""
    mass = np.full(4, 0.25)
    picked = choose(np.eye(4), mass, mass, np.full(4, 1.0), np.array([3, 0, 2, 1]), 4, lambda i: True)
    assert picked == [1, 3, 2, 0]


def test_what_is_refused_is_asked_once_and_does_not_count_as_near(
    bin_of_three: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    vectors, topics, known = bin_of_three
    first = chosen(vectors, known, 1)[0]
    asked: list[int] = []

    def accept(i: int) -> bool:
        asked.append(i)
        return i != first

    mass, distance = np.full(len(vectors), 0.01), from_known(vectors, known)
    picked = choose(vectors, mass, mass, distance, np.arange(len(vectors)), 3, accept)
    assert first not in picked
    assert topics[picked[0]] == topics[first], "the topic is still without a case"
    assert len(asked) == len(set(asked)) == 4


def test_where_all_is_refused_or_asked_for_in_vain_the_choice_ends() -> None:
    vectors = np.eye(3)
    assert chosen(vectors, np.empty((0, 3)), 2, refused=range(3)) == []
    assert sorted(chosen(vectors, np.empty((0, 3)), 9)) == [0, 1, 2]
    assert chosen(np.empty((0, 3)), np.empty((0, 3)), 2, mass=np.empty(0)) == []


@pytest.mark.parametrize("broken", ["vector", "mass", "negative"])
def test_broken_numbers_are_refused(broken: str) -> None:
    vectors, mass = np.eye(3), np.ones(3)
    if broken == "vector":
        vectors[0, 0] = np.nan
    else:
        mass[0] = np.inf if broken == "mass" else -1
    with pytest.raises(ValueError, match="NaN or infinite"):
        chosen(vectors, np.eye(3), 1, mass)


def test_of_a_bin_of_too_many_texts_those_of_the_lowest_ranks_stand_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "MOST_TEXTS", 3)
    picked = choose(np.eye(5), np.ones(5), np.ones(5), np.ones(5), np.array([4, 3, 2, 1, 0]), 5, lambda i: True)
    assert sorted(picked) == [2, 3, 4]
