"""`evalflow gate`: may this candidate ship? Results on the suite in, or a run of it; a verdict and its exit code out.

Keep out: the decision itself (``core/gate.py``), running the suite (``gate_run.py``), and what is printed
(``gate_report.py``). Nothing is written to the home but its cache.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalflow.adapters.gate_reports import CaseResult, GateReport, junit_xml, markdown, most_telling
from evalflow.adapters.home import Home, open_home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.lock import LockCheck, check_lock
from evalflow.adapters.results import Results, read_results
from evalflow.adapters.saved_results import said_in
from evalflow.cli.gate_report import print_left_aside, print_report
from evalflow.cli.gate_run import Candidate, run_suite
from evalflow.cli.terminal import AsJson, HomeOption, counted, day_of, print_json, write_files
from evalflow.core.attempts import Attempts
from evalflow.core.gate import Decision, GateVerdict
from evalflow.core.score import Unqualified
from evalflow.errors import BadInputError, CannotTellError, ExitCode, UsageError

if TYPE_CHECKING:
    from evalflow.defs.suite import SuiteInTraffic

app = typer.Typer()
LAST = "last"
SAVED_AS = (".jsonl", ".ndjson")
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
MOST_REPEATS = 100
_EXIT_CODES: dict[Decision, ExitCode] = {
    "pass": ExitCode.OK,
    "fail": ExitCode.FAIL,
    "cannot tell": ExitCode.CANNOT_TELL,
}


@app.command(epilog="Example: evalflow gate --run --scorer judge --save results.jsonl")
def gate(
    results: Annotated[
        str | None,
        typer.Argument(help='A file of results, one line per case: {"case_id": ..., "pass": true, false or null}.'),
    ] = None,
    is_run: Annotated[bool, typer.Option("--run", help="Run the suite against the system instead.")] = False,
    system: Annotated[
        str | None,
        typer.Option(
            help="python:package.module:function, or an endpoint's address. Default: the settings \\[system]."
        ),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option(help="exact, contains, judge or python:package.module:function. Default: system.scorer."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=MOST_REPEATS, help="Attempts at each case.")] = 1,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the run's results here, each as it is done; a run that was stopped goes on from them."
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Compare with these results, or with the `last` run recorded by `evalflow score import`."),
    ] = None,
    lock: Annotated[
        Path | None, typer.Option(help="Judge by the suite that this lock file pins; it must be the ledger's.")
    ] = None,
    as_of: Annotated[str | None, typer.Option(help="Judge by the suite as of this day. Default: today.")] = None,
    min_pass_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="The wanted pass rate. Default: the setting gate.min_pass_rate.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here, one test case per case.")] = None,
    summary: Annotated[
        Path | None, typer.Option(help="Write Markdown for a pull request here; $GITHUB_STEP_SUMMARY is added to.")
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """May this candidate ship? Exit code 0 pass, 1 fail, 3 cannot tell, 4 results that cannot be used, 5 no system.

    The suite is that of the day or of the lock, the traffic that of the newest closed week up to --as-of.
    """
    from evalflow.defs.suite import gate_suite

    _refuse_mixture(results, is_run, {"--system": system, "--scorer": scorer, "--save": save})
    if not is_run and repeats > 1:
        raise UsageError("--repeats is for --run; results hold their attempts as lines with `repeat`.")
    _refuse_targets({"--junit": junit, "--summary": summary, "--save": save})
    _refuse_itself(baseline, results or save)
    workspace = open_home(home)
    locked = _held_lock(workspace, lock)
    day = _suite_day(workspace, as_of, locked)
    until = day if as_of else workspace.calendar.now  # a lock pins the cases, neither traffic nor baseline
    cases = workspace.ledger.as_of(day)
    if not cases:
        raise CannotTellError(
            f"The golden set has no cases as of {day}; import one with `evalflow golden import`, or give another --as-of."
        )
    before = _baseline(workspace, baseline, until, cases) if baseline else None
    if results is not None:
        candidate = Candidate(results, read_results(results), said_in(results), None)
    else:
        candidate = run_suite(workspace, cases, system, scorer, repeats, save, as_json)
    wanted = workspace.settings.gate.min_pass_rate if min_pass_rate is None else min_pass_rate
    verdict, traffic = gate_suite(
        workspace, cases, candidate.read, until, wanted, None if before is None else before.attempts
    )
    report = GateReport(
        verdict=verdict,
        results=_results_of(cases, candidate),
        as_of=day,
        min_pass_rate=wanted,
        min_covered_share=workspace.settings.gate.min_covered_share,
        candidate=candidate.name,
        baseline=before.name if before else None,
        lock=_lock_text(workspace, locked, cases),
        coverage=traffic.source,
        labels=traffic.labels,
    )
    _write_reports(report, junit, summary)
    left_out = left_out_of(workspace, candidate.read, cases)
    code = _EXIT_CODES[verdict.verdict]
    if candidate.read.unusable and verdict.verdict != "fail":
        code = ExitCode.BAD_INPUT
    if as_json:
        print_json(
            {"verdict": verdict.verdict, "exit_code": int(code), "as_of": str(day), "results": results}
            | {"min_pass_rate": wanted, "min_covered_share": report.min_covered_share}
            | _figures(verdict, traffic)
            | {
                "run": candidate.run,
                "baseline": report.baseline,
                "paired": _paired(verdict),
                "lock": _lock_document(locked),
                "left_out": left_out,
                "repeated": list(candidate.read.repeated),
                "unusable": [asdict(line) for line in candidate.read.unusable],
            }
        )
    else:
        print_report(report)
        print_left_aside(candidate.read, left_out)
    if code:
        raise typer.Exit(code)


def left_out_of(workspace: Home, read: Results, cases: Sequence[CaseVersion]) -> list[dict[str, str]]:
    """The results of cases that are not in the suite, and why they are not."""
    extra = sorted(set(read.attempts) - {case.case_id for case in cases})
    newest = workspace.ledger.newest() if extra else {}
    found = []
    for case_id in extra:
        case = newest.get(case_id)
        reason = "not in the golden set"
        if case is not None:
            reason = f"retired on {case.retired_on}" if case.retired_on else f"counts from {case.effective_on}"
        found.append({"case_id": case_id, "reason": reason})
    return found


# -- what is asked for -----------------------------------------------------------------------------------------


def _refuse_mixture(results: str | None, is_run: bool, only_running: Mapping[str, Any]) -> None:
    if results is None and not is_run:
        raise UsageError("Give a file of results, or --run to run the suite against the system.")
    if results is not None and is_run:
        raise UsageError(f"Give either the results {results} or --run, not both.")
    for option, value in only_running.items():
        if value is not None and not is_run:
            raise UsageError(f"{option} is for --run; leave it out, or run the suite instead of giving results.")


def _refuse_targets(targets: Mapping[str, Path | None]) -> None:
    """What cannot be written is said before the suite is run, not after."""
    seen: dict[Path, str] = {}
    for option, path in targets.items():
        if path is None:
            continue
        place = path.resolve()
        if place.is_dir() or not place.parent.is_dir():
            raise UsageError(f"{option} {path} cannot be written; name a file in a folder that exists.")
        if place in seen:
            raise UsageError(f"{seen[place]} and {option} name the same file, {path}; give each its own.")
        seen[place] = option
    saved = targets["--save"]
    if saved is not None and not saved.name.endswith(SAVED_AS):
        raise UsageError(f"--save {saved} would not be read again; let its name end in {' or '.join(SAVED_AS)}.")


def _refuse_itself(baseline: str | None, own: Path | str | None) -> None:
    """A run that is compared with itself is never worse."""
    if baseline is not None and own is not None and Path(baseline).resolve() == Path(own).resolve():
        raise UsageError(f"The baseline {baseline} is the candidate's own results; name those of an earlier run.")


def _held_lock(workspace: Home, lock: Path | None) -> LockCheck | None:
    """The lock, if it holds for files and ledger.

    Raises:
        BadInputError: it does not; the first mismatch is the message.
    """
    if lock is None:
        return None
    check = check_lock(lock, workspace.ledger)
    if not check.holds:
        more = len(check.mismatches) - 1
        rest = f" ({more:,} more {'mismatch' if more == 1 else 'mismatches'})" if more else ""
        raise BadInputError(f"{check.mismatches[0]}{rest}")
    return check


def _suite_day(workspace: Home, as_of: str | None, locked: LockCheck | None) -> date:
    day = day_of(as_of, "--as-of")
    if locked is None:
        return day or workspace.calendar.now
    if day is not None and day != locked.lock.as_of:
        raise UsageError(f"--as-of {day} is not the day of the lock, {locked.lock.as_of}; leave --as-of out.")
    return locked.lock.as_of


@dataclass(frozen=True)
class _Before:
    """The run to compare with, and its name to print."""

    name: str
    attempts: Mapping[str, Attempts]


def _baseline(workspace: Home, given: str, until: date, cases: Sequence[CaseVersion]) -> _Before:
    """The run to compare with; of a recorded one without the cases that have become another test since.

    Raises:
        CannotTellError: no run is recorded.
        BadInputError: the file is none of results, or holds lines that cannot be used: their cases would go uncompared.
    """
    if given != LAST:
        read = read_results(given)
        if read.unusable:
            first, more = read.unusable[0], len(read.unusable) - 1
            rest = f" ({more:,} more such {'line' if more == 1 else 'lines'})" if more else ""
            raise BadInputError(
                f"The baseline cannot be used: {first.file}:{first.line}: {first.reason}{rest}; correct it."
            )
        return _Before(given, read.attempts)
    keys = workspace.suite_runs.up_to(until)
    if not keys:
        raise CannotTellError(
            f"There is no recorded run of the suite up to {until} to compare with; record one with `evalflow score import`, or "
            "give --baseline a file of results."
        )
    run = workspace.suite_runs.read(keys[-1])
    name = f"run of {run.key.ran_on}" + (f", {run.name}" if run.name else "")
    asked = {case.case_id: case.test for case in workspace.ledger.as_of(run.key.ran_on)}
    changed = {case.case_id for case in cases if asked.get(case.case_id, case.test) != case.test} & set(run.attempts)
    if changed:
        name += (
            f" (without {counted(len(changed), 'case')} that {'is' if len(changed) == 1 else 'are'} another test since)"
        )
    return _Before(name, {case_id: tried for case_id, tried in run.attempts.items() if case_id not in changed})


def _lock_text(workspace: Home, locked: LockCheck | None, cases: Sequence[CaseVersion]) -> str | None:
    """Where the lock lies, and how many cases of today's suite it does not know."""
    if locked is None:
        return None
    known = {case.case_id for case in cases}
    later = [case for case in workspace.ledger.as_of(workspace.calendar.now) if case.case_id not in known]
    if not later:
        return str(locked.path)
    frozen = counted(sum(case.is_regression for case in later), "frozen regression")
    return f"{locked.path} (without {counted(len(later), 'case')} of today's suite, {frozen} among them)"


