"""The grades station over real files, a real Dagster instance and a real judge's endpoint, on a small planted world."""

import json
import shutil
import warnings
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random

import dagster as dg
import numpy as np
import polars as pl
import pytest

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.judge import judge_version
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    CLUSTERS,
    JUDGE_GRADES,
    QUALITY_METRICS,
    RAW_TRACES,
    STRATIFIED_SAMPLES,
    TAXONOMY_TEXTS,
)
from evalflow.core.grading import LLM_GRADER, SIGNALS_GRADER, weighted_rate
from evalflow.core.weighting import row_weights, traffic_masses
from evalflow.defs.automation import range_tags
from evalflow.defs.clusters import cluster_assets
from evalflow.defs.embeddings import embedding_assets
from evalflow.defs.golden import golden_specs
from evalflow.defs.grades import GRADES, QUALITY, draw_for_judge, grade_assets
from evalflow.defs.partitions import partitions_of
from evalflow.defs.resources import resources_of
from evalflow.defs.samples import sample_assets
from evalflow.defs.traffic import traffic_assets
from evalflow_tests.judge_server import BAD_WORD, KEY, MODEL, JudgeServer
from evalflow_tests.small_world import TOPICS, traces, write_jsonl

START, END = datetime(2026, 6, 1, 8, tzinfo=UTC), date(2026, 6, 14)
FIRST, WEEK = START.date(), date(2026, 6, 8)
PER_DAY, SAMPLED, JUDGED = 240, 40, 20


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)


def run(home: Home, asset: str, first: date, last: date, **config: object) -> dg.ExecuteInProcessResult:
    """One run of one asset over a range of its partitions, as `evalflow run` starts it."""
    partitions = partitions_of(home.calendar)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=dg.BetaWarning)
        warnings.simplefilter("ignore", category=dg.PreviewWarning)
        assets = [
            *traffic_assets(partitions, home.settings.ingest.feedback_days),
            *sample_assets(partitions),
            *embedding_assets(partitions),
            *cluster_assets(partitions),
            *golden_specs(partitions),
            *grade_assets(partitions),
        ]
        job = dg.Definitions(
            assets=assets, resources=resources_of(home), executor=dg.in_process_executor
        ).resolve_implicit_global_asset_job_def()
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with dg.DagsterInstance.from_config(str(home.path)) as instance:
        return job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(asset)],
            tags={} if config else range_tags(first, last),
            run_config={**quiet, **({"ops": {asset: {"config": config}}} if config else {})},
            raise_on_error=False,
        )


def grade(home: Home, first: date = FIRST, last: date = END) -> dg.ExecuteInProcessResult:
    return run(home, "judge_grades", first, last)


def metadata_of(result: dg.ExecuteInProcessResult, day: date) -> dict[str, object]:
    (found,) = (
        event.materialization
        for event in result.get_asset_materialization_events()
        if event.materialization.partition == str(day)
    )
    return {name: value.value for name, value in found.metadata.items()}


def error_of(result: dg.ExecuteInProcessResult) -> str:
    (event,) = (event for event in result.all_events if event.is_step_failure)
    return event.step_failure_data.error.to_string()


