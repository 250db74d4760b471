"""Evidence: `kill -9` in every station, then `evalflow run`, gives the lake that an undisturbed run gives.

For each station in turn, a home in which the earlier stations are done is started with `evalflow run`, killed at a
seeded random moment of that station, and run again. Lake and ledger must then equal the undisturbed home's byte for
byte, and no Dagster run may be left as started.

    python benchmarks/kill_loop.py FOLDER --start 2026-06-01 --end 2026-08-23 [--seed 1]
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from ui_backfill import compare

STATIONS = {
    "trace_files": ["trace_files", "landing", "landing_feedback", "quarantine"],
    "raw_traces": ["raw_traces"],
    "feedback": ["feedback"],
    "trace_signals": ["trace_signals"],
    "stratified_samples": ["stratified_samples"],
    "embeddings": ["embeddings"],
    "clusters": ["clusters", "taxonomy_texts"],
    "bin_assignments": ["bin_assignments"],
    "coverage_metrics": ["coverage_metrics"],
    "judge_grades": ["judge_grades"],
    "quality_metrics": ["quality_metrics"],
    "marts": [],
}


def main() -> None:
    options = _options()
    chance = random.Random(options.seed)
    work = Path(tempfile.mkdtemp(prefix="evalflow-kill-"))
    undisturbed = work / "undisturbed"
    _prepare(undisturbed, options)
    print("undisturbed run ...", flush=True)
    duration = _run_timed(undisturbed)
    failures = 0
    for number, station in enumerate(STATIONS):
        home = work / f"killed-{number}-{station}"
        _copy_up_to(undisturbed, home, station)
        after = chance.uniform(0, max(duration.get(station, 1.0), 0.2))
        was_killed = _run_and_kill(home, station, after)
        again = subprocess.run([_script(), "run", "--home", str(home)], capture_output=True, text=True, check=False)
        same, different = compare(undisturbed / "lake", home / "lake")
        ledger_same, ledger_different = _compare_ledgers(undisturbed, home)
        started = _runs_left_started(home)
        ok = again.returncode == 0 and not different and not ledger_different and not started
        failures += not ok
        print(
            f"{'ok  ' if ok else 'FAIL'} {station:<20} killed {after:5.2f} s in{'' if was_killed else ' (had ended)'}: "
            f"{same} lake files equal, {len(different)} differ, {ledger_same} ledger files equal, {started} runs left started",
            flush=True,
        )
        if again.returncode:
            print(again.stderr[-1500:])
        shutil.rmtree(home)
    print(f"{len(STATIONS) - failures} of {len(STATIONS)} kills left no trace")
    sys.exit(1 if failures else 0)


def _run_timed(home: Path) -> dict[str, float]:
    """Run to the end; seconds per station, from the lines that the command prints."""
    process = subprocess.Popen(
        [_script(), "run", "--home", str(home)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    marks: list[tuple[str, float]] = []
    for line in process.stderr or []:
        marks.append((line.split(":")[0], time.monotonic()))
    if process.wait():
        raise SystemExit("the undisturbed run failed")
    marks.append(("end", time.monotonic()))
    seconds: dict[str, float] = {}
    for (name, at), (_, until) in pairwise(marks):
        seconds[name] = seconds.get(name, 0.0) + until - at
    return seconds


def _run_and_kill(home: Path, station: str, after: float) -> bool:
    process = subprocess.Popen(
        [_script(), "run", "--home", str(home)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    for line in process.stderr or []:
        if line.startswith(f"{station}:"):
            break
    time.sleep(after)
    was_running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return was_running


def _copy_up_to(source: Path, home: Path, station: str) -> None:
    """A home in which everything before ``station`` is done and nothing from it on."""
    names = list(STATIONS)
    later = [table for name in names[names.index(station) :] for table in STATIONS[name]]
    home.mkdir(parents=True)
    shutil.copy(source / "evalflow.toml", home)
    shutil.copytree(source / "ledger", home / "ledger")
    shutil.copytree(source / "lake", home / "lake", ignore=shutil.ignore_patterns(*later))
    if station != "embeddings":
        shutil.copytree(source / "cache", home / "cache")


def _compare_ledgers(one: Path, other: Path) -> tuple[int, int]:
    files = {path.name for root in (one, other) for path in (root / "ledger").iterdir()}
    equal = sum(
        (one / "ledger" / name).exists()
        and (other / "ledger" / name).exists()
        and (one / "ledger" / name).read_bytes() == (other / "ledger" / name).read_bytes()
        for name in files
    )
    return equal, len(files) - equal


def _runs_left_started(home: Path) -> int:
    import dagster as dg

    with dg.DagsterInstance.from_config(str(home)) as instance:
        return len(
            instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING]))
        )


def _prepare(home: Path, options: argparse.Namespace) -> None:
    home.mkdir(parents=True)
    sources = f'[sources]\ntraces = ["{Path(options.folder).absolute()}/traces-*.jsonl.gz"]\n'
    (home / "evalflow.toml").write_text(f"traffic_start = {options.start}\ntraffic_end = {options.end}\n{sources}")
    if options.cache:
        shutil.copytree(options.cache, home / "cache")
    golden = ["golden", "import", f"{options.folder}/{options.golden}", "--home", str(home)]
    subprocess.run([_script(), *golden], check=True, stdout=subprocess.DEVNULL)


def _script() -> str:
    return str(Path(sys.executable).with_name("evalflow"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="holds traces-*.jsonl.gz and the golden set")
    parser.add_argument("--golden", default="golden.jsonl.gz")
    parser.add_argument("--start", required=True)
    parser.add_argument("--end", required=True)
    parser.add_argument("--cache", help="an embedding cache to start from (home/cache of an earlier run)")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
