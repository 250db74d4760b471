"""The ledger's chain: a file that is gone is noticed, a kill between two writes is not, and a loss can be accepted."""

import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec
import pytest

from evalflow.adapters.home import Home, open_home
from evalflow.adapters.journal import HEAD, Journal
from evalflow.adapters.ledger import Ledger
from evalflow.adapters.tables import GOLDEN_LEDGER
from evalflow.core.ledger_checks import VersionFacts, check_versions
from evalflow.core.records import GoldenCase
from evalflow.defs.ledger_reports import verify_ledger
from evalflow.errors import BadInputError, UsageError

DAYS = [datetime(2026, 6, day, 9, tzinfo=UTC) for day in range(1, 9)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose ledger has four files, the first two from before there was a chain."""
    home = open_home(tmp_path / "home").prepare()
    old = Ledger(home.path / "ledger")
    old.journal = Journal(old.journal.root, "ledger")
    for ledger, names in ((old, "ab"), (home.ledger, "cd")):
        for name in names:
            add(ledger, name, DAYS["abcd".index(name)])
    return home


def add(ledger: Ledger, name: str, at: datetime = DAYS[5]) -> str:
    path = ledger.import_cases([GoldenCase(case_id=name, input=f"question {name}")], "s", at).path
    assert path is not None
    return path.stem


def file_of(home: Home, case_id: str) -> Path:
    (found,) = [record.file for record in home.ledger.records() if record.version.case_id == case_id]
    return home.ledger.journal.root / f"{found}.jsonl"


def follows(home: Home, case_id: str) -> set[str]:
    names = {record.file: record.version.case_id for record in home.ledger.records()}
    (file,) = home.ledger.journal.files({file_of(home, case_id).stem})
    return {names[name] for name in file.follows or ()}


def test_the_first_chained_file_vouches_for_all_before_it_and_each_later_one_for_its_predecessor(home: Home) -> None:
    assert (follows(home, "c"), follows(home, "d")) == ({"a", "b"}, {"c"})
    assert (home.ledger.journal.root / HEAD).read_text().split() == [file_of(home, "d").stem]
    assert [version.case_id for version in home.ledger.as_of(date(2026, 6, 8))] == list("abcd")
    assert not verify_ledger(home).findings


@pytest.mark.parametrize("case_id", list("abcd"))
def test_a_file_that_is_gone_is_named_by_every_read_the_newest_and_those_from_before_the_chain_too(
    case_id: str, home: Home
) -> None:
    path = file_of(home, case_id)
    path.unlink()
    reads: list[Callable[[], object]] = [home.ledger.newest, home.ledger.entries, lambda: add(home.ledger, "e")]
    for read in reads:
        with pytest.raises(BadInputError) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "restore it from a backup" in str(caught.value)
        assert "evalflow golden verify" in str(caught.value)
    assert verify_ledger(home).gone == [path.stem]


def test_a_kill_between_file_and_head_is_no_loss_and_the_next_append_mends_it(home: Home) -> None:
    head = home.ledger.journal.root / HEAD
    before = head.read_bytes()
    add(home.ledger, "e")
    head.write_bytes(before)
    assert "e" in home.ledger.newest()
    assert not verify_ledger(home).is_broken
    assert home.ledger.import_cases([GoldenCase(case_id="e", input="question e")], "s", DAYS[6]).path is None
    assert head.read_text().split() == [file_of(home, "e").stem], "an import that adds nothing mends it too"


def test_an_old_ledger_is_protected_from_its_next_import_on_even_when_that_adds_nothing(tmp_path: Path) -> None:
    old = Ledger(tmp_path / "ledger")
    old.journal = Journal(old.journal.root, "ledger")
    names = sorted([add(old, "a"), add(old, "b")])
    ledger = Ledger(tmp_path / "ledger")
    ledger.import_cases([GoldenCase(case_id="a", input="question a")], "s", DAYS[6])
    assert (ledger.journal.root / HEAD).read_text().split() == names
    (ledger.journal.root / f"{names[0]}.jsonl").unlink()
    with pytest.raises(BadInputError, match=names[0]):
        ledger.newest()


def test_the_lake_bears_witness_when_the_newest_file_goes_together_with_the_head(home: Home) -> None:
    home.publish()
    path = file_of(home, "d")
    path.unlink()
    (home.ledger.journal.root / HEAD).unlink()
    seen = verify_ledger(home)
    assert (seen.gone, seen.is_broken) == ([path.stem], True)
    assert "golden_ledger" in seen.findings[0].text


def test_an_accepted_loss_lets_the_rest_be_read_and_takes_the_rows_from_the_lake(home: Home) -> None:
    home.publish()
    lost = [file_of(home, "b"), file_of(home, "d")]
    for path in lost:
        path.unlink()
    names = sorted(path.stem for path in lost)
    with home.ledger.held():
        home.ledger.accept_loss(home.lake, names, "a disk died", "ann", DAYS[6])
    assert sorted(home.ledger.newest()) == ["a", "c"]
    add(home.ledger, "e", DAYS[7])
    assert not verify_ledger(home).is_broken
    assert all(home.lake.read(GOLDEN_LEDGER, [name]).is_empty() for name in names)
    (loss,) = [file for file in home.ledger.journal.files() if file.kind == "loss"]
    assert (list(loss.lost), loss.because, loss.by) == (names, "a disk died", "ann")
    file_of(home, "a").unlink()
    with pytest.raises(BadInputError):
        home.ledger.newest()


def test_what_was_lost_may_be_imported_again_and_is_missed_when_it_goes_again(home: Home) -> None:
    """The same lines would be the same name, which was declared lost: nobody would miss it, and SQL would lack it."""
    home.publish()
    lost = file_of(home, "b")
    lost.unlink()
    with home.ledger.held():
        home.ledger.accept_loss(home.lake, [lost.stem], "a disk died", "ann", DAYS[6])
    add(home.ledger, "b", DAYS[1])
    home.publish()
    again = file_of(home, "b")
    assert rows_in_lake(home) == list("abcd")
    assert not verify_ledger(home).is_broken
    again.unlink()
    with pytest.raises(BadInputError, match=again.stem):
        home.ledger.newest()


def test_a_file_that_turns_up_after_its_loss_was_accepted_counts_again_in_sql_too(home: Home) -> None:
    home.publish()
    lost = file_of(home, "b")
    content = lost.read_bytes()
    lost.unlink()
    with home.ledger.held():
        home.ledger.journal.accept_loss([lost.stem], "a disk died", "ann", "killed before the lake", DAYS[6])
    home.publish()
    assert rows_in_lake(home) == list("acd"), "the next publication finishes what a kill left"
    lost.write_bytes(content)
    home.publish()
    assert rows_in_lake(home) == list("abcd")
    assert "b" in home.ledger.newest()
    assert not verify_ledger(home).is_broken


def rows_in_lake(home: Home) -> list[str]:
    return sorted(home.lake.read(GOLDEN_LEDGER, home.lake.keys(GOLDEN_LEDGER))["case_id"])


def test_branches_that_both_added_merge_and_the_marks_of_the_conflict_in_head_are_passed_over(home: Home) -> None:
    root = home.ledger.journal.root
    branch = Ledger(shutil.copytree(root, root.parent / "branch"))
    theirs, ours = add(branch, "x"), add(home.ledger, "y")
    shutil.copy(branch.journal.root / f"{theirs}.jsonl", root)
    (root / HEAD).write_text(f"<<<<<<< HEAD\n{ours}\n=======\n{theirs}\n>>>>>>> branch\n")
    assert sorted(home.ledger.newest()) == list("abcdxy")
    assert not verify_ledger(home).findings
    last = add(home.ledger, "z")
    assert (root / HEAD).read_text().split() == [last]
    (root / f"{theirs}.jsonl").unlink()
    with pytest.raises(BadInputError, match=theirs):
        home.ledger.newest()


def test_a_writer_who_publishes_while_the_ledger_is_verified_raises_no_alarm(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = home.ledger.journal.names

    def then_somebody_writes() -> list[str]:
        seen = names()
        monkeypatch.undo()
        add(open_home(home.path).ledger, "e")
        home.publish()
        return seen

    monkeypatch.setattr(home.ledger.journal, "names", then_somebody_writes)
    assert not verify_ledger(home).findings


def test_a_case_that_is_announced_does_not_come_earlier_by_being_changed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    announced = GoldenCase(case_id="a", input="x", created_at=DAYS[7])
    ledger.import_cases([announced], "s", DAYS[0])
    ledger.import_cases([msgspec.structs.replace(announced, tags=["vip"])], "s", DAYS[2])
    assert ledger.as_of(date(2026, 6, 7)) == []
    assert ledger.as_of(date(2026, 6, 8))[0].tags == ["vip"]


def test_verify_names_everything_that_is_wrong_and_not_the_first_thing_alone(home: Home) -> None:
    edited, gone = file_of(home, "a"), file_of(home, "d")
    edited.write_bytes(edited.read_bytes().replace(b"question a", b"question z"))
    gone.unlink()
    seen = verify_ledger(home)
    assert [finding.level for finding in seen.findings] == ["broken", "broken"]
    assert str(edited) in seen.findings[0].text
    assert "was changed after it was written" in seen.findings[0].text
    assert (seen.gone, seen.n_versions) == ([gone.stem], 2), "an edited file is there, and not gone"


def version(case_id: str, number: int = 1, **changed: object) -> VersionFacts:
    known = {"recorded_at": DAYS[number].isoformat(), "kind": "import", "text": f"ask {case_id}", "is_retired": False}
    return VersionFacts(case_id, number, **{"trace_id": None, "merged_trace_ids": [], **known, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("versions", "level", "said"),
    [
        ([version("a"), version("a")], "broken", "version 1 more than once"),
        ([version("a"), version("a", 3)], "broken", "lacks version 2 of 3"),
        ([version("a", 2)], "broken", "lacks version 1 of 2"),
        ([version("a"), version("a", 2, recorded_at=DAYS[0].isoformat())], "notice", "a clock was set back"),
        ([version("a"), version("b", text="Ask  a")], None, ""),
        ([version("a"), version("b", text="ask  a")], "notice", "'a', 'b'; retire all but one"),
        ([version("a"), version("b", text="ask a", is_retired=True)], None, ""),
        ([version("a", kind="promotion", trace_id="t1")], None, ""),
        ([version("a", kind="promotion", trace_id="t9")], "notice", "which no queue of this home holds"),
        ([version("a", trace_id="t9")], None, "an import may come from another home"),
        ([version("a", trace_id="t1"), version("b", merged_trace_ids=["t1"])], "notice", "stands in 2 cases: 'a', 'b'"),
        ([version("a"), version("a", 2), version("b")], None, ""),
    ],
)
def test_each_planted_contradiction_of_versions_is_found(
    versions: list[VersionFacts], level: str | None, said: str
) -> None:
    found = check_versions(versions, {"t1"}, has_accepted_loss=False)
    assert [finding.level for finding in found] == ([level] if level else [])
    assert not level or said in found[0].text


def test_a_gap_is_no_news_after_an_accepted_loss() -> None:
    (finding,) = check_versions([version("a", 2)], set(), has_accepted_loss=True)
    assert finding.level == "notice"


# -- frozen cases ---------------------------------------------------------------------------------------------


def frozen(ledger: Ledger) -> GoldenCase:
    case = GoldenCase(case_id="bug", input="why twice", expected_output="Names both.", is_regression=True)
    ledger.import_cases([case], "s", DAYS[0])
    return case


@pytest.mark.parametrize(
    "change",
    [
        {"input": "why once"},
        {"expected_output": "Refunds."},
        {"metadata": {"conversation": [{"role": "user", "content": "hi"}]}},
    ],
)
def test_an_import_names_a_frozen_case_that_it_would_have_changed_and_leaves_it_as_it_is(
    change: dict[str, object], tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    case = frozen(ledger)
    done = ledger.import_cases([msgspec.structs.replace(case, **change, tags=["vip"])], "s", DAYS[1])
    assert (done.added, done.unchanged, done.frozen, done.retired) == ([], 1, ("bug",), ())
    done = ledger.import_cases([msgspec.structs.replace(case, expected_output=None, tags=["vip"])], "s", DAYS[1])
    assert ([version.version for version in done.added], done.frozen) == ([2], ()), "what is not the test may change"


def test_a_revision_is_the_next_version_with_its_reason_and_the_past_keeps_the_old_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    frozen(ledger)
    done = ledger.revise("bug", {"expected_output": "Refunds."}, "new rule", "cli", DAYS[3], "ann")
    (revised,) = done.added
    assert (revised.version, revised.is_regression, revised.effective_on) == (2, True, "2026-06-04")
    assert ledger.as_of(date(2026, 6, 3))[0].expected_output == "Names both."
    assert ledger.as_of(date(2026, 6, 4))[0].expected_output == "Refunds."
    record = ledger.records()[-1]
    assert (record.kind, record.because, record.by) == ("revision", "new rule", "ann")
    again = ledger.revise("bug", {"expected_output": "Refunds."}, "new rule", "cli", DAYS[4])
    assert (again.added, again.unchanged) == ([], 1)


def test_what_is_unknown_or_retired_cannot_be_revised(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    frozen(ledger)
    with pytest.raises(UsageError, match="no case 'nope'"):
        ledger.revise("nope", {"input": "x"}, "why", "cli", DAYS[3])
    ledger.retire(["bug"], "gone", "cli", DAYS[3])
    with pytest.raises(UsageError, match="is retired since 2026-06-04"):
        ledger.revise("bug", {"input": "x"}, "why", "cli", DAYS[4])
