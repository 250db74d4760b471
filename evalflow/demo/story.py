"""Plays the demo world through the pipeline and tells what came out, week by week.

Belongs here: preparing a home for the demo, walking the stations over it, the words of the story. Keep out:
figures of its own; every number is read from the home as `evalflow coverage` reads it.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.tables import RAW_TRACES
from evalflow.core.calendar import sunday_of
from evalflow.demo.corpus import IN_CHECKOUT, is_checkout, load_corpus
from evalflow.demo.turn import GateRun, Turn, turn_flywheel
from evalflow.demo.world import (
    FIRST_DAY,
    LAST_DAY,
    LAUNCH_DAY,
    SEED,
    OnRange,
    World,
    differing_files,
    generate,
    write,
)
from evalflow.errors import UsageError

GOLDEN_FILE = "golden.jsonl"
TRUTH_FILE = "truth.jsonl.gz"
BAR_PER_JSD = 48
"""Characters of a bar for a JSD of one: a bar of 0.5 still fits on a line of 80."""
SHOWN_CAUSES = 8
MIN_COVERED_SHARE = 0.75
"""The assistant's team wants three quarters of its traffic tested before a release passes."""


@dataclass(frozen=True)
class Planted:
    """What the generator put in, which the pipeline never sees: the answer key of the last window."""

    launch_share: float
    failure_rate_before: float
    failure_rate_after: float


