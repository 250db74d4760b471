"""The process of `evalflow review`: an address of its own, a token where others can reach it, one server.

Keep out: pages and their security.
"""

import errno
import secrets
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import uvicorn

from evalflow.adapters.home import Home
from evalflow.errors import UsageError
from evalflow.web.app import Entrance, review_app
from evalflow.web.security import is_loopback

SHUTDOWN_S = 3
"""How long an end waits for requests that are under way."""


@dataclass(frozen=True)
class Bound:
    """A server that has its address and is not running yet. ``url`` holds the token where one is asked for."""

    url: str
    has_token: bool
    is_loopback: bool
    socket: socket.socket
    server: uvicorn.Server

    def serve(self) -> None:
        """Answer until Ctrl-C."""
        self.server.run(sockets=[self.socket])


@contextmanager
def bound(home: Home, host: str, port: int, reviewer: str | None) -> Iterator[Bound]:
    """A server on ``host`` and ``port`` (0 takes any that is free).

    Raises:
        UsageError: the address cannot be had; the message says why.
    """
    settings = home.settings.review
    only_here = is_loopback(host)
    given = settings.token.get_secret_value() if settings.token else None
    token = given or (None if only_here and not settings.hosts else secrets.token_urlsafe(24))
    hosts = frozenset(
        name.lower().rstrip(".") for name in [*settings.hosts, *([] if only_here else [socket.gethostname()])]
    )
    with closing(_listening(host, port)) as listening:
        app = review_app(home, Entrance(token, given is not None, hosts, reviewer))
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_S, server_header=False
        )
        address, real_port = listening.getsockname()[:2]
        shown = socket.gethostname() if address in ("0.0.0.0", "::") else host
        name = f"[{shown}]" if ":" in shown else shown
        url = f"http://{name}:{real_port}/" + (f"?token={quote(token, safe='')}" if token else "")
        yield Bound(url, token is not None, only_here, listening, uvicorn.Server(config))


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(
            f"{host!r} is no address of this machine ({error}); leave --host out for this machine alone."
        ) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"Port {port} of {host} is taken, perhaps by another review page; choose another with --port, or 0 for any "
                "that is free."
            ) from error
        raise UsageError(
            f"The review page cannot listen on {host}:{port} ({error}); choose another --host or --port."
        ) from error
    return listening
