"""What stands before every page: who may ask, from where, and what a browser may do with the answer.

Belongs here: hosts, the token of a server that is bound elsewhere, sessions in a signed cookie, the defence against
forged requests (Origin, Sec-Fetch-Site and a token tied to the cookie), response headers, the size of what is sent.
Keep out: pages.
"""

import base64
import hashlib
import hmac
import ipaddress
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from html import escape
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, quote, urlencode

import msgspec
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evalflow.errors import UsageError

SESSION_DAYS = 7
"""A cookie that was not used for a week is no longer good: reviewing is a daily job."""
MAX_BODY_BYTES = 8_000_000
"""Of a form: an expected answer of `ingest.max_text_bytes`, each byte of it percent-encoded, and room for the rest."""
MAX_FIELDS = 500
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: under that a browser sends "Origin: null" with our own forms. Nothing goes to other sites either way.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
STATIC = "/static/"
Form = Mapping[str, list[str]]


@dataclass(frozen=True)
class Session:
    """One browser. ``is_admitted``: it has shown the token of a server that asks for one."""

    id: str
    reviewer: str | None = None
    is_admitted: bool = False


class Keys:
    """Signs cookies and form tokens with a secret of the home, so that both outlive a restart of the server."""

    def __init__(self, secret: bytes, token: str | None) -> None:
        self._secret = secret
        # A token from the settings is part of what is signed: changing it ends every session. One that is drawn anew
        # at each start is not, or a restart would turn away reviewers in the middle of their work.
        self._admission = token or ""
        # Cookies know no ports, and a browser's storage no homes.
        self.home_id = hashlib.sha256(secret).hexdigest()[:8]
        self.cookie = f"evalflow_review_{self.home_id}"

    def sign(self, session: Session, now: float) -> str:
        body = msgspec.json.encode([session.id, session.reviewer, session.is_admitted, int(now)])
        return f"{_packed(body)}.{_packed(self._mac(b'session', body))}"

    def read(self, value: str, now: float) -> Session | None:
        """The session of a cookie; None where it is forged, too old or of another token."""
        body, _, mac = value.partition(".")
        try:
            content, signature = _unpacked(body), _unpacked(mac)
        except ValueError:
            return None
        if not hmac.compare_digest(signature, self._mac(b"session", content)):
            return None
        id, reviewer, is_admitted, at = msgspec.json.decode(content)
        # Of the future too: a clock that was set back must turn nobody away in the middle of an answer.
        return Session(id, reviewer, is_admitted) if abs(now - at) < SESSION_DAYS * 86_400 else None

    def csrf(self, session: Session) -> str:
        """What a form of this browser has to send along."""
        return _packed(self._mac(b"csrf", session.id.encode()))

    def _mac(self, purpose: bytes, content: bytes) -> bytes:
        return hmac.digest(self._secret, b"\0".join([purpose, self._admission.encode(), content]), "sha256")


