"""Who looks at a queued trace, and when: its named queue, how its urgency grows with age, whose turn a label is.

Belongs here: rules over plain rows. Keep out: what is queued (``defs/triage.py``) and what answers mean (``reviewing.py``).
Source: docs/methods.md, "Triage and golden set".
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from fnmatch import fnmatchcase
from typing import Any, Literal, Protocol

from evalflow.core.reviewing import Source

DEFAULT_QUEUE = "general"
"""Where a trace goes that no route takes."""
SliceColumn = Literal["locale", "user_tier", "model", "prompt_version", "variant"]
"""Columns of a queued trace that a route may look at."""


class Route(Protocol):
    """Traces of certain bins or slices go to one queue.

    A trace fits when its bin is among ``bins`` or its label among ``labels`` (where either is given), and each column of
    ``slices`` has its value. Labels and values may be patterns: ``card*``, ``de-*``.
    """

    @property
    def queue(self) -> str: ...
    @property
    def bins(self) -> Sequence[str]: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def slices(self) -> Mapping[SliceColumn, str]: ...


def queue_of(routes: Sequence[Route], row: Mapping[str, Any]) -> str:
    """The queue of a trace: that of the first route that takes it, else the default one.

    Args:
        routes: in the order of the settings.
        row: with ``bin``, ``label`` and the slice columns; a null value fits no pattern.
    """
    return next((route.queue for route in routes if _takes(route, row)), DEFAULT_QUEUE)


def idle_parts(routes: Sequence[Route], bins: Mapping[str, str]) -> list[str]:
    """A sentence for every bin and label of a route that does not exist, so that a typing error is not a silent route.

    Args:
        routes: in the order of the settings.
        bins: bins that exist, each with its label.
    """
    sentences = []
    for number, route in enumerate(routes, start=1):
        missing = [f"bin {name!r}" for name in route.bins if name not in bins]
        missing += [
            f"label {name!r}" for name in route.labels if not any(_fits(label, name) for label in bins.values())
        ]
        if missing:
            sentences.append(
                f"route {number} to the queue {route.queue!r} names {', '.join(missing)}, which no bin of the taxonomy "
                "has; correct triage.routes, or leave it until there is one"
            )
    return sentences


def effective_priority(priority: float, age_days: int, aging_days: int) -> float:
    """A waiting trace's urgency: p + (1 - p) * min(1, age / aging_days), in [p, 1].

    It rises in a straight line to 1, so that nothing waits for ever behind what comes in, and of two traces of the same
    age the one of higher priority stays before the other until then.
    """
    return priority + (1.0 - priority) * min(1.0, max(age_days, 0) / aging_days)


def whose_turn(sources: Iterable[Source], count: Mapping[Source, int], spent: Set[Source]) -> Source | None:
    """The source that the next label goes to: of those with candidates left the one with the fewest labels so far.

    Equal counts go by the order of ``sources``. So labels are shared in equal parts, and what a source cannot use is
    shared by the others (max-min fairness). None where every source is spent.
    """
    left = [source for source in sources if source not in spent]
    if not left:
        return None
    fewest: Source = min(left, key=lambda source: count[source])
    return fewest


def _takes(route: Route, row: Mapping[str, Any]) -> bool:
    is_in_bin = row["bin"] in route.bins or any(_fits(row["label"], label) for label in route.labels)
    if (route.bins or route.labels) and not is_in_bin:
        return False
    return all(_fits(row[column], value) for column, value in route.slices.items())


def _fits(value: Any, pattern: str) -> bool:
    return value is not None and (value == pattern or fnmatchcase(str(value), pattern))
