"""Asking the system under test many questions and scoring each answer, some at a time, with every result told at once.

Nothing that happens to one question stops the others; only an endpoint that is not there does. Keep out: what is kept of
an attempt (``attempts.py``) and what a run of the suite decides (``core/gate.py``).
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from evalflow.adapters.scoring import SCORERS, Score, Scorer
from evalflow.adapters.system import Answer, Ask, SystemUnderTest, Task
from evalflow.core.grading import Grade, Graded
from evalflow.errors import UnreachableError, UsageError

FAILURES_AT_FIRST = 5
"""So many calls in a row that reach nothing, and none before that did: what is to be asked is not there."""
FAILURES_IN_A_ROW = 20
"""So many later on: it is gone."""


@dataclass(frozen=True)
class Attempt:
    """One question, what came back and what it is worth.

    ``is_final`` is false where it says nothing about the system, since it or the scorer broke or was not reached: asking
    again may help. ``is_asked`` is false where the run had stopped before.
    """

    task: Task
    output: str | None
    verdict: Grade
    reason: str
    latency_ms: float | None
    is_final: bool
    is_asked: bool = True

    @property
    def passed(self) -> bool | None:
        return None if self.verdict == "unscored" else self.verdict == "pass"


@dataclass(frozen=True)
class Ran:
    """What a call came to, in the order of its tasks. ``failure`` is set where no call at all reached what was asked.

    ``stopped``: why the rest was not asked, else None. ``paid_usd``: what the scorer has spent.
    """

    attempts: list[Attempt]
    system: str
    version: str | None
    scorer: str | None
    paid_usd: float
    stopped: str | None = None
    failure: UnreachableError | None = None


def attempt_all(
    system: SystemUnderTest,
    scorer: Scorer | None,
    tasks: Sequence[Task],
    on_attempt: Callable[[Attempt], None] | None = None,
) -> Ran:
    """Ask every task, ``system.concurrency`` at a time in their order; ``on_attempt`` hears of each as it is done.

    A verdict that the system gives itself stands; else ``scorer`` decides. After ``FAILURES_IN_A_ROW`` calls that reached
    nothing the rest is not asked.

    Raises:
        UsageError: an answer has no verdict and there is no scorer to give one.
    """
    _refuse_no_verdict(system, scorer, not system.may_judge)
    run = _Run(system, scorer, on_attempt or (lambda attempt: None))
    if tasks:
        asyncio.run(_run_all(run, tasks))
    if run.error is not None:
        raise run.error
    stopped = run.stopped
    attempts = [run.done.get((task.key, task.repeat)) or _not_asked(task, stopped or "") for task in tasks]
    return Ran(
        attempts,
        system.name,
        system.version,
        scorer.name if scorer else None,
        scorer.paid_usd if scorer else 0.0,
        stopped,
        UnreachableError(run.last_failure) if run.last_failure and not run.n_reached else None,
    )


@dataclass
class _Run:
    system: SystemUnderTest
    scorer: Scorer | None
    on_attempt: Callable[[Attempt], None]
    done: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    n_reached: int = 0
    n_in_a_row: int = 0
    last_failure: str | None = None
    stopped: str | None = None
    error: Exception | None = None

    def keep(self, attempt: Attempt, is_reached: bool) -> None:
        self.done[attempt.task.key, attempt.task.repeat] = attempt
        if is_reached:
            self.n_reached += 1
            self.n_in_a_row = 0
        else:
            self.n_in_a_row += 1
            self.last_failure = attempt.reason
            if self.n_in_a_row >= (FAILURES_IN_A_ROW if self.n_reached else FAILURES_AT_FIRST):
                self.stopped = attempt.reason
        self.on_attempt(attempt)


async def _run_all(run: _Run, tasks: Sequence[Task]) -> None:
    try:
        async with run.system.opened() as ask, run.scorer.opened() if run.scorer else nullcontext() as score:
            queue = iter(tasks)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(run.system.concurrency, len(tasks))):
                    group.create_task(_work(run, queue, ask, score))
    except UnreachableError as error:  # on opening: nothing was asked
        run.stopped = run.last_failure = str(error)


async def _work(run: _Run, queue: Iterator[Task], ask: Ask, score: Score | None) -> None:
    for task in queue:
        if run.stopped is not None or run.error is not None:
            return
        try:
            attempt, is_reached = await _attempt(run, task, ask, score)
            run.keep(attempt, is_reached)
        except Exception as error:  # told once, after every worker has stopped, and not as a group
            run.error = run.error or error
            return


class _Attempted(NamedTuple):
    attempt: Attempt
    is_reached: bool


async def _attempt(run: _Run, task: Task, ask: Ask, score: Score | None) -> _Attempted:
    answer = await ask(task)
    if answer.has_verdict:
        own = answer.reason or "the system's own verdict, given without a reason"
        verdict: Grade = "unscored" if answer.passed is None else "pass" if answer.passed else "fail"
        return _Attempted(_of(task, answer, Graded(verdict, own), True), True)
    if answer.output is None:
        graded = Graded("unscored", answer.reason or "there is no answer")
        return _Attempted(_of(task, answer, graded, answer.state == "answered"), answer.state != "unreached")
    _refuse_no_verdict(run.system, run.scorer, True)
    assert score is not None  # refused above
    scored = await score(task, answer.output)
    return _Attempted(_of(task, answer, scored.graded, scored.is_final), scored.is_reached)


def _of(task: Task, answer: Answer, graded: Graded, is_final: bool) -> Attempt:
    return Attempt(task, answer.output, graded.verdict, graded.reason, answer.latency_ms, is_final)


def _not_asked(task: Task, stopped: str) -> Attempt:
    return Attempt(task, None, "unscored", f"not asked: {stopped}", None, is_final=False, is_asked=False)


def _refuse_no_verdict(system: SystemUnderTest, scorer: Scorer | None, has_no_verdict: bool) -> None:
    if scorer is None and has_no_verdict:
        raise UsageError(
            f"The system {system.name} answers without a verdict of its own, and no scorer is named; name one with "
            f"--scorer (in pytest --evalflow-scorer) or set system.scorer: {SCORERS}."
        )
