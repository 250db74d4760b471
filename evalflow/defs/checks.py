"""Asset checks, one property each: broken data blocks what comes after it, drift only warns."""

from collections.abc import Callable
from datetime import date

import dagster as dg
import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    CLUSTERS,
    COVERAGE_METRICS,
    EMBEDDINGS,
    RAW_TRACES,
    STRATIFIED_SAMPLES,
)
from evalflow.defs.resources import HomeResource

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
TOLERANCE = 1e-6


def _dates(context: dg.AssetCheckExecutionContext) -> list[date]:
    return [date.fromisoformat(key) for key in context.op_execution_context.partition_keys]


def _check(
    asset: str,
    name: str,
    description: str,
    partitions_def: dg.PartitionsDefinition,
    find: Callable[[Home, date], str | None],
    *,
    blocking: bool,
) -> dg.AssetChecksDefinition:
    """A check that looks at each partition of the run; ``find`` returns what is wrong, or None."""

    @dg.asset_check(asset=asset, name=name, description=description, blocking=blocking, partitions_def=partitions_def)
    def run_check(context: dg.AssetCheckExecutionContext, home: HomeResource) -> dg.AssetCheckResult:
        workspace = home.open()
        found = {str(key): what for key in _dates(context) if (what := find(workspace, key))}
        return dg.AssetCheckResult(
            passed=not found,
            severity=ERROR if blocking else WARN,
            description="; ".join(f"{key}: {what}" for key, what in list(found.items())[:5]) or None,
            metadata={"partitions looked at": len(_dates(context)), "partitions with findings": len(found)},
        )

    return run_check


def station_checks(
    daily: dg.PartitionsDefinition, weekly: dg.PartitionsDefinition, monthly: dg.PartitionsDefinition
) -> list[dg.AssetChecksDefinition]:
    """Every check of the pipeline, in flow order."""
    return [
        _check(
            "raw_traces",
            "trace_ids_are_unique",
            "A trace_id stands once in its day.",
            daily,
            _duplicate_ids,
            blocking=True,
        ),
        _check(
            "raw_traces",
            "timestamps_lie_in_their_day",
            "Every trace's UTC day is its partition.",
            daily,
            _wrong_day,
            blocking=True,
        ),
        _check(
            "stratified_samples",
            "inclusion_probabilities_are_probabilities",
            "Every inclusion probability lies in (0, 1]: without that no production figure is unbiased.",
            daily,
            _bad_probability,
            blocking=True,
        ),
        _check(
            "stratified_samples",
            "weights_recover_the_volume",
            "The sum of 1/pi lies within five standard deviations of the day's true number of traces.",
            daily,
            _volume_missed,
            blocking=False,
        ),
        _check(
            "embeddings",
            "vectors_are_unit_and_of_one_model",
            "Cosines need unit vectors of one model.",
            daily,
            _bad_vector,
            blocking=True,
        ),
        _check(
            "clusters",
            "cluster_count_is_usable",
            "The number of clusters lies in the allowed band; small samples may give fewer.",
            monthly,
            _cluster_count,
            blocking=False,
        ),
        _check(
            "bin_assignments",
            "weights_sum_to_one",
            "Both weightings of the window's traces sum to one.",
            weekly,
            _weights_off,
            blocking=True,
        ),
        _check(
            "coverage_metrics",
            "terms_add_up_to_jsd",
            "The per-bin terms add up to the raw JSD.",
            weekly,
            _terms_off,
            blocking=True,
        ),
        _check(
            "coverage_metrics",
            "jsd_is_below_threshold",
            "The suite still looks like the traffic. Drift warns, it never blocks.",
            weekly,
            _jsd_high,
            blocking=False,
        ),
    ]


def _duplicate_ids(home: Home, day: date) -> str | None:
    ids = home.lake.read(RAW_TRACES, [day], ["trace_id"])["trace_id"]
    repeated = len(ids) - ids.n_unique()
    return f"{repeated} trace_ids stand more than once" if repeated else None


