"""Evidence: the review page in a real Chromium: looks, accessibility, and time to first paint with a long queue.

Fills a home of its own with ITEMS queued traces, starts `evalflow review` on it and opens every page at 1440 and 390
pixels, light and dark: saves a screenshot of each, looks for a horizontal scroll bar and for texts that lie over each
other, runs axe-core where it is given, and takes the first contentful paint of the queue and of a trace. Then it measures
how long an answer takes, while answers are published too. Last, the server is killed (`kill -9`) at random moments under
answers and drafts that come as fast as it takes them: what it had confirmed must be there.

    npm install --prefix FOLDER axe-core
    python benchmarks/review_page.py OUT [--items 10000] [--kills 20] \\
        [--axe FOLDER/node_modules/axe-core/axe.min.js]
"""

import argparse
import http.client
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parents[1]))

from evalflow.adapters.home import open_home
from evalflow.adapters.preferences import Preferences
from evalflow.adapters.review_desk import ReviewDesk
from evalflow.core.preferences import Preference
from evalflow.core.records import Review
from evalflow_tests.review_browser import OVERLAPS, PAINT, WIDER, chromium, say_name, shape, start_server, wait_for
from evalflow_tests.review_world import add_attempts, home_with_queue, queue_row

WIDTHS = (1440, 390)
SCHEMES = ("light", "dark")
PAGES = {
    "queue": "/?tab=all",
    "item": "/item/t-00000?tab=all",
    "answered": "/item/t-00003?tab=all",
    "pair": "/pairs",
    "preferences": "/pairs/results",
    "agreement": "/agreement",
    "done": "/done",
    "help": "/help",
    "start": "/start",
    "missing": "/item/nothing",
}


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        _fill(home, options.items)
        started = time.monotonic()
        server = start_server(home)
        print(f"`evalflow review` says where it is after {time.monotonic() - started:.2f} s ({options.items:,} items)")
        try:
            with chromium(Path(folder, "profile")) as browser:
                say_name(browser, server.url, "ann")
                wrong = _looks(browser, server.url.rstrip("/"), options)
                _paints(browser, server.url.rstrip("/"))
                _answers(browser, server.url.rstrip("/"))
        finally:
            said = server.stop()
        print(f"Ctrl-C: {said.strip()}")
        lost = _kills(Path(folder, "killed"), options.kills) if options.kills else 0
    if wrong or lost:
        sys.exit(f"{wrong} findings, {lost} confirmed and lost")


def _fill(home: Path, n: int) -> None:
    built = home_with_queue(
        home, [queue_row(i) for i in range(n)], settings="[review]\nreviewers_per_item = 2\n", cases=200
    )
    said = [("t-00003", "ann", "real_failure"), ("t-00003", "ben", "not_a_failure"), ("t-00005", "ann", "duplicate")]
    said += [(f"t-{i:05d}", who, "real_failure") for i in range(10, 30) for who in ("ann", "ben")]
    answers = [
        Review(trace_id=trace_id, reviewer=who, verdict=verdict, open_codes=["no order number", "repeats the policy"])  # type: ignore[arg-type]
        for trace_id, who, verdict in said
    ]
    built.reviews.add(answers, "benchmark", built.now())
    add_attempts(built, {f"t-{i:05d}": "I have looked it up for you: here is what I can do now." for i in range(60)})
    store = Preferences(home / "preferences")
    for i in range(40):
        choice = ("left", "right", "tie")[i % 3]
        given: dict[str, Any] = {"system": "python:candidate:answer", "system_version": "v13", "attempt": 1}
        said_of = Preference(
            trace_id=f"t-{i:05d}",
            reviewer="ann",
            production_side="left",
            choice=choice,
            **given,  # type: ignore[arg-type]
        )
        store.add(said_of, "benchmark", built.now())
    assert open_home(home).reviews.all()


def _looks(browser: Any, url: str, options: argparse.Namespace) -> int:
    axe = options.axe.read_text() if options.axe else None
    wrong = 0
    for name, path in PAGES.items():
        for width in WIDTHS:
            for scheme in SCHEMES:
                shape(browser, width, 900 if width > 600 else 844, scheme)
                browser.get(url + path)
                wait_for(browser, "document.readyState === 'complete'")
                browser.save_screenshot(str(options.out / f"{name}-{width}-{scheme}.png"))
                scroll, client = browser.execute_script(WIDER)
                found = [f"scrolls sideways: {scroll} in {client}"] if scroll > client else []
                found += [f"overlap: {text}" for text in browser.execute_script(OVERLAPS)]
                if axe:
                    found += _axe(browser, axe)
                wrong += len(found)
                print(f"{name:<12}{width:>5} {scheme:<6}" + ("fine" if not found else "; ".join(found)))
    return wrong


