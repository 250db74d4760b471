"""`evalflow gate`: may this candidate ship? Results on the suite in, a verdict and its exit code out.

Keep out: the decision itself (``core/gate.py``); nothing is written to the home but cached vectors.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.results import Results, read_results
from evalflow.cli.terminal import (
    AsJson,
    HomeOption,
    counted,
    day_of,
    err,
    out,
    print_bad_lines,
    print_json,
    shortened,
    shown,
)
from evalflow.core.gate import Decision, GateVerdict
from evalflow.core.score import Unqualified
from evalflow.errors import CannotTellError, ExitCode

if TYPE_CHECKING:
    from evalflow.defs.suite import SuiteInTraffic

app = typer.Typer()
SHOWN_CASES = 20
SHOWN_BINS = 10
SHOWN_SHARE = 0.0005
"""A share below this is 0.0 % as printed."""
_EXIT_CODES: dict[Decision, ExitCode] = {
    "pass": ExitCode.OK,
    "fail": ExitCode.FAIL,
    "cannot tell": ExitCode.CANNOT_TELL,
}
_COLORS: dict[Decision, str] = {"pass": "green", "fail": "red", "cannot tell": "yellow"}


@app.command(epilog="Example: evalflow gate results.jsonl --min-pass-rate 0.9 --json")
def gate(
    results: Annotated[
        str, typer.Argument(help='A file of results, one line per case: {"case_id": ..., "pass": true, false or null}.')
    ],
    as_of: Annotated[str | None, typer.Option(help="Judge by the suite as of this day. Default: today.")] = None,
    min_pass_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="The wanted pass rate. Default: the setting gate.min_pass_rate.")
    ] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """May this candidate ship? Exit code 0 pass, 1 fail, 3 cannot tell, 4 results that cannot be used.

    The suite is that of the day, the traffic that of the newest closed week up to it.
    """
    from evalflow.defs.suite import gate_suite

    workspace = open_home(home)
    day = day_of(as_of, "--as-of") or workspace.calendar.now
    read = read_results(results)
    cases = workspace.ledger.as_of(day)
    if not cases:
        raise CannotTellError(
            f"The golden set has no cases as of {day}; import one with `evalflow golden import`, or give another --as-of."
        )
    settings = workspace.settings.gate
    wanted = settings.min_pass_rate if min_pass_rate is None else min_pass_rate
    verdict, traffic = gate_suite(workspace, cases, read, day, wanted)
    left_out = left_out_of(workspace, read, cases)
    code = _EXIT_CODES[verdict.verdict]
    if read.unusable and verdict.verdict != "fail":
        code = ExitCode.BAD_INPUT
    if as_json:
        limits = {"min_pass_rate": wanted, "min_covered_share": settings.min_covered_share}
        print_json(
            {"verdict": verdict.verdict, "exit_code": int(code), "as_of": str(day), "results": results}
            | limits
            | _figures(verdict, traffic)
            | {
                "left_out": left_out,
                "repeated": list(read.repeated),
                "unusable": [asdict(line) for line in read.unusable],
            }
        )
    else:
        _print(verdict, traffic, cases, day, wanted)
        print_left_aside(read, left_out)
    if code:
        raise typer.Exit(code)


def left_out_of(workspace: Home, read: Results, cases: Sequence[CaseVersion]) -> list[dict[str, str]]:
    """The results of cases that are not in the suite, and why they are not."""
    extra = sorted(set(read.outcomes) - {case.case_id for case in cases})
    newest = workspace.ledger.newest() if extra else {}
    found = []
    for case_id in extra:
        case = newest.get(case_id)
        reason = "not in the golden set"
        if case is not None:
            reason = f"retired on {case.retired_on}" if case.retired_on else f"counts from {case.effective_on}"
        found.append({"case_id": case_id, "reason": reason})
    return found


def _figures(verdict: GateVerdict, traffic: "SuiteInTraffic") -> dict[str, Any]:
    return {
        "reasons": list(verdict.reasons),
        "n_cases": verdict.n_cases,
        "n_regressions": verdict.n_regressions,
        "n_passed": verdict.n_passed,
        "n_failed": verdict.n_failed,
        "n_unscored": verdict.n_unscored,
        "n_missing": verdict.n_missing,
        "failing_regressions": list(verdict.failing_regressions),
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


# -- printing ------------------------------------------------------------------------------------------------


def _print(
    verdict: GateVerdict, traffic: "SuiteInTraffic", cases: Sequence[CaseVersion], day: date, min_pass_rate: float
) -> None:
    color = _COLORS[verdict.verdict]
    low, high = verdict.suite.interval
    rate = (
        "nothing scored"
        if verdict.pass_rate is None
        else f"{verdict.pass_rate:.1%} pass (95 % interval {low:.1%} to {high:.1%}, wanted {min_pass_rate:.1%})"
    )
    out.print(f"[bold {color}]{verdict.verdict}[/bold {color}]  {rate}", soft_wrap=True)
    out.print(
        f"{counted(verdict.n_cases, 'case')} as of {day}, {verdict.n_regressions:,} of them regressions: "
        f"{verdict.n_passed:,} passed, {verdict.n_failed:,} failed, {verdict.n_unscored:,} unscored, "
        f"{verdict.n_missing:,} without a result",
        soft_wrap=True,
    )
    if verdict.n_regressions and verdict.sampled.rate is not None:
        out.print(f"{verdict.sampled.rate:.1%} pass of the {verdict.sampled.scored:,} scored that are not regressions")
    if traffic.source and verdict.bounds and verdict.covered_share is not None:
        weighted = _weighted(verdict)
        provisional = ", provisional" if traffic.source["provisional"] else ""
        is_whole = verdict.bounds.high - verdict.bounds.low < SHOWN_SHARE
        rest = f"; {verdict.bounds.low:.1%} if the rest fails, {verdict.bounds.high:.1%} if it passes"
        out.print(
            f"weighted by traffic: {weighted} over the {verdict.covered_share:.1%} of it that scored cases stand for"
            f"{'' if is_whole else rest} (week of {traffic.source['week']}{provisional})",
            soft_wrap=True,
        )
    for reason in verdict.reasons:
        out.print(f"- {shown(reason)}", soft_wrap=True)
    _print_regressions(verdict, {case.case_id: case.input for case in cases})
    _print_low_bins(verdict, traffic, min_pass_rate)


def _weighted(verdict: GateVerdict) -> str:
    if verdict.weighted_pass_rate is None or verdict.weighted_interval is None:
        return "none"
    low, high = verdict.weighted_interval
    return f"{verdict.weighted_pass_rate:.1%} pass (95 % interval {low:.1%} to {high:.1%})"


def _print_regressions(verdict: GateVerdict, inputs: dict[str, str]) -> None:
    failing = verdict.failing_regressions
    if not failing:
        return
    table = Table("failing regression", "input")
    for case_id in failing[:SHOWN_CASES]:
        table.add_row(_short(case_id), _short(inputs[case_id]))
    out.print(table)
    if len(failing) > SHOWN_CASES:
        out.print(f"{counted(len(failing) - SHOWN_CASES, 'more failing regression')}: --json shows all.")


def _print_low_bins(verdict: GateVerdict, traffic: "SuiteInTraffic", min_pass_rate: float) -> None:
    """The bins below the wanted rate, those first whose failures stand for the most traffic."""
    low = [row for row in verdict.bins if row.pass_rate is not None and row.pass_rate < min_pass_rate]
    if not low:
        return
    low.sort(key=lambda row: -row.lost_share)
    table = Table("low bin", "label", "traffic", "passed", "scored", "cases")
    for row in low[:SHOWN_BINS]:
        share = "" if row.production_share is None else f"{row.production_share:.1%}"
        label = _short(traffic.labels.get(row.bin, ""))
        table.add_row(_short(row.bin), label, share, str(row.n_passed), str(row.n_scored), str(row.n_cases))
    out.print(table)
    if len(low) > SHOWN_BINS:
        out.print(f"{counted(len(low) - SHOWN_BINS, 'more low bin')}: --json shows all.")


def print_left_aside(read: Results, left_out: list[dict[str, str]]) -> None:
    """What the results hold beside the suite's cases: on stderr, with the reason."""
    if left_out:
        err.print(f"{counted(len(left_out), 'result')} left out, because the case is not in the suite:")
        for row in left_out[:SHOWN_CASES]:
            err.print(f"  {_short(row['case_id'])}: {row['reason']}", soft_wrap=True)
    if read.repeated:
        named = ", ".join(map(repr, read.repeated[:3])) + (", ..." if len(read.repeated) > 3 else "")
        err.print(
            f"{counted(len(read.repeated), 'case')} given more than once with the same outcome, counted once: {shown(named)}",
            soft_wrap=True,
        )
    lines = [f"{bad.file}:{bad.line}: {bad.reason}" for bad in read.unusable]
    print_bad_lines(lines, len(lines), "correct them and ask again")


def _short(text: str) -> str:
    return shown(shortened(text, 70))
