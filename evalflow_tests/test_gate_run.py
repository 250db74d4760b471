"""`evalflow gate --run`: the suite is run, nothing of a stopped run is lost, and what is written can be read by others."""

import json
import re
import signal
import sys
import threading
import time
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from evalflow.adapters.gate_reports import CaseResult, GateReport, junit_xml, markdown, most_telling
from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.lock import lock_text
from evalflow.adapters.saved_results import Said, SavedRun, said_in
from evalflow.core.attempts import Attempts
from evalflow.core.gate import decide
from evalflow.core.score import SuiteCase, Unqualified
from evalflow.errors import UsageError
from evalflow_tests.judge_server import KEY, MODEL, JudgeServer
from evalflow_tests.test_cli import Outcome, evalflow
from evalflow_tests.test_gate_cli import a_case, add_cases

CASES = ("r0", "r1", "s0", "s1", "s2")
HOSTILE = "</testcase>&<script>alert(1)</script> \x1b[2J \x00\ufffe ]]> | [x](http://evil) `a`\n# head"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two frozen regressions and three others, without traffic: a verdict is fail or cannot tell."""
    made = open_home(tmp_path / "home")
    write_setting(made.path, "traffic_end", date(2026, 6, 14))
    made = made.reloaded()
    add_cases(made, [a_case(name, expected_output="right", is_regression=name.startswith("r")) for name in CASES])
    return made


@pytest.fixture
def candidate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An importable module whose function ``answer`` a test may replace; ``asked`` are the cases in order."""
    module = ModuleType("candidate_of_tests")
    module.asked = []  # type: ignore[attr-defined]
    module.reply = lambda case: "right"  # type: ignore[attr-defined]

    def answer(case: dict[str, Any]) -> Any:
        module.asked.append(case["case_id"])
        return module.reply(case)

    module.answer = answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("EVALFLOW_SYSTEM__CALLABLE", f"python:{module.__name__}:answer")
    monkeypatch.setenv("EVALFLOW_SYSTEM__SCORER", "exact")
    monkeypatch.setenv("EVALFLOW_SYSTEM__CONCURRENCY", "1")
    return module


def run(home: Home, *options: object) -> Outcome:
    return evalflow("gate", "--run", *options, home=home.path)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- running ---------------------------------------------------------------------------------------------------


def test_the_suite_is_run_and_its_results_are_results(home: Home, candidate: Any, tmp_path: Path) -> None:
    candidate.reply = lambda case: "wrong" if case["case_id"] == "r1" else "right"
    said = run(home, "--save", tmp_path / "r.jsonl")
    assert said.code == 1
    assert said.out.startswith("fail  80.0% pass")
    assert "hard tier     2 frozen regressions: 1 passed, 1 failed" in said.out
    assert "candidate     python:candidate_of_tests:answer, scorer exact" in said.out
    assert "the answer is not the expected text" in said.out
    assert candidate.asked == list(CASES)
    rows = rows_of(tmp_path / "r.jsonl")
    assert [(row["case_id"], row["repeat"], row["pass"]) for row in rows] == [(name, 1, name != "r1") for name in CASES]
    assert set(rows[0]) == {"case_id", "repeat", "pass", "output", "reason", "latency_ms", "run"}
    read = evalflow("gate", tmp_path / "r.jsonl", "--json", home=home.path).document
    again = run(home, "--json").document
    for key in ("verdict", "reasons", "n_passed", "failing_regressions", "bins"):
        assert read[key] == again[key], key
    assert (read["run"], read["results"]) == (None, str(tmp_path / "r.jsonl"))
    assert again["run"] == {
        "system": "python:candidate_of_tests:answer",
        "version": None,
        "scorer": "exact",
        "repeats": 1,
        "n_attempts": 5,
        "n_taken_over": 0,
        "n_not_made": 0,
        "stopped": None,
        "scoring_usd": 0.0,
        "saved": None,
    }


