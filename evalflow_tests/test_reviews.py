"""Answers and the ledger that follows from them: read leniently, kept whole, appended once, published as they are."""

import subprocess
import sys
import threading
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.adapters.lake import Lake, lake_at
from evalflow.adapters.ledger import CaseVersion, Ledger
from evalflow.adapters.reviews import Reviews
from evalflow.adapters.tables import GOLDEN_LEDGER, REVIEWS
from evalflow.core.promotion import Tried, weigh, weight_of
from evalflow.core.records import GoldenCase, Provenance, Reproduction, Review, Unusable, Verdict, parse_review
from evalflow.errors import BadInputError, UsageError

JUNE_1 = datetime(2026, 6, 1, 9, tzinfo=UTC)
JUNE_10 = datetime(2026, 6, 10, 9, tzinfo=UTC)
JUNE_20 = datetime(2026, 6, 20, 9, tzinfo=UTC)
MAX_BYTES = 1000


def parsed(**fields: Any) -> Review | Unusable | None:
    return parse_review({"trace_id": "t1", "verdict": "unsure", "reviewer": "ann"} | fields, MAX_BYTES)


def reason(**fields: Any) -> str:
    found = parsed(**fields)
    assert isinstance(found, Unusable)
    return found.reason


# -- one line of a file of answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_a_verdict_is_read_however_it_is_spelled(verdict: str) -> None:
    for spelled in (verdict, verdict.upper(), verdict.replace("_", " ").title(), f"  {verdict.replace('_', '-')}\n"):
        assert parsed(verdict=spelled) == Review(trace_id="t1", verdict=verdict, reviewer="ann")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [("fine", "'fine'"), ("real_failures", "'real_failures'"), (True, "True"), (["unsure"], "['unsure']"), (0, "0")],
)
def test_an_unknown_verdict_is_refused_with_those_that_there_are(verdict: Any, shown: str) -> None:
    assert reason(verdict=verdict) == f"verdict {shown} is none of real_failure, not_a_failure, duplicate, unsure"


@pytest.mark.parametrize("verdict", [None, "", " ", "\t\n"])
def test_a_line_without_a_verdict_was_left_unanswered(verdict: str | None) -> None:
    assert parsed(verdict=verdict) is None
    assert parse_review({"trace_id": "t1"}, MAX_BYTES) is None


def test_an_answer_needs_a_reviewer_and_a_trace() -> None:
    assert parse_review({"trace_id": "t1", "verdict": "unsure"}, MAX_BYTES) == Unusable(
        "Object missing required field `reviewer`"
    )
    assert parse_review({"reviewer": "ann", "verdict": "unsure"}, MAX_BYTES) == Unusable(
        "Object missing required field `trace_id`"
    )
    assert reason(reviewer=None) == reason(reviewer="") == "Object missing required field `reviewer`"


def test_fields_of_blanks_alone_are_left_out() -> None:
    """A blank expected answer would otherwise pass for one, and a blank reviewer for a person."""
    assert parsed(expected_output=" \n", comment="  ", duplicate_of="\t") == parsed()
    assert reason(reviewer="  ") == "Object missing required field `reviewer`"


def test_empty_fields_are_left_out_as_a_spreadsheet_writes_them() -> None:
    blank = {"expected_output": "", "severity": "", "duplicate_of": None, "comment": "", "reviewed_at": None}
    assert parsed(**blank) == parsed() == Review(trace_id="t1", verdict="unsure", reviewer="ann")


def test_what_an_export_writes_for_the_reader_is_passed_over() -> None:
    extra = {"text": "where is it", "output": "here", "priority": 0.9, "context": {"conversation": []}, "grades": "["}
    assert parsed(**extra, week="2026-06-01", reason="blind spot \x00") == parsed()


