"""A taxonomy of what users ask: fitted once a month, frozen in between, applied to both sides by one rule.

Fit: UMAP then HDBSCAN (or k-means). Assign: a cosine-weighted vote of the nearest clustered texts of the frozen fit
sample, in the embedding space; a text farther from the fit sample than its own members are from each other is
``novel``. Source: docs/methods.md, "Clusters" (McInnes et al. 2018; Campello et al. 2013).
"""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np

Method = Literal["hdbscan", "kmeans"]
NOISE = -1
ALL_PAIRS_BELOW = 4096
"""Below so many texts UMAP compares every pair, from here on only near ones."""
SHARE_STEP = 1.08
"""Least relative step by which the cluster share moves when it leaves the allowed band of cluster counts."""
MOST_STEPS = 40
CHUNK = 1024
"""Rows of a similarity matrix that are held at a time."""
SAME_TEXT = 1e-6
"""Cosine distances below this are rounding errors of float32: the texts are the same one, at distance 0."""


@dataclass(frozen=True)
class FitPlan:
    """How a taxonomy is fitted; the reasons for each default stand in the settings."""

    method: Method
    min_cluster_share: float
    min_cluster_texts: int
    fewest_clusters: int
    most_clusters: int
    umap_components: int
    umap_neighbors: int
    min_samples: int
    novelty_quantile: float
    kmeans_k: int
    seed: int


@dataclass(frozen=True)
class Fit:
    """What a fit found.

    ``labels``: shape (n,), cluster number per text from 0, largest first, -1 for noise. ``min_cluster_share``: the
    share that was used, moved if need be. ``novel_above``: cosine distance beyond which a text is novel. ``dbcv``:
    HDBSCAN's relative validity in [-1, 1], NaN for k-means; reported, never maximised.
    """

    labels: np.ndarray
    min_cluster_share: float
    novel_above: float
    dbcv: float

    @property
    def n_clusters(self) -> int:
        return int(self.labels.max(initial=NOISE)) + 1


@dataclass(frozen=True)
class Assignment:
    """Where texts fall: ``cluster`` (n,) numbers, ``distance`` (n,) to the nearest fit text, ``is_novel`` (n,)."""

    cluster: np.ndarray
    distance: np.ndarray
    is_novel: np.ndarray


def fit_taxonomy(vectors: np.ndarray, plan: FitPlan, held_share: float | None = None) -> Fit:
    """Cluster the distinct texts of a fit sample.

    Args:
        vectors: unit vectors, float32 of shape (n, dimension), in a reproducible order.
        plan: the settings of the fit.
        held_share: the share that last month's taxonomy used; it is kept while it gives an allowed number of
            clusters, because JSD grows with the number of bins.

    Returns:
        The labels; every text in one cluster when there are too few to tell any apart.

    Raises:
        ValueError: a vector holds NaN.
    """
    n = len(vectors)
    _refuse_nan(vectors)
    novel_above = leave_one_out_distance(vectors, plan.novelty_quantile)
    if n < 3 * plan.min_cluster_texts or _all_alike(vectors):
        return Fit(np.zeros(n, dtype=int), plan.min_cluster_share, novel_above, float("nan"))
    if plan.method == "kmeans":
        return Fit(_by_size(_kmeans(vectors, plan)), plan.min_cluster_share, novel_above, float("nan"))
    reduced = _umap(vectors, plan)
    share = held_share if held_share is not None else plan.min_cluster_share
    labels, dbcv = _hdbscan(reduced, share, plan)
    direction = _direction(labels, plan)
    unmoved = (share, labels, dbcv)
    for _ in range(MOST_STEPS):
        if direction == 0 or (direction < 0 and round(share * n) <= plan.min_cluster_texts):
            break
        next_share = share * SHARE_STEP**direction
        next_labels, next_dbcv = _hdbscan(reduced, next_share, plan)
        if direction > 0 and _direction(next_labels, plan) < 0:
            break  # a step too far: keep the nearer side
        share, labels, dbcv = next_share, next_labels, next_dbcv
        if _direction(labels, plan) != direction:
            break
    if _direction(labels, plan) < 0:
        share, labels, dbcv = unmoved  # no step brings it in: a small or uniform sample keeps the share it came with
    if labels.max(initial=NOISE) == NOISE:
        labels = np.zeros(n, dtype=int)
    return Fit(_by_size(labels), share, novel_above, dbcv)