def test_repeats_tell_a_flaky_regression_from_one_that_fails(home: Home, candidate: Any, tmp_path: Path) -> None:
    def sometimes(case: dict[str, Any]) -> str:
        is_second = candidate.asked.count(case["case_id"]) == 2
        return "wrong" if case["case_id"] == "r1" or (case["case_id"] == "r0" and is_second) else "right"

    candidate.reply = sometimes
    said = run(home, "--repeats", 3, "--junit", tmp_path / "j.xml", "--json")
    assert said.code == 1
    assert said.document["failing_regressions"] == ["r1"]
    assert said.document["flaky_regressions"] == [{"case_id": "r0", "n_failed": 1, "n_scored": 3}]
    assert candidate.asked == list(CASES) * 3, "round by round"
    hard = ElementTree.parse(tmp_path / "j.xml").getroot()[0]
    kinds = {case.get("name"): [child.tag for child in case] for case in hard.iter("testcase")}
    assert kinds == {"r0": ["error"], "r1": ["failure"]}


@pytest.mark.parametrize("is_saved", [True, False], ids=["saved", "in the cache"])
def test_ctrl_c_loses_nothing_and_the_next_run_asks_the_rest(
    home: Home, candidate: Any, tmp_path: Path, is_saved: bool
) -> None:
    options = ["--save", tmp_path / "r.jsonl"] if is_saved else []

    def interrupted(case: dict[str, Any]) -> str:
        if case["case_id"] == "s0":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.2)
        return "right"

    candidate.reply = interrupted
    stopped = run(home, *options)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1].startswith("Stopped. What was finished is kept")
    done = candidate.asked[: candidate.asked.index("s0")]
    candidate.asked.clear()
    candidate.reply = lambda case: "right"
    said = run(home, *options)
    assert "2 attempts of an earlier run taken over" in said.err
    assert done + candidate.asked == list(CASES)
    assert "5 cases" in said.out
    assert "3 to make" in said.err
    left = list((home.cache / "gate").iterdir()) if not is_saved else []
    assert left == [], "a finished run that nobody asked to keep is not kept"


