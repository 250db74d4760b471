"""Out to people and back: what is answered in JSONL, in a spreadsheet or in Label Studio is the same answer."""

import csv
import io
import json
import threading
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalflow.adapters.home import Home, write_setting
from evalflow.adapters.native import Line
from evalflow.adapters.review_answers import ANSWER_FIELDS
from evalflow.adapters.review_csv import guarded, unguarded
from evalflow.adapters.review_files import ReviewFormat, read_review_file, written
from evalflow.adapters.review_label_studio import interface
from evalflow.core.records import Review, Severity, Unusable, Verdict, parse_review
from evalflow.core.reviewing import contradictions
from evalflow.errors import BadInputError, ExitCode
from evalflow_tests.queue_world import closed_home, fill, queued
from evalflow_tests.test_cli import evalflow

HOSTILE = "=cmd|'/c calc'!A0; \"<img src=x onerror=alert(1)>\"\r\nsecond, line\n'third"
AT = datetime(2026, 6, 8, 10, tzinfo=UTC)


def document(trace_id: str = "t1", **given: Any) -> dict[str, Any]:
    """A queued trace as `evalflow triage show --json` prints it."""
    row = queued(trace_id, **given)
    standing = {
        "state": "open",
        "case_id": None,
        "week": "2026-06-01",
        "age_days": 0,
        "is_overdue": False,
        "urgency": 0.5,
    }
    return {
        **standing,
        **row,
        "input": row["text"],
        "context": json.loads(row["context"]),
        "signals": {"is_error": True},
        "grades": [],
        "reviews": [],
    }


def annotated(tasks: str, answers: Sequence[dict[str, Any]], who: Any = None) -> str:
    """What Label Studio exports of tasks after people have annotated them: one annotation for each answer of a task."""
    exported = []
    for number, task in enumerate(json.loads(tasks), start=1):
        own = [answer for answer in answers if answer["trace_id"] == task["data"]["trace_id"]]
        exported.append(
            {"id": number, **task, "annotations": [annotation(answer, who) for answer in own], "drafts": []}
        )
    return json.dumps(exported)


def annotation(answer: dict[str, Any], who: Any = None) -> dict[str, Any]:
    kinds = {"verdict": "choices", "severity": "choices"}
    result = []
    for name in ANSWER_FIELDS:
        if name != "reviewer" and answer.get(name):
            kind = kinds.get(name, "textarea")
            values = answer[name] if isinstance(answer[name], list) else [answer[name]]
            value = {"choices" if kind == "choices" else "text": values}
            result.append({"from_name": name, "to_name": "input", "type": kind, "value": value})
    return {
        "id": 7,
        "completed_by": who or {"id": 3, "email": answer["reviewer"]},
        "result": result,
        "was_cancelled": False,
        "created_at": AT.isoformat(),
        "updated_at": AT.isoformat(),
    }


def answered_table(text: str, answers: Sequence[dict[str, Any]]) -> str:
    """What a spreadsheet saves after people have filled in their columns, values typed as they are meant."""
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    of_trace = {answer["trace_id"]: answer for answer in answers}
    for row in rows:
        answer = of_trace.get(unguarded(row["trace_id"]), {})
        for name in ANSWER_FIELDS:
            value = answer.get(name) or ""
            row[name] = json.dumps(value) if isinstance(value, list) else guarded(value)
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, rows[0].keys(), delimiter=";")
    table.writeheader()
    table.writerows(rows)
    return file.getvalue()


def filled(documents: list[dict[str, Any]], format: ReviewFormat, answers: Sequence[dict[str, Any]]) -> str:
    text = written(documents, format)
    if format == "csv":
        return answered_table(text, answers)
    if format == "label-studio":
        return annotated(text, answers)
    of_trace = {answer["trace_id"]: answer for answer in answers}
    return "".join(
        json.dumps({**row, **of_trace.get(row["trace_id"], {})}) + "\n"
        for row in map(json.loads, text.rstrip("\n").split("\n"))
    )


def read_back(path: Path, text: str) -> list[Review | Unusable | None]:
    path.write_bytes(text.encode())
    return [parse_review(line.row, 10_000) for line in read_review_file(str(path)).lines]


texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
said = texts.filter(str.strip)


@st.composite
def answer(draw: st.DrawFn, trace_id: str) -> dict[str, Any]:
    codes = st.lists(said, max_size=3)
    return {
        "trace_id": trace_id,
        "verdict": draw(st.sampled_from(get_args(Verdict))),
        "reviewer": draw(said.map(str.strip)),
        "expected_output": draw(st.none() | said),
        "severity": draw(st.sampled_from([None, *get_args(Severity)])),
        "duplicate_of": draw(st.none() | said),
        "comment": draw(st.none() | said),
        "open_codes": draw(codes),
        "tags": draw(codes),
    }


