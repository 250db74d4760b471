"""Queued traces as a table for spreadsheets, and the answers of a table that came back.

A cell that a spreadsheet would run as a formula starts with an apostrophe, which reading takes away again. Nested values
become text. Source: docs/formats.md, "Review"; OWASP, CSV Injection.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from evalflow.adapters.native import Line
from evalflow.adapters.review_answers import ANSWER_FIELDS, LIST_FIELDS, ReviewFile, shortened_cell
from evalflow.core.records import Unusable
from evalflow.errors import BadInputError

SHOWN_FIELDS = (
    *("trace_id", "queue", "state", "source", "reason", "priority", "age_days", "label", "timestamp"),
    *("model", "prompt_version", "variant", "user_tier", "locale"),
    *("conversation", "input", "output", "afterwards", "tool_calls", "feedback", "signals", "grades"),
)
SEPARATORS = ",;\t"
"""A spreadsheet of a country that writes 1,5 separates cells by semicolons."""
_STARTS_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "|", "%", "'")
_BREAKS = ("\t", "\r", "\n")
_BETWEEN = re.compile(r"[;\r\n]+")
_MOST_CHARS = 2**31 - 1


def written(documents: Sequence[dict[str, Any]]) -> str:
    """The table with a mark of UTF-8 in front, without which a spreadsheet takes it for another code."""
    file = io.StringIO(newline="")
    table = csv.writer(file, quoting=csv.QUOTE_ALL)
    table.writerow([*SHOWN_FIELDS, *ANSWER_FIELDS])
    for document in documents:
        shown = _shown(document)
        table.writerow(
            [guarded(shorten) for shorten in (shortened_cell(shown[name]) for name in SHOWN_FIELDS)]
            + [""] * len(ANSWER_FIELDS)
        )
    return "\ufeff" + file.getvalue()


def read(content: bytes, path: str) -> ReviewFile:
    """The rows of a table as lines, numbered as a spreadsheet numbers them.

    Raises:
        BadInputError: it is not text, or has no columns for trace and verdict.
    """
    csv.field_size_limit(_MOST_CHARS)
    rows = csv.reader(io.StringIO(_text(content, path), newline=""), delimiter=_separator(content, path), strict=True)
    lines: list[Line] = []
    names: list[str] | None = None
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            if names is None:
                if number == 1 and len(row) <= 2 and row[0].startswith("sep="):
                    continue
                names = _names(row, path)
            elif any(cell.strip() for cell in row):
                lines.append(Line(number, _answer(names, row)))
    except csv.Error as error:
        lines.append(Line(number + 1, Unusable(f"the table cannot be read from here on: {error}")))
    return ReviewFile(lines)


def is_table(content: bytes) -> bool:
    """Whether the first line names a trace and a verdict."""
    head = content[:10_000].decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
    first = next((line for line in head.splitlines() if line.strip() and not line.startswith("sep=")), "")
    return any({"trace_id", "verdict"} <= set(_cells(first, separator)) for separator in SEPARATORS)


def guarded(text: str) -> str:
    """The text so that no spreadsheet takes it for a formula: an apostrophe in front where it might."""
    return f"'{text}" if _may_run(text) else text


def unguarded(cell: str) -> str:
    """The text of a guarded cell; one that was never guarded stays as it is."""
    return cell[1:] if cell.startswith("'") and _may_run(cell[1:]) else cell


def _may_run(text: str) -> bool:
    return text.startswith(_BREAKS) or text.lstrip().startswith(_STARTS_FORMULA)


def _shown(document: dict[str, Any]) -> dict[str, str]:
    """The columns for the reader, as text."""
    context = document["context"]
    turns = context.get("turns", [])
    this: dict[str, Any] = next((turn for turn in turns if turn["place"] == "this"), {})
    after = [turn for turn in turns if turn["place"] == "after"]
    said = [f"{turn['role']}: {turn['content']}" for turn in context.get("conversation", [])]
    later = [
        f"{role}: {turn[name]}"
        for turn in after
        for role, name in (("user", "input"), ("assistant", "output"))
        if name in turn
    ]
    told = {
        "conversation": "\n".join(said),
        "afterwards": "\n".join(later),
        "tool_calls": _as_text(this.get("tool_calls")),
        "feedback": _as_text(context.get("feedback")),
    }
    return {name: told[name] if name in told else _as_text(document.get(name)) for name in SHOWN_FIELDS}


def _as_text(value: Any) -> str:
    if value is None or value in ([], {}):
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def _text(content: bytes, path: str) -> str:
    code = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(code)
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{path} is not UTF-8 (byte {error.start}); save the table as CSV UTF-8 and import it again."
        ) from error


def _separator(content: bytes, path: str) -> str:
    text = _text(content, path)
    head = next((line for line in text.splitlines() if line.strip() and not line.startswith("sep=")), "")
    return max(SEPARATORS, key=lambda separator: len(_cells(head, separator)))


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip().strip('"').strip().lower() for cell in line.split(separator)]


def _names(row: list[str], path: str) -> list[str]:
    names = [cell.strip().lower() for cell in row]
    missing = [name for name in ("trace_id", "verdict", "reviewer") if name not in names]
    twice = sorted({name for name in names if name in ANSWER_FIELDS and names.count(name) > 1})
    if missing:
        raise BadInputError(
            f"{path} has no column {missing[0]!r} in its first row; keep the first row of the exported table as it is."
        )
    if twice:
        raise BadInputError(f"{path} has the column {twice[0]!r} more than once; keep one of them.")
    return names


def _answer(names: list[str], row: list[str]) -> dict[str, Any] | Unusable:
    if len(row) > len(names) and any(cell.strip() for cell in row[len(names) :]):
        return Unusable(f"the row has {len(row)} cells, the first row {len(names)}; quote texts that hold a separator")
    cells = {name: unguarded(cell) for name, cell in zip(names, row, strict=False)}
    return {name: _listed(cell) if name in LIST_FIELDS else cell for name, cell in cells.items()}


def _listed(cell: str) -> list[str]:
    """Several codes or tags of one cell: by lines or semicolons, or a JSON list where one of them holds either."""
    if cell.lstrip().startswith("["):
        try:
            values = json.loads(cell)
        except ValueError:
            values = None
        if isinstance(values, list):
            return [str(value) for value in values]
    return [part.strip() for part in _BETWEEN.split(cell) if part.strip()]
