"""The review page without a browser: what each page and form does, and what is refused."""

import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.preferences import Preferences
from evalflow.adapters.review_desk import ReviewDesk, Wanted
from evalflow.adapters.tables import REVIEWS
from evalflow.core.preferences import Pair, Preference, production_side, win_rates
from evalflow.defs.themes import codes_in_use
from evalflow.errors import UsageError
from evalflow.web.app import Entrance, review_app
from evalflow.web.near_cases import NearCases
from evalflow.web.publishing import publish
from evalflow.web.security import Keys, Session, secret_of
from evalflow.web.server import bound
from evalflow.web.text import visible, visible_line
from evalflow.web.themes import themes_view
from evalflow.web.views import slug_of
from evalflow_tests.review_world import add_attempts, home_with_queue, queue_row

NOW = datetime(2026, 6, 8, 9, tzinfo=UTC)
HOSTILE = (
    '<script>window.hit=1</script><img src=x onerror="window.hit=1">\'"><svg/onload=hit()>{{7*7}} javascript:hit()'
)
BIDI = "pay \u202eREVERSED\u2066 to \u200badmin\x07"
ODD_IDS = ["a/b", "../../etc/passwd", "..", "ünï códe", "<b>x</b>", "q?x=1#y", "100%", "~tilde", "line\nbreak"]


class Browser:
    """One person at the page: keeps cookies, and sends the token of the page with each form."""

    def __init__(self, home: Home, name: str | None = "ann", entrance: Entrance = Entrance(), **headers: str) -> None:  # noqa: B008  # frozen
        self.client = TestClient(
            review_app(home, entrance), base_url="http://127.0.0.1:8765", headers=headers, follow_redirects=False
        )
        if name:
            self.get("/start")
            assert self.post("/reviewer", name=name, to="/").status_code == 303

    def get(self, path: str, **headers: str) -> Any:
        response = self.client.get(path, headers=headers)
        found = re.search(r'data-csrf="([^"]+)"', response.text)
        self.csrf = found[1] if found else getattr(self, "csrf", "")
        return response

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> Any:
        return self.client.post(path, data={"csrf": self.csrf} | fields, headers=headers or {})

    def answer(self, trace_id: str, verdict: str = "real_failure", **fields: str) -> Any:
        return self.post("/answer", item=slug_of(trace_id), verdict=verdict, **fields)


@pytest.fixture(scope="module", autouse=True)
def _closed_desks() -> Iterator[None]:
    """Every desk that a test opened is closed in the end."""
    opened: list[ReviewDesk] = []
    plain = ReviewDesk.__init__

    def remembered(self: ReviewDesk, folder: Path) -> None:
        plain(self, folder)
        opened.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReviewDesk, "__init__", remembered)
        yield
    for desk in opened:
        desk.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_with_queue(tmp_path / "home", [queue_row(number) for number in range(8)], cases=3)


@pytest.fixture
def ann(home: Home) -> Browser:
    return Browser(home)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """Somebody in a home that no test changes."""
    return Browser(
        home_with_queue(tmp_path_factory.mktemp("read") / "home", [queue_row(number) for number in range(8)])
    )


# -- what a page may do, and who may ask ----------------------------------------------------------------------


def test_every_answer_of_the_server_forbids_all_but_its_own(reader: Browser) -> None:
    """No script, style or frame but the server's own files; nothing is kept by the browser but those files."""
    for path in (
        "/",
        "/item/t-00000",
        "/item/none",
        "/static/review.js",
        "/nowhere",
        "/agreement",
        "/static/../app.py",
    ):
        headers = reader.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert path.startswith("/static") or headers["cache-control"] == "no-store"
    page = reader.get("/item/t-00000").text
    assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?! src=\"/static/)", page), "nothing inline"
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page), "nothing from elsewhere"
    cookie = reader.get("/").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8765", "", "a b"])
def test_a_name_that_was_not_given_is_refused(reader: Browser, host: str) -> None:
    """So that a stranger's DNS entry that points to this machine reads nothing."""
    assert reader.get("/", Host=host).status_code == 421


def test_addresses_and_given_names_are_answered(home: Home) -> None:
    browser = Browser(home, entrance=Entrance(hosts=frozenset({"review.example"})))
    for host in ("localhost:9", "127.0.0.1", "[::1]:8765", "LOCALHOST.", "10.0.0.7:8765", "review.example:80"):
        assert browser.get("/", Host=host).status_code == 200, host


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Content-Type": "text/plain"},
    ],
)
def test_a_form_of_another_site_changes_nothing(reader: Browser, headers: dict[str, str]) -> None:
    answer = reader.post("/answer", headers, item="t-00000", verdict="duplicate")
    assert answer.status_code in (403, 415)
    assert "8 to answer" in reader.get("/").text, "nothing was kept"


