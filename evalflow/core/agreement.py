"""How far reviewers agree, from verdicts that each gave without seeing the others'.

Percent agreement, Cohen's kappa of two, Krippendorff's alpha of all. Keep out: what follows for a trace
(``core/reviewing.py``). Source: docs/methods.md, "Triage and golden set".
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from evalflow.core.intervals import Interval, wilson
from evalflow.core.records import Review


class Vote(NamedTuple):
    """What one reviewer said of one item before any other answer was shown."""

    item: str
    reviewer: str
    verdict: str


@dataclass(frozen=True)
class PairAgreement:
    """Two reviewers on the items that both judged. ``kappa`` is None where chance alone explains everything."""

    first: str
    second: str
    n_items: int
    n_agreed: int
    share: float
    interval: Interval
    kappa: float | None


@dataclass(frozen=True)
class Agreement:
    """All reviewers together.

    ``n_items`` have two verdicts or more; ``n_agreed`` of them got the same one from everybody; ``share`` and ``alpha``
    are None where they are not defined. ``disagreed`` names the others, sorted. ``n_unsure`` answers do not vote.
    """

    n_items: int
    n_agreed: int
    share: float | None
    interval: Interval
    alpha: float | None
    pairs: list[PairAgreement]
    disagreed: list[str]
    n_unsure: int


def blind_votes(reviews: Iterable[Review], reviewers_per_item: int) -> list[Vote]:
    """Each person's answer to each item as it stood before the others' were shown.

    Answers are shown to who has answered, once the item has ``reviewers_per_item`` reviewers. A correction made before
    that is still blind and counts; one made after it may have been talked round and does not. Scripts are no people, though
    their answers are shown, too. An item that still lacks reviewers is left out: figures about it would tell one of them
    what another said.
    """
    by_item: dict[str, list[Review]] = {}
    for review in sorted(reviews, key=lambda review: review.number):
        by_item.setdefault(review.trace_id, []).append(review)
    votes = []
    for item, answers in by_item.items():
        blind: dict[str, Review] = {}
        for review in answers:
            if review.reviewer not in blind or len(blind) < reviewers_per_item:
                blind[review.reviewer] = review
        if len(blind) >= reviewers_per_item:
            votes += [Vote(item, who, said.verdict) for who, said in blind.items() if said.reviewer_kind == "human"]
    return votes


def agreement(votes: Sequence[Vote]) -> Agreement:
    """Agreement over the items that two or more reviewers judged.

    ``unsure`` is no verdict: it is left out like an answer that was not given, and counted. The interval is Wilson's
    over items.
    """
    by_item: dict[str, dict[str, str]] = {}
    for vote in votes:
        if vote.verdict != "unsure":
            by_item.setdefault(vote.item, {})[vote.reviewer] = vote.verdict
    shared = {item: given for item, given in by_item.items() if len(given) > 1}
    disagreed = sorted(item for item, given in shared.items() if len(set(given.values())) > 1)
    n_agreed = len(shared) - len(disagreed)
    both: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for given in shared.values():
        for first, second in combinations(sorted(given), 2):
            both.setdefault((first, second), []).append((given[first], given[second]))
    return Agreement(
        n_items=len(shared),
        n_agreed=n_agreed,
        share=n_agreed / len(shared) if shared else None,
        interval=wilson(n_agreed, len(shared)),
        alpha=krippendorff_alpha([list(given.values()) for given in shared.values()]),
        pairs=[_pair(first, second, verdicts) for (first, second), verdicts in sorted(both.items())],
        disagreed=disagreed,
        n_unsure=sum(vote.verdict == "unsure" for vote in votes),
    )


def cohen_kappa(verdicts: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two raters: (p_o - p_e) / (1 - p_e).

    1 is full agreement, 0 what two raters reach by chance who use the verdicts as often as these do, below 0 less than
    that. None without items, and where both only ever gave one and the same verdict (p_e = 1).

    Source: Cohen 1960, "A coefficient of agreement for nominal scales".
    """
    n = len(verdicts)
    if not n:
        return None
    first, second = Counter(a for a, _ in verdicts), Counter(b for _, b in verdicts)
    # In counts, so that "agreement by chance is certain" is seen exactly: n^2 p_e, and n p_o.
    by_chance = sum(first[verdict] * second[verdict] for verdict in first)
    agreed = sum(a == b for a, b in verdicts)
    return None if by_chance == n * n else (n * agreed - by_chance) / (n * n - by_chance)


def krippendorff_alpha(units: Iterable[Sequence[str]]) -> float | None:
    """Krippendorff's alpha for nominal values: 1 - D_o / D_e. Any number of raters, each may leave items out.

    With m_u values in unit u, n_uc of them c, and n = sum of m_u over units with two values or more:

        D_o = 1/n sum_u (m_u^2 - sum_c n_uc^2) / (m_u - 1),    D_e = (n^2 - sum_c n_c^2) / (n (n - 1))

    Args:
        units: the values that each item got; those with fewer than two are passed over.

    Returns:
        1 for full agreement, 0 for chance; None where no item has two values or only one value was ever given.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
    """
    totals: Counter[str] = Counter()
    observed = 0.0
    for unit in units:
        if len(unit) > 1:
            counts = Counter(unit)
            totals += counts
            observed += (len(unit) ** 2 - sum(count**2 for count in counts.values())) / (len(unit) - 1)
    n = totals.total()
    expected = n**2 - sum(count**2 for count in totals.values())
    return None if expected == 0 else 1 - (n - 1) * observed / expected


def _pair(first: str, second: str, verdicts: list[tuple[str, str]]) -> PairAgreement:
    n_agreed = sum(a == b for a, b in verdicts)
    n = len(verdicts)
    return PairAgreement(first, second, n, n_agreed, n_agreed / n, wilson(n_agreed, n), cohen_kappa(verdicts))
