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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from evalflow.adapters.judge_endpoint import Endpoint, Question, RefusedError, Reply, UnusableError, client_of
from evalflow.adapters.spending import Budget, most_usd_of, usd_of
from evalflow.core.grading import (
    ANSWER_SCHEMA,
    NO_ANSWER,
    Grade,
    Graded,
    Rubric,
    is_judge_answer,
    judge_messages,
    parse_judge_answer,
    rubric_version,
)
from evalflow.core.lineage import fingerprint
from evalflow.errors import UnreachableError
from evalflow.settings import Judge

CACHE_FOLDER = "judge"
REFUSALS_IN_A_ROW = 5
"""When so many items are refused and none was ever accepted, it is the request that is wrong and not the items."""
FORMLESS_AT_LEAST = 5
"""A call that got so many answers, none of them of the form asked for, says nothing about the items."""
FORMLESS_IN_A_ROW = 20
"""After so many answers without one of the form no more are paid for."""
VERDICT: Question[Graded] = Question(
    purpose="judge",
    name="verdict",
    schema=ANSWER_SCHEMA,
    parse=parse_judge_answer,
    is_of_form=is_judge_answer,
    missing=lambda reason: Graded("unscored", f"the judge {reason}"),
)


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

    ``paid_usd`` is what this call spent, ``n_cached`` how many items had been paid before. ``spent_usd`` counts against
    the cap: what is paid, and what tries without an answer may have cost.
    """

    verdicts: dict[str, JudgeVerdict]
    paid_usd: float
    n_cached: int
    n_left: int
    failure: UnreachableError | None
    spent_usd: float = 0.0


class LlmJudge:
    """The judge that the settings name.

    Args:
        settings: the judge's section; its model must be set.
        cache: the home's cache folder; verdicts lie under ``judge``.
        rubric: what it asks; None for the general question.
    """

    def __init__(self, settings: Judge, cache: Path, rubric: Rubric | None = None) -> None:
        self.settings = settings
        self.rubric = rubric
        self.version = judge_version(settings, rubric)
        self.cache = VerdictCache(cache / CACHE_FOLDER / fingerprint(self.version), settings.max_answer_tokens)

    def judge(self, items: Sequence[JudgeItem], left_usd: float | None = None) -> Judged:
        """Verdicts of the items, asked in their order, each distinct content once.

        Stops at the first sign that the endpoint cannot be used; what was answered until then is kept. An item that
        the endpoint refuses for its content is unscored, and the others go on. At the first item that does not fit
        under the cap nothing more is asked, so that what was asked is the beginning of the items, not their short ones.

        Args:
            items: what to judge.
            left_usd: what is left of the run's cap where other rubrics were asked before; the settings' cap without.
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
            asyncio.run(self._ask_all(waiting, run, self.settings.max_usd_per_run if left_usd is None else left_usd))
        return Judged(run.verdicts, run.paid_usd, n_cached, run.n_left, run.failure, run.spent_usd)

    async def _ask_all(self, waiting: dict[str, list[JudgeItem]], run: "_Run", cap_usd: float) -> None:
        from openai import OpenAIError

        settings = self.settings
        key = settings.api_key.get_secret_value() if settings.api_key else ""
        try:
            client = client_of(settings, key, VERDICT.purpose)
        except OpenAIError:
            run.failure = UnreachableError(
                "There is no key for the judge's endpoint; set EVALFLOW_JUDGE__API_KEY, or judge.base_url for a server "
                "that needs none."
            )
            return
        budget = Budget(cap_usd)
        async with client:
            endpoint = Endpoint(client, settings, VERDICT)
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
                run.failure = run.failure or _formless_failure(run.formless, endpoint, self.settings)
        run.paid_usd, run.spent_usd = budget.paid_usd, budget.paid_usd + budget.lost_usd

    async def _work(
        self, queue: Iterator[tuple[str, list[JudgeItem]]], endpoint: "Endpoint[Graded]", budget: Budget, run: "_Run"
    ) -> None:
        """Take item after item until there are none, or until any worker has met a failure."""
        for key, same in queue:
            if run.failure is not None:
                return
            messages = judge_messages(same[0].text, same[0].output, self.rubric)
            per_request = most_usd_of(self.settings, messages, ANSWER_SCHEMA)
            # Any of the client's tries may be charged for, even one whose answer never arrived.
            async with budget.reserve(per_request * (1 + self.settings.max_retries)) as reserved:
                if not reserved:
                    run.n_left += len(same)
                    continue
                if run.failure is not None:
                    return
                try:
                    reply = await endpoint.ask(messages)
                except UnusableError as error:
                    run.failure = run.failure or UnreachableError(str(error))
                    return
                except RefusedError as error:
                    run.refuse(same, str(error), endpoint.shown_url)
                    continue
                verdict = verdict_of(self.settings, reply, per_request)
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
                run.failure = run.failure or _formless_failure(run.formless, endpoint, self.settings)

    def _keep(self, run: "_Run", answers: Sequence["_Answered"]) -> None:
        for key, same, verdict in answers:
            self.cache.put(key, verdict)
            run.verdicts |= {item.item_id: verdict for item in same}


def verdict_of(settings: Judge, reply: "Reply[Graded]", most_usd: float) -> JudgeVerdict:
    """The verdict in a reply with what it cost; ``most_usd`` is what the request could cost at most."""
    limit = settings.max_answer_tokens
    graded = reply.answer
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
        cost_usd=usd_of(settings, usage.prompt_tokens, usage.completion_tokens) if usage else most_usd,
        cut_at=limit if reply.is_cut and graded.verdict == "unscored" else None,
    )


def judge_version(settings: Judge, rubric: Rubric | None = None) -> str:
    """Model and rubric: what makes two verdicts comparable. Where the model is served does not matter."""
    return f"{settings.model}@{rubric_version(rubric)}"


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
    spent_usd: float = 0.0
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


def _formless_failure(answers: Sequence[_Answered], endpoint: Endpoint[Graded], settings: Judge) -> UnreachableError:
    """Nothing of the answers is repeated: they may hold whatever the graded texts made the model say."""
    n_cut = sum(answered.verdict.cut_at is not None for answered in answers)
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


class VerdictCache:
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
