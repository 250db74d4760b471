"""What runs by itself: schedules and sensors side by side. All times are UTC.

The schedules start the day's, the week's, the month's and the quarter's work on time; the sensor ``catch_up`` follows
every run and starts whatever its result has left out of date: late files and feedback, a taxonomy that is not there
yet, the running week, grades, the marts. ``refresh_on_breach`` starts a refresh when the newest closed week's suite
no longer looks like its traffic, ``refit_on_novelty`` an early fit of the taxonomy when too much of that week's traffic
is novel to it, ``promote_reviews`` a promotion when answers have come in. In a home that is closed the schedules and
``catch_up`` skip and say why.
"""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg
import polars as pl

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.tables import BIN_ASSIGNMENTS, COVERAGE_METRICS, REFRESH_PLAN
from evalflow.core.alarms import above
from evalflow.core.calendar import first_of_month, monday_of, previous_month
from evalflow.core.lineage import fingerprint
from evalflow.defs.plan import newest_closed_week
from evalflow.defs.queue import QueueIndex
from evalflow.defs.refits import REFITS, asking_for, refit_question
from evalflow.defs.station import Station
from evalflow.defs.triage import CAPTURES
from evalflow.errors import CannotTellError, EarlierVersionError

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
REFIT = dg.define_asset_job(
    "refit", _SELECT("taxonomy_refits"), description="Fit the taxonomy early, in force from the week on."
)
WEEKLY = dg.define_asset_job(
    "weekly",
    _SELECT("bin_assignments", "coverage_metrics", "coverage_slices", "session_coverage"),
    description="Place the week's window and its suite in the taxonomy and measure how far apart they are.",
)
MARTS = dg.define_asset_job(
    "marts", dg.AssetSelection.groups("marts"), description="Build the marts from the lake with dbt, and test them."
)
# Grades are off the critical path: a judge that does not answer must not hold up coverage.
GRADING = dg.define_asset_job("grading", _SELECT("judge_grades"), description="Grade the day's sample.")
QUALITY = dg.define_asset_job(
    "quality",
    _SELECT("quality_metrics", "suite_scores", "golden_growth"),
    description="Pass rate, latency and cost of the week's window, the suite's qualified score beside them, and its growth.",
)
REFRESH = dg.define_asset_job(
    "refresh",
    _SELECT("refresh_plan", "triage_queue"),
    description="Plan which bins need labels, and queue the traces that people should look at.",
)
CAPTURE = dg.define_asset_job(
    "capture",
    _SELECT("triage_queue"),
    config={"ops": {"triage_queue": {"config": CAPTURES}}},
    description="Queue the failures that have turned up since, without waiting for a refresh.",
)
ERROR_ANALYSIS = dg.define_asset_job(
    "error_analysis",
    _SELECT("error_batch", "error_themes", "abandonment_clusters"),
    description="Draw the week's batch of traces to read, count the themes of what people found, and group the last answers "
    "before users gave up.",
)
PROMOTION = dg.define_asset_job(
    "promotion", _SELECT("golden_set"), description="Promote what people's answers have confirmed."
)
JOBS = [DAILY, TAXONOMY, REFIT, WEEKLY, GRADING, QUALITY, REFRESH, CAPTURE, ERROR_ANALYSIS, PROMOTION, MARTS]
_JOB_OF_UNIT = {"day": DAILY, "month": TAXONOMY, "week": WEEKLY}
REASON = "evalflow/reason"
_FIRED = ("fired_on", "fired_for")
_BREACH_COLUMNS = ("jsd_reason", "is_blind_spot", "production_share", "golden_cases", "label")
REARM_BELOW = 0.9
"""A breach has ended when JSD is below this part of its threshold and no bin is blind: no firing back and forth."""


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

    @dg.schedule(job=CAPTURE, cron_schedule="0 5 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
    def daily_capture(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """05:00: yesterday's failures go to people's queues."""
        today = context.scheduled_execution_time.date()
        week = monday_of(today - timedelta(days=1))
        if closed := _closed(home, today):
            return closed
        if str(week) not in home.lake.keys(BIN_ASSIGNMENTS):
            return dg.SkipReason(f"The traffic of the week of {week} is not placed yet; catch_up sees to it.")
        return dg.RunRequest(run_key=f"capture:{today}", tags=range_tags(week, week))

    @dg.schedule(job=REFRESH, cron_schedule="0 4 1 1,4,7,10 *", default_status=dg.DefaultScheduleStatus.RUNNING)
    def quarterly_refresh(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """04:00 on the first day of a quarter: plan, queue and retirements of the newest closed week."""
        today = context.scheduled_execution_time.date()
        week = monday_of(today) - timedelta(weeks=1)
        if week < monday_of(home.calendar.start):
            return dg.SkipReason(f"The week of {week} lies before traffic_start {home.calendar.start}.")
        return _closed(home, today) or dg.RunRequest(
            run_key=f"quarterly:{today}",
            tags={**range_tags(week, week), REASON: f"quarterly refresh of {today}"},
        )

    return [daily_traffic, monthly_taxonomy, weekly_coverage, daily_capture, quarterly_refresh]


def sensors(home: Home, stations: Sequence[Station], grading: Sequence[Station]) -> list[dg.SensorDefinition]:
    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[DAILY, TAXONOMY, REFIT, WEEKLY, GRADING, QUALITY, REFRESH, CAPTURE, PROMOTION],
        request_jobs=JOBS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
    )
    def catch_up(context: dg.RunStatusSensorContext) -> dg.SensorResult | dg.SkipReason:
        """After each run: the first station that it left out of date, back to the start of the month before."""
        now = open_home(home.path)  # files may have moved traffic_start since the code location was loaded
        return _closed(now, now.calendar.now) or dg.SensorResult(
            next_runs(now, stations, grading, context.dagster_run.run_id)
        )

    @dg.sensor(job=REFRESH, default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=60)
    def refresh_on_breach(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """A refresh of the newest closed week when a breach begins: JSD above its threshold, or a blind spot."""
        return breach(open_home(home.path), context.cursor)

    @dg.sensor(job=REFIT, default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=60)
    def refit_on_novelty(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """An early fit of the taxonomy, once for each, when the newest closed week's traffic is too novel to it."""
        return novelty(open_home(home.path))

    @dg.sensor(job=PROMOTION, default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=60)
    def promote_reviews(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """A promotion when answers have come in that confirm something."""
        return answers(open_home(home.path), context.cursor)

    return [catch_up, refresh_on_breach, refit_on_novelty, promote_reviews]


def next_runs(
    home: Home, stations: Sequence[Station], grading: Sequence[Station], after_run: str
) -> list[dg.RunRequest]:
    """The run that brings the first out-of-date station up to date, or the marts when there is none; and grading.

    Looks back to the first day of the month before, which the current taxonomy and window are made from. The run key
    holds what the partitions would be made from, so that a run that fails is not asked for again and again. Grading
    goes beside the rest, which never waits for a judge; one that fails is asked for again the next day.
    """
    since = previous_month(first_of_month(home.calendar.now))
    for station in stations:
        if stale := station.stale_ranges(home, since, home.calendar.now):
            job = REFIT if station.is_on_demand else _JOB_OF_UNIT[station.unit]
            return [_catch_up(home, station, *stale[0], job.name)]
    requests: list[dg.RunRequest] = []
    for station in grading:
        if stale := station.stale_ranges(home, since, home.calendar.now):
            job = GRADING if station.unit == "day" else QUALITY
            if any(request.job_name == job.name for request in requests):
                continue  # its run makes both; what it leaves out of date is asked for after it
            requests.append(_catch_up(home, station, *stale[0], job.name, once_a_day=True))
    return [*requests, dg.RunRequest(run_key=f"marts-after:{after_run}", job_name=MARTS.name)]


def _catch_up(
    home: Home, station: Station, first: date, last: date, job: str, *, once_a_day: bool = False
) -> dg.RunRequest:
    """One range of a station; asked for once per state of its inputs, or once a day where a run may fail for a while."""
    made_from = fingerprint(station.made_from(home, first), station.made_from(home, last))
    asked = f"{first}:{last}:{made_from}" + (f":{home.calendar.now}" if once_a_day else "")
    if station.may_be_unfinished and home.settings.judge.model:
        asked = str(home.calendar.now)  # a judge has a cap of cost per run, which one run a day makes a cap per day
    return dg.RunRequest(
        run_key=f"catch-up:{station.name}:{asked}",
        job_name=job,
        tags={**range_tags(first, last), REASON: f"{station.name} is missing or changed"},
    )


def breach(home: Home, cursor: str | None) -> dg.SensorResult:
    """What ``refresh_on_breach`` decides, from the newest closed week alone.

    The cursor holds that week, whether it was in breach, and on which day and for which week the episode fired: a
    breach fires once, when it begins, and may fire again only after a closed week without one. History that is
    computed later is never looked at. A refresh that left no plan, because its run failed, is asked for again on the
    next day.
    """
    week = newest_closed_week(home)
    if week is None:
        return dg.SensorResult(skip_reason="No week has closed yet.", cursor=cursor)
    try:
        rows = home.lake.read(COVERAGE_METRICS, [week], ["jsd", "is_provisional", *_BREACH_COLUMNS])
    except EarlierVersionError as error:
        return dg.SensorResult(skip_reason=str(error), cursor=cursor)
    if rows.is_empty() or rows["is_provisional"][0]:
        reason = f"Coverage of the closed week of {week} is not there yet, or its window holds no traces."
        return dg.SensorResult(skip_reason=reason, cursor=cursor)
    jsd = rows["jsd"][0]
    if jsd is None:
        advice = "`evalflow refresh` drafts the first one"
        return dg.SensorResult(skip_reason=f"There is no suite in the week of {week}: {advice}.", cursor=cursor)
    limit, before, why = home.settings.coverage.jsd_threshold, _episode(cursor), rows["jsd_reason"][0]
    blind = rows.filter(pl.col("is_blind_spot")).sort("production_share", descending=True)
    figures = f"JSD {jsd:.3f} against {limit:g}, {len(blind)} blind spots in the week of {week}"
    is_breach, is_over = jsd > limit or len(blind) > 0, jsd < REARM_BELOW * limit and not len(blind)
    stays = before["in_breach"] and not is_over
    today = str(home.calendar.now)
    is_planned = before["fired_for"] in home.lake.keys(REFRESH_PLAN)
    is_lost = before["fired_on"] is not None and before["fired_on"] < today and not is_planned
    fires = is_breach and (not before["in_breach"] or is_lost)
    fired = {"fired_on": today, "fired_for": str(week)} if fires else {name: before[name] for name in _FIRED}
    after = json.dumps({"week": str(week), "in_breach": is_breach or stays, **(fired if is_breach or stays else {})})
    if not is_breach:
        return dg.SensorResult(skip_reason=f"No breach: {figures}.", cursor=after)
    if not fires:
        return dg.SensorResult(skip_reason=f"Still in breach, a refresh was started before: {figures}.", cursor=after)
    return dg.SensorResult(
        [
            dg.RunRequest(
                run_key=f"refresh:{week}:{today}" if is_lost else f"refresh:{week}",
                partition_key=str(week),
                tags={
                    REASON: _breach_reason(jsd, limit, why, blind),
                    "evalflow/jsd": f"{jsd:.3f}",
                    **({"evalflow/jsd_reason": why} if why else {}),
                    "evalflow/blind_spots": str(len(blind)),
                },
            )
        ],
        cursor=after,
    )


def _episode(cursor: str | None) -> dict[str, Any]:
    """What the cursor remembers; one that cannot be read remembers nothing, and the run key guards against a repeat."""
    try:
        held = json.loads(cursor or "{}")
    except json.JSONDecodeError:
        held = {}
    held = held if isinstance(held, dict) else {}
    return {"in_breach": bool(held.get("in_breach")), **{name: held.get(name) for name in _FIRED}}


def _breach_reason(jsd: float, limit: float, why: str | None, blind: pl.DataFrame) -> str:
    reasons = [f"{above(jsd, limit)} ({(why or 'cause unknown').replace('_', ' ')})"] if jsd > limit else []
    for row in blind.head(3).iter_rows(named=True):
        reasons.append(
            f"blind spot {row['label']}: {row['production_share']:.1%} of traffic, {row['golden_cases']} cases"
        )
    return "; ".join(reasons) + (f"; {len(blind) - 3} more blind spots" if len(blind) > 3 else "")


def novelty(home: Home) -> dg.RunRequest | dg.SkipReason:
    """What ``refit_on_novelty`` decides, from the newest closed week alone.

    The run key holds the taxonomy, so that none is fitted again twice; one that failed is started by hand or by
    `evalflow refit`.
    """
    week = newest_closed_week(home)
    if week is None:
        return dg.SkipReason("No week has closed yet.")
    try:
        asked = refit_question(home, week)
    except (CannotTellError, EarlierVersionError) as error:
        return dg.SkipReason(str(error))
    if not asked.is_asked:
        return dg.SkipReason(asked.reason)
    return dg.RunRequest(
        run_key=f"refit:{asked.taxonomy_id}",
        partition_key=str(asked.week),
        run_config={"ops": {REFITS.name: {"config": asking_for(asked.week)}}},
        tags={REASON: asked.reason},
    )


def answers(home: Home, cursor: str | None) -> dg.SensorResult:
    """What ``promote_reviews`` decides: answers that confirm a case, asked when new ones come and once a day.

    The day is part of cursor and run key, so that a promotion whose run failed is asked for again.
    """
    files = fingerprint(home.reviews.journal.names(), home.attempts.journal.names(), home.calendar.now)
    if files == cursor:
        return dg.SensorResult(skip_reason="No new answers.", cursor=cursor)
    ready = sorted(item.trace_id for item in QueueIndex(home).items() if item.is_ready)
    policies = home.settings.promotion.policies
    if not ready and not policies:
        return dg.SensorResult(skip_reason="No answer confirms a case that is not promoted yet.", cursor=files)
    more = ", and policies may take more" if policies else ""
    tags = {REASON: f"{len(ready)} answered traces are ready to be promoted{more}"}
    return dg.SensorResult([dg.RunRequest(run_key=f"promote:{fingerprint(files, ready)}", tags=tags)], cursor=files)


def _closed(home: Home, today: date) -> dg.SkipReason | None:
    end = home.settings.traffic_end
    return dg.SkipReason(f"Traffic ended on {end}: there is nothing to do on {today}.") if end and today > end else None
