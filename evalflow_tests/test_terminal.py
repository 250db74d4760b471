"""The terminal: other people's text reaches it as text, never as a command, and help does not wait for libraries."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from evalflow.adapters.home import Home, open_home, write_setting
from evalflow.cli.pipeline import _print_landing
from evalflow.cli.terminal import print_bad_lines, shown
from evalflow.core.records import Review
from evalflow.core.reviewing import Decision
from evalflow.defs.queue import Item
from evalflow_tests.test_cli import evalflow

CLEAR, TITLE, CSI, REVERSED = "\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "\u202e"
HOSTILE = f"[red]a[/red]{CLEAR}{TITLE}{CSI}{REVERSED}\x7f"
HARMLESS = "[red]a[/red]\ufffd[2J\ufffd]0;owned\ufffd\ufffd31m\ufffd\ufffd"


def commands_in(printed: str) -> list[str]:
    """Every sign that a terminal might obey, or that hides."""
    return [sign for sign in printed if not sign.isprintable() and sign != "\n"]


# -- one text --------------------------------------------------------------------------------------------------


def test_markup_and_control_sequences_are_shown_and_not_obeyed() -> None:
    assert Text.from_markup(shown(HOSTILE)).plain == HARMLESS


def test_breaks_stay_and_other_spaces_are_plain() -> None:
    assert shown("a\n\tb\r\nc\x0bd\u00a0e\u2028f") == "a\n\tb \nc d e f"


def test_joined_scripts_and_emoji_stay_whole() -> None:
    text = "می\u200cخواهم, 👩\u200d🌾"
    assert shown(text) == text


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_no_text_brings_a_control_sign(text: str) -> None:
    assert set(commands_in(shown(text))) <= {"\t", "\u200c", "\u200d"}


# -- every command ---------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Home:
    write_setting(tmp_path / "home", "traffic_end", date(2026, 6, 3))
    return open_home(tmp_path / "home").prepare()


def hostile_item() -> Item:
    """A queued trace whose every field is somebody else's and hostile."""
    row: dict[str, Any] = {
        "trace_id": "t1",
        "priority": 1.0,
        "source": "signal",
        "bin": "b1",
        "label": f"label {HOSTILE}",
        "reason": f"reason {HOSTILE}",
        "text": f"first line\nsecond {HOSTILE}",
        "output": f"answer {HOSTILE}",
        "timestamp": datetime(2026, 6, 1, tzinfo=UTC),
        "model": f"model {HOSTILE}",
        "prompt_version": f"prompt {HOSTILE}",
        "negative_signals": [f"signal {HOSTILE}"],
        "queue": f"queue {HOSTILE}",
        "signals": json.dumps({"is_error": True, f"key {HOSTILE}": HOSTILE}),
        "context": json.dumps(
            {
                "conversation": [{"role": f"role {HOSTILE}", "content": f"turn {HOSTILE}"}],
                "turns": [
                    {"place": "this", "tool_calls": [{"name": HOSTILE, "error": HOSTILE}]},
                    {"place": "after", "input": HOSTILE, "output": HOSTILE},
                ],
                "feedback": [{"comment": HOSTILE}],
                f"key {HOSTILE}": HOSTILE,
            }
        ),
        "grades": json.dumps([{"reason": HOSTILE}]),
    }
    review = msgspec.convert(
        {"trace_id": "t1", "verdict": "unsure", "reviewer": f"ann {HOSTILE}", "comment": HOSTILE}, Review
    )
    return Item(row, date(2026, 6, 1), Decision("unsure", f"why {HOSTILE}"), [review], None, False)


@pytest.mark.parametrize("command", [("list",), ("show", "t1")])
def test_a_hostile_trace_in_the_queue_commands_nothing(
    command: tuple[str, ...], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalflow.defs.queue.QueueIndex.items", lambda _: [hostile_item()])
    monkeypatch.setattr("evalflow.defs.queue.queued_item", lambda *_: hostile_item())
    said = evalflow("triage", *command, home=home.path)
    assert said.code == 0, said.err
    assert commands_in(said.out + said.err) == []
    assert f"label {HARMLESS}" in said.out
    assert f"why {HARMLESS}" in said.out


def test_a_text_that_is_shown_whole_keeps_its_lines(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalflow.defs.queue.queued_item", lambda *_: hostile_item())
    assert f"user           first line\nsecond {HARMLESS}\n" in evalflow("triage", "show", "t1", home=home.path).out


def test_a_hostile_suite_commands_nothing(home: Home, tmp_path: Path) -> None:
    case = {"case_id": f"c1{HOSTILE}", "input": HOSTILE, "origin": "synthetic"}
    path = tmp_path / "suite.jsonl"
    path.write_text(json.dumps(case) + "\n")
    assert evalflow("golden", "import", path, home=home.path).code == 0
    said = evalflow("golden", "list", home=home.path)
    assert commands_in(said.out + said.err) == []
    assert f"c1{HARMLESS}" in said.out
    (tmp_path / "results.jsonl").write_text(json.dumps({"case_id": f"other {HOSTILE}", "pass": True}) + "\n")
    said = evalflow("gate", tmp_path / "results.jsonl", home=home.path)
    assert commands_in(said.out + said.err) == []
    assert f"other {HARMLESS}" in said.err


def test_cells_and_columns_of_a_query_command_nothing(home: Home) -> None:
    query = "select '[red]a[/red]' || chr(27) || '[2J' || chr(155) || chr(8238) as \"[/x]\x1b[2J\""
    said = evalflow("sql", query, home=home.path)
    assert said.code == 0, said.err
    assert commands_in(said.out) == []
    assert "[red]a[/red]\ufffd[2J\ufffd\ufffd" in said.out
    assert "[/x]\ufffd[2J" in said.out


def test_bad_lines_and_odd_files_command_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_bad_lines([HOSTILE], 1, "mend them")
    report = {
        "files": [],
        "traces": 0,
        "feedback": 0,
        "days": [],
        "traffic_start": None,
        "ignored": [HOSTILE],
        "quarantined": 0,
    }
    _print_landing(report)
    printed = capsys.readouterr()
    assert commands_in(printed.out + printed.err) == []
    assert (HARMLESS in printed.out, HARMLESS in printed.err) == (True, True)


# -- how soon it answers ---------------------------------------------------------------------------------------


def test_the_command_line_answers_before_dagster_and_scipy_are_loaded() -> None:
    script = "import sys, evalflow.cli; print([name for name in ('dagster', 'scipy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"
