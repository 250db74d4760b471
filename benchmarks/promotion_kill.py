"""Evidence: `kill -9` in the middle of `evalflow promote` loses nothing and promotes nothing twice.

HOME has a filled queue (else `evalflow refresh --budget 80` fills it). In a copy a script answers every waiting trace;
an undisturbed promotion gives the suite that has to come out. Then, time after time, a fresh copy of the answered home
is promoted and killed at a seeded random moment: every other kill falls anywhere in the command's run time, every
fourth after it has taken hold of the ledger, every fourth at the write itself. After each kill the ledger must be
whole and hold all of the promotion or nothing of it; after `evalflow promote` once more the suite, the lake's table
and Dagster's view must be the undisturbed ones, and no Dagster run may be left as started. HOME itself is only read.

    python benchmarks/promotion_kill.py HOME [--times 100] [--seed 1] [--budget 80]
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.tables import GOLDEN_LEDGER
from evalflow.defs.partitions import partitions_of

FILES, LINKED, COPIED = (
    ("evalflow.toml", "dagster.yaml"),
    ("lake", "ledger", "reviews", "cache/embeddings"),
    ("history", "schedules", "storage"),
)
"""What a promotion needs. Linked are files that are never written in place, copied is Dagster's own storage."""
AT_WRITE_S = 0.005
"""A kill at the write falls up to this long after a file, temporary or not, has appeared in the ledger's folder."""


def main() -> None:
    options = _options()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="evalflow-promotion-") as folder:
        work = Path(folder)
        answered = work / "answered"
        _copy(Path(options.home), answered, link=False)
        _answer_all(answered, options.budget)
        # The first promotion may embed new texts; its vectors are shared, so that every later one takes as long.
        warm, undisturbed = work / "warm", work / "undisturbed"
        _copy(answered, warm)
        _evalflow(warm, "promote")
        shutil.rmtree(answered / "cache/embeddings", ignore_errors=True)
        shutil.copytree(warm / "cache/embeddings", answered / "cache/embeddings")
        _copy(answered, undisturbed)
        began, clock = time.time(), time.monotonic()
        report = _evalflow(undisturbed, "promote")
        seconds = time.monotonic() - clock
        expected, before = open_home(undisturbed), set(open_home(answered).ledger.newest())
        held = (undisturbed / "ledger.lock").stat().st_mtime - began
        written = max((path.stat().st_mtime for path in _promotions(undisturbed)), default=0.0) - began
        print(
            f"undisturbed: {report['promoted']} cases, {report['regressions']} regressions, {report['merged']} merged into, "
            f"{report['dismissed']} dismissed, {report['golden_cases']} cases in all; {seconds:.1f} s, the ledger is held from "
            f"{held:.1f} s on and written at {written:.1f} s",
            flush=True,
        )
        if not report["promoted"] or _suite(expected) != _suite(open_home(warm)):
            raise SystemExit("two undisturbed promotions must give the same suite, and some case")
        found: Counter[str] = Counter()
        for number in range(1, options.times + 1):
            home = work / f"killed-{number}"
            _copy(answered, home)
            since = ("start", "hold", "start", "write")[number % 4 - 1]
            after = chance.uniform(0, {"start": seconds, "hold": seconds - held, "write": AT_WRITE_S}[since])
            was_running = _promote_and_kill(home, since, after)
            left = _left_by_the_kill(home, before, expected)
            wrong = [*left.wrong, *_wrong_after_all(home, expected)]
            found.update(
                {
                    "kills": 1,
                    "had_ended": not was_running,
                    "whole": left.is_whole,
                    f"ledger {left.ledger}": 1,
                    f"run {left.run}": 1,
                    "leftovers": left.n_temporary,
                    "failed": bool(wrong),
                }
            )
            print(
                f"{'FAIL' if wrong else 'ok  '} {number:>3} killed {after:5.3f} s after the {since}{'' if was_running else ' (had ended)'}: "
                f"ledger {left.ledger}, {left.n_temporary} temporary files, Dagster run {left.run}"
                f"{''.join(f'; {sentence}' for sentence in wrong)}",
                flush=True,
            )
            shutil.rmtree(home)
    print(
        f"{found['kills']} kills ({found['had_ended']} after the end): the ledger was whole {found['whole']} times, held "
        f"nothing of the promotion {found['ledger nothing']} times, all of it {found['ledger all']} times, a part "
        f"{found['ledger part']} times; {found['leftovers']} temporary files left, none of them a case\n"
        f"the killed run in Dagster: {', '.join(f'{n} {name[4:]}' for name, n in sorted(found.items()) if name[:4] == 'run ')}\n"
        f"{found['kills'] - found['failed']} of {found['kills']} ended in the undisturbed suite after one more promotion"
    )
    sys.exit(1 if found["failed"] else 0)


class Left(msgspec.Struct):
    """What a kill has left behind, before anything else touches the home."""

    is_whole: bool
    ledger: str
    run: str
    n_temporary: int
    wrong: list[str]


