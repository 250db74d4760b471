"""Walks the stations from a shell: what is missing or changed is materialized by Dagster runs in this process.

Computes nothing itself. The runs go to the home's own Dagster instance, so the UI shows them like any other.
"""

import io
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from evalflow import __version__
from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion, Recorded
from evalflow.adapters.native import find_files, read_lines
from evalflow.adapters.results import Results
from evalflow.adapters.review_answers import has_other_input
from evalflow.adapters.review_files import ReviewFormat, find_review_files, read_review_file
from evalflow.adapters.suite_runs import RunAdded
from evalflow.core.lineage import fingerprint
from evalflow.core.records import GoldenCase, Review, Unusable, parse_golden_case, parse_review
from evalflow.core.reviewing import contradictions
from evalflow.definitions import GRADING, STATIONS, definitions_of, station_definitions
from evalflow.defs.automation import MARTS, REASON, range_tags
from evalflow.defs.golden import report_recorded, report_reviews
from evalflow.defs.partitions import partitions_of
from evalflow.defs.queue import QUEUES, Item, queued_items
from evalflow.defs.refits import REFITS, asking_for
from evalflow.defs.scores import report_suite_run
from evalflow.defs.station import Station, parents
from evalflow.defs.triage import CAPTURES
from evalflow.errors import EvalflowError, ExitCode

PROCESS_TAG = "evalflow/process"
_QUIET: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class RunFailedError(EvalflowError):
    """A Dagster run did not succeed; the message and the exit code are those of the step's own error."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAIL) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Walked:
    """What a walk did: the landing's report, and per station how many partitions were computed."""

    landing: dict[str, Any] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)
    failed_checks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class GoldenImport:
    """What an import of golden cases did: versions added, cases left as they were, lines that could not be used.

    ``retired`` names those of the cases left as they were that the file would have changed, were they not retired;
    ``frozen`` the regressions whose test it would have changed.
    """

    added: list[CaseVersion]
    unchanged: int
    unusable: list[dict[str, Any]]
    retired: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReviewsImport:
    """What an import of answers did; ``items`` are the queued traces that it answered, as they stand now.

    ``edited``: traces whose input was another one in the file. ``n_drafts``, ``n_cancelled``: annotations that are no answers.
    """

    added: list[Review]
    unchanged: int
    n_unanswered: int
    unusable: list[dict[str, Any]]
    items: list[Item]
    edited: tuple[str, ...] = ()
    n_drafts: int = 0
    n_cancelled: int = 0