def test_a_form_needs_the_token_of_its_own_browser(home: Home, ann: Browser) -> None:
    ben = Browser(home, "ben")
    for token in ("", "x", ben.csrf):
        assert (
            ann.client.post("/answer", data={"csrf": token, "item": "t-00000", "verdict": "unsure"}).status_code == 403
        )
    assert home.reviews.all() == []
    own = {"Origin": "http://127.0.0.1:8765", "Sec-Fetch-Site": "same-origin"}
    assert ann.post("/answer", own, item="t-00000", verdict="unsure").status_code == 303
    assert [review.reviewer for review in home.reviews.all()] == ["ann"]


def test_a_click_elsewhere_leads_here_and_never_away(reader: Browser) -> None:
    """A link in a mail comes without the cookie: the page asks for itself again, and only for itself."""
    click = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    page = reader.get("/item/t-00001?tab=all", **click)
    assert 'url=/item/t-00001?tab=all"' in page.text
    assert "set-cookie" not in page.headers, "the session of before stays"
    assert "url=/evil.example/%22%3E" in reader.get('http://127.0.0.1:8765//evil.example/">', **click).text
    assert reader.get("/", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}).status_code == 403


def test_a_token_is_shown_once_and_then_a_cookie_does(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    entrance = Entrance("s3cret-s3cret-s3cret")
    stranger = Browser(home, None, entrance)
    assert stranger.get("/").status_code == 401
    assert stranger.get("/?token=wrong").status_code == 401
    assert stranger.post("/answer", item="t-00000", verdict="unsure").status_code == 401
    let_in = stranger.get("/item/t-00000?tab=all&token=s3cret-s3cret-s3cret")
    assert 'url=/item/t-00000?tab=all"' in let_in.text, "the address that stays has no token"
    assert stranger.get("/start").status_code == 200
    again = TestClient(review_app(home, Entrance("drawn-anew-at-this-start")), base_url="http://127.0.0.1:8765")
    again.cookies = stranger.client.cookies
    assert again.get("/start").status_code == 200, "a restart turns nobody away"
    assert "s3cret" not in "".join(capfd.readouterr())


def test_a_token_of_the_settings_ends_older_sessions_when_it_changes(tmp_path: Path) -> None:
    secret = secret_of(tmp_path)
    assert secret == secret_of(tmp_path)
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    before, after = Keys(secret, "the-old-token-of-them"), Keys(secret, "the-new-token-of-them")
    cookie = before.sign(Session("id", "ann", True), 1000.0)
    assert before.read(cookie, 1000.0 + 86_400) == Session("id", "ann", True)
    assert before.read(cookie, 1000.0 + 8 * 86_400) is None
    assert before.read(cookie, 990.0), "a clock that was set back turns nobody away"
    assert after.read(cookie, 1000.0) is None
    assert [before.read(broken, 1000.0) for broken in (cookie[:-2], "x", "", "é.é", cookie[3:])] == [None] * 5


@pytest.mark.parametrize(
    ("host", "settings", "has_token"),
    [
        ("127.0.0.1", "", False),
        ("localhost", "", False),
        ("0.0.0.0", "", True),
        ("127.0.0.1", "[review]\nhosts = ['Review.example']\n", True),
        ("127.0.0.1", "[review]\ntoken = 'a-token-of-my-own-here'\n", True),
    ],
)
def test_where_others_can_reach_it_a_token_is_asked_for(
    tmp_path: Path, host: str, settings: str, has_token: bool
) -> None:
    home = home_with_queue(tmp_path / "home", [], settings=settings)
    with bound(home, host, 0, None) as page:
        assert page.has_token == has_token == ("?token=" in page.url)
        assert "token = " not in settings or page.url.endswith("?token=a-token-of-my-own-here")
        with (
            pytest.raises(UsageError, match=r"Port \d+ of .* is taken.*--port"),
            bound(home, host, page.socket.getsockname()[1], None),
        ):
            pass


def test_what_is_too_long_or_no_form_is_refused(reader: Browser) -> None:
    assert reader.post("/answer", item="t-00000", verdict="unsure", comment="x" * 9_000_000).status_code == 413
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert reader.client.post("/answer", content=b"\xff\xfe", headers=headers).status_code == 400
    assert (
        reader.client.post("/answer", content="&".join("a=1" for _ in range(600)), headers=headers).status_code == 400
    )
    assert reader.client.put("/answer").status_code == 405
    assert reader.get("/answer").status_code == 405


# -- hostile text ----------------------------------------------------------------------------------------------


def test_hostile_text_is_only_ever_text(tmp_path: Path) -> None:
    """Markup, template code and hidden characters of a trace come out as what they are, in every place that shows them."""
    call = {"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}, "error": {HOSTILE: HOSTILE}}
    context = {
        "turns": [
            {"place": "before", "input": HOSTILE, "output": HOSTILE, "error": HOSTILE, "tool_calls": [call]},
            {"place": "this", "model": HOSTILE, "timestamp": HOSTILE, "latency_ms": 1.5},
        ],
        "feedback": [{"name": HOSTILE, "value": HOSTILE, "comment": HOSTILE}],
        "metadata": {HOSTILE: [HOSTILE]},
        "messages": [{"role": HOSTILE, "content": HOSTILE}],
        "tags": [HOSTILE],
    }
    texts = (
        "text",
        "output",
        "reason",
        "label",
        "bin",
        "queue",
        "model",
        "prompt_version",
        "variant",
        "user_tier",
        "locale",
    )
    grade = dict.fromkeys(("grader", "grader_version", "verdict", "reason"), HOSTILE)
    signals: dict[str, Any] = {"negative_signals": [HOSTILE], "signals": {HOSTILE: HOSTILE}}
    rows = [
        queue_row(0, context=context, grades=[grade], **signals, **dict.fromkeys(texts, HOSTILE)),
        queue_row(1, trace_id=HOSTILE, text=BIDI, output=BIDI * 3),
    ]
    home = home_with_queue(tmp_path / "home", rows)
    ann, ben = Browser(home, HOSTILE[:60].strip()), Browser(home, "ben")
    text = dict.fromkeys(("expected_output", "open_codes", "tags", "comment"), HOSTILE)
    for person in (ann, ben):
        assert person.answer("t-00000", **text).status_code == 303
    assert ann.post("/draft", item=slug_of(HOSTILE), verdict="unsure", **text).status_code == 200
    pages = ["/?tab=all", "/item/t-00000?tab=all", f"/item/{slug_of(HOSTILE)}?tab=all", "/done", "/agreement", f"/start?to={HOSTILE}"]  # fmt: skip
    pages += [f"/?tab=all&text={HOSTILE}", "/?tab=all&saved=t-00000&met=1"]
    for path in pages:
        page = ben.get(path).text
        assert not re.search(r"<(?!/?(?:[a-z][a-z0-9]*)\b|!doctype)", page.replace("<!doctype", "")), path
        for tag in ("<script>window", "<img", "<svg/onload", "49 javascript"):
            assert tag not in page, (path, tag)
        assert 'href="javascript' not in page
    page = ann.get(f"/item/{slug_of(HOSTILE)}").text
    for character in "\u202e\u2066\u200b\x07":
        assert character not in page
        assert f"U+{ord(character):04X}" in page, "it is shown where it stands"


def test_hidden_characters_are_shown_and_honest_ones_left() -> None:
    assert visible("a\u202eb<i>") == 'a<span class="hidden-character" title="U+202E, right-to-left override">U+202E</span>b&lt;i&gt;'  # fmt: skip
    for honest in ("שלום", "می‌خواهم", "👨‍👩‍👧", "tab\tand\nbreak", "ﷺ", "e\u0301"):
        assert visible(honest) == honest
    assert visible_line(f"{BIDI}\n\n x ", 300) == "pay REVERSED to admin x"
    assert visible_line("x" * 50, 10) == "x" * 9 + "…"


def test_a_megabyte_of_text_is_shown_in_two_steps(tmp_path: Path) -> None:
    """All of it is there, the first part open; the list shows a line of it."""
    long = "word " * 200_000
    home = home_with_queue(tmp_path / "home", [queue_row(0, text=long, output=long)])
    ann = Browser(home)
    page = ann.get("/item/t-00000").text
    assert page.count("Show all 1,000,000 characters") == 2
    assert page.count("word ") >= 400_000
    assert len(ann.get("/").text) < 20_000


def test_any_trace_id_has_an_address_and_takes_an_answer(tmp_path: Path) -> None:
    rows = [queue_row(number, trace_id=trace_id) for number, trace_id in enumerate(ODD_IDS)]
    home = home_with_queue(tmp_path / "home", rows)
    ann = Browser(home)
    paths = re.findall(r'class="row-link" href="(/item/~[^"?]*)', ann.get("/?tab=all").text)
    assert len(set(paths)) == len(ODD_IDS)
    for path in paths:
        page = ann.get(path)
        assert page.status_code == 200
        (name,) = re.findall(r'name="item" value="([^"]+)"', page.text)
        assert ann.post("/answer", item=name, verdict="unsure").status_code == 303
    assert sorted(review.trace_id for review in home.reviews.all()) == sorted(ODD_IDS)


def test_an_unknown_item_is_told_in_a_sentence(reader: Browser) -> None:
    for path in ("/item/none", "/item/../../etc/passwd", "/item/%2e%2e%2fsecret", "/item/"):
        page = reader.get(path)
        assert page.status_code == 404, path
        assert "<h1>Not found</h1>" in page.text
    assert reader.answer("none").status_code == 404
    assert reader.post("/draft", item="none", comment="x").status_code == 404
    assert reader.get("/static/%2e%2e/app.py").status_code == 404
    by_its_very_id = reader.get("/item/t-00000")
    assert by_its_very_id.status_code == 200


# -- answers ---------------------------------------------------------------------------------------------------


def test_an_answer_holds_everything_that_the_form_said(ann: Browser, home: Home) -> None:
    assert ann.get("/").text.count('class="row-link"') == 8
    done = ann.answer(
        "t-00000",
        severity="high",
        expected_output="First line\r\nsecond line",
        open_codes="ignores the question\r\n\r\n ignores the question \r\nno order number",
        tags="refund, german,refund",
        comment="see order 4417",
        duplicate_of="left over from another verdict",
    )
    assert (done.status_code, done.headers["location"].split("?")[0]) == (303, "/next")
    (review,) = home.reviews.all()
    assert review.reviewer == "ann"
    assert review.expected_output == "First line\nsecond line"
    assert review.open_codes == ["ignores the question", "no order number"]
    assert review.tags == ["refund", "german"]
    assert (review.severity, review.comment, review.duplicate_of) == ("high", "see order 4417", None)
    assert review.reviewed_at == home.now()
    item = ann.get("/item/t-00000?tab=all").text
    assert ">\nFirst line\nsecond line</textarea>" in item
    assert "1 answered" not in ann.get("/done").text
    assert "First line" not in ann.get("/").text


def test_an_answer_may_be_taken_back_and_given_again(ann: Browser, home: Home) -> None:
    """In a closed home the clock stands still: the last word counts all the same. The same word twice is one."""
    for verdict in ("real_failure", "unsure", "unsure", "real_failure"):
        ann.answer("t-00000", verdict)
    said = home.reviews.all()
    assert [review.verdict for review in said] == ["real_failure", "unsure", "real_failure"]
    assert [review.reviewed_at for review in said] == sorted({review.reviewed_at for review in said})  # type: ignore[type-var]
    page = ann.get("/item/t-00000?tab=all").text
    assert re.search(r'value="real_failure" data-key="1" checked', page)


def test_a_form_that_cannot_be_kept_says_why_and_loses_nothing(ann: Browser, home: Home) -> None:
    page = ann.post("/answer", item="t-00000", expected_output="my words")
    assert (page.status_code, "Choose a verdict first" in page.text, "my words" in page.text) == (422, True, True)
    page = ann.answer("t-00000", "duplicate", duplicate_of="case-99", comment="my words")
    assert (page.status_code, "There is no case" in page.text, "my words" in page.text) == (422, True, True)
    script = ann.post("/answer", {"Accept": "application/json"}, item="t-00000", verdict="nonsense")
    assert (script.status_code, "verdict 'nonsense' is none of" in script.json()["problem"]) == (422, True)
    assert ann.answer("t-00000", comment="a\0b").status_code == 422
    assert ann.answer("t-00000", tags="a\0b").status_code == 422
    assert home.reviews.all() == []
    assert ann.answer("t-00000", "duplicate", duplicate_of="case-1").status_code == 303
    assert [review.duplicate_of for review in home.reviews.all()] == ["case-1"]


def test_without_a_name_there_is_no_answer(home: Home) -> None:
    stranger = Browser(home, None)
    asked = stranger.get("/item/t-00000?tab=all")
    assert asked.headers["location"] == "/start?to=%2Fitem%2Ft-00000%3Ftab%3Dall"
    stranger.get("/start")
    assert stranger.answer("t-00000").headers["location"].startswith("/start")
    for name in ("", "   ", "x" * 81, "a\u202eb"):
        assert stranger.post("/reviewer", name=name, to="/").status_code == 422
    assert stranger.post("/reviewer", name="cy", to="/item/a?tab=all").headers["location"] == "/item/a?tab=all"
    for to, leads in (("//evil.example", "/"), ("https://evil.example", "/"), ("/\\evil.example", "/")):
        assert stranger.post("/reviewer", name="cy", to=to).headers["location"] == leads
    assert Browser(home, None, Entrance(reviewer="dee")).get("/").status_code == 200
    assert home.reviews.all() == []


def test_an_answer_never_stands_under_another_name(ann: Browser, home: Home) -> None:
    """The name was changed in another tab: the open page belongs to who it was opened by."""
    ann.post("/reviewer", name="ben", to="/")
    assert ann.answer("t-00000", reviewer="ann").status_code == 409
    assert ann.post("/draft", item="t-00000", comment="x", reviewer="ann").status_code == 409
    assert home.reviews.all() == []
    assert ann.answer("t-00000", reviewer="ben").status_code == 303


def test_a_journal_that_was_changed_by_hand_is_told_on_the_page(ann: Browser, home: Home) -> None:
    ann.answer("t-00000")
    (file,) = home.reviews.journal.root.glob("*.jsonl")
    file.write_text(file.read_text().replace("real_failure", "not_a_failure"))
    page = Browser(open_home(home.path)).get("/")
    assert (page.status_code, "was changed after it was written" in page.text) == (500, True)


def test_filters_narrow_the_list_and_stay_with_the_reviewer(ann: Browser) -> None:
    def listed(query: str) -> int:
        return int(ann.get(f"/{query}").text.count('class="row-link"'))

    assert listed("?queue=payments") == 2
    assert listed("?source=failed_grade") == 2
    assert listed("?bin=b03") == 1
    assert listed("?text=PARCEL") == 1
    assert listed("?text=t-00006") == 1
    assert listed("?text=nothing+of+the+kind") == 0
    assert listed("?overdue=1") < 8
    assert listed("?tab=nonsense&page=99&queue=") == 8
    given = ann.get("/next?queue=payments").headers["location"]
    assert re.fullmatch(r"/item/t-0000[04]\?queue=payments", given)
    assert 'name="list_queue" value="payments"' in ann.get(given).text
    ann.answer("t-00000", severity="high")
    assert listed("?tab=all&severity=high") == 1
    assert listed("?tab=all&severity=low") == 0


# -- drafts, reservations, several people ------------------------------------------------------------------------


def test_a_draft_comes_back_after_a_restart_and_goes_with_the_answer(ann: Browser, home: Home) -> None:
    assert (
        ann.post("/draft", item="t-00000", verdict="real_failure", expected_output="half a sent").json()["revision"]
        == 1
    )
    assert ann.post("/draft", item="t-00000", expected_output="half a sentence\nand").json() == {
        "revision": 2,
        "others": [],
    }
    restarted = Browser(open_home(home.path))
    assert ">\nhalf a sentence\nand</textarea>" in restarted.get("/item/t-00000").text
    assert "chip draft" in restarted.get("/").text
    assert "half a sentence" not in Browser(home, "ben").get("/item/t-00000").text
    assert home.reviews.all() == []
    restarted.answer("t-00000", expected_output="a whole sentence")
    assert ReviewDesk(home.path / "review").draft("t-00000", "ann") is None
    ann.post("/draft", item="t-00001", comment="x")
    assert ann.post("/draft", item="t-00001", comment="").json()["revision"] == 0
    assert "chip draft" not in ann.get("/").text


def test_two_windows_of_one_person_overwrite_nothing(ann: Browser) -> None:
    """The second, opened before the first had saved, is told what the first holds; what it then chooses is kept."""
    assert ann.post("/draft", item="t-00000", comment="of the first", base="0").json()["revision"] == 1
    refused = ann.post("/draft", item="t-00000", comment="of the second", base="0")
    assert (refused.status_code, refused.json()["other"]["comment"]) == (409, "of the first")
    assert ann.post("/draft", item="t-00000", comment="", base="0").status_code == 409
    assert "of the first" in ann.get("/item/t-00000").text
    chosen = ann.post("/draft", item="t-00000", comment="of the second", base=str(refused.json()["revision"]))
    assert chosen.json()["revision"] == 2


def test_what_was_written_before_it_was_put_aside_is_kept(ann: Browser) -> None:
    """Also in a browser without scripts, where nothing else has saved it."""
    ann.post("/skip", item="t-00000", comment="half a thought", reviewer="ann")
    assert "half a thought" in ann.get("/item/t-00000").text
    ann.post("/skip", item="t-00001", comment="", reviewer="ann")
    assert ann.get("/").text.count("chip draft") == 1


def test_what_others_have_settled_is_closed_and_waits_for_nobody(home: Home, ann: Browser) -> None:
    Browser(home, "ben").answer("t-00000", "not_a_failure")
    tabs = dict(re.findall(r"tab=(\w+)\"[^>]*>[\w ]+<span>(\d+)</span>", ann.get("/").text))
    assert (tabs["todo"], tabs["waiting"], tabs["closed"]) == ("7", "0", "1")


def test_a_server_killed_between_answer_and_draft_leaves_no_draft(ann: Browser, home: Home) -> None:
    """The answer was kept, its draft not yet cleared: the page takes the draft for what it is."""
    ann.answer("t-00000", expected_output="said")
    ann.post("/draft", item="t-00000", verdict="real_failure", expected_output="said")
    assert "Draft of" not in ann.get("/item/t-00000?tab=all").text
    assert ReviewDesk(home.path / "review").draft("t-00000", "ann") is None


def test_two_people_are_given_different_items(home: Home) -> None:
    ann, ben = Browser(home), Browser(home, "ben")
    first, second = (person.get("/next").headers["location"] for person in (ann, ben))
    assert first != second
    assert ann.get("/next").headers["location"] == first, "who has one is given it again"
    assert "ann is on it" in unescape(ben.get("/").text)
    assert "ann is on this trace too" in " ".join(unescape(ben.get(first).text).split())


def test_what_is_put_aside_comes_back_last(ann: Browser) -> None:
    seen = []
    for _ in range(9):
        where = ann.get("/next").headers["location"]
        seen.append(where)
        ann.post("/skip", item=where.removeprefix("/item/"))
    assert sorted(seen[:8]) == sorted(f"/item/t-{number:05d}" for number in range(8))
    assert seen[8] == seen[0]


def test_answers_of_two_at_once_are_both_kept_and_the_second_is_told(home: Home) -> None:
    ann, ben = Browser(home), Browser(home, "ben")
    for person in (ann, ben):
        person.get("/item/t-00000")
    with ThreadPoolExecutor(2) as pool:
        went = list(
            pool.map(
                lambda who: who[0].answer("t-00000", who[1], seen="0"), [(ann, "real_failure"), (ben, "not_a_failure")]
            )
        )
    assert {review.reviewer: review.verdict for review in home.reviews.all()} == {
        "ann": "real_failure",
        "ben": "not_a_failure",
    }
    told = [answer for answer in went if "met=1" in answer.headers["location"]]
    assert len(told) >= 1
    later = ben if told[0] is went[1] else ann
    page = later.get(later.get(told[0].headers["location"]).headers["location"]).text
    assert "Somebody else answered it while you did" in page
    assert "The reviewers differ" in page


def test_nobody_sees_an_answer_before_his_own(tmp_path: Path) -> None:
    """Two per item: after ann alone nothing shows, to ben as little as to her; after both, everything to both."""
    home = home_with_queue(
        tmp_path / "home", [queue_row(n) for n in range(3)], settings="[review]\nreviewers_per_item = 2\n"
    )
    ann, ben, cy = Browser(home), Browser(home, "ben"), Browser(home, "cy")

    def page(person: Browser) -> str:
        return str(
            unescape(person.get("/item/t-00000?tab=all").text) + person.get("/?tab=all").text + person.get("/done").text
        )

    ann.answer("t-00000", "not_a_failure", expected_output="ANNS WORDS", open_codes="anns code")
    assert "1 of 2 answered" in page(ben)
    for person in (ben, cy):
        assert "ANNS WORDS" not in page(person)
        assert "anns code" not in page(person), "offered for other traces only"
        assert "anns code" in person.get("/item/t-00001").text
        assert "1 other person has answered" in page(person)
    assert "waits for the others" in ann.get("/?saved=t-00000").text
    ben.answer("t-00000", "real_failure", expected_output="BENS WORDS")
    for person, words in ((ann, "BENS WORDS"), (ben, "ANNS WORDS")):
        assert words in page(person)
        assert "The reviewers differ: 1 not a failure, 1 real failure." in page(person)
    assert "WORDS" not in page(cy)
    assert "disputed" not in page(cy)
    assert "2 other people have answered" in page(cy)
    assert "1 that you have not answered" in cy.get("/agreement").text
    assert "0%" in ann.get("/agreement").text


def test_agreement_says_when_there_is_nothing_to_compare(ann: Browser) -> None:
    assert "No trace has verdicts of two reviewers yet" in ann.get("/agreement").text


def test_the_desk_forgets_reservations_when_their_time_is_over(tmp_path: Path) -> None:
    wanted = [Wanted("a", 1), Wanted("b", 2)]
    with ReviewDesk(tmp_path) as desk, ReviewDesk(tmp_path) as other:
        assert desk.reserve_next(wanted, "ann", NOW, 15) == "a"
        assert other.reserve_next(wanted, "ben", NOW, 15) == "b"
        assert other.reserve_next(wanted, "cy", NOW, 15) == "b", "it wants two"
        assert other.reserve_next(wanted, "dee", NOW, 15) is None
        assert other.reserve_next(wanted, "dee", NOW + timedelta(minutes=15), 15) == "a"
        assert desk.hold("a", "ann", NOW + timedelta(minutes=16), 15) == [("dee", NOW + timedelta(minutes=30))]
        assert desk.held_by_others("ann", NOW + timedelta(minutes=31)) == {}
        desk.hold("b", "ann", NOW, 15)
        earlier = NOW - timedelta(days=1)
        assert other.reserve_next([Wanted("b", 1)], "ben", earlier, 15) == "b", "the clock was set back"


def test_reservations_of_many_at_once_never_meet(tmp_path: Path) -> None:
    """Eight people, each with a connection of their own as servers have, ask at the same moment for one of eight items."""
    wanted = [Wanted(str(number), 1) for number in range(8)]
    start = threading.Barrier(8)

    def ask(name: str) -> str | None:
        with ReviewDesk(tmp_path) as desk:
            start.wait()
            return desk.reserve_next(wanted, name, NOW, 15)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, "abcdefgh")) == sorted(str(number) for number in range(8))  # type: ignore[type-var]