@settings(max_examples=30)
@given(answer("t1"), answer("=t2"), texts.filter(str.strip))
def test_an_answer_comes_back_as_it_was_given_from_every_format(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, Any], second: dict[str, Any], text: str
) -> None:
    """Whatever people write: formulas, quotes, line breaks, other scripts. A third trace was left open."""
    documents = [document("t1", text=text), document("=t2", output=None), document("t3")]
    path = tmp_path_factory.getbasetemp() / "answers"
    wanted = [parse_review(one, 10_000) for one in (first, second)]
    for format in get_args(ReviewFormat):
        found = read_back(path, filled(documents, format, [first, second]))
        kept = [msgspec.structs.replace(one, reviewed_at=None) for one in found if isinstance(one, Review)]
        assert kept == wanted, format
        assert found[2] is None, format


@given(texts)
def test_a_guarded_cell_reads_as_it_was_and_never_begins_a_formula(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert not guarded(text).lstrip().startswith(("=", "+", "-", "@"))
    assert not guarded(text).startswith(("\t", "\r"))


def test_what_people_type_into_a_table_is_read_as_they_mean_it(tmp_path: Path) -> None:
    """Codes by semicolon or line, an apostrophe that is one, blanks around names; from a German spreadsheet, in UTF-16."""
    text = "sep=;\nTrace_ID;verdict;reviewer;open_codes;comment\nt1;Real Failure;ann; wrong date;'tis so\n;;;;\n"
    text += 't2;unsure;ann;"wrong date; no tool\nrude";-5 €\n'
    for code in ("utf-8", "utf-8-sig", "utf-16"):
        path = tmp_path / f"{code}.csv"
        path.write_bytes(text.encode(code))
        first, second = (parse_review(line.row, 1000) for line in read_review_file(str(path)).lines)
        assert first == Review(
            trace_id="t1", verdict="real_failure", reviewer="ann", open_codes=["wrong date"], comment="'tis so"
        )
        assert second == Review(
            trace_id="t2",
            verdict="unsure",
            reviewer="ann",
            open_codes=["wrong date", "no tool", "rude"],
            comment="-5 €",
        )


def test_no_cell_of_a_table_is_a_formula_or_too_long_for_a_spreadsheet() -> None:
    texts = dict.fromkeys(("text", "output", "label", "reason"), HOSTILE)
    long = document("t2", output="x" * 40_000)
    table = written([document("@t1", **texts), long], "csv")
    assert table.startswith("\ufeff"), "without it a spreadsheet takes UTF-8 for another code"
    rows = list(csv.reader(io.StringIO(table.removeprefix("\ufeff"), newline="")))
    assert not [cell for row in rows for cell in row if cell.lstrip().startswith(("=", "+", "-", "@"))]
    assert max(len(cell) for row in rows for cell in row) <= 32_767
    assert "(10,000 characters left out)" in rows[2][rows[0].index("output")]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"trace_id,verdict\nt1,unsure\n", "has no column 'reviewer' in its first row"),
        (b"trace_id,verdict,reviewer,Verdict\nt1,unsure,ann,\n", "has the column 'verdict' more than once"),
        ("trace_id,verdict,reviewer\nt1,unsure,zoé\n".encode("latin-1"), "is not UTF-8"),
        (b'[{"id": 1, "annotator": 3, "trace_id": "t1"}]', "is Label Studio's JSON-MIN"),
        (b"[1, 2", "is no JSON"),
    ],
)
def test_a_file_without_a_place_for_answers_is_refused_with_what_to_do(
    content: bytes, part: str, tmp_path: Path
) -> None:
    (tmp_path / "answers").write_bytes(content)
    with pytest.raises(BadInputError, match=part):
        read_review_file(str(tmp_path / "answers"))


