"""Station sessions: what follows what in the window's sessions, what kinds there are, how their steps add up.

Reads the sessions that the ``uniform`` rule drew whole, and the conversations that golden cases carry.
Keep out: the statistics (``core/sessions.py``, ``core/session_types.py``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from evalflow.adapters.charts import as_cell
from evalflow.adapters.embedder import Embedder
from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    SESSION_COMPOUNDING,
    SESSION_TRANSITIONS,
    SESSION_TYPES,
    STRATIFIED_SAMPLES,
    TRACE_SIGNALS,
    Table,
)
from evalflow.adapters.taxonomy import Taxonomy, fitted_for
from evalflow.core.calendar import sunday_of
from evalflow.core.grading import SIGNALS_VERSION, grade_by_signals
from evalflow.core.lineage import fingerprint
from evalflow.core.session_types import SessionTypes, session_types
from evalflow.core.sessions import (
    Compounding,
    StepGroup,
    TransitionCoverage,
    compounding,
    in_order,
    sessions_of,
    transition_coverage,
)
from evalflow.core.text import text_hash
from evalflow.core.tool_calls import MAX_NAME_CHARS, UNNAMED
from evalflow.core.weighting import row_weights, steady_state_masses
from evalflow.defs.coverage import taxonomy_of
from evalflow.defs.partitions import WEEKS, Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import FRESH_WEEKLY, OWNERS, SINGLE_RUN, Station, dates, parents, report

SHOWN_TRANSITIONS = 15
UNIFORM = "uniform"
ENDS = {"real_failure": False, "not_a_failure": True}
"""Verdicts of reviewers that say how what they saw ended."""


def _inputs(home: Home, week: date) -> Iterable[Any]:
    window = home.calendar.window(week)
    yield SIGNALS_VERSION
    yield home.settings.sampling.uncertain_below
    yield home.settings.sampling.max_weight_ratio
    yield home.settings.coverage.max_day_mass_sigmas
    yield home.settings.clustering.seed
    yield home.settings.clustering.vote_neighbors
    yield home.settings.privacy.model_dump()
    yield home.calendar.is_provisional(week)
    cases = home.ledger.as_of(sunday_of(week))
    yield fingerprint([(case.case_id, case.version, conversation_of(case), ended_well(case)) for case in cases])
    fitted = fitted_for(home, week)
    yield from parents(home, fitted.clusters, [fitted.key])  # the labels
    yield from parents(home, BIN_ASSIGNMENTS, [week])
    yield from parents(home, STRATIFIED_SAMPLES, window)
    yield from parents(home, TRACE_SIGNALS, window)


SESSIONS = Station("session_coverage", SESSION_COMPOUNDING, "week", "2", _inputs)
"""Its last table carries the fingerprint, so that a run that is cut short in between is done again."""


@dataclass(frozen=True)
class WeekSessions:
    """What the sessions of a window show. ``n_sampled`` whole sessions, ``n_cut`` that were drawn in part, ``n_alone``
    sampled traces without a session."""

    transitions: TransitionCoverage
    types: SessionTypes
    compounding: Compounding
    n_sampled: int
    n_cut: int
    n_alone: int
    is_provisional: bool
    weighting: str
    taxonomy_id: str
    labels: Mapping[str, str]


def session_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        group_name="coverage",
        owners=OWNERS,
        kinds={"scikitlearn", "parquet"},
        code_version=SESSIONS.version,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        freshness_policy=partitions.fresh(FRESH_WEEKLY),
        deps=[
            "bin_assignments",
            dg.AssetDep("stratified_samples", partition_mapping=WEEKS),
            dg.AssetDep("trace_signals", partition_mapping=WEEKS),
        ],
        description="The window's sessions against the suite's conversations, in three tables: transitions from bin to bin "
        "(session_transitions), kinds of sessions (session_types), and per-step success over n steps against the sessions "
        "that succeeded (session_compounding).",
    )
    def session_coverage(context: dg.AssetExecutionContext, home: HomeResource) -> None:
        workspace = home.open()
        for week in dates(context):
            workspace.lake.require(BIN_ASSIGNMENTS, [week])
            made_from = SESSIONS.made_from(workspace, week)
            found = sessions_of_week(workspace, week)
            for table, rows in _tables(found):
                workspace.lake.write(table, week, rows, made_from=made_from)
            report(context, week, _metadata(found))

    return [session_coverage]


def sessions_of_week(home: Home, week: date) -> WeekSessions | None:
    """The sessions of the week's window; None without traffic."""
    rows = home.lake.read(BIN_ASSIGNMENTS, [week])
    production = rows.filter(pl.col("side") == "production")
    if production.is_empty():
        return None
    window = home.calendar.window(week)
    signals = home.lake.read(TRACE_SIGNALS, window, with_key=True)
    turns = in_order(uniform_turns(home, window, production, signals))
    logged = signals["session_id"].drop_nulls().value_counts().filter(pl.col("session_id").is_in(turns["session_id"]))
    sessions = sessions_of(turns, dict(logged.iter_rows()))
    taxonomy = taxonomy_of(home, week, production)
    cases = home.ledger.as_of(sunday_of(week))
    golden = rows.filter(pl.col("side") == "golden")
    spoken = _spoken_turns(home, taxonomy, cases, dict(golden.select("item_id", "bin").iter_rows()))
    return WeekSessions(
        transitions=transition_coverage(turns, spoken),
        types=session_types(sessions, _as_sessions(cases), home.settings.clustering.seed),
        compounding=compounding(sessions),
        n_sampled=len(sessions),
        n_cut=turns["session"].n_unique() - len(sessions),
        n_alone=turns["session_id"].null_count(),
        is_provisional=home.calendar.is_provisional(week),
        weighting=production["weighting"][0],
        taxonomy_id=production["taxonomy_id"][0],
        labels=taxonomy.bins,
    )


