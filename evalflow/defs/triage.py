"""Station triage: which traces people should look at (``triage_queue``), filled from the week's plan.

The queue of a week only ever grows: what was queued stays until it is answered.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, NamedTuple

import dagster as dg
import msgspec
import numpy as np
import polars as pl

from evalflow.adapters.charts import as_cell
from evalflow.adapters.embedder import Embedder, vectors_of
from evalflow.adapters.home import Home
from evalflow.adapters.journal import locked
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    EMBEDDINGS,
    JUDGE_GRADES,
    RAW_TRACES,
    REFRESH_PLAN,
    STRATIFIED_SAMPLES,
    TRACE_SIGNALS,
    TRIAGE_QUEUE,
)
from evalflow.adapters.taxonomy import Taxonomy, taxonomy_in_force
from evalflow.core.dedup import KnownInputs
from evalflow.core.diversity import choose
from evalflow.core.lineage import fingerprint
from evalflow.core.sampling import random_numbers
from evalflow.core.text import text_hash
from evalflow.defs.partitions import WEEKS, Partitions
from evalflow.defs.plan import GROUP
from evalflow.defs.queue import failures, queued_items
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import OWNERS, SINGLE_RUN, dates, parents, report
from evalflow.errors import CannotTellError

BLIND_PRIORITY, QUOTA_PRIORITY = 0.9, 0.5
"""Where quotas stand: a blind spot, and the bin whose labels lower JSD most; the others lie below it."""
CODE_VERSION = "2"
SHOWN_ITEMS = 20
FAILURES_PER_LABEL = 10
"""So many failing traces are looked at for each label: most of the others repeat the same failure."""
DEEPEST = 50
"""Nesting of a tool call or of metadata beyond this is no longer for people's eyes."""
PLAN_COLUMNS = (
    *("bin", "label", "production_share", "golden_cases", "is_blind_spot", "quota", "reason", "gain"),
    *("failure_labels", "taxonomy_id"),
)
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
            dg.AssetDep("embeddings", partition_mapping=WEEKS),
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
            with locked(workspace.path / "triage.lock"):  # another refresh of the week adds to what this one leaves
                report(context, week, _fill_week(workspace, week))

    return [triage_queue]


def _fill_week(home: Home, week: date) -> dict[str, Any]:
    """Add to the week's queue what its plan wants and no queue holds; returns the metadata."""
    plan, held = home.lake.read(REFRESH_PLAN, [week], PLAN_COLUMNS), home.lake.read(TRIAGE_QUEUE, [week])
    made_from = fingerprint("triage_queue", CODE_VERSION, week, parents(home, REFRESH_PLAN, [week]))
    if plan.is_empty():
        home.lake.write(TRIAGE_QUEUE, week, held, made_from=made_from)
        return {"dagster/partition_row_count": len(held), "reason": "the week has no plan"}
    filled = _Filling(home, week, plan, held).fill()
    rows = pl.concat([held, filled.rows]).sort(["priority", "trace_id"], descending=[True, False])
    home.lake.write(TRIAGE_QUEUE, week, rows, made_from=made_from)
    return _queue_metadata(rows, filled)


@dataclass(frozen=True)
class _Filled:
    """New rows, labels by bin that found no trace, unsampled traces looked at, sampled traces that are there no more."""

    rows: pl.DataFrame
    unfilled: dict[str, int]
    n_scanned: int
    n_gone: int


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


class _Candidate(NamedTuple):
    """A trace that may fill the quota of its bin, and the traffic that it stands for."""

    trace_id: str
    day: date
    bin: str
    mass: float
    selected_by: str
    inclusion_probability: float | None


