"""The exporters by themselves: what each format holds of a case, what it loses and says so. No tool is needed here."""

import io
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, get_args

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalflow.adapters.exporters import EXPORTERS, ExportedSuite, Format
from evalflow.adapters.exporters.loss import FIELDS
from evalflow.adapters.exporters.promptfoo import LEAST_WEIGHT
from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.lock import suite_hash
from evalflow.core.records import GoldenCase
from evalflow_tests.exported_cases import CASES, HOSTILE, PROMOTED, TOOLS, TURNS, suite_of, version
from evalflow_tests.test_cli import evalflow

FORMS: tuple[Format, ...] = get_args(Format)


@pytest.fixture(scope="module")
def suite() -> ExportedSuite:
    return suite_of(CASES)


def lines_of(content: str | bytes) -> list[dict[str, Any]]:
    assert isinstance(content, str)
    return [json.loads(line) for line in content.split("\n") if line]


def one_of(form: Format, case: CaseVersion, name: str | None = None) -> dict[str, Any]:
    """The only record of the export of one case; of the file named, else of the first."""
    files = EXPORTERS[form].files(suite_of([case]))
    (line,) = lines_of(files[name or next(iter(files))])
    return line


# -- what every format keeps --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_same_suite_gives_the_same_bytes(form: Format, suite: ExportedSuite) -> None:
    assert EXPORTERS[form].files(suite) == EXPORTERS[form].files(suite_of(CASES))


@pytest.mark.parametrize("form", FORMS)
def test_a_loss_report_tells_the_fate_of_every_field(form: Format, suite: ExportedSuite) -> None:
    """Nothing is dropped without a reason, and what is said to be kept has a place."""
    report = EXPORTERS[form].loss(suite)
    assert [fate.field for fate in report.fields] == list(FIELDS)
    assert all(fate.why if fate.fate == "dropped" else fate.to for fate in report.fields)
    assert report.document()["fields"][0] == report.fields[0]._asdict()
    assert "0 dropped" in report.headline or form == "native"


def test_every_field_of_the_ledger_has_a_fate_and_travels_by_the_native_form() -> None:
    """A field that is added to a case must be exported, imported and reported. What ends a case is no part of it."""
    fields = set(CaseVersion.__struct_fields__) - {"retired_on", "retired_because"}
    assert set(FIELDS) - fields == {"conversation", "bin", "cluster", "slice"}
    assert fields <= set(FIELDS)
    assert fields <= one_of("native", PROMOTED).keys()
    assert fields - set(GoldenCase.__struct_fields__) == {"version", "effective_on"}, "which an import gives anew"


@pytest.mark.parametrize("form", FORMS)
def test_a_line_is_a_line_to_every_reader(form: Format, suite: ExportedSuite) -> None:
    """JavaScript's readline and Python's splitlines end a line at signs that JSON lets stand."""
    for name, content in EXPORTERS[form].files(suite).items():
        if name.endswith(".jsonl"):
            assert isinstance(content, str)
            assert [json.loads(line) for line in content.splitlines()] == lines_of(content)


@pytest.mark.parametrize("form", FORMS)
def test_no_case_is_left_out(form: Format, suite: ExportedSuite) -> None:
    """Each case stands in exactly one of the files that hold cases; the frozen ones of the native export in two."""
    files = EXPORTERS[form].files(suite)
    found: list[str] = []
    for name, content in files.items():
        if name.endswith(".jsonl") and name != "regressions.jsonl":
            found += [_case_id(line) for line in lines_of(content)]
        elif name.endswith(".json"):
            assert isinstance(content, str)
            found += [golden["name"] for golden in json.loads(content)]
        elif name.endswith(".parquet"):
            assert isinstance(content, bytes)
            found += pl.read_parquet(io.BytesIO(content))["case_id"].to_list()
    assert sorted(found) == [case.case_id for case in CASES]


def _case_id(line: dict[str, Any]) -> str:
    kept = line if "case_id" in line else line.get("metadata") or line["tags"]
    return str((json.loads(kept["evalflow"]) if "evalflow" in kept else kept)["case_id"])


