"""The frozen taxonomies in the lake: which one is in force in a week, loading it, placing texts by it.

A taxonomy is its fit sample with labels and a row per cluster; both carry the taxonomy's id. One begins with each month
(``clusters``, ``taxonomy_texts``); an early refit (``taxonomy_refits``, ``refit_texts``) takes over from a week on until
the month's end. Keep out: how clusters are found (``core/clustering.py``) and when one is fitted (``defs/fitting.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from evalflow.adapters.embedder import vectors_of
from evalflow.adapters.home import Home
from evalflow.adapters.lake import Lake
from evalflow.adapters.tables import (
    CLUSTER_LINEAGE,
    CLUSTERS,
    REFIT_LINEAGE,
    REFIT_TEXTS,
    TAXONOMY_REFITS,
    TAXONOMY_TEXTS,
    Table,
)
from evalflow.core.calendar import DAYS_PER_WEEK, previous_month
from evalflow.core.clustering import NOISE, Assignment, assign
from evalflow.core.coverage import EDGE_CASES, NOVEL
from evalflow.errors import BadInputError, CannotTellError, EarlierVersionError, UsageError

_ONE_WEEK = timedelta(days=DAYS_PER_WEEK)
_SINCE_REFITS = ("label_source", "previous_taxonomy_id", "n_ids", "novel_calibration")
"""Columns that a taxonomy of an earlier version does not have."""


@dataclass(frozen=True)
class Fitted:
    """Which fit: that of the month that begins on ``key``, or the refit in force from the week of ``key``."""

    key: date
    is_refit: bool

    @property
    def clusters(self) -> Table:
        return TAXONOMY_REFITS if self.is_refit else CLUSTERS

    @property
    def texts(self) -> Table:
        return REFIT_TEXTS if self.is_refit else TAXONOMY_TEXTS

    @property
    def lineage(self) -> Table:
        return REFIT_LINEAGE if self.is_refit else CLUSTER_LINEAGE

    def __str__(self) -> str:
        return f"the refit of {self.key}" if self.is_refit else f"{self.key:%Y-%m}"


@dataclass(frozen=True)
class Taxonomy:
    """A taxonomy: its clusters, the labelled fit sample, and the facts of its fit.

    ``novel_above``: the distance beyond which a text is novel. ``novel_calibration``: the share of the fit window's own
    traffic that would have been novel in another week; None when the window had fewer than two.
    """

    fitted: Fitted
    taxonomy_id: str
    fitted_on: str
    is_provisional: bool
    model_id: str
    min_cluster_share: float
    n_ids: int
    novel_above: float
    novel_calibration: float | None
    clusters: pl.DataFrame
    vectors: np.ndarray
    labels: np.ndarray

    @property
    def is_in_sample(self) -> bool:
        """Whether a month was fitted on its own traffic, so that its weeks are judged by their own texts."""
        return not self.fitted.is_refit and self.fitted_on == self.fitted.key.strftime("%Y-%m")

    @property
    def bins(self) -> dict[str, str]:
        """Every bin with its label: clusters, the pool of small ones when there are any, and ``novel``."""
        ordinary = self.clusters.filter(~pl.col("is_edge"))
        bins = dict(zip(ordinary["cluster_id"], ordinary["label"], strict=True))
        n_edge = len(self.clusters) - len(ordinary)
        if n_edge:
            bins[EDGE_CASES] = f"{n_edge} small clusters"
        return bins | {NOVEL: "unlike anything in the fit sample"}

    def place(self, vectors: np.ndarray, model_ids: Sequence[str], vote_neighbors: int) -> pl.DataFrame:
        """Bin, cluster, distance and novelty of each vector, in order.

        Raises:
            UsageError: the vectors come from another model than the taxonomy.
            BadInputError: a vector holds NaN.
        """
        others = sorted(set(model_ids) - {self.model_id})
        if others:
            raise UsageError(
                f"Vectors of {others[0]} cannot be compared with the taxonomy {self.taxonomy_id} of {self.model_id}; "
                "after a change of model, materialize embeddings, clusters and bin_assignments again with `evalflow run`."
            )
        refuse_nan(vectors)
        placed: Assignment = assign(vectors, self.vectors, self.labels, self.novel_above, vote_neighbors)
        ids = self.clusters["cluster_id"].to_list()
        edge = set(self.clusters.filter(pl.col("is_edge"))["cluster_id"])
        cluster = [ids[number] for number in placed.cluster]
        bins = [
            NOVEL if novel else EDGE_CASES if own in edge else own
            for own, novel in zip(cluster, placed.is_novel, strict=True)
        ]
        return pl.DataFrame(
            {"bin": bins, "cluster_id": cluster, "distance": placed.distance, "is_novel": placed.is_novel},
            schema={"bin": pl.String, "cluster_id": pl.String, "distance": pl.Float64, "is_novel": pl.Boolean},
        )


def cluster_name(number: int) -> str:
    """The id of the cluster with this lasting number, from 1."""
    return f"c{number:02d}"


def cluster_number(cluster_id: str) -> int:
    return int(cluster_id.removeprefix("c"))


def refuse_nan(vectors: np.ndarray) -> None:
    """Raises:
    BadInputError: a vector holds NaN or infinity, which are near to nothing and far from nothing.
    """
    n_bad = int((~np.isfinite(vectors).all(axis=1)).sum()) if len(vectors) else 0
    if n_bad:
        raise BadInputError(
            f"{n_bad} of {len(vectors)} vectors hold NaN or infinity and cannot be placed; delete cache/embeddings in the "
            "home and the days that hold them in lake/embeddings, then `evalflow run` embeds their texts again."
        )


# -- which taxonomy --------------------------------------------------------------------------------------------


def fitted_for(home: Home, week: date) -> Fitted:
    """The fit in force in a week: the newest refit of its month up to the week, else the month's own."""
    month = home.calendar.month_in_force(week)
    refits = [key for key in refit_weeks(home.lake) if key <= week and home.calendar.month_in_force(key) == month]
    return Fitted(max(refits), True) if refits else Fitted(month, False)


