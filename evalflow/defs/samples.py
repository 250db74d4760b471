"""Station samples: each day's traffic to a sample with one true inclusion probability per trace, text scrubbed."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import RAW_TRACES, STRATIFIED_SAMPLES, TRACE_SIGNALS
from evalflow.core.sampling import SamplingPlan, draw
from evalflow.core.text import text_hash
from evalflow.core.tool_calls import tool_use
from evalflow.core.weighting import kish_size, n_capped
from evalflow.defs.partitions import Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_DAILY, OWNERS, SINGLE_RUN, Station, dates, parents, report
from evalflow.settings import Settings


def _inputs(home: Home, day: date) -> Iterable[Any]:
    yield asdict(plan_of(home.settings))
    yield home.settings.privacy.model_dump()
    yield from parents(home, RAW_TRACES, [day])
    yield from parents(home, TRACE_SIGNALS, [day])


SAMPLES = Station("stratified_samples", STRATIFIED_SAMPLES, "day", "2", _inputs)


def plan_of(settings: Settings) -> SamplingPlan:
    chosen = settings.sampling.model_dump(exclude={"max_weight_ratio"})
    return SamplingPlan(**{**chosen, "strata_columns": tuple(chosen["strata_columns"])})


def sample_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name="samples",
        owners=OWNERS,
        kinds={"polars", "parquet"},
        code_version=SAMPLES.version,
        partitions_def=partitions.daily,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_DAILY),
        deps=["raw_traces", "trace_signals"],
        description="A sampled trace with its inclusion probability, the rules that chose it, and its text scrubbed. "
        "The only text downstream of the raw zone.",
    )
    def stratified_samples(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        lake, plan = workspace.lake, plan_of(workspace.settings)
        scrubber = Scrubber(workspace.settings.privacy)
        for day in dates(context):
            made_from = SAMPLES.made_from(workspace, day)
            lake.require(RAW_TRACES, [day])
            lake.require(TRACE_SIGNALS, [day])
            signals = lake.read(TRACE_SIGNALS, [day], ["trace_id", "is_negative", "negative_signals"])
            traces = lake.read(RAW_TRACES, [day]).join(signals, on="trace_id", how="left", maintain_order="left")
            sample = scrubbed(draw(traces, plan), scrubber)
            sample = sample.with_columns(*tool_use(sample["tool_calls"]))
            lake.write(STRATIFIED_SAMPLES, day, sample, made_from=made_from)
            report(context, day, _metadata(sample, len(traces), workspace.settings.sampling.max_weight_ratio))

    return [stratified_samples]


def scrubbed(sample: pl.DataFrame, scrubber: Scrubber) -> pl.DataFrame:
    """The sample with ``text`` and ``output`` scrubbed, the text's hash and how many placeholders were put in."""
    inputs = [scrubber.scrub(text) for text in sample["input"]]
    outputs = [scrubber.scrub(text) for text in sample["output"]]
    return sample.with_columns(
        pl.Series("text", [item.text for item in inputs], pl.String),
        pl.Series("text_hash", [text_hash(item.text) for item in inputs], pl.String),
        pl.Series("output", [item.text for item in outputs], pl.String),
        pl.Series("n_scrubbed", [a.n_replaced + b.n_replaced for a, b in zip(inputs, outputs, strict=True)], pl.Int64),
    )


def _metadata(sample: pl.DataFrame, n_traces: int, max_weight_ratio: float) -> dict[str, Any]:
    by_rule = sample["rules"].explode().drop_nulls().value_counts(sort=True) if len(sample) else None
    rows = (
        [f"| {row['rules']} | {row['count']} |" for row in by_rule.iter_rows(named=True)] if by_rule is not None else []
    )
    pi = sample["inclusion_probability"]
    return {
        "dagster/partition_row_count": len(sample),
        "traces of the day": n_traces,
        "smallest inclusion probability": pi.min(),
        "Kish effective size": kish_size(1 / pi),
        "capped weights": n_capped(pi, max_weight_ratio),
        "placeholders put in": int(sample["n_scrubbed"].sum()),
        "chosen by rule": dg.MetadataValue.md("\n".join(["| rule | traces |", "|---|---|", *rows])),
    }
