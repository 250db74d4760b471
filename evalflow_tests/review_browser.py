"""A running `evalflow review` and a real Chromium on it: for the test of the page and for its benchmark."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
PAINT = "const p = performance.getEntriesByName('first-contentful-paint')[0]; return p ? p.startTime : null;"
WIDER = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth];"
OVERLAPS = """
const isIn = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
const floats = (node) => { for (let n = node; n; n = n.parentElement) {
  const position = getComputedStyle(n).position; if (position === 'sticky' || position === 'fixed') return true; } return false; };
const clipped = (node, box) => { let r = box; for (let n = node; n && n !== document.body; n = n.parentElement) {
  if (getComputedStyle(n).overflow !== 'visible' && getComputedStyle(n).display !== 'contents') { const o = n.getBoundingClientRect();
    r = { left: Math.max(r.left, o.left), right: Math.min(r.right, o.right), top: Math.max(r.top, o.top), bottom: Math.min(r.bottom, o.bottom) }; } }
  return r; };
const found = [], boxes = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, parent = node.parentElement;
  if (!node.textContent.trim() || !parent.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || floats(parent)) continue;
  const range = document.createRange(); range.selectNodeContents(node);
  for (const full of range.getClientRects()) { const r = clipped(parent, full);
    if (r.right - r.left > 2 && r.bottom - r.top > 2) boxes.push([r, node.textContent.trim().slice(0, 40), parent]); }
}
for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++)
  if (boxes[i][2] !== boxes[j][2] && isIn(boxes[i][0], boxes[j][0])) found.push(boxes[i][1] + ' | ' + boxes[j][1]);
return found.slice(0, 10);
"""
"""Texts whose lines lie over each other; what floats over the page on purpose is left out."""


@dataclass
class Server:
    """One process of the command, and the address that it printed."""

    process: subprocess.Popen[str]
    url: str
    log: IO[str]

    def kill(self) -> None:
        """As the machine does: without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._close()

    def stop(self) -> str:
        """As Ctrl-C does; returns what it said on stderr."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=20)
        self.log.seek(0)
        said = self.log.read()
        self._close()
        return said

    def _close(self) -> None:
        if self.process.stdout:
            self.process.stdout.close()
        self.log.close()


def start_server(home: Path, port: int = 0, *more: str) -> Server:
    """The command as a person starts it; returns when it says where it is."""
    log = (home.parent / f"{home.name}-review.log").open("w+")
    command = [str(Path(sys.executable).with_name("evalflow")), "review", "--json", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--home", str(home), *more], stdout=subprocess.PIPE, stderr=log, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("}"):
            return Server(process, json.loads("".join(lines))["url"], log)
    log.seek(0)
    raise AssertionError(f"evalflow review said {''.join(lines)!r} and {log.read()!r}")


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A headless Chromium with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield browser
    finally:
        browser.quit()


def shape(browser: Any, width: int, height: int = 900, scheme: str = "light") -> None:
    """Give the page a size, also one that a window cannot have, and a colour scheme."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def wait_for(browser: Any, script: str, seconds: float = 10) -> Any:
    """The first true value of a script; an error with the page's address where it never comes."""
    from selenium.common.exceptions import JavascriptException

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if value := browser.execute_script(f"return {script};"):
                return value
        except JavascriptException:
            pass  # between two pages
        time.sleep(0.02)
    raise AssertionError(f"{browser.current_url} never had {script}")


def say_name(browser: Any, url: str, name: str) -> None:
    """Come in under a name."""
    browser.get(url)
    wait_for(browser, "document.querySelector('input[name=name]')")
    browser.execute_script(f"document.querySelector('input[name=name]').value = {json.dumps(name)};")
    browser.execute_script("document.querySelector('form.stack').requestSubmit();")
    wait_for(browser, "document.querySelector('.hero, .review')")