def fitted_before(home: Home, fitted: Fitted) -> list[Fitted]:
    """The fits in force before this one, the newest first, back to the first month of traffic."""
    calendar = home.calendar
    month = calendar.month_in_force(fitted.key) if fitted.is_refit else fitted.key
    refits = [key for key in refit_weeks(home.lake) if not fitted.is_refit or key < fitted.key]
    before: list[Fitted] = []
    while month >= calendar.months()[0]:
        if fitted.is_refit or month < fitted.key:
            own = sorted((key for key in refits if calendar.month_in_force(key) == month), reverse=True)
            before += [*(Fitted(key, True) for key in own), Fitted(month, False)]
        month = previous_month(month)
    return before


def refit_weeks(lake: Lake) -> list[date]:
    """The weeks from which early refits are in force, oldest first."""
    return [date.fromisoformat(key) for key in lake.keys(TAXONOMY_REFITS)]


def taxonomy_in_force(home: Home, week: date) -> Taxonomy:
    """The taxonomy that a week is measured by.

    Raises:
        CannotTellError: it was never fitted, had no text to be fitted on, or is half written.
    """
    return load_taxonomy(home.lake, fitted_for(home, week))


def outgoing_fit(home: Home, week: date) -> Fitted | None:
    """The fit that the week before went by, in the first week of another one; else None."""
    before = week - _ONE_WEEK
    if before < home.calendar.weeks()[0]:
        return None
    fitted = fitted_for(home, before)
    return None if fitted == fitted_for(home, week) else fitted


def outgoing_taxonomy(home: Home, week: date) -> Taxonomy | None:
    """The taxonomy of the week before, in the first week of a new one: both figures are published there.

    None in all other weeks, and where the earlier taxonomy was never fitted or has no clusters.
    """
    fitted = outgoing_fit(home, week)
    return load_if_any(home.lake, fitted) if fitted else None


def load_if_any(lake: Lake, fitted: Fitted) -> Taxonomy | None:
    """The taxonomy of a fit, or None when it was never made or found no texts."""
    return None if lake.read(fitted.clusters, [fitted.key], ["cluster_id"]).is_empty() else load_taxonomy(lake, fitted)


def load_taxonomy(lake: Lake, fitted: Fitted) -> Taxonomy:
    """The taxonomy of a fit.

    Raises:
        CannotTellError: it was never fitted, had no text to be fitted on, or is half written.
    """
    lake.require(fitted.clusters, [fitted.key])
    clusters = _read_clusters(lake, fitted)
    texts = lake.read(fitted.texts, [fitted.key])
    if clusters.is_empty():
        raise CannotTellError(
            f"The taxonomy of {fitted} has no clusters because there were no sampled texts to fit it on; "
            "ingest traces of that month or the one before."
        )
    head = clusters.row(0, named=True)
    if texts.is_empty() or texts["taxonomy_id"][0] != head["taxonomy_id"]:
        raise CannotTellError(
            f"The taxonomy of {fitted} is half written; materialize {fitted.clusters.name} {fitted.key} again."
        )
    number = {name: i for i, name in enumerate(clusters["cluster_id"])}
    return Taxonomy(
        fitted=fitted,
        taxonomy_id=head["taxonomy_id"],
        fitted_on=head["fitted_on"],
        is_provisional=head["is_provisional"],
        model_id=head["model_id"],
        min_cluster_share=head["min_cluster_share"],
        n_ids=head["n_ids"],
        novel_above=head["novel_above"],
        novel_calibration=head["novel_calibration"],
        clusters=clusters,
        vectors=vectors_of(texts["vector"]),
        labels=np.array([NOISE if name is None else number[name] for name in texts["cluster_id"]], dtype=int),
    )


def _read_clusters(lake: Lake, fitted: Fitted) -> pl.DataFrame:
    """The rows of a fit; those of an earlier version never gave more ids than they have clusters."""
    try:
        return lake.read(fitted.clusters, [fitted.key])
    except EarlierVersionError:
        schema = fitted.clusters.schema
        rows = lake.read(fitted.clusters, [fitted.key], [name for name in schema if name not in _SINCE_REFITS])
        known = {"n_ids": pl.col("n_clusters"), "label_source": pl.lit("terms")}
        missing = {name: known.get(name, pl.lit(None)).cast(schema[name]) for name in _SINCE_REFITS}
        return rows.with_columns(**missing).select(list(schema))