@contextmanager
def instance_of(home: Home) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance that lives in the home, the same that the UI opens.

    Runs of a command that was killed are marked as failed, so that none stays "started" for ever.
    """
    with dg.DagsterInstance.from_config(str(home.path)) as instance:
        _end_orphaned_runs(instance)
        yield instance


def _this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time()}"


def _end_orphaned_runs(instance: dg.DagsterInstance) -> None:
    in_progress = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=in_progress)):
        owner = run.tags.get(PROCESS_TAG)
        if owner is not None and not _is_alive(owner):
            instance.report_run_failed(
                run, "The command that ran this was killed; `evalflow run` picks up where it stopped."
            )


def _is_alive(owner: str) -> bool:
    host, pid, created = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return True  # another machine's run is not ours to judge
    try:
        return bool(psutil.Process(int(pid)).create_time() == float(created))
    except psutil.NoSuchProcess:
        return False


def land_files(home: Home, instance: dg.DagsterInstance, paths: list[str]) -> dict[str, Any]:
    """Run ``trace_files`` over ``paths`` (or the settings' sources when empty) and return its report."""
    result = _execute(home, instance, "trace_files", config={"trace_files": {"paths": paths}})
    event = next(
        event for event in result.get_asset_materialization_events() if event.asset_key == dg.AssetKey("trace_files")
    )
    metadata = event.materialization.metadata
    report = metadata["report"].value
    return {
        "traces": metadata["traces"].value,
        "feedback": metadata["feedback"].value,
        "quarantined": metadata["quarantined"].value,
        **(report if isinstance(report, dict) else {}),
    }


def import_golden(home: Home, instance: dg.DagsterInstance, path: str) -> GoldenImport:
    """Append the golden cases of the files under ``path`` to the ledger and report them to Dagster.

    Raises:
        BadInputError: ``path`` names nothing that can be read.
    """
    cases: dict[str, GoldenCase] = {}
    unusable: list[dict[str, Any]] = []
    for file in find_files(path).files:
        for line in read_lines(file):
            case = line.row
            if not isinstance(case, Unusable):
                case = parse_golden_case(case, home.settings.ingest.max_text_bytes)
            if isinstance(case, GoldenCase) and case != cases.get(case.case_id, case):
                case = Unusable(
                    f"case_id {case.case_id!r} stands twice with different content; give each case its own id"
                )
            if isinstance(case, Unusable):
                unusable.append({"file": file, "line": line.number, "reason": case.reason})
            else:
                cases[case.case_id] = case
    recorded = home.ledger.import_cases(cases.values(), path, home.now())
    report_recorded(instance, partitions_of(home.calendar), recorded.added)
    home.publish()
    return GoldenImport(recorded.added, recorded.unchanged, unusable, recorded.retired, recorded.frozen)


def revise_golden(
    home: Home, instance: dg.DagsterInstance, case_id: str, changes: dict[str, str], because: str, by: str | None
) -> Recorded:
    """Give a case its next version from today on, and report it to Dagster.

    Raises:
        UsageError: the case is unknown or retired.
    """
    recorded = home.ledger.revise(case_id, changes, because, "evalflow golden revise", home.now(), by)
    report_recorded(instance, partitions_of(home.calendar), recorded.added)
    home.publish()
    return recorded


def retire_golden(
    home: Home, instance: dg.DagsterInstance, case_ids: list[str], because: str, by: str | None = None
) -> Recorded:
    """Take cases out of the suite from today on and report that to Dagster.

    Raises:
        UsageError: a case is unknown, so that none is retired.
    """
    recorded = home.ledger.retire(case_ids, because, "evalflow golden retire", home.now(), by)
    report_recorded(instance, partitions_of(home.calendar), recorded.added)
    home.publish()
    return recorded


def import_reviews(
    home: Home, instance: dg.DagsterInstance, path: str, format: ReviewFormat | None = None
) -> ReviewsImport:
    """Append the answers of the files under ``path`` to the reviews and report them to Dagster.

    Raises:
        BadInputError: ``path`` names nothing that can be read.
    """
    answers: list[Review] = []
    unusable: list[dict[str, Any]] = []
    edited: dict[str, None] = {}
    n_unanswered = n_drafts = n_cancelled = 0
    read = {file: read_review_file(file, format) for file in find_review_files(path)}
    named = {line.row["trace_id"] for found in read.values() for line in found.lines if _names_a_trace(line.row)}
    queued = {item.trace_id: item.row["text"] for item in queued_items(home, named)}
    for file, found in read.items():
        n_drafts, n_cancelled = n_drafts + found.n_drafts, n_cancelled + found.n_cancelled
        given: list[tuple[int, Review]] = []
        for line in found.lines:
            answer = line.row
            if not isinstance(answer, Unusable):
                answer = parse_review(answer, home.settings.ingest.max_text_bytes)
            if isinstance(answer, Review) and answer.trace_id not in queued:
                answer = Unusable(
                    f"there is no trace {answer.trace_id!r} in the queue; `evalflow triage list` shows it"
                )
            if isinstance(answer, Unusable):
                unusable.append({"file": file, "line": line.number, "reason": answer.reason})
            elif answer is None:
                n_unanswered += 1
            else:
                given.append((line.number, answer))
                if has_other_input(line.row.get("input"), queued[answer.trace_id]):
                    edited[answer.trace_id] = None
        contradicted = contradictions(given)
        unusable += [{"file": file, "line": given[at][0], "reason": reason} for at, reason in contradicted.items()]
        answers += [answer for at, (_, answer) in enumerate(given) if at not in contradicted]
    done = home.reviews.add(answers, path, home.now())
    report_reviews(instance, len(done.added))
    home.publish()
    items = queued_items(home, {answer.trace_id for answer in answers})
    return ReviewsImport(
        done.added, done.unchanged, n_unanswered, unusable, items, tuple(edited), n_drafts, n_cancelled
    )


def _names_a_trace(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("trace_id"), str)


def import_suite_run(
    home: Home, instance: dg.DagsterInstance, read: Results, ran_on: date, name: str | None, path: str
) -> RunAdded:
    """Append one run of the suite to the runs and report it to Dagster; one that is there already adds nothing."""
    added = home.suite_runs.add(read.attempts, ran_on, name, path, home.now())
    if added.is_new:
        report_suite_run(instance, len(read.attempts))
    home.publish()
    return added


def refresh(
    home: Home,
    instance: dg.DagsterInstance,
    week: date,
    budget: int | None,
    target_jsd: float | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """Plan the week's refresh and fill its queue: the run that the sensor and the quarterly schedule start too."""
    asked = {"budget": budget, "target_jsd": target_jsd}
    config = {"refresh_plan": {name: value for name, value in asked.items() if value is not None}}
    _execute(
        home, instance, "refresh_plan", "triage_queue", tags={**range_tags(week, week), **(tags or {})}, config=config
    )


def capture(home: Home, instance: dg.DagsterInstance, week: date) -> None:
    """Queue the week's new failures: the run that the daily schedule starts too."""
    _execute(home, instance, "triage_queue", tags=range_tags(week, week), config={"triage_queue": CAPTURES})


def draw_errors(home: Home, instance: dg.DagsterInstance, week: date, size: int | None) -> None:
    """Draw the week's batch for error analysis and queue what no queue holds."""
    config = {"error_batch": {"size": size}} if size is not None else None
    _execute(home, instance, "error_batch", tags=range_tags(week, week), config=config)


def bring_up_to_date(home: Home, instance: dg.DagsterInstance, station: Station, week: date) -> bool:
    """Make one week of a station that is made on demand, unless it is there and nothing has changed; True when it was made."""
    if home.lake.made_from(station.table, week) == station.made_from(home, week):
        return False
    _execute(home, instance, station.name, tags=range_tags(week, week))
    return True


def refit(home: Home, instance: dg.DagsterInstance, week: date, reason: str) -> None:
    """Fit the taxonomy again, in force from the week on: the run that the sensor starts too."""
    tags = {**range_tags(week, week), REASON: reason}
    _execute(home, instance, REFITS.name, tags=tags, config={REFITS.name: asking_for(week)})


def promote(home: Home, instance: dg.DagsterInstance, effective_on: str | None) -> dict[str, Any]:
    """Run ``golden_set`` and return what it reported."""
    config = {"golden_set": {"effective_on": effective_on}} if effective_on else None
    result = _execute(home, instance, "golden_set", config=config)
    event = next(
        event for event in result.get_asset_materialization_events() if event.asset_key == dg.AssetKey("golden_set")
    )
    report = event.materialization.metadata["report"].value
    return report if isinstance(report, dict) else {}


def walk(
    home: Home,
    instance: dg.DagsterInstance,
    since: date,
    until: date,
    stations: tuple[Station, ...] = STATIONS,
    on_range: Callable[[str, date, date, int, int], None] = lambda name, first, last, done, total: None,
) -> Walked:
    """Materialize every missing or changed partition from ``since`` to ``until``, station by station.

    ``on_range(name, first, last, done, total)`` is called before each range of partitions and once at a station's end.
    """
    walked = Walked()
    waiting = list(stations)
    while waiting:
        station = waiting.pop(0)
        keys = station.keys(home.calendar)
        done = total = 0
        tried: list[tuple[date, date]] = []
        # Asked again after each pass: a month's taxonomy is fitted from the share of the month before it.
        while ranges := station.stale_ranges(home, since, until):
            if tried and station.may_be_unfinished:
                break
            if ranges == tried:
                raise RunFailedError(
                    f"The inputs of {station.name} changed while it was computed; run the same command again."
                )
            tried = ranges
            total += sum(_span(keys, first, last) for first, last in ranges)
            for first, last in ranges:
                on_range(station.name, first, last, done, total)
                result = _execute(home, instance, station.name, tags=range_tags(first, last))
                walked.failed_checks += [
                    f"{check.asset_key.to_user_string()}.{check.check_name}: {check.description}"
                    for check in result.get_asset_check_evaluations()
                    if not check.passed
                ]
                done += _span(keys, first, last)
        on_range(station.name, since, until, done, total)
        walked.computed[station.name] = walked.computed.get(station.name, 0) + done
        if done and station.is_on_demand:
            # What was made on demand is read by the station before it: a refit by the next month's fit.
            at = stations.index(station)
            waiting = [*stations[max(at - 1, 0) : at + 1], *waiting]
    return walked


def run_marts(home: Home, instance: dg.DagsterInstance) -> None:
    """Build and test the marts from what the lake holds now.

    Raises:
        RunFailedError: a model cannot be built or a dbt test fails; the message says which.
    """
    job = definitions_of(home).resolve_job_def(MARTS.name)
    with redirect_stdout(io.StringIO()):  # dagster-dbt repeats dbt's log there
        result = job.execute_in_process(
            instance=instance, tags={PROCESS_TAG: _this_process()}, run_config=_QUIET, raise_on_error=False
        )
    if not result.success:
        raise _failure_of(result, "the marts")
    _marts_stamp(home).write_text(_marts_made_from(home))


def marts_are_stale(home: Home) -> bool:
    """Whether the marts were never built, not built to the end, or built from another state of the lake."""
    stamp = _marts_stamp(home)
    return not stamp.exists() or stamp.read_text() != _marts_made_from(home)


def _marts_stamp(home: Home) -> Path:
    return home.marts / "made_from"


def _marts_made_from(home: Home) -> str:
    """dbt publishes a mart before it tests it, so only a stamp written last says that all of it succeeded."""
    weekly = [station for station in (*STATIONS, *GRADING) if station.unit != "day"]
    upstream = [parents(home, station.table, station.keys(home.calendar)) for station in weekly]
    queue = [parents(home, table, map(date.fromisoformat, home.lake.keys(table))) for table in QUEUES]
    journals = [home.ledger.journal.names(), home.reviews.journal.names()]
    return fingerprint(__version__, upstream, queue, journals)


def _span(keys: list[date], first: date, last: date) -> int:
    return keys.index(last) - keys.index(first) + 1


def _execute(
    home: Home,
    instance: dg.DagsterInstance,
    *assets: str,
    tags: dict[str, str] | None = None,
    config: dict[str, dict[str, Any]] | None = None,
) -> dg.ExecuteInProcessResult:
    """One run of the given assets; ``config`` by asset."""
    job = station_definitions(home).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        tags={PROCESS_TAG: _this_process(), **(tags or {})},
        run_config={**_QUIET, "ops": {asset: {"config": values} for asset, values in (config or {}).items()}},
        raise_on_error=False,
    )
    if not result.success:
        raise _failure_of(result, " and ".join(assets))
    return result


def _is_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether Ctrl-C came in a step, or between two of them."""
    for event in result.all_events:
        error = event.step_failure_data.error if event.is_step_failure else None
        if event.is_job_failure:
            error = event.job_failure_data.error
        while error:
            if error.cls_name == "DagsterExecutionInterruptedError":
                return True
            error = error.cause
    return False


def _failure_of(result: dg.ExecuteInProcessResult, asset: str) -> RunFailedError:
    """The step's own sentence when it is one of ours, else what Dagster recorded."""
    ours = {kind.__name__: kind for kind in EvalflowError.__subclasses__()}
    if _is_interrupted(result):
        raise KeyboardInterrupt  # Dagster makes a failed run of Ctrl-C; the command line says what it means
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            while error.cause:
                error = error.cause
            if error.cls_name == "DagsterAssetCheckFailedError":
                return RunFailedError(_blocked_by(result))
            message = error.message.strip().removeprefix("evalflow.errors.").partition(": ")[2] or error.message.strip()
            kind = ours.get(error.cls_name or "")
            return RunFailedError(message, kind.exit_code if kind else ExitCode.FAIL)
    return RunFailedError(f"The Dagster run {result.run_id} of {asset} failed; look at it in `evalflow ui`.")


def _blocked_by(result: dg.ExecuteInProcessResult) -> str:
    """Which blocking check failed, and what it found."""
    failed = [
        f"{check.asset_key.to_user_string()}.{check.check_name}: {check.description}"
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    ]
    return f"A blocking check failed, and nothing after it was computed. {'; '.join(failed)}"