@dataclass(frozen=True)
class Story:
    """What the demo showed. ``weeks`` are documents of `evalflow coverage --json`, oldest first."""

    home: Path
    n_traces: int
    threshold: float
    planted: Planted
    weeks: list[dict[str, Any]]
    turn: Turn | None
    computed: dict[str, int]

    @property
    def crossed_on(self) -> str | None:
        """The Sunday on which JSD stood above the threshold for good; None when it does not end above it."""
        crossed = None
        for week in self.weeks:
            is_above = week["jsd"] is not None and week["jsd"] > self.threshold
            crossed = (crossed or week["as_of"]) if is_above else None
        return crossed

    def document(self) -> dict[str, Any]:
        """What `evalflow demo --json` prints. Keys are only ever added."""
        return {
            "home": str(self.home),
            "weeks": [
                {
                    "week": week["week"],
                    "as_of": week["as_of"],
                    "jsd": week["jsd"],
                    "band": week["band"],
                    "novel_share": week["novel_share"],
                    "uncovered_share": week["uncovered_share"],
                    "n_bins": week["taxonomy"]["n_bins"],
                    "taxonomy": week["taxonomy"]["id"],
                    "provisional": week["provisional"],
                }
                for week in self.weeks
            ],
            "crossed_on": self.crossed_on,
            "alarms": [{"week": week["week"], **alarm} for week in self.weeks for alarm in week["alarms"]],
            "flywheel": self.turn.document() if self.turn else None,
        }

    def tell(self, console: Console) -> None:
        """The story in the terminal: what happened, when it crossed the line, why, where to look."""
        first, last = self.weeks[0], self.weeks[-1]
        console.print(
            f"\n[bold]Fernhill[/bold], a shop for plants, has a support assistant: {self.n_traces:,} traces "
            f"from {_spoken(FIRST_DAY)} to {_spoken(LAST_DAY)}, and a suite of {first['n_golden']} "
            f"hand-written cases that nobody has touched since February. On {_spoken(LAUNCH_DAY)} the shop opens "
            "Fernhill Host: gardeners by the hour, tools for hire, greenhouse space, smart watering.\n"
        )
        console.print(_series(self.weeks, self.threshold))
        console.print(
            f"[dim]│ marks {self.threshold:g}, where a refresh starts. "
            "Each figure is the four weeks up to that Sunday.[/dim]\n"
        )
        self._tell_turn(console)
        console.print(f"\nWhat causes it, four weeks to {_spoken(date.fromisoformat(last['as_of']))}:")
        console.print(_causes(last))
        console.print(
            f"[dim]The planted truth: {self.planted.launch_share:.0%} of that window is about Fernhill Host, "
            f"no case is; the assistant failed {self.planted.failure_rate_before:.0%} of the time before the "
            f"launch and {self.planted.failure_rate_after:.0%} since, and no score of the suite can show it.[/dim]\n"
        )
        if self.turn:
            _tell_flywheel(console, self.turn)
        self._tell_where_next(console)
        total = sum(self.computed.values())
        console.print(
            f"[dim]{total} partitions were computed.[/dim]"
            if total
            else "[dim]Everything was up to date; nothing was computed.[/dim]"
        )

    def _tell_where_next(self, console: Console) -> None:
        home, last = escape(str(self.home)), self.weeks[-1]
        console.print(f"The demo's home is {home}", soft_wrap=True)
        console.print("Where to look next:")
        console.print(f"  evalflow ui --home {home}", soft_wrap=True)
        console.print("    http://127.0.0.1:3000/assets/coverage_metrics  bins and alarms, week by week")
        console.print("    http://127.0.0.1:3000/assets/coverage_slices   heatmaps: bins by weeks, bins by slices")
        console.print("    http://127.0.0.1:3000/assets/triage_queue      what people were asked to look at, and why")
        console.print("    http://127.0.0.1:3000/assets/golden_set        what was promoted; Automation: the sensors")
        console.print(f"  evalflow coverage --home {home} --as-of {last['as_of']}", soft_wrap=True)
        if self.turn:
            console.print(f"  evalflow review --home {home}", soft_wrap=True)
            console.print("    the page on which people answer the queue; here a script has")
            failing = [run for run in self.turn.gates if run.verdict.verdict == "fail"]
            for run in failing[:1]:
                console.print(f"  evalflow gate {escape(str(run.results))} --home {home}", soft_wrap=True)

    def _tell_turn(self, console: Console) -> None:
        last = self.weeks[-1]
        if self.crossed_on is None:
            console.print(f"JSD stands at {_figure(last['jsd'])} and has not stayed above {self.threshold:g}.")
            return
        crossed = date.fromisoformat(self.crossed_on)
        before = [
            week["jsd"]
            for week in self.weeks
            if date.fromisoformat(week["as_of"]) < LAUNCH_DAY and week["jsd"] is not None
        ]
        console.print(
            f"Before the launch JSD lay between {min(before):.2f} and {max(before):.2f}, through a sale that tripled "
            f"the traffic of two days. It crossed {self.threshold:g} on [bold]{_spoken(crossed)}[/bold], "
            f"{(crossed - LAUNCH_DAY).days} days after the launch, and stands at [bold]{last['jsd']:.2f}[/bold] "
            f"({last['band']})."
        )
        if last["taxonomy"]["id"] != self.weeks[-2]["taxonomy"]["id"]:
            console.print(
                "At first the new questions are `novel`: unlike anything in the frozen taxonomy. The last "
                f"week's taxonomy was fitted on {last['taxonomy']['fitted_on']}, where they have bins of their own."
            )


def play(home: Path | None, on_range: OnRange) -> Story:
    """Make the world, run the whole pipeline on it in a home of its own, and read the figures back.

    Safe to repeat: what is there is left as it is, and a second play computes nothing.

    Raises:
        UsageError: the home holds traffic that is not the demo's.
    """
    from evalflow.definitions import GRADING, STATIONS
    from evalflow.runner import import_golden, instance_of, land_files, marts_are_stale, run_marts, walk

    workspace = _prepared(home)
    corpus = load_corpus()
    world = generate(SEED, corpus)
    _refuse_another_world(workspace, world)
    files = write(world, _source(workspace.path))
    with instance_of(workspace) as instance:
        on_range("trace_files", FIRST_DAY, LAST_DAY, 0, 1)
        land_files(workspace, instance, [str(path) for path in files if path.name not in (GOLDEN_FILE, TRUTH_FILE)])
        on_range("trace_files", FIRST_DAY, LAST_DAY, 1, 1)
        import_golden(workspace, instance, str(_source(workspace.path) / GOLDEN_FILE))
        walked = walk(workspace, instance, FIRST_DAY, LAST_DAY, (*STATIONS, *GRADING), on_range)
        turn = turn_flywheel(workspace, instance, world, corpus, _source(workspace.path), on_range)
        if marts_are_stale(workspace):
            on_range("marts", FIRST_DAY, LAST_DAY, 0, 1)
            run_marts(workspace, instance)
            on_range("marts", FIRST_DAY, LAST_DAY, 1, 1)
    return _read_back(workspace, world, turn, walked.computed)