def test_half_a_line_and_what_says_nothing_of_the_system_are_asked_again(
    home: Home, candidate: Any, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"

    def broken(case: dict[str, Any]) -> str:
        if case["case_id"] == "s1":
            raise RuntimeError("out of memory")
        return "right \u2028 line"  # ends a line for some readers, not for JSON

    candidate.reply = broken
    run(home, "--save", path)
    assert [row.get("again") for row in rows_of_json(path)] == [None, None, None, True, None]
    path.write_text(path.read_text()[:-40])
    candidate.asked.clear()
    candidate.reply = lambda case: "right"
    said = run(home, "--save", path, "--json")
    assert candidate.asked == ["s1", "s2"]
    assert said.document["run"]["n_taken_over"] == 3
    assert sorted(row["case_id"] for row in rows_of_json(path)) == list(CASES)


def rows_of_json(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def test_results_of_another_candidate_or_suite_are_never_gone_on_from(
    home: Home, candidate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.jsonl"
    run(home, "--save", path)
    before = path.read_bytes()
    monkeypatch.setenv("EVALFLOW_SYSTEM__VERSION", "next")
    said = run(home, "--save", path)
    assert said.code == 2
    assert "r.jsonl:1 is not of this run: the suite, the system, its version or the scorer was another" in said.message
    monkeypatch.delenv("EVALFLOW_SYSTEM__VERSION")
    assert run(home, "--save", path, "--scorer", "contains").code == 2
    add_cases(home, [a_case("s3", expected_output="right")])
    assert run(home, "--save", path).code == 2
    path.write_text("my notes\n")
    assert run(home, "--save", path).code == 2
    assert path.read_text() == "my notes\n"
    assert before


def test_a_finished_run_is_not_taken_for_one_of_what_may_have_changed_since(
    home: Home, candidate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a function imports is not seen: edited, it would pass by the results of what it was before."""
    path = tmp_path / "r.jsonl"
    run(home, "--save", path)
    candidate.reply = lambda case: "wrong"
    said = run(home, "--save", path)
    assert said.code == 2
    assert f"{path} holds this run in full already" in said.message
    more = run(home, "--save", path, "--repeats", 2)
    assert "scorer exact, 2 attempts each, 5 attempts of an earlier run" in more.out
    monkeypatch.setenv("EVALFLOW_SYSTEM__VERSION", "named")
    run(home, "--save", tmp_path / "v.jsonl")
    assert run(home, "--save", tmp_path / "v.jsonl", "--json").document["run"]["n_taken_over"] == 5


def test_two_runs_do_not_write_one_file(home: Home, candidate: Any, tmp_path: Path) -> None:
    """Nor is a file that was opened in vain changed, or a home that cannot be written a traceback."""
    path = tmp_path / "r.jsonl"

    def another(case: dict[str, Any]) -> str:
        if case["case_id"] == "r1":
            with pytest.raises(UsageError, match="Another run is writing"), SavedRun(path, "x"):
                pass
        return "right"

    candidate.reply = another
    assert len(run(home, "--save", path, "--json").document["reasons"]) > 0
    assert [row["pass"] for row in rows_of(path)] == [True] * 5
    (home.cache / "gate").parent.mkdir(exist_ok=True)
    (home.cache / "gate").write_text("in the way")
    said = run(home)
    assert (said.code, "name a file that can with --save" in said.message) == (2, True)


def test_what_a_stopped_run_owes_holds_a_pass_back(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass does not do for the three attempts that were asked for; all of them stand open, not only the last."""
    monkeypatch.setenv("EVALFLOW_SYSTEM__MODEL", MODEL)
    monkeypatch.setenv("EVALFLOW_SYSTEM__API_KEY", KEY)
    monkeypatch.setenv("EVALFLOW_SYSTEM__MAX_RETRIES", "0")
    monkeypatch.setenv("EVALFLOW_SYSTEM__CONCURRENCY", "1")
    monkeypatch.setattr("evalflow.adapters.attempting.FAILURES_IN_A_ROW", 1)
    with JudgeServer() as server:
        server.say = lambda asked: "right"
        server.fault_of = lambda asked: "server_error" if len(server.asked) > len(CASES) else None
        options = (
            "--system",
            server.base_url,
            "--scorer",
            "exact",
            "--repeats",
            "3",
            "--min-pass-rate",
            "0.5",
            "--json",
        )
        document = run(home, *options).document
    assert (document["run"]["n_attempts"], document["run"]["n_not_made"]) == (6, 9)
    assert document["unscored_regressions"] == ["r0", "r1"]
    assert any("With the 5 cases that have no verdict counted as failures" in said for said in document["reasons"])


def test_a_system_that_is_not_there_ends_with_its_own_exit_code(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALFLOW_SYSTEM__MODEL", MODEL)
    monkeypatch.setenv("EVALFLOW_SYSTEM__API_KEY", KEY)
    monkeypatch.setenv("EVALFLOW_SYSTEM__MAX_RETRIES", "0")
    with JudgeServer() as server:
        server.say = lambda asked: "right"
        address = server.base_url
        # r0 is refused, the endpoint breaks on s0: both are told, neither is a failure.
        asked_of = {case.input: case.case_id for case in home.ledger.as_of(date(2026, 6, 15))}
        faults = {"r0": "bad_content", "s0": "server_error"}
        server.fault_of = lambda asked: faults.get(asked_of[asked.body["messages"][-1]["content"]])
        said = run(home, "--system", address, "--scorer", "exact", "--save", tmp_path / "r.jsonl", "--json")
        assert said.code == 3
        assert [said.document[f"n_{name}"] for name in ("passed", "failed", "unscored", "missing")] == [3, 0, 2, 0]
        assert said.document["unscored_regressions"] == ["r0"]
    gone = run(home, "--system", address, "--scorer", "exact", "--json")
    assert gone.code == 5
    assert f"The system endpoint {address} cannot be reached for '{MODEL}'" in gone.document["error"]
    assert KEY not in gone.err + gone.out + (tmp_path / "r.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Give a file of results, or --run"),
        (["r.jsonl", "--run"], "Give either the results r.jsonl or --run, not both."),
        (["r.jsonl", "--scorer", "exact"], "--scorer is for --run"),
        (["r.jsonl", "--repeats", "2"], "--repeats is for --run"),
        (["--run"], "No system is named"),
        (["--run", "--system", "python:json:dumps"], "no scorer is named"),
        (["--run", "--system", "python:json:dumps", "--scorer", "near"], "There is no scorer 'near'"),
        (["--run", "--save", "r.csv"], "--save r.csv would not be read again"),
        (["--run", "--junit", "no/such/folder.xml"], "--junit no/such/folder.xml cannot be written"),
        (["--run", "--junit", "a.xml", "--summary", "a.xml"], "--junit and --summary name the same file"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    home: Home, options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.jsonl").write_text('{"case_id": "r0", "pass": true}\n')
    said = evalflow("gate", *options, home=home.path)
    assert said.code == 2
    assert message in said.err.splitlines()[-1]


def test_an_empty_suite_is_not_run(tmp_path: Path, candidate: Any) -> None:
    said = evalflow("gate", "--run", home=tmp_path / "empty")
    assert said.code == 3
    assert said.message.startswith("The golden set has no cases as of ")
    assert candidate.asked == []


# -- baseline and lock -------------------------------------------------------------------------------------------


def test_the_last_recorded_run_is_a_baseline(home: Home, candidate: Any, tmp_path: Path) -> None:
    none = run(home, "--baseline", "last")
    assert none.code == 3
    assert "There is no recorded run of the suite up to 2026-06-15 to compare with" in none.message
    assert candidate.asked == [], "said before anything is asked"
    for day, name, passed in ((date(2026, 6, 7), "old", False), (date(2026, 6, 10), "newer", True)):
        home.suite_runs.add(
            dict.fromkeys(CASES, Attempts((passed,))), day, name, "r.jsonl", datetime(2026, 6, 14, tzinfo=UTC)
        )
    candidate.reply = lambda case: "wrong" if case["case_id"] == "s1" else "right"
    said = run(home, "--baseline", "last")
    assert "baseline      run of 2026-06-10, newer: 1 regression, 0 fixes in 3 pairs" in said.out
    assert "worse than before" in said.out
    document = run(home, "--baseline", "last", "--as-of", "2026-06-08", "--json").document
    assert document["baseline"] == "run of 2026-06-07, old"
    assert (document["paired"]["n_regressions"], document["paired"]["n_fixes"]) == (0, 2)
    file = tmp_path / "before.jsonl"
    file.write_text("".join(json.dumps({"case_id": name, "pass": True}) + "\n" for name in CASES))
    assert run(home, "--baseline", file, "--json").document["paired"]["regressed"] == ["s1"]


def test_a_case_that_is_another_test_since_is_not_compared(home: Home, tmp_path: Path) -> None:
    """Nor is a baseline that is broken, or the candidate itself: each could only hide or invent a drop."""
    everything = dict.fromkeys(CASES, Attempts((True,)))
    home.suite_runs.add(everything, date(2026, 6, 10), None, "r.jsonl", datetime(2026, 6, 14, tzinfo=UTC))
    add_cases(home, [a_case("s0", expected_output="another answer")])
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"case_id": name, "pass": name != "s0"}) + "\n" for name in CASES))
    said = evalflow("gate", path, "--baseline", "last", "--json", home=home.path).document
    assert said["baseline"] == "run of 2026-06-10 (without 1 case that is another test since)"
    assert (said["paired"]["n_pairs"], said["paired"]["n_regressions"], said["paired"]["n_without_baseline"]) == (
        2,
        0,
        1,
    )
    itself = evalflow("gate", path, "--baseline", path, home=home.path)
    assert (itself.code, "is the candidate's own results" in itself.message) == (2, True)
    (tmp_path / "before.jsonl").write_text(path.read_text().replace("false", '"no"'))
    broken = evalflow("gate", path, "--baseline", tmp_path / "before.jsonl", home=home.path)
    assert broken.code == 4
    assert "The baseline cannot be used: " in broken.message
    assert "before.jsonl:3: pass is 'no', not true, false or null" in broken.message


def test_a_lock_pins_the_cases_and_not_what_they_are_compared_with(home: Home, tmp_path: Path) -> None:
    day = date(2026, 6, 8)
    (tmp_path / "suite.jsonl").write_text("{}\n")
    lock = tmp_path / "suite.jsonl.lock.json"
    lock.write_text(lock_text("jsonl", day, home.ledger.as_of(day), {"suite.jsonl": "{}\n"}))
    everything = dict.fromkeys(CASES, Attempts((True,)))
    home.suite_runs.add(everything, date(2026, 6, 10), None, "r.jsonl", datetime(2026, 6, 14, tzinfo=UTC))
    add_cases(home, [a_case("later", created_at=None, is_regression=True)])
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"case_id": name, "pass": True}) + "\n" for name in CASES))
    said = evalflow("gate", path, "--lock", lock, "--baseline", "last", home=home.path)
    assert "baseline      run of 2026-06-10: 0 regressions" in said.out
    assert "(without 1 case of today's suite, 1 frozen regression among them) has it" in said.out
    assert (
        "There is no recorded run of the suite up to 2026-06-08"
        in evalflow("gate", path, "--lock", lock, "--as-of", str(day), "--baseline", "last", home=home.path).message
    )


