"""The documentation is checked against the code: blocks, links, commands, names, examples."""

import ast
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

import evalflow
from evalflow.adapters.home import Home, open_home
from evalflow.adapters.results import read_results
from evalflow.adapters.tables import TABLES
from evalflow.cli import app
from evalflow.core.records import (
    FeedbackEvent,
    GoldenCase,
    Limits,
    Review,
    Signals,
    ToolCall,
    Trace,
    parse_golden_case,
    parse_record,
    parse_review,
)
from evalflow.core.signals import NEGATIVE_SIGNALS
from evalflow.errors import ExitCode
from evalflow.settings import ENV_PREFIX, HOME_VARIABLE, Settings
from evalflow_tests.docs_blocks import BLOCKS, DOCS, ROOT, Block, setting_fields

PACKAGE = Path(evalflow.__file__).parent
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
OURS = [DOCS / name for name in ("methods.md", "formats.md", "operations.md", "tables.md", "ci.md")]
SHELL = ("sh", "bash", "shell", "console")
LIMITS = Limits(datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC), 1_000_000)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def prose_of(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose_of(page))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def table_names(heading: str, page: Path) -> list[str]:
    """The code spans in the first column of the table under a heading, in order."""
    _, _, rest = page.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    section = re.split(r"^#{1,6} ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    first_cells = re.findall(r"^\|([^|]*)\|", section, re.MULTILINE)
    return [name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)]


# -- generated blocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.file}:{block.name}")
def test_a_generated_block_says_what_the_code_says(block: Block) -> None:
    text = block.path.read_text(encoding="utf-8")
    assert block.refreshed(text) == text, "stale: run `python -m evalflow_tests.docs_blocks`"


def test_a_block_without_its_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"x:begin.*x:end"):
        Block("tables.md", "x", lambda: "").refreshed("no markers here")


# -- links and references ------------------------------------------------------------------------------------