def assign(
    vectors: np.ndarray, fit_vectors: np.ndarray, fit_labels: np.ndarray, novel_above: float, vote_neighbors: int
) -> Assignment:
    """Assign texts to the clusters of a frozen fit, the same rule for production and golden cases.

    Args:
        vectors: unit vectors to place, (n, dimension).
        fit_vectors: unit vectors of the fit sample, (m, dimension), m > 0.
        fit_labels: their cluster numbers, -1 for noise; at least one is not noise.
        novel_above: the fit's novelty distance.
        vote_neighbors: how many of the nearest clustered texts vote, each with its cosine.

    Raises:
        ValueError: a vector holds NaN or the dimensions differ.
    """
    if len(vectors) == 0:
        return Assignment(np.empty(0, dtype=int), np.empty(0), np.empty(0, dtype=bool))
    if vectors.shape[1] != fit_vectors.shape[1]:
        raise ValueError(f"vectors of {vectors.shape[1]} dimensions cannot be placed among {fit_vectors.shape[1]}")
    _refuse_nan(vectors)
    is_clustered = fit_labels != NOISE
    votes_for = fit_labels[is_clustered]
    k = min(vote_neighbors, len(votes_for))
    cluster, distance = np.empty(len(vectors), dtype=int), np.empty(len(vectors))
    for start in range(0, len(vectors), CHUNK):
        chunk = slice(start, start + CHUNK)
        similarity = _similarity(vectors[chunk], fit_vectors)
        distance[chunk] = _distance(similarity)
        cluster[chunk] = _vote(similarity[:, is_clustered], votes_for, k)
    return Assignment(cluster, distance, distance > novel_above)


def leave_one_out_distance(vectors: np.ndarray, quantile: float) -> float:
    """The quantile of each text's cosine distance to its nearest other; 0 for fewer than two texts."""
    if len(vectors) < 2:
        return 0.0
    nearest = np.empty(len(vectors))
    for start in range(0, len(vectors), CHUNK):
        similar = vectors[start : start + CHUNK] @ vectors.T
        rows = np.arange(len(similar))
        similar[rows, start + rows] = -np.inf
        nearest[start : start + CHUNK] = _distance(similar)
    return float(np.quantile(nearest, quantile))


def novel_calibration(
    vectors: np.ndarray, mass: np.ndarray, occurs: np.ndarray, n_fit: int, novel_above: float
) -> float | None:
    """The share of the fit window's own traffic that would have been novel, had it come in another week.

    Leave one week out: a text is compared with the fit texts that occur in some week other than its own. One that
    occurs in two weeks or more is itself among them, at distance 0. This is the level that a later week's novel share
    is held against.

    Args:
        vectors: unit vectors of all distinct texts of the window, (n, dimension); the first ``n_fit`` are the fit sample.
        mass: (n,) traffic of each text in the window, any scale.
        occurs: (n, weeks) whether the text occurs in the week; each row has at least one.
        n_fit: size of the fit sample.
        novel_above: the fit's novelty distance.

    Returns:
        A share in [0, 1]; None when the window has fewer than two weeks with texts, so that none can be left out.
    """
    occurs = occurs[:, occurs.any(axis=0)]
    if occurs.shape[1] < 2:
        return None
    n_weeks = occurs.sum(axis=1)
    is_fitted = np.arange(len(vectors)) < n_fit
    is_novel = np.zeros(len(vectors), dtype=bool)
    for week in range(occurs.shape[1]):
        own = occurs[:, week] & (n_weeks == 1)
        known = is_fitted & ((n_weeks > 1) | ~occurs[:, week])
        is_novel[own] = _nearest_distance(vectors[own], vectors[known]) > novel_above
    returning = ~is_fitted & (n_weeks > 1)
    is_novel[returning] = _nearest_distance(vectors[returning], vectors[is_fitted]) > novel_above
    return float(mass[is_novel].sum() / mass.sum())


