"""The LLM judge: any OpenAI-compatible endpoint, asked through the official client, within a hard cap of cost.

A verdict is paid once: it lies in a content-addressed cache from the moment it arrives, so that an interrupted run goes
on where it stopped. Only answers that are not of the form wait there for the first one that is: where none ever is, it
is the endpoint that has to be mended, and its answers are not kept. The key is never part of a message, a log, a cache
entry or anything that is stored.
Keep out: the rubric, the form of the question and of the answer (``core/grading.py``), and which traces are judged.
"""

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from evalflow.core.grading import (
    ANSWER_SCHEMA,
    NO_ANSWER,
    Grade,
    Graded,
    judge_messages,
    parse_judge_answer,
    rubric_version,
)
from evalflow.core.lineage import fingerprint
from evalflow.errors import UnreachableError
from evalflow.settings import Judge, shown_url

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI, OpenAIError

CACHE_FOLDER = "judge"
PURPOSE_HEADER = {"x-evalflow-purpose": "judge"}
"""On every request, so that whoever traces the endpoint can keep the judge's own calls out of the traffic."""
NO_KEY = "none"
"""Sent to a base_url that no key was given for: local servers want none, and a key from elsewhere is not theirs."""
REFUSALS_IN_A_ROW = 5
"""When so many items are refused and none was ever accepted, it is the request that is wrong and not the items."""
FORMLESS_AT_LEAST = 5
"""A call that got so many answers, none of them of the form asked for, says nothing about the items."""
FORMLESS_IN_A_ROW = 20
"""After so many answers without one of the form no more are paid for."""
TOKENS_AROUND_A_MESSAGE = 16
PER_MILLION = 1_000_000


class JudgeItem(NamedTuple):
    """One answer to be judged; ``item_id`` is the caller's name for it, unique within a call."""

    item_id: str
    text: str
    output: str


class JudgeVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict, what it took, and what it cost when it was paid; tokens are None where the endpoint tells none.

    ``cut_at`` is the limit of tokens at which the answer was cut off, else None.
    """

    verdict: Grade
    reason: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    cut_at: int | None = None


@dataclass(frozen=True)
class Judged:
    """What a call came to. Items without a verdict were left by the cap (``n_left``) or by the ``failure``.

    ``paid_usd`` is what this call spent, ``n_cached`` how many items had been paid before.
    """

    verdicts: dict[str, JudgeVerdict]
    paid_usd: float
    n_cached: int
    n_left: int
    failure: UnreachableError | None


class LlmJudge:
    """The judge that the settings name.

    Args:
        settings: the judge's section; its model must be set.
        cache: the home's cache folder; verdicts lie under ``judge``.
    """

    def __init__(self, settings: Judge, cache: Path) -> None:
        self.settings = settings
        self.version = judge_version(settings)
        self.cache = _VerdictCache(cache / CACHE_FOLDER / fingerprint(self.version), settings.max_answer_tokens)

    def judge(self, items: Sequence[JudgeItem]) -> Judged:
        """Verdicts of the items, asked in their order, each distinct content once.

        Stops at the first sign that the endpoint cannot be used; what was answered until then is kept. An item that
        the endpoint refuses for its content is unscored, and the others go on. At the first item that does not fit
        under the cap nothing more is asked, so that what was asked is the beginning of the items, not their short ones.
        """
        run = _Run()
        waiting: dict[str, list[JudgeItem]] = {}
        n_cached = 0
        for item in items:
            if not item.output.strip():
                run.verdicts[item.item_id] = JudgeVerdict(verdict=NO_ANSWER.verdict, reason=NO_ANSWER.reason)
                continue
            key = _content_key(item)
            known = None if key in waiting else self.cache.get(key)
            if known is not None:
                run.verdicts[item.item_id] = known
                n_cached += 1
            else:
                waiting.setdefault(key, []).append(item)
        if waiting:
            asyncio.run(self._ask_all(waiting, run))
        return Judged(run.verdicts, run.paid_usd, n_cached, run.n_left, run.failure)

    async def _ask_all(self, waiting: dict[str, list[JudgeItem]], run: "_Run") -> None:
        from openai import OpenAIError

        settings = self.settings
        key = settings.api_key.get_secret_value() if settings.api_key else ""
        try:
            client = _client(settings, key)
        except OpenAIError:
            run.failure = UnreachableError(
                "There is no key for the judge's endpoint; set EVALFLOW_JUDGE__API_KEY, or judge.base_url for a server "
                "that needs none."
            )
            return
        budget = _Budget(settings.max_usd_per_run)
        async with client:
            endpoint = _Endpoint(client, settings)
            if not endpoint.has_usable_key():
                run.failure = UnreachableError(
                    "The judge's key holds characters that no HTTP header can carry, such as a line break; "
                    "set EVALFLOW_JUDGE__API_KEY to the bare key."
                )
                return
            queue = iter(waiting.items())
            async with asyncio.TaskGroup() as group:
                for _ in range(min(settings.concurrency, len(waiting))):
                    group.create_task(self._work(queue, endpoint, budget, run))
            if len(run.formless) < FORMLESS_AT_LEAST:
                self._keep(run, run.formless)
            else:
                run.failure = run.failure or _formless_failure(run.formless, endpoint)
        run.paid_usd = budget.paid_usd

    async def _work(
        self, queue: Iterator[tuple[str, list[JudgeItem]]], endpoint: "_Endpoint", budget: "_Budget", run: "_Run"
    ) -> None:
        """Take item after item until there are none, or until any worker has met a failure."""
        for key, same in queue:
            if run.failure is not None:
                return
            messages = judge_messages(same[0].text, same[0].output)
            per_request = self._most_usd(messages)
            # Any of the client's tries may be charged for, even one whose answer never arrived.
            async with budget.reserve(per_request * (1 + self.settings.max_retries)) as reserved:
                if not reserved:
                    run.n_left += len(same)
                    continue
                if run.failure is not None:
                    return
                try:
                    reply = await endpoint.ask(messages)
                except _UnusableError as error:
                    run.failure = run.failure or UnreachableError(str(error))
                    return
                except _RefusedError as error:
                    run.refuse(same, str(error), endpoint.shown_url)
                    continue
                verdict = self._verdict_of(reply, per_request)
                reserved.settle(verdict.cost_usd or 0.0, lost_usd=reply.retries_taken * per_request)
            run.n_answered += 1
            answered = _Answered(key, same, verdict)
            if reply.is_of_form or run.has_form:
                run.has_form = True
                self._keep(run, [*run.formless, answered])
                run.formless.clear()
                continue
            run.formless.append(answered)
            if len(run.formless) >= FORMLESS_IN_A_ROW:
                run.failure = run.failure or _formless_failure(run.formless, endpoint)

    def _keep(self, run: "_Run", answers: Sequence["_Answered"]) -> None:
        for key, same, verdict in answers:
            self.cache.put(key, verdict)
            run.verdicts |= {item.item_id: verdict for item in same}

    def _verdict_of(self, reply: "_Reply", most_usd: float) -> JudgeVerdict:
        limit = self.settings.max_answer_tokens
        graded = reply.graded
        if reply.is_cut and graded.verdict == "unscored":
            reason = f"the judge's answer was cut off at judge.max_answer_tokens = {limit}"
            graded = Graded("unscored", reason)
        usage = reply.usage
        return JudgeVerdict(
            verdict=graded.verdict,
            reason=graded.reason,
            input_tokens=usage.prompt_tokens if usage else None,
            output_tokens=usage.completion_tokens if usage else None,
            # An endpoint that does not count is taken to have charged the most that it could.
            cost_usd=self._usd(usage.prompt_tokens, usage.completion_tokens) if usage else most_usd,
            cut_at=limit if reply.is_cut and graded.verdict == "unscored" else None,
        )

    def _most_usd(self, messages: list[dict[str, str]]) -> float:
        """The most that one request can cost: no tokenizer makes more tokens than a text has bytes."""
        sent = sum(len(message["content"].encode()) + TOKENS_AROUND_A_MESSAGE for message in messages)
        return self._usd(sent + len(json.dumps(ANSWER_SCHEMA)), self.settings.max_answer_tokens)

    def _usd(self, input_tokens: int, output_tokens: int) -> float:
        prices = self.settings.usd_per_million_input_tokens, self.settings.usd_per_million_output_tokens
        return (input_tokens * prices[0] + output_tokens * prices[1]) / PER_MILLION


def judge_version(settings: Judge) -> str:
    """Model and rubric: what makes two verdicts comparable. Where the model is served does not matter."""
    return f"{settings.model}@{rubric_version()}"


class _Answered(NamedTuple):
    """A verdict that arrived, its name in the cache, and the items that share it."""

    key: str
    same: list[JudgeItem]
    verdict: JudgeVerdict


@dataclass
class _Run:
    """What a call has come to so far; ``formless`` holds back answers not of the form until one is, ``has_form``."""

    verdicts: dict[str, JudgeVerdict] = field(default_factory=dict)
    paid_usd: float = 0.0
    n_left: int = 0
    n_answered: int = 0
    has_form: bool = False
    formless: list[_Answered] = field(default_factory=list)
    refused: list[JudgeItem] = field(default_factory=list)
    failure: UnreachableError | None = None

    def refuse(self, same: list[JudgeItem], reason: str, shown_url: str) -> None:
        self.refused += same
        verdict = JudgeVerdict(verdict="unscored", reason=f"the endpoint refused the request: {reason}")
        self.verdicts |= {item.item_id: verdict for item in same}
        if not self.n_answered and len(self.refused) >= REFUSALS_IN_A_ROW:
            for item in self.refused:
                self.verdicts.pop(item.item_id)
            self.failure = self.failure or UnreachableError(
                f"The judge endpoint {shown_url} refused every one of the first {len(self.refused)} requests ({reason}); "
                "correct judge.model or judge.max_answer_tokens."
            )


class _Reservation:
    """Money set aside for one request; what is not settled is taken as unspent when the request has ended."""

    def __init__(self) -> None:
        self.paid_usd = self.lost_usd = 0.0

    def settle(self, paid_usd: float, lost_usd: float) -> None:
        """``lost_usd`` may have been charged for tries without an answer: it counts against the cap only."""
        self.paid_usd, self.lost_usd = paid_usd, lost_usd


class _Budget:
    """The run's cap: what is paid, what may have been, and what requests under way may still cost stay below it.

    Requests have their turn in the order in which they come; after the first that does not fit none does.
    """

    def __init__(self, cap_usd: float) -> None:
        self.cap_usd = cap_usd
        self.paid_usd = self.lost_usd = 0.0
        self.is_spent = False
        self.reserved: dict[int, float] = {}
        self.turn = asyncio.Lock()
        self.changed = asyncio.Condition()

    @asynccontextmanager
    async def reserve(self, most_usd: float) -> AsyncIterator[_Reservation | None]:
        """Set ``most_usd`` aside, waiting for requests under way to settle; None when the cap has no room left."""
        reservation = _Reservation()
        async with self.turn, self.changed:
            if not self.is_spent:
                await self.changed.wait_for(lambda: self._fits(most_usd) or not self.reserved)
                self.is_spent = not self._fits(most_usd)
            is_reserved = not self.is_spent
            if is_reserved:
                self.reserved[id(reservation)] = most_usd
        if not is_reserved:
            yield None
            return
        try:
            yield reservation
        finally:
            self.paid_usd += reservation.paid_usd
            self.lost_usd += reservation.lost_usd
            del self.reserved[id(reservation)]
            async with self.changed:
                self.changed.notify_all()

    def _fits(self, most_usd: float) -> bool:
        return self.paid_usd + self.lost_usd + sum(self.reserved.values()) + most_usd <= self.cap_usd


# -- the endpoint ----------------------------------------------------------------------------------------------


class _UnusableError(Exception):
    """The endpoint cannot be used at all; the message is for the user."""


class _RefusedError(Exception):
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


class _Reply(NamedTuple):
    """What came back for one item; ``retries_taken`` counts the tries before it that brought nothing.

    ``is_of_form`` is false of an answer that holds no verdict; a refusal is a form of its own.
    """

    graded: Graded
    usage: _Usage | None
    is_cut: bool
    is_of_form: bool
    retries_taken: int


class _Endpoint:
    """One endpoint and the form of request that it takes; the form is learned from what it refuses."""

    def __init__(self, client: "AsyncOpenAI", settings: Judge) -> None:
        self.client, self.settings = client, settings
        self.secrets = [secret for secret in (client.api_key, client.admin_api_key) if secret and secret != NO_KEY]
        self.shown_url = shown_url(str(client.base_url))
        self.form: dict[str, Any] = {
            "temperature": 0,
            "max_tokens": settings.max_answer_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "strict": True, "schema": ANSWER_SCHEMA},
            },
        }
        self.is_form_accepted = False

    def has_usable_key(self) -> bool:
        return all(secret.isascii() and secret.isprintable() and " " not in secret for secret in self.secrets)

    async def ask(self, messages: list[dict[str, str]]) -> _Reply:
        """The judge's answer about one item.

        Raises:
            _UnusableError: no item can be judged here.
            _RefusedError: the endpoint does not take this item.
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
                    raise _UnusableError(self._sentence(error)) from None
                said = self._said(error)
                simpler = _simpler(form, said, may_guess=not learned)
                if simpler is None:
                    raise _RefusedError(said) from None
                form = simpler
            except OpenAIError as error:
                raise _UnusableError(self._sentence(error)) from None
        self.form, self.is_form_accepted = form, True
        return self._reply(raw.content, raw.retries_taken)

    def _reply(self, body: bytes, retries_taken: int) -> _Reply:
        try:
            completion = msgspec.json.decode(body, type=_Completion)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _UnusableError(
                f"The judge endpoint {self.shown_url} answers with something other than a chat completion; "
                "correct judge.base_url, which mostly ends in /v1."
            ) from None
        if not completion.choices:
            return _Reply(Graded("unscored", "the judge gave no answer"), completion.usage, False, False, retries_taken)
        choice = completion.choices[0]
        if choice.message.refusal and not choice.message.content:
            graded = Graded("unscored", f"the judge refused: {self._redacted(choice.message.refusal)}")
            is_of_form = True
        else:
            content = self._redacted(choice.message.content or "")
            graded = parse_judge_answer(content)
            is_of_form = _is_of_form(content)
        return _Reply(graded, completion.usage, choice.finish_reason == "length", is_of_form, retries_taken)

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
        if isinstance(error, APITimeoutError):
            return (
                f"The judge endpoint {url} did not answer for {model!r} within {self.settings.timeout_s:g} s in {tries} tries; "
                "raise judge.timeout_s or lower judge.concurrency."
            )
        if not isinstance(error, APIStatusError):
            return f"The judge endpoint {url} cannot be reached for {model!r} in {tries} tries; start it or correct judge.base_url."
        status = error.status_code
        if status in (401, 403):
            return f"The judge endpoint {url} refuses the key for {model!r} (HTTP {status}); set EVALFLOW_JUDGE__API_KEY to one that it accepts."
        if status == 404:
            return (
                f"The judge endpoint {url} knows no model {model!r} (HTTP 404); correct judge.model or judge.base_url."
            )
        if status == 429:
            return (
                f"The judge endpoint {url} still turns requests for {model!r} away after {tries} tries (HTTP 429); "
                "lower judge.concurrency, look at the account's limits, or run again later."
            )
        return f"The judge endpoint {url} answers for {model!r} with HTTP {status} in {tries} tries; run again when it is well."

    def _redacted(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "<key>")
        return text


