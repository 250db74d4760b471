"""The marts: dbt over the lake's files, run by Dagster as `evalflow run` does."""

from datetime import date, timedelta
from typing import Any, get_args

import dagster as dg
import duckdb
import polars as pl
import pytest
import yaml

from evalflow.adapters.dbt_plugin import Plugin
from evalflow.adapters.home import Home, open_home
from evalflow.adapters.lake import Lake
from evalflow.adapters.tables import CLUSTERS, COVERAGE_METRICS, TABLES, Table
from evalflow.core.coverage import Band
from evalflow.core.weighting import Weighting
from evalflow.definitions import definitions_of
from evalflow.defs.marts import LAKE_VARIABLE, manifest_of, project_folder
from evalflow.runner import RunFailedError, instance_of, marts_are_stale, run_marts

AUGUST, SEPTEMBER = date(2026, 8, 1), date(2026, 9, 1)
FIRST, SECOND, THIRD = date(2026, 8, 24), date(2026, 8, 31), date(2026, 9, 7)  # Mondays


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One home for the module, because dbt parses once per home; its path holds what must be escaped."""
    return open_home(tmp_path_factory.mktemp("o'brien [home]")).prepare()


@pytest.fixture(autouse=True)
def _empty_lake(home: Home) -> None:
    for table in (COVERAGE_METRICS, CLUSTERS):
        for key in home.lake.keys(table):
            home.lake.write(table, key, pl.DataFrame(schema=table.schema))


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
    rows = [{**repeated, "bin": f"c{n:03}", "is_uncovered": flag} for n, flag in enumerate(is_uncovered)]
    home.lake.write(COVERAGE_METRICS, week, _frame(COVERAGE_METRICS, rows))


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


def _build(home: Home) -> None:
    with instance_of(home) as instance:
        run_marts(home, instance)


def _mart(home: Home, name: str) -> pl.DataFrame:
    return pl.read_parquet(home.marts / f"{name}.parquet", glob=False)


def test_an_empty_home_gives_marts_without_rows(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    _build(home)
    assert not marts_are_stale(home)
    assert _mart(home, "fct_coverage_weekly").is_empty()
    assert _mart(home, "dim_clusters").is_empty()
    assert capfd.readouterr().out == "", "stdout belongs to --json documents"


def test_each_week_stands_once_with_its_headline(home: Home) -> None:
    _write_clusters(home, AUGUST, ["c000", "c001"], "2026-08-aaaa")
    _write_clusters(home, SEPTEMBER, ["c000"], "2026-09-bbbb")
    _write_week(home, FIRST, [True, False, True])
    # A week without a suite: jsd and band are null, and stay null.
    _write_week(home, SECOND, [True, True], jsd=None, jsd_raw=None, band=None, week_n_golden=0)
    _write_week(home, THIRD, [False], taxonomy_id="2026-09-bbbb", is_provisional=True, weighting="traffic")
    _build(home)

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


def test_a_repeated_key_fails_its_check_and_the_run(home: Home) -> None:
    """A cluster that stands twice in its month, and a week whose headlines disagree."""
    _write_clusters(home, AUGUST, ["c000", "c000"], "2026-08-aaaa")
    rows = [{**_headline(FIRST, jsd=jsd), "bin": "c000", "is_uncovered": False} for jsd in (0.1, 0.2)]
    home.lake.write(COVERAGE_METRICS, FIRST, _frame(COVERAGE_METRICS, rows))
    with instance_of(home) as instance:
        with pytest.raises(RunFailedError, match=r"dbt failed at unique_combination_dim_clusters.*; unique_fct"):
            run_marts(home, instance)
        assert _failed_checks(instance) == {
            "unique_combination_dim_clusters_month__cluster_id",
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
    for mart, source in (("fct_coverage_weekly", "coverage_metrics"), ("dim_clusters", "clusters")):
        node = graph.get(dg.AssetKey(mart))
        assert node.group_name == "marts"
        assert node.parent_keys == {dg.AssetKey(source)}
        assert node.owners == graph.get(dg.AssetKey(source)).owners


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
    columns = {column["name"]: column for column in document["models"][0]["columns"]}
    for name, closed in (("band", Band), ("weighting", Weighting)):
        [test] = [test for test in columns[name]["data_tests"] if "accepted_values" in test]
        assert test["accepted_values"]["arguments"]["values"] == list(get_args(closed))


def test_a_lake_on_an_object_store_is_opened_through_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake("memory://marts-lake")
    lake.create_tables()
    monkeypatch.setenv(LAKE_VARIABLE, lake.url)
    with duckdb.connect(":memory:") as connection:
        Plugin("lake", {}).configure_connection(connection)
        assert connection.sql(f"select * from read_parquet('{lake.glob(CLUSTERS)}')").fetchall() == []


def _failed_checks(instance: dg.DagsterInstance) -> set[str]:
    """Names of the checks that failed with severity error in the newest run."""
    [run] = instance.get_runs(limit=1)
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    events = [entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=kind)]
    evaluations = [event.asset_check_evaluation_data for event in events if event]
    return {e.check_name for e in evaluations if not e.passed and e.severity is dg.AssetCheckSeverity.ERROR}
