"""pytest over a golden set: ``pytest --evalflow-golden suite.jsonl`` runs one test per case against the system under test.

A case that fails is a failed test; one that cannot be scored is an *error*, never a skip: a suite of skips ends green.
Frozen regressions carry the mark ``evalflow_regression``. Source: docs/ci.md, "pytest". Loaded by every pytest of the
environment, so nothing but pytest is imported before the option is given. Keep out: the statistics of the gate.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from evalflow.adapters.attempting import Attempt
    from evalflow.adapters.home import Home
    from evalflow.adapters.lock import Lock
    from evalflow.adapters.scoring import Scorer
    from evalflow.adapters.system import SystemUnderTest, Task

NODE = "evalflow-golden"
MARK, REGRESSION_MARK = "evalflow", "evalflow_regression"
SHOWN_CHARS = 2_000
UNREACHED_IN_A_ROW = 5
"""After so many cases in a row that reached nothing the others are not asked."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("evalflow", "evalflow: a golden set as tests")
    group.addoption(
        "--evalflow-golden",
        metavar="SUITE",
        help="One test per case of this golden set: an exported suite.jsonl, or a home (its suite as of today).",
    )
    group.addoption(
        "--evalflow-system",
        metavar="SYSTEM",
        help="python:package.module:function or an endpoint's address. Default: the fixture evalflow_system, else the settings.",
    )
    group.addoption(
        "--evalflow-scorer",
        metavar="SCORER",
        help="exact, contains, judge or python:package.module:function. Default: the setting system.scorer.",
    )
    group.addoption(
        "--evalflow-lock", metavar="LOCK", help="Refuse a suite that is not the one that this lock file pins."
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}: a case of the golden set given with --evalflow-golden")
    config.addinivalue_line("markers", f"{REGRESSION_MARK}: a frozen regression of the golden set")


# First, so that -k and -m choose among the cases too.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    given = config.getoption("--evalflow-golden")
    if not given:
        for option in ("system", "scorer", "lock"):
            if config.getoption(f"--evalflow-{option}"):
                raise pytest.UsageError(f"--evalflow-{option} is given without --evalflow-golden; name the golden set.")
        return
    golden = _golden(given, config.getoption("--evalflow-lock"))
    config.stash[_STATE] = _State(golden.home)
    suite: _Suite = _Suite.from_parent(session, name=NODE, nodeid=NODE)
    items += [_item(suite, case) for case in golden.cases]


# -- the golden set --------------------------------------------------------------------------------------------


class _Case(NamedTuple):
    task: Task
    is_regression: bool


class _Golden(NamedTuple):
    """The cases to test, and the home whose settings hold: that of the cases, else the default one."""

    cases: list[_Case]
    home: Home


def _golden(given: str, lock: str | None) -> _Golden:
    from evalflow.adapters.home import open_home
    from evalflow.adapters.system import task_of
    from evalflow.errors import EvalflowError

    try:
        if Path(given).is_dir():
            home = open_home(given)
            held = _held_lock(lock, home)
            suite = home.ledger.as_of(held.as_of if held else home.calendar.now)
            golden = _Golden([_Case(task_of(case), case.is_regression) for case in suite], home)
        else:
            _refuse_unlocked(given, _held_lock(lock, None))
            golden = _Golden(_cases_in(given), open_home())
        if not golden.cases:
            raise pytest.UsageError(f"The golden set {given} has no cases; export one with `evalflow golden export`.")
    except EvalflowError as error:
        raise pytest.UsageError(str(error)) from error
    return golden


def _held_lock(lock: str | None, home: Home | None) -> Lock | None:
    """The lock, if it holds for its files and the ledger."""
    if lock is None:
        return None
    from evalflow.adapters.lock import check_lock

    check = check_lock(Path(lock), home.ledger if home else None)
    if not check.holds:
        raise pytest.UsageError("; ".join(check.mismatches))
    return check.lock


def _refuse_unlocked(given: str, lock: Lock | None) -> None:
    """A lock that holds says nothing of a file that it does not pin."""
    from evalflow.adapters.native import file_hash, find_files

    pinned = tuple(lock.files.values()) if lock else ()
    for file in find_files(given).files if lock else ():
        if not any(known.startswith(f"sha256:{file_hash(file)}") for known in pinned):
            raise pytest.UsageError(f"{file} is no file of the lock; name the one that it pins, or export again.")


def _cases_in(path: str) -> list[_Case]:
    """The cases of a file as `evalflow golden export` writes them, by case_id.

    Raises:
        BadInputError: a line is no case, or two lines are the same one: a test that is not there would not be missed.
    """
    from evalflow.adapters.native import find_files, read_lines
    from evalflow.adapters.system import task_of
    from evalflow.core.records import GoldenCase, Unusable, parse_golden_case
    from evalflow.errors import BadInputError
    from evalflow.settings import Ingest

    found: dict[str, GoldenCase] = {}
    for file in find_files(path).files:
        for line in read_lines(file):
            row = line.row
            case = row if isinstance(row, Unusable) else parse_golden_case(row, Ingest().max_text_bytes)
            if not isinstance(case, Unusable) and case.case_id in found:
                case = Unusable(f"the case {case.case_id!r} stands there twice")
            if isinstance(case, Unusable):
                raise BadInputError(f"{file}:{line.number} cannot be tested: {case.reason}; correct it.")
            found[case.case_id] = case
    return [_Case(task_of(found[case_id]), bool(found[case_id].is_regression)) for case_id in sorted(found)]


