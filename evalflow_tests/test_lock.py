"""The lock of an export: whatever changes the suite behind it or the files beside it is noticed and named."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.adapters.ledger import CaseVersion, Ledger
from evalflow.adapters.lock import (
    FOLDER_LOCK,
    check_lock,
    lock_path,
    lock_text,
    read_lock,
    suite_hash,
)
from evalflow.core.records import GoldenCase
from evalflow.errors import BadInputError, UsageError

JUNE_1, JUNE_2, JUNE_9 = (datetime(2026, 6, day, 12, tzinfo=UTC) for day in (1, 2, 9))
DAY = date(2026, 6, 2)
SUITE = '{"case_id": "a"}\n'


def case(case_id: str, **given_: Any) -> GoldenCase:
    return GoldenCase(case_id=case_id, **({"input": f"ask {case_id}"} | given_))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "ledger")
    ledger.import_cases([case("a"), case("b", expected_output="yes")], "test", JUNE_1)
    return ledger


@pytest.fixture
def target(tmp_path: Path, ledger: Ledger) -> Path:
    """An exported file with its lock."""
    folder = tmp_path / "export"
    folder.mkdir()
    target = folder / "suite.jsonl"
    target.write_text(SUITE)
    lock_path(target, is_folder=False).write_text(lock_text("native", DAY, ledger.as_of(DAY), {target.name: SUITE}))
    return target


def version(**given_: Any) -> CaseVersion:
    plain: dict[str, Any] = {
        "case_id": "a",
        "version": 1,
        "input": "ask",
        "expected_output": "yes",
        "origin": "production",
        "created_at": None,
        "effective_on": "2026-06-01",
    }
    return CaseVersion(**(plain | given_))


# -- the hash of a suite ------------------------------------------------------------------------------------


def test_the_hash_is_what_the_docs_say_it_is() -> None:
    """Built by hand: fields at their default left out, canonical JSON, SHA-256 per case, then over the cases."""
    import hashlib

    content = (
        '{"case_id":"a","effective_on":"2026-06-01","expected_output":"s\\u00ed","input":"ask","is_regression":true,'
        '"origin":"production","version":2}'
    )
    own = "sha256:" + hashlib.sha256(content.encode()).hexdigest()
    expected = "sha256:" + hashlib.sha256(('{"a":"' + own + '"}').encode()).hexdigest()
    assert suite_hash([version(version=2, expected_output="sí", is_regression=True)]) == expected


CHANGES: dict[str, Any] = {
    "case_id": "b",
    "version": 2,
    "input": "ask ",
    "expected_output": None,
    "origin": "synthetic",
    "created_at": "2026-06-01T00:00:00+00:00",
    "effective_on": "2026-06-02",
    "tags": {},
    "metadata": {"a": None},
    "is_regression": True,
    "weight": 0.5,
    "weight_parts": {
        "novelty": {"value": 0.5, "reason": "far"},
        "severity": {"value": 1.0, "reason": "low"},
        "difficulty": {"value": 1.0, "reason": "hard"},
    },
    "provenance": {"trace_id": "t"},
    "merged_trace_ids": ["t"],
    "n_merged_failures": 1,
    "is_random_draw": True,
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_field_that_a_reader_sees_changes_the_hash(name: str) -> None:
    plain = version()
    changed = msgspec.convert(msgspec.to_builtins(plain) | {name: CHANGES[name]}, CaseVersion)
    assert suite_hash([changed]) != suite_hash([plain])


def test_every_field_of_a_case_is_in_the_hash_or_says_how_it_ended() -> None:
    """A field that is added to a case must be added to the changes above."""
    ended = {"retired_on", "retired_because"}
    assert set(CaseVersion.__struct_fields__) == set(CHANGES) | ended
    plain = version()
    assert suite_hash([msgspec.structs.replace(plain, retired_on="2026-07-01", retired_because="x")]) == suite_hash(
        [plain]
    )


@given(st.permutations(["a", "b", "c", "é", "{}"]))
def test_the_order_of_cases_does_not_matter(names: list[str]) -> None:
    assert suite_hash([version(case_id=name) for name in names]) == suite_hash(
        [version(case_id=name) for name in ["a", "b", "c", "é", "{}"]]
    )


# -- what a lock holds --------------------------------------------------------------------------------------


def test_a_lock_holds_as_long_as_nothing_changed(target: Path, ledger: Ledger) -> None:
    """Later days change nothing: the lock is of its day."""
    ledger.import_cases([case("a", input="changed"), case("c")], "test", JUNE_9)
    ledger.retire(["b"], "gone", "test", JUNE_9)
    for path in (target, lock_path(target, is_folder=False)):
        check = check_lock(path, ledger)
        assert check.holds
        assert (check.lock.as_of, check.lock.format, check.lock.n_cases) == (DAY, "native", 2)
    assert check_lock(target, None).holds
    assert read_lock(target).lock.suite_hash == suite_hash(ledger.as_of(DAY))


def test_the_lock_of_a_folder_lies_in_it(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "x.parquet").write_bytes(b"\x00\xff")
    text = lock_text("huggingface", DAY, ledger.as_of(DAY), {"data/x.parquet": b"\x00\xff"})
    (tmp_path / "out" / FOLDER_LOCK).write_text(text)
    assert check_lock(tmp_path / "out", ledger).holds
    (tmp_path / "out" / "data" / "x.parquet").write_bytes(b"\x00\xfe")
    (sentence,) = check_lock(tmp_path / "out", ledger).mismatches
    assert "data/x.parquet is not what was exported" in sentence


def test_a_lock_has_no_clock_and_a_line_per_case(ledger: Ledger) -> None:
    text = lock_text("native", DAY, ledger.as_of(DAY), {"suite.jsonl": SUITE})
    assert text == lock_text("native", DAY, list(reversed(ledger.as_of(DAY))), {"suite.jsonl": SUITE})
    assert [line.split('"')[1] for line in text.splitlines() if line.startswith('  "')] == ["suite.jsonl", "a", "b"]


# -- what it notices ----------------------------------------------------------------------------------------


def test_a_case_edited_in_the_exported_file_is_noticed_without_a_ledger(target: Path) -> None:
    target.write_text(SUITE.replace('"a"', '"z"'))
    check = check_lock(target, None)
    assert not check.holds
    (sentence,) = check.mismatches
    assert sentence.startswith(f"{target} is not what was exported (its hash is sha256:")
    assert sentence.endswith("the golden set is changed in the ledger, and one folder holds one export.")


def test_a_file_that_is_gone_is_named(target: Path, ledger: Ledger) -> None:
    target.unlink()
    (sentence,) = check_lock(lock_path(target, is_folder=False), ledger).mismatches
    assert sentence == (
        f"{target}, which the lock names, cannot be read (No such file or directory); restore it, or export again."
    )


def test_a_case_brought_in_with_an_earlier_date_is_named(target: Path, ledger: Ledger) -> None:
    ledger.import_cases([case("c", created_at=JUNE_1)], "test", JUNE_9)
    (sentence,) = check_lock(target, ledger).mismatches
    assert sentence.startswith("Case 'c' counts as of 2026-06-02 and is not in the lock: ")
    assert sentence.endswith("export again to lock it in.")


def test_a_case_changed_or_retired_on_the_very_day_is_named(target: Path, ledger: Ledger) -> None:
    ledger.import_cases([case("a", input="changed")], "test", JUNE_2)
    ledger.retire(["b"], "gone", "test", JUNE_2)
    changed, retired = check_lock(target, ledger).mismatches
    assert changed.startswith("Case 'a' as of 2026-06-02 is not what was locked (it is version 2 now); ")
    assert retired.startswith("Case 'b' is locked and does not count as of 2026-06-02 in this ledger: ")


def test_another_ledger_is_noticed_and_not_told_case_by_case(tmp_path: Path, target: Path) -> None:
    other = Ledger(tmp_path / "other")
    other.import_cases([case(f"x{n}") for n in range(20)], "test", JUNE_1)
    sentences = check_lock(target, other).mismatches
    assert len(sentences) == 11
    assert sentences[-1] == "12 more cases differ between the lock and the ledger as of 2026-06-02."


def test_a_ledger_edited_by_hand_is_refused(target: Path, ledger: Ledger, tmp_path: Path) -> None:
    (file,) = (tmp_path / "ledger").glob("*.jsonl")
    file.write_text(file.read_text().replace("ask a", "ask z"))
    with pytest.raises(BadInputError, match="was changed after it was written"):
        check_lock(target, ledger)


def test_an_edited_lock_is_noticed(target: Path, ledger: Ledger) -> None:
    """Taking a case out of the lock, so that nobody misses it, does not go through."""
    place = lock_path(target, is_folder=False)
    document = json.loads(place.read_text())
    del document["cases"]["b"]
    place.write_text(json.dumps(document))
    sentences = check_lock(target, None).mismatches
    assert sentences == (
        "The lock was edited: its cases do not have the suite hash that it states; restore it, or export again.",
    )


@pytest.mark.parametrize("name", ["../secret", "/dev/zero", "a/../../secret"])
def test_a_lock_opens_no_file_that_does_not_lie_beside_it(target: Path, ledger: Ledger, name: str) -> None:
    (target.parents[1] / "secret").write_text("secret")
    lock_path(target, is_folder=False).write_text(lock_text("native", DAY, ledger.as_of(DAY), {name: "x"}))
    assert check_lock(target, None).mismatches == (
        f"The lock names {name}, which lies elsewhere; restore the lock, or export again.",
    )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "native"}', '{"cases": 1}', "\xff"])
def test_what_is_no_lock_is_one_sentence(target: Path, text: str) -> None:
    place = lock_path(target, is_folder=False)
    place.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInputError, match=r"is no lock of an export \(.*\); restore it, or export again"):
        check_lock(target, None)


def test_a_lock_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no lock .*suite.jsonl.lock.json \(No such file"):
        check_lock(tmp_path / "suite.jsonl", None)
