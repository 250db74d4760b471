"""What an answer is worth: pass, fail or unscored with its reason, by the scorer that the user names; there is no default.

Source: docs/ci.md, "Scorers". Keep out: the comparisons and the judge's form (``core/scoring.py``); a system's own verdict,
which no scorer overrules (``attempting.py``).
"""

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

from evalflow.adapters.home import Home
from evalflow.adapters.judge import CACHE_FOLDER, VERDICT, VerdictCache, verdict_of
from evalflow.adapters.judge_endpoint import Endpoint, RefusedError, UnusableError, client_of
from evalflow.adapters.spending import Budget, most_usd_of
from evalflow.adapters.system import PYTHON, Task, as_text
from evalflow.adapters.user_code import Function, Raised, TooManyHanging, TooSlow, load_function, source_hash
from evalflow.core.grading import ANSWER_SCHEMA, Graded
from evalflow.core.lineage import fingerprint
from evalflow.core.scoring import (
    NO_EXPECTATION,
    expectation_messages,
    expectation_version,
    score_contains,
    score_exact,
)
from evalflow.errors import UnreachableError, UsageError
from evalflow.settings import Judge, Settings

TextScorer = Literal["exact", "contains"]
JUDGE = "judge"
SCORERS = f"{', '.join(get_args(TextScorer))}, {JUDGE} or {PYTHON}package.module:function"


class Scored(NamedTuple):
    """A verdict and why. ``is_final`` is false where the scorer itself failed; ``is_reached`` where it could not be asked."""

    graded: Graded
    is_final: bool = True
    is_reached: bool = True


Score = Callable[[Task, str], Awaitable[Scored]]


class Scorer(Protocol):
    """``name`` says what made two verdicts comparable; ``paid_usd`` what it has spent so far."""

    name: str
    paid_usd: float

    def opened(self) -> AbstractAsyncContextManager[Score]: ...


def scorer_of(home: Home, given: str | None = None) -> Scorer | None:
    """The scorer that ``given`` names, else the setting ``system.scorer``; None where neither does.

    Raises:
        UsageError: there is none of that name, or it cannot be used.
    """
    return scorer_named(given or home.settings.system.scorer, home.settings, home.cache)


def scorer_named(name: str | None, settings: Settings, cache: Path) -> Scorer | None:
    """As ``scorer_of``; the judge's verdicts are kept under ``cache``."""
    if name is None:
        return None
    if name.startswith(PYTHON):
        return _FunctionScorer(name, settings.system.timeout_s)
    if name == JUDGE:
        if not settings.judge.model:
            raise UsageError("The scorer judge needs a model to ask; set judge.model, or choose another scorer.")
        return _JudgeScorer(settings.judge, cache)
    if name not in get_args(TextScorer):
        raise UsageError(f"There is no scorer {name!r}; choose {SCORERS}.")
    return _TextScorer(name)


class _TextScorer:
    """The expected text itself, or somewhere in the answer."""

    def __init__(self, name: str) -> None:
        self.name, self.paid_usd = name, 0.0
        self.compare = score_exact if name == "exact" else score_contains

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Score]:
        yield self._score

    async def _score(self, task: Task, output: str) -> Scored:
        return Scored(self.compare(task.expected_output, output))


class _FunctionScorer:
    """A user's function of the case and its answer: true, false, None where it cannot tell, or a dict with ``pass``."""

    def __init__(self, address: str, timeout_s: float) -> None:
        function = load_function(address.removeprefix(PYTHON), "scorer")
        # A run does not go on with the verdicts of a scorer that was edited since.
        source = source_hash(function)[:16]
        self.name, self.paid_usd = f"{address}@{source}" if source else address, 0.0
        self.function = Function(function, timeout_s)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Score]:
        yield self._score

    async def _score(self, task: Task, output: str) -> Scored:
        try:
            returned = await self.function.call(task.document() | {"expected_output": task.expected_output}, output)
        except Raised as error:
            return _broken(f"the scorer raised {error}")
        except TooSlow as error:
            return _broken(f"the scorer {error}")
        except TooManyHanging as error:
            return _broken(f"the scorer was not called: {error}")
        fields = returned if isinstance(returned, Mapping) else {"pass": returned}
        passed, reason = fields.get("pass"), fields.get("reason")
        if "pass" not in fields or not (passed is None or isinstance(passed, bool)):
            what = type(passed).__name__ if "pass" in fields else "a dict without 'pass'"
            return _broken(f"the scorer returned {what}, not true, false, null or a dict with 'pass'")
        said = "the scorer gave no reason" if reason is None else as_text(str(reason))
        return Scored(Graded("unscored" if passed is None else "pass" if passed else "fail", said))


