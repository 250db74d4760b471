"""The frozen taxonomies in the lake: writing one, loading the one in force, placing texts by it.

A taxonomy is its fit sample with labels (``taxonomy_texts``) and a row per cluster (``clusters``); both carry the
taxonomy's id. Keep out: how clusters are found (``core/clustering.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from evalflow.adapters.embedder import vectors_of
from evalflow.adapters.lake import Lake
from evalflow.adapters.tables import CLUSTERS, TAXONOMY_TEXTS
from evalflow.core.clustering import NOISE, Assignment, assign
from evalflow.core.coverage import EDGE_CASES, NOVEL
from evalflow.errors import CannotTellError, UsageError


@dataclass(frozen=True)
class Taxonomy:
    """The taxonomy in force in ``month``: its clusters and the labelled fit sample."""

    month: date
    taxonomy_id: str
    fitted_on: str
    is_provisional: bool
    model_id: str
    novel_above: float
    clusters: pl.DataFrame
    vectors: np.ndarray
    labels: np.ndarray

    @property
    def is_in_sample(self) -> bool:
        """True when the month was fitted on its own traffic, so that its weeks are judged by their own texts."""
        return self.fitted_on == self.month.strftime("%Y-%m")

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
        """
        others = sorted(set(model_ids) - {self.model_id})
        if others:
            raise UsageError(
                f"Vectors of {others[0]} cannot be compared with the taxonomy {self.taxonomy_id} of {self.model_id}; "
                "after a change of model, materialize embeddings, clusters and bin_assignments again with `evalflow run`."
            )
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
    return f"c{number + 1:02d}"


def load_taxonomy(lake: Lake, month: date) -> Taxonomy:
    """The taxonomy in force in ``month``.

    Raises:
        CannotTellError: it was never fitted, had no text to be fitted on, or is half written.
    """
    lake.require(CLUSTERS, [month])
    clusters = lake.read(CLUSTERS, [month])
    texts = lake.read(TAXONOMY_TEXTS, [month])
    if clusters.is_empty():
        raise CannotTellError(
            f"The taxonomy of {month:%Y-%m} has no clusters because there were no sampled texts to fit it on; "
            "ingest traces of that month or the one before."
        )
    head = clusters.row(0, named=True)
    if texts.is_empty() or texts["taxonomy_id"][0] != head["taxonomy_id"]:
        raise CannotTellError(f"The taxonomy of {month:%Y-%m} is half written; materialize clusters {month} again.")
    number = {name: i for i, name in enumerate(clusters["cluster_id"])}
    return Taxonomy(
        month=month,
        taxonomy_id=head["taxonomy_id"],
        fitted_on=head["fitted_on"],
        is_provisional=head["is_provisional"],
        model_id=head["model_id"],
        novel_above=head["novel_above"],
        clusters=clusters,
        vectors=vectors_of(texts["vector"]),
        labels=np.array([NOISE if name is None else number[name] for name in texts["cluster_id"]], dtype=int),
    )
