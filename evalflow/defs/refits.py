"""Station clusters, early refit: a taxonomy that no longer knows its traffic is fitted again before the month is over.

A refit is an event: it is made when novelty, or somebody, asks for it, and from then on kept up to date like any
partition. Keep out: how a taxonomy is fitted (``fitting.py``), and the novel share (``core/coverage.py``).
"""

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any, NamedTuple

import dagster as dg

from evalflow.adapters.home import Home
from evalflow.adapters.tables import COVERAGE_METRICS, TAXONOMY_REFITS
from evalflow.adapters.taxonomy import Fitted, fitted_for, load_if_any
from evalflow.core.calendar import DAYS_PER_WEEK
from evalflow.defs.clusters import GROUP
from evalflow.defs.fitting import FitWindow, fit_inputs, fit_metadata, fit_new, namer_of, write_new
from evalflow.defs.partitions import FORCE, WEEKS_BEFORE, Partitions
from evalflow.defs.resources import HomeResource
from evalflow.defs.station import OWNERS, SINGLE_RUN, Station, dates, report
from evalflow.errors import CannotTellError, UsageError

_COLUMNS = (
    *("taxonomy_id", "is_provisional", "is_in_sample"),
    *("week_novel_share", "week_novel_share_low", "novel_calibration", "is_novelty_risen"),
)


def refit_window(home: Home, week: date) -> FitWindow:
    """The four weeks that ended on the Sunday before the week."""
    days = home.calendar.window(week - timedelta(days=DAYS_PER_WEEK))
    return FitWindow(days, f"{days[0]} to {days[-1]}" if days else "no days", False)


def _inputs(home: Home, week: date) -> Iterable[Any]:
    yield from fit_inputs(home, Fitted(week, True), refit_window(home, week))


REFITS = Station("taxonomy_refits", TAXONOMY_REFITS, "week", "1", _inputs, is_on_demand=True)


class RefitConfig(dg.Config):
    """Which refit is asked for: the Monday from which it will be in force; nothing means none that is not there yet."""

    in_force_from: str | None = None


def asking_for(week: date) -> dict[str, Any]:
    """The configuration of ``taxonomy_refits`` in a run that makes the refit of a week."""
    return {"in_force_from": str(week)}


def refit_assets(partitions: Partitions) -> list[dg.AssetsDefinition]:
    # `clusters` of the next month reads refits too, which Dagster cannot be told: two assets may not depend on each other.
    @dg.asset(
        group_name=GROUP,
        owners=OWNERS,
        kinds={"scikitlearn", "parquet"},
        code_version=REFITS.version,
        partitions_def=partitions.weekly,
        backfill_policy=SINGLE_RUN(),
        deps=[
            dg.AssetDep("stratified_samples", partition_mapping=WEEKS_BEFORE),
            dg.AssetDep("embeddings", partition_mapping=WEEKS_BEFORE),
            dg.AssetDep("clusters", partition_mapping=FORCE),
        ],
        description="A cluster of a taxonomy that was fitted early, on the four weeks before, because too much of the traffic "
        "was novel: in force from the week on until the next month's fit. Most weeks have none: one is made when a run names "
        "its week in `in_force_from`, and kept up to date from then on.",
    )
    def taxonomy_refits(context: dg.AssetExecutionContext, home: HomeResource, config: RefitConfig) -> None:
        workspace = home.open()
        namer = namer_of(workspace)
        if config.in_force_from is not None and config.in_force_from not in context.partition_keys:
            raise UsageError(
                f"in_force_from = {config.in_force_from!r} is none of the weeks of this run; give the Monday of one of them."
            )
        for week in dates(context):
            is_there = workspace.lake.made_from(TAXONOMY_REFITS, week) is not None
            if not is_there and str(week) != config.in_force_from:
                # *Materialize all* names every week, which is no wish to fit every week again.
                report(context, week, {"reason": "nobody asked for a refit of this week, so there is none"})
                continue
            refuse_published(workspace, week)
            fitted, window = Fitted(week, True), refit_window(workspace, week)
            made_from = REFITS.made_from(workspace, week)
            new = fit_new(workspace, fitted, window, namer)
            if new is None:
                raise CannotTellError(
                    f"There are no sampled texts in the four weeks before {week} to fit a taxonomy on; `evalflow run` first."
                )
            write_new(workspace, fitted, new, made_from)
            report(context, week, {"in force from": str(week), **fit_metadata(new, workspace.settings.clustering)})

    return [taxonomy_refits]


