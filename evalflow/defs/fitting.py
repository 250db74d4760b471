"""Fitting a taxonomy: its sample, its clusters, which of them are those of the taxonomy before, what they are called.

The same for a month's own fit and an early refit. Keep out: which days are fitted on, and when (``clusters.py``,
``refits.py``).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import dagster as dg
import numpy as np
import polars as pl

from evalflow.adapters.charts import as_cell
from evalflow.adapters.embedder import vectors_of
from evalflow.adapters.home import Home
from evalflow.adapters.naming import Named, Namer, Unnamed
from evalflow.adapters.tables import CLUSTER_LINEAGE, CLUSTERS, EMBEDDINGS, STRATIFIED_SAMPLES, TAXONOMY_TEXTS
from evalflow.adapters.taxonomy import (
    Fitted,
    Taxonomy,
    cluster_name,
    cluster_number,
    fitted_before,
    load_if_any,
    refuse_nan,
)
from evalflow.core.clustering import NOISE, Fit, FitPlan, assign, fit_taxonomy, novel_calibration
from evalflow.core.identity import NOWHERE, Identity, all_anew, match_clusters, numbers_of
from evalflow.core.labels import EXAMPLES_PER_NAME, LabelSource, cluster_label, cluster_terms, unique_label
from evalflow.core.lineage import fingerprint
from evalflow.core.weighting import mass_by
from evalflow.defs.station import parents
from evalflow.errors import UsageError
from evalflow.settings import Clustering

SHOWN_CLUSTERS, SHOWN_KINSHIPS = 15, 40
MOVING = "the month is not over, so that its clusters may still change"
"""Why a cluster of a fit that will be made again has no name yet."""


class FitWindow(NamedTuple):
    """The days that a taxonomy is fitted on, what they are called, and whether it will be fitted again as they fill."""

    days: list[date]
    name: str
    is_provisional: bool


@dataclass(frozen=True)
class NewTaxonomy:
    """What a fit gave: rows of the three tables, and how its clusters came to their names."""

    clusters: pl.DataFrame
    texts: pl.DataFrame
    lineage: pl.DataFrame
    named: Named | None
    note: str | None


def fit_inputs(home: Home, fitted: Fitted, window: FitWindow) -> Iterable[Any]:
    """What a fit is made from; the judge's settings are no part of it, since a name is no reason to fit again."""
    yield home.settings.clustering.model_dump()
    yield window.name
    yield window.is_provisional
    for before in fitted_before(home, fitted):
        yield from parents(home, before.clusters, [before.key])
        if not home.lake.read(before.clusters, [before.key], ["cluster_id"]).is_empty():
            break
    yield from parents(home, STRATIFIED_SAMPLES, window.days)
    yield from parents(home, EMBEDDINGS, window.days)


def namer_of(home: Home) -> Namer | None:
    """Who names clusters in one run: the judge's endpoint where it is configured."""
    return Namer(home.settings.judge, home.cache) if home.settings.judge.model else None


