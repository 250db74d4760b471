"""Does it fail again? The system under test is asked the confirmed traces several times before they become cases.

Recorded as attempts, which promotion reads: difficulty, and whether a failure becomes a frozen regression. Safe to stop:
what was asked is kept, and only what is missing is asked the next time. Keep out: making an attempt
(``adapters/attempting.py``) and what follows from it (``core/promotion.py``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from evalflow.adapters.attempting import Attempt, Ran, attempt_all
from evalflow.adapters.home import Home
from evalflow.adapters.scoring import scorer_of
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.system import system_of
from evalflow.core.records import Reproduction
from evalflow.defs.candidates import Candidate, candidates_of, propose, reproduction_of, task_of_trace
from evalflow.errors import UsageError

BATCH = 50
"""Attempts between two writes: what a kill can cost."""


@dataclass(frozen=True)
class Reproduced:
    """One trace and how the system did on it."""

    trace_id: str
    is_failure: bool
    text: str
    reproduction: Reproduction


@dataclass
class ReproduceRun:
    """What a run came to. ``n_asked``: calls made now; ``stopped``: why not everything was asked, else None."""

    system: str = ""
    scorer: str | None = None
    attempts: int = 0
    traces: list[Reproduced] = field(default_factory=list)
    n_asked: int = 0
    n_broken: int = 0
    paid_usd: float = 0.0
    waiting: list[str] = field(default_factory=list)
    stopped: str | None = None


def reproduce(
    home: Home,
    trace_ids: Sequence[str] = (),
    attempts: int | None = None,
    system: str | None = None,
    scorer: str | None = None,
    on_attempt: Callable[[int, int], None] = lambda done, total: None,
) -> ReproduceRun:
    """Ask the system the traces that a promotion would take, until each has its number of scored attempts.

    Args:
        home: its queue and answers.
        trace_ids: these only; all that are ready when empty.
        attempts: for each trace; the setting promotion.attempts when None.
        system, scorer: in place of those of the settings.
        on_attempt: hears of calls done and calls wanted.

    Raises:
        UsageError: no system is named, it gives no verdict and there is no scorer, or a trace is not ready.
        UnreachableError: no call reached the system.
    """
    wanted = attempts or home.settings.promotion.attempts
    asked, by = system_of(home.settings, system), scorer_of(home, scorer)
    proposed = propose(home, home.calendar.now)
    found = candidates_of(home, home.calendar.now, proposed)
    chosen = [candidate for candidate in found.ready if not trace_ids or candidate.trace_id in trace_ids]
    unknown = sorted(set(trace_ids) - {candidate.trace_id for candidate in chosen})
    if unknown:
        raise UsageError(
            f"The trace {unknown[0]!r} is not ready to be promoted; `evalflow triage list` shows where it stands."
        )
    scrubber = Scrubber(home.settings.privacy)
    run = ReproduceRun(asked.name, by.name if by else None, wanted, waiting=found.waiting, paid_usd=proposed.paid_usd)
    held = home.attempts.all()
    missing: dict[str, int] = {}
    for candidate in chosen:
        task = task_of_trace(candidate, scrubber)
        n_held = sum(
            (kept.kind, kept.item_id) == ("trace", candidate.trace_id)
            and (kept.system, kept.system_version, kept.scorer) == (asked.name, asked.version, run.scorer)
            and kept.verdict != "unscored"
            and kept.is_at(task)
            for kept in held
        )
        missing[candidate.trace_id] = max(0, wanted - n_held)
    tasks = [
        task_of_trace(candidate, scrubber, repeat)
        for candidate in chosen
        for repeat in range(1, missing[candidate.trace_id] + 1)
    ]
    unwritten: list[Attempt] = []

    def write() -> None:
        home.attempts.add("trace", Ran(unwritten, asked.name, asked.version, run.scorer, 0.0), scrubber, home.now())
        unwritten.clear()

    def keep(attempt: Attempt) -> None:
        run.n_asked += 1
        run.n_broken += not attempt.is_final
        unwritten.append(attempt)
        if len(unwritten) >= BATCH:
            write()
        on_attempt(run.n_asked, len(tasks))

    try:
        ran = attempt_all(asked, by, tasks, keep)
    finally:
        write()  # an interrupted run has paid for them
    if ran.failure is not None:
        raise ran.failure
    run.paid_usd += ran.paid_usd
    run.stopped = ran.stopped
    run.traces = _reproduced(home, chosen, scrubber)
    return run


def _reproduced(home: Home, chosen: Sequence[Candidate], scrubber: Scrubber) -> list[Reproduced]:
    held = home.attempts.all()
    traces = []
    for candidate in chosen:
        own = [kept for kept in held if (kept.kind, kept.item_id) == ("trace", candidate.trace_id)]
        task = task_of_trace(candidate, scrubber)
        reproduction = reproduction_of(own, task)
        if reproduction:
            traces.append(Reproduced(candidate.trace_id, candidate.decision.is_regression, task.input, reproduction))
    return traces
