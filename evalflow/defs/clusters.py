"""Station clusters: the month's frozen taxonomy, and where each sampled trace and golden case falls in it."""

from collections.abc import Iterable
from datetime import date
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from evalflow.adapters.embedder import Embedder, vectors_of
from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import BIN_ASSIGNMENTS, CLUSTERS, EMBEDDINGS, STRATIFIED_SAMPLES
from evalflow.adapters.taxonomy import Fitted, Taxonomy, fitted_for, outgoing_fit, outgoing_taxonomy, taxonomy_in_force
from evalflow.core.calendar import next_month, previous_month, sunday_of
from evalflow.core.text import text_hash
from evalflow.core.weighting import row_weights, steady_state_masses, traffic_masses, weight_facts
from evalflow.defs.fitting import FitWindow, fit_inputs, fit_metadata, fit_new, namer_of, write_new
from evalflow.defs.partitions import BEFORE, FORCE, PREVIOUS, REFITS_SINCE, WEEKS, Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_MONTHLY, FRESH_WEEKLY, OWNERS, SINGLE_RUN, Station, dates, parents, report

GROUP = "clusters"


def _taxonomy_inputs(home: Home, month: date) -> Iterable[Any]:
    yield from fit_inputs(home, Fitted(month, False), fit_window(home, month))


def _assignment_inputs(home: Home, week: date) -> Iterable[Any]:
    yield home.settings.clustering.vote_neighbors
    yield home.settings.coverage.max_day_mass_sigmas
    yield home.settings.sampling.max_weight_ratio
    yield home.settings.privacy.model_dump()
    yield home.ledger.fingerprint_as_of(sunday_of(week))
    for fitted in (fitted_for(home, week), outgoing_fit(home, week)):
        if fitted is not None:
            yield from parents(home, fitted.clusters, [fitted.key])
    yield from parents(home, STRATIFIED_SAMPLES, home.calendar.window(week))
    yield from parents(home, EMBEDDINGS, home.calendar.window(week))


TAXONOMY = Station("clusters", CLUSTERS, "month", "2", _taxonomy_inputs)
ASSIGNMENTS = Station("bin_assignments", BIN_ASSIGNMENTS, "week", "2", _assignment_inputs)


def fit_window(home: Home, month: date) -> FitWindow:
    """What a month's taxonomy is fitted on: the month before, when it holds enough texts; else the month itself so far."""
    calendar, before = home.calendar, previous_month(month)
    n_before = _count_texts(home, calendar.days_of_month(before))
    is_enough = n_before >= home.settings.clustering.min_fit_texts
    if is_enough or (n_before and not _count_texts(home, calendar.days_of_month(month))):
        return FitWindow(calendar.days_of_month(before), f"{before:%Y-%m}", False)
    return FitWindow(calendar.days_of_month(month), f"{month:%Y-%m}", calendar.now < next_month(month))


def _count_texts(home: Home, days: list[date]) -> int:
    return home.lake.read(STRATIFIED_SAMPLES, days, ["text_hash"])["text_hash"].n_unique()