def test_a_desk_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "desk.sqlite").write_bytes(b"no database at all, but long enough to look like one" * 40)
    with pytest.raises(UsageError, match=r"The review desk .*desk.sqlite cannot be opened"):
        ReviewDesk(tmp_path)
    with ReviewDesk(tmp_path / "other") as desk, sqlite3.connect(desk.path) as thief:
        thief.execute("drop table drafts")
        with pytest.raises(UsageError, match="cannot be written"):
            desk.save_draft("t", "ann", {}, NOW)
        assert desk.reserve_next([Wanted("t", 1)], "ann", NOW, 15) == "t", "the next change goes on"


# -- themes ------------------------------------------------------------------------------------------------------


def test_themes_are_made_renamed_and_moved_by_forms_and_every_version_is_kept(ann: Browser, home: Home) -> None:
    """By hand from nothing: two themes, a name, a merge. What an older page sends, or a stranger, changes nothing."""
    for number, codes in enumerate((f"wrong date\n{HOSTILE}", "Wrong  date", "rude")):
        ann.answer(f"t-0000{number}", open_codes=codes)

    def held() -> list[tuple[str, tuple[str, ...]]]:
        version = home.themes.newest()
        return [(theme.name, theme.codes) for theme in version.themes] if version else []

    def move(version: int, codes: list[str], to: str = "", name: str = "") -> Any:
        form = {"csrf": ann.csrf, "version": str(version), "code": codes, "to": to, "name": name}
        return ann.client.post("/themes/move", data=form)

    page = ann.get("/themes").text
    assert "In no theme yet" in page
    assert "<img" not in page
    assert move(0, ["wrong date", HOSTILE], name=" Facts ").headers["location"] == "/themes?recorded=1"
    assert move(1, ["rude"], name="Tone").status_code == 303
    assert held() == [("Facts", ("wrong date", HOSTILE)), ("Tone", ("rude",))]
    assert "Kept as version 2 of the themes" in ann.get("/themes?recorded=2").text
    assert [(line.text, line.n_traces) for line in _cards(home)["Facts"].codes] == [("wrong date", 2), (HOSTILE, 1)]
    assert _cards(home)["Facts"].n_traces == 2, "a trace with two of its codes counts once"

    late = move(1, ["rude"], "t01")
    assert (late.status_code, "made from version 1, but version 2 was recorded" in late.text) == (409, True)
    for refused, why in (
        (move(2, []), "No code was chosen"),
        (move(2, ["never said"], "t01"), "is in no theme, and no answer uses it"),
        (move(2, ["rude"], "t77"), "There is no theme"),
        (move(2, ["rude"], name="\u202e"), "needs a name"),
        (move(2, ["wrong date"], name="FACTS"), "Another theme has the name"),
        (ann.post("/themes/rename", version="2", theme="t01", name="tone"), "Another theme has the name"),
        (ann.post("/themes/rename", version="2", theme="none", name="x"), "There is no theme"),
    ):
        assert (refused.status_code, why in unescape(refused.text)) == (422, True), why
    assert ann.client.post("/themes/rename", data={"version": "2", "theme": "t01", "name": "x"}).status_code == 403
    assert ann.post("/themes/rename", version="2", theme="t01", name=HOSTILE[:60]).status_code == 303
    assert "<script>window" not in ann.get("/themes").text
    assert move(3, ["RUDE"], "t01").status_code == 303
    assert held() == [(HOSTILE[:60], ("wrong date", HOSTILE, "rude"))], "a theme without codes goes"
    assert ann.post("/themes/rename", version="4", theme="t01", name=HOSTILE[:60]).headers["location"] == "/themes"
    version = home.themes.newest()
    assert version
    assert (version.version, version.origin, version.themes[0].theme_id) == (4, "edited", "t01")


