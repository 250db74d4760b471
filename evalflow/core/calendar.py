"""Days, weeks and months of traffic as plain functions.

A week is Monday to Sunday and its key is the Monday; ``as_of`` of a week is its Sunday. The window of a week is
the four whole weeks that end with it, so that every weekday counts equally. All days are UTC.
Keep out: Dagster's partition objects (``defs/partitions.py``, tested to agree with these functions).
"""

from dataclasses import dataclass
from datetime import date, timedelta

WINDOW_WEEKS = 4
DAYS_PER_WEEK = 7


def monday_of(day: date) -> date:
    return day - timedelta(days=day.weekday())


def sunday_of(week: date) -> date:
    """The ``as_of`` of a week, given its Monday."""
    return week + timedelta(days=DAYS_PER_WEEK - 1)


def first_of_month(day: date) -> date:
    return day.replace(day=1)


def previous_month(month: date) -> date:
    return first_of_month(month - timedelta(days=1))


def next_month(month: date) -> date:
    return first_of_month(month.replace(day=28) + timedelta(days=4))


def days_between(first: date, last: date) -> list[date]:
    """Both ends included; empty when ``last`` lies before ``first``."""
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]


@dataclass(frozen=True)
class TrafficCalendar:
    """The days for which partitions exist: from ``start`` to the running day, or to ``end`` when it is closed.

    ``today`` is the clock's UTC day. Once it is past ``end``, the calendar is closed and "now" is the day after ``end``.
    """

    start: date
    end: date | None
    today: date

    @property
    def is_closed(self) -> bool:
        return self.end is not None and self.today > self.end

    @property
    def now(self) -> date:
        return self.end + timedelta(days=1) if self.end and self.is_closed else self.today

    @property
    def last_day(self) -> date:
        newest = max(self.today, self.start)
        return min(self.end, newest) if self.end else newest

    def days(self) -> list[date]:
        return days_between(self.start, self.last_day)

    def weeks(self) -> list[date]:
        first = monday_of(self.start)
        return [first + timedelta(weeks=n) for n in range((self.last_day - first).days // DAYS_PER_WEEK + 1)]

    def months(self) -> list[date]:
        months = [first_of_month(self.start)]
        while next_month(months[-1]) <= self.last_day:
            months.append(next_month(months[-1]))
        return months

    def is_provisional(self, week: date) -> bool:
        """True until the week's Sunday has passed."""
        return self.now <= sunday_of(week)

    def month_in_force(self, week: date) -> date:
        """The month whose taxonomy a week is assigned by: its Monday's, or the first month that has traffic."""
        return max(first_of_month(week), first_of_month(self.start))

    def window(self, week: date) -> list[date]:
        """The days of the four-week window that have traffic partitions."""
        first = max(week - timedelta(weeks=WINDOW_WEEKS - 1), self.start)
        return days_between(first, min(sunday_of(week), self.last_day))

    def days_of_month(self, month: date) -> list[date]:
        last = min(next_month(month) - timedelta(days=1), self.last_day)
        return days_between(max(month, self.start), last)

    def feedback_days(self, day: date, window_days: int) -> list[date]:
        """The days on which feedback for a trace of ``day`` still counts among its signals."""
        return days_between(day, min(day + timedelta(days=window_days), self.last_day))
