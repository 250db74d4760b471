"""What runs by itself: schedules and sensors side by side. All times are UTC.

In a home that is closed (``traffic_end`` set) everything here skips and says why.
"""

from datetime import date, timedelta

import dagster as dg

from evalflow.adapters.home import Home
from evalflow.core.calendar import first_of_month, monday_of

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
JOBS = [DAILY, TAXONOMY, WEEKLY]


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
        return _closed(home, today) or dg.RunRequest(
            run_key=f"taxonomy:{today}", partition_key=str(first_of_month(today))
        )

    @dg.schedule(job=WEEKLY, cron_schedule="0 3 * * 1", default_status=dg.DefaultScheduleStatus.RUNNING)
    def weekly_coverage(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """03:00 on Mondays: coverage of the week that just closed."""
        today = context.scheduled_execution_time.date()
        week = monday_of(today) - timedelta(weeks=1)
        if week < monday_of(home.calendar.start):
            return dg.SkipReason(f"The week of {week} lies before traffic_start {home.calendar.start}.")
        return _closed(home, today) or dg.RunRequest(run_key=f"weekly:{week}", partition_key=str(week))

    return [daily_traffic, monthly_taxonomy, weekly_coverage]


def sensors(home: Home) -> list[dg.SensorDefinition]:
    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[DAILY],
        request_job=WEEKLY,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
    )
    def running_week(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
        """After each daily run: coverage of the running week, provisional until its Sunday has passed."""
        today = home.calendar.now
        week = monday_of(today)
        return _closed(home, today) or dg.RunRequest(
            run_key=f"running-week:{context.dagster_run.run_id}", partition_key=str(week)
        )

    return [running_week]


def _closed(home: Home, today: date) -> dg.SkipReason | None:
    end = home.settings.traffic_end
    return dg.SkipReason(f"Traffic ended on {end}: there is nothing to do on {today}.") if end and today > end else None