@pytest.mark.parametrize("form", ["inspect", "openai-evals", "langfuse", "langsmith", "braintrust"])
def test_what_a_tool_has_no_field_for_stands_in_its_metadata(form: Format) -> None:
    files = EXPORTERS[form].files(suite_of([PROMOTED]))
    (line,) = [
        line
        for name, content in files.items()
        if name.endswith("l") and "yaml" not in name
        for line in lines_of(content)
    ]
    assert line["metadata"] == {
        "case_id": "promoted",
        "version": 2,
        "effective_on": "2026-06-01",
        "created_at": "2026-06-02T09:00:00+00:00",
        "origin": "production",
        "bin": "c-1",
        "cluster": "parcel, late",
        "slice": "locale=en-GB, user_tier=free",
        "weight": 0.25,
        "weight_parts": msgspec.to_builtins(PROMOTED.weight_parts),
        "is_regression": True,
        "is_random_draw": False,
        "tags": PROMOTED.tags,
        "metadata": {"ticket": 7},
        "provenance": msgspec.to_builtins(PROMOTED.provenance),
        "merged_trace_ids": ["t-8", "t-9"],
        "n_merged_failures": 1,
    }


# -- one format after the other -----------------------------------------------------------------------------


def test_a_promptfoo_test_refers_to_its_texts_and_holds_none_that_is_rendered() -> None:
    test = one_of("promptfoo", PROMOTED, "tests.jsonl")
    (assertion,) = test["assert"]
    assert test["description"] == "promoted"
    assert json.loads(test["vars"]["case"]) == {
        "input": PROMOTED.input,
        "expected_output": PROMOTED.expected_output,
        "messages": [*TURNS, {"role": "user", "content": PROMOTED.input}],
    }
    assert (assertion["type"], assertion["weight"], assertion["metric"]) == ("llm-rubric", 0.25, "frozen regressions")
    assert str(PROMOTED.expected_output) not in assertion["value"]
    assert test["metadata"]["cluster"] == "parcel, late"
    assert json.loads(test["metadata"]["evalflow"])["merged_trace_ids"] == ["t-8", "t-9"]


@given(st.text() | st.sampled_from(HOSTILE), st.text() | st.sampled_from(HOSTILE))
def test_nothing_in_a_promptfoo_test_begins_a_template_or_names_a_file(case_id: str, text: str) -> None:
    """But the references of our own; what was sealed comes out as it went in."""
    odd = version(case_id, input=text, expected_output=text + "x", tags={text: text}, metadata={"$ref": text, text: {}})
    test = one_of("promptfoo", odd, "tests.jsonl")
    ours = test.pop("assert")
    texts = [test["description"], test["vars"]["case"], *map(str, test["metadata"].values())]
    assert not any(found.startswith("file:") for found in texts)
    assert not any(sign in test["vars"]["case"] for sign in ("{{", "{%", "{#"))
    assert sorted(test) == ["description", "metadata", "vars"]
    assert ours[0]["value"].count("{{") == 1
    assert json.loads(test["vars"]["case"])["input"] == text
    assert json.loads(test["metadata"]["evalflow"])["metadata"] == odd.metadata


def test_promptfoo_never_gets_a_case_that_it_would_pass_unseen(suite: ExportedSuite) -> None:
    """It passes a test without assertion and an assertion of weight 0, whatever the answer."""
    files = EXPORTERS["promptfoo"].files(suite)
    assert all(test["assert"] for test in lines_of(files["tests.jsonl"]))
    assert [test["description"] for test in lines_of(files["ungraded.jsonl"])] == ["unanswered"]
    weights = {test["metadata"]["case_id"]: test["assert"][0]["weight"] for test in lines_of(files["tests.jsonl"])}
    assert weights["worthless"] == LEAST_WEIGHT > 0
    said = {loss.what.split(":")[0]: loss.n_cases for loss in EXPORTERS["promptfoo"].loss(suite).cases}
    assert said["no expected output"] == 1


def test_inspect_gets_text_or_chat_messages() -> None:
    """A turn that is no text becomes JSON text, so that Inspect opens no file that a trace names."""
    assert one_of("inspect", CASES[0])["input"] == CASES[0].input
    sample = one_of("inspect", TOOLS)
    assert [turn["role"] for turn in sample["input"]] == ["system", "user", "assistant", "tool", "user"]
    assert sample["input"][1]["content"] == '[{"type": "image", "image": "/etc/passwd"}]'
    assert sample["metadata"]["conversation"] == TOOLS.metadata["conversation"]