def test_a_lock_holds_the_suite_or_stops_the_gate(home: Home, candidate: Any, tmp_path: Path) -> None:
    day = date(2026, 6, 14)
    (tmp_path / "suite.jsonl").write_text("{}\n")
    lock = tmp_path / "suite.jsonl.lock.json"
    lock.write_text(lock_text("jsonl", day, home.ledger.as_of(day), {"suite.jsonl": "{}\n"}))
    add_cases(home, [a_case("later", created_at=None)])
    said = run(home, "--lock", lock, "--json")
    assert (said.document["as_of"], said.document["n_cases"]) == ("2026-06-14", 5)
    assert said.document["lock"]["suite_hash"].startswith("sha256:")
    other_day = run(home, "--lock", lock, "--as-of", "2026-06-15")
    assert (other_day.code, "is not the day of the lock" in other_day.message) == (2, True)
    candidate.asked.clear()
    (tmp_path / "suite.jsonl").write_text("{} \n")
    changed = run(home, "--lock", lock)
    assert changed.code == 4
    assert "suite.jsonl" in changed.message
    assert candidate.asked == []


# -- reports -----------------------------------------------------------------------------------------------------


def version(case_id: str, *, is_regression: bool = False, text: str = "q") -> CaseVersion:
    return CaseVersion(
        case_id=case_id,
        version=1,
        input=text,
        expected_output=text,
        origin="hand-authored",
        created_at=None,
        effective_on="2026-06-01",
        is_regression=is_regression,
    )


