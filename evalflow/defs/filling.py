"""Filling a week's queue from its plan: the random floor, failures, the bins' quotas from the sample, then beyond it.

Source: docs/methods.md, "Triage and golden set". Keep out: the asset and what it reports (``triage.py``), what people see
of a trace (``capture.py``).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from evalflow.adapters.embedder import Embedder, vectors_of
from evalflow.adapters.home import Home
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    EMBEDDINGS,
    RAW_TRACES,
    STRATIFIED_SAMPLES,
    TRIAGE_QUEUE,
)
from evalflow.adapters.taxonomy import Taxonomy, taxonomy_in_force
from evalflow.core.calibration import QUIET, Cell, Drawn, draw
from evalflow.core.diversity import choose
from evalflow.core.reviewing import FAILURE_SOURCES, Source
from evalflow.core.routing import idle_parts, queue_of, whose_turn
from evalflow.core.sampling import random_numbers
from evalflow.core.text import text_hash
from evalflow.defs.capture import contexts_of
from evalflow.defs.duplicates import known_inputs
from evalflow.defs.failures import Failure, failures, judged
from evalflow.defs.queue import queued_items
from evalflow.errors import CannotTellError

BLIND_PRIORITY, QUOTA_PRIORITY = 0.9, 0.5
"""Where quotas stand: a blind spot, and the bin whose labels lower JSD most; the others lie below it."""
CALIBRATION_PRIORITY = 0.65
"""Between what surely failed and what only hints at it: a floor that nobody answers measures nothing."""
FAILURES_PER_LABEL = 10
"""So many failing traces are looked at for each label: most of the others repeat the same failure."""
UNPLANNED = ("error_analysis", "calibration")
"""Sources whose waiting traces fill no quota: an answer that was right makes no case of them."""


class Labels(NamedTuple):
    """How many of the week's traces may be queued because they seem to have failed, and at random among judged ones."""

    failures: int
    calibration: int


@dataclass(frozen=True)
class Filled:
    """What a filling did.

    ``rows``: new ones; ``held``: those from before, of which the random floor may have drawn some. ``unfilled``: labels by
    bin that found no trace; ``n_scanned``: unsampled traces looked at; ``n_gone``: sampled traces that are there no more.
    ``floor``: how many were drawn of how many judged traces, by cell; ``n_elsewhere``: judged traces that other queues or
    cases hold, which it could not draw. ``notes``: what somebody should know.
    """

    rows: pl.DataFrame
    held: pl.DataFrame
    unfilled: dict[str, int]
    n_scanned: int
    n_gone: int
    floor: dict[Cell, Drawn]
    n_elsewhere: int
    notes: list[str]


@dataclass(frozen=True)
class _Chosen:
    trace_id: str
    day: date
    bin: str
    source: Source
    reason: str
    priority: float
    selected_by: str
    inclusion_probability: float | None
    label_probability: float | None = None


class _Candidate(NamedTuple):
    """A trace that may fill the quota of its bin, and the traffic that it stands for."""

    trace_id: str
    day: date
    bin: str
    mass: float
    selected_by: str
    inclusion_probability: float | None


class _Look(NamedTuple):
    """How many failures were looked at, and whether the last of them was queued."""

    n_looked: int
    is_queued: bool


