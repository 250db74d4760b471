"""What the gate says, for machines and for a pull request: JUnit XML and Markdown.

Everything from cases and answers is hostile text: XML is written by a writer that escapes it, Markdown through
``as_cell``. Source: docs/ci.md, "Reports". Keep out: the verdict (``core/gate.py``), the terminal (``cli/gate_report.py``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal
from xml.etree import ElementTree

from evalflow.adapters.charts import as_cell
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.saved_results import Said
from evalflow.core.attempts import Attempts
from evalflow.core.gate import REPRODUCED, GateVerdict
from evalflow.core.score import BinResult, PassRate

State = Literal["passed", "failed", "flaky", "unscored", "missing"]
MOST_CHARS = 4_000
"""Of an input or an answer in a report: past it nobody reads on."""
CELL_CHARS = 100
TABLE_ROWS = 20
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped: control characters, halves of surrogate pairs."""


@dataclass(frozen=True)
class CaseResult:
    """One case, its attempts (all zero: no result), and the one of them that says most about it."""

    case: CaseVersion
    attempts: Attempts
    said: Said

    @property
    def state(self) -> State:
        """As the gate reads it. ``flaky``: a frozen regression that failed once and passed too; of other cases the majority
        of the scored attempts decides."""
        tried, is_hard = self.attempts, self.case.is_regression
        if not tried.n_attempts:
            return "missing"
        if is_hard and tried.n_failed:
            return "flaky" if tried.n_failed < REPRODUCED and tried.n_passed else "failed"
        if tried.outcome is None or (is_hard and tried.n_unscored):
            return "unscored"
        return "passed" if tried.outcome else "failed"

    @property
    def counted(self) -> str:
        """How its attempts went, in words; empty where there was one."""
        n = self.attempts.n_attempts
        return f"{self.attempts.n_passed} of {n} attempts passed" if n > 1 else ""


@dataclass(frozen=True)
class GateReport:
    """The verdict and everything that is printed beside it.

    ``candidate``, ``baseline`` and ``lock`` are names to print, ``week`` that of the traffic with its labels by bin.
    """

    verdict: GateVerdict
    results: Sequence[CaseResult]
    as_of: date
    min_pass_rate: float
    min_covered_share: float
    candidate: str
    baseline: str | None
    lock: str | None
    coverage: Mapping[str, Any] | None
    labels: Mapping[str, str]

    def of_tier(self, *, is_hard: bool) -> list[CaseResult]:
        return [result for result in self.results if result.case.is_regression == is_hard]

    def named(self, case_ids: Sequence[str]) -> list[CaseResult]:
        """The cases in this order."""
        by_id = {result.case.case_id: result for result in self.results}
        return [by_id[case_id] for case_id in case_ids]

    def low_bins(self) -> list[BinResult]:
        """The bins below the wanted rate, those first whose failures stand for the most traffic."""
        low = [row for row in self.verdict.bins if row.pass_rate is not None and row.pass_rate < self.min_pass_rate]
        return sorted(low, key=lambda row: -row.lost_share)


def most_telling(said: Sequence[Said]) -> Said:
    """A failed attempt before an unscored one, that before one that passed; empty where there is none."""
    for passed in (False, None, True):
        for one in said:
            if one.passed is passed:
                return one
    return Said(None)


# -- JUnit XML -------------------------------------------------------------------------------------------------


def junit_xml(report: GateReport) -> str:
    """One test suite per tier and one test case per case: ``failure`` where it failed, ``error`` where it is unscored or
    a regression is flaky, ``skipped`` where it has no result. Each suite's properties hold the gate's figures.

    A failed case of the sampled tier alone does not fail the gate; the property ``verdict`` is what it says.
    """
    root = ElementTree.Element("testsuites", {"name": "evalflow gate"})
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for name, results, figures in (
        ("hard tier", report.of_tier(is_hard=True), _hard_figures(report.verdict)),
        ("sampled tier", report.of_tier(is_hard=False), _sampled_figures(report.verdict)),
    ):
        counts = _counts(results)
        for key, number in counts.items():
            totals[key] += number
        suite = ElementTree.SubElement(root, "testsuite", {"name": f"evalflow {name}", **_as_text(counts)})
        suite.set("time", _seconds(sum(result.said.latency_ms or 0.0 for result in results)))
        properties = ElementTree.SubElement(suite, "properties")
        for key, value in {**_figures(report), **figures}.items():
            if value is not None:
                ElementTree.SubElement(properties, "property", {"name": key, "value": _legal(str(value))})
        for result in results:
            suite.append(_testcase(result, f"evalflow.{name.replace(' ', '_')}"))
    for key, text in _as_text(totals).items():
        root.set(key, text)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _counts(results: Sequence[CaseResult]) -> dict[str, int]:
    states = [result.state for result in results]
    return {
        "tests": len(states),
        "failures": states.count("failed"),
        "errors": states.count("unscored") + states.count("flaky"),
        "skipped": states.count("missing"),
    }


