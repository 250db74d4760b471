"""The pages of `evalflow review`: routes and what each one does.

Every action is a plain form; ``static/review.js`` only makes it quicker. Keep out: security (``security.py``), how a
trace is laid out (``views.py``), HTML (``templates/``).
"""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote, urlencode

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from evalflow.adapters.home import Home
from evalflow.adapters.review_desk import Draft, ReviewDesk
from evalflow.core.agreement import agreement, blind_votes
from evalflow.core.preferences import Choice, Pair, Preference, newest, production_side, win_rates
from evalflow.core.records import Review, Severity, Unusable, Verdict, parse_review
from evalflow.core.reviewing import SEVERITIES
from evalflow.defs.queue import Item, QueueIndex, queued_item
from evalflow.errors import BadInputError, EvalflowError, UsageError
from evalflow.web import text as filters
from evalflow.web.near_cases import NearCases
from evalflow.web.publishing import Publisher
from evalflow.web.security import Form, Guard, Keys, Session, secret_of
from evalflow.web.themes import shares_of, themes_view
from evalflow.web.views import (
    FIELDS,
    TABS,
    Filters,
    Standing,
    answer_row,
    common_codes,
    fields_of,
    slug_of,
    standing_of,
    trace_view,
    verdicts_in_words,
    wanted_of,
)

HERE = Path(__file__).parent
PAGE_ROWS = 50
MAX_NAME = 80
VERDICT_KEYS: dict[Verdict, str] = dict(zip(get_args(Verdict), "1234", strict=True))
SEVERITY_KEYS: dict[Severity, str] = dict(zip(get_args(Severity), "lmhc", strict=True))
KEYS = (
    ("1 2 3 4", "verdict: real failure, not a failure, duplicate, unsure"),
    ("e", "what the answer should have been"),
    ("l m h c", "severity: low, medium, high, critical"),
    ("o", "open codes: what went wrong, in your words"),
    ("t", "tags"),
    ("n", "note"),
    ("d", "duplicate, and of which case"),
    ("Esc", "leave a field, so that the keys work again"),
    ("Enter", "save and go to the next, outside of fields"),
    ("Ctrl or ⌘ + Enter", "the same, from anywhere"),
    ("s", "put aside and go to the next"),
    ("j k", "next and previous of the list, without saving"),
    ("q", "the queue"),
    ("/", "search the queue"),
    ("?", "these keys"),
)


@dataclass(frozen=True)
class Entrance:
    """Who may come in. ``token``: asked of each browser once, None where none is; ``is_token_set``: it is not a drawn one."""

    token: str | None = None
    is_token_set: bool = False
    hosts: frozenset[str] = frozenset()
    reviewer: str | None = None


