"""Station triage: which traces people should look at (``triage_queue``), filled from the week's plan.

The queue of a week only ever grows: what was queued stays until it is answered.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from evalflow.adapters.embedder import Embedder
from evalflow.adapters.home import Home
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    JUDGE_GRADES,
    RAW_TRACES,
    REFRESH_PLAN,
    TRACE_SIGNALS,
    TRIAGE_QUEUE,
)
from evalflow.adapters.taxonomy import Taxonomy
from evalflow.core.calendar import sunday_of
from evalflow.core.dedup import KnownInputs
from evalflow.core.lineage import fingerprint
from evalflow.core.sampling import random_numbers
from evalflow.core.text import text_hash
from evalflow.defs.coverage import measure_week
from evalflow.defs.partitions import WEEKS, Partitions
from evalflow.defs.plan import GROUP
from evalflow.defs.queue import failures, queued_items
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import OWNERS, SINGLE_RUN, dates, parents, report

BLIND_PRIORITY, QUOTA_PRIORITY = 0.9, 0.5
"""Where quotas stand: a blind spot, and the bin whose labels lower JSD most; the others lie below it."""
CODE_VERSION = "1"
SHOWN_ITEMS = 20
CONTEXT_COLUMNS = (
    "session_id",
    "turn_index",
    "timestamp",
    "model",
    "prompt_version",
    "variant",
    "user_tier",
    "locale",
)


def triage_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "parquet"},
        code_version=CODE_VERSION,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        deps=[
            "refresh_plan",
            "bin_assignments",
            dg.AssetDep("raw_traces", partition_mapping=WEEKS),
            dg.AssetDep("trace_signals", partition_mapping=WEEKS),
            dg.AssetDep("stratified_samples", partition_mapping=WEEKS),
            dg.AssetDep("judge_grades", partition_mapping=WEEKS),
            dg.AssetDep("golden_ledger", partition_mapping=dg.AllPartitionMapping()),
        ],
        description="A trace for people to look at, scrubbed, with its conversation and the reason why: a quota of the plan, a "
        "failing grade, a complaint. What was queued stays queued.",
    )
    def triage_queue(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        for week in dates(context):
            workspace.lake.require(REFRESH_PLAN, [week])
            plan = workspace.lake.read(REFRESH_PLAN, [week])
            held = workspace.lake.read(TRIAGE_QUEUE, [week])
            if plan.is_empty():
                workspace.lake.write(TRIAGE_QUEUE, week, held)
                report(context, week, {"dagster/partition_row_count": len(held), "reason": "the week has no plan"})
                continue
            filled = _Filling(workspace, week, plan, held).fill()
            rows = pl.concat([held, filled.rows]).sort(["priority", "trace_id"], descending=[True, False])
            made_from = fingerprint("triage_queue", CODE_VERSION, week, parents(workspace, REFRESH_PLAN, [week]))
            workspace.lake.write(TRIAGE_QUEUE, week, rows, made_from=made_from)
            report(context, week, _queue_metadata(rows, filled))

    return [triage_queue]


@dataclass(frozen=True)
class _Filled:
    rows: pl.DataFrame
    unfilled: dict[str, int]
    n_scanned: int


@dataclass(frozen=True)
class _Chosen:
    trace_id: str
    day: date
    bin: str
    source: str
    reason: str
    priority: float
    selected_by: str
    inclusion_probability: float | None


class _Filling:
    """Fills one week's queue from its plan: failures first, then the bins' quotas from the sample, then beyond it."""

    def __init__(self, home: Home, week: date, plan: pl.DataFrame, held: pl.DataFrame) -> None:
        self.home, self.week, self.plan, self.held = home, week, plan, held
        self.measured = measure_week(home, week)
        self.taxonomy: Taxonomy = self.measured.taxonomy
        self.window = self.measured.window
        self.embedder = Embedder(home.settings.embedding, home.cache)
        self.scrubber = Scrubber(home.settings.privacy)
        rows = home.lake.read(BIN_ASSIGNMENTS, [week]).filter(pl.col("side") == "production")
        salt = f"{home.settings.sampling.salt}/refresh"
        # Ordered by -ln(u)/w: a draw without replacement in proportion to what each trace stands for.
        self.sample = rows.with_columns(
            order=-np.log(np.maximum(random_numbers(salt, rows["item_id"]), 1e-300)) / rows["weight"].to_numpy()
        ).sort("order", "item_id")
        self.known = KnownInputs(home.settings.promotion.near_duplicate, home.settings.promotion.duplicate_distance)
        # Everything that is known by now, whatever week it belongs to: a label is never asked for twice.
        suite = [case for case in home.ledger.newest().values() if not case.retired_on]
        self.elsewhere = [item for item in queued_items(home) if item.week != week]
        self.taken = {trace_id for case in suite for trace_id in case.trace_ids} | set(held["trace_id"])
        self.taken |= {item.row["trace_id"] for item in self.elsewhere}
        texts = {case.case_id: self.scrubber.scrub(case.input).text for case in suite}
        texts |= dict(zip(held["trace_id"], held["text"], strict=True))
        texts |= {item.row["trace_id"]: item.row["text"] for item in self.elsewhere if item.is_waiting}
        vectors = self.embedder.embed(list(texts.values()))
        for name, text in texts.items():
            self.known.add(name, text, vectors[text_hash(text)])
        self.inputs: dict[date, _DayTexts] = {}
        self.chosen: list[_Chosen] = []

    def fill(self) -> _Filled:
        self._add_failures()
        wanted = self._open_quotas()
        for row in self.sample.iter_rows(named=True):
            if wanted.get(row["bin"]):
                self._offer(row["item_id"], row["day"], row["bin"], wanted, "sample", row["inclusion_probability"])
        n_scanned = self._scan_beyond(wanted) if wanted else 0
        return _Filled(self._rows(), wanted, n_scanned)

    def _add_failures(self) -> None:
        n_held = int(self.held["source"].is_in(["failed_grade", "signal"]).sum())
        left = int(self.plan["failure_labels"][0]) - n_held
        bin_of = dict(zip(self.sample["item_id"], self.sample["bin"], strict=True))
        pi = dict(zip(self.sample["item_id"], self.sample["inclusion_probability"], strict=True))
        queued = KnownInputs(self.known.near_duplicate, self.known.duplicate_distance)
        for failure in failures(self.home, self.week):
            if left <= 0:
                break
            if failure.trace_id in self.taken:
                continue
            text = self._texts(failure.day)[failure.trace_id]
            vector = self.embedder.embed([text])[text_hash(text)]
            if queued.duplicate_of(text, vector):  # the same failure many times over needs one label
                continue
            queued.add(failure.trace_id, text, vector)
            self.known.add(failure.trace_id, text, vector)
            self.taken.add(failure.trace_id)
            own_bin = bin_of.get(failure.trace_id) or self._bins(np.stack([vector]))[0]
            by = "sample" if failure.trace_id in bin_of else "complaint"
            self.chosen.append(
                _Chosen(
                    failure.trace_id,
                    failure.day,
                    own_bin,
                    failure.source,
                    failure.reason,
                    failure.priority,
                    by,
                    pi.get(failure.trace_id),
                )
            )
            left -= 1

    def _open_quotas(self) -> dict[str, int]:
        """Labels that the plan wants and no queue holds yet, by bin; what waits from another week fills a quota too."""
        bin_of = dict(zip(self.sample["item_id"], self.sample["bin"], strict=True))
        queued = self.held.filter(pl.col("source") == "quota")["bin"].to_list()
        queued += [bin_of.get(item.row["trace_id"]) for item in self.elsewhere if item.is_waiting]
        quotas = zip(self.plan["bin"], self.plan["quota"], strict=True)
        return {bin: left for bin, quota in quotas if (left := quota - queued.count(bin)) > 0}

    def _offer(
        self, trace_id: str, day: date, bin: str, wanted: dict[str, int], selected_by: str, pi: float | None
    ) -> None:
        """Queue the trace for its bin's quota unless it is there already or repeats an input that is known."""
        if trace_id in self.taken:
            return
        text = self._texts(day)[trace_id]
        vector = self.embedder.embed([text])[text_hash(text)]
        if self.known.duplicate_of(text, vector):
            return
        self.known.add(trace_id, text, vector)
        self.taken.add(trace_id)
        self.chosen.append(_Chosen(trace_id, day, bin, "quota", self._why(bin), self._priority(bin), selected_by, pi))
        wanted[bin] -= 1
        if not wanted[bin]:
            del wanted[bin]

    def _scan_beyond(self, wanted: dict[str, int]) -> int:
        """Unsampled traces of the window in random order, embedded up to so many per missing one; never in an estimate."""
        limit = self.home.settings.refresh.candidates_per_missing * sum(wanted.values())
        sampled = set(self.sample["item_id"])
        raw = self.home.lake.read(RAW_TRACES, self.window, ["trace_id"], with_key=True)
        raw = raw.filter(~pl.col("trace_id").is_in(list(sampled | self.taken)))
        order = random_numbers(f"{self.home.settings.sampling.salt}/refresh", raw["trace_id"])
        scanned = raw.with_columns(order=pl.Series(order, dtype=pl.Float64)).sort("order", "trace_id").head(limit)
        texts = [self._texts(day)[trace_id] for trace_id, day in scanned.select("trace_id", "day").iter_rows()]
        if not texts:
            return 0
        vectors = self.embedder.embed(texts)
        bins = self._bins(np.stack([vectors[text_hash(text)] for text in texts]))
        for trace_id, day, bin in zip(scanned["trace_id"], scanned["day"], bins, strict=True):
            if bin in wanted:
                self._offer(trace_id, day, bin, wanted, "refresh_quota", None)
        return len(texts)

    def _bins(self, vectors: np.ndarray) -> list[str]:
        neighbors = self.home.settings.clustering.vote_neighbors
        return self.taxonomy.place(vectors, [self.embedder.model_id], neighbors)["bin"].to_list()

    def _texts(self, day: date) -> "_DayTexts":
        if day not in self.inputs:
            raw = self.home.lake.read(RAW_TRACES, [day], ["trace_id", "input"])
            self.inputs[day] = _DayTexts(dict(raw.iter_rows()), self.scrubber)
        return self.inputs[day]

    def _plan_row(self, bin: str) -> dict[str, Any]:
        return self.plan.filter(pl.col("bin") == bin).row(0, named=True)

    def _why(self, bin: str) -> str:
        row = self._plan_row(bin)
        blind = "blind spot: " if row["is_blind_spot"] else ""
        n_golden = int(self.plan["golden_cases"].sum())
        return (
            f"{blind}{row['label']}: {row['production_share']:.1%} of traffic, {row['golden_cases']} of {n_golden} cases; "
            f"{row['quota']} labels planned ({row['reason']})"
        )

    def _priority(self, bin: str) -> float:
        row, most = self._plan_row(bin), float(self.plan["gain"].max() or 0.0)  # type: ignore[arg-type]  # a column of floats
        if row["is_blind_spot"]:
            return BLIND_PRIORITY
        return QUOTA_PRIORITY * (max(0.0, row["gain"]) / most if most > 0 else 0.0)

    def _rows(self) -> pl.DataFrame:
        queued_on = min(sunday_of(self.week) + timedelta(days=1), self.home.calendar.now)
        labels = self.taxonomy.bins
        rows = []
        for day in sorted({item.day for item in self.chosen}):
            items = [item for item in self.chosen if item.day == day]
            contexts = _contexts(self.home, day, [item.trace_id for item in items], self.scrubber)
            for item in items:
                rows.append(
                    {
                        **contexts[item.trace_id],
                        "trace_id": item.trace_id,
                        "source": item.source,
                        "reason": item.reason,
                        "priority": item.priority,
                        "bin": item.bin,
                        "label": labels[item.bin],
                        "selected_by": item.selected_by,
                        "inclusion_probability": item.inclusion_probability,
                        "novel_above": self.taxonomy.novel_above,
                        "queued_on": queued_on,
                        "taxonomy_id": self.taxonomy.taxonomy_id,
                    }
                )
        return pl.DataFrame(rows, schema=TRIAGE_QUEUE.schema)


