"""Evidence: the sensor refresh_on_breach starts one refresh per breach, whatever is backfilled, killed and restarted.

HOME is a closed home whose last closed week is in breach: the demo's, or one that banking_coverage.py has left. In a
copy of it without plans, queue, answers, promotions and Dagster history `evalflow ui` is started, and its daemon does
the rest: the sensor must fire once for the newest closed week and say why; a backfill of all earlier weeks, some of
them in breach too, by the mutation that the UI's button sends must start nothing more; nor may `kill -9` of the daemon
between two ticks and a restart, after which the sensor must go on. HOME itself is only read. It takes about ten
minutes, most of it waiting for the sensor, which ticks once a minute.

    python benchmarks/refresh_sensor.py HOME [--ticks 2]
"""

import argparse
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import psutil
from ui_backfill import UserInterface

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.tables import COVERAGE_METRICS
from evalflow.defs.automation import RANGE_END, RANGE_START, REASON
from evalflow.defs.plan import newest_closed_week
from evalflow.defs.queue import queued_items

KEPT = ("evalflow.toml", "lake", "ledger", "cache")
"""Copied of the given home; everything else in it is Dagster's, or made again."""
LEFT_OUT = ("refresh_plan", "triage_queue", "retirement_candidates", "reviews", "promotion-*", "file=promotion-*")
SENSOR = """
query Sensor($selector: SensorSelector!) {
  sensorOrError(sensorSelector: $selector) {
    __typename
    ... on Sensor { sensorState { status ticks(limit: 200) {
      tickId status timestamp endTimestamp runKeys runIds skipReason error { message }
    } } }
  }
}
"""
RUNS = "query { runsOrError { ... on Runs { results { runId jobName status tags { key value } } } } }"
SHOWN_TAGS = ("dagster/sensor_name", "dagster/run_key", "dagster/partition", RANGE_START, RANGE_END)
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
LIMIT_S = 600.0
PHASES = ("a fresh instance", "all earlier weeks backfilled", "the daemon killed, the UI started again")


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="evalflow-sensor-") as folder:
        home = _copy(Path(options.home), Path(folder) / "home")
        week = newest_closed_week(home)
        if not home.calendar.is_closed or week is None or not _in_breach(home, week):
            raise SystemExit(f"{options.home} is not a closed home whose newest closed week, {week}, is in breach")
        earlier = [each for each in home.calendar.weeks() if each < week]
        print(
            f"newest closed week {week}, in breach; of the {len(earlier)} weeks before "
            f"{sum(_in_breach(home, each) for each in earlier)} are in breach themselves",
            flush=True,
        )
        evidence = Evidence(home, week, earlier, options.ticks)
        with Watched(home.path, _free_port()) as ui:
            evidence.first_breach(ui)
            evidence.backfill(ui)
            evidence.kill_daemon(ui)
        with Watched(home.path, _free_port()) as ui:
            evidence.after_restart(ui)
    evidence.conclude()