def _axe(browser: Any, axe: str) -> list[str]:
    browser.execute_cdp_cmd(
        "Runtime.evaluate", {"expression": axe}
    )  # past the page's own policy, as a developer's tools are
    result = browser.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations.map("
        "v => [v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 120)])));"
    )
    return [f"axe {impact} {id} x{n}: {html}" for impact, id, n, html in result]


def _paints(browser: Any, url: str) -> None:
    shape(browser, 1440)
    for name, path in {
        "queue": "/",
        "search": "/?text=parcel&tab=all",
        "item": "/item/t-00007",
        "next": "/next",
    }.items():
        paints = []
        for _ in range(7):
            browser.get("about:blank")
            browser.get(url + path)
            paints.append(wait_for(browser, f"(() => {{ {PAINT} }})()"))
        print(
            f"first contentful paint of {name}: median {statistics.median(paints):.0f} ms, slowest {max(paints):.0f} ms"
        )


def _answers(browser: Any, url: str) -> None:
    """As the page's script hands answers in, one after the other, which covers a round of the publisher."""
    browser.get(url + "/")
    browser.set_script_timeout(300)
    took = browser.execute_async_script(
        """
        const done = arguments[0], took = [];
        (async () => { for (let i = 100; i < 160; i++) {
          const item = 't-' + String(i).padStart(5, '0'), began = performance.now();
          const reply = await fetch('/answer', { method: 'POST', headers: { Accept: 'application/json' }, body: new URLSearchParams(
            { csrf: document.body.dataset.csrf, item, verdict: 'real_failure', expected_output: 'Say where it is.' }) });
          if (!reply.ok) return done([reply.status]);
          took.push(performance.now() - began);
          await fetch((await reply.json()).go); await new Promise((go) => setTimeout(go, 150));
        } done(took); })();
        """
    )
    ordered = sorted(took)
    print(
        f"an answer takes median {statistics.median(ordered):.0f} ms, 95 of 100 under {ordered[int(0.95 * len(ordered))]:.0f} ms, "
        f"slowest {ordered[-1]:.0f} ms (n = {len(ordered)})"
    )


def _kills(home: Path, n: int) -> int:
    """Kill the server ``n`` times under load; returns how much of what it had confirmed is not there."""
    chance = Random(1)
    built = home_with_queue(home, [queue_row(i) for i in range(200)])
    answers: dict[str, str] = {}
    drafts: dict[str, str] = {}
    for _ in range(n):
        server = start_server(home, 0, "--reviewer", "ann")
        until = time.monotonic() + chance.uniform(0.1, 1.5)
        threading.Thread(
            target=lambda at=until, kill=server.process.kill: (time.sleep(max(0, at - time.monotonic())), kill())
        ).start()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        item = ""
        try:
            csrf = opener.open(f"{server.url}start").read().decode().partition('data-csrf="')[2].partition('"')[0]
            while True:
                item, text = f"t-{chance.randrange(200):05d}", f"{chance.random()}"
                path, kept = ("answer", answers) if chance.random() < 0.5 else ("draft", drafts)
                form = {"csrf": csrf, "item": item, "verdict": "real_failure", "expected_output": text}
                sent = urllib.request.Request(
                    server.url + path, urlencode(form).encode(), {"Accept": "application/json"}
                )
                opener.open(sent).read()
                kept[item] = text
                if path == "answer":
                    drafts.pop(item, None)
        except (OSError, http.client.HTTPException):
            server.kill()
            drafts.pop(item, None)  # what was under way may be there or not
    said = {(review.trace_id, review.expected_output) for review in built.reviews.all()}
    lost = sum(answer not in said for answer in answers.items())
    with ReviewDesk(home / "review") as desk:
        held = {item: desk.draft(item, "ann") for item in drafts}
    lost += sum(kept is None or kept.fields["expected_output"] != drafts[item] for item, kept in held.items())
    print(
        f"{n} kills under load: of {len(answers)} answers and {len(drafts)} drafts that were confirmed last, {lost} are lost"
    )
    return lost


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the screenshots")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--axe", type=Path, help="axe.min.js of npm's axe-core")
    return parser.parse_args()


if __name__ == "__main__":
    main()