def default_home() -> Path:
    """Beside the corpus in a checkout, else a folder where the command was given."""
    return IN_CHECKOUT / "home" if is_checkout() else Path("evalflow-demo")


def _source(home: Path) -> Path:
    return home / "source"


def _prepared(path: Path | None) -> Home:
    """A home whose traffic is closed: its figures are the same on any day."""
    workspace = open_home(path or default_home())
    is_ours = (_source(workspace.path) / TRUTH_FILE).exists()
    if not is_ours and (workspace.lake.keys(RAW_TRACES) or workspace.ledger.entries()):
        raise UsageError(
            f"{workspace.path} holds traffic or cases of its own; give the demo an empty folder with --home."
        )
    settings = workspace.settings
    if (settings.traffic_start, settings.traffic_end) != (FIRST_DAY, LAST_DAY):
        write_setting(workspace.path, "traffic_start", FIRST_DAY)
        write_setting(workspace.path, "traffic_end", LAST_DAY)
        write_setting(workspace.path, "gate.min_covered_share", MIN_COVERED_SHARE)
    return workspace.reloaded().prepare()


def _refuse_another_world(workspace: Home, world: World) -> None:
    """Two worlds in one lake would be neither: traces of the old one would stay among the new."""
    changed = differing_files(world, _source(workspace.path))
    if changed and workspace.lake.keys(RAW_TRACES):
        raise UsageError(
            f"{changed[0]} was written by another version of the demo; delete {workspace.path} and play again."
        )


def _read_back(workspace: Home, world: World, turn: Turn | None, computed: dict[str, int]) -> Story:
    from evalflow.defs.coverage import measure_week

    weeks = [measure_week(workspace, week).document() for week in workspace.calendar.weeks()]
    return Story(
        home=workspace.path,
        n_traces=len(world.traces),
        threshold=workspace.settings.coverage.jsd_threshold,
        planted=_planted(world, weeks[-1]["window"]["from"]),
        weeks=weeks,
        turn=turn,
        computed=computed,
    )


def _planted(world: World, window_from: str) -> Planted:
    days = [trace["timestamp"][:10] for trace in world.traces]
    window = [known["is_launch"] for known, day in zip(world.truth, days, strict=True) if day >= window_from]
    before = [known["is_failure"] for known, day in zip(world.truth, days, strict=True) if day < str(LAUNCH_DAY)]
    after = [known["is_failure"] for known, day in zip(world.truth, days, strict=True) if day >= str(LAUNCH_DAY)]
    return Planted(*(sum(flags) / len(flags) for flags in (window, before, after)))


def _series(weeks: list[dict[str, Any]], threshold: float) -> Table:
    table = Table("week to", "JSD", "", "band", "novel", "uncovered", "bins", box=None, pad_edge=False)
    for week in weeks:
        is_above = week["jsd"] is not None and week["jsd"] > threshold
        table.add_row(
            f"{sunday_of(date.fromisoformat(week['week'])):%d %b}" + ("*" if week["provisional"] else ""),
            _figure(week["jsd"]),
            _bar(week["jsd"] or 0.0, threshold, "red" if is_above else "green"),
            week["band"] or "",
            f"{week['novel_share']:.0%}",
            f"{week['uncovered_share']:.0%}",
            str(week["taxonomy"]["n_bins"]),
        )
    return table