def secret_of(folder: Path) -> bytes:
    """The home's own secret for signing, made when it is missing; only its owner can read it."""
    path = folder / "secret"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            temporary = folder / f".{secrets.token_hex(8)}.tmp"
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
            try:
                os.link(temporary, path)  # of two servers that start at once, one makes it
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        secret = path.read_bytes()
    except OSError as error:
        raise UsageError(f"The secret of the review page {path} cannot be used ({error}); make it readable.") from error
    if len(secret) < 32:
        raise UsageError(f"The secret of the review page {path} is cut short; delete it, and a new one is made.")
    return secret


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """The ASGI application around the pages.

    A request for an unknown host name is refused: an address cannot be rebound by a stranger's DNS, a name can. What
    passes finds its session and, if it posts, its form in the state of its scope.

    Args:
        token: what a browser has to show once; None where none is asked for.
        hosts: names, in lower case, that the server answers to beside addresses and localhost.
        refuse: makes the page for a status and a sentence; nothing of the request is in it.
    """

    def __init__(
        self, app: ASGIApp, keys: Keys, token: str | None, hosts: frozenset[str], refuse: Callable[[int, str], Response]
    ) -> None:
        self.app, self.keys, self.token, self.hosts, self.refuse = app, keys, token, hosts, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_static = scope["path"].startswith(STATIC)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if not is_static:
                    headers["Cache-Control"] = "no-store"  # traces are nobody else's, and "back" shows what is saved
                    self._set_cookie(scope, headers)
            await send(message)

        await (await self._refusal(scope, receive) or self.app)(scope, receive, send_safely)

    async def _refusal(self, scope: Scope, receive: Receive) -> Response | None:
        """The answer to a request that may not pass; None lets it through, with session and form in its state."""
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        if not self._knows(headers.get("host", "")):
            return self.refuse(
                421,
                "This server does not answer under that name. Open it by its address, or name the host in review.hosts.",
            )
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return self.refuse(405, "This page only knows GET and POST.")
        if scope["path"].startswith(STATIC):
            return None
        session = self._session(headers)
        if scope["method"] == "POST":
            refusal = await self._refused_form(scope, receive, headers, session)
        else:
            refusal = self._refused_look(scope, headers, session)
        if refusal is None:
            state["session"] = session
        return refusal

    def _refused_look(self, scope: Scope, headers: Headers, session: Session) -> Response | None:
        query = QueryParams(scope["query_string"])
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            # A strict cookie does not come along with a click in a chat or a mail. Asked by our own page, it does.
            if headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest", "document") == "document":
                return _bounce(scope["path"], query.multi_items())
            return self.refuse(403, "Another site may not read this page.")
        if self.token is not None and _is_same(query.get("token"), self.token):
            scope["state"]["session"] = replace(session, is_admitted=True)
            return _bounce(scope["path"], [(name, value) for name, value in query.multi_items() if name != "token"])
        return self._refused_stranger(session)

    def _refused_stranger(self, session: Session) -> Response | None:
        if self.token is None or session.is_admitted:
            return None
        return self.refuse(
            401,
            "This page asks for a token. Open the link that evalflow review printed when it started: the token is in it. "
            "If you were here before, reloading this page may be enough.",
        )

    async def _refused_form(
        self, scope: Scope, receive: Receive, headers: Headers, session: Session
    ) -> Response | None:
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            return self.refuse(403, "This answer was sent by another site; nothing was saved.")
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return self.refuse(403, "This answer was sent by another site; nothing was saved.")
        if stranger := self._refused_stranger(session):
            return stranger
        if headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            return self.refuse(415, "Only forms of this page are taken.")
        body = await _body(receive)
        if body is None:
            return self.refuse(413, f"This is more than {MAX_BODY_BYTES:,} bytes; nothing was saved. Shorten it.")
        try:
            form = parse_qs(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        except ValueError:
            return self.refuse(400, "This form cannot be read; nothing was saved.")
        if not _is_same(form.get("csrf", [""])[0], self.keys.csrf(session)):
            return self.refuse(
                403,
                "This page is too old, or not from here; nothing was saved. Open it again: what you wrote is kept in this browser.",
            )
        scope["state"]["form"] = form
        return None

    def _knows(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.removeprefix("[").removesuffix("]").lower().rstrip(".")
        if name == "localhost" or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _session(self, headers: Headers) -> Session:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.keys.cookie)
        except CookieError:
            morsel = None
        found = self.keys.read(morsel.value, time.time()) if morsel else None
        return found or Session(secrets.token_urlsafe(16))

    def _set_cookie(self, scope: Scope, headers: MutableHeaders) -> None:
        """Sent with each page, so that the week counts from the last one."""
        session = scope.get("state", {}).get("session")
        if session is not None:
            value = self.keys.sign(session, time.time())
            headers.append(
                "Set-Cookie",
                f"{self.keys.cookie}={value}; Path=/; Max-Age={SESSION_DAYS * 86_400}; HttpOnly; SameSite=Strict",
            )


def _bounce(path: str, query: list[tuple[str, str]]) -> Response:
    """A page that asks for the same address again, as our own page."""
    target = "/" + quote(path.lstrip("/\\"), safe="/~") + ("?" + urlencode(query) if query else "")
    link = escape(target, quote=True)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>evalflow review</title>'
        f'<meta http-equiv="refresh" content="0;url={link}"></head><body><p><a href="{link}">Go on to the review page</a></p></body></html>'
    )


async def _body(receive: Receive) -> bytes | None:
    """What the browser sent; None where it is too much."""
    chunks, size = [], 0
    while True:
        message = await receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            return None
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


def _is_same(given: str | None, wanted: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), wanted.encode())


def _packed(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _unpacked(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
