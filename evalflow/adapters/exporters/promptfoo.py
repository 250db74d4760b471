"""promptfoo: a folder with tests and the configuration that loads them.

promptfoo renders texts of a test as templates, and reads or runs what a text names by ``file://`` or a key by ``$ref``:
a trace that says ``file:///etc/passwd`` must not become that file. So what comes from traces travels as JSON text in
which neither is to be seen, and prompt and assertion take it apart. Source: docs/formats.md, "Exports for other tools".
"""

import json
import re
from typing import Any

from evalflow.adapters.exporters.case import ExportedCase, ExportedSuite, as_lines
from evalflow.adapters.exporters.loss import LossReport, fates, losses, unanswered, unreadable

TESTS_FILE, UNGRADED_FILE = "tests.jsonl", "ungraded.jsonl"
RUBRIC = "The answer agrees with this expected answer, or does what it asks for: {{ (case | load).expected_output }}"
"""What the grader is asked. An expected output is free text: the answer itself or what it must do, so that neither
equality nor nearness of vectors tells a right answer from a wrong one."""
SHOWN = ("case_id", "version", "origin", "bin", "cluster", "slice", "weight", "is_regression")
"""Stands in the metadata by itself, for promptfoo's filters; everything else is in ``metadata.evalflow``."""
LEAST_WEIGHT = 1e-6
"""promptfoo passes an assertion of weight 0 without looking."""
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
"""A text within JSON."""
CONFIG = f"""\
# Written by `evalflow golden export --format promptfoo`. Run: promptfoo eval -c promptfooconfig.yaml
description: golden set
prompts:
  # Each case is one chat: the turns before its input, then the input.
  - '{{{{ (case | load).messages | dump }}}}'
providers:
  # The system under test goes here; echo answers with the prompt.
  - echo
tests: file://{TESTS_FILE}
"""


def files(suite: ExportedSuite) -> dict[str, str]:
    return {
        "promptfooconfig.yaml": CONFIG,
        TESTS_FILE: as_lines([_test(case) for case in suite.graded]),
        UNGRADED_FILE: as_lines([_test(case) for case in suite.ungraded]),
    }


def loss(suite: ExportedSuite) -> LossReport:
    mapped = {
        "case_id": "description, metadata.case_id",
        "input": "vars.case (input, messages)",
        "conversation": "vars.case (messages)",
        "expected_output": "vars.case (expected_output), assert[0].value",
        "weight": "assert[0].weight, metadata.weight",
        "is_regression": "assert[0].metric, metadata.is_regression",
    }
    return LossReport(
        fates({name: f"metadata.{name}" for name in SHOWN} | mapped, "metadata.evalflow", {}),
        losses(
            (
                unanswered(
                    suite,
                    f"promptfoo passes a test without assertion; kept in {UNGRADED_FILE}, which is not run",
                ),
                unreadable(suite),
                (
                    sum(any(_harmless(case.kept[name]) != case.kept[name] for name in SHOWN) for case in suite.cases),
                    "a text of the metadata begins with file: and got a blank before it, so that promptfoo opens no file",
                ),
                (
                    sum(case.version.weight < LEAST_WEIGHT for case in suite.graded),
                    f"weight 0 is written as {LEAST_WEIGHT:g}, because promptfoo passes an assertion of weight 0 unseen",
                ),
            )
        ),
    )


def _test(case: ExportedCase) -> dict[str, Any]:
    """``metric`` keeps the frozen cases apart: its score is weighted, promptfoo's pass rate counts tests."""
    kept = case.kept
    asked = {"input": case.input, "expected_output": case.expected_output, "messages": case.messages}
    assertion = {
        "type": "llm-rubric",
        "value": RUBRIC,
        "weight": max(case.version.weight, LEAST_WEIGHT),
        "metric": "frozen regressions" if case.version.is_regression else "sampled cases",
    }
    return {
        "description": _harmless(case.case_id),
        "vars": {"case": _sealed(asked)},
        "assert": [assertion] if case.expected_output else [],
        "metadata": {name: _harmless(kept[name]) for name in SHOWN} | {"evalflow": _sealed(kept)},
    }


def _sealed(document: dict[str, Any]) -> str:
    """JSON text in which no template begins: a brace within one of its texts is written by its number."""
    return _TEXT.sub(
        lambda found: found[0].replace("{", "\\u007b").replace("}", "\\u007d"), json.dumps(document, ensure_ascii=False)
    )


def _harmless(value: Any) -> Any:
    """A blank before what promptfoo would read as the name of a file."""
    return f" {value}" if isinstance(value, str) and value.startswith("file:") else value
