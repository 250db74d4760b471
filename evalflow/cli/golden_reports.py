"""`evalflow golden diff|audit|growth|latency`: what the ledger tells about the suite.

Keep out: the figures (``core/suite_diff.py``, ``core/composition.py``, ``core/growth.py``, ``core/latency.py``).
"""

import html
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any

import typer
from rich.table import Table

from evalflow.adapters.home import Home, open_home
from evalflow.cli.terminal import AsJson, HomeOption, counted, day_of, err, out, print_json, shortened, shown
from evalflow.core.calendar import monday_of
from evalflow.core.composition import AGES, ORIGINS, Composition
from evalflow.core.growth import MIN_WEEKS, Association
from evalflow.core.latency import Interval, Quantiles, Waiting
from evalflow.core.suite_diff import CaseChange, SuiteDiff, suite_diff
from evalflow.errors import CannotTellError, ExitCode, UsageError

app = typer.Typer()
SHOWN_BINS, SHOWN_CASES, SHOWN_WAITING = 12, 40, 10
BARS = " ▁▂▃▄▅▆▇█"
_EMPTY = "The golden set is empty; import one with `evalflow golden import`."


# -- diff ------------------------------------------------------------------------------------------------------------


@app.command("diff", epilog="Example: evalflow golden diff 2026-08-01 2026-08-31")
def golden_diff(
    first: Annotated[str, typer.Argument(help="The day from which to compare, such as 2026-08-01.")],
    last: Annotated[str | None, typer.Argument(help="The day up to which. Default: today.")] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Markdown on stdout, for the text of a pull request.")
    ] = False,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """What changed in the suite between two days: cases that came, left, changed, or took in duplicates."""
    from evalflow.defs.growth import by_id, counts_of

    workspace = open_home(home)
    start = day_of(first, "the first day")
    end = day_of(last, "the last day") or workspace.calendar.now
    if start is None or start > end:
        raise UsageError(f"The first day {first} lies after the last, {end}; give the earlier day first.")
    before, after = (by_id(workspace.ledger.as_of(day)) for day in (start, end))
    if not before and not after:
        raise CannotTellError(f"The golden set has no cases on {start}, nor on {end}; {_EMPTY.partition('; ')[2]}")
    diff = suite_diff(before, after)
    reasons = _reasons(workspace, diff)
    if as_json:
        print_json(_diff_document(start, end, len(before), len(after), counts_of(diff), diff, reasons))
        return
    headline = f"{counted(len(before), 'case')} on {start}, {len(after):,} on {end}"
    rows = _diff_rows(diff, reasons)
    if as_markdown:
        print(_markdown(headline, counts_of(diff), rows))
        return
    out.print(f"{headline}: {_counts_text(counts_of(diff))}", soft_wrap=True)
    table = Table("", "case", "from", "what", "why")
    for row in rows[:SHOWN_CASES]:
        table.add_row(*map(shown, row))
    if rows:
        out.print(table)
    if len(rows) > SHOWN_CASES:
        out.print(f"{len(rows) - SHOWN_CASES:,} more: --json shows all.")


def _reasons(workspace: Home, diff: SuiteDiff) -> dict[tuple[str, int], str]:
    """Why each version was recorded, as far as somebody said."""
    wanted = {str(case["case_id"]) for case in diff.removed} | {change.case_id for change in diff.changed}
    return {
        (record.version.case_id, record.version.version): said
        for record in workspace.ledger.records()
        if record.version.case_id in wanted and (said := record.because or record.version.retired_because)
    }


def _why(reasons: dict[tuple[str, int], str], case_id: str, since: int, until: int | None = None) -> list[str]:
    """The reasons of the versions after ``since``, oldest first; of a case that left, all that came after."""
    said = [
        (number, reason)
        for (name, number), reason in reasons.items()
        if name == case_id and number > since and (until is None or number <= until)
    ]
    return [reason for _, reason in sorted(said)]


def _diff_rows(diff: SuiteDiff, reasons: dict[tuple[str, int], str]) -> list[tuple[str, str, str, str, str]]:
    """One row per case: sign, case, where it comes from, what happened to it, why."""
    rows = []
    for case in diff.added:
        frozen = "frozen regression: " if case["is_regression"] else ""
        rows.append(("+", case["case_id"], case["origin"], frozen + shortened(case["input"], 60), ""))
    for case in diff.removed:
        why = "; ".join(_why(reasons, case["case_id"], case["version"]))
        rows.append(("-", case["case_id"], case["origin"], "retired", why))
    for change in diff.changed:
        why = "; ".join(_why(reasons, change.case_id, change.before["version"], change.after["version"]))
        rows.append(("~", change.case_id, change.after["origin"], _what_changed(change), why))
    return rows