@pytest.mark.parametrize(
    ("content", "number", "reason"),
    [
        (b"trace_id,verdict,reviewer\nt1,unsure,ann,a,b\n", 2, "the row has 5 cells, the first row 3"),
        (b'trace_id,verdict,reviewer\nt1,unsure,ann\n"t2,unsure,ben\n', 3, "the table cannot be read from here on"),
        (b'[{"id": 1}]', 1, "a task must be an object with `data`"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(content: bytes, number: int, reason: str, tmp_path: Path) -> None:
    (tmp_path / "answers").write_bytes(content)
    *_, line = read_review_file(str(tmp_path / "answers")).lines
    assert line.number == number
    assert isinstance(line.row, Unusable)
    assert reason in line.row.reason


@given(st.binary(max_size=60))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    for start in (b"", b"[", b"trace_id,verdict,reviewer\n"):
        path.write_bytes(start + content)
        try:
            lines = read_review_file(str(path)).lines
        except BadInputError:
            continue
        assert all(isinstance(line, Line) for line in lines)


# -- Label Studio ---------------------------------------------------------------------------------------------


def test_several_annotators_are_several_reviewers_and_drafts_and_cancelled_ones_are_none(tmp_path: Path) -> None:
    verdicts = [("ann@example.com", "real_failure"), ("ben@example.com", "unsure"), ("eve@example.com", "duplicate")]
    answers = [{"trace_id": "t1", "verdict": verdict, "reviewer": name} for name, verdict in verdicts]
    tasks = json.loads(annotated(written([document("t1"), document("t2")], "label-studio"), answers))
    tasks[0]["annotations"][2]["was_cancelled"] = True
    tasks[0]["annotations"][1]["completed_by"] = 12
    tasks[0]["predictions"] = [annotation({"trace_id": "t1", "verdict": "unsure", "reviewer": "model"})]
    tasks[1]["drafts"] = [annotation(answers[0])]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    found = read_review_file(str(tmp_path / "export.json"))
    assert (found.n_drafts, found.n_cancelled) == (1, 1)
    read = [parse_review(line.row, 1000) for line in found.lines]
    assert read == [
        Review(trace_id="t1", verdict="real_failure", reviewer="ann@example.com", reviewed_at=AT),
        Review(trace_id="t1", verdict="unsure", reviewer="label-studio-12", reviewed_at=AT),
        None,
    ]


def test_the_interface_asks_for_every_field_of_an_answer_and_shows_what_the_tasks_hold() -> None:
    root = ET.fromstring(interface())
    controls = {tag.get("name"): tag for tag in root if tag.tag in ("Choices", "TextArea")}
    assert set(controls) == set(ANSWER_FIELDS) - {"reviewer"}, "who answers is known to Label Studio"
    for name, values in (("verdict", get_args(Verdict)), ("severity", get_args(Severity))):
        assert tuple(choice.get("value") for choice in controls[name]) == values
    names = [tag.get("name") for tag in root]
    assert {tag.get("toName") for tag in controls.values()} <= set(names)
    shown = {tag.get("value", "")[1:] for tag in root if tag.get("value", "").startswith("$")}
    (task,) = json.loads(written([document("t1", text=HOSTILE, output=None)], "label-studio"))
    assert shown <= set(task["data"])
    assert (task["data"]["input"], task["data"]["output"]) == (HOSTILE, "(no answer)")


def test_label_studios_own_code_accepts_interface_tasks_and_annotations() -> None:
    sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="label-studio-sdk is not installed")
    own = sdk.LabelInterface(interface())
    own.validate()
    answers = [
        {"trace_id": "t1", "verdict": "real_failure", "reviewer": "ann", "comment": "no", "open_codes": ["a", "b"]}
    ]
    (task,) = json.loads(annotated(written([document("t1")], "label-studio"), answers))
    assert own.validate_task({"data": task["data"]})
    assert own.validate_annotation(task["annotations"][0])


# -- the whole way --------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = closed_home(tmp_path / "home")
    fill(home, [queued("t1", text=HOSTILE), queued("t2"), queued("t3", queue="payments")])
    return home


ANSWERS: list[dict[str, Any]] = [
    {"trace_id": "t1", "verdict": "real_failure", "reviewer": "ann", "expected_output": HOSTILE, "severity": "high"},
    {"trace_id": "t2", "verdict": "not_a_failure", "reviewer": "ann", "open_codes": ["slow"], "tags": ["parcel"]},
]


@pytest.mark.parametrize(("format", "ending"), [("jsonl", "jsonl"), ("csv", "csv"), ("label-studio", "json")])
def test_what_is_exported_answered_and_imported_is_the_same_in_each_format(
    home: Home, format: ReviewFormat, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"queue.{ending}"
    done = evalflow("triage", "export", "--out", str(path), "--json", home=home.path).document
    assert (done["traces"], done["format"]) == (3, format), "the ending says which format"
    text = path.read_bytes().decode()
    if format == "csv":
        path.write_bytes(answered_table(text, ANSWERS).encode())
    elif format == "label-studio":
        path.write_bytes(annotated(text, ANSWERS).encode())
    else:
        rows = {row["trace_id"]: row for row in map(json.loads, text.rstrip("\n").split("\n"))}
        path.write_text(
            "".join(json.dumps(rows[one["trace_id"]] | one) + "\n" for one in ANSWERS) + text.splitlines()[2]
        )
    said = evalflow("triage", "import", str(path), "--json", home=home.path)
    assert said.code == 0, said.err
    assert (said.document["added"], said.document["unanswered"]) == (2, 1)
    assert said.document["edited_inputs"] == []
    kept = {name: [getattr(review, name) for review in home.reviews.all()] for name in ANSWER_FIELDS}
    assert kept == {
        name: [one.get(name, [] if name in ("open_codes", "tags") else None) for one in ANSWERS]
        for name in ANSWER_FIELDS
    }
    assert evalflow("triage", "import", str(path), "--json", home=home.path).document["unchanged"] == 2


def test_an_export_does_not_tell_the_second_reviewer_what_the_first_said(home: Home, tmp_path: Path) -> None:
    """Where two are wanted they answer blind, on paper too; the earlier answers come along once there are two."""
    write_setting(home.path, "review.reviewers_per_item", 2)
    shown = []
    for reviewer, verdict in (("ann", "real_failure"), ("bob", "not_a_failure")):
        review = Review(trace_id="t1", verdict=verdict, reviewer=reviewer)  # type: ignore[arg-type]
        home.reviews.add([review], "test", home.now())
        evalflow("triage", "export", "--out", str(tmp_path / "queue.jsonl"), home=home.path)
        (row,) = (row for row in map(json.loads, (tmp_path / "queue.jsonl").open()) if row["trace_id"] == "t1")
        shown.append((row["n_reviews"], [one["reviewer"] for one in row["reviews"]]))
    assert shown == [(1, []), (2, ["ann", "bob"])]


def test_one_queue_is_exported_alone_and_tasks_come_with_their_interface(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    done = evalflow("triage", "export", "--queue", "payments", "--out", str(path), "--json", home=home.path).document
    assert done["files"] == [str(path), str(tmp_path / "tasks.interface.xml")]
    assert [task["data"]["trace_id"] for task in json.loads(path.read_text())] == ["t3"]
    assert (tmp_path / "tasks.interface.xml").read_text() == interface()


def test_each_thing_that_is_wrong_with_a_file_of_answers_gets_its_sentence(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [
        {"trace_id": "t1", "verdict": "unsure", "reviewer": "ann", "input": "another question"},
        {"trace_id": "nobody", "verdict": "unsure", "reviewer": "ann"},
        {"trace_id": "t2", "verdict": "unsure", "reviewer": "ann"},
        {"trace_id": "t2", "verdict": "not_a_failure", "reviewer": "ann"},
        {"trace_id": "t3", "verdict": "unsure", "reviewer": "ann", "tags": ["half \ud83d"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = evalflow("triage", "import", str(path), "--json", home=home.path)
    assert said.code == ExitCode.BAD_INPUT
    assert said.document["edited_inputs"] == ["t1"]
    twice = "'ann' answers trace 't2' more than once and differently (lines 3, 4); keep one of them"
    assert [(row["line"], row["reason"]) for row in said.document["unusable"]] == [
        (2, "there is no trace 'nobody' in the queue; `evalflow triage list` shows it"),
        (5, "malformed JSON: Input data was truncated"),
        (3, twice),
        (4, twice),
    ]
    assert said.document["added"] == 1
    again = evalflow("triage", "import", str(path), home=home.path)
    assert "t1: its input was changed in the file; the answer counts for the trace as it was queued." in again.out


def test_the_same_answer_twice_or_one_with_its_own_time_contradicts_nothing() -> None:
    def says(verdict: str, at: datetime | None = None) -> Review:
        return Review(trace_id="t1", verdict=verdict, reviewer="ann", reviewed_at=at)  # type: ignore[arg-type]

    assert contradictions([(1, says("unsure")), (2, says("unsure"))]) == {}
    assert contradictions([(1, says("unsure", AT)), (2, says("duplicate", AT.replace(hour=11)))]) == {}
    assert sorted(contradictions([(1, says("unsure", AT)), (2, says("duplicate", AT))])) == [0, 1]
    assert sorted(contradictions([(1, says("unsure", AT)), (2, says("duplicate"))])) == [0, 1]


def test_two_people_who_answer_the_same_trace_at_once_are_both_kept(home: Home) -> None:
    """Eight people at the same moment, each from a home of their own."""
    ready = threading.Barrier(8)

    def answers(number: int) -> None:
        own = Home(home.path, home.settings)
        ready.wait()
        own.reviews.add([Review(trace_id="t1", verdict="unsure", reviewer=f"r{number}")], "test", AT)

    threads = [threading.Thread(target=answers, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = home.reviews.all()
    assert sorted(review.reviewer for review in kept) == [f"r{number}" for number in range(8)]
    assert [review.number for review in kept] == list(range(1, 9))


def test_answers_that_were_read_before_are_read_again_when_their_file_is_touched(home: Home) -> None:
    home.reviews.add([Review(trace_id="t1", verdict="unsure", reviewer="ann")], "test", AT)
    (kept,) = home.reviews.all()
    assert home.reviews.all() == [kept]
    (file,) = (home.path / "reviews").glob("*.jsonl")
    file.write_text(file.read_text().replace("unsure", "duplicate"))
    with pytest.raises(BadInputError, match="was changed after it was written"):
        home.reviews.all()
