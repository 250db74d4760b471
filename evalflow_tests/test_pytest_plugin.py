"""`pytest --evalflow-golden`: one test per case, and no case without a verdict that looks like a pass."""

import importlib.metadata
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from evalflow.adapters.home import open_home, write_setting
from evalflow.adapters.lock import lock_text
from evalflow_tests.judge_server import JudgeServer
from evalflow_tests.test_gate_cli import add_cases

pytest_plugins = ["pytester"]
IS_INSTALLED = any(
    point.value == "evalflow.pytest_plugin" for point in importlib.metadata.entry_points(group="pytest11")
)
CASES = [
    {"case_id": "good", "input": "right?", "expected_output": "right"},
    {"case_id": "bad", "input": "right\x1b[2J?", "expected_output": "left", "is_regression": True},
    {"case_id": "open", "input": "right?"},
    {"case_id": "loud", "input": "boom", "expected_output": "x"},
]
SYSTEM = """
    def answer(case):
        assert "expected_output" not in case
        if case["input"] == "boom":
            raise RuntimeError("no answer")
        return case["input"]
"""


@pytest.fixture(autouse=True)
def _libraries_stay_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run inside this one forgets what it has loaded, but numpy and its like load only once in a process."""

    def forget_its_own(snapshot: Any) -> None:
        for name in ("conftest", "system_of_tests", "test_own"):
            sys.modules.pop(name, None)

    monkeypatch.setattr("_pytest.pytester.SysModulesSnapshot.restore", forget_its_own)


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with a suite, a system and a test of the team's own."""
    write(pytester, CASES)
    pytester.makepyfile(system_of_tests=SYSTEM)
    pytester.makepyfile(test_own="def test_own(): pass")
    return pytester


def write(pytester: pytest.Pytester, cases: list[dict[str, Any]]) -> Path:
    path = pytester.path / "suite.jsonl"
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    return path


def run(pytester: pytest.Pytester, *options: str, system: str | None = "python:system_of_tests:answer") -> Any:
    own = [] if IS_INSTALLED else ["-p", "evalflow.pytest_plugin"]
    given = ["--evalflow-system", system] if system else []
    # The outer run's settings are not those of a project: its own plugins and warnings stay out.
    return pytester.runpytest_inprocess(*own, "-p", "no:cacheprovider", "-p", "no:xdist", *given, *options)


GOLDEN = ("--evalflow-golden", "suite.jsonl", "--evalflow-scorer", "contains")


def test_each_case_is_a_test_and_what_has_no_verdict_an_error(suite: pytest.Pytester) -> None:
    done = run(suite, *GOLDEN, "-v", "--strict-markers")
    done.assert_outcomes(passed=2, failed=1, errors=2)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["*evalflow-golden::good PASSED*"])
    text = done.stdout.str()
    assert "bad fails\ninput:\nright\ufffd[2J?" in text
    assert "expected:\nleft\noutput:\nright\ufffd[2J?\nreason:\nthe answer does not hold the expected text" in text
    assert "open is unscored" in text
    assert "the case has no expected_output" in text
    assert "the function raised RuntimeError: no answer" in text
    assert "\x1b[2J" not in text
    assert "pytest_plugin.py" not in text, "a case has no traceback of ours"


def test_cases_are_chosen_by_name_and_regressions_by_mark(suite: pytest.Pytester) -> None:
    run(suite, *GOLDEN, "-k", "good or open").assert_outcomes(passed=1, errors=1, deselected=3)
    run(suite, *GOLDEN, "-m", "evalflow_regression").assert_outcomes(failed=1, deselected=4)
    run(suite, *GOLDEN, "-m", "evalflow", "-k", "good").assert_outcomes(passed=1, deselected=4)
    run(suite, "--evalflow-golden", "suite.jsonl", "--collect-only", "-q").stdout.fnmatch_lines(
        ["test_own.py::test_own", "evalflow-golden::bad", "evalflow-golden::good", "evalflow-golden::loud", "*::open"]
    )


