"""The flywheel on one page.

    traffic      trace_files -> raw_traces, feedback -> trace_signals          by day
    samples      stratified_samples: one true inclusion probability per trace    by day
    embeddings   embeddings: one pinned model for both sides                     by day
    clusters     clusters: the frozen taxonomy                                   by month
                 taxonomy_refits: fitted early when too much is novel            by week, on demand
                 bin_assignments: traffic and suite placed by the same rule      by week
    coverage     coverage_metrics: JSD between what users do and what is tested  by week
                 coverage_slices, session_coverage: the same in parts, in turns  by week
    grades       judge_grades -> quality_metrics: did the answers help           by day, by week
                 suite_runs -> suite_scores: did the suite, weighted by traffic  by week
    triage       refresh_plan -> triage_queue: what people should look at        by week, on demand
    errors       error_batch -> error_themes: what goes wrong, how often         by week, on demand
                 abandonment_clusters: the last answers before users gave up     by week, on demand
    golden       reviews -> golden_set -> golden_ledger: the suite, as of any day
                 golden_growth: what a week added, beside traffic and failures    by week
    marts        dbt models over the same files

Dagster loads ``defs``; the command line builds the same object for the home that it works in.
"""

import warnings

import dagster as dg

from evalflow.adapters.home import Home, open_home
from evalflow.defs.automation import JOBS, schedules, sensors
from evalflow.defs.checks import station_checks
from evalflow.defs.clusters import ASSIGNMENTS, TAXONOMY, cluster_assets
from evalflow.defs.coverage import METRICS, coverage_assets
from evalflow.defs.embeddings import VECTORS, embedding_assets
from evalflow.defs.errors import error_assets
from evalflow.defs.executors import executor_of
from evalflow.defs.golden import golden_assets, golden_specs
from evalflow.defs.grades import GRADES, QUALITY, grade_assets
from evalflow.defs.growth import GROWTH, growth_assets
from evalflow.defs.marts import marts_assets
from evalflow.defs.partitions import partitions_of
from evalflow.defs.plan import plan_assets
from evalflow.defs.refits import REFITS, refit_assets
from evalflow.defs.resources import resources_of
from evalflow.defs.samples import SAMPLES, sample_assets
from evalflow.defs.scores import SCORES, score_assets, score_specs
from evalflow.defs.sessions import SESSIONS, session_assets
from evalflow.defs.slices import SLICES, slice_assets
from evalflow.defs.traffic import LATER, RAW, SIGNALS, traffic_assets
from evalflow.defs.triage import triage_assets

STATIONS = (RAW, LATER, SIGNALS, SAMPLES, VECTORS, TAXONOMY, REFITS, ASSIGNMENTS, METRICS, SLICES, SESSIONS)
"""The partitioned stations in flow order, as `evalflow run` walks them."""
GRADING = (GRADES, QUALITY, SCORES, GROWTH)
"""Walked after them: off the critical path, so that a judge that does not answer holds nothing up."""


def station_definitions(home: Home) -> dg.Definitions:
    """The stations of one home with their checks: what the command line executes. dbt is not loaded."""
    with warnings.catch_warnings():
        # Backfill policies and partitioned checks are marked as beta and preview; tests pin what they do here.
        warnings.simplefilter("ignore", category=dg.BetaWarning)
        warnings.simplefilter("ignore", category=dg.PreviewWarning)
        partitions = partitions_of(home.calendar)
        return dg.Definitions(
            assets=[
                *traffic_assets(partitions, home.settings.ingest.feedback_days),
                *sample_assets(partitions),
                *embedding_assets(partitions),
                *cluster_assets(partitions),
                *refit_assets(partitions),
                *coverage_assets(partitions),
                *slice_assets(partitions),
                *session_assets(partitions),
                *grade_assets(partitions),
                *score_specs(),
                *score_assets(partitions),
                *plan_assets(partitions),
                *triage_assets(partitions),
                *error_assets(partitions),
                *golden_specs(partitions),
                *golden_assets(partitions),
                *growth_assets(partitions),
            ],
            asset_checks=station_checks(partitions.daily, partitions.weekly, partitions.monthly),
            resources=resources_of(home),
            executor=executor_of(home.settings.execution.executor),
        )


def definitions_of(home: Home) -> dg.Definitions:
    """Everything that Dagster needs to know about one home: stations, marts and what runs by itself."""
    around = dg.Definitions(
        assets=marts_assets(home), jobs=JOBS, schedules=schedules(home), sensors=sensors(home, STATIONS, GRADING)
    )
    return dg.Definitions.merge(station_definitions(home), around)


@dg.definitions
def defs() -> dg.Definitions:
    """The home at $EVALFLOW_HOME, or ``./data``."""
    return definitions_of(open_home())
