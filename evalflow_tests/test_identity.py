"""Cluster identity: in planted worlds clusters that stay, split, merge, are born and die are told apart, and ids last."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from evalflow.core.identity import Identity, Kinship, all_anew, match_clusters, numbers_of

NONE = -1


def matched(cells: list[tuple[int, int, float]], n_new: int, n_old: int) -> Identity:
    """Two taxonomies over texts given as (old, new, mass)."""
    old, new, mass = (np.array(column) for column in zip(*cells, strict=True))
    return match_clusters(mass.astype(float), new, old, n_new, n_old)


def relations(identity: Identity) -> set[tuple[str, int | None, int | None]]:
    return {(kin.relation, kin.old, kin.new) for kin in identity.kinships}


# Old 0 and 1 stay (with a little exchange), 2 splits into 2 and 3, 3 and 4 merge into 4, 5 dies, 5 (new) is born.
PLANTED = [
    *[(0, 0, 10.0), (1, 1, 9.0), (0, 1, 0.5)],
    *[(2, 2, 4.0), (2, 3, 4.0)],
    *[(3, 4, 3.0), (4, 4, 3.0)],
    *[(NONE, 5, 5.0)],
]


def test_a_planted_world_is_told_apart() -> None:
    """Two stay, one splits in halves, two merge in halves, one is born of novel texts, one is no longer asked."""
    identity = matched(PLANTED, n_new=6, n_old=6)
    assert identity.kept == {0: 0, 1: 1}
    assert relations(identity) == {
        ("matched", 0, 0),
        ("matched", 1, 1),
        ("split", 2, 2),
        ("split", 2, 3),
        ("merged", 3, 4),
        ("merged", 4, 4),
        ("born", None, 5),
        ("died", 5, None),
    }


def test_shares_and_jaccard_are_those_derived_by_hand() -> None:
    """Old 0 holds 10.5, new 0 holds 10, they share 10: Jaccard 10 / (10.5 + 10 - 10), 10 / 10.5 of the old, all of the new."""
    kin = next(each for each in matched(PLANTED, 6, 6).kinships if (each.relation, each.old) == ("matched", 0))
    assert kin == Kinship("matched", 0, 0, pytest.approx(10 / 10.5), pytest.approx(10 / 10.5), pytest.approx(1.0))


def test_a_cluster_that_loses_a_third_keeps_its_id_and_the_third_is_its_child() -> None:
    """2/3 of the mass stays: Jaccard 2/3 > .5 keeps the id; both parts hold 25 %, so the split is told too."""
    identity = matched([(0, 0, 2.0), (0, 1, 1.0)], n_new=2, n_old=1)
    assert relations(identity) == {("matched", 0, 0), ("split", 0, 0), ("split", 0, 1)}
    assert numbers_of(identity, 2, [7], n_ids=12) == [7, 13]


def test_a_half_is_not_enough_to_be_the_same_cluster() -> None:
    assert matched([(0, 0, 1.0), (0, 1, 1.0)], 2, 1).kept == {}
    assert matched([(0, 0, 1.01), (0, 1, 1.0)], 2, 1).kept == {0: 0}


def test_a_part_below_a_quarter_is_no_child() -> None:
    identity = matched([(0, 0, 0.76), (0, 1, 0.24), (NONE, 1, 1.0)], 2, 1)
    assert relations(identity) == {("matched", 0, 0), ("born", None, 1)}


def test_texts_that_are_novel_to_the_old_taxonomy_count_against_a_match() -> None:
    """A cluster of which only 40 % is known is not the old one: Jaccard .4."""
    identity = matched([(0, 0, 4.0), (NONE, 0, 6.0)], 1, 1)
    assert relations(identity) == {("born", None, 0), ("died", 0, None)}


@pytest.mark.parametrize(("n_new", "n_old"), [(3, 2), (0, 2), (2, 0)])
def test_what_cannot_be_compared_is_all_born_and_died(n_new: int, n_old: int) -> None:
    """All traffic novel to the old taxonomy, or another model: no cluster is any other."""
    nothing = match_clusters(np.ones(n_new), np.arange(n_new), np.full(n_new, NONE), n_new, n_old)
    assert nothing == all_anew(n_new, n_old)
    assert sum(kin.relation == "born" for kin in nothing.kinships) == n_new
    assert sum(kin.relation == "died" for kin in nothing.kinships) == n_old
    assert numbers_of(nothing, n_new, list(range(1, n_old + 1)), n_ids=n_old) == list(
        range(n_old + 1, n_old + n_new + 1)
    )


def test_ids_are_never_given_twice() -> None:
    """Of 3 ids ever given, c02 died long ago: a new cluster is c04, not c02."""
    identity = matched([(0, 1, 1.0), (1, 0, 1.0), (NONE, 2, 1.0)], n_new=3, n_old=2)
    assert numbers_of(identity, 3, [1, 3], n_ids=3) == [3, 1, 4]


worlds = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(0.01, 100), min_size=n, max_size=n),
        st.lists(st.integers(NONE, 5), min_size=n, max_size=n),
        st.lists(st.integers(NONE, 4), min_size=n, max_size=n),
    )
)


@given(worlds, st.integers(0, 1000))
@hypothesis_settings(max_examples=60)
def test_identity_depends_on_shares_alone(world: tuple[list[float], list[int], list[int]], seed: int) -> None:
    """Neither the order of the texts nor the scale of their mass matters; each cluster has at most one partner, and a
    relation or its birth or death."""
    mass, new, old = (np.array(column) for column in world)
    order = np.random.default_rng(seed).permutation(len(mass))
    identity = match_clusters(mass, new, old, 6, 5)
    again = match_clusters(mass[order] * 8, new[order], old[order], 6, 5)
    assert relations(again) == relations(identity)
    assert len(set(identity.kept.values())) == len(identity.kept)
    assert {kin.new for kin in identity.kinships} - {None} == set(range(6))
    assert {kin.old for kin in identity.kinships} - {None} == set(range(5))


@given(worlds)
@hypothesis_settings(max_examples=30)
def test_a_taxonomy_is_itself(world: tuple[list[float], list[int], list[int]]) -> None:
    mass, new, _ = (np.array(column) for column in world)
    present = sorted(set(new[new != NONE].tolist()))
    identity = match_clusters(mass, new, new, 6, 6)
    assert identity.kept == {number: number for number in present}
    assert {kin.relation for kin in identity.kinships} <= {"matched", "born", "died"}