# -- a test per case -------------------------------------------------------------------------------------------


class _Suite(pytest.Collector):
    """What the tests of the golden set hang under; pytest never collects it, it is filled from the option."""

    def collect(self) -> Iterable[pytest.Item]:
        return []


class _GoldenItem(pytest.Function):
    """One case. A function without a file: what is reported is the case."""

    task: Task

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{NODE}::{self.name}"


def _item(suite: _Suite, case: _Case) -> _GoldenItem:
    name = " ".join(_shown(case.task.key).split())  # a name is printed as it is
    item: _GoldenItem = _GoldenItem.from_parent(suite, name=name, callobj=_passes)
    item.task = case.task
    item.add_marker(MARK)
    if case.is_regression:
        item.add_marker(REGRESSION_MARK)
    return item


def _passes(evalflow_attempt: Attempt) -> None:
    """Asking and scoring are the fixture's: what is unscored is an error there, so that only a verdict fails here."""
    if evalflow_attempt.passed is False:
        pytest.fail(_told(evalflow_attempt, "fails"), pytrace=False)


@pytest.fixture
def evalflow_attempt(request: pytest.FixtureRequest, _evalflow_asker: Callable[[Task], Attempt]) -> Attempt:
    """The system's answer to the case, with a verdict; without one the test ends here, as an error."""
    if not isinstance(request.node, _GoldenItem):
        raise pytest.UsageError("The fixture evalflow_attempt is for the cases of --evalflow-golden.")
    attempt = _evalflow_asker(request.node.task)
    if attempt.passed is None:
        pytest.fail(_told(attempt, "is unscored"), pytrace=False)
    return attempt


@pytest.fixture(scope="session")
def evalflow_system(request: pytest.FixtureRequest) -> Any:
    """What the cases are run against; define a fixture of this name in the conftest.py beside your pytest settings.

    A function of a case that returns its answer as text, or as a dict with ``output`` and perhaps ``pass`` and
    ``reason``; or an address as --evalflow-system takes it. Here: that option, else the settings of the home.
    """
    return request.config.getoption("--evalflow-system")


@pytest.fixture(scope="session")
def _evalflow_asker(request: pytest.FixtureRequest) -> Callable[[Task], Attempt]:
    from evalflow.adapters.scoring import scorer_of
    from evalflow.errors import EvalflowError

    config, state = request.config, request.config.stash[_STATE]
    try:
        scorer = scorer_of(state.home, config.getoption("--evalflow-scorer"))
        given = config.getoption("--evalflow-system") or request.getfixturevalue("evalflow_system")
        system = _system(given, state.home)
    except EvalflowError as error:
        reason = str(error)
    else:
        return lambda task: state.ask(system, scorer, task)
    return pytest.fail(reason, pytrace=False)


def _system(given: Any, home: Home) -> SystemUnderTest:
    from evalflow.adapters.system import FunctionSystem, system_of

    if callable(given):
        name = f"fixture evalflow_system ({getattr(given, '__qualname__', type(given).__qualname__)})"
        return FunctionSystem(name, given, home.settings.system, home.settings.ingest.max_text_bytes)
    return system_of(home.settings, given)


class _State:
    """The home whose settings hold, and whether the system has gone."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.n_unreached = 0
        self.gone: str | None = None

    def ask(self, system: SystemUnderTest, scorer: Scorer | None, task: Task) -> Attempt:
        from evalflow.adapters.attempting import attempt_all
        from evalflow.errors import UsageError

        if self.gone is not None:
            pytest.fail(f"{_shown(task.key)} is not asked: {_shown(self.gone)}", pytrace=False)
        try:
            ran = attempt_all(system, scorer, [task])
        except UsageError as error:
            self.gone = str(error)  # the same for every case
        if self.gone is not None:
            pytest.fail(f"{_shown(task.key)} is unscored: {_shown(self.gone)}", pytrace=False)
        self.n_unreached = self.n_unreached + 1 if ran.failure else 0
        if ran.failure and self.n_unreached >= UNREACHED_IN_A_ROW:
            self.gone = str(ran.failure)
        return ran.attempts[0]


_STATE = pytest.StashKey[_State]()


def _told(attempt: Attempt, what: str) -> str:
    task = attempt.task
    parts = {
        "input": task.input,
        "expected": task.expected_output,
        "output": attempt.output,
        "reason": attempt.reason,
    }
    told = [f"{name}:\n{_shown(text)}" for name, text in parts.items() if text is not None]
    return "\n".join([f"{_shown(task.key)} {what}", *told])


def _shown(text: str) -> str:
    """Somebody else's text for a terminal: no control sequence gets through."""
    cut = text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in cut)
