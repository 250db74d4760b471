"""Queued traces out to people and their answers back: JSONL, CSV for spreadsheets, tasks for Label Studio.

Belongs here: which format a file has, and JSONL. Keep out: the other two (``review_csv.py``, ``review_label_studio.py``)
and what an answer may be (``core/records.py``). Source: docs/formats.md, "Review".
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from evalflow.adapters import review_csv, review_label_studio
from evalflow.adapters.native import SUFFIXES as NATIVE_SUFFIXES
from evalflow.adapters.native import find_files, read_lines
from evalflow.adapters.review_answers import ANSWER_FIELDS, ReviewFile
from evalflow.errors import BadInputError

ReviewFormat = Literal["jsonl", "csv", "label-studio"]
ENDINGS: dict[ReviewFormat, str] = {"jsonl": ".jsonl", "csv": ".csv", "label-studio": ".json"}
_OTHER_SUFFIXES = (".csv", ".tsv", ".json")


def written(documents: Sequence[dict[str, Any]], format: ReviewFormat) -> str:
    """The queued traces as one text, with empty fields for the answers.

    Args:
        documents: one for each trace, nested values opened, as `evalflow triage show --json` prints them.
        format: of the file.
    """
    if format == "csv":
        return review_csv.written(documents)
    if format == "label-studio":
        return review_label_studio.written(documents)
    rows = [{**document, **dict.fromkeys(ANSWER_FIELDS)} for document in documents]
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def find_review_files(path: str) -> list[str]:
    """The files of answers that ``path`` names: a file, a folder (searched in depth), a glob, or an fsspec URL.

    Raises:
        BadInputError: nothing is there that can be read.
    """
    local = Path(path).expanduser()
    if "://" not in path and local.is_file():
        return [str(local.absolute())]
    if "://" not in path and local.is_dir():
        endings = (*NATIVE_SUFFIXES, *_OTHER_SUFFIXES)
        inside = [str(file.absolute()) for file in local.rglob("*") if file.is_file() and file.suffix]
        if files := sorted(file for file in inside if file.endswith(endings)):
            return files
        raise BadInputError(f"The folder {path} holds no file ending in {', '.join(endings)}; name one that does.")
    return find_files(path).files


def read_review_file(path: str, format: ReviewFormat | None = None) -> ReviewFile:
    """Every answer of a file, in its own format, which is told by the content where it is not given.

    Raises:
        BadInputError: the file is of no such format, or has no place for an answer.
    """
    local = Path(path)
    if "://" in path or path.endswith(tuple(ending for ending in NATIVE_SUFFIXES if ending != ".jsonl")):
        return ReviewFile(list(read_lines(path)))
    content = local.read_bytes()
    chosen = format or _format_of(content)
    if chosen == "csv":
        return review_csv.read(content, path)
    if chosen == "label-studio":
        return review_label_studio.read(content, path)
    return ReviewFile(list(read_lines(path)))


def _format_of(content: bytes) -> ReviewFormat:
    """JSON arrays are Label Studio's, lines of JSON objects JSONL, and what is left may be a table."""
    start = content[:1000].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return "label-studio"
    if start.startswith(b"{") or not start:
        return "jsonl"
    return "csv" if review_csv.is_table(content) else "jsonl"
