"""Names for clusters from the judge's endpoint: short, paid once, within the run's cap, and never needed.

Whatever goes wrong, a cluster without a name keeps its terms and the run goes on; what failed is said.
Keep out: the form of question and answer (``core/labels.py``), and which clusters are named.
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

from evalflow.adapters.judge_endpoint import Endpoint, Question, RefusedError, Reply, UnusableError, client_of
from evalflow.adapters.spending import Budget, most_usd_of, usd_of
from evalflow.core.labels import NAME_SCHEMA, NAMING, naming_messages, parse_name
from evalflow.core.lineage import fingerprint
from evalflow.settings import Judge

CACHE_FOLDER = "names"
FORMLESS_IN_A_ROW = 5
"""After so many answers without a usable name among them no more are paid for."""

NAME: Question[str | None] = Question(
    purpose="naming",
    name="name",
    schema=NAME_SCHEMA,
    parse=parse_name,
    is_of_form=lambda content: parse_name(content) is not None,
    missing=lambda reason: None,
)


class Unnamed(NamedTuple):
    """A cluster that wants a name: the caller's key for it, its terms and some of its texts."""

    key: int
    terms: Sequence[str]
    examples: Sequence[str]


@dataclass
class Named:
    """What a call came to: names by key, what it spent, how many had been paid before, and why others have none.

    ``why_not`` counts the clusters without a name by reason.
    """

    names: dict[int, str] = field(default_factory=dict)
    paid_usd: float = 0.0
    n_cached: int = 0
    why_not: dict[str, int] = field(default_factory=dict)

    def left_out(self, reason: str) -> None:
        self.why_not[reason] = self.why_not.get(reason, 0) + 1


class Namer:
    """Names clusters by the settings' model; one object per run, which holds the run's cap and what has failed in it.

    Args:
        settings: the judge's section; its model must be set.
        cache: the home's cache folder; names lie under ``names``.
        instruction: what is named: groups of requests, or themes of what goes wrong.
    """

    def __init__(self, settings: Judge, cache: Path, instruction: str = NAMING) -> None:
        self.settings = settings
        self.instruction = instruction
        self.cache = cache / CACHE_FOLDER / fingerprint(settings.model)
        self.left_usd = settings.max_usd_per_run
        self.state = _State()

    def name(self, unnamed: Sequence[Unnamed]) -> Named:
        """Names for clusters; those that got none are counted with the reason. Never raises for the endpoint's sake."""
        named = Named()
        waiting: list[tuple[Unnamed, list[dict[str, str]]]] = []
        for cluster in unnamed:
            messages = naming_messages(cluster.terms, cluster.examples, self.instruction)
            known = self._cached(messages)
            if known is None:
                waiting.append((cluster, messages))
            else:
                named.names[cluster.key] = known
                named.n_cached += 1
        if waiting:
            asyncio.run(self._ask_all(waiting, named))
        return named

    async def _ask_all(self, waiting: list[tuple[Unnamed, list[dict[str, str]]]], named: Named) -> None:
        from openai import OpenAIError

        settings = self.settings
        if self.state.failure is not None:
            named.why_not[self.state.failure] = len(waiting)
            return
        try:
            client = client_of(settings, settings.api_key.get_secret_value() if settings.api_key else "", NAME.purpose)
        except OpenAIError:
            named.why_not["there is no key for the judge's endpoint"] = len(waiting)
            return
        budget = Budget(self.left_usd)
        async with client:
            endpoint = Endpoint(client, settings, NAME)
            if not endpoint.has_usable_key():
                named.why_not["the judge's key holds characters that no HTTP header can carry"] = len(waiting)
                return
            queue = iter(waiting)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(settings.concurrency, len(waiting))):
                    group.create_task(self._work(queue, endpoint, budget, named))
        named.paid_usd = budget.paid_usd
        self.left_usd -= budget.paid_usd + budget.lost_usd

    async def _work(
        self,
        queue: Iterator[tuple[Unnamed, list[dict[str, str]]]],
        endpoint: "Endpoint[str | None]",
        budget: Budget,
        named: Named,
    ) -> None:
        """Take cluster after cluster; after the endpoint has failed, the rest are only counted."""
        state = self.state
        for cluster, messages in queue:
            if state.failure is not None:
                named.left_out(state.failure)
                continue
            per_request = most_usd_of(self.settings, messages, NAME_SCHEMA)
            most = per_request * (1 + self.settings.max_retries)
            async with budget.reserve(most) as reserved:
                if not reserved:
                    named.left_out(f"judge.max_usd_per_run = {self.settings.max_usd_per_run:g} was spent")
                    continue
                try:
                    reply = await endpoint.ask(messages)
                except UnusableError as error:  # a try that timed out or broke off may be charged all the same
                    reserved.settle(0.0, lost_usd=most)
                    state.failure = state.failure or str(error)
                    named.left_out(state.failure)
                    continue
                except RefusedError:  # what it said may repeat the texts
                    named.left_out("the endpoint refused the request")
                    continue
                reserved.settle(self._cost_of(reply, per_request), lost_usd=reply.retries_taken * per_request)
            if reply.answer is not None:
                state.n_named += 1
                named.names[cluster.key] = reply.answer
                self._keep(messages, reply.answer)
                continue
            named.left_out("the answer holds no usable name")
            state.n_formless += 1
            if not state.n_named and state.n_formless >= FORMLESS_IN_A_ROW:
                state.failure = f"none of the first {state.n_formless} answers held a usable name"

    def _cost_of(self, reply: "Reply[str | None]", most_usd: float) -> float:
        usage = reply.usage
        return usd_of(self.settings, usage.prompt_tokens, usage.completion_tokens) if usage else most_usd

    # -- the cache: one file per name, under the model that gave it

    def _cached(self, messages: list[dict[str, str]]) -> str | None:
        """A name given before, held to today's rules: a file may be from an earlier version, or not ours."""
        with suppress(FileNotFoundError, UnicodeDecodeError):
            return parse_name(self._path(messages).read_text(encoding="utf-8"))
        return None

    def _keep(self, messages: list[dict[str, str]], name: str) -> None:
        path = self._path(messages)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
        temporary.write_text(json.dumps({"name": name}, ensure_ascii=False), encoding="utf-8")
        temporary.replace(path)

    def _path(self, messages: list[dict[str, str]]) -> Path:
        content = json.dumps(messages, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return self.cache / f"{hashlib.sha256(content).hexdigest()}.json"


@dataclass
class _State:
    """What the workers of a run tell each other; after a failure nobody asks again."""

    n_named: int = 0
    n_formless: int = 0
    failure: str | None = None