class _DayTexts:
    """The scrubbed inputs of a day, scrubbed when they are asked for."""

    def __init__(self, inputs: dict[str, str], scrubber: Scrubber) -> None:
        self.inputs, self.scrubber = inputs, scrubber

    def __getitem__(self, trace_id: str) -> str:
        return self.scrubber.scrub(self.inputs[trace_id]).text


def _contexts(home: Home, day: date, trace_ids: list[str], scrubber: Scrubber) -> dict[str, dict[str, Any]]:
    """For each trace what a reviewer needs, scrubbed: its answer, the conversation before it, tool calls, grades."""
    raw = home.lake.read(RAW_TRACES, [day - timedelta(days=1), day])
    chosen = raw.filter(pl.col("trace_id").is_in(trace_ids) & (pl.col("timestamp").dt.date() == day))
    sessions = raw.filter(pl.col("session_id").is_in(chosen["session_id"].drop_nulls().unique().to_list()))
    signals = home.lake.read(TRACE_SIGNALS, [day], ["trace_id", "negative_signals"])
    negative = dict(signals.iter_rows())
    grades = home.lake.read(JUDGE_GRADES, [day], ["trace_id", "grader", "grader_version", "verdict", "reason"])
    grades = grades.filter(pl.col("trace_id").is_in(trace_ids))
    found = {}
    for row in chosen.iter_rows(named=True):
        text = scrubber.scrub(row["input"]).text
        earlier = sessions.filter(
            (pl.col("session_id") == row["session_id"]) & (pl.col("timestamp") < row["timestamp"])
        ).sort("timestamp", "turn_index")
        context = {
            "conversation": [
                {"role": role, "content": content}
                for turn in earlier.iter_rows(named=True)
                for role, content in (("user", turn["input"]), ("assistant", turn["output"]))
                if content is not None
            ],
            **{
                name: _opened(row[name])
                for name in ("messages", "tool_calls", "tags", "metadata", "error")
                if row[name]
            },
        }
        own = grades.filter(pl.col("trace_id") == row["trace_id"]).drop("trace_id").sort("grader")
        found[row["trace_id"]] = {
            **{name: row[name] for name in CONTEXT_COLUMNS},
            "text": text,
            "text_hash": text_hash(text),
            "output": None if row["output"] is None else scrubber.scrub(row["output"]).text,
            "context": json.dumps(_scrubbed(context, scrubber), ensure_ascii=False),
            "negative_signals": negative.get(row["trace_id"], []),
            "grades": json.dumps(own.to_dicts(), ensure_ascii=False),
        }
    return found


