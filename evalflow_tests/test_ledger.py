"""Ledger: nothing is lost, nothing is rewritten, and the suite of any day can be told."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from evalflow.adapters.ledger import CaseVersion, Ledger
from evalflow.core.records import GoldenCase
from evalflow.errors import BadInputError, ExitCode

JUNE_1 = datetime(2026, 6, 1, 9, tzinfo=UTC)
JUNE_10 = datetime(2026, 6, 10, 9, tzinfo=UTC)
JUNE_20 = datetime(2026, 6, 20, 9, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def case(case_id: str, text: str = "where is my card", created: datetime | None = None) -> GoldenCase:
    return GoldenCase(case_id=case_id, input=text, created_at=created)


def suite(ledger: Ledger, day: date) -> dict[str, str]:
    return {version.case_id: version.input for version in ledger.as_of(day)}


def only_file(ledger: Ledger) -> Path:
    (path,) = ledger.journal.root.glob("*.jsonl")
    return path


def test_importing_the_same_cases_twice_adds_nothing(ledger: Ledger) -> None:
    cases = [case("a"), case("b", created=JUNE_1)]
    first = ledger.import_cases(cases, "suite.jsonl", JUNE_10)
    again = ledger.import_cases(cases, "suite.jsonl", JUNE_20)
    assert (len(first.added), first.unchanged) == (2, 0)
    assert (again.added, again.unchanged, again.path) == ([], 2, None)
    assert len(list(ledger.journal.root.glob("*.jsonl"))) == 1


def test_a_case_counts_from_the_day_it_was_created_or_else_recorded(ledger: Ledger) -> None:
    ledger.import_cases([case("dated", created=JUNE_1), case("undated")], "suite.jsonl", JUNE_10)
    assert suite(ledger, date(2026, 5, 31)) == {}
    assert sorted(suite(ledger, date(2026, 6, 1))) == ["dated"]
    assert sorted(suite(ledger, date(2026, 6, 9))) == ["dated"]
    assert sorted(suite(ledger, date(2026, 6, 10))) == ["dated", "undated"]


def test_a_changed_case_is_version_two_from_the_day_of_recording_so_the_past_stays_what_it_was(
    ledger: Ledger,
) -> None:
    ledger.import_cases([case("a", "old wording", JUNE_1)], "suite.jsonl", JUNE_1)
    changed = ledger.import_cases([case("a", "new wording", JUNE_1)], "suite.jsonl", JUNE_20)
    assert [(version.version, version.effective_on) for version in changed.added] == [(2, "2026-06-20")]
    assert suite(ledger, date(2026, 6, 19)) == {"a": "old wording"}
    assert suite(ledger, date(2026, 6, 20)) == {"a": "new wording"}
    assert [version.version for _, version in ledger.entries()] == [1, 2]


@pytest.mark.parametrize("unsaid", [None, ""])
def test_importing_the_old_file_again_keeps_what_promotion_has_filled_in(unsaid: str | None, ledger: Ledger) -> None:
    """A merge freezes the case and gives it the answer that it lacked; the nightly import does not know of it."""
    from_file = GoldenCase(case_id="a", input="where is my card", expected_output=unsaid, created_at=JUNE_1)
    (version,) = ledger.import_cases([from_file], "suite.jsonl", JUNE_1).added
    merged = msgspec.structs.replace(
        version, version=2, effective_on="2026-06-10", expected_output="On its way.", is_regression=True
    )
    with ledger.held():
        ledger.record("promotion", [merged], "reviews", JUNE_10)
    again = ledger.import_cases([from_file], "suite.jsonl", JUNE_20)
    assert (again.added, again.unchanged) == ([], 1)
    (tagged,) = ledger.import_cases([msgspec.structs.replace(from_file, tags=["vip"])], "suite.jsonl", JUNE_20).added
    assert (tagged.version, tagged.expected_output, tagged.is_regression) == (3, "On its way.", True)


def test_the_same_case_twice_in_one_file_is_two_versions_or_one(ledger: Ledger) -> None:
    recorded = ledger.import_cases([case("a", "one"), case("a", "one"), case("a", "two")], "suite.jsonl", JUNE_10)
    assert [(version.version, version.input) for version in recorded.added] == [(1, "one"), (2, "two")]
    assert recorded.unchanged == 1
    assert suite(ledger, JUNE_10.date()) == {"a": "two"}


@dataclass
class Model:
    """The ledger as a plain list per case: what counted from when."""

    history: dict[str, list[tuple[date, str]]] = field(default_factory=dict)

    def record(self, case_id: str, text: str, created: date | None, today: date) -> None:
        known = self.history.setdefault(case_id, [])
        if not known:
            known.append((created or today, text))
        elif known[-1][1] != text:
            known.append((today, text))

    def as_of(self, day: date) -> dict[str, str]:
        counting = {case_id: [text for since, text in known if since <= day] for case_id, known in self.history.items()}
        return {case_id: texts[-1] for case_id, texts in counting.items() if texts}


imports = st.lists(
    st.tuples(
        st.integers(1, 5),  # days since the import before
        st.lists(
            st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "z"]), st.integers(-20, 5)),
            max_size=4,
        ),
    ),
    max_size=5,
)


@given(imports)
@hypothesis_settings(max_examples=60)
def test_any_history_is_told_as_of_any_day(history: list[tuple[int, list[tuple[str, str, int]]]]) -> None:
    model, now = Model(), JUNE_1
    created: dict[str, datetime] = {}
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder))
        for days, cases in history:
            now += timedelta(days=days)
            for case_id, _, age in cases:
                created.setdefault(case_id, now + timedelta(days=age))
            ledger.import_cases([case(case_id, text, created[case_id]) for case_id, text, _ in cases], "s", now)
            for case_id, text, _ in cases:
                model.record(case_id, text, created[case_id].date(), now.date())
        for offset in range(-25, 35):
            day = JUNE_1.date() + timedelta(days=offset)
            assert suite(ledger, day) == model.as_of(day)


def test_a_suites_fingerprint_changes_on_the_days_on_which_it_changes(ledger: Ledger) -> None:
    ledger.import_cases([case("a", "old", JUNE_1)], "s", JUNE_1)
    before = ledger.fingerprint_as_of(JUNE_10.date())
    ledger.import_cases([case("a", "new", JUNE_1)], "s", JUNE_20)
    assert ledger.fingerprint_as_of(JUNE_10.date()) == before
    assert ledger.fingerprint_as_of(JUNE_20.date()) != before


def test_a_retired_case_leaves_on_its_day_and_not_before(ledger: Ledger) -> None:
    (version,) = ledger.import_cases([case("a", created=JUNE_1)], "s", JUNE_1).added
    retired = CaseVersion(
        case_id="a",
        version=2,
        input=version.input,
        expected_output=None,
        origin=version.origin,
        created_at=version.created_at,
        effective_on="2026-06-10",
        retired_on="2026-06-10",
        retired_because="the product no longer does this",
    )
    ledger.record("retirement", [retired], "by hand", JUNE_10)
    assert suite(ledger, date(2026, 6, 9)) == {"a": "where is my card"}
    assert suite(ledger, date(2026, 6, 10)) == {}
    assert len(ledger.entries()) == 2, "a retired case stays on record"


def test_a_retirement_that_is_announced_counts_from_its_own_day(ledger: Ledger) -> None:
    announced = CaseVersion(
        case_id="a",
        version=1,
        input="where is my card",
        expected_output=None,
        origin="production",
        created_at=None,
        effective_on="2026-06-01",
        retired_on="2026-06-15",
        retired_because="the feature ends",
    )
    ledger.record("retirement", [announced], "by hand", JUNE_1)
    assert sorted(suite(ledger, date(2026, 6, 14))) == ["a"]
    assert suite(ledger, date(2026, 6, 15)) == {}


def test_an_empty_ledger_is_an_empty_suite(ledger: Ledger) -> None:
    assert ledger.as_of(JUNE_1.date()) == []
    assert ledger.entries() == []
    assert ledger.import_cases([], "s", JUNE_1).path is None
    assert not ledger.journal.root.exists()


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from evalflow.adapters.ledger import Ledger
from evalflow.core.records import GoldenCase

root, who = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for batch in range(25):
    now = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(seconds=batch)
    created = datetime(2026, 6, 1, tzinfo=UTC)
    shared = GoldenCase(case_id=f"shared-{batch}", input="the same of both", created_at=created)
    own = [GoldenCase(case_id=f"{who}-{batch}-{n}", input=f"{who} {n}") for n in range(3)]
    Ledger(root).import_cases([shared], "shared.jsonl", now)
    Ledger(root).import_cases(own, f"{who}.jsonl", now)
"""


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    root = tmp_path / "ledger"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(root), who], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for who in ("ann", "bob")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    expected = {f"{who}-{batch}-{n}" for who in ("ann", "bob") for batch in range(25) for n in range(3)}
    expected |= {f"shared-{batch}" for batch in range(25)}
    assert set(suite(Ledger(root), date(2026, 6, 2))) == expected
    assert len(Ledger(root).entries()) == len(expected), "what both imported alike is recorded once"
    assert not list(root.glob("*.tmp")) + list(root.glob(".*.tmp"))


