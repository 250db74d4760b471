"""What `evalflow gate` prints: the verdict first, what it rests on, and the cases to look at.

Everything from cases and answers is hostile text: `shown` stands between it and the terminal. Keep out: files for
machines and pull requests (``adapters/gate_reports.py``).
"""

from collections import Counter
from typing import Any

from rich.table import Table

from evalflow.adapters.gate_reports import CaseResult, GateReport, State, facts, rate_text
from evalflow.adapters.results import Results
from evalflow.cli.terminal import counted, err, out, print_bad_lines, shortened, shown
from evalflow.core.gate import Decision

SHOWN_CASES = 20
SHOWN_BINS = 10
_COLORS: dict[Decision, str] = {"pass": "green", "fail": "red", "cannot tell": "yellow"}
_STATES: dict[State, str] = {
    "passed": "passed",
    "failed": "failed",
    "flaky": "flaky",
    "unscored": "unscored",
    "missing": "without a result",
}


def print_report(report: GateReport) -> None:
    verdict = report.verdict
    color = _COLORS[verdict.verdict]
    low, high = verdict.suite.interval
    rate = (
        "nothing scored"
        if verdict.pass_rate is None
        else f"{verdict.pass_rate:.1%} pass (95 % interval {low:.1%} to {high:.1%}, wanted {report.min_pass_rate:.1%})"
    )
    out.print(f"[bold {color}]{verdict.verdict}[/bold {color}]  {rate}", soft_wrap=True)
    hard, sampled = report.of_tier(is_hard=True), report.of_tier(is_hard=False)
    lines = {
        "hard tier": f"{counted(len(hard), 'frozen regression')}{_states_of(hard)}" if hard else "no frozen regression",
        "sampled tier": f"{counted(len(sampled), 'case')}{_states_of(sampled)}",
    }
    if hard and verdict.sampled.rate is not None:
        lines["sampled tier"] += f"; pass rate {rate_text(verdict.sampled)}"
    for name, text in {**lines, **facts(report)}.items():
        out.print(f"[dim]{name:<14}[/dim]{shown(text)}", soft_wrap=True, highlight=False)
    for reason in verdict.reasons:
        out.print(f"- {shown(reason)}", soft_wrap=True, highlight=False)
    if not _print_cases(report):
        _print_low_bins(report)


def _states_of(results: list[CaseResult]) -> str:
    found = Counter(result.state for result in results)
    told = [f"{found[state]:,} {name}" for state, name in _STATES.items() if found[state]]
    return f": {', '.join(told)}" if told else ""


def _print_cases(report: GateReport) -> bool:
    """The cases that decide, one table; false where there are none."""
    verdict = report.verdict
    rows = [("fails", result) for result in report.named(verdict.failing_regressions)]
    rows += [("flaky", result) for result in report.named([flaky.case_id for flaky in verdict.flaky_regressions])]
    if verdict.paired:
        rows += [("worse than before", result) for result in report.named(verdict.paired.regressed)]
    if not rows:
        return False
    table = Table("", "case", "input", "why")
    for what, result in rows[:SHOWN_CASES]:
        tier = "regression " if result.case.is_regression else ""
        why = "; ".join(part for part in (result.counted, result.said.reason or "") if part) or "the results do not say"
        table.add_row(f"{tier}{what}", _short(result.case.case_id), _short(result.case.input), _short(why))
    out.print(table)
    if len(rows) > SHOWN_CASES:
        out.print(f"{counted(len(rows) - SHOWN_CASES, 'more case')} of these: --json shows all.")
    return True


def _print_low_bins(report: GateReport) -> None:
    low = report.low_bins()
    if not low:
        return
    table = Table("low bin", "label", "traffic", "passed", "scored", "cases")
    for row in low[:SHOWN_BINS]:
        share = "" if row.production_share is None else f"{row.production_share:.1%}"
        label = _short(report.labels.get(row.bin, ""))
        table.add_row(_short(row.bin), label, share, f"{row.n_passed:g}", str(row.n_scored), str(row.n_cases))
    out.print(table)
    if len(low) > SHOWN_BINS:
        out.print(f"{counted(len(low) - SHOWN_BINS, 'more low bin')}: --json shows all.")


def print_left_aside(read: Results, left_out: list[dict[str, Any]]) -> None:
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
