"""The marts: dbt over the lake's files, run by Dagster as `evalflow run` does."""

import shutil
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

import dagster as dg
import duckdb
import polars as pl
import pytest
import yaml

from evalflow.adapters.dbt_plugin import Plugin
from evalflow.adapters.home import Home, open_home
from evalflow.adapters.lake import Lake
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    CLUSTERS,
    COVERAGE_METRICS,
    ERROR_BATCH,
    GOLDEN_GROWTH,
    GOLDEN_LEDGER,
    QUALITY_METRICS,
    REVIEWS,
    SUITE_SCORES,
    TABLES,
    TRIAGE_QUEUE,
    Table,
)
from evalflow.core.alarms import Reason
from evalflow.core.coverage import Band
from evalflow.core.grading import LLM_GRADER, SIGNALS_GRADER
from evalflow.core.labels import LabelSource
from evalflow.core.records import GoldenCase, Origin, Verdict
from evalflow.core.reviewing import Source
from evalflow.core.score import Finding, Trend
from evalflow.core.weighting import Weighting
from evalflow.definitions import definitions_of
from evalflow.defs.automation import MARTS as MARTS_JOB
from evalflow.defs.marts import LAKE_VARIABLE, manifest_of, project_folder
from evalflow.defs.station import OWNERS
from evalflow.runner import RunFailedError, instance_of, marts_are_stale, run_marts

AUGUST, SEPTEMBER = date(2026, 8, 1), date(2026, 9, 1)
FIRST, SECOND, THIRD = date(2026, 8, 24), date(2026, 8, 31), date(2026, 9, 7)  # Mondays
FIRST_SUNDAY, SECOND_SUNDAY = date(2026, 8, 30), date(2026, 9, 6)
MARTS = [
    "dim_clusters",
    "fct_coverage_weekly",
    "fct_golden_composition",
    "fct_golden_growth",
    "fct_score_weekly",
    "fct_triage_latency",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One home for the module, because dbt parses once per home; its path holds what must be escaped."""
    return open_home(tmp_path_factory.mktemp("o'brien [home]")).prepare()


@pytest.fixture(autouse=True)
def _empty_home(home: Home) -> None:
    shutil.rmtree(home.lake.root)
    shutil.rmtree(home.ledger.journal.root, ignore_errors=True)
    home.prepare()


def _frame(table: Table, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows with nulls for the columns that they do not give."""
    return pl.DataFrame([{name: row.get(name) for name in table.schema} for row in rows], schema=table.schema)


def _headline(week: date, **changed: Any) -> dict[str, Any]:
    return {
        "as_of": week + timedelta(days=6),
        "is_provisional": False,
        "is_in_sample": False,
        "window_from": week - timedelta(days=21),
        "window_to": week + timedelta(days=6),
        "window_days": 28,
        "taxonomy_id": "2026-08-aaaa",
        "fitted_on": "2026-07",
        "n_bins": 3,
        "weighting": "steady_state",
        "week_n_sampled": 40,
        "week_n_golden": 4,
        "m_eff": 31.5,
        "jsd": 0.31,
        "jsd_raw": 0.33,
        "jsd_raw_traffic": 0.35,
        "band": "meaningful",
        "uncovered_share": 0.4,
        "novel_share": 0.1,
        **changed,
    }


def _write_week(home: Home, week: date, is_uncovered: list[bool], **headline: Any) -> None:
    repeated = _headline(week, **headline)
    bins = [{"bin": f"c{n:03}", "label": f"label of c{n:03}", "is_uncovered": f} for n, f in enumerate(is_uncovered)]
    _write(home, COVERAGE_METRICS, week, [{**repeated, **row} for row in bins])


def _write_clusters(home: Home, month: date, cluster_ids: list[str], taxonomy_id: str) -> None:
    rows = [
        {
            "cluster_id": cluster_id,
            "label": f"label of {cluster_id}",
            "terms": ["refund", "order"],
            "example": "where is my refund",
            "n_texts": 12,
            "traffic_share": 0.25,
            "is_edge": False,
            "taxonomy_id": taxonomy_id,
            "fitted_on": "2026-07",
            "is_provisional": False,
        }
        for cluster_id in cluster_ids
    ]
    home.lake.write(CLUSTERS, month, _frame(CLUSTERS, rows))


def _write(home: Home, table: Table, key: date | str, rows: list[dict[str, Any]]) -> None:
    home.lake.write(table, key, _frame(table, rows))


def _at(month: int, day: int, hour: int = 0) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


def _build(home: Home, only: str | None = None) -> None:
    """All marts as `evalflow run` builds them, or one as the UI's materialize button does, which is sooner done."""
    with instance_of(home) as instance:
        if only is None:
            run_marts(home, instance)
            return
        job = definitions_of(home).resolve_job_def(MARTS_JOB.name)
        assert job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(only)]).success