def _cards(home: Home) -> dict[str, Any]:
    view = themes_view(home.themes.newest(), codes_in_use(home), (), {})
    return {card.name: card for card in view.cards}


def test_codes_of_traces_that_wait_for_my_answer_are_not_shown_among_themes(tmp_path: Path) -> None:
    home = home_with_queue(
        tmp_path / "home", [queue_row(n) for n in range(3)], settings="[review]\nreviewers_per_item = 2\n"
    )
    ann, ben = Browser(home), Browser(home, "ben")
    ann.answer("t-00000", open_codes="what ann saw")
    assert "what ann saw" in ann.get("/themes").text
    page = ben.get("/themes").text
    assert "what ann saw" not in page
    assert "1 code of traces that wait for your answer" in page


# -- around it ---------------------------------------------------------------------------------------------------


def test_answers_reach_the_lake_and_dagster_once(ann: Browser, home: Home) -> None:
    """Also those that a killed server had only written to the journal."""
    ann.answer("t-00000")
    ann.answer("t-00001", "unsure")
    assert home.prepare().lake.keys(REVIEWS) == []
    assert publish(home) == 2
    assert publish(home) == 0
    rows = home.lake.read(REVIEWS, home.lake.keys(REVIEWS))
    assert sorted(rows["verdict"]) == ["real_failure", "unsure"]