def cluster_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"scikitlearn", "parquet"},
        code_version=TAXONOMY.version,
        partitions_def=partitions.monthly,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_MONTHLY),
        deps=[
            dg.AssetDep("stratified_samples", partition_mapping=PREVIOUS),
            dg.AssetDep("embeddings", partition_mapping=PREVIOUS),
            dg.AssetDep("clusters", partition_mapping=BEFORE),
        ],
        description="A cluster of the taxonomy in force in the month: fitted on the month before and frozen, or on the month "
        "itself while there is no such history.",
    )
    def clusters(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        namer = namer_of(workspace)
        for month in dates(context):
            fitted, window = Fitted(month, False), fit_window(workspace, month)
            made_from = TAXONOMY.made_from(workspace, month)
            new = fit_new(workspace, fitted, window, namer)
            write_new(workspace, fitted, new, made_from)
            nothing = {"dagster/partition_row_count": 0, "reason": "no sampled texts to fit on"}
            report(context, month, fit_metadata(new, workspace.settings.clustering) if new else nothing)

    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "parquet"},
        code_version=ASSIGNMENTS.version,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_WEEKLY),
        deps=[
            dg.AssetDep("stratified_samples", partition_mapping=WEEKS),
            dg.AssetDep("embeddings", partition_mapping=WEEKS),
            dg.AssetDep("clusters", partition_mapping=FORCE),
            dg.AssetDep("taxonomy_refits", partition_mapping=REFITS_SINCE),
            dg.AssetDep("golden_ledger", partition_mapping=dg.AllPartitionMapping()),
        ],
        description="Where each sampled trace of the four-week window and each golden case as of the week falls: bin, distance, "
        "novelty, weight. The whole window goes by the one taxonomy in force on the week's Monday; in its first week the bin "
        "under the one before stands beside it.",
    )
    def bin_assignments(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        for week in dates(context):
            made_from = ASSIGNMENTS.made_from(workspace, week)
            rows = assign_week(workspace, week)
            workspace.lake.write(BIN_ASSIGNMENTS, week, rows, made_from=made_from)
            report(context, week, _assignment_metadata(rows))

    return [clusters, bin_assignments]


def place_golden(
    home: Home, taxonomy: Taxonomy, cases: list[CaseVersion], outgoing: Taxonomy | None = None
) -> pl.DataFrame:
    """Rows of ``bin_assignments`` for golden cases, placed by the same frozen rule as production.

    ``outgoing`` is the taxonomy of the week before, under which the bin is given too.
    """
    if not cases:
        return pl.DataFrame(schema=BIN_ASSIGNMENTS.schema)
    scrubber = Scrubber(home.settings.privacy)
    embedder = Embedder(home.settings.embedding, home.cache)
    texts = [scrubber.scrub(case.input).text for case in cases]
    vectors = embedder.embed(texts)
    hashes = [text_hash(text) for text in texts]
    placed = _place(home, taxonomy, outgoing, np.stack([vectors[key] for key in hashes]), [embedder.model_id])
    return _completed(
        placed.with_columns(
            side=pl.lit("golden"),
            item_id=pl.Series([case.case_id for case in cases]),
            day=pl.Series([date.fromisoformat(case.effective_on) for case in cases]),
            text_hash=pl.Series(hashes),
            case_weight=pl.Series([case.weight for case in cases]),
            origin=pl.Series([case.origin for case in cases]),
            is_random_draw=pl.Series([case.is_random_draw for case in cases]),
            session_id=pl.Series(
                [case.provenance.session_id if case.provenance else None for case in cases], dtype=pl.String
            ),
        ),
        taxonomy,
    )


def assign_week(home: Home, week: date) -> pl.DataFrame:
    """Rows of ``bin_assignments`` of a week; none where its window holds no sampled traces.

    Raises:
        CannotTellError: a day of the window or the taxonomy in force was never computed.
        EvalflowError: the vectors cannot be placed.
    """
    window = home.calendar.window(week)
    closed_days = [day for day in window if day < home.calendar.now]
    home.lake.require(STRATIFIED_SAMPLES, closed_days)
    home.lake.require(EMBEDDINGS, closed_days)
    sample = home.lake.read(
        STRATIFIED_SAMPLES,
        window,
        ["trace_id", "session_id", "text_hash", "inclusion_probability", "day_traces"],
        with_key=True,
    )
    cases = home.ledger.as_of(sunday_of(week))
    if sample.is_empty():
        return pl.DataFrame(schema=BIN_ASSIGNMENTS.schema)
    taxonomy, outgoing = taxonomy_in_force(home, week), outgoing_taxonomy(home, week)
    texts = home.lake.read(EMBEDDINGS, window).unique("text_hash", keep="first", maintain_order=True)
    placed = _place(home, taxonomy, outgoing, vectors_of(texts["vector"]), texts["model_id"].unique().to_list())
    volumes = {row[0]: int(row[1]) for row in sample.group_by("day").agg(pl.col("day_traces").first()).iter_rows()}
    steady = steady_state_masses(volumes, home.settings.coverage.max_day_mass_sigmas)
    traffic = traffic_masses(volumes)
    cap = home.settings.sampling.max_weight_ratio
    weight, is_capped = row_weights(sample["day"], sample["inclusion_probability"], steady, cap)
    production = sample.with_columns(
        weight,
        is_capped,
        row_weights(sample["day"], sample["inclusion_probability"], traffic, cap).weight.alias("weight_traffic"),
        pl.lit(steady.weighting).alias("weighting"),
        pl.lit("production").alias("side"),
    ).join(placed.with_columns(texts["text_hash"]), on="text_hash", how="inner", maintain_order="left")
    if len(production) != len(sample):
        raise dg.Failure(
            f"{len(sample) - len(production)} sampled traces of the window of {week} have no embedding; "
            "materialize embeddings for the window again."
        )
    production = _completed(production.rename({"trace_id": "item_id"}), taxonomy).sort("day", "item_id")
    return pl.concat([production, place_golden(home, taxonomy, cases, outgoing)])


def _place(
    home: Home, taxonomy: Taxonomy, outgoing: Taxonomy | None, vectors: np.ndarray, model_ids: list[str]
) -> pl.DataFrame:
    """Places under the taxonomy in force, with the bin under the outgoing one where there is one of the same model."""
    voters = home.settings.clustering.vote_neighbors
    placed = taxonomy.place(vectors, model_ids, voters)
    if outgoing is None or outgoing.model_id != taxonomy.model_id:
        return placed
    before = outgoing.place(vectors, model_ids, voters)["bin"].alias("previous_bin")
    return placed.with_columns(before, pl.lit(outgoing.taxonomy_id).alias("previous_taxonomy_id"))


def _completed(rows: pl.DataFrame, taxonomy: Taxonomy) -> pl.DataFrame:
    """The rows with the taxonomy's own columns and nulls for what the side does not have."""
    known = rows.with_columns(taxonomy_id=pl.lit(taxonomy.taxonomy_id), is_in_sample=pl.lit(taxonomy.is_in_sample))
    return known.select(
        (pl.col(name) if name in known.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in BIN_ASSIGNMENTS.schema.items()
    )


def _assignment_metadata(rows: pl.DataFrame) -> dict[str, Any]:
    production = rows.filter(pl.col("side") == "production")
    return {
        "dagster/partition_row_count": len(rows),
        "sampled traces": len(production),
        "golden cases": len(rows) - len(production),
        "taxonomy": rows["taxonomy_id"][0] if len(rows) else None,
        "taxonomy before": rows["previous_taxonomy_id"][0] if len(rows) else None,
        "novel share": float(production.filter(pl.col("is_novel"))["weight"].sum()) if len(production) else None,
        **weight_facts(production),
        "reason": None if len(rows) else "no traces in the window",
    }