def test_every_field_of_an_answer_is_kept() -> None:
    found = parsed(
        verdict="Duplicate",
        expected_output="Do this.",
        severity=" High ",
        duplicate_of="case-1",
        comment="seen before",
        reviewer_kind="script",
        reviewed_at="2026-06-01T09:00:00Z",
    )
    assert found == Review(
        trace_id="t1",
        verdict="duplicate",
        reviewer="ann",
        expected_output="Do this.",
        severity="high",
        duplicate_of="case-1",
        comment="seen before",
        reviewer_kind="script",
        reviewed_at=JUNE_1,
    )


def test_a_time_of_any_zone_is_kept_in_utc() -> None:
    """Whole days are read off it later: 01:00 at +02:00 is the evening before."""
    found = parsed(reviewed_at="2026-06-02T01:00:00+02:00")
    assert isinstance(found, Review)
    assert found.reviewed_at is not None
    assert (found.reviewed_at, found.reviewed_at.date()) == (datetime(2026, 6, 1, 23, tzinfo=UTC), date(2026, 6, 1))


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"severity": "severe"}, "severity: Invalid enum value 'severe'"),
        ({"reviewer_kind": "robot"}, "reviewer_kind: Invalid enum value 'robot'"),
        ({"reviewed_at": "yesterday"}, "reviewed_at: "),
        ({"reviewed_at": "2026-06-01T09:00:00"}, "reviewed_at has no time zone; write it in UTC"),
        ({"trace_id": 17}, "trace_id: Expected `str`, got `int`"),
        ({"trace_id": "x" * 513}, "trace_id: Expected `str` of length <= 512"),
        ({"comment": "x" * 1001}, "comment has 1,001 bytes, above ingest.max_text_bytes = 1,000"),
        ({"comment": "ä" * 501}, "comment has 1,002 bytes"),
        ({"expected_output": "a\x00b"}, "expected_output contains a NUL character"),
        ({"comment": "half \ud83d"}, "comment contains half of a surrogate pair"),
        ({"reviewer": "ann\udc00"}, "reviewer contains half of a surrogate pair"),
    ],
)
def test_what_is_wrong_with_a_field_is_said_in_its_own_terms(fields: dict[str, Any], part: str) -> None:
    assert part in reason(**fields)


@pytest.mark.parametrize("field", ["severity", "reviewer_kind", "reviewed_at", "verdict"])
def test_half_a_surrogate_pair_in_any_field_is_a_reason_not_a_crash(field: str) -> None:
    assert reason(**{field: "x\ud83d"})


def test_a_time_that_utc_does_not_reach_is_a_reason_not_a_crash() -> None:
    assert reason(reviewed_at="0001-01-01T00:00:00+05:00")


@pytest.mark.parametrize("row", [None, 3, "unsure", ["verdict"], True])
def test_a_line_that_is_no_object_is_refused(row: Any) -> None:
    assert parse_review(row, MAX_BYTES) == Unusable(f"a line must be a JSON object, this is a {type(row).__name__}")


any_text = st.text(st.characters(exclude_categories=()), max_size=6)  # surrogates and NUL included
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), any_text, st.lists(any_text, max_size=2), st.just({"a": 1})
)
rows = st.dictionaries(st.sampled_from([*Review.__struct_fields__, "text"]), values, max_size=9)


@given(rows, st.sampled_from([None, *get_args(Verdict)]))
def test_any_line_is_an_answer_none_or_a_reason_and_an_answer_can_be_stored(
    row: dict[str, Any], verdict: str | None
) -> None:
    found = parse_review(row | ({"verdict": verdict} if verdict else {}), MAX_BYTES)
    if isinstance(found, Review):
        assert msgspec.json.decode(msgspec.json.encode(found), type=Review) == found
    elif found is not None:
        assert found.reason


# -- the store of answers -------------------------------------------------------------------------------------


@pytest.fixture
def reviews(tmp_path: Path) -> Reviews:
    return Reviews(tmp_path / "reviews")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lake_at(str(tmp_path / "lake"))


def answer(trace_id: str = "t1", verdict: str = "real_failure", reviewer: str = "ann", **fields: Any) -> Review:
    return Review(trace_id=trace_id, verdict=verdict, reviewer=reviewer, **fields)  # type: ignore[arg-type]