def test_a_fixture_of_the_team_is_the_system(suite: pytest.Pytester) -> None:
    """Plain or async, made once; its own verdict needs no scorer."""
    suite.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def evalflow_system():
            async def answer(case):
                return {"output": "x", "pass": case["case_id"] != "bad", "reason": "mine"}
            yield answer
        """
    )
    done = run(suite, "--evalflow-golden", "suite.jsonl", system=None)
    done.assert_outcomes(passed=4, failed=1)
    assert "reason:\nmine" in done.stdout.str()


def test_without_the_option_nothing_is_added(suite: pytest.Pytester) -> None:
    run(suite, system=None).assert_outcomes(passed=1)
    said = run(suite)
    assert said.ret == pytest.ExitCode.USAGE_ERROR
    assert "--evalflow-system is given without --evalflow-golden" in said.stderr.str()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"case_id": "good", "input": "x"}', "the case 'good' stands there twice; correct it."),
        ('{"case_id": "new"}', "suite.jsonl:5 cannot be tested"),
        ("{broken", "suite.jsonl:5 cannot be tested"),
    ],
)
def test_a_suite_that_cannot_be_read_whole_is_refused(suite: pytest.Pytester, line: str, message: str) -> None:
    """A test that is missing would not be missed."""
    with (suite.path / "suite.jsonl").open("a") as file:
        file.write(line + "\n")
    said = run(suite, *GOLDEN)
    assert said.ret == pytest.ExitCode.USAGE_ERROR
    assert message in said.stderr.str()
    for given, why in (("none.jsonl", "There is no file at none.jsonl"), ("empty", "has no cases")):
        (suite.path / "empty").mkdir(exist_ok=True)
        assert why in run(suite, "--evalflow-golden", given).stderr.str()


def test_without_system_or_scorer_each_case_says_so(suite: pytest.Pytester) -> None:
    none = run(suite, *GOLDEN, system=None)
    none.assert_outcomes(passed=1, errors=4)
    assert "No system is named; name one with --system (in pytest --evalflow-system)" in none.stdout.str()
    no_scorer = run(suite, "--evalflow-golden", "suite.jsonl")
    no_scorer.assert_outcomes(passed=1, errors=4)
    assert "exact, contains, judge or python:package.module:function" in no_scorer.stdout.str()


def test_an_endpoint_that_is_gone_is_not_waited_for_by_every_case(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MODEL", "m"), ("MAX_RETRIES", "0")):
        monkeypatch.setenv(f"EVALFLOW_SYSTEM__{name}", value)
    write(suite, [{"case_id": f"c{n}", "input": "q", "expected_output": "q"} for n in range(9)])
    with JudgeServer() as server:
        server.always = "server_error"
        done = run(suite, *GOLDEN, system=server.base_url)
        assert len(server.asked) == 5
    done.assert_outcomes(passed=1, errors=9)
    assert "c8 is not asked: The system endpoint" in done.stdout.str()


def test_a_home_gives_its_suite_and_a_lock_holds_it(suite: pytest.Pytester) -> None:
    home = open_home(suite.path / "home")
    write_setting(home.path, "traffic_end", date(2026, 6, 14))
    write_setting(home.path, "system.scorer", "contains")
    home = home.reloaded()
    add_cases(home, [{**case, "created_at": "2026-06-01T00:00:00Z"} for case in CASES[:2]])
    lock = suite.path / "suite.jsonl.lock.json"
    text = (suite.path / "suite.jsonl").read_text()
    lock.write_text(lock_text("jsonl", date(2026, 6, 14), home.ledger.as_of(date(2026, 6, 14)), {"suite.jsonl": text}))
    add_cases(home, [{**CASES[2], "created_at": "2026-06-15T00:00:00Z"}])
    run(suite, "--evalflow-golden", "home").assert_outcomes(passed=2, failed=1, errors=1)
    run(suite, "--evalflow-golden", "home", "--evalflow-lock", str(lock)).assert_outcomes(passed=2, failed=1)
    run(suite, *GOLDEN, "--evalflow-lock", str(lock), "-k", "good").assert_outcomes(passed=1, deselected=4)
    (suite.path / "other.jsonl").write_text(json.dumps(CASES[0]) + "\n")
    said = run(suite, "--evalflow-golden", "other.jsonl", "--evalflow-lock", str(lock))
    assert said.ret == pytest.ExitCode.USAGE_ERROR
    assert "other.jsonl is no file of the lock" in said.stderr.str()
    write(suite, CASES[:1])
    said = run(suite, *GOLDEN, "--evalflow-lock", str(lock))
    assert said.ret == pytest.ExitCode.USAGE_ERROR
    assert "suite.jsonl" in said.stderr.str()


def test_importing_the_plugin_loads_nothing_of_ours() -> None:
    """Every pytest of the environment loads it, also those that never heard of a golden set."""
    script = "import sys, pytest\nbefore = set(sys.modules)\nimport evalflow.pytest_plugin\nprint(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"evalflow", "evalflow.pytest_plugin"}