def test_deepeval_keeps_cases_with_a_conversation_apart(suite: ExportedSuite) -> None:
    files = EXPORTERS["deepeval"].files(suite)
    goldens, talks = (json.loads(str(files[name])) for name in ("goldens.json", "conversational_goldens.json"))
    assert {golden["name"] for golden in talks} == {"promoted", "tools", "hostile-turns"}
    by_name = {golden["name"]: golden for golden in talks}
    assert by_name["promoted"]["turns"] == [*TURNS, {"role": "user", "content": PROMOTED.input}]
    assert by_name["promoted"]["scenario"] == PROMOTED.input
    assert {turn["role"] for turn in by_name["tools"]["turns"]} == {"user", "assistant"}
    assert by_name["tools"]["additional_metadata"]["conversation"] == TOOLS.metadata["conversation"]
    assert len(goldens) == len(CASES) - 3
    assert EXPORTERS["deepeval"].files(suite_of([PROMOTED]))["goldens.json"] == "[]\n"


def test_openai_evals_samples_hold_text_alone() -> None:
    sample = one_of("openai-evals", TOOLS, "data/evalflow-golden/samples.jsonl")
    assert sorted(sample) == ["criteria", "ideal", "input", "metadata"]
    assert all(isinstance(turn["content"], str) for turn in sample["input"])
    assert sample["criteria"].endswith(str(TOOLS.expected_output))


def test_the_parquet_of_hugging_face_has_the_same_types_in_every_suite(suite: ExportedSuite) -> None:
    def schema(of: ExportedSuite) -> pl.Schema:
        content = EXPORTERS["huggingface"].files(of)["data/test.parquet"]
        assert isinstance(content, bytes)
        return pl.read_parquet(io.BytesIO(content)).schema

    assert schema(suite) == schema(suite_of([CASES[0]]))


def test_a_dataset_card_tells_day_hash_and_composition_and_takes_no_markup(suite: ExportedSuite) -> None:
    card = str(EXPORTERS["huggingface"].files(suite)["README.md"])
    assert f"The suite as it counted on 2026-06-30: {len(CASES)} cases" in card
    assert suite.suite_hash in card
    assert "| origin: production | 1 |" in card
    (row,) = [line for line in card.splitlines() if line.startswith("| c-2 |")]
    assert row.count("|") == 4
    assert not set("<[`") & set(row)


def test_mlflow_says_where_a_record_comes_from(suite: ExportedSuite) -> None:
    """Records that ask the same collapse in MLflow, and the report counts them."""
    records = {
        record["tags"]["case_id"]: record for record in lines_of(EXPORTERS["mlflow"].files(suite)["records.jsonl"])
    }
    assert records["promoted"]["source"] == {"source_type": "TRACE", "source_data": {"trace_id": "t-7"}}
    assert records["unanswered"]["source"]["source_type"] == "CODE"
    assert "expectations" not in records["unanswered"]
    assert records["tools"]["source"]["source_type"] == "HUMAN"
    assert all(isinstance(value, str) for record in records.values() for value in record["tags"].values())
    asked = [json.dumps(record["inputs"], sort_keys=True) for record in records.values()]
    repeated = [loss.n_cases for loss in EXPORTERS["mlflow"].loss(suite).cases if "another case asks" in loss.what]
    assert repeated == [len(asked) - len(set(asked))] == [3]


def test_an_id_in_langfuse_and_langsmith_is_of_case_and_day() -> None:
    """An id belongs to one dataset: the same export again replaces its items, another day's stands beside them."""
    other_day = ExportedSuite(suite_of([PROMOTED]).cases, date(2026, 7, 1), "")
    for form in ("langfuse", "langsmith"):
        exporter = EXPORTERS[form]  # type: ignore[index]  # both are formats
        ids = [lines_of(next(iter(exporter.files(of).values())))[0]["id"] for of in (suite_of([PROMOTED]), other_day)]
        assert len(set(ids)) == 2
    long = one_of("langfuse", version("x" * 512))
    assert len(long["id"]) <= 255
    assert long["metadata"]["case_id"] == "x" * 512


def test_braintrust_tags_are_texts_each_once(suite: ExportedSuite) -> None:
    assert one_of("braintrust", PROMOTED)["tags"] == ["locale:en-GB", "user_tier:free", "area:delivery"]
    assert one_of("braintrust", version("x", tags=["a", "a"]))["tags"] == ["a"]