def _wrong_day(home: Home, day: date) -> str | None:
    at = home.lake.read(RAW_TRACES, [day], ["timestamp"])["timestamp"]
    wrong = int((at.dt.date() != day).sum())
    return f"{wrong} traces belong to another day" if wrong else None


def _bad_probability(home: Home, day: date) -> str | None:
    pi = home.lake.read(STRATIFIED_SAMPLES, [day], ["inclusion_probability"])["inclusion_probability"]
    bad = int((~((pi > 0) & (pi <= 1))).fill_null(True).sum())
    return f"{bad} inclusion probabilities lie outside (0, 1]" if bad else None


def _volume_missed(home: Home, day: date) -> str | None:
    sample = home.lake.read(
        STRATIFIED_SAMPLES, [day], ["inclusion_probability", "day_traces", "session_id", "trace_id"]
    )
    if sample.is_empty():
        return None
    true = sample["day_traces"][0]
    by_session = sample.group_by(pl.coalesce("session_id", "trace_id")).agg(
        w=(1 / pl.col("inclusion_probability")).sum()
    )["w"]
    # Horvitz-Thompson: sessions are drawn together, so their totals are the independent units.
    spread = float(((sample["inclusion_probability"].mean() or 1) < 1) * (by_session**2).sum() ** 0.5)  # type: ignore[operator]  # a mean of floats
    estimate = float((1 / sample["inclusion_probability"]).sum())
    if abs(estimate - true) > 5 * spread + TOLERANCE * true:
        return f"1/pi adds up to {estimate:,.0f} where the day has {true:,} traces"
    return None


def _bad_vector(home: Home, day: date) -> str | None:
    frame = home.lake.read(EMBEDDINGS, [day])
    models = frame["model_id"].unique().to_list()
    if len(models) > 1:
        return f"vectors of {len(models)} models are mixed: {', '.join(sorted(models))}"
    norm = frame["vector"].list.eval(pl.element() ** 2).list.sum()
    bad = int((~((norm - 1).abs() <= 1e-3)).fill_null(True).sum())  # a NaN is not <= either
    return f"{bad} vectors do not have length one" if bad else None


def _cluster_count(home: Home, month: date) -> str | None:
    n, settings = len(home.lake.read(CLUSTERS, [month], ["cluster_id"])), home.settings.clustering
    inside = n == 0 or settings.fewest_clusters <= n <= settings.most_clusters
    return None if inside else f"{n} clusters, outside {settings.fewest_clusters} to {settings.most_clusters}"


def _weights_off(home: Home, week: date) -> str | None:
    rows = home.lake.read(BIN_ASSIGNMENTS, [week]).filter(pl.col("side") == "production")
    if rows.is_empty():
        return None
    sums = {name: float(rows[name].sum()) for name in ("weight", "weight_traffic")}
    off = {name: total for name, total in sums.items() if abs(total - 1) > TOLERANCE}
    return f"weights sum to {off}" if off else None


def _terms_off(home: Home, week: date) -> str | None:
    rows = home.lake.read(COVERAGE_METRICS, [week], ["jsd_term", "jsd_raw"])
    if rows.is_empty() or rows["jsd_raw"][0] is None:
        return None
    total = float(rows["jsd_term"].sum())
    return (
        f"terms add up to {total:.6f}, raw JSD is {rows['jsd_raw'][0]:.6f}"
        if abs(total - rows["jsd_raw"][0]) > TOLERANCE
        else None
    )


def _jsd_high(home: Home, week: date) -> str | None:
    rows = home.lake.read(COVERAGE_METRICS, [week], ["jsd", "band"])
    if rows.is_empty() or rows["jsd"][0] is None:
        return None
    limit = home.settings.coverage.jsd_threshold
    return f"JSD {rows['jsd'][0]:.3f} ({rows['band'][0]}) is above {limit}" if rows["jsd"][0] > limit else None
