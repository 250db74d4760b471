"""A station: one partitioned asset, its table, and the fingerprint of what each partition is made from.

The asset body and ``evalflow run`` use the same ``made_from``, so the command line recomputes exactly what the
body would stamp differently. Keep out: what a single station computes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

import dagster as dg

from evalflow.adapters.home import Home
from evalflow.adapters.tables import Table
from evalflow.core.calendar import TrafficCalendar
from evalflow.core.lineage import contiguous_ranges, fingerprint

OWNERS = ["team:data-platform"]
SINGLE_RUN = dg.BackfillPolicy.single_run
FRESH_DAILY = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=49), warn_window=timedelta(hours=25))
FRESH_WEEKLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=15), warn_window=timedelta(days=8))
FRESH_MONTHLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=63), warn_window=timedelta(days=32))


@dataclass(frozen=True)
class Station:
    """How one asset's partitions are named, stored and found out of date.

    ``version`` is the asset's code version: raise it when the same inputs give other rows. ``may_be_unfinished``: a run
    may leave partitions for the next one to go on with, as a judge does that has spent what it may. ``is_on_demand``: a
    partition is made when something asks for it, so one that is not there is not missing; the stations before may read it.
    """

    name: str
    table: Table
    unit: Literal["day", "week", "month"]
    version: str
    inputs: Callable[[Home, date], Iterable[Any]]
    may_be_unfinished: bool = False
    is_on_demand: bool = False

    def keys(self, calendar: TrafficCalendar) -> list[date]:
        return {"day": calendar.days, "week": calendar.weeks, "month": calendar.months}[self.unit]()

    def wanted(self, home: Home) -> list[date]:
        """The partitions that there should be: all of the calendar, or those that were once asked for."""
        keys = self.keys(home.calendar)
        return [key for key in keys if not self.is_on_demand or home.lake.made_from(self.table, key) is not None]

    def made_from(self, home: Home, key: date) -> str:
        """The fingerprint of what the partition would be made from now.

        To be taken before the inputs are read: what changes in between then leaves the partition out of date.
        """
        return fingerprint(self.name, self.version, key, list(self.inputs(home, key)))

    def stale_ranges(self, home: Home, since: date, until: date) -> list[tuple[date, date]]:
        """The (first, last) ranges of partitions that are missing or changed and touch ``since`` to ``until``."""
        calendar = home.calendar
        keys = self.keys(calendar)
        ends = [following - timedelta(days=1) for following in [*keys[1:], date.max]]
        wanted = set(self.wanted(home))
        asked = [key for key, end in zip(keys, ends, strict=True) if key in wanted and key <= until and end >= since]
        stale = [key for key in asked if home.lake.made_from(self.table, key) != self.made_from(home, key)]
        return contiguous_ranges(stale, keys)


def dates(context: dg.AssetExecutionContext) -> list[date]:
    """The partition keys of the run as dates, oldest first."""
    return [date.fromisoformat(key) for key in context.partition_keys]


def report(context: dg.AssetExecutionContext, key: date, metadata: Mapping[str, Any]) -> None:
    """Attach metadata to the one partition that it describes."""
    context.add_asset_metadata(
        {name: value for name, value in metadata.items() if value is not None}, partition_key=str(key)
    )


def parents(home: Home, table: Table, keys: Iterable[date]) -> list[tuple[str, str, str | None]]:
    """Upstream partitions and the hash of each one's rows: a recomputation that changes no row changes nothing after."""
    return [(table.name, str(key), home.lake.content(table, key)) for key in keys]