class Filling:
    """Fills one week's queue: the random floor, failures, the quotas of the plan's bins from the sample, then beyond it."""

    def __init__(self, home: Home, week: date, plan: pl.DataFrame, labels: Labels) -> None:
        self.home, self.week, self.plan, self.labels = home, week, plan, labels
        self.held = home.lake.read(TRIAGE_QUEUE, [week], is_kept=True)
        window = home.calendar.window(week)
        self.taxonomy: Taxonomy = taxonomy_in_force(home, week)
        if len(plan) and plan["taxonomy_id"][0] != self.taxonomy.taxonomy_id:
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
        self.read_text: dict[str, str] = {}
        vectors = home.lake.read(EMBEDDINGS, window, ["text_hash", "vector"]).unique("text_hash")
        self.vectors = dict(zip(vectors["text_hash"], vectors_of(vectors["vector"]), strict=True))
        self._know_what_is_there()
        self.pi = dict(zip(present["item_id"], present["inclusion_probability"], strict=True))
        self.chosen: list[_Chosen] = []
        self.floor: dict[Cell, Drawn] = {}
        self.n_elsewhere = 0

    def _know_what_is_there(self) -> None:
        """Everything that is known by now, whatever week it belongs to: a label is never asked for twice."""
        suite = [case for case in self.home.ledger.newest().values() if not case.retired_on]
        elsewhere = [item for item in queued_items(self.home) if not item.is_of(self.week)]
        self.waiting_elsewhere = [item.row for item in elsewhere if item.is_waiting]
        self.taken_elsewhere = {trace_id for case in suite for trace_id in case.trace_ids} - set(self.held["trace_id"])
        self.taken_elsewhere |= {item.trace_id for item in elsewhere}
        self.taken = self.taken_elsewhere | set(self.held["trace_id"])
        self.known = known_inputs(self.home.settings, len(suite))
        self.failed = known_inputs(self.home.settings, len(suite))
        queued = [*self.held.iter_rows(named=True), *self.waiting_elsewhere]
        texts = {case.case_id: self.scrubber.scrub(case.input).text for case in suite}
        self._embed([*texts.values(), *(row["text"] for row in queued)])
        for case_id, text in texts.items():
            self.known.add(case_id, text, self._vector(text))
        for row in queued:
            self.known.add(row["trace_id"], row["text"], self._vector(row["text"]))
            if row["source"] in FAILURE_SOURCES:
                self.failed.add(row["trace_id"], row["text"], self._vector(row["text"]))

    def fill(self) -> Filled:
        self._draw_floor()
        self._add_failures()
        wanted = self._open_quotas()
        sampled = [
            _Candidate(row["item_id"], row["day"], row["bin"], row["weight"], "sample", row["inclusion_probability"])
            for row in self.sample.iter_rows(named=True)
        ]
        self._fill_quotas(sampled, self.sampled_text, wanted)
        n_scanned = self._scan_beyond(wanted) if wanted else 0
        notes = [*idle_parts(self.home.settings.triage.routes, self.taxonomy.bins), *self._missed_cells()]
        rows = self._rows()
        return Filled(rows, self.held, wanted, n_scanned, self.n_gone, self.floor, self.n_elsewhere, notes)

    def _draw_floor(self) -> None:
        """Draw judged traces of the week at random, so many of each cell; once, so that every chance is n_h / N_h.

        What an earlier refresh of the week has queued may be drawn too: it keeps its row and gets its chance. A trace
        that another week's queue or a case holds cannot, so it is not counted among the N_h.
        """
        labels = self.labels.calibration
        if not labels or self.held["label_probability"].is_not_null().any():
            return
        present = judged(self.home, self.week).join(self.sample, left_on="trace_id", right_on="item_id", how="semi")
        there = present.filter(~pl.col("trace_id").is_in(self.taken_elsewhere))
        self.n_elsewhere = len(present) - len(there)
        self.floor = draw(there, labels, f"{self.salt}/calibration")
        bin_of, held = self._bin_of(), set(self.held["trace_id"])
        where = {row["trace_id"]: row for row in there.iter_rows(named=True)}
        chance: dict[str, float] = {}
        for cell, drawn in self.floor.items():
            for trace_id in drawn.trace_ids:
                if trace_id in held:
                    chance[trace_id] = drawn.chance
                    continue
                grader = where[trace_id]["grader"]
                why = f"drawn at random, {len(drawn.trace_ids)} of {drawn.size:,} where {cell.words} ({grader})"
                place = (trace_id, where[trace_id]["day"], bin_of[trace_id])
                pi = self.pi[trace_id]
                self._keep(_Chosen(*place, "calibration", why, CALIBRATION_PRIORITY, "sample", pi, drawn.chance))
        own = [chance.get(trace_id) for trace_id in self.held["trace_id"]]
        self.held = self.held.with_columns(label_probability=pl.Series(own, dtype=pl.Float64))

    def _keep(self, item: _Chosen) -> None:
        """Queue a trace whatever its text repeats: leaving out duplicates would bend the chances of the others."""
        text = self._texts([(item.trace_id, item.day)])[item.trace_id]
        self._embed([text])
        self.known.add(item.trace_id, text, self._vector(text))
        self.taken.add(item.trace_id)
        self.chosen.append(item)

    def _missed_cells(self) -> list[str]:
        """What the floor could not do with the labels that there are."""
        missed = [cell.words for cell, drawn in self.floor.items() if not drawn.trace_ids]
        notes = [f"no label was left for where {'; '.join(missed)}"] if missed else []
        if self.floor and QUIET not in self.floor:
            notes.append(f"no trace of the week is such that {QUIET.words}")
        return notes

    def _add_failures(self) -> None:
        """Traces that seem to have failed, the sources in turn; the same failure many times over needs one label."""
        there = Counter(self.held["source"])
        # What the random floor found no trace for is left to failures; a capture, which draws none, owes it nothing.
        n_floor = len(self.chosen) + there["calibration"]
        left = self.labels.failures + max(0, self.labels.calibration - n_floor)
        left -= sum(there[source] for source in FAILURE_SOURCES)
        present = set(self.raw.iter_rows())
        open_failures = [
            failure
            for failure in failures(self.home, self.week)
            if failure.trace_id not in self.taken and (failure.trace_id, failure.day) in present
        ]
        waiting = {source: [f for f in open_failures if f.source == source] for source in FAILURE_SOURCES}
        count = {source: there[source] for source in FAILURE_SOURCES}
        looks = FAILURES_PER_LABEL * max(left, 0)
        first = [failure for found in waiting.values() for failure in found[: looks // len(waiting)]]
        self._texts([(failure.trace_id, failure.day) for failure in first])  # all at once: each day is read once
        spent: set[Source] = {source for source in FAILURE_SOURCES if not waiting[source]}
        while left > 0 and looks > 0 and (source := whose_turn(FAILURE_SOURCES, count, spent)):
            seen = self._queue_first_new(waiting[source][: min(FAILURES_PER_LABEL, looks)])
            waiting[source], looks = waiting[source][seen.n_looked :], looks - seen.n_looked
            count[source] += seen.is_queued
            left -= seen.is_queued
            if not waiting[source]:
                spent.add(source)

    def _queue_first_new(self, found: list[Failure]) -> _Look:
        """Queue the first failure that repeats no queued one."""
        texts = self._texts([(failure.trace_id, failure.day) for failure in found])
        self._embed(texts.values())
        bin_of = self._bin_of()
        for number, failure in enumerate(found, start=1):
            trace_id, text = failure.trace_id, texts[failure.trace_id]
            vector = self._vector(text)
            if self.failed.duplicate_of(text, vector):
                continue
            self.failed.add(trace_id, text, vector)
            self.known.add(trace_id, text, vector)
            self.taken.add(trace_id)
            own_bin = bin_of.get(trace_id) or self._bins([text])[0]
            by = "sample" if trace_id in bin_of else "failure"
            where = (trace_id, failure.day, own_bin)
            pi = self.pi.get(trace_id)
            self.chosen.append(_Chosen(*where, failure.source, failure.reason, failure.priority, by, pi))
            return _Look(number, is_queued=True)
        return _Look(len(found), is_queued=False)

    def _open_quotas(self) -> dict[str, int]:
        """Labels that the plan wants and no queue holds yet, by bin; what waits from another week fills a quota too."""
        rows = [
            *self.held.filter(pl.col("source") == "quota").iter_rows(named=True),
            *(row for row in self.waiting_elsewhere if row["source"] not in UNPLANNED),
        ]
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
        known = self.sampled_text | self.read_text
        for day in sorted({day for trace_id, day in where if trace_id not in known}):
            wanted = [trace_id for trace_id, own in where if own == day and trace_id not in known]
            raw = self.home.lake.read(RAW_TRACES, [day], ["trace_id", "input"])
            rows = raw.filter(pl.col("trace_id").is_in(wanted)).iter_rows()
            self.read_text |= {trace_id: self.scrubber.scrub(text).text for trace_id, text in rows}
        return {trace_id: self.sampled_text.get(trace_id) or self.read_text[trace_id] for trace_id, _ in where}

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
            contexts = contexts_of(self.home, day, [item.trace_id for item in items], self.scrubber)
            for item in items:
                own = {**contexts[item.trace_id], "bin": item.bin, "label": labels[item.bin]}
                rows.append(
                    {
                        **own,
                        "trace_id": item.trace_id,
                        "queue": queue_of(self.home.settings.triage.routes, own),
                        "source": item.source,
                        "reason": item.reason,
                        "priority": item.priority,
                        "selected_by": item.selected_by,
                        "inclusion_probability": item.inclusion_probability,
                        "label_probability": item.label_probability,
                        "novel_above": self.taxonomy.novel_above,
                        "queued_on": self.home.calendar.now,
                        "taxonomy_id": self.taxonomy.taxonomy_id,
                    }
                )
        return pl.DataFrame(rows, schema=TRIAGE_QUEUE.schema)