@pytest.fixture
def report() -> GateReport:
    """One case of each kind; every text is hostile."""
    tried = {
        "fails": Attempts((False,)),
        "passes": Attempts((True, False, True)),
        "open": Attempts((None,)),
        "worse": Attempts((False,)),
    }
    cases = [
        version("fails" + HOSTILE, is_regression=True, text=HOSTILE),
        *(version(name, text=HOSTILE) for name in ("passes", "open", "absent", "worse")),
    ]
    tried["fails" + HOSTILE] = tried.pop("fails")
    verdict = decide(
        [SuiteCase(case.case_id, case.is_regression, HOSTILE) for case in cases],
        tried,
        {HOSTILE: 1.0},
        0.8,
        0.5,
        baseline={"worse": Attempts((True,)), "passes": Attempts((True,))},
    )
    return GateReport(
        verdict=verdict,
        results=[
            CaseResult(case, tried.get(case.case_id, Attempts()), Said(None, HOSTILE, HOSTILE, 1500.0))
            for case in cases
        ],
        as_of=date(2026, 6, 15),
        min_pass_rate=0.8,
        min_covered_share=0.5,
        candidate=HOSTILE,
        baseline=HOSTILE,
        lock=None,
        coverage={"week": "2026-06-08", "provisional": False},
        labels={HOSTILE: HOSTILE},
    )


