"""The system under test: a question in, its answer out, from an OpenAI-compatible endpoint or a Python function.

Whatever a system does to one question stays with that question: an exception, a time-out or an answer that is none is an
answer without a verdict, with its reason. Source: docs/ci.md, "The system under test". Keep out: what an answer is worth
(``scoring.py``), and asking many questions (``attempting.py``).
"""

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, NamedTuple, Protocol

from evalflow.adapters.judge_endpoint import Endpoint, Question, RefusedError, UnusableError, client_of
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.user_code import Function, Raised, TooManyHanging, TooSlow, load_function, source_hash
from evalflow.core.lineage import fingerprint
from evalflow.core.records import GoldenCase
from evalflow.errors import UnreachableError, UsageError
from evalflow.settings import Settings, System, shown_url

PURPOSE = "suite"
"""In the header ``x-evalflow-purpose`` of every request, so that a tracer can keep these calls out of the traffic."""
PYTHON = "python:"
State = Literal["answered", "broken", "unreached"]
FORMS = f"{PYTHON}package.module:function or the address of an OpenAI-compatible endpoint"


class Task(NamedTuple):
    """One question to the system. ``key``: the case_id or trace_id; with ``repeat``, from 1, it is unique in a run.

    ``expected_output`` is for scorers; a system never sees it.
    """

    key: str
    input: str
    conversation: Sequence[Mapping[str, Any]] = ()
    expected_output: str | None = None
    tags: Any = None
    metadata: Any = None
    repeat: int = 1

    def document(self) -> dict[str, Any]:
        """What a user's function is given: a copy, which it may change."""
        names = ("input", "conversation", "tags", "metadata")
        return copy.deepcopy({"case_id": self.key, **{name: getattr(self, name) for name in names}})


@dataclass(frozen=True)
class Answer:
    """What came of one question.

    ``output`` is None where there is none, with the ``reason``. ``has_verdict``: the system judged itself, by ``passed``
    (None: it cannot tell). ``state``: it answered, if only with a refusal; it broke, and may not the next time; or it was
    not reached, so that nothing was learned of it.
    """

    output: str | None = None
    passed: bool | None = None
    has_verdict: bool = False
    reason: str | None = None
    latency_ms: float | None = None
    state: State = "answered"


Ask = Callable[[Task], Awaitable[Answer]]


class SystemUnderTest(Protocol):
    """``name`` holds no secret; ``code`` changes with what is seen of its code and prompt; ``may_judge``: it can have a
    verdict of its own.

    ``opened`` gives what is asked, for the time of one run and its event loop.
    """

    name: str
    version: str | None
    code: str
    concurrency: int
    may_judge: bool

    def opened(self) -> AbstractAsyncContextManager[Ask]: ...


def system_of(settings: Settings, given: str | None = None) -> SystemUnderTest:
    """The system that ``given`` names, else the one that the settings name.

    Raises:
        UsageError: none is named, more than one is, or it cannot be used.
    """
    system = settings.system
    if given is None and system.callable and (system.base_url or system.model):
        raise UsageError(
            f"The settings name two systems, system.callable = {system.callable!r} and an endpoint; leave one of them out."
        )
    address = given or system.callable
    if address and address.startswith(PYTHON):
        function = load_function(address.removeprefix(PYTHON), "system")
        return FunctionSystem(address, function, system, settings.ingest.max_text_bytes)
    if address and not address.startswith(("http://", "https://")):
        raise UsageError(f"The system {shown_url(address)!r} cannot be asked; write it as {FORMS}.")
    if address:
        system = system.model_copy(update={"base_url": address})
    elif not has_system(settings):
        raise UsageError(
            "No system is named; name one with --system (in pytest --evalflow-system), or set system.callable or "
            f"system.base_url: {FORMS}."
        )
    if not system.model:
        raise UsageError("No model is named to ask the endpoint for; set system.model.")
    return EndpointSystem(system)


def has_system(settings: Settings) -> bool:
    """Whether the settings name a system at all; that it can be reached is another matter."""
    return any((settings.system.callable, settings.system.base_url, settings.system.model))


def task_of(case: CaseVersion | GoldenCase, repeat: int = 1) -> Task:
    """The question that a golden case asks."""
    held = case.metadata.get("conversation") if isinstance(case.metadata, Mapping) else None
    conversation = held if isinstance(held, list) else []
    return Task(case.case_id, case.input, conversation, case.expected_output, case.tags, case.metadata, repeat)


# -- an endpoint -----------------------------------------------------------------------------------------------


class _Said(NamedTuple):
    text: str | None
    reason: str | None


SAID: Question[_Said] = Question(
    purpose=PURPOSE,
    name="answer",
    schema=None,
    parse=lambda content: _Said(as_text(content), None),
    is_of_form=lambda content: True,
    missing=lambda reason: _Said(None, f"the endpoint {as_text(reason)}"),
)