def test_what_happens_to_cases_is_counted(suite: ExportedSuite) -> None:
    counts = {form: {loss.what: loss.n_cases for loss in EXPORTERS[form].loss(suite).cases} for form in FORMS}
    assert counts["native"] == {}
    for form in FORMS[1:]:
        assert [n for what, n in counts[form].items() if "no list of messages" in what] == [1]
        assert [n for what, n in counts[form].items() if what.startswith("no expected output")] == [1]
    assert [n for what, n in counts["inspect"].items() if "tool calls" in what] == [1]
    assert [n for what, n in counts["promptfoo"].items() if "begins with file:" in what] == [1]
    developer = suite_of([version("x", metadata={"conversation": [{"role": "developer", "content": "Be brief."}]})])
    assert [loss.n_cases for loss in EXPORTERS["inspect"].loss(developer).cases] == [1]
    assert [n for what, n in counts["deepeval"].items() if "[DEEPEVAL:" in what] == [3]  # asked, expected, a turn
    assert EXPORTERS["promptfoo"].loss(suite_of([PROMOTED])).cases == ()


# -- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A closed home whose ledger holds three cases, of which one came on the last day."""
    path = tmp_path_factory.mktemp("exports") / "home"
    write_setting(path, "traffic_end", date(2026, 6, 3))
    home = open_home(path)
    for day, case_id in ((1, "a"), (1, "b"), (3, "c")):
        case = GoldenCase(case_id=case_id, input=f"{{{{ {case_id} }}}}", expected_output="[bold]x[/bold]")
        home.ledger.import_cases([case], "test", datetime(2026, 6, day, 12, tzinfo=UTC))
    return home


@pytest.mark.parametrize("form", FORMS)
def test_an_export_of_a_past_day_is_the_same_bytes_whenever_it_is_made(
    form: Format, home: Home, tmp_path: Path
) -> None:
    """Lock and loss report included; a folder is made, a second export replaces the first."""
    out = tmp_path / "there" / "suite" if EXPORTERS[form].is_folder else tmp_path / "suite.jsonl"

    def export() -> dict[str, bytes]:
        said = evalflow("golden", "export", "--format", form, "--as-of", "2026-06-02", "--out", out, home=home.path)
        assert said.code == 0, said.err
        assert "locked as of 2026-06-02 in " in said.err
        return {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    first = export()
    assert export() == first
    assert sum(name.endswith(".lock.json") for name in first) == sum(name.endswith(".loss.json") for name in first) == 1


def test_the_command_says_what_is_lost_and_where_it_is_written(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "suite"
    said = evalflow("golden", "export", "--format", "openai-evals", "--out", out, "--json", home=home.path)
    assert said.code == 0
    assert "3 cases written for openai-evals to " in said.err
    assert "3 fields mapped, 17 kept as metadata, 0 dropped; in full in " in said.err
    document = said.document
    assert (document["cases"], document["regressions"], document["as_of"]) == (3, 0, "2026-06-04")
    assert document["suite_hash"] == suite_hash(home.ledger.as_of(date(2026, 6, 4)))
    report = json.loads(Path(document["loss_path"]).read_text())
    assert report["fields"] == document["loss"]["fields"]
    assert report["suite_hash"] == document["suite_hash"]
    assert Path(document["lock_path"]).is_file()


def test_another_format_needs_a_place_to_go(home: Home) -> None:
    said = evalflow("golden", "export", "--format", "mlflow", home=home.path)
    assert (said.code, said.message) == (2, "--format mlflow needs --out; name a file to write.")


def test_an_export_never_mixes_with_other_files(home: Home, tmp_path: Path) -> None:
    """A folder with files of somebody else's, or with an export of another format, is left alone."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert evalflow("golden", "export", "--format", "inspect", "--out", tmp_path / "held", home=home.path).code == 0
    for name, advice in (
        ("mine", "holds files that no lock names; name a new folder, or empty it."),
        ("file", "is no folder, and --format promptfoo writes several files; name a folder."),
        ("held", "holds an export for inspect; name another folder for promptfoo."),
    ):
        said = evalflow("golden", "export", "--format", "promptfoo", "--out", tmp_path / name, home=home.path)
        assert said.code == 2
        assert said.message.endswith(advice)
    said = evalflow("golden", "export", "--format", "mlflow", "--out", tmp_path / "x.lock.json", home=home.path)
    assert said.code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "held", "mine"]