class _JudgeScorer:
    """The configured judge, asked whether the answer does what the case expects; each verdict is paid once."""

    def __init__(self, settings: Judge, cache: Path) -> None:
        self.settings, self.paid_usd = settings, 0.0
        self.charged_usd = 0.0  # with what may have been charged for lost tries
        self.name = f"{JUDGE} {settings.model}@{expectation_version()}"
        self.cache = VerdictCache(cache / CACHE_FOLDER / fingerprint(self.name), settings.max_answer_tokens)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Score]:
        """
        Raises:
            UnreachableError: no request can be made at all.
        """
        from openai import OpenAIError

        key = self.settings.api_key.get_secret_value() if self.settings.api_key else ""
        try:
            client = client_of(self.settings, key, VERDICT.purpose)
        except OpenAIError:
            raise UnreachableError(
                "There is no key for the judge's endpoint; set EVALFLOW_JUDGE__API_KEY, or judge.base_url for a server "
                "that needs none."
            ) from None
        paid_before, charged_before = self.paid_usd, self.charged_usd
        budget = Budget(self.settings.max_usd_per_run - charged_before)  # pytest opens it anew for every case
        async with client:
            endpoint = Endpoint(client, self.settings, VERDICT)
            if not endpoint.has_usable_key():
                raise UnreachableError(
                    "The judge's key holds characters that no HTTP header can carry, such as a line break; "
                    "set EVALFLOW_JUDGE__API_KEY to the bare key."
                )

            async def score(task: Task, output: str) -> Scored:
                scored = await self._score(endpoint, budget, task, output)
                self.paid_usd = paid_before + budget.paid_usd
                self.charged_usd = charged_before + budget.paid_usd + budget.lost_usd
                return scored

            yield score

    async def _score(self, endpoint: Endpoint[Graded], budget: Budget, task: Task, output: str) -> Scored:
        settings, expected = self.settings, task.expected_output
        if expected is None or not expected.strip():
            return Scored(NO_EXPECTATION)
        messages = expectation_messages(task.conversation, task.input, expected, output)
        key = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
        if (known := self.cache.get(key)) is not None:
            return Scored(Graded(known.verdict, known.reason))
        per_request = most_usd_of(settings, messages, ANSWER_SCHEMA)
        most = per_request * (1 + settings.max_retries)
        async with budget.reserve(most) as reserved:
            if not reserved:
                return _unreached(f"judge.max_usd_per_run = {settings.max_usd_per_run:g} was spent")
            try:
                reply = await endpoint.ask(messages)
            except UnusableError as error:  # a try that timed out or broke off may be charged all the same
                reserved.settle(0.0, lost_usd=most)
                return _unreached(str(error))
            except RefusedError as error:
                return Scored(Graded("unscored", f"the judge's endpoint refused the request: {error}"))
            verdict = verdict_of(settings, reply, per_request)
            reserved.settle(verdict.cost_usd or 0.0, lost_usd=reply.retries_taken * per_request)
        if not reply.is_of_form:
            return _broken(verdict.reason)
        self.cache.put(key, verdict)
        return Scored(Graded(verdict.verdict, verdict.reason))


def _broken(reason: str) -> Scored:
    return Scored(Graded("unscored", reason), is_final=False)


def _unreached(reason: str) -> Scored:
    return Scored(Graded("unscored", reason), is_final=False, is_reached=False)