def _mart(home: Home, name: str) -> pl.DataFrame:
    return pl.read_parquet(home.marts / f"{name}.parquet", glob=False)


def test_an_empty_home_gives_marts_without_rows_whose_columns_are_all_described(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    _build(home)
    assert not marts_are_stale(home)
    assert sorted(path.stem for path in home.marts.glob("*.parquet")) == MARTS
    assert [name for name in MARTS if not _mart(home, name).is_empty()] == []
    assert capfd.readouterr().out == "", "stdout belongs to --json documents"
    document = yaml.safe_load((project_folder() / "models/marts/marts.yml").read_text())
    described = {
        model["name"]: [c["name"] for c in model["columns"] if c["description"]] for model in document["models"]
    }
    assert {name: sorted(columns) for name, columns in described.items()} == {
        name: sorted(_mart(home, name).columns) for name in MARTS
    }


def test_each_week_stands_once_with_its_headline(home: Home) -> None:
    _write_clusters(home, AUGUST, ["c000", "c001"], "2026-08-aaaa")
    _write_clusters(home, SEPTEMBER, ["c000"], "2026-09-bbbb")
    _write_week(home, FIRST, [True, False, True])
    # A week without a suite: jsd and band are null, and stay null.
    _write_week(home, SECOND, [True, True], jsd=None, jsd_raw=None, band=None, week_n_golden=0)
    _write_week(home, THIRD, [False], taxonomy_id="2026-09-bbbb", is_provisional=True, weighting="traffic")
    _write(home, GOLDEN_GROWTH, FIRST, [{"as_of": FIRST_SUNDAY, "n_cases": 4, "n_added": 3, "failures": 28.0}])
    _build(home)

    growth = _mart(home, "fct_golden_growth")
    assert growth.select("week", "n_cases", "n_added", "failures", "jsd").rows() == [(FIRST, 4, 3, 28.0, 0.31)]
    weekly = _mart(home, "fct_coverage_weekly")
    measured = weekly.select("week", "as_of", "jsd", "band", "n_golden", "is_provisional", "weighting")
    assert measured.rows() == [
        (FIRST, date(2026, 8, 30), 0.31, "meaningful", 4, False, "steady_state"),
        (SECOND, date(2026, 9, 6), None, None, 0, False, "steady_state"),
        (THIRD, date(2026, 9, 13), 0.31, "meaningful", 4, True, "traffic"),
    ]
    assert weekly["n_uncovered_bins"].to_list() == [2, 2, 0]
    assert weekly["is_first_of_taxonomy"].to_list() == [True, False, True]
    renamed = {"week_n_sampled", "week_n_golden"}
    kept = {name: value for name, value in _headline(FIRST).items() if name not in renamed}
    assert weekly.row(0, named=True).items() >= kept.items()
    clusters = _mart(home, "dim_clusters")
    assert clusters.select("month", "cluster_id", "taxonomy_id").rows() == [
        (AUGUST, "c000", "2026-08-aaaa"),
        (AUGUST, "c001", "2026-08-aaaa"),
        (SEPTEMBER, "c000", "2026-09-bbbb"),
    ]
    assert clusters["terms"].to_list() == [["refund", "order"]] * 3
    with duckdb.connect(":memory:") as connection, home.attach(connection):
        joined = connection.sql("select week from fct_coverage_weekly join dim_clusters using (taxonomy_id)")
        assert len(joined.fetchall()) == 2 + 2 + 1


def test_a_week_carries_its_graders_side_by_side_and_nulls_where_nothing_was_graded(home: Home) -> None:
    bins = [{"bin": f"c{n:03}", "is_uncovered": True, "is_blind_spot": n < 2} for n in range(3)]
    _write(home, COVERAGE_METRICS, FIRST, [{**_headline(FIRST), **row} for row in bins])
    _write(home, COVERAGE_METRICS, SECOND, [{**_headline(SECOND), **row, "is_blind_spot": False} for row in bins])
    _write_week(home, THIRD, [True], m_eff=None)  # measured before blind spots were looked for, and never graded
    costs = {"latency_p95_ms": 900.0, "cost_per_trace_usd": 0.002}
    graded = [
        {"grader": LLM_GRADER, "pass_rate": 0.7, **costs},
        {"grader": SIGNALS_GRADER, "pass_rate": 0.9, **costs},
        {"grader": SIGNALS_GRADER, "pass_rate": 0.1, "bin": "c000", "latency_p95_ms": 5000.0},
    ]
    _write(home, QUALITY_METRICS, FIRST, graded)
    _write(home, QUALITY_METRICS, SECOND, graded[1:])
    _build(home, "fct_coverage_weekly")
    weekly = _mart(home, "fct_coverage_weekly")
    quality = (f"pass_rate_{SIGNALS_GRADER}", f"pass_rate_{LLM_GRADER}", "latency_p95_ms", "cost_per_trace_usd")
    assert weekly.select("week", "n_blind_spots", "m_eff", *quality).rows() == [
        (FIRST, 2, 31.5, 0.9, 0.7, 900.0, 0.002),
        (SECOND, 0, 31.5, 0.9, None, 900.0, 0.002),
        (THIRD, None, None, None, None, None, None),
    ]


def test_figures_of_a_week_that_disagree_fail_its_key(home: Home) -> None:
    """Two rows of one grader for the whole window, and two costs."""
    _write_week(home, FIRST, [True])
    _write_week(home, SECOND, [True])
    _write(home, QUALITY_METRICS, FIRST, [{"grader": "llm", "grader_version": v, "pass_rate": 0.5} for v in ("1", "2")])
    costs = [{"grader": "signals", "cost_per_trace_usd": 0.1}, {"grader": "llm", "cost_per_trace_usd": 0.2}]
    _write(home, QUALITY_METRICS, SECOND, costs)
    with pytest.raises(RunFailedError, match=r"unique_fct_coverage_weekly_week \(Got 2 results"):
        _build(home)


def test_the_score_stands_beside_what_it_covers_and_new_runs_are_marked(home: Home) -> None:
    """A week before any run keeps its nulls, and of the others the first cannot say whether its run is new."""
    whole = {"n_cases": 40, "n_unscored": 0, "n_missing": 0, "n_changed": 0, "n_paired": 0, "is_provisional": False}
    said = {"diagnosis": "cannot_tell", "diagnosis_text": "Cannot tell.", "weighting": "traffic"}
    scored = {"weighted_pass_rate": 0.9, "covered_share": 0.8, "bound_low": 0.72, "bound_high": 0.92}
    runs = (None, "run-1", "run-1", "run-2")
    for number, run_id in enumerate(runs):
        week = FIRST + timedelta(weeks=number)
        dated = {"as_of": week + timedelta(days=6), "compared_week": week - timedelta(weeks=4), "run_id": run_id}
        _write(home, SUITE_SCORES, week, [{**whole, **said, **dated, **(scored if run_id else {})}])
    _build(home, "fct_score_weekly")
    weekly = _mart(home, "fct_score_weekly")
    assert weekly["run_id"].to_list() == list(runs)
    assert weekly["is_new_run"].to_list() == [None, None, False, True]
    assert weekly["weighted_pass_rate"].to_list() == [None, 0.9, 0.9, 0.9]
    assert weekly["covered_share"].to_list() == [None, 0.8, 0.8, 0.8]


def test_composition_is_the_suite_of_the_week_by_bin_origin_and_kind(home: Home) -> None:
    born, changed = date(2026, 8, 20), date(2026, 9, 2)
    _write(
        home,
        GOLDEN_LEDGER,
        "import-a",
        [
            # Changed on the day it was born, and again later: the newest version of its day tells the origin.
            {"case_id": "a", "version": 1, "origin": "synthetic", "is_regression": False, "effective_on": born},
            {"case_id": "a", "version": 2, "origin": "hand-authored", "is_regression": False, "effective_on": born},
            {"case_id": "b", "version": 1, "origin": "hand-authored", "is_regression": False, "effective_on": born},
            {"case_id": "p", "version": 1, "origin": "production", "is_regression": True, "effective_on": FIRST},
        ],
    )
    _write(
        home,
        GOLDEN_LEDGER,
        "import-b",
        [
            {"case_id": "a", "version": 3, "origin": "synthetic", "is_regression": False, "effective_on": changed},
            # Retired: no longer among the week's assignments.
            {"case_id": "b", "version": 2, "effective_on": changed, "retired_on": changed},
        ],
    )
    a, b, p = (
        {"side": "golden", "item_id": case_id, "bin": bin_id, "day": day, "case_weight": weight}
        for case_id, bin_id, day, weight in (
            ("a", "c000", born, 1.0),
            ("b", "c000", born, 0.5),
            ("p", "c001", FIRST, 0.25),
        )
    )
    traffic = {"side": "production", "item_id": "t1", "bin": "c000", "day": FIRST, "weight": 1.0}
    _write(home, BIN_ASSIGNMENTS, FIRST, [traffic, a, b, p])
    _write(home, BIN_ASSIGNMENTS, SECOND, [traffic, {**a, "day": changed}, p])
    for week, names in ((FIRST, ("refund", "card")), (SECOND, ("refunds", "card"))):
        bins = [{"bin": f"c{n:03}", "label": name, "is_uncovered": False} for n, name in enumerate(names)]
        _write(home, COVERAGE_METRICS, week, [{**_headline(week), **row} for row in bins])
    _build(home, "fct_golden_composition")
    # Ages by hand: 30 August is 10 days after the 20th and 6 after the 24th; 6 September 4 and 13.
    assert _mart(home, "fct_golden_composition").rows() == [
        (FIRST, FIRST_SUNDAY, "c000", "refund", "hand-authored", False, 2, 1.5, born, born, 10.0),
        (FIRST, FIRST_SUNDAY, "c001", "card", "production", True, 1, 0.25, FIRST, FIRST, 6.0),
        (SECOND, SECOND_SUNDAY, "c000", "refunds", "synthetic", False, 1, 1.0, changed, changed, 4.0),
        (SECOND, SECOND_SUNDAY, "c001", "card", "production", True, 1, 0.25, FIRST, FIRST, 13.0),
    ]


def test_composition_adds_up_to_what_the_ledger_says_counted(home: Home) -> None:
    def case(case_id: str, text: str, origin: Origin, created_at: datetime | None = None) -> GoldenCase:
        return GoldenCase(case_id=case_id, input=text, origin=origin, created_at=created_at)

    old = [case("a", "refund", "hand-authored", _at(8, 1)), case("b", "card", "synthetic", _at(8, 2))]
    home.ledger.import_cases(old, "suite.jsonl", _at(8, 26))
    new = [case("a", "refund now", "hand-authored", _at(8, 1)), case("c", "pin", "production")]
    home.ledger.import_cases(new, "more.jsonl", _at(9, 1, 9))
    home.ledger.import_cases([case("c", "pin?", "production")], "mended.jsonl", _at(9, 1, 10))
    home.ledger.retire(["b"], "gone", "people", _at(9, 8))
    home.publish()
    for week in (FIRST, SECOND, THIRD):
        suite = home.ledger.as_of(week + timedelta(days=6))
        placed = {"side": "golden", "bin": "c000", "case_weight": 1.0}
        rows = [{**placed, "item_id": v.case_id, "day": date.fromisoformat(v.effective_on)} for v in suite]
        _write(home, BIN_ASSIGNMENTS, week, rows)
        _write_week(home, week, [False])
    _build(home, "fct_golden_composition")
    composition = _mart(home, "fct_golden_composition")
    totals = dict(composition.group_by("week").agg(pl.col("n_cases").sum()).iter_rows())
    assert totals == {week: len(home.ledger.as_of(week + timedelta(days=6))) for week in (FIRST, SECOND, THIRD)}
    assert composition.select("week", "origin", "n_cases").rows() == [
        (FIRST, "hand-authored", 1),
        (FIRST, "synthetic", 1),
        (SECOND, "hand-authored", 1),
        (SECOND, "production", 1),
        (SECOND, "synthetic", 1),
        (THIRD, "hand-authored", 1),
        (THIRD, "production", 1),
    ]


def test_a_case_that_the_ledger_lacks_fails_instead_of_vanishing(home: Home) -> None:
    stray = {"side": "golden", "item_id": "stray", "bin": "c000", "day": FIRST, "case_weight": 1.0}
    _write(home, BIN_ASSIGNMENTS, FIRST, [stray])
    _write_week(home, FIRST, [False])
    with pytest.raises(RunFailedError, match="not_null_fct_golden_composition_origin"):
        _build(home)
    assert _mart(home, "fct_golden_composition")["n_cases"].to_list() == [1]


def test_each_queued_trace_stands_once_with_its_way_to_the_gate(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/Los_Angeles")  # where 24 August, 2:00 UTC is still the 23rd
    happened = _at(8, 24, 2)

    def queued(trace_id: str, queued_on: date, **more: Any) -> dict[str, Any]:
        at = {"trace_id": trace_id, "timestamp": happened, "queued_on": queued_on, "source": "quota", "priority": 0.5}
        return {**at, "bin": "c000", "label": "refund", **more}

    def answer(trace_id: str, verdict: str, reviewer: str, at: datetime) -> dict[str, Any]:
        return {"trace_id": trace_id, "verdict": verdict, "reviewer": reviewer, "reviewed_at": at, "recorded_at": at}

    first_queue = [
        queued("own", FIRST_SUNDAY, queue="payments"),
        queued("waits", FIRST_SUNDAY, source="failed_grade", bin=None, label=None),
    ]
    again = [queued("own", SECOND_SUNDAY, priority=0.9, source="failed_grade", bin="c777", label="other")]
    _write(home, TRIAGE_QUEUE, FIRST, first_queue)
    _write(home, TRIAGE_QUEUE, SECOND, [*again, queued("twin", SECOND_SUNDAY), queued("fine", SECOND_SUNDAY)])
    drawn = queued("drawn", SECOND_SUNDAY, source="error_analysis", queue="error-analysis")
    _write(home, ERROR_BATCH, SECOND, [drawn, queued("twin", SECOND_SUNDAY + timedelta(days=1))])
    _write(home, REVIEWS, "reviews-a", [answer("own", "real_failure", "ada", _at(8, 31, 2))])
    _write(
        home,
        REVIEWS,
        "reviews-b",
        [
            answer("own", "not_a_failure", "bob", _at(8, 30, 2)),
            answer("own", "real_failure", "eve", _at(9, 1, 2)),
            answer("twin", "real_failure", "ada", _at(9, 7, 2)),
            answer("fine", "not_a_failure", "ada", _at(9, 7, 2)),
            answer("never-queued", "unsure", "ada", _at(9, 7, 2)),
        ],
    )
    made = {"case_id": "p1", "trace_id": "own", "origin": "production", "is_regression": True}
    merged = {**made, "version": 2, "merged_trace_ids": ["twin"], "effective_on": date(2026, 9, 8)}
    promoted = {**made, "version": 1, "merged_trace_ids": [], "effective_on": date(2026, 9, 1)}
    _write(home, GOLDEN_LEDGER, "promotion-b", [{**promoted, "recorded_at": _at(9, 1, 14)}])
    _write(home, GOLDEN_LEDGER, "promotion-a", [{**merged, "recorded_at": _at(9, 8, 2)}])
    _build(home, "fct_triage_latency")

    latency = _mart(home, "fct_triage_latency")
    assert latency["queue"].to_list() == ["payments", "general", "error-analysis", "general", "general"]
    found = latency.select("trace_id", "week", "queued_on", "source", "priority", "bin_id", "bin_label", "status")
    assert found.rows() == [
        ("own", FIRST, FIRST_SUNDAY, "quota", 0.5, "c000", "refund", "promoted"),
        ("waits", FIRST, FIRST_SUNDAY, "failed_grade", 0.5, None, None, "open"),
        ("drawn", SECOND, SECOND_SUNDAY, "error_analysis", 0.5, "c000", "refund", "open"),
        ("fine", SECOND, SECOND_SUNDAY, "quota", 0.5, "c000", "refund", "answered"),
        ("twin", SECOND, SECOND_SUNDAY, "quota", 0.5, "c000", "refund", "merged"),
    ]
    assert latency.select("trace_id", "first_reviewed_at", "n_reviews", "verdicts").rows() == [
        ("own", _at(8, 30, 2), 3, ["not_a_failure", "real_failure"]),
        ("waits", None, 0, []),
        ("drawn", None, 0, []),
        ("fine", _at(9, 7, 2), 1, ["not_a_failure"]),
        ("twin", _at(9, 7, 2), 1, ["real_failure"]),
    ]
    assert latency.select("trace_id", "case_id", "is_merged", "promoted_at", "effective_on").rows() == [
        ("own", "p1", False, _at(9, 1, 14), date(2026, 9, 1)),
        ("waits", None, None, None, None),
        ("drawn", None, None, None, None),
        ("fine", None, None, None, None),
        ("twin", "p1", True, _at(9, 8, 2), date(2026, 9, 8)),
    ]
    # By hand, from 24 August, 2:00: 30 August is 6 days later, 1 September, 14:00 8.5, 6 to 8 September 13 to 15.
    assert latency.select("trace_id", "occurred_at", "days_to_queue", "days_to_review", "days_to_gate").rows() == [
        ("own", happened, 6, 6.0, 8.5),
        ("waits", happened, 6, None, None),
        ("drawn", happened, 13, None, None),
        ("fine", happened, 13, 14.0, None),
        ("twin", happened, 13, 14.0, 15.0),
    ]


def test_a_gate_before_the_failure_stays_negative_and_warns(home: Home) -> None:
    """What a replay gives whose clock stands before its traffic."""
    row = {"trace_id": "t", "timestamp": _at(8, 24), "queued_on": FIRST_SUNDAY, "source": "quota", "priority": 0.5}
    _write(home, TRIAGE_QUEUE, FIRST, [row])
    _write(
        home, GOLDEN_LEDGER, "promotion-a", [{"case_id": "p", "version": 1, "trace_id": "t", "recorded_at": _at(8, 22)}]
    )
    with instance_of(home) as instance:
        run_marts(home, instance)
        warned = _failed_checks(instance, dg.AssetCheckSeverity.WARN)
    assert warned == {"not_negative_fct_triage_latency_days_to_gate"}
    assert _mart(home, "fct_triage_latency")["days_to_gate"].to_list() == [-2.0]


def test_an_unknown_verdict_fails_its_check(home: Home) -> None:
    row = {"trace_id": "t", "timestamp": _at(8, 24), "queued_on": FIRST_SUNDAY, "source": "quota", "priority": 0.5}
    _write(home, TRIAGE_QUEUE, FIRST, [row])
    _write(home, REVIEWS, "reviews-a", [{"trace_id": "t", "verdict": "maybe", "reviewed_at": _at(8, 31)}])
    with pytest.raises(RunFailedError, match="accepted_items_fct_triage_latency_verdicts"):
        _build(home)


def test_a_repeated_key_fails_its_check_and_the_run(home: Home) -> None:
    """A cluster that stands twice in its taxonomy, and a week whose headlines disagree."""
    _write_clusters(home, AUGUST, ["c000", "c000"], "2026-08-aaaa")
    rows = [{**_headline(FIRST, jsd=jsd), "bin": "c000", "is_uncovered": False} for jsd in (0.1, 0.2)]
    home.lake.write(COVERAGE_METRICS, FIRST, _frame(COVERAGE_METRICS, rows))
    with instance_of(home) as instance:
        with pytest.raises(
            RunFailedError, match=r"dbt failed at (?=.*unique_combination_dim_clusters)(?=.*unique_fct)"
        ):
            run_marts(home, instance)
        assert _failed_checks(instance) == {
            "unique_combination_dim_clusters_taxonomy_id__cluster_id",
            "unique_fct_coverage_weekly_week",
        }


def test_one_mart_can_be_built_alone(home: Home) -> None:
    """What the UI's materialize button on a single asset does."""
    _write_week(home, FIRST, [True])
    with instance_of(home) as instance:
        job = definitions_of(home).resolve_implicit_global_asset_job_def()
        only = [dg.AssetKey("fct_coverage_weekly")]
        result = job.execute_in_process(instance=instance, asset_selection=only)
    assert result.success
    [event] = result.get_asset_materialization_events()
    assert event.materialization.metadata["dagster/row_count"].value == 1
    assert _mart(home, "fct_coverage_weekly")["week"].to_list() == [FIRST]


def test_the_marts_join_the_asset_graph(home: Home) -> None:
    graph = definitions_of(home).resolve_asset_graph()
    sources = {
        "dim_clusters": {"clusters", "taxonomy_refits"},
        "fct_coverage_weekly": {"coverage_metrics", "quality_metrics"},
        "fct_golden_composition": {"bin_assignments", "coverage_metrics", "golden_ledger"},
        "fct_golden_growth": {"golden_growth", "coverage_metrics"},
        "fct_score_weekly": {"suite_scores"},
        "fct_triage_latency": {"triage_queue", "error_batch", "reviews", "golden_ledger"},
    }
    for mart in MARTS:
        node = graph.get(dg.AssetKey(mart))
        assert node.group_name == "marts"
        assert {key.to_user_string() for key in node.parent_keys} == sources[mart]
        assert node.owners == OWNERS


def test_nothing_is_written_into_the_project(home: Home) -> None:
    assert manifest_of(home).is_relative_to(home.cache)
    assert not list(project_folder().glob("logs")) + list(project_folder().rglob(".user.yml"))


def test_sources_list_the_columns_that_the_lake_has() -> None:
    document = yaml.safe_load((project_folder() / "models/staging/sources.yml").read_text())
    for source in document["sources"][0]["tables"]:
        table = TABLES[source["name"]]
        assert [column["name"] for column in source["columns"]] == [table.unit, *table.schema]


def test_accepted_values_repeat_the_closed_sets() -> None:
    document = yaml.safe_load((project_folder() / "models/marts/marts.yml").read_text())
    listed = {
        (model["name"], column["name"]): next(iter(test.values()))["arguments"]["values"]
        for model in document["models"]
        for column in model["columns"]
        for test in column.get("data_tests", [])
        if isinstance(test, dict) and set(test) <= {"accepted_values", "accepted_items"}
    }
    assert listed.pop(("fct_triage_latency", "status")) == ["open", "answered", "promoted", "merged"]
    assert listed == {
        ("dim_clusters", "label_source"): list(get_args(LabelSource)),
        ("fct_coverage_weekly", "band"): list(get_args(Band)),
        ("fct_coverage_weekly", "jsd_reason"): list(get_args(Reason)),
        ("fct_coverage_weekly", "weighting"): list(get_args(Weighting)),
        ("fct_golden_composition", "origin"): list(get_args(Origin)),
        ("fct_score_weekly", "weighting"): list(get_args(Weighting)),
        ("fct_score_weekly", "jsd_trend"): list(get_args(Trend)),
        ("fct_score_weekly", "score_trend"): list(get_args(Trend)),
        ("fct_score_weekly", "served_score_trend"): list(get_args(Trend)),
        ("fct_score_weekly", "production_trend"): list(get_args(Trend)),
        ("fct_score_weekly", "diagnosis"): list(get_args(Finding)),
        ("fct_triage_latency", "source"): list(get_args(Source)),
        ("fct_triage_latency", "verdicts"): list(get_args(Verdict)),
    }


def test_a_lake_on_an_object_store_is_opened_through_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake("memory://marts-lake")
    lake.create_tables()
    monkeypatch.setenv(LAKE_VARIABLE, lake.url)
    with duckdb.connect(":memory:") as connection:
        Plugin("lake", {}).configure_connection(connection)
        assert connection.sql(f"select * from read_parquet('{lake.glob(CLUSTERS)}')").fetchall() == []


def _failed_checks(
    instance: dg.DagsterInstance, severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR
) -> set[str]:
    """Names of the checks that failed with this severity in the newest run."""
    [run] = instance.get_runs(limit=1)
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=kind)]
    evaluations = [event.asset_check_evaluation_data for event in events if event]
    return {e.check_name for e in evaluations if not e.passed and e.severity is severity}