def test_the_same_answers_twice_are_one(reviews: Reviews) -> None:
    both = [answer("t1"), answer("t2", comment="why not")]
    first = reviews.add(both, "queue.jsonl", JUNE_1)
    again = reviews.add(both, "queue.jsonl", JUNE_10)
    assert (len(first.added), first.unchanged) == (2, 0)
    assert (again.added, again.unchanged) == ([], 2)
    assert [(review.trace_id, review.reviewed_at) for review in reviews.all()] == [("t1", JUNE_1), ("t2", JUNE_1)]
    assert len(reviews.journal.names()) == 1


def test_the_same_answer_twice_in_one_file_is_one(reviews: Reviews) -> None:
    done = reviews.add([answer(), answer(), answer(comment="more")], "queue.jsonl", JUNE_1)
    assert (len(done.added), done.unchanged) == (2, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "unsure"},
        {"reviewer": "bob"},
        {"expected_output": "Do this."},
        {"severity": "low"},
        {"duplicate_of": "case-1"},
        {"comment": "hm"},
        {"reviewer_kind": "script"},
    ],
)
def test_an_answer_that_says_anything_else_is_kept_beside_the_first(change: dict[str, Any], reviews: Reviews) -> None:
    reviews.add([answer()], "a.jsonl", JUNE_1)
    reviews.add([msgspec.structs.replace(answer(), **change)], "b.jsonl", JUNE_10)
    assert len(reviews.all()) == 2


def test_an_answers_own_time_is_kept_and_one_without_gets_that_of_recording(reviews: Reviews) -> None:
    reviews.add([answer("t1", reviewed_at=JUNE_1), answer("t2")], "queue.jsonl", JUNE_10)
    assert {review.trace_id: review.reviewed_at for review in reviews.all()} == {"t1": JUNE_1, "t2": JUNE_10}


def test_the_same_answer_with_another_time_says_nothing_new(reviews: Reviews) -> None:
    reviews.add([answer(reviewed_at=JUNE_1)], "queue.jsonl", JUNE_1)
    assert reviews.add([answer(reviewed_at=JUNE_10), answer()], "queue.jsonl", JUNE_20).unchanged == 2


def test_who_changes_back_to_an_earlier_answer_at_a_later_time_is_heard(reviews: Reviews) -> None:
    """First this, then that, then this again: the last word is kept, or the trace stays at what nobody means any more."""
    reviews.add([answer(verdict="real_failure", reviewed_at=JUNE_1)], "a.jsonl", JUNE_1)
    reviews.add([answer(verdict="not_a_failure", reviewed_at=JUNE_10)], "b.jsonl", JUNE_10)
    reviews.add([answer(verdict="real_failure", reviewed_at=JUNE_20)], "c.jsonl", JUNE_20)
    assert max(reviews.all(), key=lambda review: review.reviewed_at or JUNE_1).verdict == "real_failure"
    assert reviews.add([answer(verdict="real_failure", reviewed_at=JUNE_1)], "a.jsonl", JUNE_20).unchanged == 1


def test_an_old_file_imported_again_does_not_undo_a_correction(reviews: Reviews) -> None:
    reviews.add([answer(verdict="real_failure")], "a.jsonl", JUNE_1)
    reviews.add([answer(verdict="not_a_failure")], "b.jsonl", JUNE_10)
    assert reviews.add([answer(verdict="real_failure")], "a.jsonl", JUNE_20).unchanged == 1
    assert [review.verdict for review in reviews.all()] == ["real_failure", "not_a_failure"]


def test_answers_are_read_in_the_order_of_recording(reviews: Reviews) -> None:
    for number in range(8):
        reviews.add([answer(f"t{number}")], "queue.jsonl", JUNE_1 + timedelta(microseconds=number * 250_000))
    assert [review.trace_id for review in reviews.all()] == [f"t{number}" for number in range(8)]


