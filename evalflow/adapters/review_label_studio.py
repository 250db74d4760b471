"""Queued traces as tasks for Label Studio with the labelling interface to show them, and its JSON export read back.

Each annotation is one person's answer; drafts, cancelled annotations and predictions are none. Source: docs/formats.md,
"Review"; https://labelstud.io/guide/task_format and https://labelstud.io/guide/export.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args
from xml.sax.saxutils import quoteattr

import msgspec

from evalflow.adapters.native import Line
from evalflow.adapters.review_answers import LIST_FIELDS, ReviewFile
from evalflow.core.records import Severity, Unusable, Verdict
from evalflow.errors import BadInputError

CHOICES = ("verdict", "severity")
TEXTS = ("expected_output", "duplicate_of", "comment")
_WORDS = {
    "verdict": "Verdict",
    "severity": "Severity",
    "expected_output": "What the answer should have been",
    "duplicate_of": "Duplicate of (case id)",
    "comment": "Comment",
    "open_codes": "What went wrong first (one code at a time)",
    "tags": "Tags (one at a time)",
}


def written(documents: Sequence[dict[str, Any]]) -> str:
    """The tasks as one JSON array, to be imported into a project with the interface of ``interface``."""
    return json.dumps([_task(document) for document in documents], ensure_ascii=False, indent=1) + "\n"


def interface() -> str:
    """The labelling interface (XML) that shows a task and asks for every field of an answer."""
    fields = [
        _choices("verdict", get_args(Verdict), is_required=True),
        _text("expected_output", rows=4, most=1),
        _choices("severity", get_args(Severity), is_required=False),
        _text("open_codes", rows=2),
        _text("tags", rows=1),
        _text("duplicate_of", rows=1, most=1),
        _text("comment", rows=2, most=1),
    ]
    return "\n".join(
        [
            "<View>",
            '  <Header value="$reason" size="5"/>',
            '  <Paragraphs name="conversation" value="$conversation" layout="dialogue" nameKey="author" textKey="text"/>',
            '  <Header value="User" size="5"/>',
            '  <Text name="input" value="$input" valueType="text"/>',
            '  <Header value="Assistant" size="5"/>',
            '  <Text name="output" value="$output" valueType="text"/>',
            *fields,
            '  <Header value="Signals, tool calls, grades" size="5"/>',
            '  <Text name="details" value="$details" valueType="text"/>',
            "</View>",
            "",
        ]
    )


def read(content: bytes, path: str) -> ReviewFile:
    """The annotations of a JSON export as lines, numbered by their task.

    Raises:
        BadInputError: it is no JSON array of tasks with annotations.
    """
    try:
        tasks = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInputError(f"{path} is no JSON ({error}); export the project from Label Studio as JSON.") from error
    if not isinstance(tasks, list):
        raise BadInputError(f"{path} is no JSON array of tasks; export the project from Label Studio as JSON.")
    if any(isinstance(task, dict) and "annotator" in task and "annotations" not in task for task in tasks):
        raise BadInputError(
            f"{path} is Label Studio's JSON-MIN, which does not say who is who; export the project as JSON instead."
        )
    lines: list[Line] = []
    n_drafts = n_cancelled = 0
    for number, task in enumerate(tasks, start=1):
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            lines.append(Line(number, Unusable("a task must be an object with `data`; export the project as JSON")))
            continue
        annotations = [one for one in task.get("annotations") or [] if isinstance(one, dict)]
        n_drafts += len(task.get("drafts") or [])
        n_cancelled += sum(bool(one.get("was_cancelled")) for one in annotations)
        given = [one for one in annotations if not one.get("was_cancelled")]
        lines += [Line(number, _answer(task["data"], one)) for one in given or [{}]]
    return ReviewFile(lines, n_drafts, n_cancelled)


def _task(document: dict[str, Any]) -> dict[str, Any]:
    context = document["context"]
    details = {
        name: document[name] for name in ("label", "source", "priority", "timestamp", "model", "signals", "grades")
    }
    details |= {name: value for name, value in context.items() if name != "conversation"}
    return {
        "data": {
            "trace_id": document["trace_id"],
            "reason": document["reason"],
            "conversation": [
                {"author": turn["role"], "text": turn["content"]} for turn in context.get("conversation", [])
            ],
            "input": document["input"],
            "output": document["output"] or "(no answer)",
            "details": json.dumps(details, ensure_ascii=False, indent=1, default=str),
        },
        "meta": {"queue": document["queue"], "week": document["week"]},
    }


def _choices(name: str, values: Sequence[str], *, is_required: bool) -> str:
    options = "".join(f"<Choice value={quoteattr(value)}/>" for value in values)
    required = ' required="true" requiredMessage="Choose a verdict"' if is_required else ""
    return (
        f'  <Header value={quoteattr(_WORDS[name])} size="5"/>\n'
        f'  <Choices name="{name}" toName="input" choice="single-radio" showInline="true"{required}>{options}</Choices>'
    )


def _text(name: str, rows: int, most: int | None = None) -> str:
    limit = f' maxSubmissions="{most}"' if most else ""
    return (
        f'  <Header value={quoteattr(_WORDS[name])} size="5"/>\n'
        f'  <TextArea name="{name}" toName="input" rows="{rows}" editable="true"{limit}/>'
    )


def _answer(data: Mapping[str, Any], annotation: Mapping[str, Any]) -> dict[str, Any] | Unusable:
    given: dict[str, list[str]] = {}
    for name, values in _results(annotation.get("result")):
        given.setdefault(name, []).extend(values)
    several = next((name for name in CHOICES if len(given.get(name, [])) > 1), None)
    if several:
        return Unusable(f"trace {data.get('trace_id')!r} has more than one {several}: {', '.join(given[several])}")
    row: dict[str, Any] = {name: data[name] for name in ("trace_id", "input") if name in data}
    row |= {name: values[0] for name, values in given.items() if name in CHOICES and values}
    row |= {name: "\n".join(values) for name, values in given.items() if name in TEXTS}
    row |= {name: values for name, values in given.items() if name in LIST_FIELDS}
    row |= {
        "reviewer": _reviewer(annotation),
        "reviewed_at": annotation.get("updated_at") or annotation.get("created_at"),
    }
    return row


def _results(results: Any) -> Iterator[tuple[str, list[str]]]:
    """The name of each field with its values; parts of an interface that somebody added are passed over."""
    for result in results if isinstance(results, list) else []:
        value = result.get("value") if isinstance(result, dict) else None
        name = result.get("from_name") if isinstance(result, dict) else None
        if isinstance(value, dict) and isinstance(name, str):
            found = value.get("choices") or value.get("text") or []
            yield name, [found] if isinstance(found, str) else [str(one) for one in found]


def _reviewer(annotation: Mapping[str, Any]) -> str | None:
    """Who annotated: the e-mail address or name where the export has it, else the number that Label Studio knows them by."""
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        return who.get("email") or who.get("username") or (f"label-studio-{who['id']}" if "id" in who else None)
    return None if who is None else f"label-studio-{who}"
