"""Evidence: a backfill of every partition through the mutation that the UI's button sends.

Starts `evalflow ui` on a fresh home over the given traces and golden set, lands the files, launches one backfill of
all partitions, waits for it, and compares every file of the lake with a second home that `evalflow run` made.
With --screenshots it photographs the asset graph and an asset's page in Chromium.

    python benchmarks/ui_backfill.py FOLDER --start 2026-06-01 --end 2026-08-23 [--screenshots DIR]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ASSETS = [
    "raw_traces",
    "feedback",
    "trace_signals",
    "stratified_samples",
    "embeddings",
    "clusters",
    "bin_assignments",
    "coverage_metrics",
    "judge_grades",
    "quality_metrics",
]
LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
WATCH = """
query Watch($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status numPartitions error { message } runs(limit: 200) { runId status } }
  }
}
"""


def main() -> None:
    options = _options()
    work = Path(tempfile.mkdtemp(prefix="evalflow-backfill-"))
    by_ui, by_cli = work / "by_ui", work / "by_cli"
    for home in (by_cli, by_ui):
        _prepare(home, options)
    started = time.monotonic()
    _evalflow(by_cli, "run")
    print(f"evalflow run: {time.monotonic() - started:.0f} s")
    if options.share_cache:
        subprocess.run(["cp", "-r", str(by_cli / "cache"), str(by_ui / "cache")], check=True)
    with UserInterface(by_ui, options.port) as ui:
        started = time.monotonic()
        backfill = ui.launch(ASSETS)
        result = ui.wait(backfill)
        print(
            f"backfill {backfill}: {result['status']}, {len(result['runs'])} runs, {time.monotonic() - started:.0f} s"
        )
        if options.screenshots:
            photograph(ui.url, Path(options.screenshots))
    same, different = compare(by_cli / "lake", by_ui / "lake")
    windows = json.loads(
        _evalflow(by_ui, "sql", "select count(distinct week) as windows from coverage_metrics", "--json")
    )
    print(f"coverage windows: {windows[0]['windows']}; files equal byte for byte: {same}, different: {len(different)}")
    for path in different[:10]:
        print(f"  differs: {path}")
    sys.exit(0 if result["status"] == "COMPLETED_SUCCESS" and not different else 1)


class UserInterface:
    """A running `evalflow ui`, ended when the block ends."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.port, self.url = home, port, f"http://127.0.0.1:{port}"

    def __enter__(self) -> "UserInterface":
        command = [_script("evalflow"), "ui", "--home", str(self.home), "--port", str(self.port)]
        log = (self.home / "ui.log").open("w")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                loaded = self.ask(
                    "query { repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
                )
                if loaded["repositoriesOrError"].get("nodes"):
                    self.node = loaded["repositoriesOrError"]["nodes"][0]
                    return self
            except OSError:
                pass
            time.sleep(1)
        raise SystemExit(f"the UI did not come up; see {self.home / 'ui.log'}")

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)

    def ask(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables or {}}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        if answer.get("errors"):
            raise SystemExit(f"GraphQL: {answer['errors'][0]['message']}")
        data: dict[str, Any] = answer["data"]
        return data

    def launch(self, assets: list[str], keys: list[str] | None = None) -> str:
        """What the UI sends for "Launch backfill": the given partitions, or all of several assets."""
        chosen = {"partitionNames": keys} if keys else {"allPartitions": True}
        params = {"assetSelection": [{"path": [name]} for name in assets], "tags": [], "fromFailure": False, **chosen}
        launched = self.ask(LAUNCH, {"params": params})["launchPartitionBackfill"]
        if launched["__typename"] != "LaunchBackfillSuccess":
            raise SystemExit(f"the backfill was refused: {launched}")
        return str(launched["backfillId"])

    def wait(self, backfill: str, limit_s: float = 1800) -> dict[str, Any]:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            state: dict[str, Any] = self.ask(WATCH, {"id": backfill})["partitionBackfillOrError"]
            if state["status"] not in ("REQUESTED", "CANCELING", "FAILING"):
                return state
            time.sleep(2)
        raise SystemExit(f"backfill {backfill} did not end in {limit_s} s")


def photograph(url: str, folder: Path) -> None:
    """Screenshots of the asset graph and of the coverage asset's page, by Debian's Chromium."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    folder.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--window-size=1720,1080",
    ):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        for name, path in (
            ("asset_graph", "/asset-groups"),
            ("coverage_metrics", "/assets/coverage_metrics?view=events"),
            ("coverage_overview", "/assets/coverage_metrics?view=overview"),
            ("coverage_partitions", "/assets/coverage_metrics?view=partitions"),
        ):
            browser.get(url + path)
            time.sleep(12)
            if name == "asset_graph":  # Alt+E opens every group
                ActionChains(browser).key_down(Keys.ALT).send_keys("e").key_up(Keys.ALT).perform()
                time.sleep(6)
            browser.save_screenshot(str(folder / f"{name}.png"))
    finally:
        browser.quit()


def compare(one: Path, other: Path) -> tuple[int, list[str]]:
    """How many Parquet files are equal byte for byte, and the relative paths of those that are not."""
    paths = sorted({str(path.relative_to(root)) for root in (one, other) for path in root.rglob("*.parquet")})
    equal = {path for path in paths if _bytes(one / path) == _bytes(other / path)}
    return len(equal), [path for path in paths if path not in equal]


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _prepare(home: Path, options: argparse.Namespace) -> None:
    home.mkdir(parents=True)
    (home / "evalflow.toml").write_text(f"traffic_start = {options.start}\ntraffic_end = {options.end}\n")
    if options.cache:
        subprocess.run(["cp", "-r", options.cache, str(home / "cache")], check=True)
    _evalflow(home, "ingest", f"{options.folder}/traces-*.jsonl.gz")
    _evalflow(home, "golden", "import", f"{options.folder}/{options.golden}")


def _evalflow(home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [_script("evalflow"), *arguments, "--home", str(home)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"evalflow {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="holds traces-*.jsonl.gz and the golden set")
    parser.add_argument("--golden", default="golden.jsonl.gz")
    parser.add_argument("--start", required=True)
    parser.add_argument("--end", required=True)
    parser.add_argument("--port", type=int, default=3333)
    parser.add_argument("--cache", help="an embedding cache to start from (home/cache of an earlier run)")
    parser.add_argument(
        "--share-cache", action="store_true", help="let the UI's home use the vectors that the CLI's run computed"
    )
    parser.add_argument("--screenshots")
    return parser.parse_args()


if __name__ == "__main__":
    main()