class EndpointSystem:
    """An OpenAI-compatible endpoint, asked as it serves its users: messages and model, no further settings."""

    def __init__(self, settings: System) -> None:
        self.settings = settings
        self.name = str(settings.model) + (f" at {shown_url(settings.base_url)}" if settings.base_url else "")
        self.version, self.code = settings.version, fingerprint(settings.system_prompt)
        self.concurrency, self.may_judge = settings.concurrency, False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ask]:
        """
        Raises:
            UnreachableError: no request can be made at all.
        """
        from openai import OpenAIError

        key = self.settings.api_key.get_secret_value() if self.settings.api_key else ""
        try:
            client = client_of(self.settings, key, SAID.purpose)
        except OpenAIError:
            raise UnreachableError(
                "There is no key for the system's endpoint; set EVALFLOW_SYSTEM__API_KEY, or system.base_url for a server "
                "that needs none."
            ) from None
        async with client:
            endpoint = Endpoint(client, self.settings, SAID)
            if not endpoint.has_usable_key():
                raise UnreachableError(
                    "The system's key holds characters that no HTTP header can carry, such as a line break; "
                    "set EVALFLOW_SYSTEM__API_KEY to the bare key."
                )
            yield lambda task: self._ask(endpoint, task)

    async def _ask(self, endpoint: Endpoint[_Said], task: Task) -> Answer:
        messages = self._messages(task)
        if messages is None:
            return Answer(reason="metadata.conversation holds something that is no message with a role")
        began = perf_counter()
        try:
            reply = await endpoint.ask(messages)
        except UnusableError as error:
            return Answer(reason=str(error), state="unreached")
        except RefusedError as error:
            return Answer(reason=f"the endpoint refused the request: {error}", latency_ms=_since(began))
        return Answer(reply.answer.text, reason=reply.answer.reason, latency_ms=_since(began))

    def _messages(self, task: Task) -> list[dict[str, Any]] | None:
        """The conversation as it stands, then the input; the candidate's own system prompt replaces a recorded one."""
        earlier = list(task.conversation)
        if not all(isinstance(turn, Mapping) and isinstance(turn.get("role"), str) for turn in earlier):
            return None
        prompt = self.settings.system_prompt
        if prompt is not None:
            earlier = [turn for turn in earlier if turn["role"] not in ("system", "developer")]
            earlier = [{"role": "system", "content": prompt}, *earlier]
        return [*map(dict, earlier), {"role": "user", "content": task.input}]


# -- a Python function -----------------------------------------------------------------------------------------


class FunctionSystem:
    """A Python function of one case, plain or async, that returns its answer as text or as a dict with ``output``.

    The dict may also hold ``pass`` (true, false, or None where it cannot tell) and a ``reason``: its own verdict.
    """

    def __init__(self, name: str, function: Callable[..., Any], settings: System, max_text_bytes: int) -> None:
        self.name, self.version, self.code = name, settings.version, source_hash(function)
        self.concurrency, self.may_judge = settings.concurrency, True
        self.max_text_bytes = max_text_bytes
        self.function = Function(function, settings.timeout_s)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ask]:
        yield self._ask

    async def _ask(self, task: Task) -> Answer:
        began = perf_counter()
        try:
            returned = await self.function.call(task.document())
        except Raised as error:
            return Answer(reason=f"the function raised {error}", latency_ms=_since(began), state="broken")
        except TooSlow as error:
            return Answer(reason=f"the function {error}", state="broken")
        except TooManyHanging as error:
            return Answer(reason=f"the function was not called: {error}", state="broken")
        return self._read(returned, _since(began))

    def _read(self, returned: Any, latency_ms: float) -> Answer:
        """What the function returned; anything but the two forms is no answer."""
        fields = {"output": returned} if isinstance(returned, str) else returned
        if not isinstance(fields, Mapping) or not {"output", "pass"} & fields.keys():
            kind = type(returned).__name__
            return Answer(
                reason=f"the function returned {kind}, not text or a dict with 'output'", latency_ms=latency_ms
            )
        output, passed, reason = fields.get("output"), fields.get("pass"), fields.get("reason")
        if output is not None and not isinstance(output, str):
            return Answer(reason=f"the function's output is {type(output).__name__}, not text", latency_ms=latency_ms)
        if passed is not None and not isinstance(passed, bool):
            said = f"the function's pass is {type(passed).__name__}, not true, false or null"
            return Answer(reason=said, latency_ms=latency_ms)
        if output is None and "pass" not in fields:
            return Answer(reason="the function's output is null", latency_ms=latency_ms)
        text = None if output is None else as_text(output)
        if text is not None and (size := len(text.encode())) > self.max_text_bytes:
            limit = f"ingest.max_text_bytes = {self.max_text_bytes:,}"
            return Answer(reason=f"the function's output has {size:,} bytes, above {limit}", latency_ms=latency_ms)
        return Answer(text, passed, "pass" in fields, None if reason is None else as_text(str(reason)), latency_ms)


def as_text(text: str) -> str:
    """Text that a file can hold: halves of a surrogate pair and NUL become replacement characters."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def _since(began: float) -> float:
    return round(1000 * (perf_counter() - began), 1)