def test_answers_of_one_moment_keep_their_order(reviews: Reviews) -> None:
    """A closed home's clock stands still; the files' names, their hashes, would put these in another order."""
    for number in range(8):
        reviews.add([answer(comment=f"thought {number}")], "queue.jsonl", JUNE_1)
    assert [review.comment for review in reviews.all()] == [f"thought {number}" for number in range(8)]


def test_an_answer_cannot_choose_its_place() -> None:
    """``number`` is given on recording; one in a file of answers is passed over."""
    assert parsed(number=17) == parsed()


def test_no_answers_leave_no_file(reviews: Reviews) -> None:
    assert reviews.add([], "queue.jsonl", JUNE_1).added == []
    assert reviews.all() == []
    assert not reviews.journal.root.exists()


def test_texts_of_any_kind_survive_the_file(reviews: Reviews) -> None:
    text = 'one\ntwo\r\n"quoted" \u2028 naïve 𝟚\t'
    reviews.add([answer(comment=text, expected_output=text)], "queue.jsonl", JUNE_1)
    (review,) = reviews.all()
    assert (review.comment, review.expected_output) == (text, text)


def test_answers_that_were_changed_by_hand_are_refused_by_name(reviews: Reviews) -> None:
    reviews.add([answer()], "queue.jsonl", JUNE_1)
    (path,) = reviews.journal.root.iterdir()
    path.write_bytes(path.read_bytes().replace(b"real_failure", b"unsure"))
    with pytest.raises(BadInputError, match="The reviews file") as caught:
        reviews.all()
    assert str(path) in str(caught.value)
    with pytest.raises(BadInputError):
        reviews.add([answer("t2")], "queue.jsonl", JUNE_10)


WRITER = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from evalflow.adapters.reviews import Reviews
from evalflow.core.records import Review

root, who = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for batch in range(25):
    now = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(seconds=batch)
    shared = Review(trace_id=f"t{batch}", verdict="unsure", reviewer="both")
    own = [Review(trace_id=f"t{batch}-{n}", verdict="unsure", reviewer=who) for n in range(3)]
    Reviews(root).add([shared], "shared.jsonl", now)
    Reviews(root).add(own, f"{who}.jsonl", now)
