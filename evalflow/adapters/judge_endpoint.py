"""An OpenAI-compatible endpoint, the judge's or the system under test's: one question out, one answer or one clear
sentence back.

Through the official client, which retries and honours rate limits. The key is never part of a message.
Keep out: what is asked about how many items, and the cache (``judge.py``, ``naming.py``, ``system.py``); costs
(``spending.py``); the form of question and answer (``core/grading.py``, ``core/labels.py``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from evalflow.settings import Judge, System, shown_url

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI, OpenAIError

NO_KEY = "none"
"""Sent to a base_url that no key was given for: local servers want none, and a key from elsewhere is not theirs."""
PURPOSE_HEADER = "x-evalflow-purpose"
"""On every request, so that whoever traces the endpoint can keep these calls out of the traffic."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """A kind of question: the form of its answers, and how one is read.

    ``purpose`` is what the header says, ``name`` the schema's name. Without a schema any text is an answer, and the
    endpoint is asked as it serves its users: with no setting of ours. ``parse`` takes any text; ``is_of_form`` tells
    whether it held an answer. ``missing`` is the answer where none came, from what the endpoint did instead.
    """

    purpose: str
    name: str
    schema: dict[str, Any] | None
    parse: Callable[[str], Answer]
    is_of_form: Callable[[str], bool]
    missing: Callable[[str], Answer]


class UnusableError(Exception):
    """The endpoint cannot be used at all; the message is for the user."""


class RefusedError(Exception):
    """The endpoint does not take this one item; the message is the endpoint's own."""


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None
    usage: _Usage | None = None


class Reply(NamedTuple, Generic[Answer]):
    """What came back for one item; ``retries_taken`` counts the tries before it that brought nothing.

    ``is_of_form`` is false of an answer that does not hold what was asked for; a refusal is a form of its own.
    """

    answer: Answer
    usage: _Usage | None
    is_cut: bool
    is_of_form: bool
    retries_taken: int