def _nearest_distance(rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Cosine distance of each row to the nearest of ``among``; infinite where there is none."""
    nearest = np.full(len(rows), np.inf)
    if len(among):
        for start in range(0, len(rows), CHUNK):
            nearest[start : start + CHUNK] = _distance(rows[start : start + CHUNK] @ among.T)
    return nearest


def _distance(similarity: np.ndarray) -> np.ndarray:
    """Cosine distance to the nearest column, with the same text at exactly 0."""
    distance = 1 - similarity.max(axis=1)
    return np.where(distance < SAME_TEXT, 0.0, distance)


def _similarity(rows: np.ndarray, fit_vectors: np.ndarray) -> np.ndarray:
    """Cosines of up to CHUNK rows; the product has a fixed shape, so a text's last bits never depend on its neighbours."""
    padded = np.zeros((CHUNK, rows.shape[1]), dtype=rows.dtype)
    padded[: len(rows)] = rows
    return (padded @ fit_vectors.T)[: len(rows)]


def _refuse_nan(vectors: np.ndarray) -> None:
    if np.isnan(vectors).any():
        raise ValueError(f"{int(np.isnan(vectors).any(axis=1).sum())} vectors hold NaN; embed their texts again")


def _vote(similarity: np.ndarray, votes_for: np.ndarray, k: int) -> np.ndarray:
    """The cluster with the largest summed cosine among each row's k nearest; the lower number wins a tie."""
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    weight = np.maximum(np.take_along_axis(similarity, nearest, axis=1), 1e-6)
    score = np.zeros((len(similarity), int(votes_for.max()) + 1))
    np.add.at(score, (np.arange(len(similarity))[:, None], votes_for[nearest]), weight)
    return score.argmax(axis=1)


def _direction(labels: np.ndarray, plan: FitPlan) -> int:
    """+1 when there are too many clusters (the share must grow), -1 when too few, 0 when the count is allowed."""
    count = int(labels.max(initial=NOISE)) + 1
    return (count > plan.most_clusters) - (count < plan.fewest_clusters)


def _umap(vectors: np.ndarray, plan: FitPlan) -> np.ndarray:
    n = len(vectors)
    is_small = n < ALL_PAIRS_BELOW
    with warnings.catch_warnings():
        # UMAP warns of an optional package, of its single seeded thread, and of small samples: all as wanted here.
        warnings.simplefilter("ignore")
        import umap

        return umap.UMAP(
            n_components=min(plan.umap_components, n - 2),
            n_neighbors=min(plan.umap_neighbors, n - 1),
            metric="precomputed" if is_small else "cosine",
            min_dist=0.0,
            random_state=plan.seed,
            n_jobs=1,
        ).fit_transform(_cosine_distances(vectors) if is_small else vectors)


def _cosine_distances(vectors: np.ndarray) -> np.ndarray:
    """UMAP's own cosine of every pair, shape (n, n): the same figures as it computes itself, in a compiled loop.

    Left to itself UMAP calls that function from Python for each pair, which takes longer than all the rest of a fit.
    """
    import numba
    from umap.distances import cosine

    @numba.njit
    def of_all_pairs(x: np.ndarray) -> np.ndarray:
        distances = np.zeros((x.shape[0], x.shape[0]), dtype=x.dtype)
        for i in range(x.shape[0]):
            for j in range(i + 1, x.shape[0]):
                distances[i, j] = distances[j, i] = cosine(x[i], x[j])
        return distances

    return of_all_pairs(np.ascontiguousarray(vectors))


def _hdbscan(reduced: np.ndarray, share: float, plan: FitPlan) -> tuple[np.ndarray, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the library, about its own imports
        import hdbscan

        model = hdbscan.HDBSCAN(
            min_cluster_size=max(plan.min_cluster_texts, round(share * len(reduced))),
            min_samples=plan.min_samples,
            gen_min_span_tree=True,
            core_dist_n_jobs=1,
        ).fit(reduced.astype(np.float64))
        return model.labels_, float(model.relative_validity_)


def _kmeans(vectors: np.ndarray, plan: FitPlan) -> np.ndarray:
    from sklearn.cluster import KMeans

    return KMeans(min(plan.kmeans_k, len(vectors)), n_init=4, random_state=plan.seed).fit_predict(vectors)


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Clusters numbered anew from the largest; equal sizes keep the order of their first text."""
    numbers, first, counts = np.unique(labels[labels != NOISE], return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    renumber = {int(numbers[old]): new for new, old in enumerate(order)}
    return np.array([renumber.get(int(label), NOISE) for label in labels], dtype=int)


def _all_alike(vectors: np.ndarray) -> bool:
    return bool(np.allclose(vectors, vectors[0], atol=1e-6))
