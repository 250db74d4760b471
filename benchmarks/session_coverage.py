"""Evidence: sessions, their types, transitions and compounding, in a home that exists or of published agent sessions.

HOME: the newest measured week of an EVALFLOW_HOME. --tau FOLDER: tau-bench's airline sessions as traffic, its few-shot
conversations as the suite. --mint FOLDER MODEL OTHER: MINT's sessions of one model as traffic, every tenth of another's
as the suite. Times are made up by the rule in evalflow_tests/agent_traces.py.

    python benchmarks/session_coverage.py HOME
    python benchmarks/session_coverage.py --tau FOLDER
    python benchmarks/session_coverage.py --mint FOLDER gpt-3.5-turbo-0613 gpt-4-0613
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.definitions import STATIONS
from evalflow.defs.sessions import (
    sessions_of_week,
    steps_as_markdown,
    transitions_as_markdown,
    types_as_markdown,
)
from evalflow.defs.slices import slices_of_week
from evalflow.defs.suite import newest_measured_week
from evalflow.runner import import_golden, instance_of, land_files, walk
from evalflow_tests.agent_traces import DAYS, FIRST, mint_cases, mint_rows, read_jsonl, tau_cases, tau_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, nargs="?", help="an EVALFLOW_HOME whose weeks are computed")
    parser.add_argument("--tau", type=Path, help="tau-bench's folder")
    parser.add_argument("--mint", nargs=3, help="MINT's folder, the traffic's model, the suite's model")
    options = parser.parse_args()
    if options.home:
        report(open_home(options.home))
    if options.tau:
        few_shots = read_jsonl(options.tau / "MockAirlineDomainEnv-few_shot.jsonl")
        sessions = json.loads((options.tau / "gpt-4o-airline.json").read_text())
        report_of(tau_rows(sessions), tau_cases(few_shots, "few-shot"))
    if options.mint:
        folder, model, other = options.mint
        cases = mint_cases(mint_records(Path(folder) / other)[::10], other)
        report_of(mint_rows(mint_records(Path(folder) / model)), cases)


def mint_records(folder: Path) -> list[dict[str, Any]]:
    return [record for path in sorted(folder.rglob("results.jsonl")) for record in read_jsonl(path)]


def report_of(rows: Iterable[dict[str, Any]], cases: Iterable[dict[str, Any]]) -> None:
    """The report of traffic and suite, in a home that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        home = open_home(Path(folder) / "home").prepare()
        write_setting(home.path, "traffic_end", FIRST.date() + timedelta(days=DAYS - 1))
        traces = _written(Path(folder) / "traces.jsonl", rows)
        suite = _written(Path(folder) / "golden.jsonl", cases)
        with instance_of(home.reloaded()) as instance:
            land_files(home.reloaded(), instance, [str(traces)])
            import_golden(home.reloaded(), instance, str(suite))
            walk(home.reloaded(), instance, date.min, date.max, STATIONS)
        report(home.reloaded())


def _written(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def report(home: Home) -> None:
    week = newest_measured_week(home, home.calendar.last_day)
    sessions_of_week(home, week)  # loads what only a first call loads
    begin = time.perf_counter()
    found = sessions_of_week(home, week)
    middle = time.perf_counter()
    slices = slices_of_week(home, week)
    end = time.perf_counter()
    if found is None:
        raise SystemExit(f"The week of {week} has no traces.")
    moved, types, steps = found.transitions, found.types, found.compounding
    print(f"week of {week}, {found.weighting}; sessions in {middle - begin:.2f} s, slices in {end - middle:.2f} s")
    print(f"{found.n_sampled} whole sessions sampled, {found.n_cut} in part, {found.n_alone} traces without a session")
    print(f"\n{moved.n_transitions} transitions (worth {moved.m_eff:.0f}), {moved.n_golden} golden ones, ", end="")
    print(
        f"{moved.n_gaps} gaps; raw JSD {moved.jsd_raw}, random suites {moved.floor_mean} (95 %: {moved.floor_p95}), ",
        end="",
    )
    print(f"covered share {moved.covered_share}; {moved.reason or ''}\n")
    print(transitions_as_markdown(moved, found.labels))
    print(
        f"\nsilhouette {types.silhouette}, raw JSD {types.jsd_raw}; {types.reason or ''} cases by {types.case_features}\n"
    )
    print(types_as_markdown(types))
    print(f"\nper-step success {steps.step_success}, {steps.n_steps} steps, {steps.n_unscored} sessions unscored\n")
    print(steps_as_markdown(steps))
    print(
        "\n| dimension | value | traffic | traces | worth | cases | named | raw JSD |\n|---|---|---|---|---|---|---|---|"
    )
    for own, _ in slices:
        print(
            f"| {own.dimension} | {own.value} | {own.slice_share:.3f} | {own.n_sampled} | {own.m_eff:.0f} | {own.n_golden} | "
            f"{own.n_golden_named} | {own.jsd_raw} |"
        )


if __name__ == "__main__":
    main()