class Endpoint(Generic[Answer]):
    """One endpoint, asked one kind of question; the form of request that it takes is learned from what it refuses."""

    def __init__(self, client: "AsyncOpenAI", settings: Judge | System, question: Question[Answer]) -> None:
        self.client, self.settings, self.question = client, settings, question
        self.secrets = [secret for secret in (client.api_key, client.admin_api_key) if secret and secret != NO_KEY]
        self.shown_url = shown_url(str(client.base_url))
        self.form = _form_of(question, settings)
        self.is_form_accepted = False

    def has_usable_key(self) -> bool:
        return all(secret.isascii() and secret.isprintable() and " " not in secret for secret in self.secrets)

    async def ask(self, messages: list[dict[str, str]]) -> Reply[Answer]:
        """The endpoint's answer about one item.

        Raises:
            UnusableError: no item can be asked about here.
            RefusedError: the endpoint does not take this item.
        """
        from openai import APIStatusError, OpenAIError

        form, learned = self.form, self.is_form_accepted
        while True:
            try:
                raw = await self.client.chat.completions.with_raw_response.create(
                    model=str(self.settings.model),
                    messages=messages,  # type: ignore[arg-type]  # plain dicts of the same form
                    **form,
                )
                break
            except APIStatusError as error:
                if error.status_code not in (400, 413, 422):
                    raise UnusableError(self._sentence(error)) from None
                said = self._said(error)
                simpler = _simpler(form, said, may_guess=not learned)
                if simpler is None:
                    raise RefusedError(said) from None
                form = simpler
            except OpenAIError as error:
                raise UnusableError(self._sentence(error)) from None
        self.form, self.is_form_accepted = form, True
        return self._reply(raw.content, raw.retries_taken)

    def _reply(self, body: bytes, retries_taken: int) -> Reply[Answer]:
        try:
            completion = msgspec.json.decode(body, type=_Completion)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise UnusableError(
                f"The {self.settings.section} endpoint {self.shown_url} answers with something other than a chat completion; "
                f"correct {self.settings.section}.base_url, which mostly ends in /v1."
            ) from None
        question, usage = self.question, completion.usage
        if not completion.choices:
            return Reply(question.missing("gave no answer"), usage, False, False, retries_taken)
        choice = completion.choices[0]
        is_cut = choice.finish_reason == "length"
        if choice.message.refusal and not choice.message.content:
            refused = question.missing(f"refused: {self._redacted(choice.message.refusal)}")
            return Reply(refused, usage, is_cut, True, retries_taken)
        content = self._redacted(choice.message.content or "")
        return Reply(question.parse(content), usage, is_cut, question.is_of_form(content), retries_taken)

    def _said(self, error: "APIStatusError") -> str:
        """The endpoint's own message, short and without the key."""
        body = error.body if isinstance(error.body, dict) else {}
        said = str(body.get("message") or body.get("detail") or error.message)
        said = " ".join(self._redacted(said).encode("utf-8", "replace").decode().split())
        return f"HTTP {error.status_code}: {said if len(said) <= 200 else said[:200] + '...'}"

    def _sentence(self, error: "OpenAIError") -> str:
        """What is wrong with the endpoint and what to do; nothing that it said is repeated, since it may hold the key."""
        from openai import APIStatusError, APITimeoutError

        url, model, tries = self.shown_url, self.settings.model, 1 + self.settings.max_retries
        section = self.settings.section
        endpoint = f"The {section} endpoint {url}"
        if isinstance(error, APITimeoutError):
            return (
                f"{endpoint} did not answer for {model!r} within {self.settings.timeout_s:g} s in {tries} tries; "
                f"raise {section}.timeout_s or lower {section}.concurrency."
            )
        if not isinstance(error, APIStatusError):
            return (
                f"{endpoint} cannot be reached for {model!r} in {tries} tries; start it or correct {section}.base_url."
            )
        status = error.status_code
        if status in (401, 403):
            return f"{endpoint} refuses the key for {model!r} (HTTP {status}); set EVALFLOW_{section.upper()}__API_KEY to one that it accepts."
        if status == 404:
            return f"{endpoint} knows no model {model!r} (HTTP 404); correct {section}.model or {section}.base_url."
        if status == 429:
            return (
                f"{endpoint} still turns requests for {model!r} away after {tries} tries (HTTP 429); "
                f"lower {section}.concurrency, look at the account's limits, or run again later."
            )
        return f"{endpoint} answers for {model!r} with HTTP {status} in {tries} tries; run again when it is well."

    def _redacted(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "<key>")
        return text


def client_of(settings: Judge | System, key: str, purpose: str) -> "AsyncOpenAI":
    from openai import AsyncOpenAI

    return AsyncOpenAI(
        base_url=settings.base_url,
        api_key=key or (NO_KEY if settings.base_url else None),
        timeout=settings.timeout_s,
        max_retries=settings.max_retries,
        default_headers={PURPOSE_HEADER: purpose},
    )


def _form_of(question: Question[Any], settings: Judge | System) -> dict[str, Any]:
    """What a request says beside its messages, of which ``_simpler`` may have to take away again."""
    if question.schema is None or isinstance(settings, System):
        return {}
    schema = {"name": question.name, "strict": True, "schema": question.schema}
    return {
        "temperature": 0,
        "max_tokens": settings.max_answer_tokens,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


def _simpler(form: dict[str, Any], said: str, may_guess: bool) -> dict[str, Any] | None:
    """The form without what the endpoint complains about, or None when the complaint is about the item.

    Newer models take ``max_completion_tokens`` only and no temperature; many local servers take no schema. While no
    form was ever accepted, the schema is left out on a guess, since servers refuse it in words of their own.
    """
    lacks = said.lower()
    if "max_tokens" in form and "max_completion_tokens" in lacks:
        rest = {name: value for name, value in form.items() if name != "max_tokens"}
        return {**rest, "max_completion_tokens": form["max_tokens"]}
    if "temperature" in form and "temperature" in lacks:
        return {name: value for name, value in form.items() if name != "temperature"}
    if "response_format" in form and (may_guess or "response_format" in lacks or "json_schema" in lacks):
        return {name: value for name, value in form.items() if name != "response_format"}
    return None
