"""Evidence: failures of week 9's regression become frozen cases, and the gate tells a release that still has it.

The banking stream is lived through day by day from week 9 on, in a home of its own: each night the day's traces land,
the pipeline runs and failures are captured; each working morning a scripted reviewer, who knows truth.jsonl.gz, answers
what waits, and what was confirmed is promoted that day. Then two candidates are run against the suite by the gate: one
that still fails the three intents as often as the stream's assistant does, one that does not. Both fail now and then
where no case is frozen; so does the baseline, a release from before week 9.

    python benchmarks/banking_gate.py FOLDER HOME
"""

import argparse
import gzip
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.core.calendar import monday_of
from evalflow.core.sampling import random_numbers
from evalflow.definitions import GRADING, STATIONS
from evalflow.defs.queue import queued_items
from evalflow.runner import capture, import_golden, import_reviews, instance_of, land_files, promote, walk

FIRST, LAST = date(2026, 7, 27), date(2026, 8, 23)
"""Week 9, from which the regression is there, to week 12."""
FAILS_AS_BEFORE, FAILS_NOW_AND_THEN = 0.5, 0.02
ANSWERS = "BANKING_GATE_ANSWERS"
"""The variable that names the file with the right answer of every case, for the candidates below."""
WRONG = "Sorry, something else."


def main() -> None:
    options = _options()
    folder, home = Path(options.folder), Path(options.home)
    facts = json.loads((folder / "facts.json").read_text())
    truth = {row["trace_id"]: row for row in _lines(folder / "truth.jsonl.gz")}
    began = time.monotonic()
    shutil.rmtree(home, ignore_errors=True)
    live(folder, home, truth)
    workspace = open_home(home)
    regressed = set(facts["quality_regression_from_week_9"])
    cases = workspace.ledger.as_of(workspace.calendar.now)
    print(f"{len(cases)} cases after four weeks, {time.monotonic() - began:.0f} s")
    frozen = [case for case in cases if case.is_regression and case.provenance]
    by_intent = Counter(truth[case.provenance.trace_id]["intent"] for case in frozen if case.provenance)
    merged = sum(len(case.merged_trace_ids) for case in frozen)
    print(f"frozen from production: {len(frozen)} cases, failures merged into them: {merged}; of the regression:")
    for intent in sorted(regressed):
        print(f"  {intent}: {by_intent[intent]}")
    true = sum(truth[case.provenance.trace_id]["is_failure"] for case in frozen if case.provenance)
    print(f"  by truth a failure: {true} of {len(frozen)}")
    _write_answers(home, cases, truth, regressed)
    verdicts = [gated(home, name) for name in ("with_regression", "without_regression")]
    print(json.dumps(_evalflow(home, "golden", "latency")[1], indent=1))
    holds = verdicts == ["fail", "pass"] and all(by_intent[intent] for intent in regressed)
    print("every condition holds" if holds else "MISSED")
    sys.exit(0 if holds else 1)


# -- the candidates ------------------------------------------------------------------------------------------


def before(case: dict[str, Any]) -> str:
    return _answer(case, "before", with_regression=False)


def with_regression(case: dict[str, Any]) -> str:
    return _answer(case, "candidate", with_regression=True)


def without_regression(case: dict[str, Any]) -> str:
    return _answer(case, "candidate", with_regression=False)


def _answer(case: dict[str, Any], release: str, *, with_regression: bool) -> str:
    known = json.loads(Path(os.environ[ANSWERS]).read_text())[case["case_id"]]
    chance = FAILS_AS_BEFORE if with_regression and known["is_regressed"] else FAILS_NOW_AND_THEN
    is_wrong = random_numbers(release, pl.Series([case["case_id"]]))[0] < chance
    if known["is_frozen"] and not (with_regression and known["is_regressed"]):
        is_wrong = False  # what was frozen has been mended since
    return WRONG if is_wrong else known["expected_output"]


def _write_answers(home: Path, cases: list[Any], truth: dict[str, dict[str, Any]], regressed: set[str]) -> None:
    spoken = {intent.replace("_", " ") for intent in regressed}
    known = {
        case.case_id: {
            "expected_output": case.expected_output,
            "is_frozen": case.is_regression,
            "is_regressed": truth[case.provenance.trace_id]["intent"] in regressed
            if case.provenance
            else any(f"about {intent}." in str(case.expected_output) for intent in spoken),
        }
        for case in cases
    }
    (home / "answers.json").write_text(json.dumps(known))
    os.environ[ANSWERS] = str(home / "answers.json")