def _bar(value: float, threshold: float, color: str) -> Text:
    """A bar as long as the value, with the threshold marked in it or behind it."""
    length, mark = round(value * BAR_PER_JSD), round(threshold * BAR_PER_JSD)
    cells = ["█" if at < length else " " for at in range(max(length, mark + 1))]
    cells[mark] = "│"
    return Text("".join(cells), style=color)


def _causes(week: dict[str, Any]) -> Table:
    table = Table("bin", "traffic", "cases", "suite", "JSD term", "", box=None, pad_edge=False)
    for row in sorted(week["bins"], key=lambda row: -(row["jsd_term"] or 0.0))[:SHOWN_CAUSES]:
        table.add_row(
            escape(row["label"]),
            f"{row['production_share']:.1%}",
            str(row["golden_cases"]),
            f"{row['golden_share']:.1%}",
            f"{row['jsd_term'] or 0.0:.3f}",
            "never tested"
            if row["is_uncovered"]
            else "under-tested"
            if row["golden_share"] < row["production_share"]
            else "over-tested",
        )
    return table


def _tell_flywheel(console: Console, turn: Turn) -> None:
    """What the loop does about it: breach, labels, answers, promotion, and what the gate then says."""
    n_failures, n_right = turn.verdicts.get("real_failure", 0), turn.verdicts.get("not_a_failure", 0)
    console.print(
        f"[bold]The flywheel turns.[/bold] The sensor `refresh_on_breach` fires for the week of {turn.week}: {escape(turn.reason)}.",
        soft_wrap=True,
    )
    console.print(
        f"Its refresh asks for {turn.budget} labels where each lowers JSD most. A scripted reviewer, marked as such in every "
        f"case's provenance, answers {turn.n_queued}: {n_failures} were real failures, {n_right} were fine. Promotion makes "
        f"{turn.n_promoted} of them golden cases, {turn.n_regressions} of these frozen regressions; the others repeat a case "
        "or were no failure after all. JSD of the same four weeks falls from "
        f"[bold]{turn.jsd_before:.2f}[/bold] to [bold]{turn.jsd_after:.2f}[/bold] (the plan predicted "
        f"{turn.jsd_predicted:.2f}). Published weeks stay as they were: the new cases count from "
        f"{_spoken(date.fromisoformat(turn.effective_on))}.\n",
        soft_wrap=True,
    )
    console.print("May the release ship? What the gate says:")
    console.print(_gates(turn.gates))
    console.print()


def _gates(runs: list[GateRun]) -> Table:
    table = Table("release", "suite", "pass rate", "traffic tested", "gate", "", box=None, pad_edge=False)
    colors = {"pass": "green", "fail": "red", "cannot tell": "yellow"}
    for run in runs:
        rate, covered = run.verdict.pass_rate, run.verdict.covered_share
        table.add_row(
            run.release + (" (in production)" if run is runs[0] else ""),
            f"{run.n_cases} cases of {_spoken(date.fromisoformat(run.as_of))}",
            "none" if rate is None else f"{rate:.0%}",
            "none" if covered is None else f"{covered:.0%}",
            Text(run.verdict.verdict, style=colors[run.verdict.verdict]),
            _short_reason(run),
        )
    return table


def _short_reason(run: GateRun) -> str:
    n_failing = len(run.verdict.failing_regressions)
    if n_failing:
        return f"{n_failing} frozen regressions fail"
    if run.verdict.verdict == "pass":
        return ""
    covered = run.verdict.covered_share
    is_narrow = covered is not None and covered < run.min_covered_share
    return "too much traffic is untested" if is_narrow else run.verdict.reasons[0]


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _spoken(day: date) -> str:
    return f"{day.day} {day:%B %Y}"
