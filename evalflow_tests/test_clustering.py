"""Clustering: planted clusters are recovered, held steady, and applied to any text by one frozen rule."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, pairwise_distances

from evalflow.core.clustering import (
    NOISE,
    SHARE_STEP,
    Assignment,
    Fit,
    FitPlan,
    _cosine_distances,
    assign,
    fit_taxonomy,
    leave_one_out_distance,
    novel_calibration,
)

PLAN = FitPlan(
    method="hdbscan",
    min_cluster_share=0.006,
    min_cluster_texts=10,
    fewest_clusters=5,
    most_clusters=80,
    umap_components=10,
    umap_neighbors=15,
    min_samples=5,
    novelty_quantile=0.95,
    kmeans_k=8,
    seed=7,
)
DIMENSION = 32
VOTERS = 15
SIZES = (60, 50, 45, 40, 35, 30, 25, 20)


def on_sphere(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def centres_of(n: int, seed: int = 0) -> np.ndarray:
    return on_sphere(np.random.default_rng(seed).normal(size=(n, DIMENSION)))


def around(centres: np.ndarray, truth: np.ndarray, seed: int, spread: float = 0.6) -> np.ndarray:
    """A unit vector near its centre for each entry of ``truth``; members have a cosine of about .86 to it."""
    noise = np.random.default_rng(seed).normal(size=(len(truth), DIMENSION)) * spread / np.sqrt(DIMENSION)
    return on_sphere(centres[truth] + noise)


CENTRES = centres_of(len(SIZES))
TRUTH = np.random.default_rng(1).permutation(np.repeat(np.arange(len(SIZES)), SIZES))


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return around(CENTRES, TRUTH, seed=2)


@pytest.fixture(scope="module")
def fit(vectors: np.ndarray) -> Fit:
    return fit_taxonomy(vectors, PLAN)


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """36 planted clusters of 10 to 24 texts: more than the 24 that the test allows."""
    truth = np.repeat(np.arange(36), np.linspace(10, 24, 36).astype(int))
    return around(centres_of(36, seed=3), np.random.default_rng(4).permutation(truth), seed=5)


def placed(texts: np.ndarray, vectors: np.ndarray, fit: Fit) -> Assignment:
    return assign(texts, vectors, fit.labels, fit.novel_above, VOTERS)


# -- fitting ------------------------------------------------------------------------------------------------


def test_hdbscan_recovers_planted_clusters(fit: Fit) -> None:
    assert fit.n_clusters == len(SIZES)
    assert adjusted_rand_score(TRUTH, fit.labels) > 0.9
    assert fit.min_cluster_share == PLAN.min_cluster_share
    assert -1 <= fit.dbcv <= 1


def test_distances_of_all_pairs_are_those_that_umap_computes_itself(vectors: np.ndarray) -> None:
    from umap.distances import cosine

    own = pairwise_distances(vectors[:60], metric=cosine)
    assert np.array_equal(_cosine_distances(vectors[:60]), own)


def test_kmeans_recovers_planted_clusters_when_their_number_is_given(vectors: np.ndarray) -> None:
    found = fit_taxonomy(vectors, replace(PLAN, method="kmeans"))
    assert adjusted_rand_score(TRUTH, found.labels) > 0.9
    assert np.isnan(found.dbcv)
    assert NOISE not in found.labels


def test_the_same_input_gives_the_same_taxonomy(vectors: np.ndarray, fit: Fit) -> None:
    again = fit_taxonomy(vectors.copy(), PLAN)
    assert again.labels.tolist() == fit.labels.tolist()
    assert (again.min_cluster_share, again.novel_above, again.dbcv) == (
        fit.min_cluster_share,
        fit.novel_above,
        fit.dbcv,
    )


@pytest.mark.parametrize("method", ["hdbscan", "kmeans"])
def test_clusters_are_numbered_from_the_largest(method: str, vectors: np.ndarray) -> None:
    labels = fit_taxonomy(vectors, replace(PLAN, method=method)).labels
    sizes = np.bincount(labels[labels != NOISE])
    assert sizes.tolist() == sorted(sizes, reverse=True)
    assert sizes.min() > 0


def test_too_many_clusters_raise_the_share_by_the_least_step_that_helps(many: np.ndarray) -> None:
    allowed = replace(PLAN, fewest_clusters=12, most_clusters=24)
    unbounded = replace(PLAN, fewest_clusters=1, most_clusters=10_000)
    bounded = fit_taxonomy(many, allowed)
    assert 12 <= bounded.n_clusters <= 24
    steps = np.log(bounded.min_cluster_share / PLAN.min_cluster_share) / np.log(SHARE_STEP)
    assert steps == pytest.approx(round(steps))
    assert steps >= 1
    assert fit_taxonomy(many, unbounded, held_share=bounded.min_cluster_share / SHARE_STEP).n_clusters > 24


def test_too_few_clusters_lower_the_share_by_the_least_step_that_helps(vectors: np.ndarray) -> None:
    """Of sizes 60 to 20 a share of .18 (55 of 305 texts) leaves two clusters at most; five are asked for."""
    bounded = fit_taxonomy(vectors, PLAN, held_share=0.18)
    assert bounded.n_clusters >= PLAN.fewest_clusters
    assert bounded.min_cluster_share < 0.18
    one_step_more = fit_taxonomy(
        vectors, replace(PLAN, fewest_clusters=1), held_share=bounded.min_cluster_share * SHARE_STEP
    )
    assert one_step_more.n_clusters < PLAN.fewest_clusters


def test_last_months_share_is_held_while_it_gives_an_allowed_number(vectors: np.ndarray) -> None:
    assert fit_taxonomy(vectors, PLAN, held_share=0.031).min_cluster_share == 0.031


# -- assigning ----------------------------------------------------------------------------------------------


def test_new_texts_fall_into_the_clusters_they_were_planted_in(vectors: np.ndarray, fit: Fit) -> None:
    truth = np.repeat(np.arange(len(SIZES)), 40)
    assert adjusted_rand_score(truth, placed(around(CENTRES, truth, seed=8), vectors, fit).cluster) > 0.9


def test_the_vote_of_one_neighbour_is_the_nearest_text_by_brute_force(vectors: np.ndarray, fit: Fit) -> None:
    texts = around(CENTRES, TRUTH, seed=9)
    clustered = fit.labels != NOISE
    nearest = [int(np.argmin(((vectors[clustered] - text) ** 2).sum(axis=1))) for text in texts]
    one = assign(texts, vectors, fit.labels, fit.novel_above, vote_neighbors=1)
    assert one.cluster.tolist() == fit.labels[clustered][nearest].tolist()


def test_votes_weigh_by_cosine() -> None:
    """Two far voters (cosine .6 each) outvote one near (1.0), but three at .3 do not."""
    axis = np.eye(8, dtype=np.float32)
    text = axis[:1]

    def at(cosine: float, direction: int) -> np.ndarray:
        return np.float32(cosine) * axis[0] + np.float32(np.sqrt(1 - cosine**2)) * axis[direction]

    two_far = np.stack([axis[0], at(0.6, 1), at(0.6, 2)])
    assert assign(text, two_far, np.array([0, 1, 1]), 1.0, 3).cluster.tolist() == [1]
    three_farther = np.stack([axis[0], at(0.3, 1), at(0.3, 2), at(0.3, 3)])
    assert assign(text, three_farther, np.array([0, 1, 1, 1]), 1.0, 4).cluster.tolist() == [0]


@given(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([1, 2, 5, 40]))
@hypothesis_settings(max_examples=30)
def test_a_texts_place_does_not_depend_on_what_is_placed_with_it(
    seed: int, n: int, vectors: np.ndarray, fit: Fit
) -> None:
    """To the last bit: the rule is frozen, and files can be compared."""
    texts = around(CENTRES, TRUTH, seed=10, spread=1.2)
    together = placed(texts, vectors, fit)
    chosen = np.random.default_rng(seed).choice(len(texts), size=n, replace=False)
    apart = placed(texts[chosen], vectors, fit)
    assert apart.cluster.tolist() == together.cluster[chosen].tolist()
    assert apart.distance.tolist() == together.distance[chosen].tolist()
    assert apart.is_novel.tolist() == together.is_novel[chosen].tolist()


def test_a_planted_new_cluster_is_novel(vectors: np.ndarray, fit: Fit) -> None:
    launched = around(centres_of(1, seed=77), np.zeros(50, dtype=int), seed=11)
    assert placed(launched, vectors, fit).is_novel.mean() > 0.95


def test_texts_of_the_fit_are_not_novel_and_new_ones_of_its_kind_rarely_are(vectors: np.ndarray, fit: Fit) -> None:
    own = placed(vectors, vectors, fit)
    assert not own.is_novel.any()
    assert own.distance == pytest.approx(np.zeros(len(vectors)), abs=1e-6)
    # The threshold is the 95 % quantile, so 5 % of new texts lie beyond: 15 of 305, and four SDs are as many again.
    assert placed(around(CENTRES, TRUTH, seed=12), vectors, fit).is_novel.mean() < 0.10


def test_noise_texts_do_not_vote_but_are_known() -> None:
    axis = np.eye(4, dtype=np.float32)
    placed_on_noise = assign(axis[:1], axis, np.array([NOISE, 0, 1, 1]), 0.5, 3)
    assert placed_on_noise.cluster.tolist() == [1]  # cosines are all 0: the two of cluster 1 outnumber the one
    assert placed_on_noise.distance.tolist() == [0.0]
    assert placed_on_noise.is_novel.tolist() == [False]


def test_more_voters_than_texts_is_all_of_them() -> None:
    axis = np.eye(3, dtype=np.float32)
    assert assign(axis, axis, np.array([0, 1, 2]), 0.5, 100).cluster.tolist() == [0, 1, 2]


@given(n=st.integers(2, 40), quantile=st.floats(0, 1), seed=st.integers(0, 1000))
@hypothesis_settings(max_examples=30)
def test_leave_one_out_distance_agrees_with_brute_force(n: int, quantile: float, seed: int) -> None:
    vectors = on_sphere(np.random.default_rng(seed).normal(size=(n, 5)))
    nearest = [min(1 - float(vectors[i] @ vectors[j]) for j in range(n) if j != i) for i in range(n)]
    assert leave_one_out_distance(vectors, quantile) == pytest.approx(np.quantile(nearest, quantile), abs=1e-5)


# -- calibration of novelty ---------------------------------------------------------------------------------


@given(n=st.integers(2, 30), weeks=st.integers(2, 4), seed=st.integers(0, 1000))
@hypothesis_settings(max_examples=40)
def test_the_calibration_share_agrees_with_brute_force(n: int, weeks: int, seed: int) -> None:
    """Each text against the fit texts that some other week holds, one by one; the last ones are not in the fit sample."""
    chance = np.random.default_rng(seed)
    texts, mass = on_sphere(chance.normal(size=(n, 4))), chance.uniform(0.1, 5, size=n)
    occurs = chance.random((n, weeks)) < 0.4
    occurs[np.arange(n), chance.integers(weeks, size=n)] = True
    n_fit, above = max(1, n - 3), 0.3
    novel = 0.0
    for i in range(n):
        own = np.flatnonzero(occurs[i])
        others = [
            j for j in range(n_fit) if len(own) > 1 or any(occurs[j, week] for week in range(weeks) if week != own[0])
        ]
        distance = min((0.0 if i == j else 1 - float(texts[i] @ texts[j]) for j in others), default=np.inf)
        novel += mass[i] * (distance > above)
    n_weeks = occurs.any(axis=0).sum()
    expected = None if n_weeks < 2 else pytest.approx(novel / mass.sum(), abs=1e-9)
    assert novel_calibration(texts, mass, occurs, n_fit, above) == expected


def test_a_topic_of_one_week_would_have_been_novel_in_another(vectors: np.ndarray, fit: Fit) -> None:
    """Eight topics come in each of four weeks, a ninth with a tenth of the traffic in the last week only: at least that
    tenth is novel, and of the rest about the 5 % beyond the quantile (a quarter fewer neighbours: up to 10 %)."""
    launched = around(centres_of(1, seed=77), np.zeros(30, dtype=int), seed=11)
    texts = np.concatenate([vectors, launched])
    occurs = np.zeros((len(texts), 4), dtype=bool)
    occurs[np.arange(len(vectors)), np.arange(len(vectors)) % 4] = True
    occurs[len(vectors) :, 3] = True
    mass = np.concatenate([np.full(len(vectors), 0.9 / len(vectors)), np.full(30, 0.1 / 30)])
    share = novel_calibration(texts, mass, occurs, len(texts), fit.novel_above)
    assert share is not None
    assert 0.1 < share < 0.1 + 0.9 * 0.10


def test_texts_that_return_are_never_novel_and_one_week_has_no_calibration(vectors: np.ndarray) -> None:
    mass = np.ones(len(vectors))
    assert novel_calibration(vectors, mass, np.ones((len(vectors), 2), dtype=bool), len(vectors), 0.0) == 0.0
    one_week = np.zeros((len(vectors), 5), dtype=bool)
    one_week[:, 2] = True
    assert novel_calibration(vectors, mass, one_week, len(vectors), 0.3) is None


# -- degenerate input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["hdbscan", "kmeans"])
@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(CENTRES[:1], id="one text"),
        pytest.param(CENTRES, id="fewer than three smallest clusters"),
        pytest.param(np.repeat(CENTRES[:1], 100, axis=0), id="identical texts"),
    ],
)
def test_texts_that_cannot_be_told_apart_are_one_cluster(texts: np.ndarray, method: str) -> None:
    found = fit_taxonomy(texts, replace(PLAN, method=method))
    assert found.labels.tolist() == [0] * len(texts)
    assert found.n_clusters == 1
    again = placed(texts, texts, found)
    assert again.cluster.tolist() == [0] * len(texts)
    assert again.distance.tolist() == [0.0] * len(texts), "the same text is at distance 0, not at a rounding error"
    assert not again.is_novel.any()


def test_traffic_that_is_all_novel_has_places_all_the_same(vectors: np.ndarray, fit: Fit) -> None:
    """Every text has the cluster that the vote gives it and is marked as novel; none is dropped."""
    strange = placed(on_sphere(-CENTRES.sum(axis=0, keepdims=True).repeat(20, axis=0)), vectors, fit)
    assert strange.is_novel.all()
    assert ((strange.cluster >= 0) & (strange.cluster < fit.n_clusters)).all()


def test_no_texts_have_no_clusters_and_no_places(vectors: np.ndarray, fit: Fit) -> None:
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    assert fit_taxonomy(nothing, PLAN).n_clusters == 0
    assert len(placed(nothing, vectors, fit).cluster) == 0


def test_vectors_with_nan_are_refused_with_their_number(vectors: np.ndarray, fit: Fit) -> None:
    broken = vectors.copy()
    broken[:3, 0] = np.nan
    with pytest.raises(ValueError, match="3 vectors hold NaN; embed their texts again"):
        fit_taxonomy(broken, PLAN)
    with pytest.raises(ValueError, match="3 vectors hold NaN; embed their texts again"):
        placed(broken, vectors, fit)


def test_vectors_of_another_dimension_are_refused_with_both(vectors: np.ndarray, fit: Fit) -> None:
    with pytest.raises(ValueError, match="vectors of 5 dimensions cannot be placed among 32"):
        placed(np.ones((1, 5), dtype=np.float32), vectors, fit)