def fit_new(home: Home, fitted: Fitted, window: FitWindow, namer: Namer | None) -> NewTaxonomy | None:
    """Fit a taxonomy on the sampled texts of a window; None when there are none.

    Raises:
        BadInputError: a vector holds NaN.
        UsageError: the vectors come from two models.
    """
    texts = _texts_of(home, window.days)
    if texts.is_empty():
        return None
    settings = home.settings.clustering
    previous = _previous(home, fitted)
    model_ids = texts["model_id"].unique().sort().to_list()
    if len(model_ids) > 1:
        raise UsageError(
            f"Vectors of {model_ids[0]} and {model_ids[1]} cannot be fitted together in {fitted}; materialize embeddings of "
            f"{window.name} again with one model."
        )
    vectors, mass = vectors_of(texts["vector"]), texts["mass"].to_numpy()
    refuse_nan(vectors)
    n_fit = min(len(texts), settings.max_fit_texts)  # hashes are uniform, so the first ones are a random subset
    sample = texts.head(n_fit)
    plan = FitPlan(**{name: getattr(settings, name) for name in FitPlan.__dataclass_fields__})
    fit = fit_taxonomy(vectors[:n_fit], plan, previous.min_cluster_share if previous else None)
    own = assign(vectors, vectors[:n_fit], fit.labels, np.inf, settings.vote_neighbors).cluster
    identity, note = _identity(model_ids[0], vectors, mass, own, fit.n_clusters, previous, settings)
    old_ids = previous.clusters["cluster_id"].to_list() if previous else []
    n_before = previous.n_ids if previous else 0
    numbers = numbers_of(identity, fit.n_clusters, [cluster_number(name) for name in old_ids], n_before)
    ids = [cluster_name(number) for number in numbers]
    share = np.bincount(own, weights=mass, minlength=fit.n_clusters) / mass.sum()
    is_edge = [bool(part < settings.edge_share) for part in share]
    terms, examples = cluster_terms(sample["text"].to_list(), fit.labels), _examples(sample, vectors[:n_fit], fit)
    # The texts and ids of a month that still fills move with every fit: a name would be paid for each time.
    is_moving = window.is_provisional and not home.calendar.is_closed
    labels = _labels(identity, previous, terms, examples, namer, is_moving)
    cluster_ids = [None if n == NOISE else ids[n] for n in fit.labels]
    taxonomy_id = _taxonomy_id(fitted, window, model_ids[0], fit, sample, cluster_ids, is_edge)
    occurs = _weeks_of(home, window.days, texts)
    rows = pl.DataFrame(
        {
            "cluster_id": ids,
            "label": labels.labels,
            "label_source": labels.sources,
            "terms": terms,
            "example": [own_examples[0] for own_examples in examples],
            "n_texts": np.bincount(fit.labels[fit.labels != NOISE], minlength=fit.n_clusters),
            "traffic_share": share,
            "is_edge": is_edge,
        },
        schema_overrides={"terms": pl.List(pl.String)},
    ).with_columns(
        taxonomy_id=pl.lit(taxonomy_id),
        previous_taxonomy_id=pl.lit(previous.taxonomy_id if previous else None, pl.String),
        fitted_on=pl.lit(window.name),
        is_provisional=pl.lit(window.is_provisional),
        method=pl.lit(settings.method),
        min_cluster_share=pl.lit(fit.min_cluster_share),
        n_clusters=pl.lit(fit.n_clusters),
        n_ids=pl.lit(max(numbers, default=0) if previous is None else max([*numbers, previous.n_ids])),
        n_fit_texts=pl.lit(n_fit),
        noise_share=pl.lit(float((fit.labels == NOISE).mean())),
        dbcv=pl.lit(fit.dbcv).fill_nan(None),
        novel_above=pl.lit(fit.novel_above),
        novel_calibration=pl.lit(novel_calibration(vectors, mass, occurs, n_fit, fit.novel_above), pl.Float64),
        model_id=pl.lit(model_ids[0]),
        seed=pl.lit(settings.seed),
    )
    frozen = sample.select(
        "text_hash",
        pl.Series("cluster_id", cluster_ids, pl.String),
        pl.lit(taxonomy_id).alias("taxonomy_id"),
        "vector",
    )
    return NewTaxonomy(rows, frozen, _lineage_rows(identity, rows, previous), labels.named, note)


def write_new(home: Home, fitted: Fitted, new: NewTaxonomy | None, made_from: str) -> None:
    """Store a fit; the table of clusters, which says that there is one, comes last. Without one, zero rows."""
    lake, key = home.lake, fitted.key
    lake.write(
        fitted.lineage, key, new.lineage if new else pl.DataFrame(schema=CLUSTER_LINEAGE.schema), made_from=made_from
    )
    lake.write(fitted.texts, key, new.texts if new else pl.DataFrame(schema=TAXONOMY_TEXTS.schema), made_from=made_from)
    lake.write(fitted.clusters, key, new.clusters if new else pl.DataFrame(schema=CLUSTERS.schema), made_from=made_from)


# -- sample ----------------------------------------------------------------------------------------------------


def _texts_of(home: Home, days: list[date]) -> pl.DataFrame:
    """Distinct sampled texts of the days with vector and traffic mass, in the order of their hashes."""
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


def _weeks_of(home: Home, days: list[date], texts: pl.DataFrame) -> np.ndarray:
    """Whether each text occurs in each week that the days touch: (texts, weeks)."""
    sampled = home.lake.read(STRATIFIED_SAMPLES, days, ["text_hash"], with_key=True)
    weeks, column = np.unique(sampled["day"].dt.truncate("1w").to_numpy(), return_inverse=True)
    rows = texts.select("text_hash").with_row_index("row")
    row = sampled.join(rows, on="text_hash", how="left", maintain_order="left")["row"]
    is_known = row.is_not_null().to_numpy()
    occurs = np.zeros((len(texts), len(weeks)), dtype=bool)
    occurs[row.drop_nulls().to_numpy(), column[is_known]] = True
    return occurs


