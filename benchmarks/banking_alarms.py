"""Evidence: which alarm fires in which week of the banking stream and why, and whether it finds the suite's true holes.

    python benchmarks/banking_alarms.py FOLDER HOME...

FOLDER is the banking stream (queries of Banking77, PolyAI, CC BY 4.0; the stream around them is simulated), HOME what
`banking_coverage.py FOLDER --home ...` has left. One old intent in eight never had a case: the intents that `facts.json`
lists as old and not as golden are the truth.
"""

import argparse
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.tables import BIN_ASSIGNMENTS
from evalflow.core.coverage import EDGE_CASES, NOVEL
from evalflow.defs.coverage import WeekCoverage, measure_week

POOLS = (NOVEL, EDGE_CASES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("homes", type=Path, nargs="+")
    options = parser.parse_args()
    facts = json.loads((options.folder / "facts.json").read_text())["intents"]
    truth = pl.read_ndjson(gzip.decompress((options.folder / "truth.jsonl.gz").read_bytes())).select(
        "trace_id", "intent"
    )
    for path in options.homes:
        home = open_home(path)
        weeks = [measure_week(home, week) for week in home.calendar.weeks()]
        print(
            f"\n## {path.name}\n\n| week | JSD | raw | floor, 95th | p | n bins | novel, own "
            "week | calibration | uncovered (p99) | alarms |\n|---|---|---|---|---|---|---|---|---|---|"
        )
        for number, week in enumerate(weeks, start=1):
            _print_week(number, week)
        for week in weeks[-1:]:
            for alarm in week.coverage.alarms:
                print(f"- {week.week}: {alarm.text}")
        untested = [name for name in facts["old"] if name not in facts["in_golden"]]
        for number in (6, 12):
            _print_holes(home, number, weeks[number - 1], untested, set(facts["in_golden"]), truth)


def _print_week(number: int, week: WeekCoverage) -> None:
    c = week.coverage
    kinds = Counter(alarm.kind if alarm.reason is None else f"{alarm.kind} ({alarm.reason})" for alarm in c.alarms)
    alarms = ", ".join(f"{n} {kind}" if n > 1 else kind for kind, n in kinds.items()) or "none"
    before = "" if c.jsd_previous is None else f" ({c.jsd_previous:.3f} by the one before, {week.n_bins_previous} bins)"
    novel = (
        ""
        if c.week_novel_share is None
        else f"{c.week_novel_share:.3f} [{c.week_novel_share_low:.3f}, {c.week_novel_share_high:.3f}]"
    )
    calibration = "in sample" if c.novel_calibration is None else f"{c.novel_calibration:.3f}"
    print(
        f"| {number} | {c.jsd:.3f} [{c.jsd_low:.3f}, {c.jsd_high:.3f}]{before} | {c.jsd_raw:.3f} "
        f"| {c.floor_mean:.3f}, {c.floor_p95:.3f} | {c.jsd_p_value:.1g} | "
        f"{len(week.taxonomy.bins)} | {novel} | {calibration} | {c.uncovered_share:.3f} ({c.uncovered_floor_p99:.3f}) "
        f"| {alarms} |"
    )


def _print_holes(
    home: Home, number: int, week: WeekCoverage, untested: list[str], tested: set[str], truth: pl.DataFrame
) -> None:
    """Recall over intents, by where each has its largest share; precision over bins, by the intent that fills each."""
    production = home.lake.read(BIN_ASSIGNMENTS, [week.week]).filter(pl.col("side") == "production")
    mass = (
        production.join(truth, left_on="item_id", right_on="trace_id")
        .group_by("intent", "bin")
        .agg(pl.col("weight").sum())
        .sort("weight", "intent", "bin", descending=[True, False, False])
    )
    home_of = dict(mass.unique("intent", keep="first", maintain_order=True).select("intent", "bin").iter_rows())
    filled_by = dict(mass.unique("bin", keep="first", maintain_order=True).select("bin", "intent").iter_rows())
    share = dict(mass.group_by("intent").agg(pl.col("weight").sum()).iter_rows())
    rows = {row.bin: row for row in week.coverage.bins}
    listed = {name for name, row in rows.items() if row.is_blind_spot or row.is_uncovered}
    found = [intent for intent in untested if home_of.get(intent) in listed]
    single = sorted(name for name in listed if name not in POOLS)
    true = [name for name in single if filled_by[name] not in tested]
    print(
        f"\nWeek {number}: {len(untested)} old intents never had a case ({sum(share.get(name, 0) for name in untested):.1%} "
        "of traffic)."
    )
    print(
        f"Recall: {len(found)} of {len(untested)} have their largest share in a listed bin; "
        f"precision: {len(true)} of {len(single)} listed bins (pools aside) are filled by "
        "an intent without a case.\n"
    )
    print("| intent without a case | share | largest part lies in | listed |\n|---|---|---|---|")
    for intent in untested:
        where = home_of.get(intent, "none")
        row: Any = rows.get(where)
        state = "no" if where not in listed else "blind spot" if row.is_blind_spot else "uncovered"
        print(f"| {intent} | {share.get(intent, 0):.1%} | {where}, {row.golden_cases if row else 0} cases | {state} |")
    for name in single:
        if name not in true:
            print(
                f"- listed though tested: {name} ({rows[name].label}), {filled_by[name]}, "
                f"{rows[name].production_share:.1%} of traffic, {rows[name].golden_cases} "
                "cases"
            )


if __name__ == "__main__":
    main()
