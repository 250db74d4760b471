"""Which of two answers people prefer, without knowing whose they are: sides, winners, win rates.

Keep out: storing preferences (``adapters/preferences.py``). Source: docs/methods.md, "Triage and golden set".
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from evalflow.core.intervals import Interval, wilson
from evalflow.core.records import Identifier, UtcTime

Side = Literal["left", "right"]
Choice = Literal["left", "right", "tie"]
Winner = Literal["production", "rival", "tie"]


class Pair(NamedTuple):
    """Production's answer to a trace against one attempt of a system under test, the rival."""

    trace_id: str
    system: str
    system_version: str | None
    attempt: int


class Preference(msgspec.Struct, kw_only=True, frozen=True):
    """One person's choice, with the side on which production's answer stood. ``number``: its place in the recording."""

    trace_id: Identifier
    system: str
    system_version: str | None
    attempt: int
    reviewer: Identifier
    production_side: Side
    choice: Choice
    number: int = 0
    decided_at: UtcTime | None = None

    @property
    def pair(self) -> Pair:
        return Pair(self.trace_id, self.system, self.system_version, self.attempt)

    @property
    def winner(self) -> Winner:
        if self.choice == "tie":
            return "tie"
        return "production" if self.choice == self.production_side else "rival"


@dataclass(frozen=True)
class WinRate:
    """One rival against production.

    ``win_share``: of the pairs that one of the two won, the part that the rival won; None where each pair was a tie.
    ``left_share``: of the choices that were no tie, the part that took the answer on the left. Sides are drawn, so it is
    near one half unless people favour a side.
    """

    system: str
    system_version: str | None
    n_pairs: int
    n_won: int
    n_lost: int
    n_ties: int
    win_share: float | None
    interval: Interval
    n_choices: int
    left_share: float | None
    left_interval: Interval


def production_side(pair: Pair, reviewer: str) -> Side:
    """Where production's answer stands for this reviewer: as by the toss of a coin, and the same at each look."""
    text = "\0".join(map(str, (*pair, reviewer)))
    return "left" if hashlib.sha256(text.encode()).digest()[0] % 2 else "right"


def newest(preferences: Iterable[Preference]) -> dict[tuple[Pair, str], Preference]:
    """What each reviewer last said of each pair."""
    return {(said.pair, said.reviewer): said for said in sorted(preferences, key=lambda said: said.number)}


def win_rates(preferences: Iterable[Preference]) -> list[WinRate]:
    """Each rival against production. A pair counts once: it is won by the side that more of its reviewers chose.

    Intervals are Wilson's at 95 %, over pairs and over choices.
    """
    by_rival: dict[tuple[str, str | None], dict[Pair, list[Preference]]] = {}
    for said in newest(preferences).values():
        by_rival.setdefault((said.system, said.system_version), {}).setdefault(said.pair, []).append(said)
    return [
        _win_rate(*rival, pairs)
        for rival, pairs in sorted(by_rival.items(), key=lambda found: tuple(map(str, found[0])))
    ]


def _win_rate(system: str, version: str | None, pairs: dict[Pair, list[Preference]]) -> WinRate:
    balance = [
        sum((said.winner == "rival") - (said.winner == "production") for said in given) for given in pairs.values()
    ]
    n_won, n_lost = sum(score > 0 for score in balance), sum(score < 0 for score in balance)
    decided = [said for given in pairs.values() for said in given if said.choice != "tie"]
    n_left = sum(said.choice == "left" for said in decided)
    return WinRate(
        system,
        version,
        n_pairs=len(pairs),
        n_won=n_won,
        n_lost=n_lost,
        n_ties=len(pairs) - n_won - n_lost,
        win_share=n_won / (n_won + n_lost) if n_won + n_lost else None,
        interval=wilson(n_won, n_won + n_lost),
        n_choices=len(decided),
        left_share=n_left / len(decided) if decided else None,
        left_interval=wilson(n_left, len(decided)),
    )