def uniform_turns(home: Home, window: list[date], production: pl.DataFrame, signals: pl.DataFrame) -> pl.DataFrame:
    """The turns that the uniform rule drew, weighted by it alone, with their bin, verdict and signals."""
    columns = ["trace_id", "turn_index", "timestamp", "tools", "context_tokens", "day_traces", "pi_uniform", "rules"]
    sample = home.lake.read(STRATIFIED_SAMPLES, window, columns, with_key=True)
    volumes = {row[0]: int(row[1]) for row in sample.group_by("day").agg(pl.col("day_traces").first()).iter_rows()}
    masses = steady_state_masses(volumes, home.settings.coverage.max_day_mass_sigmas)
    drawn = sample.filter(pl.col("rules").list.contains(UNIFORM))
    weight = row_weights(drawn["day"], drawn["pi_uniform"], masses, home.settings.sampling.max_weight_ratio).weight
    bins = production.select("day", "session_id", "bin", trace_id="item_id")
    kept = ["day", "trace_id", *(name for name in signals.columns if name.startswith("is_")), "confidence"]
    joined = (
        drawn.with_columns(weight=weight)
        .join(bins, on=["day", "trace_id"], how="inner", maintain_order="left", validate="1:1")
        .join(signals.select(kept), on=["day", "trace_id"], how="left", maintain_order="left", validate="1:1")
    )
    verdicts = grade_by_signals(joined, home.settings.sampling.uncertain_below)["verdict"]
    return joined.with_columns(verdicts).rename({"trace_id": "item_id"})


# -- the suite's conversations ---------------------------------------------------------------------------------


def conversation_of(case: CaseVersion) -> list[dict[str, Any]]:
    """The messages before a case's input; what is not a message is passed over."""
    held = case.metadata.get("conversation") if isinstance(case.metadata, Mapping) else None
    return [dict(message) for message in held if isinstance(message, Mapping)] if isinstance(held, list) else []


def _said(case: CaseVersion) -> list[str]:
    """What the user said before the case's input."""
    return [
        message["content"]
        for message in conversation_of(case)
        if message.get("role") == "user" and isinstance(message.get("content"), str) and message["content"].strip()
    ]


