"""The command that fits the taxonomy early, when too much of the traffic is novel to it."""

from typing import Annotated, Any

import polars as pl
import typer

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.tables import REFIT_LINEAGE, TAXONOMY_REFITS
from evalflow.cli.terminal import AsJson, HomeOption, counted, day_of, no_traces, out, print_json, shown
from evalflow.core.calendar import monday_of
from evalflow.errors import CannotTellError

app = typer.Typer()
RELATIONS = ("matched", "split", "merged", "born", "died")


@app.command(epilog="Example: evalflow refit --as-of 2026-07-19")
def refit(
    as_of: Annotated[
        str | None, typer.Option(help="Any day of the closed week that is asked. Default: the newest closed week.")
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Fit the taxonomy early, where the novel share of a closed week asks for it.

    The fit is on the four weeks to that Sunday and in force from the next Monday until the month's end; what was measured
    before does not move. The sensor refit_on_novelty does the same by itself.
    """
    from evalflow.defs.plan import newest_closed_week
    from evalflow.defs.refits import refit_question, refuse_published
    from evalflow.runner import instance_of
    from evalflow.runner import refit as start_refit

    workspace = open_home(home).prepare()
    if workspace.settings.traffic_start is None:
        raise no_traces(workspace)
    asked_day = day_of(as_of, "--as-of")
    week = monday_of(asked_day) if asked_day else newest_closed_week(workspace)
    if week is None or week not in workspace.calendar.weeks() or workspace.calendar.is_provisional(week):
        raise CannotTellError(
            f"The week of {week or workspace.calendar.now} has not closed or holds no traffic; choose a day of a closed week "
            "with --as-of."
        )
    asked = refit_question(workspace, week)
    if asked.is_asked:
        refuse_published(workspace, asked.week)  # before the run, which would be left behind as a failed one
        with instance_of(workspace) as instance:
            start_refit(workspace, instance, asked.week, asked.reason)
    document = {"week": str(week), "is_refitted": asked.is_asked, "reason": asked.reason}
    if asked.is_asked:
        document |= _outcome(workspace, str(asked.week))
    if as_json:
        print_json(document)
    elif asked.is_asked:
        _print_outcome(document)
    else:
        out.print(shown(asked.reason), soft_wrap=True)


def _outcome(home: Home, week: str) -> dict[str, Any]:
    head = home.lake.read(TAXONOMY_REFITS, [week]).row(0, named=True)
    lineage = home.lake.read(REFIT_LINEAGE, [week])
    return {
        "in_force_from": week,
        "taxonomy_id": head["taxonomy_id"],
        "previous_taxonomy_id": head["previous_taxonomy_id"],
        "fitted_on": head["fitted_on"],
        "clusters": head["n_clusters"],
        "lineage": {relation: len(lineage.filter(pl.col("relation") == relation)) for relation in RELATIONS},
    }


def _print_outcome(document: dict[str, Any]) -> None:
    lineage = document["lineage"]
    out.print(
        f"{shown(document['reason'])}. Fitted again as {document['taxonomy_id']}: "
        f"{counted(document['clusters'], 'cluster')}, {lineage['matched']} of them as before, {lineage['born']} born, "
        f"{lineage['died']} died.",
        soft_wrap=True,
    )
    out.print(f"In force from {document['in_force_from']}; `evalflow run` measures the weeks from then on by it.")