def grades_of(home: Home, grader: str) -> pl.DataFrame:
    return home.lake.read(JUDGE_GRADES, home.calendar.days(), with_key=True).filter(pl.col("grader") == grader)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two weeks of traffic. A tenth of it was regenerated and mostly failed, and the sample is full of that tenth."""
    home = open_home(tmp_path_factory.mktemp("grades") / "home").prepare()
    for key, value in {
        "traffic_end": END,
        "sampling.target_per_day": SAMPLED,
        "sampling.signal_share": 0.5,
        "sampling.uniform_share": 0.5,
        "sampling.uncertainty_share": 0.0,
        "sampling.strata_share": 0.0,
        "judge.target_per_day": JUDGED,
    }.items():
        write_setting(home.path, key, value)
    rows, chance = traces(START, 14, PER_DAY, seed=1), Random(5)
    for row in rows:
        is_failure = chance.random() < (0.9 if row["signals"]["regenerated"] else 0.1)
        row["output"] = f"a {BAD_WORD if is_failure else 'right'} answer to {row['trace_id']}"
        row["cost_usd"] = 0.002
    source = write_jsonl(home.path.parent / "traces.jsonl", rows)
    assert run(home.reloaded(), "trace_files", FIRST, END, paths=[str(source)]).success
    home = home.reloaded()
    for asset in ("raw_traces", "feedback", "trace_signals", "stratified_samples"):
        assert run(home, asset, FIRST, END).success
    return home


@pytest.fixture
def home(world: Home, tmp_path: Path) -> Home:
    shutil.copytree(world.path, tmp_path / "home")
    return open_home(tmp_path / "home")


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as judge:
        yield judge


def with_judge(home: Home, server: JudgeServer, monkeypatch: pytest.MonkeyPatch, **changed: object) -> Home:
    """The home with the loopback judge in its settings, its key in the environment."""
    monkeypatch.setenv("EVALFLOW_JUDGE__API_KEY", KEY)
    chosen = {"base_url": server.base_url, "model": MODEL, "max_retries": 1, "usd_per_million_input_tokens": 1.0}
    for name, value in {**chosen, **changed}.items():
        write_setting(home.path, f"judge.{name}", value)
    return home.reloaded()


def test_without_a_model_every_sampled_trace_has_the_signals_verdict(home: Home) -> None:
    assert grade(home).success
    grades = home.lake.read(JUDGE_GRADES, home.calendar.days())
    sample = home.lake.read(STRATIFIED_SAMPLES, home.calendar.days())
    assert grades["grader"].unique().to_list() == [SIGNALS_GRADER]
    assert grades["trace_id"].to_list() == sample["trace_id"].to_list()
    assert grades["inclusion_probability"].to_list() == sample["inclusion_probability"].to_list()
    assert grades["pi_grade"].unique().to_list() == [1.0]
    assert grades["cost_usd"].null_count() == len(grades)
    regenerated = sample["negative_signals"].list.contains("regenerated")
    assert set(grades.filter(regenerated)["verdict"]) == {"fail"}
    assert GRADES.stale_ranges(home, FIRST, END) == []


def test_the_judge_speaks_about_a_second_draw(home: Home, server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows carry both probabilities, agree with what the server said, and a second run asks nothing."""
    home = with_judge(home, server, monkeypatch)
    result = grade(home)
    assert result.success
    grades = grades_of(home, LLM_GRADER)
    for (day,), rows in grades.group_by("day", maintain_order=True):
        drawn = draw_for_judge(home, day)
        n_sampled = len(home.lake.read(STRATIFIED_SAMPLES, [day]))
        assert drawn.pi_grade == pytest.approx(JUDGED / n_sampled)
        assert rows["trace_id"].to_list() == sorted(drawn.rows["trace_id"])
        assert rows["pi_grade"].unique().to_list() == [drawn.pi_grade]
    joined = grades.join(
        home.lake.read(STRATIFIED_SAMPLES, home.calendar.days(), ["trace_id", "output", "inclusion_probability"]),
        on="trace_id",
        suffix="_sampled",
    )
    assert ((joined["verdict"] == "fail") == joined["output"].str.contains(BAD_WORD)).all()
    assert (joined["inclusion_probability"] == joined["inclusion_probability_sampled"]).all()
    assert grades["grader_version"].unique().to_list() == [judge_version(home.settings.judge)]
    # 14 days x 20 expected, a Poisson draw: sd is about sqrt(14 x 20 x 1/2) = 12.
    assert len(grades) == pytest.approx(14 * JUDGED, abs=3 * 12)
    assert metadata_of(result, FIRST)["drawn but not judged yet"] == 0
    assert GRADES.stale_ranges(home, FIRST, END) == []
    n_asked = len(server.asked)
    before = home.lake.content(JUDGE_GRADES, FIRST)
    assert grade(home).success
    assert len(server.asked) == n_asked
    assert home.lake.content(JUDGE_GRADES, FIRST) == before