def _spoken_turns(
    home: Home, taxonomy: Taxonomy, cases: Sequence[CaseVersion], bins: Mapping[str, str]
) -> pl.DataFrame:
    """Turns of the cases that have a conversation, in order: ``case_id``, ``bin``; placed by the same frozen rule."""
    turns = [(case.case_id, text) for case in cases if case.case_id in bins for text in _said(case)]
    schema = {"case_id": pl.String, "bin": pl.String}
    if not turns:
        return pl.DataFrame(schema=schema)
    scrubber = Scrubber(home.settings.privacy)
    embedder = Embedder(home.settings.embedding, home.cache)
    texts = [scrubber.scrub(text).text for _, text in turns]
    vectors = embedder.embed(texts)
    placed = taxonomy.place(
        np.stack([vectors[text_hash(text)] for text in texts]),
        [embedder.model_id],
        home.settings.clustering.vote_neighbors,
    )
    spoken: dict[str, list[str]] = {}
    for (case_id, _), name in zip(turns, placed["bin"], strict=True):
        spoken.setdefault(case_id, []).append(name)
    return pl.DataFrame(
        [(case_id, name) for case_id, before in spoken.items() for name in [*before, bins[case_id]]],
        schema=schema,
        orient="row",
    )


def _as_sessions(cases: Sequence[CaseVersion]) -> pl.DataFrame:
    """Each case as a session: its user turns with its input, the tools that its conversation names, how it ended, if known."""
    return pl.DataFrame(
        {
            "case_id": [case.case_id for case in cases],
            "n_turns": [len(_said(case)) + 1 for case in cases],
            "tools": [tools_of(conversation_of(case)) for case in cases],
            "ended_well": [ended_well(case) for case in cases],
        },
        schema={"case_id": pl.String, "n_turns": pl.Int64, "tools": pl.List(pl.String), "ended_well": pl.Boolean},
    )


def ended_well(case: CaseVersion) -> bool | None:
    """What the reviewers of a promoted case said of the answer that production gave; None where nobody was asked."""
    return ENDS.get(case.provenance.verdict or "") if case.provenance else None


def tools_of(conversation: Iterable[Mapping[str, Any]]) -> list[str] | None:
    """Names of the calls that messages hold, as ``tool_calls`` with ``name`` or ``function.name``; None where none has any."""
    lists = [message["tool_calls"] for message in conversation if isinstance(message.get("tool_calls"), list)]
    if not lists:
        return None
    names = []
    for call in (call for calls in lists for call in calls if isinstance(call, Mapping)):
        function = call.get("function")
        name = function.get("name") if isinstance(function, Mapping) else call.get("name")
        names.append((name if isinstance(name, str) and name else UNNAMED)[:MAX_NAME_CHARS])
    return names


# -- tables ----------------------------------------------------------------------------------------------------


def _tables(found: WeekSessions | None) -> list[tuple[Table, pl.DataFrame]]:
    """The three tables, the one that carries the station's fingerprint last."""
    if found is None:
        return [
            (table, pl.DataFrame(schema=table.schema))
            for table in (SESSION_TRANSITIONS, SESSION_TYPES, SESSION_COMPOUNDING)
        ]
    moved, types, steps = found.transitions, found.types, found.compounding
    named = {
        "is_provisional": found.is_provisional,
        "weighting": found.weighting,
        "taxonomy_id": found.taxonomy_id,
    }
    of_transitions = {
        "n_sessions": moved.n_sessions,
        "n_transitions": moved.n_transitions,
        "n_golden_cases": moved.n_golden_cases,
        "n_golden_transitions": moved.n_golden,
        "m_eff": moved.m_eff,
        "jsd_raw": moved.jsd_raw,
        "floor_mean": moved.floor_mean,
        "floor_p95": moved.floor_p95,
        "covered_share": moved.covered_share,
        "reason": moved.reason,
    }
    of_types = {
        "week_n_sessions": types.n_sessions,
        "week_n_golden": types.n_golden,
        "case_features": list(types.case_features),
        "silhouette": types.silhouette,
        "jsd_raw": types.jsd_raw,
        "reason": types.reason,
    }
    of_steps = {"step_success": steps.step_success, "n_steps": steps.n_steps, "n_unscored": steps.n_unscored}
    labels = found.labels
    return [
        (
            SESSION_TRANSITIONS,
            _frame(
                SESSION_TRANSITIONS,
                [
                    {
                        **asdict(row),
                        "from_label": labels.get(row.from_bin),
                        "to_label": labels.get(row.to_bin),
                        **of_transitions,
                        **named,
                    }
                    for row in moved.transitions
                ],
            ),
        ),
        (SESSION_TYPES, _frame(SESSION_TYPES, [{**asdict(row), **of_types, **named} for row in types.types])),
        (
            SESSION_COMPOUNDING,
            _frame(SESSION_COMPOUNDING, [{**asdict(row), **of_steps, **named} for row in steps.groups]),
        ),
    ]