def _what_changed(change: CaseChange) -> str:
    said = ["became a regression"] if change.became_regression else []
    if merged := change.merged_trace_ids:
        said.append(f"took in {counted(len(merged), 'duplicate')}")
    said_above = ("is_regression", "merged_trace_ids", "n_merged_failures")
    others = [name for name in change.fields if name not in said_above]
    return "; ".join([*said, *([f"changed: {', '.join(others)}"] if others else [])]) or "a new version of the same"


def _counts_text(counts: dict[str, int]) -> str:
    return (
        f"{counts['n_added']:,} added, {counts['n_retired']:,} retired, {counts['n_changed']:,} changed "
        f"({counts['n_became_regressions']:,} became regressions), {counted(counts['n_merged_traces'], 'duplicate')} merged"
    )


def _diff_document(
    start: date,
    end: date,
    n_before: int,
    n_after: int,
    counts: dict[str, int],
    diff: SuiteDiff,
    reasons: dict[tuple[str, int], str],
) -> dict[str, Any]:
    return {
        "from": start,
        "to": end,
        "n_from": n_before,
        "n_to": n_after,
        **counts,
        "added": diff.added,
        "retired": [{**case, "because": _why(reasons, case["case_id"], case["version"])} for case in diff.removed],
        "changed": [
            {
                "case_id": change.case_id,
                "from_version": change.before["version"],
                "to_version": change.after["version"],
                "fields": change.fields,
                "before": {name: change.before[name] for name in change.fields},
                "after": {name: change.after[name] for name in change.fields},
                "became_regression": change.became_regression,
                "merged_trace_ids": change.merged_trace_ids,
                "because": _why(reasons, change.case_id, change.before["version"], change.after["version"]),
            }
            for change in diff.changed
        ],
    }


def _markdown(headline: str, counts: dict[str, int], rows: list[tuple[str, str, str, str, str]]) -> str:
    lines = [f"### Golden set: {headline}", "", _counts_text(counts)]
    if rows:
        lines += ["", "| | case | from | what | why |", "|---|---|---|---|---|"]
        lines += [f"| {sign} | {' | '.join(map(_markdown_cell, cells))} |" for sign, *cells in rows]
    return "\n".join(lines)


def _markdown_cell(text: str) -> str:
    """Somebody else's text in a table of Markdown: neither markup nor HTML gets through."""
    plain = html.escape(" ".join(text.split()))
    return "".join(f"&#{ord(sign)};" if sign in "|`*_[]~\\@" else sign for sign in plain)


# -- audit -----------------------------------------------------------------------------------------------------------


