"""The suite in the newest taxonomy: in which bin each golden case falls now, for the gate and for exports.

Keep out: the suite as of a past week, which ``bin_assignments`` holds.
"""

from collections.abc import Sequence
from datetime import date

import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.tables import BIN_ASSIGNMENTS
from evalflow.adapters.taxonomy import Taxonomy, load_taxonomy
from evalflow.core.calendar import monday_of
from evalflow.defs.clusters import place_golden
from evalflow.errors import CannotTellError


def newest_measured_week(home: Home, until: date) -> date:
    """The newest closed week with sampled traces up to the one that holds ``until``; else the running one.

    Raises:
        CannotTellError: no week has been computed yet.
    """
    measured = [
        week
        for week in sorted(map(date.fromisoformat, home.lake.keys(BIN_ASSIGNMENTS)), reverse=True)
        if week <= monday_of(until)
    ]
    measured.sort(key=home.calendar.is_provisional)  # stable: closed weeks first, newest first among them
    for week in measured:
        sides = home.lake.read(BIN_ASSIGNMENTS, [week], ["side"])["side"]
        if (sides == "production").any():
            return week
    raise CannotTellError(
        f"No week up to {until} has been measured; land traces with `evalflow ingest PATH`, then `evalflow run`."
    )


def bins_in(home: Home, taxonomy: Taxonomy, cases: Sequence[CaseVersion]) -> dict[str, str]:
    """The bin of each case by case_id, by the same frozen rule as production.

    Raises:
        EvalflowError: the embedding model is not there, or not the one that the taxonomy was fitted with.
    """
    placed = place_golden(home, taxonomy, list(cases)).select(pl.col("item_id", "bin"))
    return dict(placed.iter_rows())


def bins_of_suite(home: Home, cases: Sequence[CaseVersion], until: date) -> dict[str, str]:
    """The bin of each case in the taxonomy of the newest measured week up to ``until``.

    Raises:
        EvalflowError: there is no such taxonomy, or its model is not there; the message says what to do.
    """
    month = home.calendar.month_in_force(newest_measured_week(home, until))
    return bins_in(home, load_taxonomy(home.lake, month), cases)