class _Filling:
    """Fills one week's queue from its plan: failures first, then the bins' quotas from the sample, then beyond it."""

    def __init__(self, home: Home, week: date, plan: pl.DataFrame, held: pl.DataFrame) -> None:
        self.home, self.week, self.plan, self.held = home, week, plan, held
        window = home.calendar.window(week)
        self.taxonomy: Taxonomy = taxonomy_in_force(home, week)
        if plan["taxonomy_id"][0] != self.taxonomy.taxonomy_id:
            raise CannotTellError(
                f"The plan of the week of {week} was made by the taxonomy {plan['taxonomy_id'][0]}, which was fitted again "
                f"since as {self.taxonomy.taxonomy_id}; materialize refresh_plan again, or run `evalflow refresh`."
            )
        self.embedder = Embedder(home.settings.embedding, home.cache)
        self.scrubber = Scrubber(home.settings.privacy)
        self.salt = f"{home.settings.sampling.salt}/refresh"
        # A trace that was moved or corrected since it was sampled may be gone from its day.
        self.raw = home.lake.read(RAW_TRACES, window, ["trace_id"], with_key=True)
        sample = home.lake.read(BIN_ASSIGNMENTS, [week]).filter(pl.col("side") == "production")
        present = sample.join(self.raw, left_on=["item_id", "day"], right_on=["trace_id", "day"], how="semi")
        self.n_gone = len(sample) - len(present)
        order = pl.Series(random_numbers(self.salt, present["item_id"]), dtype=pl.Float64)
        self.sample = present.with_columns(order=order).sort("order", "item_id")
        texts = home.lake.read(STRATIFIED_SAMPLES, window, ["trace_id", "text"])
        self.sampled_text = dict(texts.iter_rows())
        vectors = home.lake.read(EMBEDDINGS, window, ["text_hash", "vector"]).unique("text_hash")
        self.vectors = dict(zip(vectors["text_hash"], vectors_of(vectors["vector"]), strict=True))
        self._know_what_is_there()
        self.chosen: list[_Chosen] = []

    def _know_what_is_there(self) -> None:
        """Everything that is known by now, whatever week it belongs to: a label is never asked for twice."""
        suite = [case for case in self.home.ledger.newest().values() if not case.retired_on]
        elsewhere = [item for item in queued_items(self.home) if item.week != self.week]
        self.waiting_elsewhere = [item.row for item in elsewhere if item.is_waiting]
        self.taken = {trace_id for case in suite for trace_id in case.trace_ids} | set(self.held["trace_id"])
        self.taken |= {item.row["trace_id"] for item in elsewhere}
        limits = self.home.settings.promotion
        self.known = KnownInputs(limits.near_duplicate, limits.duplicate_distance)
        self.failed = KnownInputs(limits.near_duplicate, limits.duplicate_distance)
        queued = [*self.held.iter_rows(named=True), *self.waiting_elsewhere]
        texts = {case.case_id: self.scrubber.scrub(case.input).text for case in suite}
        self._embed([*texts.values(), *(row["text"] for row in queued)])
        for case_id, text in texts.items():
            self.known.add(case_id, text, self._vector(text))
        for row in queued:
            self.known.add(row["trace_id"], row["text"], self._vector(row["text"]))
            if row["source"] != "quota":
                self.failed.add(row["trace_id"], row["text"], self._vector(row["text"]))

    def fill(self) -> _Filled:
        self._add_failures()
        wanted = self._open_quotas()
        sampled = [
            _Candidate(row["item_id"], row["day"], row["bin"], row["weight"], "sample", row["inclusion_probability"])
            for row in self.sample.iter_rows(named=True)
        ]
        self._fill_quotas(sampled, self.sampled_text, wanted)
        n_scanned = self._scan_beyond(wanted) if wanted else 0
        return _Filled(self._rows(), wanted, n_scanned, self.n_gone)

    def _add_failures(self) -> None:
        """Traces that seem to have failed; the same failure many times over needs one label."""
        left = int(self.plan["failure_labels"][0]) - int((self.held["source"] != "quota").sum())
        pi = dict(zip(self.sample["item_id"], self.sample["inclusion_probability"], strict=True))
        bin_of = self._bin_of()
        present = set(self.raw.iter_rows())
        open_failures = [
            failure
            for failure in failures(self.home, self.week)
            if failure.trace_id not in self.taken and (failure.trace_id, failure.day) in present
        ]
        candidates = open_failures[: FAILURES_PER_LABEL * max(left, 0)]
        texts = self._texts([(failure.trace_id, failure.day) for failure in candidates])
        self._embed(texts.values())
        for failure in candidates:
            if left <= 0:
                break
            trace_id, text = failure.trace_id, texts[failure.trace_id]
            vector = self._vector(text)
            if self.failed.duplicate_of(text, vector):
                continue
            self.failed.add(trace_id, text, vector)
            self.known.add(trace_id, text, vector)
            self.taken.add(trace_id)
            own_bin = bin_of.get(trace_id) or self._bins([text])[0]
            by = "sample" if trace_id in bin_of else "complaint"
            where = (trace_id, failure.day, own_bin)
            self.chosen.append(_Chosen(*where, failure.source, failure.reason, failure.priority, by, pi.get(trace_id)))
            left -= 1

    def _open_quotas(self) -> dict[str, int]:
        """Labels that the plan wants and no queue holds yet, by bin; what waits from another week fills a quota too."""
        rows = [*self.held.filter(pl.col("source") == "quota").iter_rows(named=True), *self.waiting_elsewhere]
        bin_of = self._bin_of() | {
            row["trace_id"]: row["bin"] for row in rows if row["taxonomy_id"] == self.taxonomy.taxonomy_id
        }
        unplaced = [row for row in rows if row["trace_id"] not in bin_of]  # queued under a taxonomy that is no more
        if unplaced:
            placed = self._bins([row["text"] for row in unplaced])
            bin_of |= {row["trace_id"]: bin for row, bin in zip(unplaced, placed, strict=True)}
        queued = Counter(bin_of[row["trace_id"]] for row in rows)
        quotas = zip(self.plan["bin"], self.plan["quota"], strict=True)
        return {bin: left for bin, quota in quotas if (left := quota - queued[bin]) > 0}

    def _fill_quotas(self, candidates: list[_Candidate], texts: Mapping[str, str], wanted: dict[str, int]) -> None:
        """Fill open quotas from the candidates of their bins, the largest bin first; what is still open stays wanted.

        Traces of one text are one candidate with the mass of all, for which the first of them stands that no queue holds.
        """
        by_bin: dict[str, dict[str, list[_Candidate]]] = {}
        for candidate in candidates:
            if candidate.bin in wanted:
                by_bin.setdefault(candidate.bin, {}).setdefault(texts[candidate.trace_id], []).append(candidate)
        for bin in [bin for bin in self.plan["bin"] if bin in by_bin]:
            wanted[bin] -= self._fill_quota(wanted[bin], by_bin[bin])
            if not wanted[bin]:
                del wanted[bin]

    def _fill_quota(self, wanted: int, by_text: dict[str, list[_Candidate]]) -> int:
        """Queue up to ``wanted`` traces that are far from known inputs and from each other; returns how many."""
        self._embed(by_text)
        vectors = np.stack([self._vector(text) for text in by_text])
        alike = list(by_text.items())
        chosen = choose(
            vectors,
            mass=np.array([sum(candidate.mass for candidate in group) for _, group in alike]),
            single=np.array([max(candidate.mass for candidate in group) for _, group in alike]),
            distance=self.known.distances(vectors),
            rank=np.arange(len(alike)),  # candidates come in the order of their permanent random numbers
            wanted=wanted,
            accept=lambda i: self._queue_one_of(*alike[i]),
        )
        return len(chosen)

    def _queue_one_of(self, text: str, alike: list[_Candidate]) -> bool:
        """Queue the first of the traces of a text; False where each is taken or the text repeats a known input."""
        free = [candidate for candidate in alike if candidate.trace_id not in self.taken]
        if not free:
            return False
        trace_id, day, bin, _, selected_by, pi = free[0]
        vector = self._vector(text)
        if self.known.duplicate_of(text, vector):
            return False
        self.known.add(trace_id, text, vector)
        self.taken.add(trace_id)
        self.chosen.append(_Chosen(trace_id, day, bin, "quota", self._why(bin), self._priority(bin), selected_by, pi))
        return True

    def _scan_beyond(self, wanted: dict[str, int]) -> int:
        """Unsampled traces of the window in random order, embedded up to so many per missing one; never in an estimate."""
        limit = self.home.settings.refresh.candidates_per_missing * sum(wanted.values())
        unsampled = self.raw.filter(~pl.col("trace_id").is_in([*self.sampled_text, *self.taken]))
        order = random_numbers(self.salt, unsampled["trace_id"])
        scanned = unsampled.with_columns(order=pl.Series(order, dtype=pl.Float64)).sort("order", "trace_id").head(limit)
        where = list(scanned.select("trace_id", "day").iter_rows())
        texts = self._texts(where)
        if not where:
            return 0
        self._embed(texts.values())
        bins = self._bins([texts[trace_id] for trace_id, _ in where])
        scanned_traces = [
            _Candidate(trace_id, day, bin, 1.0, "refresh_quota", None)  # a plain draw: each stands for as much
            for (trace_id, day), bin in zip(where, bins, strict=True)
        ]
        self._fill_quotas(scanned_traces, texts, wanted)
        return len(where)

    def _bin_of(self) -> dict[str, str]:
        return dict(zip(self.sample["item_id"], self.sample["bin"], strict=True))

    def _bins(self, texts: list[str]) -> list[str]:
        vectors = np.stack([self._vector(text) for text in texts])
        neighbors = self.home.settings.clustering.vote_neighbors
        return self.taxonomy.place(vectors, [self.embedder.model_id], neighbors)["bin"].to_list()

    def _texts(self, where: list[tuple[str, date]]) -> dict[str, str]:
        """The scrubbed inputs of traces, by trace_id: from the sample, else from their day."""
        texts = {trace_id: self.sampled_text[trace_id] for trace_id, _ in where if trace_id in self.sampled_text}
        for day in sorted({day for trace_id, day in where if trace_id not in texts}):
            wanted = [trace_id for trace_id, own in where if own == day and trace_id not in texts]
            raw = self.home.lake.read(RAW_TRACES, [day], ["trace_id", "input"])
            rows = raw.filter(pl.col("trace_id").is_in(wanted)).iter_rows()
            texts |= {trace_id: self.scrubber.scrub(text).text for trace_id, text in rows}
        return texts

    def _embed(self, texts: Iterable[str]) -> None:
        self.vectors |= self.embedder.embed([text for text in texts if text_hash(text) not in self.vectors])

    def _vector(self, text: str) -> np.ndarray:
        return self.vectors[text_hash(text)]

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
                        "queued_on": self.home.calendar.now,
                        "taxonomy_id": self.taxonomy.taxonomy_id,
                    }
                )
        return pl.DataFrame(rows, schema=TRIAGE_QUEUE.schema)


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
        # Logs of whole seconds: turns of the same second go by their index.
        is_earlier = (pl.col("timestamp") < row["timestamp"]) | (
            (pl.col("timestamp") == row["timestamp"]) & (pl.col("turn_index") < row["turn_index"])
        )
        earlier = sessions.filter((pl.col("session_id") == row["session_id"]) & is_earlier).sort(
            "timestamp", "turn_index"
        )
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
    """What the lake keeps as JSON text, opened; an error may be plain text, and a few documents are past opening."""
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value