@app.command("audit", epilog="Example: evalflow golden audit --as-of 2026-08-23")
def golden_audit(
    as_of: Annotated[str | None, typer.Option(help="The suite as it counted on this day. Default: today.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """What the suite is made of: origin by age and by bin, who vouches for it, and what it lacks."""
    from evalflow.defs.ledger_reports import audit_suite

    workspace = open_home(home)
    audit = audit_suite(workspace, day_of(as_of, "--as-of") or workspace.calendar.now)
    found = audit.found
    if as_json:
        print_json({"as_of": audit.day, "traffic": audit.source, "without_bins": audit.without_bins, **asdict(found)})
        return
    if not found.n_cases:
        raise CannotTellError(f"The golden set has no cases as of {audit.day}; {_EMPTY.partition('; ')[2]}")
    out.print(f"{counted(found.n_cases, 'case')} as of {audit.day}: {_audit_headline(found)}", soft_wrap=True)
    out.print(_audit_table(found))
    if found.bins:
        _print_bins(found)
    else:
        err.print(f"[yellow]without bins:[/yellow] {shown(audit.without_bins)}", soft_wrap=True)
    for warning in found.warnings:
        out.print(f"[yellow]look:[/yellow] {shown(warning)}", soft_wrap=True)


def _audit_headline(found: Composition) -> str:
    confirmed = ", ".join(f"{n} by {name}" for name, n in found.confirmed_by.items() if n)
    frozen = f"{found.n_regressions} frozen ({found.n_regressions / found.n_cases:.0%})"
    return f"{frozen}; confirmed: {confirmed}; {found.n_without_expected_output} without expected output"


def _audit_table(found: Composition) -> Table:
    table = Table("origin", "cases", "share", *(f"{age} days" if age != "unknown" else "age unknown" for age in AGES))
    for origin in ORIGINS:
        n = found.by_origin[origin]
        ages = (str(found.by_age[age][origin] or "") for age in AGES)
        table.add_row(origin, str(n), f"{n / found.n_cases:.0%}", *ages)
    return table


def _print_bins(found: Composition) -> None:
    """The bins without a case from production, the largest first: the table above says all that there is by origin."""
    untried = [row for row in found.bins if row.traffic_share and not row.by_origin["production"]]
    named = [
        f"{shown(row.label or str(row.bin))} ({row.traffic_share:.1%})"
        for row in untried[:SHOWN_BINS]
        if row.traffic_share
    ]
    if named:
        more = f" and {len(untried) - SHOWN_BINS} more" if len(untried) > SHOWN_BINS else ""
        out.print(
            f"bins without a case from production: {', '.join(named)}{more}; --json has every bin", soft_wrap=True
        )


# -- growth ----------------------------------------------------------------------------------------------------------


@app.command("growth", epilog="Example: evalflow golden growth --weeks 52")
def golden_growth(
    as_of: Annotated[
        str | None, typer.Option(help="Any day of the last week that is wanted. Default: the running week.")
    ] = None,
    weeks: Annotated[int, typer.Option(min=1, help="How many weeks to show, and to take an association from.")] = 26,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """How the suite grows beside traffic and failures: growth should be fastest when production is messiest."""
    from evalflow.defs.growth import failures_text, growth_association, growth_of

    workspace = open_home(home)
    last = monday_of(day_of(as_of, "--as-of") or workspace.calendar.last_day)
    shown_weeks = [week for week in workspace.calendar.weeks() if week <= last][-weeks:]
    rows = [{"week": week, **growth_of(workspace, week)} for week in shown_weeks]
    if not any(row["n_cases"] or row["n_traces"] for row in rows):
        raise CannotTellError(
            f"There are neither traces nor golden cases up to {last}; `evalflow status` shows what is there."
        )
    association = growth_association(rows)
    if as_json:
        print_json({"weeks": rows, "association": association and association._asdict()})
        return
    newest = rows[-1]
    n_added, n_retired = (sum(row[name] for row in rows) for name in ("n_added", "n_retired"))
    out.print(
        f"{counted(newest['n_cases'], 'case')} as of {newest['as_of']}; in {counted(len(rows), 'week')} {n_added} added, "
        f"{n_retired} retired",
        soft_wrap=True,
    )
    names = (
        "week",
        "cases",
        "added",
        "production",
        "merged",
        "retired",
        "traces",
        "complaints",
        "failures",
        "per 1000",
    )
    table = Table(*names)
    for row in rows:
        table.add_row(
            f"{row['week']}{'*' if row['is_provisional'] else ''}",
            *(str(row[name]) for name in ("n_cases", "n_added", "n_added_production", "n_merged_traces", "n_retired")),
            f"{row['n_traces']:,}",
            str(row["n_complaints"]),
            failures_text(row),
            _rate(row["added_production_per_1000_failures"]),
        )
    out.print(table)
    out.print(f"added from production {_bars([row['n_added_production'] for row in rows])}", soft_wrap=True)
    out.print(f"failures (estimate)   {_bars([row['failures'] for row in rows])}", soft_wrap=True)
    out.print(_association_text(association, len(rows)), soft_wrap=True)


def _association_text(found: Association | None, n_weeks: int) -> str:
    if found is None:
        return (
            f"Whether growth follows failures cannot be told from {counted(n_weeks, 'week')}: it takes {MIN_WEEKS} closed and "
            "graded ones that differ and do not merely follow their neighbours."
        )
    return (
        f"Growth from production and failures: rank correlation {found.rho:+.2f} ({found.low:+.2f} to {found.high:+.2f}, 95 %) "
        f"over {found.n} weeks, worth {found.n_effective:.0f} independent ones; no proof that one causes the other."
    )


def _bars(values: list[float | None]) -> str:
    """A line of bars; a dot where the figure is not known."""
    most = max((value for value in values if value is not None), default=0) or 1
    return "".join("·" if value is None else BARS[round(value / most * (len(BARS) - 1))] for value in values)


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


# -- latency ---------------------------------------------------------------------------------------------------------


@app.command("latency", epilog="Example: evalflow golden latency --from 2026-08-01")
def golden_latency(
    first: Annotated[str | None, typer.Option("--from", help="Failures that happened on this day or later.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Failures that happened up to this day.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """How long from a failure in production to the gate, with those that still wait; exit code 3 without any failure."""
    from evalflow.defs.ledger_reports import PROMISED_DAYS, days_waited, failure_latency

    workspace = open_home(home)
    found = failure_latency(workspace, day_of(first, "--from"), day_of(last, "--to"))
    waiting = [
        {**failure._asdict(), "days_waited": round(days_waited(failure, found.now), 2)} for failure in found.waiting
    ]
    if as_json:
        print_json(
            {
                "as_of": found.now.isoformat(),
                "promised_days": PROMISED_DAYS,
                "stages": {name: stage._asdict() for name, stage in found.stages.items()},
                "in_gate_only": found.arrived._asdict(),
                "confirmed": _waiting_document(found.confirmed),
                "suspected": _waiting_document(found.suspected),
                "n_before": found.n_before,
                "waiting": waiting,
            }
        )
    elif found.suspected.n:
        out.print(_latency_headline(found.confirmed, found.suspected, PROMISED_DAYS), soft_wrap=True)
        out.print(_latency_table(found.stages, found.arrived, found.confirmed, found.suspected))
        out.print(
            "The first rows know only what is in the gate, the fast ones. The truth lies between the last two.",
            soft_wrap=True,
        )
        for row in waiting[:SHOWN_WAITING]:
            out.print(
                f"[yellow]waiting:[/yellow] {shown(row['trace_id'])} for {row['days_waited']:.1f} days, {row['state']}; "
                "see `evalflow triage list`",
                soft_wrap=True,
            )
        if len(waiting) > SHOWN_WAITING:
            out.print(f"{len(waiting) - SHOWN_WAITING} more are waiting: --json shows all.")
    if found.n_before and not as_json:
        err.print(
            f"[yellow]{counted(found.n_before, 'failure')} left out[/yellow]: by the clock a later step comes before an "
            "earlier one, as in a replay.",
            soft_wrap=True,
        )
    if not found.suspected.n:
        if as_json:
            raise typer.Exit(ExitCode.CANNOT_TELL)
        raise CannotTellError("No failure was queued in that time; `evalflow refresh` fills the queue.")


def _waiting_document(found: Waiting) -> dict[str, Any]:
    return {
        **found._asdict(),
        "median": found.median and found.median._asdict(),
        "within": found.within and found.within._asdict(),
    }


def _latency_headline(confirmed: Waiting, suspected: Waiting, promised: float) -> str:
    within, at_worst = (
        _interval(found.within, "{:.0%}") if found.within else "not known yet" for found in (confirmed, suspected)
    )
    unanswered = suspected.n - confirmed.n
    return (
        f"{confirmed.n_arrived} of {counted(confirmed.n, 'confirmed failure')} in the gate, {unanswered} not answered yet; "
        f"within {promised:g} days: {within}, with the unanswered {at_worst}"
    )


def _latency_table(stages: dict[str, Quantiles], arrived: Quantiles, confirmed: Waiting, suspected: Waiting) -> Table:
    table = Table("days", "n", "p25", "median", "p75", "p90")
    for name, found in [*stages.items(), ("failure to gate, those in it", arrived)]:
        table.add_row(name, str(found.n), *(_days(value) for value in (found.p25, found.median, found.p75, found.p90)))
    for name, known in (("with the confirmed that wait", confirmed), ("with the unanswered too", suspected)):
        median = _interval(known.median, "{:.1f}") if known.median else "not reached"
        table.add_row(name, str(known.n), _days(known.p25), median, _days(known.p75), _days(known.p90))
    return table


def _interval(found: Interval, form: str) -> str:
    low, high = (("…" if end is None else form.format(end)) for end in (found.low, found.high))
    return f"{form.format(found.value)} ({low} to {high})"


def _days(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
