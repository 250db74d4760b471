"""Every export is loaded by the tool that it is for, with that tool's own code, and hostile text stays text in it.

The tools live in an environment of their own, which `make tools` builds: they and evalflow pin different versions of
the same libraries. Each runs once, in one process, offline, with a home of its own. Without them the tests are skipped;
where EXPORT_TOOLS names the environment, as in CI, a missing tool is an error.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evalflow.adapters.exporters import EXPORTERS, Format
from evalflow_tests.exported_cases import ANSWERED, CASES, DAY, HOSTILE, PROMOTED, TOOLS, TURNS, suite_of

ROOT = Path(__file__).parents[1]
LOADERS = Path(__file__).parent / "tool_loaders"
NAMED = os.environ.get("EXPORT_TOOLS")
ENVIRONMENT = Path(NAMED) if NAMED else ROOT / ".venv-tools"
PYTHON, PROMPTFOO = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "node_modules" / "promptfoo" / "dist" / "src"
NOWHERE = "http://127.0.0.1:9"
SECRET = "what no case may show"
OFFLINE = {
    "SECRET": SECRET,
    "http_proxy": NOWHERE,
    "https_proxy": NOWHERE,
    "no_proxy": "",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "DEEPEVAL_TELEMETRY_OPT_OUT": "YES",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OPENAI_API_KEY": "none",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
}
TEXTS = {case.case_id: (case.input, case.expected_output) for case in CASES}


@pytest.fixture(autouse=True)
def _tool_is_there(request: pytest.FixtureRequest) -> None:
    needed = PROMPTFOO if "promptfoo" in request.node.name else PYTHON
    if needed.exists():
        return
    if NAMED:
        pytest.fail(f"EXPORT_TOOLS names {NAMED}, which has no {needed.relative_to(ENVIRONMENT)}; run `make tools`")
    pytest.skip(f"needs {needed.relative_to(ROOT)}, which `make tools` installs")


def written(form: Format, folder: Path) -> Path:
    for name, content in EXPORTERS[form].files(suite_of(CASES)).items():
        (folder / form / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / form / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / form


def offline(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a tool with nothing of this process's environment but the path, in the folder, which is its home too."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)} | OFFLINE
    environment["PROMPTFOO_CONFIG_DIR"] = str(folder / "promptfoo-home")
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def read_by(tool: str, folder: Path, *arguments: Path) -> Any:
    """What the tool's loader printed last."""
    done = offline([PYTHON, "-P", LOADERS / f"load_{tool}.py", *arguments], folder)
    return json.loads(done.stdout.strip().split("\n")[-1])


def test_inspect_loads_every_sample_as_it_was_written(tmp_path: Path) -> None:
    samples = {sample["id"]: sample for sample in read_by("inspect", tmp_path, written("inspect", tmp_path))}
    assert list(samples) == [case.case_id for case in ANSWERED]
    for name, sample in samples.items():
        asked = sample["input"] if isinstance(sample["input"], str) else sample["input"][-1][1]
        assert (asked, sample["target"]) == TEXTS[name]
    assert samples["promoted"]["input"] == [
        *([turn["role"], turn["content"]] for turn in TURNS),
        ["user", PROMOTED.input],
    ]
    assert [text for _, text in samples["hostile-turns"]["input"][:-1]] == list(HOSTILE)
    kept = samples["promoted"]["metadata"]
    assert (kept["cluster"], kept["slice"], kept["weight"]) == ("parcel, late", "locale=en-GB, user_tier=free", 0.25)


def test_deepeval_loads_goldens_and_conversations(tmp_path: Path) -> None:
    goldens = {golden["name"]: golden for golden in read_by("deepeval", tmp_path, written("deepeval", tmp_path))}
    assert sorted(goldens) == [case.case_id for case in CASES]
    for name, golden in goldens.items():
        expected = golden["expected_outcome"] if golden["turns"] else golden["expected_output"]
        assert (golden["scenario"] or golden["input"], expected) == TEXTS[name]
        assert golden["additional_metadata"]["case_id"] == name
    assert [text for _, text in goldens["hostile-turns"]["turns"][:-1]] == list(HOSTILE)
    assert goldens["promoted"]["turns"][-1] == ["user", PROMOTED.input]


def test_datasets_loads_the_hugging_face_folder_by_its_card(tmp_path: Path) -> None:
    read = read_by("huggingface", tmp_path, written("huggingface", tmp_path), tmp_path / "cache")
    rows = {row["case_id"]: row for row in read["rows"]}
    assert (read["splits"], list(rows)) == (["test"], [case.case_id for case in CASES])
    assert {name: (row["input"], row["expected_output"]) for name, row in rows.items()} == TEXTS
    assert rows["promoted"]["conversation"] == TURNS
    assert [turn["content"] for turn in rows["hostile-turns"]["conversation"]] == list(HOSTILE)
    assert json.loads(rows["tools"]["metadata"]) == TOOLS.metadata
    assert read["card"]["size_categories"] == ["n<1K"]