class Watched(UserInterface):
    """A running `evalflow ui` whose sensor is watched; nothing of it is left when the block ends, even in error."""

    def __enter__(self) -> "Watched":
        self.tree: set[psutil.Process] = set()
        try:
            super().__enter__()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remember()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        psutil.wait_procs(self.tree, timeout=30)
        for process in self.tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()  # by psutil, which looks whether the number is still this very process
        self.process.wait()

    def remember(self) -> None:
        """Note every process of this UI: runs and code servers may outlive the one that started them."""
        with suppress(psutil.NoSuchProcess):
            started = psutil.Process(self.process.pid)
            self.tree |= {started, *started.children(recursive=True)}

    def daemon(self) -> psutil.Process | None:
        self.remember()
        for process in self.tree:
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if process.is_running() and "dagster._daemon" in process.cmdline():
                    return process
        return None

    def ticks(self) -> list[dict[str, Any]]:
        """The sensor's finished ticks, the oldest first."""
        self.remember()
        selector = {
            "repositoryName": self.node["name"],
            "repositoryLocationName": self.node["location"]["name"],
            "sensorName": "refresh_on_breach",
        }
        found = self.ask(SENSOR, {"selector": selector})["sensorOrError"]
        if found["__typename"] != "Sensor" or found["sensorState"]["status"] != "RUNNING":
            raise SystemExit(f"the sensor refresh_on_breach is not running: {found}")
        finished = [tick for tick in found["sensorState"]["ticks"] if tick["status"] != "STARTED"]
        return sorted(finished, key=lambda tick: float(tick["timestamp"]))

    def runs(self) -> list[dict[str, Any]]:
        results = self.ask(RUNS)["runsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in results]

    def refreshes(self) -> list[dict[str, Any]]:
        return [
            run
            for run in self.runs()
            if run["jobName"] == "refresh" or run["tags"].get("dagster/run_key", "").startswith("refresh:")
        ]

    def wait_for(self, what: str, is_there: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            if found := is_there():
                return found
            if self.process.poll() is not None:
                raise SystemExit(f"the UI ended while waiting for {what}; see {self.home / 'ui.log'}")
            time.sleep(2)
        raise SystemExit(f"no {what} in {LIMIT_S:.0f} s")

    def wait_for_ticks(self, number: int, since: float) -> None:
        """Wait until the sensor has ticked so often after ``since``, a time of the clock."""
        self.wait_for(
            f"{number} ticks of the sensor", lambda: sum(t["timestamp"] > since for t in self.ticks()) >= number
        )


class Evidence:
    """Goes through the phases, notes what is missed, prints the table."""

    def __init__(self, home: Home, week: date, earlier: list[date], n_ticks: int) -> None:
        self.home, self.week, self.earlier, self.n_ticks = home, week, earlier, n_ticks
        self.missed: list[str] = []
        self.table: list[tuple[str, int, int, int, int]] = []
        self.seen: set[str] = set()

    def first_breach(self, ui: Watched) -> None:
        run = ui.wait_for("refresh run", ui.refreshes)[0]
        ui.wait_for("end of the refresh run", lambda: ui.refreshes()[-1]["status"] in ENDED)
        ui.wait_for_ticks(self.n_ticks, time.time())
        run = next(each for each in ui.refreshes() if each["runId"] == run["runId"])
        tags = run["tags"]
        print(f"refresh run {run['runId'][:8]}: {run['status']}")
        for name, value in sorted(tags.items()):
            if name.startswith("evalflow/") or name in SHOWN_TAGS:
                print(f"  {name}: {value}")
        items = queued_items(self.home)
        sources = Counter(item.row["source"] for item in items)
        print(
            f"  {len(items)} traces queued, all of the week of {self.week}: {', '.join(f'{n} {s}' for s, n in sorted(sources.items()))}"
        )
        self._expect(run["status"] == "SUCCESS", f"the refresh ended as {run['status']}")
        weeks = {tags[name] for name in ("dagster/partition", RANGE_START, RANGE_END) if name in tags}
        self._expect(weeks == {str(self.week)}, f"the refresh is of {weeks or 'no week'}")
        self._expect(tags.get("dagster/run_key") == f"refresh:{self.week}", "the refresh has another run key")
        self._expect(bool(tags.get(REASON)), "the refresh does not say why")
        self._expect(bool(items) and {item.week for item in items} == {self.week}, "the queue is not the week's")
        self._note(PHASES[0], ui)

    def backfill(self, ui: Watched) -> None:
        keys = [str(week) for week in self.earlier]
        files = [self.home.path / "lake" / "coverage_metrics" / f"week={key}" / "part.parquet" for key in keys]
        published = [file.read_bytes() for file in files]
        for file in files:
            shutil.rmtree(file.parent)
        started = time.monotonic()
        result = ui.wait(ui.launch(["coverage_metrics"], keys))
        same = sum(file.exists() and file.read_bytes() == old for file, old in zip(files, published, strict=True))
        print(
            f"backfill of {len(keys)} deleted weeks of coverage_metrics: {result['status']}, {len(result['runs'])} runs, "
            f"{time.monotonic() - started:.0f} s; {same} of {len(files)} files byte-identical to the deleted ones",
            flush=True,
        )
        self._expect(result["status"] == "COMPLETED_SUCCESS", f"the backfill ended as {result['status']}")
        self._expect(all(file.exists() for file in files), "the backfill has not made every week")
        ui.wait_for_ticks(self.n_ticks, time.time())
        self._note(PHASES[1], ui)

    def kill_daemon(self, ui: Watched) -> None:
        ui.wait_for_ticks(1, time.time())
        time.sleep(10)
        last = float(ui.ticks()[-1]["timestamp"])
        daemon = ui.daemon()
        if daemon is None:
            raise SystemExit("the daemon's process is not there")
        daemon.kill()
        print(f"kill -9 of the daemon {time.time() - last:.0f} s after a tick", end="; ", flush=True)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and ui.process.poll() is None:
            time.sleep(0.5)
        ended = ui.process.poll() is not None
        print(
            "`evalflow ui` ended by itself" if ended else "`evalflow ui` went on without it and was ended", flush=True
        )

    def after_restart(self, ui: Watched) -> None:
        ui.wait_for_ticks(self.n_ticks, time.time())
        self._note(PHASES[2], ui)
        others = Counter(run["jobName"] for run in ui.runs())
        print(f"all runs by job: {', '.join(f'{n} {name}' for name, n in sorted(others.items()))}")

    def conclude(self) -> None:
        print(f"{'after':<42} {'ticks':>6} {'requests':>9} {'failed':>7} {'refresh runs in all':>20}")
        for phase, n_ticks, n_requests, n_failed, n_runs in self.table:
            print(f"{phase:<42} {n_ticks:>6} {n_requests:>9} {n_failed:>7} {n_runs:>20}")
        for sentence in self.missed:
            print(f"MISSED: {sentence}")
        print("every condition holds" if not self.missed else f"{len(self.missed)} conditions missed")
        sys.exit(1 if self.missed else 0)

    def _note(self, phase: str, ui: Watched) -> None:
        """One line of the table: the ticks since the line before, and the refresh runs there are by now."""
        fresh = [tick for tick in ui.ticks() if tick["tickId"] not in self.seen]
        self.seen |= {tick["tickId"] for tick in fresh}
        requests, failed = (sum(t["status"] == status for t in fresh) for status in ("SUCCESS", "FAILURE"))
        n_runs = len(ui.refreshes())
        self.table.append((phase, len(fresh), requests, failed, n_runs))
        print(f"[{phase}] last tick: {fresh[-1]['status']}, {fresh[-1]['skipReason']}", flush=True)
        self._expect(n_runs == 1, f"{n_runs} refresh runs after: {phase}")
        self._expect(requests == (phase == PHASES[0]), f"the sensor asked for {requests} runs after: {phase}")
        self._expect(not failed, f"{failed} ticks failed after: {phase}")

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.missed.append(otherwise)


def _copy(source: Path, target: Path) -> Home:
    if open_home(source).settings.lake_url:
        raise SystemExit(f"{source} keeps its lake elsewhere (lake_url); a copy would write into it")
    target.mkdir()
    for name in KEPT:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        elif (source / name).exists():
            shutil.copy(source / name, target / name)
    return open_home(target).prepare()


def _in_breach(home: Home, week: date) -> bool:
    rows = home.lake.read(COVERAGE_METRICS, [week])
    if rows.is_empty() or rows["jsd"][0] is None:
        return False
    return rows["jsd"][0] > home.settings.coverage.jsd_threshold or len(rows.filter(pl.col("is_blind_spot"))) > 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", help="a closed home in breach; it is only read")
    parser.add_argument("--ticks", type=int, default=2, help="ticks of the sensor to wait for in each phase")
    return parser.parse_args()


if __name__ == "__main__":
    main()