def test_the_judges_draw_does_not_follow_the_samples_own_numbers(home: Home) -> None:
    """Its salt is its own: among the drawn, traces that one rule chose are as frequent as in the sample."""
    sample = home.lake.read(STRATIFIED_SAMPLES, home.calendar.days(), ["rules"])
    drawn = pl.concat([draw_for_judge(home, day).rows for day in home.calendar.days()])
    rules = home.lake.read(STRATIFIED_SAMPLES, home.calendar.days(), ["trace_id", "rules"]).join(
        drawn.select("trace_id"), on="trace_id", how="semi"
    )
    share = [frame["rules"].list.contains("uniform").mean() for frame in (sample, rules)]
    # About 280 drawn: the standard error of a share near a half is .03.
    assert share[1] == pytest.approx(share[0], abs=0.1)


def test_a_judge_that_fails_leaves_the_rest_and_the_next_run_completes(
    home: Home, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals rows and the verdicts so far are written; the run says why it failed; the next one pays the rest only."""
    home = with_judge(home, server, monkeypatch, concurrency=1)
    server.fault_of = lambda asked: None if server.n_answered < 30 else "server_error"
    failed = grade(home)
    assert not failed.success
    assert f"The judge endpoint {server.base_url} answers for 'loopback-judge' with HTTP 500" in error_of(failed)
    assert "Every verdict that was obtained is kept" in error_of(failed)
    assert len(grades_of(home, SIGNALS_GRADER)) == len(home.lake.read(STRATIFIED_SAMPLES, home.calendar.days()))
    assert len(grades_of(home, LLM_GRADER)) == 30
    # About 20 a day: the first day is whole and stays so, the second one was cut short.
    assert GRADES.stale_ranges(home, FIRST, END) == [(date(2026, 6, 2), END)]
    server.fault_of = lambda asked: None
    assert grade(home, date(2026, 6, 2)).success
    assert GRADES.stale_ranges(home, FIRST, END) == []
    assert server.n_answered == len(grades_of(home, LLM_GRADER))


def test_an_endpoint_that_is_down_costs_the_signals_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with JudgeServer() as gone:
        home = with_judge(home, gone, monkeypatch)
    failed = grade(home, FIRST, FIRST)
    assert "cannot be reached" in error_of(failed)
    assert KEY not in error_of(failed)
    assert len(grades_of(home, SIGNALS_GRADER)) > 0
    assert home.lake.made_from(JUDGE_GRADES, FIRST) == ""


def test_the_cap_leaves_items_for_the_next_run_and_says_so(
    home: Home, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All days of a run share one cap; reaching it is no failure, but the days it cut short are not up to date."""
    home = with_judge(home, server, monkeypatch, max_usd_per_run=0.012)
    result = grade(home, FIRST, date(2026, 6, 7))
    assert result.success
    n_judged = len(grades_of(home, LLM_GRADER))
    said = metadata_of(result, date(2026, 6, 7))
    assert 0 < n_judged < 7 * JUDGED
    assert 0 < said["paid by the run (usd)"] <= 0.012  # type: ignore[operator]
    assert said["drawn but not judged yet"] > 0  # type: ignore[operator]
    assert "judge.max_usd_per_run = 0.012 left" in str(said["note"])
    assert GRADES.stale_ranges(home, FIRST, date(2026, 6, 7)) != []
    home = with_judge(home, server, monkeypatch, max_usd_per_run=5.0)
    assert grade(home, FIRST, date(2026, 6, 7)).success
    assert GRADES.stale_ranges(home, FIRST, date(2026, 6, 7)) == []
    assert len(server.asked) == len(grades_of(home, LLM_GRADER))


@pytest.mark.parametrize(
    ("key", "value", "is_stale"),
    [
        ("model", "another", True),
        ("target_per_day", 21, True),
        ("concurrency", 9, False),
        ("timeout_s", 9.0, False),
        ("base_url", "http://127.0.0.1:9/v1", False),
        ("usd_per_million_input_tokens", 3.0, False),
        ("max_usd_per_run", 3.0, False),
        ("api_key", "sk-another", False),
    ],
)
def test_only_what_changes_verdicts_makes_a_day_stale(
    home: Home, server: JudgeServer, monkeypatch: pytest.MonkeyPatch, key: str, value: object, is_stale: bool
) -> None:
    home = with_judge(home, server, monkeypatch)
    before = GRADES.made_from(home, FIRST)
    assert KEY not in json.dumps(list(GRADES.inputs(home, FIRST)), default=str)
    monkeypatch.setenv(f"EVALFLOW_JUDGE__{key.upper()}", str(value))
    assert (GRADES.made_from(home.reloaded(), FIRST) != before) is is_stale


def assign_by_topic(home: Home, week: date) -> None:
    """``bin_assignments`` of the week as if each topic were a cluster, written by hand: no model is needed."""
    month = home.calendar.month_in_force(week)
    names = {topic: f"c{number:02d}" for number, topic in enumerate(TOPICS, 1)}
    clusters = pl.DataFrame(
        {
            "cluster_id": list(names.values()),
            "label": list(names),
            "is_edge": False,
            "taxonomy_id": "t",
            "novel_above": 0.5,
        }
    )
    texts = pl.DataFrame({"text_hash": ["x"], "cluster_id": ["c01"], "taxonomy_id": ["t"], "vector": [[1.0, 0.0]]})
    home.lake.write(CLUSTERS, month, filled(clusters, CLUSTERS.schema), made_from="by hand")
    home.lake.write(TAXONOMY_TEXTS, month, texts, made_from="by hand")
    sample = home.lake.read(STRATIFIED_SAMPLES, home.calendar.window(week), with_key=True)
    masses = traffic_masses({row[0]: PER_DAY for row in sample.select("day").unique().iter_rows()})
    weight = row_weights(sample["day"], sample["inclusion_probability"], masses, 10.0).weight
    production = sample.select(
        "day",
        "session_id",
        weight,
        weight.alias("weight_traffic"),
        side=pl.lit("production"),
        item_id="trace_id",
        bin=pl.col("intent").replace_strict(names),
        weighting=pl.lit("traffic"),
        taxonomy_id=pl.lit("t"),
    )
    golden = pl.DataFrame({"side": ["golden"], "item_id": ["g"], "bin": ["c01"], "taxonomy_id": ["t"]})
    rows = pl.concat([filled(production, BIN_ASSIGNMENTS.schema), filled(golden, BIN_ASSIGNMENTS.schema)])
    home.lake.write(BIN_ASSIGNMENTS, week, rows, made_from="by hand")


def filled(rows: pl.DataFrame, schema: dict) -> pl.DataFrame:
    return rows.select(
        (pl.col(name) if name in rows.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in schema.items()
    )


def test_the_weighted_rate_recovers_the_planted_one(
    home: Home, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge sees a sample full of failures; weighted by both probabilities its pass rate is that of all traffic."""
    home = with_judge(home, server, monkeypatch)
    assert grade(home).success
    assign_by_topic(home, WEEK)
    assert run(home, "quality_metrics", WEEK, WEEK).success
    days = home.calendar.days()
    truth = (~home.lake.read(RAW_TRACES, days)["output"].str.contains(BAD_WORD)).mean()
    grades = grades_of(home, LLM_GRADER)
    # Failures are .9 of the regenerated tenth and .1 of the rest: .82 pass. Half of the sample is that tenth.
    assert truth == pytest.approx(0.82, abs=0.03)
    assert (grades["verdict"] == "pass").mean() < 0.62
    product = grades["inclusion_probability"] * grades["pi_grade"]
    rate = weighted_rate(grades["verdict"], 1 / product).pass_rate
    # Nearly all mass lies on the about 140 others, of which .9 pass: the standard error is near sqrt(.09 / 140) = .025.
    assert rate == pytest.approx(truth, abs=3 * 0.025)
    overall = home.lake.read(QUALITY_METRICS, [WEEK]).filter(pl.col("bin").is_null() & (pl.col("grader") == LLM_GRADER))
    assert overall["n_graded"].to_list() == [len(grades)]
    assert overall["pass_rate"][0] == pytest.approx(truth, abs=3 * 0.025)
    # Nearly all the error is that of the about 140 ordinary traces, .025 as above.
    assert overall["pass_rate_se"][0] == pytest.approx(0.025, rel=0.25)


def test_quality_has_a_row_per_grader_and_bin_and_one_for_all(home: Home) -> None:
    """Pass rates by numpy from the rows themselves; latency and cost over all sampled traces of the window."""
    assert grade(home).success
    assign_by_topic(home, WEEK)
    result = run(home, "quality_metrics", WEEK, WEEK)
    assert result.success
    quality = home.lake.read(QUALITY_METRICS, [WEEK])
    names = [f"c{number:02d}" for number in range(1, len(TOPICS) + 1)]
    assert quality["bin"].to_list() == [None, *names]
    assert quality["label"].to_list() == [None, *TOPICS]
    assert quality["as_of"].unique().to_list() == [date(2026, 6, 14)]
    assert quality["cost_per_trace_usd"].to_list() == pytest.approx([0.002] * (1 + len(TOPICS)))
    rows = (
        home.lake.read(BIN_ASSIGNMENTS, [WEEK])
        .filter(side="production")
        .join(grades_of(home, SIGNALS_GRADER), left_on=["day", "item_id"], right_on=["day", "trace_id"])
        .join(
            home.lake.read(STRATIFIED_SAMPLES, home.calendar.days(), ["trace_id", "latency_ms"]),
            left_on="item_id",
            right_on="trace_id",
        )
    )
    weight, is_pass = rows["weight"].to_numpy(), (rows["verdict"] == "pass").to_numpy()
    assert quality["pass_rate"][0] == pytest.approx(np.average(is_pass, weights=weight))
    moon = (rows["bin"] == "c01").to_numpy()
    assert quality["pass_rate"][1] == pytest.approx(np.average(is_pass[moon], weights=weight[moon]))
    # Latencies are 100 to 339 in equal shares over the traffic: the 95th centile is near 100 + .95 x 240 = 328. Of about
    # 280 ordinary sampled traces 14 lie above it, give or take 4, which is 3 ms each way for one standard error.
    assert quality["latency_p95_ms"][0] == pytest.approx(328, abs=9)
    expected = np.quantile(rows["latency_ms"].to_numpy(), 0.95, weights=weight, method="inverted_cdf")
    assert quality["latency_p95_ms"][0] == expected
    residual = weight / weight.sum() * (is_pass - quality["pass_rate"][0])
    by_session = rows.select("session_id").with_columns(sum=residual).group_by("session_id").sum()["sum"]
    n = len(by_session)
    assert 1 < n < len(rows)
    # Four sessions more, of Agresti and Coull, are within a few parts in a thousand here.
    assert quality["pass_rate_se"][0] == pytest.approx((n / (n - 1) * (by_session**2).sum()) ** 0.5, rel=5e-3)
    assert QUALITY.stale_ranges(home, WEEK, END) == []


def test_each_figure_stands_under_both_weightings(home: Home) -> None:
    """The second week alone counts in the week's own weighting; in the traffic weighting the first one does."""
    assert grade(home).success
    assign_by_topic(home, WEEK)
    rows = home.lake.read(BIN_ASSIGNMENTS, [WEEK])
    in_first = pl.col("day") < WEEK
    only = rows.with_columns(
        weight=pl.when(in_first).then(0.0).otherwise("weight"),
        weight_traffic=pl.when(in_first).then("weight_traffic").otherwise(0.0),
        weighting=pl.lit("steady_state"),
    )
    home.lake.write(BIN_ASSIGNMENTS, WEEK, only, made_from="by hand")
    assert run(home, "quality_metrics", WEEK, WEEK).success
    overall = home.lake.read(QUALITY_METRICS, [WEEK]).row(0, named=True)
    joined = (
        grades_of(home, SIGNALS_GRADER)
        .join(only, left_on=["day", "trace_id"], right_on=["day", "item_id"])
        .join(home.lake.read(STRATIFIED_SAMPLES, home.calendar.days(), ["trace_id", "latency_ms"]), on="trace_id")
    )
    for column, suffix in (("weight", ""), ("weight_traffic", "_traffic")):
        weight, is_pass = joined[column].to_numpy(), (joined["verdict"] == "pass").to_numpy()
        assert overall[f"pass_rate{suffix}"] == pytest.approx(np.average(is_pass, weights=weight))
        assert overall[f"latency_p95_ms{suffix}"] == np.quantile(
            joined["latency_ms"].to_numpy(), 0.95, weights=weight, method="inverted_cdf"
        )
        assert overall[f"cost_per_trace_usd{suffix}"] == pytest.approx(0.002)
    assert overall["pass_rate"] != overall["pass_rate_traffic"]
    assert overall["weighting"] == "steady_state"


def test_every_stored_probability_is_the_union_of_its_rules(home: Home) -> None:
    sample = home.lake.read(STRATIFIED_SAMPLES, home.calendar.days())
    largest = sample.select(pl.max_horizontal("pi_strata", "pi_signal", "pi_uncertainty")).to_series().to_numpy()
    union = 1 - (1 - sample["pi_uniform"].to_numpy()) * (1 - largest)
    assert (sample["inclusion_probability"].to_numpy() == union).all()
    assert sample.select(pl.col("pi_strata", "pi_uncertainty").max()).row(0) == (0.0, 0.0)  # their shares are 0
    assert (sample["pi_signal"] > 0).to_list() == (sample["negative_signals"].list.len() > 0).to_list()


def test_a_window_without_grades_has_no_rows_and_says_why(home: Home) -> None:
    assign_by_topic(home, WEEK)
    for day in home.calendar.days():
        home.lake.write(JUDGE_GRADES, day, pl.DataFrame(schema=JUDGE_GRADES.schema), made_from="by hand")
    result = run(home, "quality_metrics", WEEK, WEEK)
    assert home.lake.read(QUALITY_METRICS, [WEEK]).is_empty()
    assert metadata_of(result, WEEK)["reason"] == "no graded traces in the window"


def test_days_that_were_never_graded_are_left_out(home: Home) -> None:
    """A home that was upgraded may start grading in the middle of a window; the week is measured from what is there."""
    assign_by_topic(home, WEEK)
    result = run(home, "quality_metrics", WEEK, WEEK)
    assert result.success
    assert metadata_of(result, WEEK)["reason"] == "no graded traces in the window"
    assert grade(home, WEEK, END).success
    assert QUALITY.stale_ranges(home, WEEK, END) == [(WEEK, WEEK)]
    assert run(home, "quality_metrics", WEEK, WEEK).success
    overall = home.lake.read(QUALITY_METRICS, [WEEK]).filter(pl.col("bin").is_null())
    assert overall["n_graded"].to_list() == [len(grades_of(home, SIGNALS_GRADER))]
    assert overall["pass_rate"].null_count() == 0
    assert home.lake.made_from(JUDGE_GRADES, FIRST) is None


def test_assignments_that_were_never_made_are_named(home: Home) -> None:
    assert "bin_assignments has no week 2026-06-08" in error_of(run(home, "quality_metrics", WEEK, WEEK))


def test_a_week_has_one_version_of_each_grader(
    home: Home, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one in use, however little of the window it has judged; where it has judged nothing, the one that has most."""
    home = with_judge(home, server, monkeypatch, model="old")
    assert grade(home).success
    old = judge_version(home.settings.judge)
    home = with_judge(home, server, monkeypatch, model="new")
    assert grade(home, date(2026, 6, 12)).success
    new = judge_version(home.settings.judge)
    assign_by_topic(home, WEEK)
    counts = dict(grades_of(home, LLM_GRADER).group_by("grader_version").len().iter_rows())
    assert counts[old] > counts[new] > 0
    for model, version in (("new", new), ("old", old), ("third", old)):
        home = with_judge(home, server, monkeypatch, model=model)
        assert QUALITY.stale_ranges(home, WEEK, END) == [(WEEK, WEEK)]
        assert run(home, "quality_metrics", WEEK, WEEK).success
        quality = home.lake.read(QUALITY_METRICS, [WEEK])
        assert quality.select("grader", "bin").is_unique().all()
        overall = quality.filter(pl.col("bin").is_null() & (pl.col("grader") == LLM_GRADER))
        assert overall.select("grader_version", "n_graded").rows() == [(version, counts[version])]
        assert overall["pass_rate"].null_count() == 0


def test_the_judge_has_no_pass_rate_until_every_day_is_finished(
    home: Home, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cap leaves the newest days out, so a rate would be that of the oldest; the count shows how far it came.

    Each further run over the days changes what they hold, and so makes the week stale.
    """
    home = with_judge(home, server, monkeypatch, max_usd_per_run=0.012)
    assign_by_topic(home, WEEK)
    seen = []
    for cap in (0.012, 0.012, 5.0):
        home = with_judge(home, server, monkeypatch, max_usd_per_run=cap)
        assert grade(home).success
        assert QUALITY.stale_ranges(home, WEEK, END) == [(WEEK, WEEK)]
        result = run(home, "quality_metrics", WEEK, WEEK)
        assert result.success
        assert QUALITY.stale_ranges(home, WEEK, END) == []
        quality = home.lake.read(QUALITY_METRICS, [WEEK])
        assert quality.filter(grader=SIGNALS_GRADER)["pass_rate"].null_count() == 0
        by_judge = quality.filter(grader=LLM_GRADER)
        assert (by_judge["bin"].null_count(), by_judge["n_graded"][0]) == (1, len(grades_of(home, LLM_GRADER)))
        n_unfinished = sum(home.lake.made_from(JUDGE_GRADES, day) == "" for day in home.calendar.days())
        for name in ("pass_rate_se", "pass_rate_traffic"):
            assert by_judge[name].is_null().all() == by_judge["pass_rate"].is_null().all()
        seen.append((by_judge["n_graded"][0], by_judge["pass_rate"].to_list(), n_unfinished))
        assert metadata_of(result, WEEK).get("reason") == (
            f"the judge has no pass rate for what it was not yet asked: {n_unfinished} of the window's days still wait "
            "for verdicts"
            if n_unfinished
            else None
        )
    (first, second, whole) = seen
    assert 0 < first[0] < second[0] < whole[0]
    assert set(first[1]) == set(second[1]) == {None}
    assert None not in whole[1]
    assert whole[2] == 0 < second[2]


def test_what_the_cap_left_of_a_day_is_the_end_of_its_draw(
    home: Home, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the random numbers, whatever the lengths of the texts: the judged part is itself a random one."""
    home = with_judge(home, server, monkeypatch, max_usd_per_run=0.0048)
    assert grade(home, FIRST, FIRST).success
    judged = grades_of(home, LLM_GRADER)["trace_id"].to_list()
    drawn = draw_for_judge(home, FIRST).rows["trace_id"].to_list()
    assert 0 < len(judged) < len(drawn)
    assert sorted(judged) == sorted(drawn[: len(judged)])


def test_a_server_that_answers_nonsense_leaves_the_days_unfinished(
    home: Home, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an endpoint that failed: mending the server is enough for the next run to judge everything."""
    home = with_judge(home, server, monkeypatch)
    server.always = "nonsense"
    failed = grade(home, FIRST, FIRST)
    assert "was of the form asked for" in error_of(failed)
    assert "Well, I would say" not in error_of(failed)
    assert grades_of(home, LLM_GRADER).is_empty()
    assert GRADES.stale_ranges(home, FIRST, FIRST) == [(FIRST, FIRST)]
    server.always = None
    assert grade(home, FIRST, FIRST).success
    assert set(grades_of(home, LLM_GRADER)["verdict"]) == {"pass", "fail"}