def test_cases_that_share_rare_words_are_offered(home: Home) -> None:
    near = NearCases(home)
    (first, *_) = near.near("My parcel! The tracking page has not moved since Monday.")
    assert (first.case_id, first.share > 0.3) == ("case-0", True)
    assert near.near("entirely other matters") == []
    assert near.near("") == []
    home.ledger.retire(["case-0"], "test", "test", home.now())
    assert "case-0" not in near.cases()


def test_pairs_are_blind_and_both_sides_get_their_turn(home: Home) -> None:
    """Forty reviewers: production stands on either side, and the page does not say on which."""
    sides = [production_side(Pair("t", "s", None, 1), f"r{number}") for number in range(200)]
    assert 70 < sides.count("left") < 130, "a fair coin: 100 expected, sd 7"
    add_attempts(
        home, {"t-00000": "RIVAL WORDS", "unknown": "x", "t-00001": "You can find our refund policy on the website."}
    )
    ann = Browser(home)
    page = ann.get("/pairs").text
    production = "I am sorry to hear that."
    is_left = page.index(production) < page.index("RIVAL WORDS")
    assert "candidate:answer" not in page
    (name,) = re.findall(r'name="pair" value="([^"]+)"', page)
    assert ann.post("/prefer", pair=name, choice="best").status_code == 404
    assert ann.post("/prefer", pair="none", choice="left").status_code == 404
    assert ann.post("/prefer", pair=name, choice="right").status_code == 303
    (said,) = home.preferences.all()
    assert said.production_side == ("left" if is_left else "right")
    assert said.winner == ("rival" if is_left else "production")
    assert "Every pair has your choice" in ann.get("/pairs").text, "the same answer twice is no pair"
    assert "python:candidate:answer" in ann.get("/pairs/results").text
    assert not home.preferences.add(said, "test", home.now()), "the same choice again says nothing new"