def _frame(table: Table, rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame([{name: row[name] for name in table.schema} for row in rows], schema=table.schema)


# -- metadata --------------------------------------------------------------------------------------------------


def _metadata(found: WeekSessions | None) -> dict[str, Any]:
    if found is None:
        return {"dagster/partition_row_count": 0, "reason": "no traces in the window"}
    moved, types, steps = found.transitions, found.types, found.compounding
    return {
        "dagster/partition_row_count": len(steps.groups),
        "whole sessions": found.n_sampled,
        "sessions drawn in part": found.n_cut,
        "traces without a session": found.n_alone,
        "weighting": found.weighting,
        "transitions": moved.n_transitions,
        "turns that follow a gap": moved.n_gaps,
        "golden cases with a conversation": moved.n_golden_cases,
        "transition JSD (raw)": _rounded(moved.jsd_raw),
        "of random suites of as many transitions": _rounded(moved.floor_mean),
        "transitions that a case has (share of traffic)": _rounded(moved.covered_share),
        "no transition JSD, because": moved.reason,
        "session types": len(types.types),
        "one type, because": types.reason,
        "cases were assigned by": ", ".join(types.case_features) or None,
        "per-step success": _rounded(steps.step_success),
        "sessions with an unscored step": steps.n_unscored,
        "by transition": dg.MetadataValue.md(transitions_as_markdown(moved, found.labels)),
        "by type": dg.MetadataValue.md(types_as_markdown(types)),
        "by number of steps": dg.MetadataValue.md(steps_as_markdown(steps)),
    }


def transitions_as_markdown(moved: TransitionCoverage, labels: Mapping[str, str]) -> str:
    """The largest transitions, those that no case has first."""
    lines = ["| from | to | traffic | cases | |", "|---|---|---|---|---|"]
    chosen = sorted(moved.transitions, key=lambda row: (row.golden_transitions > 0, -row.production_share))
    for row in chosen[:SHOWN_TRANSITIONS]:
        names = (as_cell(f"{labels.get(name, '')} {name}".strip()) for name in (row.from_bin, row.to_bin))
        flag = "" if row.golden_transitions else "uncovered"
        lines.append(f"| {' | '.join(names)} | {row.production_share:.2%} | {row.golden_transitions} | {flag} |")
    return "\n".join(lines)


def types_as_markdown(types: SessionTypes) -> str:
    lines = ["| type | what | sessions | 95 % | sampled | cases | |", "|---|---|---|---|---|---|---|"]
    for row in types.types:
        flag = "uncovered" if row.is_uncovered else ""
        lines.append(
            f"| {row.type_id} | {as_cell(row.description)} | {row.production_share:.1%} | {row.production_share_low:.1%} to "
            f"{row.production_share_high:.1%} | {row.n_sessions} | {row.golden_cases:.1f} | {flag} |"
        )
    return "\n".join(lines)


def steps_as_markdown(steps: Compounding) -> str:
    head = "| steps | sessions | expected, if independent | every step passed | 95 % | ended well | |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in steps.groups:
        well = "" if row.ended_well_share is None else f"{row.ended_well_share:.1%}"
        lines.append(
            f"| {steps_in_words(row)} | {row.n_sessions} | {row.expected_share:.1%} | {row.all_passed_share:.1%} | "
            f"{row.all_passed_low:.1%} to {row.all_passed_high:.1%} | {well} | {'gap' if row.is_gap else ''} |"
        )
    return "\n".join(lines)


def steps_in_words(row: StepGroup) -> str:
    if row.n_steps_to is None:
        return "all" if row.n_steps_from == 1 else f"{row.n_steps_from} or more"
    return str(row.n_steps_from) if row.n_steps_from == row.n_steps_to else f"{row.n_steps_from} to {row.n_steps_to}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