def refuse_published(home: Home, week: date) -> None:
    """A first refit that would change the figures of a closed week is refused; one that is there is kept up to date.

    Raises:
        UsageError: coverage of a closed week from ``week`` on has been published.
    """
    if home.lake.made_from(TAXONOMY_REFITS, week) is not None:
        return
    month = home.calendar.month_in_force(week)
    for published in map(date.fromisoformat, home.lake.keys(COVERAGE_METRICS)):
        is_touched = published >= week and home.calendar.month_in_force(published) == month
        if is_touched and not home.calendar.is_provisional(published):
            raise UsageError(
                f"A refit in force from {week} would change the coverage of the closed week of {published}, which is published; "
                "a refit is for the week that follows the newest measured one."
            )


class RefitQuestion(NamedTuple):
    """Whether a measured week's novelty asks for a refit: from which week, of which taxonomy, and why or why not."""

    is_asked: bool
    week: date
    taxonomy_id: str | None
    reason: str


def refit_question(home: Home, week: date) -> RefitQuestion:
    """Does the traffic of a closed week ask for a refit, in force from the Monday after it?

    Only where the taxonomy that measured the week would still be in force then: one that has been fitted again since, or
    gives way to the next month's fit anyway, asks for nothing.

    Raises:
        CannotTellError: coverage of the week is not there.
        EarlierVersionError: coverage of the week was measured by an earlier version.
    """
    following = week + timedelta(days=DAYS_PER_WEEK)

    def no(reason: str, taxonomy_id: str | None = None) -> RefitQuestion:
        return RefitQuestion(False, following, taxonomy_id, reason)

    rows = home.lake.read(COVERAGE_METRICS, [week], _COLUMNS)
    if rows.is_empty() or rows["is_provisional"][0]:
        raise CannotTellError(
            f"Coverage of the closed week of {week} is not there yet, or its window holds no traces; `evalflow run` "
            "measures it."
        )
    row = rows.row(0, named=True)
    taxonomy_id, share, calibration = row["taxonomy_id"], row["week_novel_share"], row["novel_calibration"]
    if row["is_in_sample"]:
        return no(
            f"The week of {week} is measured by a taxonomy of its own month, to which little can be novel.", taxonomy_id
        )
    if share is None or calibration is None:
        return no(
            f"The novel share of the week of {week} is {_percent(share)} and has no level to be held against.",
            taxonomy_id,
        )
    figures = (
        f"novel share {_percent(share)} [{_percent(row['week_novel_share_low'])}, ] against {_percent(calibration)} when the "
        "taxonomy was fitted"
    )
    if not row["is_novelty_risen"]:
        return no(f"No refit in the week of {week}: {figures}.", taxonomy_id)
    if following not in home.calendar.weeks():
        return no(f"Traffic ended with the week of {week}, so that no refit would be used: {figures}.", taxonomy_id)
    after = fitted_for(home, following)
    if home.calendar.month_in_force(following) != home.calendar.month_in_force(week):
        return no(f"The fit of {after.key:%Y-%m} takes over on {following} anyway: {figures}.", taxonomy_id)
    in_force = load_if_any(home.lake, after)
    if in_force is None or in_force.taxonomy_id != taxonomy_id:
        return no(f"The taxonomy {taxonomy_id} has been fitted again since: {figures}.", taxonomy_id)
    return RefitQuestion(True, following, taxonomy_id, figures)


def _percent(share: float | None) -> str:
    return "not known" if share is None else f"{100 * share:.1f} %"
