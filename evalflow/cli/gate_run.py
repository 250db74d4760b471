"""Running the suite for `evalflow gate --run`: each attempt written as it is done, progress on stderr.

Keep out: what the run decides, and what is printed of it (``gate.py``, ``gate_report.py``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from evalflow.adapters.attempting import Attempt, attempt_all
from evalflow.adapters.home import Home
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.results import Results
from evalflow.adapters.saved_results import Said, SavedRun, run_id_of
from evalflow.adapters.scoring import scorer_of
from evalflow.adapters.system import system_of, task_of
from evalflow.cli.terminal import counted, err, shown
from evalflow.core.attempts import Attempts
from evalflow.errors import UsageError

RUNS_FOLDER = "gate"
"""Of the cache: where a run lies that was not told to save its results, until it is complete."""


@dataclass(frozen=True)
class Candidate:
    """What is judged: its name to print, its attempts, what they said, and how they were made (None: read from a file)."""

    name: str
    read: Results
    said: Mapping[str, Sequence[Said]]
    run: dict[str, Any] | None


def run_suite(
    workspace: Home,
    cases: Sequence[CaseVersion],
    named_system: str | None,
    named_scorer: str | None,
    repeats: int,
    save: Path | None,
    as_json: bool,
) -> Candidate:
    """Run the suite, going on from what an interrupted run has left.

    Raises:
        UnreachableError: no call reached the system, or the scorer.
        UsageError: nothing is left to ask, and no version says that the candidate is still the same.
    """
    system, scorer = system_of(workspace.settings, named_system), scorer_of(workspace, named_scorer)
    # Round by round, so that a run that is stopped early has tried as many cases as it could.
    tasks = [task_of(case, repeat) for repeat in range(1, repeats + 1) for case in cases]
    run_id = run_id_of(system, scorer, tasks)
    path = save or workspace.cache / RUNS_FOLDER / f"{run_id}.jsonl"
    wanted = {(task.key, task.repeat) for task in tasks}
    with SavedRun(path, run_id) as saved:
        said = {key: one for key, one in saved.found.items() if key in wanted}
        to_ask = [task for task in tasks if (task.key, task.repeat) not in said]
        n_held = len(said)
        if not to_ask and system.version is None:  # what the candidate imports may have changed: that is no run of it
            raise UsageError(
                f"{path} holds this run in full already; delete it to run anew, name the candidate with system.version, or "
                f"decide on what it holds with `evalflow gate {path}`."
            )
        if n_held:
            err.print(
                f"{counted(n_held, 'attempt')} of an earlier run taken over from {shown(str(path))}, {len(to_ask):,} to make; "
                "delete the file to begin anew.",
                soft_wrap=True,
            )

        with _progress(len(to_ask), as_json) as on_attempt:

            def keep(attempt: Attempt) -> None:
                saved.add(attempt)
                on_attempt(attempt)

            ran = attempt_all(system, scorer, to_ask, keep)
    if ran.failure is not None:
        raise ran.failure
    for attempt in ran.attempts:
        if attempt.is_asked:
            said[attempt.task.key, attempt.task.repeat] = Said(
                attempt.passed, attempt.output, attempt.reason, attempt.latency_ms
            )
    n_left = len(tasks) - len(said)
    if ran.stopped is not None:
        err.print(
            f"[yellow]stopped:[/yellow] {shown(ran.stopped)} {counted(n_left, 'attempt')} not made; ask again to go on.",
            soft_wrap=True,
        )
    elif save is None:
        path.unlink(missing_ok=True)
    by_case: dict[str, list[Said]] = {}
    for (case_id, _), one in sorted(said.items()):
        by_case.setdefault(case_id, []).append(one)
    # Attempts that a stopped run owes a case are open, or one pass would do for the three that were asked for.
    attempts = {
        case_id: Attempts((*(one.passed for one in held), *[None] * (repeats - len(held))))
        for case_id, held in by_case.items()
    }
    parts = (
        system.name,
        system.version,
        scorer and f"scorer {scorer.name}",
        repeats > 1 and f"{repeats} attempts each",
        n_held and f"{counted(n_held, 'attempt')} of an earlier run",
    )
    return Candidate(
        ", ".join(part for part in parts if part),
        Results(attempts, (), ()),
        by_case,
        {
            "system": system.name,
            "version": system.version,
            "scorer": scorer.name if scorer else None,
            "repeats": repeats,
            "n_attempts": len(said),
            "n_taken_over": n_held,
            "n_not_made": n_left,
            "stopped": ran.stopped,
            "scoring_usd": ran.paid_usd,
            "saved": str(save) if save else None,
        },
    )


@contextmanager
def _progress(n_tasks: int, as_json: bool) -> Iterator[Callable[[Attempt], None]]:
    """One bar on stderr with what has passed so far; a plain line where stderr is no terminal or JSON is asked for."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    is_plain = as_json or not err.is_terminal
    if is_plain and n_tasks:
        err.print(f"suite: {n_tasks} to do", highlight=False)
    counts = {"pass": 0, "fail": 0, "unscored": 0}
    with Progress(*columns, console=err, disable=is_plain) as progress:
        bar = progress.add_task("suite", total=n_tasks)

        def on_attempt(attempt: Attempt) -> None:
            counts[attempt.verdict] += 1
            told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
            progress.update(bar, advance=1, description=told)

        yield on_attempt