"""


def test_two_people_importing_at_once_lose_nothing(tmp_path: Path) -> None:
    root = tmp_path / "reviews"
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
    expected = {(f"t{batch}-{n}", who) for who in ("ann", "bob") for batch in range(25) for n in range(3)}
    expected |= {(f"t{batch}", "both") for batch in range(25)}
    found = [(review.trace_id, review.reviewer) for review in Reviews(root).all()]
    assert set(found) == expected
    assert len(found) == len(expected), "what both imported alike is recorded once"
    assert not list(root.glob("*.tmp")) + list(root.glob(".*.tmp"))


def test_threads_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    root = tmp_path / "reviews"
    barrier = threading.Barrier(4)

    def add_all() -> None:
        barrier.wait()
        for number in range(8):
            Reviews(root).add([answer(f"t{number}")], "queue.jsonl", JUNE_1 + timedelta(seconds=number))

    threads = [threading.Thread(target=add_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert [review.trace_id for review in Reviews(root).all()] == [f"t{number}" for number in range(8)]


# -- where SQL reads them -------------------------------------------------------------------------------------


def published(lake: Lake, table: Any) -> pl.DataFrame:
    return lake.read(table, lake.keys(table))


def test_every_file_of_answers_is_one_partition_with_its_time_of_recording(reviews: Reviews, lake: Lake) -> None:
    reviews.add([answer("t1", severity="high", reviewed_at=JUNE_1), answer("t2")], "a.jsonl", JUNE_10)
    reviews.add([answer("t3", reviewer="bob")], "b.jsonl", JUNE_20)
    reviews.publish(lake)
    assert lake.keys(REVIEWS) == reviews.journal.names()
    rows = published(lake, REVIEWS).sort("trace_id")
    assert dict(rows.schema) == REVIEWS.schema
    assert rows.select("trace_id", "reviewer", "severity", "reviewed_at", "recorded_at").rows() == [
        ("t1", "ann", "high", JUNE_1, JUNE_10),
        ("t2", "ann", None, JUNE_10, JUNE_10),
        ("t3", "bob", None, JUNE_20, JUNE_20),
    ]


def test_publishing_again_writes_nothing_again(reviews: Reviews, lake: Lake) -> None:
    reviews.add([answer("t1")], "a.jsonl", JUNE_1)
    reviews.publish(lake)
    path = Path(lake.path(REVIEWS, reviews.journal.names()[0]))
    before = path.stat().st_ino  # every write puts a new file in the old one's place
    reviews.add([answer("t2")], "a.jsonl", JUNE_10)
    reviews.publish(lake)
    reviews.publish(lake)
    assert path.stat().st_ino == before
    assert sorted(published(lake, REVIEWS)["trace_id"]) == ["t1", "t2"]


def test_a_time_of_another_zone_is_published_in_utc(reviews: Reviews, lake: Lake) -> None:
    evening = datetime(2026, 6, 1, 23, tzinfo=timezone(timedelta(hours=-3)))
    reviews.add([answer(reviewed_at=evening)], "a.jsonl", JUNE_10)
    reviews.publish(lake)
    assert published(lake, REVIEWS)["reviewed_at"].to_list() == [datetime(2026, 6, 2, 2, tzinfo=UTC)]


# -- the ledger: retirement, frozen regressions, provenance ---------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def case(case_id: str, text: str = "where is my card", **fields: Any) -> GoldenCase:
    return GoldenCase(case_id=case_id, input=text, **fields)


def suite(ledger: Ledger, day: date) -> list[str]:
    return [version.case_id for version in ledger.as_of(day)]


PARTS = weigh(0.12, 0.4, "high", Tried(1, 1, "in production"))  # .3 x .75 x 2/3 = .15 (test_reviewing)


def promoted(**fields: Any) -> CaseVersion:
    """A frozen regression as a promotion writes it."""
    return CaseVersion(
        **{
            "case_id": "prod-t1",
            "version": 1,
            "input": "where is my card",
            "expected_output": "On its way.",
            "origin": "production",
            "created_at": JUNE_10.isoformat(),
            "effective_on": "2026-06-11",
            "is_regression": True,
            "weight": weight_of(PARTS),
            "weight_parts": PARTS,
            "provenance": Provenance(
                trace_id="t1",
                session_id="s1",
                occurred_at=JUNE_1,
                queued_on=date(2026, 6, 8),
                queued_for="failed_grade",
                verdict="real_failure",
                severity="high",
                reviewers=["ann", "bob"],
                reviewer_kind="human",
                reviewed_at=JUNE_10,
                expected_from="reviewer",
                queue="payments",
                label_probability=0.25,
                reproduction=Reproduction(
                    attempts=5, failed=2, unscored=1, system="python:app:ask", system_version="v2"
                ),
            ),
            "merged_trace_ids": ["t7", "t8"],
            "n_merged_failures": 1,
        }
        | fields
    )


def test_a_retired_case_counts_until_the_day_before(ledger: Ledger) -> None:
    ledger.import_cases([case("a"), case("b")], "s", JUNE_1)
    done = ledger.retire(["a"], "the product no longer does this", "golden retire", JUNE_10)
    assert [(v.version, v.retired_on, v.retired_because) for v in done.added] == [
        (2, "2026-06-10", "the product no longer does this")
    ]
    assert suite(ledger, date(2026, 5, 31)) == []
    assert suite(ledger, date(2026, 6, 9)) == ["a", "b"]
    assert suite(ledger, date(2026, 6, 10)) == ["b"]
    assert ledger.newest()["a"].input == "where is my card", "what it was stays on record"


def test_an_unknown_case_among_those_to_retire_retires_none(ledger: Ledger) -> None:
    ledger.import_cases([case("a"), case("b")], "s", JUNE_1)
    with pytest.raises(UsageError, match="There is no case 'nope' in the golden set"):
        ledger.retire(["a", "nope", "b"], "why", "golden retire", JUNE_10)
    assert suite(ledger, JUNE_20.date()) == ["a", "b"]
    assert len(ledger.entries()) == 2


def test_retiring_twice_is_retiring_once(ledger: Ledger) -> None:
    ledger.import_cases([case("a")], "s", JUNE_1)
    ledger.retire(["a", "a"], "why", "golden retire", JUNE_10)
    again = ledger.retire(["a"], "another reason", "golden retire", JUNE_20)
    assert (again.path, again.added, again.unchanged) == (None, [], 1)
    assert ledger.newest()["a"].retired_because == "why"


def test_a_case_that_begins_to_count_later_can_be_retired_before(ledger: Ledger) -> None:
    with ledger.held():
        ledger.record("promotion", [promoted(effective_on="2026-06-15")], "reviews", JUNE_1)
    ledger.retire(["prod-t1"], "a mistake", "golden retire", JUNE_10)
    assert [suite(ledger, date(2026, 6, day)) for day in (9, 10, 15, 20)] == [[], [], [], []]


def test_no_import_revives_a_retired_case_and_a_changed_one_is_named(ledger: Ledger) -> None:
    ledger.import_cases([case("a")], "s", JUNE_1)
    ledger.retire(["a"], "why", "golden retire", JUNE_10)
    same = ledger.import_cases([case("a")], "s", JUNE_20)
    assert (same.added, same.unchanged, same.retired) == ([], 1, ())
    changed = ledger.import_cases([case("a", "in other words"), case("a", tags=["vip"]), case("b")], "s", JUNE_20)
    assert ([version.case_id for version in changed.added], changed.unchanged) == (["b"], 2)
    assert changed.retired == ("a",)
    assert suite(ledger, JUNE_20.date()) == ["b"]
    assert ledger.newest()["a"].retired_because == "why"


@pytest.mark.parametrize("stated", [None, False, True])
def test_an_import_cannot_unfreeze_a_regression(stated: bool | None, ledger: Ledger) -> None:
    ledger.import_cases([case("a", is_regression=True)], "s", JUNE_1)
    same = ledger.import_cases([case("a", is_regression=stated)], "s", JUNE_10)
    assert (same.added, same.unchanged) == ([], 1)
    (changed,) = ledger.import_cases([case("a", tags=["vip"], is_regression=stated)], "s", JUNE_10).added
    assert (changed.version, changed.is_regression) == (2, True)


def test_a_case_can_become_a_regression_by_import(ledger: Ledger) -> None:
    ledger.import_cases([case("a")], "s", JUNE_1)
    (version,) = ledger.import_cases([case("a", is_regression=True)], "s", JUNE_10).added
    assert (version.version, version.is_regression, version.effective_on) == (2, True, "2026-06-10")


def test_an_edit_by_import_keeps_where_a_promoted_case_came_from_and_what_it_weighs(ledger: Ledger) -> None:
    with ledger.held():
        ledger.record("promotion", [promoted()], "reviews", JUNE_10)
    first = promoted()
    edited = case("prod-t1", first.input, expected_output=None, origin="production", weight=1.0, tags=["vip"])
    (version,) = ledger.import_cases([edited], "s", JUNE_20).added
    assert (version.version, version.effective_on, version.tags) == (2, "2026-06-20", ["vip"])
    assert (version.provenance, version.merged_trace_ids) == (first.provenance, first.merged_trace_ids)
    assert (version.weight, version.weight_parts, version.is_regression) == (first.weight, first.weight_parts, True)
    assert version.trace_ids == ["t1", "t7", "t8"]


def test_a_case_moved_from_another_ledger_brings_its_history_along(ledger: Ledger) -> None:
    first = promoted()
    exported = case(
        "prod-t1",
        expected_output=first.expected_output,
        origin="production",
        is_regression=True,
        weight=first.weight,
        weight_parts=PARTS,
        provenance=first.provenance,
        merged_trace_ids=["t7", "t8"],
    )
    (version,) = ledger.import_cases([exported], "s", JUNE_10).added
    assert (version.weight, version.weight_parts) == (first.weight, PARTS)
    assert (version.provenance, version.trace_ids) == (first.provenance, ["t1", "t7", "t8"])
    assert ledger.import_cases([exported], "s", JUNE_20).unchanged == 1


def test_a_promoted_case_reads_back_as_it_was_written(ledger: Ledger) -> None:
    with ledger.held():
        ledger.record("promotion", [promoted()], "reviews", JUNE_10)
    assert suite(ledger, date(2026, 6, 10)) == []
    assert ledger.as_of(date(2026, 6, 11)) == [promoted()]


def test_the_ledgers_rows_are_typed_and_carry_where_a_case_came_from(ledger: Ledger, lake: Lake) -> None:
    ledger.import_cases([case("hand", created_at=JUNE_1)], "s", JUNE_10)
    with ledger.held():
        ledger.record("promotion", [promoted()], "reviews", JUNE_10 + timedelta(seconds=1))
    ledger.retire(["hand"], "why", "golden retire", JUNE_20)
    ledger.publish(lake)
    assert lake.keys(GOLDEN_LEDGER) == ledger.journal.names()
    rows = published(lake, GOLDEN_LEDGER).sort("case_id", "version")
    assert dict(rows.schema) == GOLDEN_LEDGER.schema
    hand, retired, prod = rows.to_dicts()
    assert (hand["created_at"], hand["effective_on"], hand["recorded_at"]) == (JUNE_1, date(2026, 6, 1), JUNE_10)
    assert (hand["trace_id"], hand["reviewers"], hand["merged_trace_ids"], hand["weight"]) == (None, None, [], 1.0)
    assert (hand["weight_novelty"], hand["retired_on"], hand["is_regression"]) == (None, None, False)
    assert (retired["version"], retired["retired_on"], retired["retired_because"]) == (2, date(2026, 6, 20), "why")
    assert {name: prod[name] for name in ("trace_id", "session_id", "queued_for", "verdict", "severity")} == {
        "trace_id": "t1",
        "session_id": "s1",
        "queued_for": "failed_grade",
        "verdict": "real_failure",
        "severity": "high",
    }
    assert (prod["occurred_at"], prod["queued_on"], prod["reviewed_at"]) == (JUNE_1, date(2026, 6, 8), JUNE_10)
    assert (prod["reviewers"], prod["reviewer_kind"]) == (["ann", "bob"], "human")
    assert prod["merged_trace_ids"] == ["t7", "t8"]
    tried = [prod[f"reproduced_{name}"] for name in ("attempts", "failed", "unscored", "system", "version")]
    assert (tried, prod["n_merged_failures"], prod["policy"]) == ([5, 2, 1, "python:app:ask", "v2"], 1, None)
    assert (prod["expected_from"], prod["queue"], prod["label_probability"]) == ("reviewer", "payments", 0.25)
    assert (hand["reproduced_attempts"], hand["n_merged_failures"], hand["expected_from"]) == (None, 0, None)
    assert prod["weight"] == pytest.approx(0.15)
    parts = [prod["weight_novelty"], prod["weight_severity"], prod["weight_difficulty"]]
    assert parts == pytest.approx([0.3, 0.75, 2 / 3])


def test_publishing_the_ledger_again_changes_nothing(ledger: Ledger, lake: Lake) -> None:
    ledger.import_cases([case("a")], "s", JUNE_1)
    ledger.publish(lake)
    path = Path(lake.path(GOLDEN_LEDGER, ledger.journal.names()[0]))
    before = path.stat().st_ino
    ledger.publish(lake)
    assert path.stat().st_ino == before
    assert published(lake, GOLDEN_LEDGER)["case_id"].to_list() == ["a"]