def _testcase(result: CaseResult, classname: str) -> ElementTree.Element:
    said = result.said
    case = ElementTree.Element("testcase", {"classname": classname, "name": _legal(result.case.case_id)})
    case.set("time", _seconds(said.latency_ms or 0.0))
    reason = said.reason or {"unscored": "no reason is given", "failed": "it failed"}.get(result.state, "")
    message = _legal(": ".join(part for part in (result.counted, _cut(reason, 300)) if part))
    if result.state == "missing":
        ElementTree.SubElement(case, "skipped", {"message": "the results hold nothing about this case"})
    elif result.state != "passed":
        kind = "failure" if result.state == "failed" else "error"
        found = ElementTree.SubElement(case, kind, {"type": result.state, "message": message})
        found.text = _legal(_cut(told(result), 3 * MOST_CHARS))
    elif result.attempts.n_passed < result.attempts.n_attempts:
        ElementTree.SubElement(case, "system-out").text = message
    return case


def told(result: CaseResult) -> str:
    """A case in full: what was asked, what is expected, what came."""
    parts = {"input": result.case.input, "expected": result.case.expected_output, "output": result.said.output}
    parts["reason"] = result.said.reason
    return "\n\n".join(f"{name}:\n{_cut(text, MOST_CHARS)}" for name, text in parts.items() if text)


def _figures(report: GateReport) -> dict[str, Any]:
    verdict, coverage = report.verdict, report.coverage or {}
    return {
        "verdict": verdict.verdict,
        "reasons": " ".join(verdict.reasons),
        "as_of": report.as_of,
        "candidate": report.candidate,
        "baseline": report.baseline,
        "lock": report.lock,
        "min_pass_rate": report.min_pass_rate,
        "min_covered_share": report.min_covered_share,
        "pass_rate": verdict.pass_rate,
        "weighted_pass_rate": verdict.weighted_pass_rate,
        "covered_share": verdict.covered_share,
        "traffic_week": coverage.get("week"),
    }


def _hard_figures(verdict: GateVerdict) -> dict[str, Any]:
    return {
        "failing_regressions": len(verdict.failing_regressions),
        "flaky_regressions": len(verdict.flaky_regressions),
        "unscored_regressions": len(verdict.unscored_regressions),
        "missing_regressions": len(verdict.missing_regressions),
    }


def _sampled_figures(verdict: GateVerdict) -> dict[str, Any]:
    figures: dict[str, Any] = {"sampled_pass_rate": verdict.sampled.rate}
    if paired := verdict.paired:
        names = (
            "test",
            "n_pairs",
            "n_families",
            "n_regressions",
            "n_fixes",
            "drop",
            "p_value",
            "detectable_drop",
            "limit",
        )
        figures |= {f"paired_{name}": getattr(paired, name) for name in names}
    return figures


def _as_text(counts: Mapping[str, int]) -> dict[str, str]:
    return {name: str(number) for name, number in counts.items()}


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.3f}"