def _taxonomy_id(
    fitted: Fitted,
    window: FitWindow,
    model_id: str,
    fit: Fit,
    sample: pl.DataFrame,
    cluster_ids: list[str | None],
    is_edge: list[bool],
) -> str:
    """Named by all that places a text: a recomputation that moves none keeps the id."""
    content = [window.name, model_id, fit.novel_above, sample["text_hash"].to_list(), cluster_ids, is_edge]
    from_when = f"{fitted.key:%Y-%m-%d}" if fitted.is_refit else f"{fitted.key:%Y-%m}"
    return f"{from_when}-{fingerprint(content)[:8]}"


# -- identity --------------------------------------------------------------------------------------------------


def _previous(home: Home, fitted: Fitted) -> Taxonomy | None:
    """The taxonomy in force before, passing over those that found no texts."""
    for before in fitted_before(home, fitted):
        taxonomy = load_if_any(home.lake, before)
        if taxonomy is not None:
            return taxonomy
    return None


def _identity(
    model_id: str,
    vectors: np.ndarray,
    mass: np.ndarray,
    own: np.ndarray,
    n_new: int,
    previous: Taxonomy | None,
    settings: Clustering,
) -> tuple[Identity, str | None]:
    """What became of the previous taxonomy's clusters in the texts of this fit's window, and a note where none can be told."""
    if previous is None:
        return all_anew(n_new, 0), None
    n_old = len(previous.clusters)
    if previous.model_id != model_id:
        note = f"no cluster could be matched: {previous.taxonomy_id} was fitted with {previous.model_id}, this one with {model_id}"
        return all_anew(n_new, n_old), note
    placed = previous.place(vectors, [model_id], settings.vote_neighbors)
    number = {name: i for i, name in enumerate(previous.clusters["cluster_id"])}
    old = np.array([number[name] for name in placed["cluster_id"]], dtype=int)
    old[placed["is_novel"].to_numpy()] = NOWHERE
    return match_clusters(mass, own, old, n_new, n_old), None


def _lineage_rows(identity: Identity, rows: pl.DataFrame, previous: Taxonomy | None) -> pl.DataFrame:
    ids, labels = rows["cluster_id"].to_list(), rows["label"].to_list()
    old_ids = previous.clusters["cluster_id"].to_list() if previous else []
    old_labels = previous.clusters["label"].to_list() if previous else []
    return pl.DataFrame(
        [
            {
                "cluster_id": None if kin.new is None else ids[kin.new],
                "previous_cluster_id": None if kin.old is None else old_ids[kin.old],
                "relation": kin.relation,
                "jaccard": kin.jaccard,
                "share_of_previous": kin.share_of_previous,
                "share_of_own": kin.share_of_own,
                "label": None if kin.new is None else labels[kin.new],
                "previous_label": None if kin.old is None else old_labels[kin.old],
                "taxonomy_id": rows["taxonomy_id"][0],
                "previous_taxonomy_id": previous.taxonomy_id if previous else None,
            }
            for kin in identity.kinships
        ],
        schema=CLUSTER_LINEAGE.schema,
    )


# -- labels ----------------------------------------------------------------------------------------------------


class _Labels(NamedTuple):
    labels: list[str]
    sources: list[LabelSource]
    named: Named | None


def _labels(
    identity: Identity,
    previous: Taxonomy | None,
    terms: list[list[str]],
    examples: list[list[str]],
    namer: Namer | None,
    is_moving: bool,
) -> _Labels:
    """A matched cluster keeps the name that a model gave it; any other gets one, or else its terms. No two are alike.

    A matched cluster without a name keeps the terms that it is known by. While the fit moves nobody is asked.
    """
    old = previous.clusters.select("label", "label_source").rows() if previous else []
    before: dict[int, tuple[str, str]] = {new: old[number] for new, number in identity.kept.items()}
    kept = {new: label for new, (label, source) in before.items() if source != "terms"}
    unnamed = [Unnamed(new, terms[new], examples[new]) for new in range(len(terms)) if new not in kept]
    named = None
    if namer and unnamed:
        named = Named(why_not={MOVING: len(unnamed)}) if is_moving else namer.name(unnamed)
    names = named.names if named else {}
    by_terms = {new: label for new, (label, _) in before.items() if new not in kept and new not in names}
    labels, sources, taken = [], [], {*kept.values(), *by_terms.values()}
    for new in range(len(terms)):
        known: LabelSource = "kept" if new in kept else "llm" if new in names else "terms"
        label = kept.get(new) or by_terms.get(new)
        if label is None:
            label = unique_label(names.get(new) or cluster_label(terms[new], examples[new][0]), taken)
        taken.add(label)
        labels.append(label)
        sources.append(known)
    return _Labels(labels, sources, named)


