"""Results with repeats: attempts are told apart by their number, and nothing is guessed about them."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from evalflow.adapters.results import Results, read_results
from evalflow.adapters.suite_runs import SuiteRuns
from evalflow.core.attempts import Attempts
from evalflow.errors import BadInputError
from evalflow_tests.small_world import write_jsonl


def read(folder: Path, *rows: dict[str, Any]) -> Results:
    return read_results(str(write_jsonl(folder / "r.jsonl", rows)))


def line(case_id: str, passed: bool | None, repeat: Any = None, **more: Any) -> dict[str, Any]:
    return {"case_id": case_id, "pass": passed, **({} if repeat is None else {"repeat": repeat}), **more}


def test_attempts_stand_in_the_order_of_their_repeats(tmp_path: Path) -> None:
    """Wherever they stand in the file; what a runner writes beside them is passed over."""
    beside = {"output": "x", "reason": "y", "latency_ms": 12.5, "cost_usd": 0.1}
    found = read(tmp_path, line("a", None, 2), line("a", True, 0), line("b", True), line("a", False, 1, **beside))
    assert found.attempts == {"a": Attempts((True, False, None)), "b": Attempts((True,))}
    assert found.max_attempts == 3
    assert found.unusable == ()


@pytest.mark.parametrize(
    ("outcomes", "word", "share"),
    [
        ((True,), True, 1),
        ((None,), None, None),
        ((True, True, False), True, 2 / 3),
        ((True, False), False, 0.5),
        ((True, None, None), True, 1),
        ((), None, None),
    ],
)
def test_one_word_for_several_attempts_is_the_majority_and_a_tie_fails(
    outcomes: tuple[bool | None, ...], word: bool | None, share: float | None
) -> None:
    tried = Attempts(outcomes)
    assert (tried.outcome, tried.share) == (word, share)
    assert Results({"a": tried}, (), ()).outcomes == {"a": word}


def test_the_same_attempt_twice_is_one_and_said(tmp_path: Path) -> None:
    found = read(tmp_path, line("a", True, 0), line("a", True, 1), line("a", True, 1))
    assert found.attempts == {"a": Attempts((True, True))}
    assert found.repeated == ("a",)


def test_an_attempt_with_two_outcomes_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        BadInputError, match=r"Repeat 1 of the case 'a' is a pass at .*:2 and a failure at .*:3; give each"
    ):
        read(tmp_path, line("a", False, 0), line("a", True, 1), line("a", False, 1))


def test_a_case_with_and_without_numbers_is_refused(tmp_path: Path) -> None:
    """It may be one attempt or two."""
    for rows in ([line("a", True), line("a", True, 1)], [line("a", True, 1), line("a", True)]):
        with pytest.raises(
            BadInputError, match=r"The case 'a' has a line with `repeat` and one without, at .*:1 and .*:2"
        ):
            read(tmp_path, *rows)


@pytest.mark.parametrize("repeat", [-1, 1.5, "1", True])
def test_a_repeat_that_is_no_number_is_unusable(tmp_path: Path, repeat: Any) -> None:
    found = read(tmp_path, line("a", True, repeat), line("b", True))
    assert [bad.reason for bad in found.unusable] == [f"repeat is {repeat!r}, not a whole number from 0 on"]
    assert list(found.attempts) == ["b"]


def test_parquet_repeats_may_have_gaps(tmp_path: Path) -> None:
    frame = pl.DataFrame({"case_id": ["a", "a", "b"], "repeat": [0, 1, None], "pass": [True, None, False]})
    frame.write_parquet(tmp_path / "r.parquet")
    assert read_results(str(tmp_path / "r.parquet")).attempts == {"a": Attempts((True, None)), "b": Attempts((False,))}


def test_a_recorded_run_keeps_its_attempts_for_a_later_comparison(tmp_path: Path) -> None:
    """A majority of three passes more often than one attempt: it must not stand in for them in a paired test."""
    runs, at = SuiteRuns(tmp_path / "runs"), datetime(2026, 6, 1, tzinfo=UTC)
    attempts = {"a": Attempts((True, True, False)), "b": Attempts((None,)), "c": Attempts((False,))}
    held = runs.read(runs.add(attempts, date(2026, 6, 1), "v1", "r.jsonl", at).key)
    assert held.attempts == attempts
    assert held.outcomes == {"a": True, "b": None, "c": False}
    lines = next((tmp_path / "runs").glob("run-*.jsonl")).read_text()
    assert lines.count('"attempts"') == 1, "a case that was tried once is written as it always was"
    assert not runs.add(attempts, date(2026, 6, 1), "v1", "r.jsonl", at).is_new