def _legal(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


# -- Markdown --------------------------------------------------------------------------------------------------


def markdown(report: GateReport) -> str:
    """The verdict for a pull request: both tiers, what the score stands for, and the cases to look at."""
    verdict = report.verdict
    lines = [f"## evalflow gate: {verdict.verdict}", ""]
    lines += [f"- {as_cell(reason)}" for reason in verdict.reasons]
    lines += [
        "",
        "| tier | cases | passed | failed | unscored | no result | pass rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, is_hard in (("hard: frozen regressions", True), ("sampled", False)):
        results = report.of_tier(is_hard=is_hard)
        counts, rate = _counts(results), "" if is_hard else rate_text(verdict.sampled)
        n_passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
        cells = (name, counts["tests"], n_passed, counts["failures"], counts["errors"], counts["skipped"], rate)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", *(f"- {as_cell(name)}: {as_cell(text)}" for name, text in facts(report).items())]
    blocking = [*verdict.failing_regressions, *(flaky.case_id for flaky in verdict.flaky_regressions)]
    lines += _case_table("Frozen regressions that fail", report.named(blocking))
    if verdict.paired:
        lines += _case_table("Worse than the baseline", report.named(verdict.paired.regressed))
    lines += _bin_table(report)
    return "\n".join(lines) + "\n"


def facts(report: GateReport) -> dict[str, str]:
    """What the verdict rests on, a line each by name, for terminal and Markdown alike."""
    verdict = report.verdict
    found = {"candidate": report.candidate}
    found["suite"] = f"{_counted(verdict.n_cases, 'case')} as of {report.as_of}" + (
        f", as {report.lock} has it" if report.lock else ""
    )
    if verdict.paired:
        found["baseline"] = f"{report.baseline}: {_paired_text(report)}"
    if report.coverage and verdict.bounds and verdict.covered_share is not None:
        found["traffic"] = _traffic_text(report)
    return found


def rate_text(rate: PassRate) -> str:
    if rate.rate is None:
        return "nothing scored"
    return f"{rate.rate:.1%} ({rate.interval.low:.1%} to {rate.interval.high:.1%})"


def _paired_text(report: GateReport) -> str:
    paired = report.verdict.paired
    if paired is None or not paired.n_pairs:
        return "no sampled case is scored in both"
    changes = f"{_counted(paired.n_regressions, 'regression')}, {_counted(paired.n_fixes, 'fix', 'fixes')}"
    families = "" if paired.n_families == paired.n_pairs else f" of {_counted(paired.n_families, 'family', 'families')}"
    p = "" if paired.p_value is None else f", p = {_p_text(paired.p_value)} ({paired.test})"
    detectable = (
        "no drop would surely show"
        if paired.detectable_drop is None
        else f"a drop from {100 * paired.detectable_drop:.1f} points on would show"
    )
    limit = "" if paired.limit >= 1 else f" (limit {100 * paired.limit:.1f})"
    return f"{changes} in {_counted(paired.n_pairs, 'pair')}{families}{p}; {detectable}{limit}"


def _p_text(p: float) -> str:
    return "below .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _traffic_text(report: GateReport) -> str:
    verdict, coverage = report.verdict, report.coverage or {}
    weighted = "none"
    if verdict.weighted_pass_rate is not None and verdict.weighted_interval is not None:
        low, high = verdict.weighted_interval
        weighted = f"{verdict.weighted_pass_rate:.1%} pass (95 % interval {low:.1%} to {high:.1%})"
    rest = ""
    if verdict.bounds and verdict.bounds.high - verdict.bounds.low >= SHOWN_SHARE:
        rest = f"; {verdict.bounds.low:.1%} if the rest fails, {verdict.bounds.high:.1%} if it passes"
    provisional = ", provisional" if coverage.get("provisional") else ""
    return (
        f"weighted, {weighted} over the {verdict.covered_share:.1%} of it that scored cases stand for{rest} "
        f"(week of {coverage.get('week')}{provisional})"
    )


SHOWN_SHARE = 0.0005
"""A share below this is 0.0 % as printed."""


def _case_table(title: str, results: Sequence[CaseResult]) -> list[str]:
    if not results:
        return []
    lines = ["", f"### {title}", "", "| case | input | expected | output | reason |", "|---|---|---|---|---|"]
    for result in results[:TABLE_ROWS]:
        said, case = result.said, result.case
        reason = "; ".join(part for part in (result.counted, said.reason or "") if part)
        cells = (case.case_id, case.input, case.expected_output or "", said.output or "", reason)
        lines.append("| " + " | ".join(as_cell(_cut(cell, CELL_CHARS)) for cell in cells) + " |")
    return [*lines, *_more(len(results), "case")]


def _bin_table(report: GateReport) -> list[str]:
    low = report.low_bins()
    if not low:
        return []
    lines = [
        "",
        f"### Bins below {report.min_pass_rate:.1%}",
        "",
        "| bin | label | traffic | passed | scored | cases |",
        "|---|---|---|---|---|---|",
    ]
    for row in low[:TABLE_ROWS]:
        share = "" if row.production_share is None else f"{row.production_share:.1%}"
        label = report.labels.get(row.bin, "")
        cells = (row.bin, label, share, f"{row.n_passed:g}", str(row.n_scored), str(row.n_cases))
        lines.append("| " + " | ".join(as_cell(_cut(cell, CELL_CHARS)) for cell in cells) + " |")
    return [*lines, *_more(len(low), "bin")]


def _more(number: int, noun: str) -> list[str]:
    return ["", f"{_counted(number - TABLE_ROWS, f'more {noun}')}."] if number > TABLE_ROWS else []


def _counted(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"