def anchors_of(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#{1,6} +(.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    """Files exist, and where a link names a section, the file has that heading."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            broken.append(target)
    assert broken == []


def docstrings() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield str(path.relative_to(PACKAGE)), " ".join((ast.get_docstring(node) or "").split())


def test_docstrings_name_sections_and_pages_that_exist() -> None:
    """``docs/methods.md, "Sampling"`` is a heading there, and ``docs/adr/0002`` a decision."""
    named = [
        (path, *found) for path, text in docstrings() for found in re.findall(r'docs/([\w/]+\.md), "([^"]+)"', text)
    ]
    assert named, "the core refers to its methods"
    missing = [
        (path, page, title)
        for path, page, title in named
        if f"\n## {title}\n" not in (ROOT / "docs" / page).read_text()
    ]
    decisions = [(path, number) for path, text in docstrings() for number in re.findall(r"docs/adr/(\d{4})", text)]
    missing += [(path, "adr", number) for path, number in decisions if not list(DOCS.glob(f"adr/{number}-*.md"))]
    assert missing == []


# -- commands ------------------------------------------------------------------------------------------------


def commands_of(page: Path) -> Iterator[list[str]]:
    """The arguments of every ``evalflow`` command in the page's shell blocks."""
    blocks = [text for language, text in _FENCE.findall(page.read_text(encoding="utf-8")) if language in SHELL]
    yield from commands_in(line for block in blocks for line in block.replace("\\\n", " ").splitlines())


def commands_named_in(page: Path) -> Iterator[list[str]]:
    """The same for code spans, which may name a command without what it needs: `evalflow ingest`."""
    yield from commands_in(span for span in code_spans(page) if span.startswith("evalflow "))


def commands_in(lines: Iterable[str]) -> Iterator[list[str]]:
    for line in lines:
        if "evalflow" not in line:
            continue
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue  # a line of output with an apostrophe
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if words and words[0].rpartition("/")[2] == "evalflow":
            end = next((i for i, word in enumerate(words) if set(word) <= set("|&;<>()")), len(words))
            yield words[1:end]


def parse_command(arguments: list[str]) -> None:
    """Let typer parse the arguments without running anything; it raises on what does not exist."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("evalflow", list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        if not rest and command.invoke_without_command:
            return  # a group that is a command too: `evalflow score`
        name, command, arguments = command.resolve_command(context, rest)
        context = command.make_context(name, list(arguments), parent=context)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_parses(page: Path) -> None:
    """Commands, options and the number of arguments are those of the command line."""
    wrong = [problem for arguments in commands_of(page) if (problem := problem_of(arguments))]
    wrong += [
        problem
        for arguments in commands_named_in(page)
        if (problem := problem_of(arguments)) and "missing parameter" not in problem.lower()
    ]
    assert wrong == []


def problem_of(arguments: list[str]) -> str | None:
    """What typer says against the command, or None."""
    try:
        parse_command(arguments)
    except Exception as error:
        return f"evalflow {shlex.join(arguments)}: {error}"
    return None


@pytest.mark.parametrize(
    "wrong", [["nothing"], ["coverage", "--since", "2026-01-01"], ["ingest"], ["golden", "import", "a", "b"]]
)
def test_a_command_that_does_not_exist_is_found(wrong: list[str]) -> None:
    assert problem_of(wrong)


def test_the_pages_hold_commands() -> None:
    assert {arguments[0] for page in PAGES for arguments in commands_of(page) if arguments} >= {
        "ingest",
        "run",
        "coverage",
        "golden",
    }


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", OURS, ids=name_of)
def test_settings_columns_and_variables_exist(page: Path) -> None:
    """`section.name` is a setting, `table.column` a column, and EVALFLOW_* a variable that sets something."""
    settings = {key for key, _ in setting_fields()}
    sections = {key.split(".")[0] for key in settings if "." in key}
    variables = {ENV_PREFIX + key.upper().replace(".", "__") for key in settings} | {HOME_VARIABLE}
    unknown = []
    for span in code_spans(page):
        first, _, second = span.partition(".")
        is_setting = first in sections and re.fullmatch(r"[a-z_0-9]+", second)
        if is_setting and span not in settings:
            unknown.append(span)
        if first in TABLES and second and second not in {*TABLES[first].schema, TABLES[first].unit}:
            unknown.append(span)
    unknown += [name for name in re.findall(r"EVALFLOW_\w+", page.read_text(encoding="utf-8")) if name not in variables]
    assert unknown == []


def test_formats_list_every_field() -> None:
    """The tables of fields are complete, in the order of the records, and hold nothing else."""
    page = DOCS / "formats.md"
    for heading, record in (
        ("## Trace", Trace),
        ("### Signals of a trace", Signals),
        ("### A tool call", ToolCall),
        ("## Feedback", FeedbackEvent),
        ("## Golden case", GoldenCase),
        ("## Review", Review),
    ):
        fields = {*record.__struct_fields__} - {"number"}  # given on recording, never read from a file
        assert sorted(table_names(heading, page)) == sorted(fields), heading


def example_lines() -> list[str]:
    blocks = [text for language, text in _FENCE.findall((DOCS / "formats.md").read_text()) if language == "json"]
    return [line for block in blocks for line in block.splitlines()]


def case_lines() -> list[str]:
    """The golden case as it is imported, and as it is exported."""
    return [line for line in example_lines() if {"case_id", "input"} <= msgspec.json.decode(line).keys()]


def test_examples_of_formats_are_usable(tmp_path: Path) -> None:
    """Every example line is the kind of record that its section is about."""
    records, results = [], []
    for line in example_lines():
        row = msgspec.json.decode(line)
        if "pass" in row:
            results.append(line)
        elif "verdict" in row:
            records.append(parse_review(row, LIMITS.max_text_bytes))
        else:
            is_case = "case_id" in row
            records.append(parse_golden_case(row, LIMITS.max_text_bytes) if is_case else parse_record(row, LIMITS))
    assert [type(record) for record in records] == [Trace, Trace, FeedbackEvent, GoldenCase, GoldenCase, Review]
    (tmp_path / "results.jsonl").write_text("\n".join(results))
    read = read_results(str(tmp_path / "results.jsonl"))
    assert read.outcomes == {"parcel-1": True, "parcel-2": None, "parcel-3": False}
    assert read.attempts["parcel-3"].outcomes == (True, False)


def test_the_exported_example_is_what_the_imported_one_becomes(tmp_path: Path) -> None:
    imported, exported = case_lines()
    case = parse_golden_case(msgspec.json.decode(imported), LIMITS.max_text_bytes)
    assert isinstance(case, GoldenCase)
    open_home(tmp_path).ledger.import_cases([case], "suite.jsonl", datetime(2026, 6, 1, tzinfo=UTC))
    done = CliRunner().invoke(app, ["golden", "export", "--home", str(tmp_path)])
    assert done.stdout.splitlines() == [exported]
    assert sorted(table_names("## Golden export", DOCS / "formats.md")) == sorted(json.loads(exported))


def test_every_signal_is_defined() -> None:
    assert table_names("## Signals", DOCS / "methods.md") == list(NEGATIVE_SIGNALS)


def test_the_coverage_document_has_the_keys_that_methods_shows() -> None:
    """The example of `coverage --json` has every key of the document and of a bin, and no other."""
    from dataclasses import fields

    from evalflow.core.alarms import Alarm
    from evalflow.core.coverage import BinCoverage
    from evalflow.defs.coverage import HEADLINES, WeekCoverage

    (text,) = [text for language, text in _FENCE.findall((DOCS / "methods.md").read_text()) if language == "json"]
    shown = json.loads(text)
    source = ast.parse((PACKAGE / "defs" / "coverage.py").read_text())
    (document,) = [
        node
        for node in ast.walk(source)
        if isinstance(node, ast.FunctionDef) and node.name == WeekCoverage.document.__name__
    ]
    (returned,) = [node.value for node in ast.walk(document) if isinstance(node, ast.Return)]
    assert isinstance(returned, ast.Dict)
    keys = [[key.value] if isinstance(key, ast.Constant) else list(HEADLINES) for key in returned.keys]
    assert list(shown) == [name for names in keys for name in names]
    assert list(shown["bins"][0]) == [field.name for field in fields(BinCoverage)]
    assert list(shown["alarms"][0]) == [field.name for field in fields(Alarm)]


def test_exit_codes_are_those_of_the_commands() -> None:
    _, _, rest = (DOCS / "operations.md").read_text().partition("\n## Exit codes\n")
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", rest.partition("\n## ")[0], re.MULTILINE)]
    assert codes == [*sorted(int(code) for code in ExitCode), 130]


def test_schedules_sensors_and_checks_are_listed(tmp_path: Path) -> None:
    """Operations names everything that runs by itself and every asset check, with its asset and whether it blocks."""
    from evalflow.definitions import GRADING, STATIONS, station_definitions
    from evalflow.defs.automation import schedules, sensors

    home = Home(tmp_path, Settings.model_construct())
    definitions = station_definitions(home)
    automatic = [*schedules(home), *sensors(home, STATIONS, GRADING)]
    page = DOCS / "operations.md"
    assert sorted(table_names("### By itself", page)) == sorted(item.name for item in automatic)
    checks = [spec for check in definitions.asset_checks or () for spec in check.check_specs]
    assert table_names("### Checks", page) == [spec.name for spec in checks]
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    for spec in checks:
        (row,) = [row for row in rows if f"`{spec.name}`" in row]
        assert f"| `{spec.asset_key.to_user_string()}` | {'blocks' if spec.blocking else 'warns'} |" in row