def _client(settings: Judge, key: str) -> "AsyncOpenAI":
    from openai import AsyncOpenAI

    return AsyncOpenAI(
        base_url=settings.base_url,
        api_key=key or (NO_KEY if settings.base_url else None),
        timeout=settings.timeout_s,
        max_retries=settings.max_retries,
        default_headers=PURPOSE_HEADER,
    )


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


def _is_of_form(content: str) -> bool:
    """Whether a verdict can be read; ``unscored`` may be the judge's own, which then could have been another."""
    return parse_judge_answer(content.replace("unscored", "pass")).verdict != "unscored"


def _formless_failure(answers: Sequence[_Answered], endpoint: _Endpoint) -> UnreachableError:
    """Nothing of the answers is repeated: they may hold whatever the graded texts made the model say."""
    settings, n_cut = endpoint.settings, sum(answered.verdict.cut_at is not None for answered in answers)
    return UnreachableError(
        f"None of the first {len(answers)} answers of the judge endpoint {endpoint.shown_url} for {settings.model!r} was "
        f"of the form asked for ({n_cut} of them cut off at judge.max_answer_tokens = {settings.max_answer_tokens}); "
        "check the server's chat template, judge.model and judge.max_answer_tokens."
    )


# -- the cache -------------------------------------------------------------------------------------------------


def _content_key(item: JudgeItem) -> str:
    """Hash of what is judged; the folder stands for who judges it."""
    content = json.dumps([item.text, item.output], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


class _VerdictCache:
    """One JSON file per verdict, each written atomically; readers and writers need no lock."""

    def __init__(self, folder: Path, max_answer_tokens: int) -> None:
        self.folder, self.max_answer_tokens = folder, max_answer_tokens

    def get(self, key: str) -> JudgeVerdict | None:
        """The verdict, or None: never paid, not readable, or cut off at a limit that is higher now."""
        with suppress(FileNotFoundError, msgspec.DecodeError):
            verdict = msgspec.json.decode(self._path(key).read_bytes(), type=JudgeVerdict)
            if verdict.cut_at is None or verdict.cut_at >= self.max_answer_tokens:
                return verdict
        return None

    def put(self, key: str, verdict: JudgeVerdict) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
        temporary.write_bytes(msgspec.json.encode(verdict))
        temporary.replace(path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
