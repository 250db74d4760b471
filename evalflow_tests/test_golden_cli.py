"""`evalflow golden`: what an export carries and keeps, its file of regressions, and how cases leave the suite."""

import json
import os
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from evalflow.adapters.home import open_home, write_setting
from evalflow.core.records import Provenance
from evalflow.runner import instance_of
from evalflow_tests.small_world import write_jsonl
from evalflow_tests.test_cli import evalflow

END = date(2026, 6, 3)
TODAY = "2026-06-04"
PLAIN = {"case_id": "plain", "input": "where is my parcel", "created_at": "2026-05-20T09:00:00Z"}
PROMOTED = {
    "case_id": "promoted",
    "input": "[bold]why[/bold] was I charged twice",
    "expected_output": "Names both charges and refunds one.",
    "origin": "production",
    "created_at": "2026-06-02T09:00:00Z",
    "is_regression": True,
    "weight": 0.25,
    "weight_parts": {
        "novelty": {"value": 0.5, "reason": "nearest case at distance .6"},
        "severity": {"value": 1.0, "reason": "critical"},
        "difficulty": {"value": 0.5, "reason": "never tried again"},
    },
    "provenance": {
        "trace_id": "t-7",
        "session_id": "s-3",
        "occurred_at": "2026-05-30T10:00:00.250000Z",
        "queued_on": "2026-06-01",
        "queued_for": "refresh_quota",
        "reason": "a blind spot",
        "verdict": "real_failure",
        "severity": "critical",
        "reviewers": ["kim", "ö"],
        "reviewer_kind": "human",
        "reviewed_at": "2026-06-02T08:00:00Z",
        "expected_from": "human",
        "queue": "delivery",
        "inclusion_probability": 0.2,
        "label_probability": 0.05,
        "comments": ["charged at noon"],
        "open_codes": ["second charge unseen"],
        "review_tags": ["billing"],
        "policy": None,
        "reproduction": {
            "attempts": 5,
            "failed": 4,
            "unscored": 1,
            "system": "shop.py:answer",
            "system_version": "v3",
            "scorer": "judge",
            "at": "2026-06-02T07:00:00Z",
        },
    },
    "merged_trace_ids": ["t-9"],
    "n_merged_failures": 1,
}
FIELDS = [
    "case_id",
    "version",
    "input",
    "expected_output",
    "origin",
    "created_at",
    "effective_on",
    "weight",
    "tags",
    "metadata",
    "bin",
    "is_regression",
    "weight_parts",
    "provenance",
    "merged_trace_ids",
    "n_merged_failures",
    "is_random_draw",
]
KEPT = ("is_regression", "weight", "weight_parts", "provenance", "merged_trace_ids", "n_merged_failures")


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed home in which nothing has happened yet; to be copied, because making one takes seconds."""
    path = tmp_path_factory.mktemp("new") / "home"
    write_setting(path, "traffic_end", END)
    with instance_of(open_home(path).prepare()):
        return path


@pytest.fixture
def home(new_home: Path, tmp_path: Path) -> Path:
    """A suite of one ordinary case and one that was promoted from a confirmed failure."""
    home = shutil.copytree(new_home, tmp_path / "home")
    suite = write_jsonl(tmp_path / "imported.jsonl", [PLAIN, PROMOTED])
    assert evalflow("golden", "import", suite, home=home).code == 0
    return home


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -- export ------------------------------------------------------------------------------------------------


def test_an_export_carries_what_promotion_knows(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "suite.jsonl"
    said = evalflow("golden", "export", "--out", out, "--json", home=home)
    assert said.code == 0
    locked = json.loads(out.with_name("suite.jsonl.lock.json").read_text())
    loss = json.loads(out.with_name("suite.jsonl.loss.json").read_text())
    assert said.document == {
        "format": "native",
        "as_of": TODAY,
        "cases": 2,
        "path": str(out),
        "regressions": 1,
        "regressions_path": str(tmp_path / "regressions.jsonl"),
        "suite_hash": locked["suite_hash"],
        "lock_path": f"{out}.lock.json",
        "loss_path": f"{out}.loss.json",
        "loss": {"fields": loss["fields"], "cases": []},
    }
    plain, promoted = lines_of(out)
    assert list(plain) == list(promoted) == FIELDS
    assert [plain[name] for name in KEPT] == [False, 1.0, None, None, [], 0]
    assert {name: promoted[name] for name in KEPT} == {name: PROMOTED[name] for name in KEPT}
    assert set(PROMOTED["provenance"]) == set(Provenance.__struct_fields__), "every field is tried here"


def test_without_a_taxonomy_the_bins_are_null_and_the_reason_is_said(home: Path) -> None:
    said = evalflow("golden", "export", home=home)
    assert said.code == 0
    assert [json.loads(line)["bin"] for line in said.out.splitlines()] == [None, None]
    assert said.err == (
        f"without bins: No week up to {TODAY} has been measured; land traces with `evalflow ingest PATH`, "
        "then `evalflow run`.\n"
    )


def test_the_frozen_cases_lie_beside_the_suite_in_the_same_form(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "suite.jsonl"
    assert evalflow("golden", "export", "--out", out, home=home).code == 0
    assert lines_of(tmp_path / "regressions.jsonl") == [row for row in lines_of(out) if row["is_regression"]]
    assert (tmp_path / "regressions.jsonl").read_text().splitlines()[0] in out.read_text().splitlines()


def test_a_stale_file_of_regressions_never_stays(home: Path, tmp_path: Path) -> None:
    """Before the promotion there is no frozen case: the file is written all the same, and is empty."""
    (tmp_path / "regressions.jsonl").write_text("stale\n")
    said = evalflow("golden", "export", "--as-of", "2026-06-01", "--out", tmp_path / "suite.jsonl", home=home)
    assert said.code == 0
    assert (tmp_path / "regressions.jsonl").read_text() == ""
    assert [row["case_id"] for row in lines_of(tmp_path / "suite.jsonl")] == ["plain"]
    assert f"0 frozen regressions written to {tmp_path / 'regressions.jsonl'}" in said.err


@pytest.mark.parametrize("name", ["regressions.jsonl", "Regressions.JSONL"])
def test_a_suite_cannot_take_the_name_of_its_regressions(home: Path, tmp_path: Path, name: str) -> None:
    said = evalflow("golden", "export", "--out", tmp_path / name, home=home)
    assert said.code == 2
    assert said.message.startswith(f"{tmp_path / name} is where the frozen cases of an export go; give the suite")
    assert not (tmp_path / name).exists()


def test_a_target_that_is_no_file_is_left_alone(home: Path, tmp_path: Path) -> None:
    """A device would otherwise be replaced by a file."""
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path, tmp_path / "pipe"):
        said = evalflow("golden", "export", "--out", target, home=home)
        assert said.code == 2
        assert said.message == f"{target} is no plain file; name one, or leave --out away to print the suite."
    assert (tmp_path / "pipe").is_fifo()


def test_neither_file_is_touched_when_one_cannot_be_written(home: Path, tmp_path: Path) -> None:
    (tmp_path / "suite.jsonl").write_text("before\n")
    (tmp_path / "regressions.jsonl").symlink_to(tmp_path / "no-such-folder" / "regressions.jsonl")
    said = evalflow("golden", "export", "--out", tmp_path / "suite.jsonl", home=home)
    assert said.code == 2
    assert "regressions.jsonl cannot be written" in said.err
    assert (tmp_path / "suite.jsonl").read_text() == "before\n"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_a_link_stays_a_link_and_its_target_is_written(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "suite.jsonl").symlink_to(tmp_path / "elsewhere" / "real.jsonl")
    assert evalflow("golden", "export", "--out", tmp_path / "suite.jsonl", home=home).code == 0
    assert (tmp_path / "suite.jsonl").is_symlink()
    assert len(lines_of(tmp_path / "elsewhere" / "real.jsonl")) == 2
    assert len(lines_of(tmp_path / "regressions.jsonl")) == 1


def test_an_export_imported_into_the_same_home_changes_nothing(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "suite.jsonl"
    evalflow("golden", "export", "--out", out, home=home)
    before = sorted(path.name for path in (home / "ledger").iterdir())
    for file in (out, tmp_path / "regressions.jsonl"):
        said = evalflow("golden", "import", file, "--json", home=home)
        assert (said.code, said.document["added"], said.document["unusable"]) == (0, 0, [])
    assert sorted(path.name for path in (home / "ledger").iterdir()) == before


def test_an_export_imported_into_another_home_keeps_what_promotion_knows(
    home: Path, new_home: Path, tmp_path: Path
) -> None:
    out, other = tmp_path / "suite.jsonl", shutil.copytree(new_home, tmp_path / "other")
    evalflow("golden", "export", "--out", out, home=home)
    assert evalflow("golden", "import", out, home=other).code == 0
    again = evalflow("golden", "export", "--json", home=other)
    assert again.document == lines_of(out)
    kept = {case.case_id: case for case in open_home(other).ledger.as_of(date(2026, 6, 4))}
    promoted = kept["promoted"]
    assert (promoted.is_regression, promoted.weight, promoted.effective_on) == (True, 0.25, "2026-06-02")
    assert promoted.trace_ids == ["t-7", "t-9"]
    assert promoted.metadata is None


# -- list --------------------------------------------------------------------------------------------------


def test_list_marks_regressions(home: Path) -> None:
    lines = evalflow("golden", "list", home=home).out.splitlines()
    (plain,) = [line for line in lines if "plain" in line]
    (promoted,) = [line for line in lines if "promoted" in line]
    assert "frozen" in promoted
    assert "[bold]why[/bold]" in promoted
    assert "frozen" not in plain
    assert lines[-1] == "2 cases, 1 of them frozen regressions"
    listed = evalflow("golden", "list", "--json", home=home).document
    assert {row["case_id"]: row["is_regression"] for row in listed} == {"plain": False, "promoted": True}


# -- retire ------------------------------------------------------------------------------------------------


def test_a_retired_case_leaves_the_suite_from_today_and_dagster_is_told(home: Path) -> None:
    said = evalflow("golden", "retire", "promoted", "--because", "the fee is gone", home=home)
    assert (said.code, said.out) == (0, f"1 case retired from {TODAY}; 0 retired before.\n")
    suites = {
        day: [row["case_id"] for row in evalflow("golden", "list", "--as-of", day, "--json", home=home).document]
        for day in ("2026-06-03", TODAY)
    }
    assert suites == {"2026-06-03": ["plain", "promoted"], TODAY: ["plain"]}
    entry = open_home(home).ledger.newest()["promoted"]
    assert (entry.retired_on, entry.retired_because, entry.version) == (TODAY, "the fee is gone", 2)
    with instance_of(open_home(home)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("golden_ledger"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.partition == TODAY


def test_retiring_again_is_nothing_and_as_json_it_says_so(home: Path) -> None:
    retire = ("golden", "retire", "plain", "promoted", "--because", "start anew", "--json")
    assert evalflow(*retire, home=home).document == {
        "retired": ["plain", "promoted"],
        "retired_on": TODAY,
        "unchanged": 0,
    }
    assert evalflow(*retire, home=home).document == {"retired": [], "retired_on": None, "unchanged": 2}


def test_an_import_leaves_retired_cases_retired_and_names_those_that_it_would_have_changed(
    home: Path, tmp_path: Path
) -> None:
    assert evalflow("golden", "retire", "plain", "promoted", "--because", "the fee is gone", home=home).code == 0
    suite = write_jsonl(tmp_path / "tonight.jsonl", [{**PLAIN, "tags": ["vip"]}, PROMOTED])
    said = evalflow("golden", "import", suite, home=home)
    assert (said.code, said.out.splitlines()) == (
        0,
        [
            "0 cases added to the ledger; 2 there already.",
            "1 case is retired and stays so: plain; what counts again needs a new case_id.",
        ],
    )
    assert evalflow("golden", "list", "--json", home=home).document == []
    write_jsonl(suite, [{**PLAIN, "tags": ["vip"]}, {**PROMOTED, "tags": ["vip"]}])
    assert evalflow("golden", "import", suite, "--json", home=home).document["retired"] == ["plain", "promoted"]
    assert "2 cases are retired and stay so: plain, promoted;" in evalflow("golden", "import", suite, home=home).out


def test_an_unknown_case_retires_none(home: Path) -> None:
    said = evalflow("golden", "retire", "plain", "nobody", "--because", "a typo", home=home)
    assert said.code == 2
    assert said.message == "There is no case 'nobody' in the golden set; `evalflow golden list` shows what is there."
    assert len(evalflow("golden", "list", "--json", home=home).document) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plain", "--because", " "), "--because is empty; say why the cases leave the suite."),
        (("plain",), "Missing option '--because'"),
        (("--because", "x"), "Missing argument"),
    ],
)
def test_retiring_needs_a_case_and_a_reason(home: Path, arguments: tuple[str, ...], message: str) -> None:
    said = evalflow("golden", "retire", *arguments, home=home)
    assert said.code == 2
    assert said.message.startswith(message)


# -- revise ------------------------------------------------------------------------------------------------


def test_a_frozen_case_changes_by_revision_alone_and_its_history_says_why(home: Path, tmp_path: Path) -> None:
    edited = write_jsonl(tmp_path / "edited.jsonl", [PLAIN, {**PROMOTED, "expected_output": "Says sorry."}])
    said = evalflow("golden", "import", edited, home=home)
    assert (said.code, said.out.splitlines()) == (
        4,
        [
            "0 cases added to the ledger; 2 there already.",
            "1 frozen case stays as it is: promoted; `evalflow golden revise CASE_ID --expected-output ... --because ...` "
            "changes one, with its reason.",
        ],
    )
    assert evalflow("golden", "import", edited, "--json", home=home).document["frozen"] == ["promoted"]

    revise = ("golden", "revise", "promoted", "--expected-output", "Says sorry.", "--because", "law", "--by", "ann")
    said = evalflow(*revise, home=home)
    assert (said.code, said.out.partition(";")[0]) == (0, f"promoted, a frozen regression, is version 2 from {TODAY}")
    assert evalflow(*revise, "--json", home=home).document["unchanged"] == 1
    assert evalflow("golden", "import", edited, home=home).code == 0, "file and ledger agree again"
    with instance_of(open_home(home)) as instance:
        assert TODAY in instance.get_materialized_partitions(dg.AssetKey("golden_ledger"))

    first, second = evalflow("golden", "history", "promoted", "--json", home=home).document["versions"]
    assert (first["kind"], first["changed"]) == ("import", [])
    assert {name: second[name] for name in ("kind", "who", "because", "changed")} == {
        "kind": "revision",
        "who": "ann",
        "because": "law",
        "changed": ["expected_output"],
    }
    (change,) = evalflow("golden", "diff", "2026-06-03", TODAY, "--json", home=home).document["changed"]
    assert (change["fields"], change["because"]) == (["expected_output"], ["law"])
    assert change["before"] == {"expected_output": "Names both charges and refunds one."}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plain", "--because", "x"), "Nothing is said to change; give --expected-output, --input or both."),
        (("plain", "--because", " ", "--input", "x"), "--because is empty; say what it should be."),
        (("plain", "--because", "x", "--input", " "), "--input is empty; say what it should be."),
        (("nobody", "--because", "x", "--input", "y"), "There is no case 'nobody' in the golden set;"),
    ],
)
def test_a_revision_needs_a_case_a_reason_and_something_new(
    home: Path, arguments: tuple[str, ...], message: str
) -> None:
    said = evalflow("golden", "revise", *arguments, home=home)
    assert (said.code, said.message.startswith(message)) == (2, True)


# -- a ledger that was touched by hand ------------------------------------------------------------------------

READERS = (
    ("golden", "list"),
    ("golden", "export"),
    ("golden", "diff", "2026-06-01"),
    ("golden", "audit"),
    ("golden", "growth"),
    ("golden", "history", "plain"),
    ("golden", "latency"),
    ("golden", "retire", "plain", "--because", "x"),
    ("golden", "revise", "plain", "--input", "y", "--because", "x"),
    ("gate", "RESULTS"),
    ("triage", "list"),
    ("promote",),
)


def test_every_command_answers_an_edited_and_a_missing_case_with_one_sentence_and_what_to_do(
    home: Path, tmp_path: Path
) -> None:
    results = write_jsonl(tmp_path / "results.jsonl", [{"case_id": "plain", "pass": True}])
    (path,) = (home / "ledger").glob("*.jsonl")
    content = path.read_bytes()
    for harm, words in ((content.replace(b"my parcel", b"my purse"), "was changed after"), (None, "is gone")):
        path.write_bytes(harm) if harm else path.unlink()
        for reader in READERS:
            said = evalflow(*(results if word == "RESULTS" else word for word in reader), home=home)
            assert (said.code, words in said.message) == (4, True), (reader, said)
            assert str(path) in said.message
            assert "restore it from a backup" in said.message
        seen = evalflow("golden", "verify", "--json", home=home)
        assert (seen.code, seen.document["is_whole"]) == (4, False)
    lost = evalflow("golden", "verify", "--accept-loss", "--because", "no backup", "--json", home=home)
    assert (lost.code, lost.document["is_whole"]) == (0, True)
    assert evalflow("golden", "list", "--json", home=home).document == []
    again = evalflow("golden", "verify", "--accept-loss", "--because", "no backup", home=home)
    assert (again.code, again.message) == (2, "No file of the ledger is gone; there is no loss to accept.")