def _results_of(cases: Sequence[CaseVersion], candidate: Candidate) -> list[CaseResult]:
    return [
        CaseResult(
            case,
            candidate.read.attempts.get(case.case_id, Attempts()),
            most_telling(candidate.said.get(case.case_id, ())),
        )
        for case in cases
    ]


# -- what comes out --------------------------------------------------------------------------------------------


def _write_reports(report: GateReport, junit: Path | None, summary: Path | None) -> None:
    """JUnit XML and Markdown; the summary of a GitHub step is shared by all of its commands, so it is added to."""
    contents = {} if junit is None else {junit: junit_xml(report)}
    if summary is not None:
        text = markdown(report)
        step = os.environ.get(STEP_SUMMARY)
        if step and summary.exists() and summary.resolve() == Path(step).resolve():
            text = summary.read_text(encoding="utf-8") + text
        contents[summary] = text
    if contents:
        write_files(contents)


def _paired(verdict: GateVerdict) -> dict[str, Any] | None:
    return None if verdict.paired is None else asdict(verdict.paired)


def _lock_document(locked: LockCheck | None) -> dict[str, Any] | None:
    if locked is None:
        return None
    return {"path": str(locked.path), "as_of": str(locked.lock.as_of), "suite_hash": locked.lock.suite_hash}