def _change_a_case(content: bytes) -> bytes:
    return content.replace(b"my card", b"my cash")


def _drop_a_case(content: bytes) -> bytes:
    return b"\n".join(content.split(b"\n")[:-2]) + b"\n"


def _cut_in_the_middle(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _empty(content: bytes) -> bytes:
    return b""


def _garble_the_header(content: bytes) -> bytes:
    return b"{" + content


@pytest.mark.parametrize("tamper", [_change_a_case, _drop_a_case, _cut_in_the_middle, _empty, _garble_the_header])
def test_a_file_that_was_changed_afterwards_is_noticed_and_named(tamper, ledger: Ledger) -> None:  # type: ignore[no-untyped-def]
    ledger.import_cases([case("a"), case("b")], "s", JUNE_1)
    path = only_file(ledger)
    path.write_bytes(tamper(path.read_bytes()))
    with pytest.raises(BadInputError) as caught:
        ledger.as_of(JUNE_1.date())
    assert str(path) in str(caught.value)
    assert "was changed after it was written" in str(caught.value)
    assert "restore it from a backup" in str(caught.value)
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_texts_of_any_kind_survive_the_file(ledger: Ledger) -> None:
    text = 'line one\nline two\r\n"quoted" \u2028 naïve 𝟚\t'
    ledger.import_cases([case("a", text)], "s", JUNE_1)
    assert suite(ledger, JUNE_1.date()) == {"a": text}
