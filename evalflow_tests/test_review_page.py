"""The review page in a real Chromium: by keyboard, through kills of server and tab, with hostile text, on two screens."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalflow.adapters.home import Home, open_home
from evalflow_tests.review_browser import (
    CHROMIUM,
    DRIVER,
    OVERLAPS,
    WIDER,
    Server,
    chromium,
    say_name,
    shape,
    start_server,
    wait_for,
)
from evalflow_tests.review_world import home_with_queue, queue_row

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()), reason="Debian's chromium and chromium-driver are not installed"
    ),
]
AXE = os.environ.get("AXE_CORE", "")
ATTACK = "<img src=x onerror='window.hit=1'><script>window.hit=1</script><svg onload='window.hit=1'></svg>\u202e"
N_ITEMS, N_REVIEWED = 24, 20
VERDICTS = ("real_failure", "not_a_failure", "unsure")
HERE = "document.querySelector('#answer')?.dataset.item"
STATE = "document.querySelector('[data-save-state]').dataset.state"


class Desk:
    """One person at the page, and the server that serves it."""

    def __init__(self, home: Home, browser: Any) -> None:
        self.home, self.browser = home, browser
        self.server: Server = start_server(home.path)
        self.url = self.server.url

    def restart(self) -> None:
        self.server = start_server(self.home.path, int(self.url.rstrip("/").rpartition(":")[2]))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)

    def item(self) -> str:
        return str(wait_for(self.browser, HERE))

    def hand_in(self, key: str) -> None:
        """Press a key that saves, and wait for the page after it."""
        before = self.item()
        self.press(key)
        wait_for(self.browser, f"(document.querySelector('.hero') || {HERE} && {HERE} !== '{before}')")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("review")
    hostile = dict.fromkeys(("text", "output", "reason", "label", "model"), ATTACK)
    rows = [queue_row(number, **(hostile if number == 0 else {})) for number in range(N_ITEMS)]
    home = home_with_queue(folder / "home", rows, cases=8)
    with chromium(folder / "profile") as browser:
        person = Desk(home, browser)
        try:
            shape(browser, 1440)
            say_name(browser, person.url, "ann")
            yield person
        finally:
            if person.server.process.poll() is None:
                assert person.server.stop() == "Stopped; every answer is kept.\n", "Ctrl-C ends it with one line"


def test_twenty_items_by_keyboard_through_two_kills_lose_nothing(desk: Desk) -> None:
    """`kill -9` while a draft is half written, and while an answer is handed in; a tab is closed in the middle, too."""
    from selenium.webdriver.common.keys import Keys

    browser, said = desk.browser, {}
    wait_for(browser, "document.querySelector('.hero')")
    desk.press(Keys.ENTER)
    for number in range(N_REVIEWED):
        item, verdict = desk.item(), VERDICTS[number % 3]
        text = f"Answer {number}: say where it is.\nThen ask." if number % 4 == 0 else ""
        said[item] = (verdict, text or None)
        if number == 8:  # the server dies, and so does the tab, before the second half reaches anybody
            desk.press("e", "Answer 8: ")
            wait_for(browser, f"{STATE} === 'saved'")
            desk.server.kill()
            desk.press("say where it is.\nThen ask.")
            wait_for(browser, f"{STATE} === 'unsaved'")
            assert "your text is kept in this browser" in browser.find_element("css selector", "[data-save-state]").text
            browser.get("about:blank")
            desk.restart()
            browser.get(f"{desk.url}item/{item}")
            desk.item()
            assert (
                browser.execute_script("return document.querySelector('#answer').elements.expected_output.value")
                == text
            )
        elif text:
            desk.press("e", text, Keys.ESCAPE)
        if number == 12:  # the server dies before the answer is handed in, and comes back by itself
            desk.server.kill()
        desk.press(str(("real_failure", "not_a_failure", "duplicate", "unsure").index(verdict) + 1))
        if number == 12:
            desk.press(Keys.ENTER)
            wait_for(browser, f"{STATE} === 'unsaved'")
            assert desk.item() == item
            desk.restart()
            wait_for(browser, f"{HERE} && {HERE} !== '{item}'")
        elif number == 8:
            browser.find_element("name", "expected_output").click()
            desk.hand_in(Keys.CONTROL + Keys.ENTER)
        else:
            desk.press("h", *(["o", f"code {number}", Keys.ESCAPE] if number == 4 else []))
            desk.hand_in(Keys.ENTER)
    assert len(said) == N_REVIEWED, "each was another one"
    reviews = open_home(desk.home.path).reviews.all()
    assert {review.trace_id: (review.verdict, review.expected_output) for review in reviews} == said
    assert len(reviews) == N_REVIEWED, "none twice"
    assert {review.severity for review in reviews if review.trace_id not in (list(said)[8], list(said)[12])} == {"high"}
    assert [review.open_codes for review in reviews if review.open_codes] == [["code 4"]]


def test_two_windows_on_one_trace_are_both_kept_until_one_is_chosen(desk: Desk) -> None:
    """The second window, opened before the first had saved, does not write over it, and can take over its text."""
    browser = desk.browser
    first = browser.current_window_handle
    browser.get(f"{desk.url}item/t-00001?tab=all")
    desk.item()
    browser.switch_to.new_window("tab")
    browser.get(f"{desk.url}item/t-00001?tab=all")
    desk.item()
    second = browser.current_window_handle
    try:
        for window, text, state in ((first, "of the first", "saved"), (second, "of the second", "unsaved")):
            browser.switch_to.window(window)
            browser.execute_script(
                "const note = document.querySelector('[name=comment]'); note.value = arguments[0];"
                "note.dispatchEvent(new Event('input', { bubbles: true }));",
                text,
            )
            wait_for(browser, f"{STATE} === '{state}'")
        assert "Another window of yours" in browser.find_element("css selector", "[data-conflict]").text
        browser.find_element("css selector", "[data-use]").click()
        note = "document.querySelector('[name=comment]').value"
        assert browser.execute_script(f"return {note}") == "of the first"
        browser.execute_script(
            "document.querySelector('[name=comment]').dispatchEvent(new Event('input', { bubbles: true }))"
        )
        browser.refresh()
        assert wait_for(browser, note) == "of the first"
    finally:
        browser.close()
        browser.switch_to.window(first)
        browser.get(desk.url)


def test_a_stored_attack_does_nothing(desk: Desk) -> None:
    """In the list, on its page, in the title: the markup is read as text, and the page's policy had nothing to forbid."""
    browser = desk.browser
    browser.get_log("browser")
    for path in ("?tab=all", "item/t-00000?tab=all", "done", "?tab=all&saved=t-00000"):
        browser.get(f"{desk.url}{path}")
        wait_for(browser, "document.readyState === 'complete'")
        time.sleep(0.05)
        assert browser.execute_script("return window.hit") is None
        assert browser.execute_script("return document.querySelectorAll('main img, main script').length") == 0
    browser.get(f"{desk.url}item/t-00000?tab=all")
    assert ATTACK[:-1] in browser.find_element("css selector", ".message.asked").text
    assert [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []


@pytest.mark.parametrize("width", [1440, 390])
def test_it_fits_the_screen_and_shows_the_keys(desk: Desk, width: int) -> None:
    """No sideways scroll, no text over another, and each verdict with its key in sight as the page opens."""
    browser = desk.browser
    shape(browser, width, 900 if width > 600 else 844)
    for path in ("?tab=all", "item/t-00002?tab=all", "item/t-00000?tab=all", "agreement", "done", "themes"):
        browser.get(f"{desk.url}{path}")
        wait_for(browser, "document.readyState === 'complete'")
        scroll, client = browser.execute_script(WIDER)
        assert scroll <= client, path
        assert browser.execute_script(OVERLAPS) == [], path
    browser.get(f"{desk.url}item/t-00002?tab=all")
    desk.item()
    seen = browser.execute_script(
        "return [...document.querySelectorAll('.verdict kbd')].map(key => { const box = key.getBoundingClientRect();"
        " const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);"
        " return key.textContent + (key.closest('label').contains(top) ? '' : ' is hidden'); });"
    )
    assert seen == ["1", "2", "3", "4"]


@pytest.mark.skipif(not AXE, reason="AXE_CORE does not name axe.min.js (npm install axe-core)")
@pytest.mark.parametrize(
    "path", ["?tab=all", "item/t-00002?tab=all", "agreement", "done", "help", "start", "pairs", "themes"]
)
def test_axe_finds_nothing(desk: Desk, path: str) -> None:
    shape(desk.browser, 1440)
    desk.browser.get(f"{desk.url}{path}")
    desk.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": Path(AXE).read_text()})
    found = desk.browser.execute_async_script("axe.run(document).then(r => arguments[0](r.violations.map(v => v.id)))")
    assert found == []