def test_mlflow_merges_the_records_into_a_dataset(tmp_path: Path) -> None:
    """One record per input: of the cases that ask the same the later one stays."""
    file = written("mlflow", tmp_path) / "records.jsonl"
    records = read_by("mlflow", tmp_path, file, tmp_path)
    repeated = [loss.n_cases for loss in EXPORTERS["mlflow"].loss(suite_of(CASES)).cases if "another case" in loss.what]
    assert len(records) == len(CASES) - repeated[0]
    for record in records:
        asked, expected = TEXTS[record["tags"]["case_id"]]
        assert record["inputs"]["messages"][-1] == {"role": "user", "content": asked}
        assert (record["expectations"] or {}).get("expected_response") == expected
    (promoted,) = [record for record in records if record["tags"]["case_id"] == "promoted"]
    assert (promoted["source_type"], promoted["source_id"]) == ("TRACE", "t-7")


def test_openai_evals_find_the_eval_and_run_it(tmp_path: Path) -> None:
    """The model is asked what the case asks, and the grader is told what the case expects, sign by sign."""
    (tmp_path / "scratch").mkdir()
    read = read_by("openai_evals", tmp_path, written("openai-evals", tmp_path), tmp_path / "scratch")
    assert [sample["metadata"]["case_id"] for sample in read["samples"]] == [case.case_id for case in ANSWERED]
    assert read["choices"] == ["Y"] * len(ANSWERED)
    for case, (asked, graded) in zip(ANSWERED, zip(read["asked"][::2], read["asked"][1::2], strict=True), strict=True):
        assert asked[-1] == {"role": "user", "content": case.input}
        assert f"or does what it asks for: {case.expected_output}\n" in graded[-1]["content"]


def test_the_rows_pass_the_models_of_langfuse_langsmith_and_braintrust(tmp_path: Path) -> None:
    forms: tuple[Format, ...] = ("langfuse", "langsmith", "braintrust")
    files = [next(written(form, tmp_path).iterdir()) for form in forms]
    read = read_by("rows", tmp_path, *files)
    for row in read["langfuse"]:
        assert (row["input"]["messages"][-1]["content"], row["expectedOutput"]) == TEXTS[row["metadata"]["case_id"]]
        assert row["id"].endswith(f"@{DAY}")
    for row in read["langsmith"]:
        expected = (row["outputs"] or {}).get("expected_output")
        assert (row["inputs"]["messages"][-1]["content"], expected) == TEXTS[row["metadata"]["case_id"]]
    for row in read["braintrust"]:
        assert (row["input"]["messages"][-1]["content"], row["expected"]) == TEXTS[row["id"]]
    assert len(read["langfuse"]) == len(read["langsmith"]) == len(read["braintrust"]) == len(CASES)


@pytest.mark.parametrize("tests", ["file://tests.jsonl", "[file://tests.jsonl]"])
def test_promptfoo_asks_and_grades_what_the_cases_say(tmp_path: Path, tests: str) -> None:
    """Run by promptfoo itself: echo stands for the system, and a grader of ours passes everything.

    Nothing is rendered: neither templates nor the environment's secrets nor files get into a prompt, also where the
    tests stand in a list, in which promptfoo resolves every file and reference that a test names.
    """
    folder = written("promptfoo", tmp_path)
    config = folder / "promptfooconfig.yaml"
    assert "\ntests: file://tests.jsonl\n" in config.read_text()
    config.write_text(config.read_text().replace("tests: file://tests.jsonl", f"tests: {tests}"))
    command = ["node", PROMPTFOO / "entrypoint.js", "eval", "-c", config, "-o", tmp_path / "results.json"]
    command += ["--grader", f"file://{LOADERS / 'promptfoo_grader.cjs'}"]
    offline([*command, "--no-cache", "--no-write", "--no-table", "--no-progress-bar"], tmp_path)
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert SECRET not in text
    found = json.loads(text)["results"]["results"]
    results = {json.loads(result["testCase"]["metadata"]["evalflow"])["case_id"]: result for result in found}
    assert sorted(results) == [case.case_id for case in ANSWERED]
    for case in ANSWERED:
        result = results[case.case_id]
        assert result["success"], result["error"]
        assert json.loads(result["response"]["output"])[-1] == {"role": "user", "content": case.input}
        (graded,) = result["gradingResult"]["componentResults"]
        told = json.loads(graded["metadata"]["renderedGradingPrompt"])[-1]["content"]
        assert f"or does what it asks for: {case.expected_output}" in told
    turns = json.loads(results["hostile-turns"]["response"]["output"])
    assert [turn["content"] for turn in turns[:-1]] == list(HOSTILE)
    assert results["promoted"]["namedScores"].keys() == {"frozen regressions"}
