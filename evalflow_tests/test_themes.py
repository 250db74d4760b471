"""Grouping short notes: planted groups are found, few notes have a defined answer, and nothing hangs on their order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.core.themes import (
    LIKE_DISTANCE,
    MOST_GROUPED,
    central,
    code_key,
    inherited,
    like_groups,
    nearest_code,
    theme_groups,
)


def planted(sizes: tuple[int, ...], noise: float = 0.15, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around one direction for each group, and their groups."""
    rng = np.random.default_rng(seed)
    centres = np.eye(32)[: len(sizes)]
    truth = np.repeat(np.arange(len(sizes)), sizes)
    vectors = centres[truth] + noise * rng.normal(size=(len(truth), 32)) / 32**0.5
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), truth


@pytest.mark.parametrize("n_groups", [5, 7, 10])
def test_planted_themes_are_found_with_their_number(n_groups: int) -> None:
    """The silhouette finds how many there are between 5 and 10; groups are numbered from the largest."""
    sizes = tuple(range(14, 14 - n_groups, -1))
    vectors, truth = planted(sizes)
    assert theme_groups(vectors).tolist() == truth.tolist()
    order = np.random.default_rng(1).permutation(len(vectors))
    assert theme_groups(vectors[order]).tolist() == truth[order].tolist()


def test_few_codes_give_few_themes() -> None:
    """Up to three are a theme each; four to nine give half as many; no code, no theme."""
    assert theme_groups(np.empty((0, 3))).tolist() == []
    for n, expected in ((1, 1), (3, 3), (4, 2), (5, 2), (9, 4)):
        vectors, _ = planted((1,) * n)
        assert len(set(theme_groups(vectors))) == expected
    assert len(set(theme_groups(np.tile([[1.0, 0.0]], (6, 1))))) == 3, "also where all say the same"


def test_texts_that_are_alike_are_one_group_and_others_are_none() -> None:
    vectors, truth = planted((4, 3, 1))
    assert like_groups(vectors, 0.4).tolist() == truth.tolist()
    assert like_groups(vectors[:1], 0.4).tolist() == [0]


def test_beyond_the_limit_a_text_joins_its_nearest() -> None:
    vectors, truth = planted((MOST_GROUPED // 2 + 20, MOST_GROUPED // 2))
    order = np.random.default_rng(2).permutation(len(vectors))
    assert like_groups(vectors[order], 0.4).tolist() == truth[order].tolist()


def test_a_new_code_joins_the_nearest_or_none() -> None:
    """Up to the distance, and not beyond; the first of equals."""
    known = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    at = 1 - LIKE_DISTANCE
    assert nearest_code(np.array([at, 0.0]), known) == (0, LIKE_DISTANCE)
    assert nearest_code(np.array([at - 1e-3, 0.0]), known) is None
    assert nearest_code(np.array([1.0, 0.0]), np.empty((0, 2))) is None


def test_the_central_text_speaks_for_its_group() -> None:
    """Of three directions at 0, 30 and 60 degrees the middle one is nearest to all."""
    angle = np.radians([0, 60, 30])
    assert central(np.column_stack([np.cos(angle), np.sin(angle)]))[0] == 2


@given(st.lists(st.frozensets(st.sampled_from("abcdefgh")), max_size=5), st.integers(0, 10**6))
def test_no_theme_is_inherited_twice(groups: list[frozenset[str]], seed: int) -> None:
    """Both sides part the codes among themselves, so that above one half there is one heir only."""
    codes, chance = list("abcdefgh"), np.random.default_rng(seed)
    before = [frozenset(c for c, g in zip(codes, chance.integers(0, 3, 8), strict=True) if g == k) for k in range(3)]
    after, used = [], set[str]()
    for group in groups:
        after.append(group - used)
        used |= group
    heirs = [old for own, old in zip(after, inherited(after, before), strict=True) if old is not None and own]
    assert len(heirs) == len(set(heirs))


def test_codes_are_one_but_for_case_and_white_space() -> None:
    assert code_key("  Ignores\tthe ORDER number ") == code_key("ignores the order number")
