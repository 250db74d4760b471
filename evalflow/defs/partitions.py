"""Partitions and the mappings between them, as Dagster objects.

Days, weeks (key = Monday, as_of = its Sunday) and months of the traffic calendar; tested to agree with
``core/calendar.py``. Keep out: anything that reads data.
"""

import warnings
from dataclasses import dataclass
from datetime import timedelta

import dagster as dg

from evalflow.core.calendar import TrafficCalendar, first_of_month, monday_of, next_month

DAY_FORMAT = "%Y-%m-%d"


def _mapping(start_offset: int, end_offset: int) -> dg.TimeWindowPartitionMapping:
    """A mapping by whole windows; a partition that the traffic's start or end cuts off is no error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=dg.BetaWarning)  # the parameter is beta; a test pins what it does
        return dg.TimeWindowPartitionMapping(
            start_offset=start_offset, end_offset=end_offset, allow_nonexistent_upstream_partitions=True
        )


WEEKS = _mapping(-3, 0)
"""A week reads the 28 days of its four-week window."""
SPAN = _mapping(-4, 0)
"""A week's score is read against the week four weeks before, and JSD is chained over those in between."""
FORCE = _mapping(0, 0)
"""A week reads the months it touches; the taxonomy in force is its Monday's."""
WEEKS_BEFORE = _mapping(-4, -1)
"""An early refit reads the 28 days that end before its week."""
REFITS_SINCE = _mapping(-5, 0)
"""A week goes by the newest refit of its month, or by the one that was in force the week before."""
PREVIOUS = _mapping(-1, 0)
"""A month reads the days of the month before, and its own while that one is too thin."""
BEFORE = _mapping(-1, -1)
"""A month reads the month before it."""


def later_days(days: int) -> dg.TimeWindowPartitionMapping:
    """A day reads itself and the given number of days after it."""
    return _mapping(0, days)


@dataclass(frozen=True)
class Partitions:
    """The partitions definitions of one home. The running day, week and month exist unless traffic is closed."""

    daily: dg.DailyPartitionsDefinition
    weekly: dg.WeeklyPartitionsDefinition
    monthly: dg.MonthlyPartitionsDefinition
    effective_on: dg.DynamicPartitionsDefinition
    is_closed: bool

    def fresh(self, policy: dg.FreshnessPolicy) -> dg.FreshnessPolicy | None:
        """The policy, or none where traffic is closed: an archive is never late."""
        return None if self.is_closed else policy


def partitions_of(calendar: TrafficCalendar) -> Partitions:
    """The partitions for a traffic calendar.

    ``end_date`` of a Dagster definition is exclusive and cuts a window that it falls into, so a closed calendar's
    last week and month get their own natural ends. The offset of one lets the week and the month that are still
    running exist; it never reaches past ``end_date``.
    """
    last, offset = calendar.end, 1
    day_end = (last + timedelta(days=1)).strftime(DAY_FORMAT) if last else None
    week_end = (monday_of(last) + timedelta(weeks=1)).strftime(DAY_FORMAT) if last else None
    month_end = next_month(first_of_month(last)).strftime(DAY_FORMAT) if last else None
    return Partitions(
        daily=dg.DailyPartitionsDefinition(calendar.start.strftime(DAY_FORMAT), end_date=day_end, end_offset=offset),
        weekly=dg.WeeklyPartitionsDefinition(
            monday_of(calendar.start).strftime(DAY_FORMAT), day_offset=1, end_date=week_end, end_offset=offset
        ),
        monthly=dg.MonthlyPartitionsDefinition(
            first_of_month(calendar.start).strftime(DAY_FORMAT), end_date=month_end, end_offset=offset
        ),
        effective_on=dg.DynamicPartitionsDefinition(name="golden_effective_on"),
        is_closed=calendar.is_closed,
    )