def _examples(sample: pl.DataFrame, vectors: np.ndarray, fit: Fit) -> list[list[str]]:
    """Per cluster the texts nearest to its centre, nearest first."""
    examples = []
    for number in range(fit.n_clusters):
        members = np.flatnonzero(fit.labels == number)
        closeness = vectors[members] @ vectors[members].mean(axis=0)
        nearest = members[np.argsort(-closeness, kind="stable")[:EXAMPLES_PER_NAME]]
        examples.append([sample["text"][int(row)] for row in nearest])
    return examples


# -- metadata --------------------------------------------------------------------------------------------------


def fit_metadata(new: NewTaxonomy, settings: Clustering) -> dict[str, Any]:
    rows, head = new.clusters, new.clusters.row(0, named=True)
    n = head["n_clusters"]
    notes = [new.note] if new.note else []
    if not settings.fewest_clusters <= n <= settings.most_clusters:
        notes.append(
            f"{n} clusters: outside {settings.fewest_clusters} to {settings.most_clusters}, because the sample is small or uniform"
        )
    largest = [
        f"| {row['cluster_id']} | {as_cell(row['label'])} | {row['traffic_share']:.1%} |"
        for row in rows.head(SHOWN_CLUSTERS).iter_rows(named=True)
    ]
    return {
        "dagster/partition_row_count": len(rows),
        "taxonomy": head["taxonomy_id"],
        "fitted on": head["fitted_on"] + (" (provisional)" if head["is_provisional"] else ""),
        "clusters": n,
        "fit texts": head["n_fit_texts"],
        "noise share at fit": head["noise_share"],
        "relative DBCV": head["dbcv"],
        "cluster share used": head["min_cluster_share"],
        "novel share of its own window": head["novel_calibration"],
        "note": "; ".join(notes) or None,
        "largest clusters": dg.MetadataValue.md(
            "\n".join(["| id | label | share of traffic |", "|---|---|---|", *largest])
        ),
        **_lineage_metadata(new.lineage),
        **_naming_metadata(new.named),
    }


def _lineage_metadata(lineage: pl.DataFrame) -> dict[str, Any]:
    previous = lineage["previous_taxonomy_id"][0] if len(lineage) else None
    if previous is None:
        return {}
    counts = dict(lineage["relation"].value_counts().iter_rows())
    shown = lineage.filter(pl.col("relation") != "matched").head(SHOWN_KINSHIPS)
    table = [
        f"| {row['relation']} | {_named(row, 'previous_')} | {_named(row, '')} | "
        f"{'' if row['jaccard'] is None else format(row['jaccard'], '.2f')} |"
        for row in shown.iter_rows(named=True)
    ]
    return {
        "taxonomy before": previous,
        "matched clusters": counts.get("matched", 0),
        "split into": counts.get("split", 0),
        "merged from": counts.get("merged", 0),
        "born clusters": counts.get("born", 0),
        "died clusters": counts.get("died", 0),
        "changes": dg.MetadataValue.md(
            "\n".join(["| relation | before | now | Jaccard |", "|---|---|---|---|", *table]) if table else "none"
        ),
    }


def _named(row: dict[str, Any], prefix: str) -> str:
    own = row[f"{prefix}cluster_id"]
    return "" if own is None else f"{own} {as_cell(row[f'{prefix}label'])}"


def _naming_metadata(named: Named | None) -> dict[str, Any]:
    if named is None:
        return {}
    return {
        "named by the model": len(named.names),
        "names from the cache": named.n_cached,
        "paid for names (usd)": named.paid_usd,
        "without a name": "; ".join(f"{n}: {as_cell(reason)}" for reason, n in sorted(named.why_not.items())) or None,
    }