def test_junit_says_what_each_case_is_and_survives_any_text(report: GateReport) -> None:
    root = ElementTree.fromstring(junit_xml(report))
    counts = {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "2", "errors": "1", "skipped": "1"}
    hard, sampled = root
    assert (hard.get("name"), hard.get("tests")) == ("evalflow hard tier", "1")
    kinds = {case.get("name"): [child.tag for child in case] for case in sampled.iter("testcase")}
    assert kinds == {"passes": ["system-out"], "open": ["error"], "absent": ["skipped"], "worse": ["failure"]}
    figures = {item.get("name"): item.get("value") for item in sampled.iter("property")}
    assert figures["verdict"] == "fail"
    assert figures["paired_n_regressions"] == "1"
    assert figures["covered_share"] == "1.0"
    (failed,) = hard.iter("testcase")
    assert failed.get("time") == "1.500"
    assert failed.get("name") == "fails" + HOSTILE.replace("\x1b", "\ufffd").replace("\x00\ufffe", "\ufffd\ufffd")
    assert failed[0].text is not None
    assert "<script>alert(1)</script>" in failed[0].text
    assert list(root.iter("script")) == []


def test_markdown_holds_no_markup_of_others(report: GateReport) -> None:
    text = markdown(report)
    assert text.startswith("## evalflow gate: fail\n")
    for title in ("### Frozen regressions that fail", "### Worse than the baseline", "### Bins below 80.0%"):
        assert title in text
    for sign in ("<script", "</", "[x]", "http://", "\x1b", "`a`", "\n# head", "]]>"):
        assert sign not in text, sign
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count(" |") for line in rows if "testcase" in line} <= {5, 6}, "no text adds a column"
    assert "| hard: frozen regressions | 1 | 0 | 1 | 0 | 0 |  |" in rows


def test_the_attempt_that_says_most_is_shown() -> None:
    passed, failed, open_ = Said(True), Said(False), Said(None, None, "why")
    assert most_telling([passed, open_, failed]) is failed
    assert most_telling([passed, open_]) is open_
    assert most_telling([]) == Said(None)


def test_what_results_say_beside_their_outcome_is_read_when_it_is_text(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rows = [{"case_id": "a", "pass": True, "output": 7, "latency_ms": "1"}, {"case_id": "a", "pass": 1, "reason": "x"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    assert said_in(str(path)) == {"a": [Said(True), Said(None, None, "x")]}


def test_reports_are_written_and_a_steps_summary_is_added_to(
    home: Home, candidate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = tmp_path / "step.md"
    step.write_text("# before\n")
    options = ("--summary", step, "--junit", tmp_path / "gate.xml")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    run(home, *options)
    assert step.read_text().startswith("# before\n## evalflow gate: cannot tell\n")
    assert ElementTree.parse(tmp_path / "gate.xml").getroot().get("tests") == "5"
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    run(home, *options)
    assert step.read_text().startswith("## evalflow gate: cannot tell\n")


def test_without_coverage_the_reports_say_why(report: GateReport) -> None:
    from dataclasses import replace

    verdict = decide([SuiteCase("open", False)], {}, Unqualified("no week has been measured"), 0.8, 0.5)
    bare = replace(report, verdict=verdict, results=report.results[2:3], coverage=None)
    assert "no week has been measured" in markdown(bare)
    (properties,) = ElementTree.fromstring(junit_xml(bare))[1].iter("properties")
    assert "covered_share" not in {item.get("name") for item in properties}


def test_the_workflow_of_the_guide_is_one_that_runs() -> None:
    """Its gate step parses, its variables are settings, its YAML is YAML."""
    import yaml

    from evalflow.settings import Settings
    from evalflow_tests.docs_blocks import DOCS
    from evalflow_tests.test_docs import commands_in, problem_of

    (text,) = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "ci.md").read_text(), re.DOTALL | re.MULTILINE)
    job = yaml.safe_load(text)["jobs"]["gate"]
    commands = list(commands_in(step["run"] for step in job["steps"] if "run" in step))
    assert [command[0] for command in commands] == ["gate"]
    assert [problem_of(command) for command in commands] == [None]
    for name in job["env"]:
        section, _, key = name.removeprefix("EVALFLOW_").lower().partition("__")
        assert name == "EVALFLOW_HOME" or key in type(getattr(Settings(), section)).model_fields
