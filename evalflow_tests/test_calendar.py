"""Calendar: plain functions and Dagster's partitions and mappings speak of the same days, weeks and months."""

from datetime import UTC, date, datetime, time, timedelta

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from evalflow.core.calendar import (
    TrafficCalendar,
    days_between,
    first_of_month,
    monday_of,
    next_month,
    previous_month,
    sunday_of,
)
from evalflow.defs.partitions import BEFORE, FORCE, PREVIOUS, SPAN, WEEKS, later_days, partitions_of

any_day = st.dates(
    date(2015, 12, 20), date(2024, 3, 10)
)  # three leap Februaries; all past, as Dagster makes subsets by the real clock


@st.composite
def closed_calendars(draw: st.DrawFn) -> tuple[TrafficCalendar, datetime]:
    """A closed calendar and a clock at any time after its end: weeks and months still running included."""
    start = draw(any_day)
    end = start + timedelta(days=draw(st.integers(0, 75)))
    clock = datetime.combine(end, time(), UTC) + timedelta(days=1, seconds=draw(st.integers(0, 90 * 86_400)))
    return TrafficCalendar(start, end, clock.date()), clock


@st.composite
def open_calendars(draw: st.DrawFn) -> tuple[TrafficCalendar, datetime]:
    start = draw(any_day)
    clock = datetime.combine(start, time(), UTC) + timedelta(seconds=draw(st.integers(0, 75 * 86_400)))
    return TrafficCalendar(start, None, clock.date()), clock


calendars = st.one_of(closed_calendars(), open_calendars())


def keys(days: list[date]) -> list[str]:
    return [day.isoformat() for day in days]


def upstream(
    mapping: dg.TimeWindowPartitionMapping,
    key: date,
    of: dg.PartitionsDefinition,
    reads: dg.PartitionsDefinition,
    clock: datetime,
) -> list[str]:
    """The upstream keys that a key maps to."""
    result = mapping.get_upstream_mapped_partitions_result_for_partitions(
        of.subset_with_partition_keys([key.isoformat()]), of, reads, current_time=clock
    )
    return sorted(result.partitions_subset.get_partition_keys())


@given(calendars)
@hypothesis_settings(max_examples=150)
def test_days_weeks_and_months_are_dagsters_partitions(world: tuple[TrafficCalendar, datetime]) -> None:
    calendar, clock = world
    of = partitions_of(calendar)
    assert of.daily.get_partition_keys(current_time=clock) == keys(calendar.days())
    assert of.weekly.get_partition_keys(current_time=clock) == keys(calendar.weeks())
    assert of.monthly.get_partition_keys(current_time=clock) == keys(calendar.months())


@given(calendars, st.data())
@hypothesis_settings(max_examples=60)
def test_a_week_reads_the_days_of_its_window(world: tuple[TrafficCalendar, datetime], data: st.DataObject) -> None:
    calendar, clock = world
    of = partitions_of(calendar)
    week = data.draw(st.sampled_from(calendar.weeks()))
    window = calendar.window(week)
    assert upstream(WEEKS, week, of.weekly, of.daily, clock) == keys(window)
    assert 1 <= len(window) <= 28
    assert window == [day for day in calendar.days() if week - timedelta(days=21) <= day <= week + timedelta(days=6)]


@given(calendars, st.data())
@hypothesis_settings(max_examples=60)
def test_a_week_reads_the_months_it_touches_and_the_one_in_force_is_among_them(
    world: tuple[TrafficCalendar, datetime], data: st.DataObject
) -> None:
    calendar, clock = world
    of = partitions_of(calendar)
    week = data.draw(st.sampled_from(calendar.weeks()))
    read = upstream(FORCE, week, of.weekly, of.monthly, clock)
    touched = {first_of_month(day) for day in days_between(week, sunday_of(week))} & set(calendar.months())
    assert read == keys(sorted(touched))
    assert calendar.month_in_force(week).isoformat() in read


