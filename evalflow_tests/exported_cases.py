"""The golden cases that the tests of exports write: every kind of case, and texts that a tool could take for more."""

from datetime import date
from typing import Any

from evalflow.adapters.exporters import ExportedSuite, described
from evalflow.adapters.ledger import CaseVersion
from evalflow.adapters.lock import suite_hash
from evalflow.core.records import Provenance, WeightPart, WeightParts

DAY = date(2026, 6, 30)
TURNS = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hi. What is it about?"}]
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "{{ env.SECRET }} {{x}} {% if a %} {# note #} {% endraw %}{{ 7*7 }}",
    "file:///etc/passwd",
    "file://tests.jsonl",
    "package:evil:run",
    "python:print(1)",
    "javascript:1",
    "https://docs.google.com/spreadsheets/x",
    "line one\nline two\r\nthree\u2028four\x85five\ttab",
    "\x1b]0;title\x07\x1b[31mred",
    '"',
    "'",
    "- role: user\n  content: x",
    '[{"role": "system", "content": "x"}]',
    "@x: #y %z !w *a &b ? | > --- ...",
    "{0} {input} {completion} {criteria} }}{{ $ref ${HOME}",
    "=1+1",
    "~",
    "null",
    "1e5",
    "  blanks around it \n",
    "[DEEPEVAL:IMAGE:x] deepeval_source=a,deepeval_context=b",
    "😀 \u202etxt.exe",
)
"""What a tool could take for something else than text."""


def version(case_id: str, **given: Any) -> CaseVersion:
    plain: dict[str, Any] = {
        "version": 1,
        "input": "where is my parcel",
        "expected_output": "Names the last scan.",
        "origin": "hand-authored",
        "created_at": None,
        "effective_on": "2026-06-01",
    }
    return CaseVersion(case_id=case_id, **(plain | given))


PROMOTED = version(
    "promoted",
    version=2,
    input="and the second one?",
    expected_output="Names the last scan of the second parcel.",
    origin="production",
    created_at="2026-06-02T09:00:00+00:00",
    tags={"locale": "en-GB", "user_tier": "free", "area": "delivery"},
    metadata={"conversation": TURNS, "ticket": 7},
    is_regression=True,
    weight=0.25,
    weight_parts=WeightParts(
        novelty=WeightPart(value=0.5, reason="far"),
        severity=WeightPart(value=1.0, reason="critical"),
        difficulty=WeightPart(value=0.5, reason="never tried"),
    ),
    provenance=Provenance(trace_id="t-7", verdict="real_failure", reviewers=["kim", "ö"], reviewer_kind="human"),
    merged_trace_ids=["t-8", "t-9"],
    n_merged_failures=1,
)
TOOLS = version(
    "tools",
    metadata={
        "conversation": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "track"}}]},
            {"role": "tool", "content": "in the depot", "tool_call_id": "c"},
        ]
    },
)
CASES = [
    *(version(f"hostile-{n:02}", input=text, expected_output=text) for n, text in enumerate(HOSTILE)),
    version(
        "id: \"'{{ x }}\n<b>|`",
        tags=["a", "a", "{{ y }}", "file:///etc/passwd"],
        metadata={"note": "{{ env.SECRET }}", "$ref": "file:///etc/passwd"},
    ),
    version(
        "hostile-turns",
        metadata={"conversation": [{"role": "assistant", "content": text} for text in HOSTILE]},
    ),
    PROMOTED,
    TOOLS,
    version("file:///etc/passwd", tags={"locale": "file:///etc/passwd", "user_tier": "{{ env.SECRET }}"}),
    version("unanswered", expected_output=None, origin="synthetic", weight=0.5),
    version("unreadable", metadata={"conversation": "a text and no list"}),
    version("worthless", weight=0.0, input="{{ again }}"),
]
CASES.sort(key=lambda case: case.case_id)
BINS = {"promoted": "c-1", "tools": "c-2"}
LABELS = {"c-1": "parcel, late", "c-2": "<b>| [x](javascript:1) `x` {{ y }}\n| a"}
ANSWERED = [case for case in CASES if case.expected_output]


def suite_of(cases: list[CaseVersion]) -> ExportedSuite:
    strata = ("locale", "user_tier")
    return ExportedSuite(tuple(described(case, BINS, LABELS, strata) for case in cases), DAY, suite_hash(cases))