def test_win_rates_count_pairs_once_and_see_a_favoured_side(tmp_path: Path) -> None:
    """t1: two of three for the rival; t2: a tie of two; t3: production. 5 of 6 decided choices took the left."""

    def said(trace_id: str, who: str, choice: str, production: str) -> Preference:
        return Preference(trace_id=trace_id, system="s", system_version=None, attempt=1, reviewer=who, production_side=production, choice=choice)  # type: ignore[arg-type]  # fmt: skip

    store = Preferences(tmp_path / "preferences")
    choices = [("t1", "ann", "left", "right"), ("t1", "ben", "left", "right"), ("t1", "cy", "left", "left")]
    choices += [("t2", "ann", "left", "right"), ("t2", "ben", "right", "right")]
    choices += [("t3", "ann", "tie", "left"), ("t3", "ann", "left", "left")]
    for row in choices:
        assert store.add(said(*row), "test", NOW)
    (rate,) = win_rates(store.all())
    assert (rate.n_pairs, rate.n_won, rate.n_lost, rate.n_ties) == (3, 1, 1, 1)
    assert (rate.win_share, rate.n_choices, rate.left_share) == (0.5, 6, 5 / 6)
    assert win_rates([]) == []


def test_the_json_of_a_draft_is_what_the_form_held(home: Home) -> None:
    with ReviewDesk(home.path / "review") as desk:
        desk.save_draft("t", "ann", {"comment": "ü\u2028"}, NOW)
        kept = desk.draft("t", "ann")
        assert kept is not None
        assert (json.dumps(kept.fields), kept.revision, kept.saved_at) == (json.dumps({"comment": "ü\u2028"}), 1, NOW)
        assert desk.draft("t", "ben") is None