def review_app(home: Home, entrance: Entrance) -> ASGIApp:
    """The ASGI application of one home.

    Raises:
        UsageError: the home's folder ``review/`` cannot be written.
    """
    keys = Keys(secret_of(home.path / "review"), entrance.token if entrance.is_token_set else None)
    desk = ReviewDesk(home.path / "review")
    pages = Pages(home, desk, keys, entrance.reviewer)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        pages.publisher.start()
        yield
        pages.publisher.stop()
        desk.close()

    async def not_found(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return pages.notice(status, "There is no such page." if status == 404 else "This cannot be done here.")

    async def sentence(request: Request, error: Exception) -> Response:
        return pages.notice(500, str(error))

    async def broken(request: Request, error: Exception) -> Response:
        return pages.notice(500, "Something went wrong on the server; its terminal says what. What was saved is safe.")

    app = Starlette(
        routes=[
            Route("/", pages.queue),
            Route("/next", pages.next),
            Route("/item/{slug:path}", pages.item),
            Route("/answer", pages.answer, methods=["POST"]),
            Route("/draft", pages.draft, methods=["POST"]),
            Route("/hold", pages.hold, methods=["POST"]),
            Route("/skip", pages.skip, methods=["POST"]),
            Route("/pairs", pages.pair),
            Route("/pairs/results", pages.preferences),
            Route("/prefer", pages.prefer, methods=["POST"]),
            Route("/themes", pages.themes),
            Route("/themes/rename", pages.edit_themes, methods=["POST"]),
            Route("/themes/move", pages.edit_themes, methods=["POST"]),
            Route("/agreement", pages.agreement),
            Route("/done", pages.done),
            Route("/help", pages.help),
            Route("/start", pages.start),
            Route("/reviewer", pages.name, methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        exception_handlers={HTTPException: not_found, EvalflowError: sentence, 500: broken},
        lifespan=lifespan,
    )
    return Guard(app, keys, entrance.token, entrance.hosts, pages.notice)


class Pages:
    """The handlers. Each runs in a thread of its own: they read files."""

    def __init__(self, home: Home, desk: ReviewDesk, keys: Keys, reviewer: str | None) -> None:
        self.home, self.desk, self.keys, self.default_reviewer = home, desk, keys, reviewer
        self.index, self.near_cases, self.publisher = QueueIndex(home), NearCases(home), Publisher(home)
        self._slugs: tuple[Sequence[Item], dict[str, Item]] = ((), {})
        self.templates = _templates()

    # -- queue --------------------------------------------------------------------------------------------------

    def queue(self, request: Request) -> Response:
        """What there is to answer, with filters."""
        if (asked := self._asked_for_name(request)) is not None:
            return asked
        me, wanted = self._reviewer(request), Filters.of(request.query_params)
        items = self.index.items()
        standings = [standing_of(item, me) for item in items]
        listed = [standing for standing in standings if wanted.lets_through(standing)]
        counts = Counter(standing.tab for standing in listed)
        shown = [standing for standing in listed if wanted.tab in ("all", standing.tab)]
        n_pages = max(1, -(-len(shown) // PAGE_ROWS))
        page = min(_number(request.query_params.get("page"), 1), n_pages)
        return self._page(
            request,
            "queue.html",
            filters=wanted,
            tabs=[(tab, name, len(listed) if tab == "all" else counts[tab]) for tab, name in TABS.items()],
            rows=shown[(page - 1) * PAGE_ROWS : page * PAGE_ROWS],
            n_shown=len(shown),
            n_todo=counts["todo"],
            n_all=len(items),
            page=page,
            n_pages=n_pages,
            choices=_choices(standings),
            held=self.desk.held_by_others(me, self._clock()),
            drafts=self.desk.drafts_of(me),
            saved=self._saved(request),
        )

    def next(self, request: Request) -> Response:
        """The next item that wants this reviewer, reserved for him."""
        if (asked := self._asked_for_name(request)) is not None:
            return asked
        me, wanted = self._reviewer(request), Filters.of(request.query_params)
        standings = (standing_of(item, me) for item in self.index.items())
        minutes = self.home.settings.review.reserve_minutes
        after = self._known(request.query_params.get("after", ""))
        trace_id = self.desk.reserve_next(
            wanted_of(filter(wanted.lets_through, standings)),
            *(me, self._clock(), minutes, after.trace_id if after else None),
        )
        carried = {name: request.query_params[name] for name in ("saved", "met") if name in request.query_params}
        if trace_id is None:
            return _to("/", wanted.query() | carried | {"over": "1"})
        return _to(f"/item/{slug_of(trace_id)}", wanted.query() | carried)

    # -- one item -----------------------------------------------------------------------------------------------

    def item(self, request: Request) -> Response:
        """One trace and the form for the answer."""
        if (asked := self._asked_for_name(request)) is not None:
            return asked
        known = self._known(request.path_params["slug"])
        if known is None:
            return self._unknown(request)
        if slug_of(known.trace_id) != request.path_params["slug"]:
            return _to(f"/item/{slug_of(known.trace_id)}", dict(request.query_params))
        return self._item_page(request, known)

    def answer(self, request: Request) -> Response:
        """Keep an answer for good and go on to the next item."""
        me, form = self._reviewer(request), _form(request)
        known = self._known(_first(form, "item"))
        if known is None:
            return self._unknown(request)
        if not me:
            return _to("/start")
        if _first(form, "reviewer") not in ("", me):
            return self._renamed(request, me)
        fields = _fields(form)
        review = self._review(known, me, fields)
        if isinstance(review, str):
            if _is_script(request):
                return JSONResponse({"problem": review}, 422)
            return self._item_page(request, known, fields, review)
        self.home.reviews.add([review], "review page", self.home.now())
        self.desk.clear(known.trace_id, me)
        self.publisher.tell()
        n_others = len({said.reviewer for said in self._again(known.trace_id).reviews} - {me})
        slug = slug_of(known.trace_id)
        carried = {"after": slug, "saved": slug}
        if n_others > _number(_first(form, "seen"), 0):
            carried["met"] = "1"  # somebody else answered it while this page was open
        going_on = _to("/next", _filters_sent(form).query() | carried)
        return JSONResponse({"go": going_on.headers["location"]}) if _is_script(request) else going_on

    def draft(self, request: Request) -> Response:
        """Keep a half-written answer."""
        me, form = self._reviewer(request), _form(request)
        known = self._known(_first(form, "item"))
        if known is None or not me:
            return JSONResponse({"error": "unknown item or reviewer"}, 404)
        if _first(form, "reviewer") not in ("", me):
            return self._renamed(request, me)
        base = _number(_first(form, "base"), 0) if "base" in form else None
        saved = self.desk.save_draft(known.trace_id, me, _fields(form), self._clock(), base)
        if isinstance(saved, Draft):
            return JSONResponse({"other": saved.fields, "revision": saved.revision}, 409)
        return JSONResponse({"revision": saved, "others": self._hold(known, me)})

    def hold(self, request: Request) -> Response:
        """Keep an open item reserved while somebody works on it."""
        me, known = self._reviewer(request), self._known(_first(_form(request), "item"))
        if known is None or not me:
            return JSONResponse({"error": "unknown item or reviewer"}, 404)
        return JSONResponse({"others": self._hold(known, me)})

    def skip(self, request: Request) -> Response:
        """Put an item aside."""
        me, form = self._reviewer(request), _form(request)
        known = self._known(_first(form, "item"))
        if known is None or not me:
            return self._unknown(request)
        fields, mine = _fields(form), standing_of(known, me).mine
        is_changed = any(fields.values()) if mine is None else fields != fields_of(mine)
        if is_changed and _first(form, "reviewer") in ("", me):
            self.desk.save_draft(known.trace_id, me, fields, self._clock())
        self.desk.put_aside(known.trace_id, me, self._clock())
        return _to("/next", _filters_sent(form).query() | {"after": slug_of(known.trace_id)})

    # -- pairs --------------------------------------------------------------------------------------------------

    def pair(self, request: Request) -> Response:
        """Two answers to one question, whose they are untold."""
        if (asked := self._asked_for_name(request)) is not None:
            return asked
        me = self._reviewer(request)
        pairs = self._pairs()
        said = {pair for pair, reviewer in newest(self.home.preferences.all()) if reviewer == me}
        open_pairs = [pair for pair in pairs if pair not in said]
        for chosen in open_pairs:
            item = queued_item(self.home, chosen.trace_id)
            production, rival = item.row["output"] if item else None, pairs[chosen]
            if item and production != rival:  # the same answer twice is nothing to choose from
                break
        else:
            return self._page(request, "pairs_over.html", n_pairs=len(pairs))
        is_left = production_side(chosen, me) == "left"
        return self._page(
            request,
            "pair.html",
            pair=chosen,
            pair_name=_pair_name(chosen),
            view=trace_view(item.row),
            left=production if is_left else rival,
            right=rival if is_left else production,
            n_done=len(pairs) - len(open_pairs),
            n_pairs=len(pairs),
        )

    def prefer(self, request: Request) -> Response:
        """Keep a choice between two answers."""
        me, form = self._reviewer(request), _form(request)
        chosen = {_pair_name(pair): pair for pair in self._pairs()}.get(_first(form, "pair"))
        choice = _first(form, "choice")
        if chosen is None or not me or choice not in get_args(Choice):
            return self.notice(404, "There is no such pair; open the pairs again.", request)
        preference = Preference(
            **chosen._asdict(),
            reviewer=me,
            production_side=production_side(chosen, me),
            choice=choice,  # type: ignore[arg-type]
        )
        self.home.preferences.add(preference, "review page", self.home.now())
        return _to("/pairs")

    def preferences(self, request: Request) -> Response:
        """How often each rival was preferred to production."""
        rates = win_rates(self.home.preferences.all())
        return self._page(request, "preferences.html", rates=rates)

    def _pairs(self) -> dict[Pair, str]:
        """What may be compared, in the order of the queue, with the rival's answer: each system's first attempt."""
        order = {item.trace_id: place for place, item in enumerate(self.index.items()) if item.row["has_output"]}
        found: dict[Pair, str] = {}
        seen: set[tuple[Any, ...]] = set()
        for kept in self.home.attempts.all():
            if kept.kind == "trace" and kept.item_id in order and kept.output and kept.question not in seen:
                seen.add(kept.question)
                found[Pair(kept.item_id, kept.system, kept.system_version, kept.attempt)] = kept.output
        return dict(sorted(found.items(), key=lambda pair: order[pair[0].trace_id]))

    # -- themes -------------------------------------------------------------------------------------------------

    def themes(self, request: Request) -> Response:
        """What goes wrong: themes with their codes, to be renamed and moved."""
        return self._asked_for_name(request) or self._themes_page(request)

    def edit_themes(self, request: Request) -> Response:
        """Rename a theme, or move codes into another one: a new version of the themes."""
        from evalflow.defs.themes import move_codes, rename_theme

        me, form = self._reviewer(request), _form(request)
        if not me:
            return _to("/start", {"to": "/themes"})
        expected, name = _number(_first(form, "version"), 0), _first(form, "name")
        try:
            if request.url.path.endswith("rename"):
                version = rename_theme(self.home, _first(form, "theme"), name, expected, me)
            else:
                version = move_codes(self.home, form.get("code", []), _first(form, "to"), name, expected, me)
        except BadInputError as error:
            return self._themes_page(request, str(error), 422)
        except UsageError as error:
            return self._themes_page(request, str(error), 409)
        return _to("/themes", {"recorded": str(version.version)} if version.version != expected else None)

    def _themes_page(self, request: Request, problem: str = "", status: int = 200) -> Response:
        from evalflow.defs.themes import codes_in_use

        me = self._reviewer(request)
        # Where answers are blind, codes of traces that he has still to answer would tell him what others said of them.
        is_blind = self.home.settings.review.reviewers_per_item > 1
        hidden = {item.trace_id for item in self.index.items() if is_blind and standing_of(item, me).tab == "todo"}
        found = themes_view(self.home.themes.newest(), codes_in_use(self.home), hidden, shares_of(self.home))
        return self._page(
            request, "themes.html", status, found=found, problem=problem, recorded=request.query_params.get("recorded")
        )

    # -- figures and help -----------------------------------------------------------------------------------------

    def agreement(self, request: Request) -> Response:
        """How far reviewers agree."""
        items = self.index.items()
        wanted = self.home.settings.review.reviewers_per_item
        found = agreement(blind_votes([review for item in items for review in item.reviews], wanted))
        me = self._reviewer(request)
        disagreed = set(found.disagreed)
        standings = [standing_of(item, me) for item in items if item.trace_id in disagreed]
        return self._page(
            request,
            "agreement.html",
            found=found,
            n_wanted=wanted,
            shown=[standing for standing in standings if standing.is_revealed][:PAGE_ROWS],
            n_hidden=sum(not standing.is_revealed for standing in standings),
        )

    def done(self, request: Request) -> Response:
        """What was answered in the last day, and what waits for promotion."""
        me = self._reviewer(request)
        items = self.index.items()
        since = self.home.now() - timedelta(days=1)
        answered = [
            (review, standing_of(item, me))
            for item in items
            for review in item.reviews
            if review.reviewed_at and review.reviewed_at >= since
        ]
        mine = sorted(
            ((review, standing) for review, standing in answered if review.reviewer == me),
            key=lambda found: found[0].number,
            reverse=True,
        )
        newest_mine = {standing.item.trace_id: (review, standing) for review, standing in reversed(mine)}
        return self._page(
            request,
            "done.html",
            mine=list(newest_mine.values())[::-1][: 4 * PAGE_ROWS],
            n_mine=len(newest_mine),
            by_reviewer=Counter(
                reviewer for reviewer, _ in {(review.reviewer, review.trace_id) for review, _ in answered}
            ).most_common(),
            n_ready=sum(item.is_ready for item in items),
            problem=self.publisher.problem,
        )

    def help(self, request: Request) -> Response:
        """The keys, for browsers without scripts."""
        return self._page(request, "help.html")

    # -- who is there ---------------------------------------------------------------------------------------------

    def start(self, request: Request) -> Response:
        """Ask for the reviewer's name."""
        return self._page(request, "start.html", to=_local(request.query_params.get("to", "/")), problem="")

    def name(self, request: Request) -> Response:
        """Remember the reviewer's name in this browser."""
        form = _form(request)
        given, to = " ".join(_first(form, "name").split()), _local(_first(form, "to") or "/")
        if not given or len(given) > MAX_NAME or filters.visible_line(given) != given:
            problem = f"A name is needed, of at most {MAX_NAME} ordinary characters."
            return self._page(request, "start.html", 422, to=to, problem=problem)
        session: Session = request.scope["state"]["session"]
        request.scope["state"]["session"] = Session(session.id, given, session.is_admitted)
        return RedirectResponse(to, 303)

    def _asked_for_name(self, request: Request) -> Response | None:
        if self._reviewer(request):
            return None
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return _to("/start", {"to": here if request.method == "GET" else "/"})

    def _reviewer(self, request: Request) -> str:
        session: Session = request.scope["state"]["session"]
        return session.reviewer or self.default_reviewer or ""

    # -- inside ---------------------------------------------------------------------------------------------------

    def _known(self, name: str) -> Item | None:
        """The item of an address or a form: by its slug, else by its very trace_id."""
        items = self.index.items()
        held, by_slug = self._slugs
        if held is not items:
            by_slug = {slug_of(item.trace_id): item for item in items}
            self._slugs = (items, by_slug)
        return by_slug.get(name) or by_slug.get(slug_of(name))

    def _again(self, trace_id: str) -> Item:
        """The item as it stands now."""
        found = self._known(slug_of(trace_id))
        assert found is not None  # what was queued stays queued
        return found

    def _review(self, item: Item, me: str, fields: Mapping[str, str]) -> Review | str:
        """The answer that a form gives, or a sentence that says why it is none."""
        if not fields["verdict"]:
            return "Choose a verdict first: keys 1 to 4. What you wrote is kept."
        mine = standing_of(item, me).mine
        at = self.home.now()
        if mine is not None and mine.reviewed_at is not None and at <= mine.reviewed_at:
            at = mine.reviewed_at + timedelta(
                microseconds=1
            )  # a closed home's clock stands still; a correction is later
        row = {"trace_id": item.trace_id, "reviewer": me, "reviewed_at": at.isoformat(), **answer_row(fields)}
        if any("\0" in text for text in [*row["open_codes"], *row["tags"]]):
            return "A code or a tag contains a NUL character; delete it."
        review = parse_review(row, self.home.settings.ingest.max_text_bytes)
        if isinstance(review, Unusable) or review is None:
            return f"This answer cannot be kept: {review.reason if review else 'it has no verdict'}."
        if review.duplicate_of and review.duplicate_of not in self.near_cases.cases():
            return f"There is no case {review.duplicate_of!r} in the golden set; choose one of the list, or leave the field empty."
        return review

    def _item_page(
        self, request: Request, item: Item, fields: Mapping[str, str] | None = None, problem: str = ""
    ) -> Response:
        me = self._reviewer(request)
        full = queued_item(self.home, item.trace_id)
        if full is None:
            return self._unknown(request)
        standing, items = standing_of(full, me), self.index.items()
        form = _form(request)
        wanted = _filters_sent(form) if form else Filters.of(request.query_params)
        kept = self.desk.draft(item.trace_id, me)
        answered = fields_of(standing.mine) if standing.mine else dict.fromkeys(FIELDS, "")
        if kept is not None and kept.fields == answered:
            self.desk.clear(item.trace_id, me)  # a server was killed between the answer and clearing its draft
            kept = None
        listed = [
            other.item.trace_id
            for other in (standing_of(found, me) for found in items)
            if wanted.lets_through(other) and (wanted.tab in ("all", other.tab) or other.item.trace_id == item.trace_id)
        ]
        place = listed.index(item.trace_id) if item.trace_id in listed else -1
        others = self.desk.hold(item.trace_id, me, self._clock(), self.home.settings.review.reserve_minutes)
        return self._page(
            request,
            "item.html",
            422 if problem else 200,
            standing=standing,
            item=full,
            row=full.row,
            slug=slug_of(item.trace_id),
            view=trace_view(full.row),
            fields=fields or (kept.fields if kept else answered),
            draft=kept,
            problem=problem,
            others=others,
            verdict_line=verdicts_in_words(standing),
            near=self.near_cases.near(full.row["text"]),
            # Another's codes for this very trace would tell what he said of it.
            codes=common_codes([other for other in items if standing.is_revealed or other.trace_id != item.trace_id]),
            filters=wanted,
            place=place + 1,
            n_listed=len(listed),
            previous=slug_of(listed[place - 1]) if place > 0 else None,
            following=slug_of(listed[place + 1]) if 0 <= place < len(listed) - 1 else None,
            saved=self._saved(request) if not problem else None,
        )

    def _hold(self, item: Item, me: str) -> list[str]:
        others = self.desk.hold(item.trace_id, me, self._clock(), self.home.settings.review.reserve_minutes)
        return [other.reviewer for other in others]

    def _saved(self, request: Request) -> dict[str, Any] | None:
        """What was answered just before this page: said again, so that a slip is seen."""
        item = self._known(request.query_params.get("saved", "")) if "saved" in request.query_params else None
        standing = standing_of(item, self._reviewer(request)) if item else None
        if standing is None or standing.mine is None:
            return None
        return {
            "standing": standing,
            "slug": slug_of(standing.item.trace_id),
            "met": "met" in request.query_params,
            "verdict_line": verdicts_in_words(standing),
        }

    def _unknown(self, request: Request) -> Response:
        sentence = "This trace is not in the queue of this home; the queue shows what is, under All."
        return self.notice(404, sentence, request)

    def _renamed(self, request: Request, me: str) -> Response:
        """The page was opened under another name, which was changed in this browser since."""
        sentence = f"This page was opened by {_first(_form(request), 'reviewer')}, and this browser is {me}'s now; nothing was saved."
        if _is_script(request):
            return JSONResponse({"problem": sentence}, 409)
        return self.notice(409, sentence, request)

    def _clock(self) -> datetime:
        """Of the desk, which also goes on in a closed home."""
        return datetime.now(UTC)

    def notice(self, status: int, sentence: str, request: Request | None = None) -> Response:
        """A page with one sentence."""
        content = self.templates.get_template("notice.html").render(
            status=status,
            sentence=sentence,
            me=self._reviewer(request) if request else "",
            csrf="",
            home_id=self.keys.home_id,
            here="",
        )
        return HTMLResponse(content, status)

    def _page(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        session: Session = request.scope["state"]["session"]
        content = self.templates.get_template(template).render(
            me=self._reviewer(request),
            csrf=self.keys.csrf(session),
            home_id=self.keys.home_id,
            here=request.url.path,
            over="over" in request.query_params,
            **values,
        )
        return HTMLResponse(content, status)


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "visible": filters.visible,
        "line": filters.visible_line,
        "as_json": filters.as_json,
        "moment": filters.moment,
        "words": filters.words,
        "percent": filters.percent,
        "slug": slug_of,
        "query": urlencode,
    }
    environment.globals |= {
        "LONG": filters.LONG,
        "KEYS": KEYS,
        "VERDICT_KEYS": VERDICT_KEYS,
        "SEVERITY_KEYS": SEVERITY_KEYS,
        "static": {file.name: f"/static/{file.name}?v={_hash(file)}" for file in (HERE / "static").iterdir()},
    }
    return environment


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _choices(standings: Sequence[Standing]) -> dict[str, list[tuple[str, str]]]:
    """What the filters offer: value and name, of what is in the queue."""
    items = [standing.item for standing in standings]
    severities = {severity for standing in standings for severity in standing.severities}
    bins = {item.row["bin"]: item.row["label"] or item.row["bin"] for item in items if item.row["bin"]}
    return {
        "queue": [(name, name) for name in sorted({item.queue for item in items})],
        "source": [(name, filters.words(name)) for name in sorted({item.row["source"] for item in items})],
        "bin": sorted(bins.items(), key=lambda found: found[1].casefold()),
        "severity": [(severity, f"{severity} severity") for severity in reversed(SEVERITIES) if severity in severities],
    }


def _to(path: str, query: Mapping[str, str] | None = None) -> Response:
    return RedirectResponse(quote(path, safe="/~") + (f"?{urlencode(query)}" if query else ""), 303)


def _local(path: str) -> str:
    """An address of this page; anything else leads to the queue."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return quote(path, safe="/?&=~%+.-_") if is_local else "/"


def _is_script(request: Request) -> bool:
    """Whether the page's own script asks, which goes on by itself."""
    return "application/json" in request.headers.get("accept", "")


def _form(request: Request) -> Form:
    form: Form = request.scope["state"].get("form", {})
    return form


def _first(form: Form, name: str) -> str:
    return form.get(name, [""])[0]


def _fields(form: Form) -> dict[str, str]:
    """The answer's fields; a browser sends line breaks as CRLF."""
    return {name: _first(form, name).replace("\r\n", "\n").replace("\r", "\n") for name in FIELDS}


def _filters_sent(form: Form) -> Filters:
    """The list that the reviewer came from, as the form carries it along."""
    return Filters.of(
        {name.removeprefix("list_"): values[0] for name, values in form.items() if name.startswith("list_")}
    )


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0 else otherwise


def _pair_name(pair: Pair) -> str:
    return hashlib.sha256("\0".join(map(str, pair)).encode("utf-8", "surrogatepass")).hexdigest()[:24]
