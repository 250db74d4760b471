"""Station clusters: the month's frozen taxonomy, and where each sampled trace and golden case falls in it."""

from collections.abc import Iterable
from datetime import date
from typing import Any, NamedTuple

import dagster as dg
import numpy as np
import polars as pl

from evalflow.adapters.embedder import Embedder, vectors_of
from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import BIN_ASSIGNMENTS, CLUSTERS, EMBEDDINGS, STRATIFIED_SAMPLES, TAXONOMY_TEXTS
from evalflow.adapters.taxonomy import Taxonomy, cluster_name, load_taxonomy
from evalflow.core.calendar import next_month, previous_month, sunday_of
from evalflow.core.clustering import NOISE, Fit, FitPlan, assign, fit_taxonomy
from evalflow.core.labels import cluster_label, cluster_terms
from evalflow.core.text import text_hash
from evalflow.core.weighting import mass_by, row_weights, steady_state_masses, traffic_masses
from evalflow.defs.partitions import BEFORE, FORCE, PREVIOUS, WEEKS, Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_MONTHLY, FRESH_WEEKLY, OWNERS, SINGLE_RUN, Station, dates, parents, report
from evalflow.settings import Clustering

GROUP = "clusters"


def _taxonomy_inputs(home: Home, month: date) -> Iterable[Any]:
    chosen = fit_month(home, month)
    yield home.settings.clustering.model_dump()
    yield str(chosen.month)
    yield chosen.is_provisional
    yield _held_share(home, month)
    yield from parents(home, STRATIFIED_SAMPLES, home.calendar.days_of_month(chosen.month))
    yield from parents(home, EMBEDDINGS, home.calendar.days_of_month(chosen.month))


def _assignment_inputs(home: Home, week: date) -> Iterable[Any]:
    yield home.settings.clustering.vote_neighbors
    yield home.settings.coverage.max_day_mass_sigmas
    yield home.settings.privacy.model_dump()
    yield home.ledger.fingerprint_as_of(sunday_of(week))
    yield from parents(home, CLUSTERS, [home.calendar.month_in_force(week)])
    yield from parents(home, STRATIFIED_SAMPLES, home.calendar.window(week))
    yield from parents(home, EMBEDDINGS, home.calendar.window(week))


TAXONOMY = Station("clusters", CLUSTERS, "month", "1", _taxonomy_inputs)
ASSIGNMENTS = Station("bin_assignments", BIN_ASSIGNMENTS, "week", "1", _assignment_inputs)


class FitMonth(NamedTuple):
    """The month whose texts a taxonomy is fitted on, and whether it will be fitted again as the month fills."""

    month: date
    is_provisional: bool


def fit_month(home: Home, month: date) -> FitMonth:
    """The month before, when it holds enough texts; else the month itself so far."""
    calendar, before = home.calendar, previous_month(month)
    n_before = _count_texts(home, calendar.days_of_month(before))
    if n_before >= home.settings.clustering.min_fit_texts:
        return FitMonth(before, False)
    if n_before and not _count_texts(home, calendar.days_of_month(month)):
        return FitMonth(before, False)
    return FitMonth(month, is_provisional=calendar.now < next_month(month))


def _count_texts(home: Home, days: list[date]) -> int:
    return home.lake.read(STRATIFIED_SAMPLES, days, ["text_hash"])["text_hash"].n_unique()


