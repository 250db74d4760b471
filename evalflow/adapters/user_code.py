"""A user's Python function, named by its address: found, and called without letting it stop or hang a run.

Keep out: what it is asked and what its answer means (``system.py``, ``scoring.py``).
"""

import asyncio
import atexit
import hashlib
import importlib
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

from evalflow.errors import UsageError

MOST_HANGING = 16
"""So many calls may hang past their time; then no more are begun, or a run would fill the machine with threads."""
REASON_CHARS = 300


class Raised(Exception):  # noqa: N818  # what the function did, not an error of ours
    """The function raised; the message names the exception, on one line."""


class TooSlow(Exception):  # noqa: N818
    """The function did not return in time."""


class TooManyHanging(Exception):  # noqa: N818
    """The function was not called, because too many earlier calls have not come back."""


def load_function(address: str, what: str) -> Callable[..., Any]:
    """The function at ``package.module:function``, looked for from the current folder on.

    Raises:
        UsageError: it is not there, or importing its module fails; ``what`` says for which setting.
    """
    module, colon, path = address.partition(":")
    if not (module and colon and path):
        raise UsageError(f"The {what} python:{address} names no function; write it as python:package.module:function.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = reduce(getattr, path.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"The {what} python:{address} cannot be imported ({_described(error)}); name a module that can be imported "
            f"from {here} and a function in it."
        ) from error
    if not callable(found):
        raise UsageError(f"The {what} python:{address} is a {type(found).__name__}, not a function; name a function.")
    return found


def source_hash(function: Callable[..., Any]) -> str:
    """A hash of the file that the function stands in; empty where it stands in none."""
    try:
        return hashlib.sha256(Path(inspect.getfile(inspect.unwrap(function))).read_bytes()).hexdigest()
    except (TypeError, OSError, ValueError):  # built in, an object with __call__, or made at run time
        return ""


class Function:
    """A user's function, plain or async, whose every call is bounded in time.

    A plain call runs in a thread of its own, which nobody waits for once its time is over; Python cannot end it. What
    async functions return is awaited on one event loop for the whole process, so that clients they keep stay usable.
    """

    def __init__(self, function: Callable[..., Any], timeout_s: float) -> None:
        self.function, self.timeout_s = function, timeout_s
        self.n_hanging = 0
        self.lock = threading.Lock()

    async def call(self, *arguments: Any) -> Any:
        """What the function returns.

        Raises:
            Raised: an exception came out of it, whichever it was.
            TooSlow: it took longer than ``timeout_s``.
            TooManyHanging: ``MOST_HANGING`` earlier calls still run past their time.
        """
        if self.n_hanging >= MOST_HANGING:
            raise TooManyHanging(f"{self.n_hanging} earlier calls still hang after {self.timeout_s:g} s")
        call = _Call(self, arguments)
        threading.Thread(target=call.run, name="evalflow-user-code", daemon=True).start()
        try:
            async with asyncio.timeout(self.timeout_s):  # not wait_for, which lets a Ctrl-C pass unheard in Python 3.11
                error, returned = await asyncio.wrap_future(call.done)
        except TimeoutError:
            call.give_up()
            raise TooSlow(f"did not return within {self.timeout_s:g} s") from None
        except asyncio.CancelledError:  # Ctrl-C
            call.give_up()
            raise
        if error is not None:
            raise Raised(_described(error))
        return returned


class _Call:
    def __init__(self, function: Function, arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments
        self.done: Future[tuple[BaseException | None, Any]] = Future()
        self.awaited: Future[Any] | None = None
        self.is_given_up = self.is_over = False

    def run(self) -> None:
        error: BaseException | None = None
        returned = None
        try:
            returned = self.function.function(*self.arguments)
            if inspect.isawaitable(returned):
                self.awaited = asyncio.run_coroutine_threadsafe(_result_of(returned), _shared_loop())
                returned = self.awaited.result()
        except BaseException as raised:  # a thread of ours: nothing that a user's function raises may leave it
            error = raised
        with self.function.lock:
            self.is_over = True
            self.function.n_hanging -= self.is_given_up
            with suppress(InvalidStateError):  # nobody waits any more
                self.done.set_result((error, returned))

    def give_up(self) -> None:
        with self.function.lock:
            if self.is_over:
                return  # it came back between the time-out and here
            self.is_given_up = True
            self.function.n_hanging += 1
        if self.awaited is not None:
            self.awaited.cancel()


async def _result_of(returned: Awaitable[Any]) -> Any:
    return await returned


_loop: asyncio.AbstractEventLoop | None = None
_loop_lock = threading.Lock()


def _shared_loop() -> asyncio.AbstractEventLoop:
    """The process's event loop for users' async functions, on a thread of its own."""
    global _loop  # noqa: PLW0603  # one per process, made when first needed
    with _loop_lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_loop.run_forever, name="evalflow-user-loop", daemon=True)
            thread.start()
            atexit.register(_close, _loop, thread)
        return _loop


def _close(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join(1)
    if not thread.is_alive():
        loop.close()


def _described(error: BaseException) -> str:
    """The exception on one short line."""
    said = " ".join(str(error).encode("utf-8", "replace").decode().replace("\x00", "\ufffd").split())
    whole = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return whole if len(whole) <= REASON_CHARS else f"{whole[: REASON_CHARS - 1]}…"
