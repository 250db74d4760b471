"""Station embeddings: each distinct sampled text of a day to a unit vector of the pinned model."""

from collections.abc import Iterable
from datetime import date
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from evalflow.adapters.embedder import Embedder
from evalflow.adapters.home import Home
from evalflow.adapters.tables import EMBEDDINGS, STRATIFIED_SAMPLES
from evalflow.defs.partitions import Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_DAILY, OWNERS, SINGLE_RUN, Station, dates, parents, report


def _inputs(home: Home, day: date) -> Iterable[Any]:
    yield home.settings.embedding.model_dump()
    yield from parents(home, STRATIFIED_SAMPLES, [day])


VECTORS = Station("embeddings", EMBEDDINGS, "day", "1", _inputs)


def embedding_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name="embeddings",
        owners=OWNERS,
        kinds={"huggingface", "parquet"},
        code_version=VECTORS.version,
        partitions_def=partitions.daily,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_DAILY),
        deps=["stratified_samples"],
        description="A distinct sampled text of the day with its vector and the model it comes from. Texts seen before come "
        "from the cache.",
    )
    def embeddings(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        lake, days = workspace.lake, dates(context)
        lake.require(STRATIFIED_SAMPLES, days)
        made_from = {day: VECTORS.made_from(workspace, day) for day in days}
        embedder = Embedder(workspace.settings.embedding, workspace.cache)
        texts = {day: lake.read(STRATIFIED_SAMPLES, [day], ["text", "text_hash"]) for day in days}
        known = embedder.known(pl.concat(texts.values())["text_hash"])
        # All days at once: full batches, and a text that returns on another day is computed once.
        vectors = embedder.embed(
            pl.concat(texts.values())["text"].to_list(),
            on_progress=lambda done, total: context.log.info(f"embedded {done:,} of {total:,} new texts"),
        )
        for day in days:
            hashes = sorted(set(texts[day]["text_hash"]))
            frame = vector_frame({key: vectors[key] for key in hashes}, embedder.model_id)
            lake.write(EMBEDDINGS, day, frame, made_from=made_from[day])
            n_known = sum(key in known for key in hashes)
            report(
                context,
                day,
                {
                    "dagster/partition_row_count": len(frame),
                    "sampled traces": len(texts[day]),
                    "new texts": len(hashes) - n_known,
                    "from the cache": n_known,
                    "model": embedder.model_id,
                },
            )

    return [embeddings]


def vector_frame(vectors: dict[str, np.ndarray], model_id: str) -> pl.DataFrame:
    """Rows of ``embeddings`` from vectors by text hash."""
    return pl.DataFrame(
        {
            "text_hash": list(vectors),
            "model_id": [model_id] * len(vectors),
            "vector": [v.tolist() for v in vectors.values()],
        },
        schema=EMBEDDINGS.schema,
    )