def _figures(verdict: GateVerdict, traffic: "SuiteInTraffic") -> dict[str, Any]:
    return {
        "reasons": list(verdict.reasons),
        "n_cases": verdict.n_cases,
        "n_regressions": verdict.n_regressions,
        "n_families": verdict.n_families,
        "n_passed": verdict.n_passed,
        "n_failed": verdict.n_failed,
        "n_mixed": verdict.n_mixed,
        "n_unscored": verdict.n_unscored,
        "n_missing": verdict.n_missing,
        "failing_regressions": list(verdict.failing_regressions),
        "flaky_regressions": [flaky._asdict() for flaky in verdict.flaky_regressions],
        "unscored_regressions": list(verdict.unscored_regressions),
        "missing_regressions": list(verdict.missing_regressions),
        "pass_rate": verdict.pass_rate,
        "pass_rate_interval": verdict.suite.interval._asdict(),
        "sampled_pass_rate": verdict.sampled.rate,
        "sampled_pass_rate_interval": verdict.sampled.interval._asdict(),
        "weighted_pass_rate": verdict.weighted_pass_rate,
        "weighted_pass_rate_interval": verdict.weighted_interval._asdict() if verdict.weighted_interval else None,
        "covered_share": verdict.covered_share,
        "bounds": verdict.bounds._asdict() if verdict.bounds else None,
        "coverage": traffic.source,
        "coverage_reason": traffic.shares.reason if isinstance(traffic.shares, Unqualified) else None,
        "bins": [
            {**asdict(row), "label": traffic.labels.get(row.bin), "pass_rate": row.pass_rate} for row in verdict.bins
        ],
    }