def _opened(value: str) -> Any:
    """What the lake keeps as JSON text, opened; an error may be plain text."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _scrubbed(value: Any, scrubber: Scrubber) -> Any:
    """Every text inside a nested value scrubbed; keys are names of fields and stay."""
    if isinstance(value, str):
        return scrubber.scrub(value).text
    if isinstance(value, Mapping):
        return {key: _scrubbed(inner, scrubber) for key, inner in value.items()}
    if isinstance(value, list):
        return [_scrubbed(inner, scrubber) for inner in value]
    return value


def _queue_metadata(rows: pl.DataFrame, filled: _Filled) -> dict[str, Any]:
    by_source = Counter(rows["source"])
    return {
        "dagster/partition_row_count": len(rows),
        "added": len(filled.rows),
        "there before": len(rows) - len(filled.rows),
        **{f"from {source.replace('_', ' ')}": count for source, count in sorted(by_source.items())},
        "beyond the sample": int((rows["selected_by"] == "refresh_quota").sum()),
        "unsampled traces scanned": filled.n_scanned,
        "labels without a trace": sum(filled.unfilled.values()),
        "most urgent": dg.MetadataValue.md(
            "\n".join(
                ["| trace | why | bin | priority |", "|---|---|---|---|", *map(_row, rows.head(SHOWN_ITEMS).to_dicts())]
            )
        ),
        "next": "evalflow triage export --out queue.jsonl, answer, evalflow triage import queue.jsonl",
    }


def _row(item: dict[str, Any]) -> str:
    """An item without its text, which is hostile and may hold markup of its own."""
    trace_id = item["trace_id"].replace("`", "").replace("|", "/")
    return f"| `{trace_id}` | {item['source'].replace('_', ' ')} | {item['label'].replace('|', '/')} | {item['priority']:.2f} |"
