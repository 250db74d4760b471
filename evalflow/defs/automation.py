"""What runs by itself: schedules and the sensor side by side. All times are UTC.

The schedules start the day's, the week's and the month's work on time; the sensor ``catch_up`` follows every run and
starts whatever its result has left out of date: late files and feedback, a taxonomy that is not there yet, the running
week, the marts. In a home that is closed everything here skips and says why.
"""

from collections.abc import Sequence
from datetime import date, timedelta

import dagster as dg

from evalflow.adapters.home import Home, open_home
from evalflow.core.calendar import first_of_month, monday_of, previous_month
from evalflow.core.lineage import fingerprint
from evalflow.defs.station import Station

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"

_SELECT = dg.AssetSelection.assets

# One job per partition unit, since one job cannot mix partition definitions.
DAILY = dg.define_asset_job(
    "daily",
    _SELECT("trace_files", "raw_traces", "feedback", "trace_signals", "stratified_samples", "embeddings"),
    description="Land new files and bring the day's traffic, signals, sample and embeddings up to date.",
)
TAXONOMY = dg.define_asset_job(
    "taxonomy", _SELECT("clusters"), description="Fit the month's taxonomy, which is then frozen."
)
WEEKLY = dg.define_asset_job(
    "weekly",
    _SELECT("bin_assignments", "coverage_metrics"),
    description="Place the week's window and its suite in the taxonomy and measure how far apart they are.",
)
MARTS = dg.define_asset_job(
    "marts", dg.AssetSelection.groups("marts"), description="Build the marts from the lake with dbt, and test them."
)
JOBS = [DAILY, TAXONOMY, WEEKLY, MARTS]
_JOB_OF_UNIT = {"day": DAILY, "month": TAXONOMY, "week": WEEKLY}


def range_tags(first: date, last: date) -> dict[str, str]:
    return {RANGE_START: str(first), RANGE_END: str(last)}


def schedules(home: Home) -> list[dg.ScheduleDefinition]:
    @dg.schedule(job=DAILY, cron_schedule="0 1 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
    def daily_traffic(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """01:00: yesterday's traffic, and what is there of today's."""
        today = context.scheduled_execution_time.date()
        return _closed(home, today) or dg.RunRequest(
            run_key=f"daily:{today}", tags=range_tags(max(today - timedelta(days=1), home.calendar.start), today)
        )

    @dg.schedule(job=TAXONOMY, cron_schedule="0 2 1 * *", default_status=dg.DefaultScheduleStatus.RUNNING)
    def monthly_taxonomy(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """02:00 on the 1st: the taxonomy of the month that begins, fitted on the month that ended."""
        today = context.scheduled_execution_time.date()
        month = first_of_month(today)
        return _closed(home, today) or dg.RunRequest(run_key=f"taxonomy:{month}", tags=range_tags(month, month))

    @dg.schedule(job=WEEKLY, cron_schedule="0 3 * * 1", default_status=dg.DefaultScheduleStatus.RUNNING)
    def weekly_coverage(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """03:00 on Mondays: coverage of the week that just closed."""
        today = context.scheduled_execution_time.date()
        week = monday_of(today) - timedelta(weeks=1)
        if week < monday_of(home.calendar.start):
            return dg.SkipReason(f"The week of {week} lies before traffic_start {home.calendar.start}.")
        return _closed(home, today) or dg.RunRequest(run_key=f"weekly:{week}", tags=range_tags(week, week))

    return [daily_traffic, monthly_taxonomy, weekly_coverage]


def sensors(home: Home, stations: Sequence[Station]) -> list[dg.SensorDefinition]:
    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[DAILY, TAXONOMY, WEEKLY],
        request_jobs=JOBS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
    )
    def catch_up(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
        """After each run: the first station that it left out of date, back to the start of the month before."""
        now = open_home(home.path)  # files may have moved traffic_start since the code location was loaded
        return _closed(now, now.calendar.now) or next_run(now, stations, context.dagster_run.run_id)

    return [catch_up]


def next_run(home: Home, stations: Sequence[Station], after_run: str) -> dg.RunRequest:
    """The run that brings the first out-of-date station up to date; the marts when there is none.

    Looks back to the first day of the month before, which the current taxonomy and window are made from. The run key
    holds what the partitions would be made from, so that a run that fails is not asked for again and again.
    """
    since = previous_month(first_of_month(home.calendar.now))
    for station in stations:
        stale = station.stale_ranges(home, since, home.calendar.now)
        if stale:
            first, last = stale[0]
            made_from = fingerprint(station.made_from(home, first), station.made_from(home, last))
            return dg.RunRequest(
                run_key=f"catch-up:{station.name}:{first}:{last}:{made_from}",
                job_name=_JOB_OF_UNIT[station.unit].name,
                tags={**range_tags(first, last), "evalflow/reason": f"{station.name} is missing or changed"},
            )
    return dg.RunRequest(run_key=f"marts-after:{after_run}", job_name=MARTS.name)


def _closed(home: Home, today: date) -> dg.SkipReason | None:
    end = home.settings.traffic_end
    return dg.SkipReason(f"Traffic ended on {end}: there is nothing to do on {today}.") if end and today > end else None