# -- four weeks ----------------------------------------------------------------------------------------------


def live(folder: Path, home: Path, truth: dict[str, dict[str, Any]]) -> None:
    """Weeks 1 to 8 at once, then night by night."""
    by_day: dict[date, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("traces-*.jsonl.gz")):
        for row in _lines(file):
            by_day.setdefault(date.fromisoformat(row["timestamp"][:10]), []).append(row)
    past = [row for day, rows in by_day.items() if day < FIRST for row in rows]
    workspace = _until(open_home(home).prepare(), FIRST - timedelta(days=1))
    _land(workspace, past, "past")
    workspace = workspace.reloaded()
    with instance_of(workspace) as instance:
        import_golden(workspace, instance, str(folder / "golden.jsonl.gz"))
        walk(workspace, instance, date.min, date.max, (*STATIONS, *GRADING))
    for number in range((LAST - FIRST).days + 1):
        day = FIRST + timedelta(days=number)
        workspace = _until(workspace, day)
        _land(workspace, by_day[day], str(day))
        with instance_of(workspace) as instance:
            walk(workspace, instance, monday_of(day) - timedelta(days=7), day, (*STATIONS, *GRADING))
            capture(workspace, instance, monday_of(day))
            if workspace.calendar.now.weekday() < 5:
                import_reviews(workspace, instance, str(_answered(workspace, truth)))
                done = promote(workspace, instance, None)
                print(f"{workspace.calendar.now}: {done['promoted']} promoted, {done['merged']} merged", flush=True)


def _until(home: Home, day: date) -> Home:
    """The home as it stands in the night after ``day``."""
    write_setting(home.path, "traffic_end", day)
    return home.reloaded()


def _land(home: Home, rows: list[dict[str, Any]], name: str) -> None:
    path = home.path / f"landed-{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with instance_of(home) as instance:
        land_files(home, instance, [str(path)])
    path.unlink()


def _answered(home: Home, truth: dict[str, dict[str, Any]]) -> Path:
    rows = []
    for item in queued_items(home):
        if item.is_waiting:
            known = truth[item.trace_id]
            verdict = "real_failure" if known["is_failure"] else "not_a_failure"
            rows.append({"trace_id": item.trace_id, "verdict": verdict, "expected_output": known["expected_output"]})
    path = home.path / "answers.jsonl"
    told = {"severity": "high", "reviewer": "truth", "reviewer_kind": "script"}
    path.write_text("".join(json.dumps(row | told) + "\n" for row in rows))
    return path


# -- the gate ------------------------------------------------------------------------------------------------


def gated(home: Path, name: str) -> str:
    """The gate's verdict on a candidate, against the release from before; both are really run."""
    baseline = home / "before.jsonl"
    if not baseline.exists():
        _evalflow(home, "gate", *_run("before"), "--save", str(baseline))
    code, told = _evalflow(home, "gate", *_run(name), "--baseline", str(baseline))
    paired = told["paired"]
    print(
        f"{name}: {told['verdict']} (exit code {code}); frozen regressions failing: {len(told['failing_regressions'])} of "
        f"{told['n_regressions']}; sampled tier: {paired['n_regressions']} regressed, {paired['n_fixes']} fixed of "
        f"{paired['n_pairs']}, p {paired['p_value']:.3f}, detectable drop {paired['detectable_drop']:.3f}"
    )
    for reason in told["reasons"]:
        print(f"    {reason}")
    return str(told["verdict"])


def _run(name: str) -> list[str]:
    return ["--run", "--system", f"python:banking_gate:{name}", "--scorer", "exact"]


def _evalflow(home: Path, *arguments: str) -> tuple[int, Any]:
    import subprocess

    command = [str(Path(sys.executable).with_name("evalflow")), *arguments, "--home", str(home), "--json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    if not done.stdout:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.returncode, json.loads(done.stdout)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        yield from map(json.loads, lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("home", help="made anew")
    return parser.parse_args()


if __name__ == "__main__":
    main()
