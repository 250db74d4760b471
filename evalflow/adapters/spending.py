"""Money for requests to an endpoint that bills by the token: what one can cost at most, and a hard cap over a run.

Keep out: what is asked, and what is done with the answers.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from evalflow.settings import Judge

TOKENS_AROUND_A_MESSAGE = 16
PER_MILLION = 1_000_000


def usd_of(settings: Judge, input_tokens: int, output_tokens: int) -> float:
    """What so many tokens cost by the settings' prices."""
    prices = settings.usd_per_million_input_tokens, settings.usd_per_million_output_tokens
    return (input_tokens * prices[0] + output_tokens * prices[1]) / PER_MILLION


def most_usd_of(settings: Judge, messages: list[dict[str, str]], schema: dict[str, Any]) -> float:
    """The most that one request can cost: no tokenizer makes more tokens than a text has bytes."""
    sent = sum(len(message["content"].encode()) + TOKENS_AROUND_A_MESSAGE for message in messages)
    return usd_of(settings, sent + len(json.dumps(schema)), settings.max_answer_tokens)


class Reservation:
    """Money set aside for one request; what is not settled is taken as unspent when the request has ended."""

    def __init__(self) -> None:
        self.paid_usd = self.lost_usd = 0.0

    def settle(self, paid_usd: float, lost_usd: float) -> None:
        """``lost_usd`` may have been charged for tries without an answer: it counts against the cap only."""
        self.paid_usd, self.lost_usd = paid_usd, lost_usd


class Budget:
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
    async def reserve(self, most_usd: float) -> AsyncIterator[Reservation | None]:
        """Set ``most_usd`` aside, waiting for requests under way to settle; None when the cap has no room left."""
        reservation = Reservation()
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
