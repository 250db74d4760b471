"""The random floor of the queue: how many judged traces of each kind are drawn for people, so that graders can be calibrated.

A kind (cell) is a grader's verdict and whether a negative signal speaks. Source: docs/methods.md, "Triage and golden
set". Keep out: what the labels then say of a grader.
"""

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from evalflow.core.grading import Grade
from evalflow.core.sampling import random_numbers


class Cell(NamedTuple):
    """A kind of judged trace."""

    verdict: Grade
    has_signal: bool

    @property
    def words(self) -> str:
        verdict = {"pass": "the grader passes", "fail": "the grader fails", "unscored": "the grader cannot tell"}
        return f"{verdict[self.verdict]} and {'a signal speaks against it' if self.has_signal else 'no signal speaks'}"


QUIET = Cell("pass", has_signal=False)
"""Where failures hide that nobody has seen: most of the traffic, and what a queue of the suspicious never shows."""


class Drawn(NamedTuple):
    """The traces drawn of one cell, and how many it has: each had the chance n_h / N_h."""

    trace_ids: list[str]
    size: int

    @property
    def chance(self) -> float:
        return len(self.trace_ids) / self.size


def draw(judged: pl.DataFrame, labels: int, salt: str) -> dict[Cell, Drawn]:
    """Draw from each cell at random without replacement: the traces with the lowest permanent random numbers.

    Args:
        judged: ``trace_id``, ``verdict`` and ``has_signal`` of every trace that may be drawn, each once.
        labels: how many to draw in all, see ``allocate``.
        salt: of the random numbers; one that nothing else uses, so that the draw depends on no other choice.

    Returns:
        Every cell that holds a trace; one without a label has an empty list.
    """
    number = pl.Series(random_numbers(salt, judged["trace_id"]), dtype=pl.Float64)
    ordered = judged.with_columns(number=number).sort("number", "trace_id")
    of_cell: dict[Cell, list[str]] = {}
    for trace_id, verdict, has_signal in ordered.select("trace_id", "verdict", "has_signal").iter_rows():
        of_cell.setdefault(Cell(verdict, bool(has_signal)), []).append(trace_id)
    n = allocate({cell: len(ids) for cell, ids in of_cell.items()}, labels)
    return {cell: Drawn(of_cell[cell][: n[cell]], len(of_cell[cell])) for cell in n}


def allocate(sizes: Mapping[Cell, int], labels: int) -> dict[Cell, int]:
    """How many traces to draw from each cell: n_h of N_h, adding up to ``labels`` or to all there are.

    One for each cell that holds any, ``QUIET`` first and the others from the largest on; what is left goes to ``QUIET``,
    and beyond that to whichever cell has the fewest.

    Args:
        sizes: traces of each cell, N_h.
        labels: how many to draw in all.
    """
    order = sorted((cell for cell in sizes if sizes[cell]), key=lambda cell: (cell != QUIET, -sizes[cell], cell))
    drawn = dict.fromkeys(order, 0)
    for cell in order[:labels]:
        drawn[cell] = 1
    left = min(labels, sum(sizes.values())) - sum(drawn.values())
    if QUIET in drawn:
        more = min(left, sizes[QUIET] - drawn[QUIET])
        drawn[QUIET] += more
        left -= more
    for _ in range(left):
        cell = min((cell for cell in order if drawn[cell] < sizes[cell]), key=lambda cell: drawn[cell])
        drawn[cell] += 1
    return drawn