def _scrubbed(value: Any, scrubber: Scrubber, depth: int = 0) -> Any:
    """Every text inside a nested value scrubbed, long numbers too; keys are names of fields and stay."""
    if depth > DEEPEST:
        return "(nested too deeply to be shown)"
    if isinstance(value, Mapping):
        return {key: _scrubbed(inner, scrubber, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_scrubbed(inner, scrubber, depth + 1) for inner in value]
    if isinstance(value, str):
        return scrubber.scrub(value).text
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = str(value)  # a card or a phone number may be written as a number
        found = scrubber.scrub(text)
        return found.text if found.n_replaced else value
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
        "sampled traces that are gone": filled.n_gone,
        "most urgent": dg.MetadataValue.md(
            "\n".join(
                ["| trace | why | bin | priority |", "|---|---|---|---|", *map(_row, rows.head(SHOWN_ITEMS).to_dicts())]
            )
        ),
        "next": "evalflow triage export --out queue.jsonl, answer, evalflow triage import queue.jsonl",
    }


def _row(item: dict[str, Any]) -> str:
    """An item without its text, which is hostile and may hold markup of its own."""
    source = item["source"].replace("_", " ")
    return f"| {as_cell(item['trace_id'])} | {source} | {as_cell(item['label'])} | {item['priority']:.2f} |"