def _left_by_the_kill(path: Path, before: set[str], expected: Home) -> Left:
    home, wrong, ledger = open_home(path), [], "unreadable"
    promoted = {case_id for case_id in expected.ledger.newest() if case_id not in before}
    try:
        held = {version.case_id for _, version in home.ledger.entries()} - before
        ledger = "nothing" if not held else "all" if held == promoted else "part"
        if ledger == "part":
            wrong.append(f"the kill left {len(held)} of {len(promoted)} cases")
    except Exception as error:  # whatever it is, it is the finding
        wrong.append(f"the ledger cannot be read: {error}")
    with dg.DagsterInstance.from_config(str(path)) as instance:
        runs = [
            run for run in instance.get_runs() if "golden_set" in {key.path[0] for key in run.asset_selection or ()}
        ]
    status = runs[0].status.value if runs else "not there yet"
    return Left(ledger != "unreadable", ledger, status, len(list((path / "ledger").glob(".*.tmp"))), wrong)


def _wrong_after_all(path: Path, expected: Home) -> list[str]:
    """Promote once more, to the end; sentences about what is not as in the undisturbed home."""
    home, wrong = open_home(path), []
    _evalflow(path, "promote")
    entries = [version for _, version in home.ledger.entries()]
    twice = [key for key, n in Counter((case.case_id, case.version) for case in entries).items() if n > 1]
    if twice:
        wrong.append(f"{twice[0]} stands in the ledger twice")
    traces = Counter(trace for case in home.ledger.newest().values() for trace in case.trace_ids)
    if shared := [trace for trace, n in traces.items() if n > 1]:
        wrong.append(f"trace {shared[0]} is in two cases")
    if _suite(home) != _suite(expected):
        wrong.append("the suite is another one")
    if home.ledger.journal.names() != expected.ledger.journal.names():
        wrong.append("the ledger has other files")
    if sorted(home.lake.keys(GOLDEN_LEDGER)) != sorted(expected.lake.keys(GOLDEN_LEDGER)):
        wrong.append("the lake's table golden_ledger is not up to date")
    with dg.DagsterInstance.from_config(str(path)) as instance:
        open_runs = [
            dg.DagsterRunStatus.NOT_STARTED,
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
            dg.DagsterRunStatus.QUEUED,
        ]
        if left := instance.get_runs(dg.RunsFilter(statuses=open_runs)):
            wrong.append(f"{len(left)} runs left {left[0].status.value}")
        days = {case.effective_on for case in entries if case.provenance}
        known = set(instance.get_dynamic_partitions(str(partitions_of(home.calendar).effective_on.name)))
        reported = instance.get_materialized_partitions(dg.AssetKey("golden_ledger"))
        if not days <= known or not days <= set(reported):
            wrong.append("Dagster was not told of the new day of golden_ledger")
    return wrong


def _promote_and_kill(home: Path, since: str, after: float) -> bool:
    """Kill the command ``after`` seconds from its start, from its hold of the ledger, or from the first new file there.

    Returns whether it was still running then.
    """
    files = set((home / "ledger").iterdir())
    has_begun = {
        "start": lambda: True,
        "hold": (home / "ledger.lock").exists,
        "write": lambda: set((home / "ledger").iterdir()) != files,
    }[since]
    process = subprocess.Popen(
        _command(home, "promote"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not has_begun() and process.poll() is None:
        time.sleep(0 if since == "write" and (home / "ledger.lock").exists() else 0.005)
    time.sleep(after)
    was_running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return was_running


def _answer_all(home: Path, budget: int) -> None:
    if not any(item["state"] == "open" for item in _evalflow(home, "triage", "list")):
        _evalflow(home, "refresh", "--budget", str(budget))
    rows = _evalflow(home, "triage", "export")
    for number, row in enumerate(rows):
        row |= {
            "verdict": ("not_a_failure", "real_failure")[number % 2],
            "expected_output": f"What the assistant should have said to request {number}.",
            "severity": "medium",
            "reviewer": "script",
            "reviewer_kind": "script",
        }
    answers = home / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = _evalflow(home, "triage", "import", str(answers))
    by_source = Counter(row["source"] for row in rows)
    print(
        f"{len(rows)} traces waiting ({', '.join(f'{n} {name}' for name, n in sorted(by_source.items()))}), "
        f"{done['added']} answered, {done['ready']} ready to be promoted",
        flush=True,
    )


def _suite(home: Home) -> dict[str, CaseVersion]:
    """The suite by case_id; ``created_at`` is the clock's in a home that is open, and left out."""
    return {
        case_id: msgspec.structs.replace(case, created_at=None if case.provenance else case.created_at)
        for case_id, case in home.ledger.newest().items()
    }


def _promotions(home: Path) -> list[Path]:
    return list((home / "ledger").glob("promotion-*.jsonl"))


def _copy(source: Path, home: Path, link: bool = True) -> None:
    """A home with what a promotion needs. ``link``: files that are never written in place are not copied."""
    home.mkdir(parents=True)
    for name in FILES:
        if (source / name).exists():
            shutil.copy(source / name, home / name)
    for name in (*LINKED, *(COPIED if link else ())):  # the given home's own history stays where it is
        if (source / name).exists():
            copy = os.link if link and name in LINKED else shutil.copy2
            shutil.copytree(source / name, home / name, copy_function=copy)


def _evalflow(home: Path, *arguments: str) -> Any:
    """The JSON document of one command, which must end well."""
    done = subprocess.run([*_command(home, *arguments), "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"evalflow {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _command(home: Path, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("evalflow")), *arguments, "--home", str(home)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", help="a home whose traces are measured; it is only read")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--budget", type=int, default=80, help="labels, where the queue is empty")
    return parser.parse_args()


if __name__ == "__main__":
    main()