def _held_share(home: Home, month: date) -> float | None:
    """The cluster share of last month's taxonomy, which is kept so that figures stay comparable."""
    before = home.lake.read(CLUSTERS, [previous_month(month)], ["min_cluster_share"])
    return float(before["min_cluster_share"][0]) if len(before) else None


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
        for month in dates(context):
            chosen = fit_month(workspace, month)
            made_from = TAXONOMY.made_from(workspace, month)
            texts = _fit_texts(workspace, chosen.month)
            if texts.is_empty():
                workspace.lake.write(
                    TAXONOMY_TEXTS, month, pl.DataFrame(schema=TAXONOMY_TEXTS.schema), made_from=made_from
                )
                workspace.lake.write(CLUSTERS, month, pl.DataFrame(schema=CLUSTERS.schema), made_from=made_from)
                report(context, month, {"dagster/partition_row_count": 0, "reason": "no sampled texts to fit on"})
                continue
            sample, rows = _fit(workspace, month, chosen, texts, made_from)
            workspace.lake.write(TAXONOMY_TEXTS, month, sample, made_from=made_from)
            workspace.lake.write(CLUSTERS, month, rows, made_from=made_from)
            report(context, month, _taxonomy_metadata(rows, workspace.settings.clustering))

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
            dg.AssetDep("golden_ledger", partition_mapping=dg.AllPartitionMapping()),
        ],
        description="Where each sampled trace of the four-week window and each golden case as of the week falls: bin, distance, "
        "novelty, weight. The whole window goes by the one taxonomy in force on the week's Monday.",
    )
    def bin_assignments(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        for week in dates(context):
            rows = _assign_week(workspace, week)
            workspace.lake.write(BIN_ASSIGNMENTS, week, rows, made_from=ASSIGNMENTS.made_from(workspace, week))
            report(context, week, _assignment_metadata(rows))

    return [clusters, bin_assignments]


def place_golden(home: Home, taxonomy: Taxonomy, cases: list[CaseVersion]) -> pl.DataFrame:
    """Rows of ``bin_assignments`` for golden cases, placed by the same frozen rule as production."""
    if not cases:
        return pl.DataFrame(schema=BIN_ASSIGNMENTS.schema)
    scrubber = Scrubber(home.settings.privacy)
    embedder = Embedder(home.settings.embedding, home.cache)
    texts = [scrubber.scrub(case.input).text for case in cases]
    vectors = embedder.embed(texts)
    hashes = [text_hash(text) for text in texts]
    placed = taxonomy.place(
        np.stack([vectors[key] for key in hashes]), [embedder.model_id], home.settings.clustering.vote_neighbors
    )
    return _completed(
        placed.with_columns(
            side=pl.lit("golden"),
            item_id=pl.Series([case.case_id for case in cases]),
            day=pl.Series([date.fromisoformat(case.effective_on) for case in cases]),
            text_hash=pl.Series(hashes),
            case_weight=pl.Series([case.weight for case in cases]),
        ),
        taxonomy,
    )


def _fit_texts(home: Home, month: date) -> pl.DataFrame:
    """Distinct sampled texts of a month with vector and traffic mass, in the order of their hashes."""
    days = home.calendar.days_of_month(month)
    sample = home.lake.read(STRATIFIED_SAMPLES, days, ["text_hash", "text", "inclusion_probability"])
    vectors = home.lake.read(EMBEDDINGS, days).unique("text_hash", keep="first", maintain_order=True)
    mass = mass_by(sample["text_hash"], 1 / sample["inclusion_probability"]).rename({"key": "text_hash"})
    return (
        sample.select("text_hash", "text")
        .unique("text_hash", keep="first", maintain_order=True)
        .join(mass, on="text_hash", how="inner")
        .join(vectors, on="text_hash", how="inner")
        .sort("text_hash")
    )


def _fit(
    home: Home, month: date, chosen: FitMonth, texts: pl.DataFrame, made_from: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    settings = home.settings.clustering
    fitted = texts.head(settings.max_fit_texts)  # hashes are uniform, so the first ones are a random subset
    vectors = vectors_of(fitted["vector"])
    plan = FitPlan(**{name: getattr(settings, name) for name in FitPlan.__dataclass_fields__})
    fit = fit_taxonomy(vectors, plan, _held_share(home, month))
    taxonomy_id = f"{month:%Y-%m}-{made_from[:8]}"
    sample = fitted.select(
        "text_hash",
        pl.Series("cluster_id", [None if n == NOISE else cluster_name(n) for n in fit.labels], pl.String),
        pl.lit(taxonomy_id).alias("taxonomy_id"),
        "vector",
    )
    rows = _cluster_rows(texts, fitted, vectors, fit, settings).with_columns(
        taxonomy_id=pl.lit(taxonomy_id),
        fitted_on=pl.lit(f"{chosen.month:%Y-%m}"),
        is_provisional=pl.lit(chosen.is_provisional),
        method=pl.lit(settings.method),
        min_cluster_share=pl.lit(fit.min_cluster_share),
        n_clusters=pl.lit(fit.n_clusters),
        n_fit_texts=pl.lit(len(fitted)),
        noise_share=pl.lit(float((fit.labels == NOISE).mean())),
        dbcv=pl.lit(fit.dbcv).fill_nan(None),
        novel_above=pl.lit(fit.novel_above),
        model_id=pl.lit(texts["model_id"][0]),
        seed=pl.lit(settings.seed),
    )
    return sample, rows


def _cluster_rows(
    texts: pl.DataFrame, fitted: pl.DataFrame, vectors: np.ndarray, fit: Fit, settings: Clustering
) -> pl.DataFrame:
    """Per cluster: size, share of the fit month's traffic, label, and the example nearest to its centre."""
    everything = assign(vectors_of(texts["vector"]), vectors, fit.labels, np.inf, settings.vote_neighbors)
    mass = np.bincount(everything.cluster, weights=texts["mass"].to_numpy(), minlength=fit.n_clusters)
    share = mass / mass.sum()
    terms = cluster_terms(fitted["text"].to_list(), fit.labels)
    rows = []
    for number in range(fit.n_clusters):
        members = np.flatnonzero(fit.labels == number)
        centre = vectors[members].mean(axis=0)
        example = fitted["text"][int(members[np.argmax(vectors[members] @ centre)])]
        rows.append(
            {
                "cluster_id": cluster_name(number),
                "label": cluster_label(terms[number], example),
                "terms": terms[number],
                "example": example,
                "n_texts": len(members),
                "traffic_share": float(share[number]),
                "is_edge": bool(share[number] < settings.edge_share),
            }
        )
    return pl.DataFrame(rows)


def _assign_week(home: Home, week: date) -> pl.DataFrame:
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
    taxonomy = load_taxonomy(home.lake, home.calendar.month_in_force(week))
    texts = home.lake.read(EMBEDDINGS, window).unique("text_hash", keep="first", maintain_order=True)
    placed = taxonomy.place(
        vectors_of(texts["vector"]), texts["model_id"].unique().to_list(), home.settings.clustering.vote_neighbors
    )
    volumes = {row[0]: int(row[1]) for row in sample.group_by("day").agg(pl.col("day_traces").first()).iter_rows()}
    steady = steady_state_masses(volumes, home.settings.coverage.max_day_mass_sigmas)
    traffic = traffic_masses(volumes)
    production = sample.with_columns(
        row_weights(sample["day"], sample["inclusion_probability"], steady).alias("weight"),
        row_weights(sample["day"], sample["inclusion_probability"], traffic).alias("weight_traffic"),
        pl.lit(steady.weighting).alias("weighting"),
        pl.lit("production").alias("side"),
    ).join(placed.with_columns(texts["text_hash"]), on="text_hash", how="inner", maintain_order="left")
    if len(production) != len(sample):
        raise dg.Failure(
            f"{len(sample) - len(production)} sampled traces of the window of {week} have no embedding; "
            "materialize embeddings for the window again."
        )
    production = _completed(production.rename({"trace_id": "item_id"}), taxonomy).sort("day", "item_id")
    return pl.concat([production, place_golden(home, taxonomy, cases)])


def _completed(rows: pl.DataFrame, taxonomy: Taxonomy) -> pl.DataFrame:
    """The rows with the taxonomy's own columns and nulls for what the side does not have."""
    known = rows.with_columns(taxonomy_id=pl.lit(taxonomy.taxonomy_id), is_in_sample=pl.lit(taxonomy.is_in_sample))
    return known.select(
        (pl.col(name) if name in known.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in BIN_ASSIGNMENTS.schema.items()
    )


def _taxonomy_metadata(rows: pl.DataFrame, settings: Clustering) -> dict[str, Any]:
    head = rows.row(0, named=True)
    n = head["n_clusters"]
    largest = [
        f"| {r['cluster_id']} | {r['label']} | {r['traffic_share']:.1%} |" for r in rows.head(15).iter_rows(named=True)
    ]
    note = None
    if not settings.fewest_clusters <= n <= settings.most_clusters:
        note = f"{n} clusters: outside {settings.fewest_clusters} to {settings.most_clusters}, because the sample is small or uniform"
    return {
        "dagster/partition_row_count": len(rows),
        "taxonomy": head["taxonomy_id"],
        "fitted on": head["fitted_on"] + (" (provisional)" if head["is_provisional"] else ""),
        "clusters": n,
        "fit texts": head["n_fit_texts"],
        "noise share at fit": head["noise_share"],
        "relative DBCV": head["dbcv"],
        "cluster share used": head["min_cluster_share"],
        "note": note,
        "largest clusters": dg.MetadataValue.md(
            "\n".join(["| id | label | share of traffic |", "|---|---|---|", *largest])
        ),
    }


def _assignment_metadata(rows: pl.DataFrame) -> dict[str, Any]:
    production = rows.filter(pl.col("side") == "production")
    return {
        "dagster/partition_row_count": len(rows),
        "sampled traces": len(production),
        "golden cases": len(rows) - len(production),
        "taxonomy": rows["taxonomy_id"][0] if len(rows) else None,
        "novel share": float(production.filter(pl.col("is_novel"))["weight"].sum()) if len(production) else None,
        "reason": None if len(rows) else "no traces in the window",
    }
