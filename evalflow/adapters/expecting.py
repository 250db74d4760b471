"""What answers should have been, from the judge's endpoint: paid once, within the run's cap, and never needed.

Whatever goes wrong, a trace without a proposal waits for a person, and what failed is said. Keep out: the form of question
and answer (``core/expecting.py``), and for which traces it is asked.
"""

import asyncio
import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from evalflow.adapters.judge_endpoint import Endpoint, Question, RefusedError, UnusableError, client_of
from evalflow.adapters.spending import Budget, most_usd_of, usd_of
from evalflow.core.expecting import EXPECTED_SCHEMA, Proposal, expecting_messages, is_of_form, parse_expected
from evalflow.core.lineage import fingerprint
from evalflow.settings import Judge

CACHE_FOLDER = "expected"
EXPECTED: Question[Proposal] = Question(
    purpose="expecting",
    name="expected",
    schema=EXPECTED_SCHEMA,
    parse=parse_expected,
    is_of_form=is_of_form,
    missing=lambda reason: Proposal(None, "the endpoint gave no proposal"),
)


class Unexpected(NamedTuple):
    """A failed trace whose right answer nobody wrote: scrubbed texts, and what reviewers remarked."""

    trace_id: str
    text: str
    conversation: Sequence[dict[str, str]]
    output: str | None
    remarks: Sequence[str]


@dataclass
class Proposed:
    """What a call came to: proposals by trace_id, those without a text too, and what it spent."""

    proposals: dict[str, Proposal] = field(default_factory=dict)
    paid_usd: float = 0.0
    failure: str | None = None


class Proposer:
    """Asks the settings' model, which must be set; proposals lie under ``expected`` of the home's cache folder."""

    def __init__(self, settings: Judge, cache: Path) -> None:
        self.settings = settings
        self.cache = cache / CACHE_FOLDER / fingerprint(settings.model)

    def propose(self, traces: Sequence[Unexpected]) -> Proposed:
        """A proposal for each trace. Never raises for the endpoint's sake."""
        done = Proposed()
        waiting: list[tuple[str, list[dict[str, str]]]] = []
        for trace in traces:
            messages = expecting_messages(trace.text, trace.conversation, trace.output, trace.remarks)
            known = self._cached(messages)
            if known is None:
                waiting.append((trace.trace_id, messages))
            else:
                done.proposals[trace.trace_id] = known
        if waiting:
            asyncio.run(self._ask_all(waiting, done))
        for trace_id, _ in waiting:
            done.proposals.setdefault(trace_id, Proposal(None, done.failure or "the judge was not asked"))
        return done

    async def _ask_all(self, waiting: list[tuple[str, list[dict[str, str]]]], done: Proposed) -> None:
        from openai import OpenAIError

        settings = self.settings
        try:
            client = client_of(
                settings, settings.api_key.get_secret_value() if settings.api_key else "", EXPECTED.purpose
            )
        except OpenAIError:
            done.failure = "there is no key for the judge's endpoint"
            return
        budget = Budget(settings.max_usd_per_run)
        async with client:
            endpoint = Endpoint(client, settings, EXPECTED)
            if not endpoint.has_usable_key():
                done.failure = "the judge's key holds characters that no HTTP header can carry"
                return
            queue = iter(waiting)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(settings.concurrency, len(waiting))):
                    group.create_task(self._work(queue, endpoint, budget, done))
        done.paid_usd = budget.paid_usd

    async def _work(
        self,
        queue: Iterator[tuple[str, list[dict[str, str]]]],
        endpoint: "Endpoint[Proposal]",
        budget: Budget,
        done: Proposed,
    ) -> None:
        for trace_id, messages in queue:
            if done.failure is not None:
                return
            per_request = most_usd_of(self.settings, messages, EXPECTED_SCHEMA)
            most = per_request * (1 + self.settings.max_retries)
            async with budget.reserve(most) as reserved:
                if not reserved:
                    done.failure = f"judge.max_usd_per_run = {self.settings.max_usd_per_run:g} was spent"
                    return
                try:
                    reply = await endpoint.ask(messages)
                except UnusableError as error:  # a try that timed out or broke off may be charged all the same
                    reserved.settle(0.0, lost_usd=most)
                    done.failure = done.failure or str(error)
                    return
                except RefusedError:  # what it said may repeat the texts
                    done.proposals[trace_id] = Proposal(None, "the endpoint refused the request")
                    continue
                usage = reply.usage
                cost = usd_of(self.settings, usage.prompt_tokens, usage.completion_tokens) if usage else per_request
                reserved.settle(cost, lost_usd=reply.retries_taken * per_request)
            done.proposals[trace_id] = reply.answer
            if reply.is_of_form:
                self._keep(messages, reply.answer)

    # -- the cache: one file per proposal, under the model that gave it

    def _cached(self, messages: list[dict[str, str]]) -> Proposal | None:
        """A proposal given before, held to today's rules; a file that is none of ours counts as not there."""
        try:
            content = self._path(messages).read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        return parse_expected(content) if is_of_form(content) else None

    def _keep(self, messages: list[dict[str, str]], proposal: Proposal) -> None:
        path = self._path(messages)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
        temporary.write_text(json.dumps({"expected_output": proposal.text}, ensure_ascii=False), encoding="utf-8")
        temporary.replace(path)

    def _path(self, messages: list[dict[str, str]]) -> Path:
        content = json.dumps(messages, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return self.cache / f"{hashlib.sha256(content).hexdigest()}.json"