@given(calendars, st.data())
@hypothesis_settings(max_examples=60)
def test_a_score_reads_its_week_and_the_four_before_it(
    world: tuple[TrafficCalendar, datetime], data: st.DataObject
) -> None:
    calendar, clock = world
    of = partitions_of(calendar)
    week = data.draw(st.sampled_from(calendar.weeks()))
    span = [key for key in calendar.weeks() if week - timedelta(weeks=4) <= key <= week]
    assert upstream(SPAN, week, of.weekly, of.weekly, clock) == keys(span)
    assert not set(calendar.window(week)) & set(calendar.window(week - timedelta(weeks=4))), "windows share no day"


@given(calendars, st.data())
@hypothesis_settings(max_examples=60)
def test_a_month_reads_the_month_before_and_its_own_days(
    world: tuple[TrafficCalendar, datetime], data: st.DataObject
) -> None:
    calendar, clock = world
    of = partitions_of(calendar)
    month = data.draw(st.sampled_from(calendar.months()))
    before = previous_month(month)
    expected = calendar.days_of_month(before) + calendar.days_of_month(month)
    assert upstream(PREVIOUS, month, of.monthly, of.daily, clock) == keys(expected)
    assert upstream(BEFORE, month, of.monthly, of.monthly, clock) == keys([m for m in calendar.months() if m == before])


@given(calendars, st.integers(0, 10), st.data())
@hypothesis_settings(max_examples=60)
def test_a_day_reads_the_days_on_which_its_feedback_still_counts(
    world: tuple[TrafficCalendar, datetime], n: int, data: st.DataObject
) -> None:
    calendar, clock = world
    of = partitions_of(calendar)
    day = data.draw(st.sampled_from(calendar.days()))
    assert upstream(later_days(n), day, of.daily, of.daily, clock) == keys(calendar.feedback_days(day, n))


@given(calendars)
@hypothesis_settings(max_examples=60)
def test_every_day_lies_in_one_week_and_one_month(world: tuple[TrafficCalendar, datetime]) -> None:
    calendar, _ = world
    assert sorted({monday_of(day) for day in calendar.days()}) == calendar.weeks()
    assert sorted({first_of_month(day) for day in calendar.days()}) == calendar.months()
    assert [day for month in calendar.months() for day in calendar.days_of_month(month)] == calendar.days()


@given(any_day)
def test_months_follow_each_other(day: date) -> None:
    month = first_of_month(day)
    assert previous_month(next_month(month)) == month
    assert next_month(month) - timedelta(days=1) >= day


@pytest.mark.parametrize(
    ("end", "today", "expected"),
    [
        (None, date(2026, 6, 21), True),  # its Sunday is still running
        (None, date(2026, 6, 22), False),
        (date(2026, 6, 20), date(2027, 1, 1), True),  # closed on its Saturday: "now" is that Sunday for ever
        (date(2026, 6, 21), date(2027, 1, 1), False),
    ],
)
def test_a_week_is_provisional_until_its_sunday_has_passed(end: date | None, today: date, expected: bool) -> None:
    assert TrafficCalendar(date(2026, 6, 1), end, today).is_provisional(date(2026, 6, 15)) is expected


def test_a_newcomers_first_day_is_a_day_a_week_and_a_month() -> None:
    """Traffic starts on a Sunday, 31 May 2026: its week began on Monday 25 May, its month on 1 May."""
    calendar = TrafficCalendar(date(2026, 5, 31), None, date(2026, 5, 31))
    assert (calendar.days(), calendar.weeks(), calendar.months()) == (
        [date(2026, 5, 31)],
        [date(2026, 5, 25)],
        [date(2026, 5, 1)],
    )
    assert calendar.window(date(2026, 5, 25)) == [date(2026, 5, 31)]
    assert calendar.month_in_force(date(2026, 5, 25)) == date(2026, 5, 1)


def test_a_first_week_that_began_in_an_earlier_month_goes_by_the_first_month_with_traffic() -> None:
    """Traffic starts on Wednesday 1 July 2026; its Monday lies in June, which has no partition."""
    calendar = TrafficCalendar(date(2026, 7, 1), None, date(2026, 7, 10))
    assert calendar.weeks()[0] == date(2026, 6, 29)
    assert calendar.month_in_force(date(2026, 6, 29)) == date(2026, 7, 1)
