"""Rubric files of a home: ``rubrics/NAME.vN.toml``, each version a file that is never overwritten.

What a judge reads of a rubric makes the fingerprint of its verdicts, so an edit by hand starts a series of its own.
Keep out: how a rubric is made from a theme (``defs/rubrics.py``) and how a judge is asked (``core/grading.py``).
"""

import os
import re
import secrets
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import tomlkit

from evalflow.core.grading import Example, Rubric, Scale
from evalflow.errors import BadInputError, UsageError

FOLDER = "rubrics"
GENERAL = "general"
"""How the settings name the built-in question; no file may have that name."""
MOST_NAME_CHARS = 40
_FILE = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)\.v([1-9]\d*)\.toml")
_ASKED = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)(?:@([1-9]\d*))?")


class MadeFrom(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a rubric was made from; ``content`` is the hash of what was written then, before anybody edited it."""

    theme: str
    theme_name: str
    week: str
    content: str


class _File(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str
    version: int
    criteria: list[str]
    scale: Scale
    examples: list[Example] = []
    made_from: MadeFrom | None = None


@dataclass(frozen=True)
class RubricFile:
    """One version as it lies in the home; ``made_from`` is None of one that somebody wrote by hand."""

    path: Path
    rubric: Rubric
    made_from: MadeFrom | None

    @property
    def is_edited(self) -> bool:
        """Whether somebody has changed what a judge reads since it was written."""
        return self.made_from is not None and self.made_from.content != self.rubric.content


def rubric_files(home: Path) -> list[RubricFile]:
    """Every version of every rubric of the home, by name, then number.

    Raises:
        BadInputError: a file is not a rubric; the message names it and says what is wrong.
    """
    files = [_read(path) for path in sorted((home / FOLDER).glob("*.toml"))]
    return sorted(files, key=lambda file: (file.rubric.name, file.rubric.version))


def asked_rubrics(home: Path, names: Sequence[str]) -> list[Rubric | None]:
    """The rubrics that a judge is asked: the newest version of each name, or the one pinned by ``NAME@2``; None for the
    built-in ``general``.

    Raises:
        UsageError: a name stands twice, or there is no such rubric or version; the message names those that there are.
        BadInputError: a rubric's file cannot be used.
    """
    asked: dict[str, Rubric | None] = {}
    for wanted in names:
        found = _ASKED.fullmatch(wanted)
        if found is None:
            raise UsageError(
                f"judge.rubrics holds {wanted!r}, which names no rubric; write {GENERAL}, a NAME, or NAME@2."
            )
        name, number = found[1], found[2]
        if name in asked:
            raise UsageError(f"judge.rubrics holds the rubric {name!r} twice; one version of it can be asked.")
        if name == GENERAL and number is None:
            asked[name] = None
            continue
        versions = {file.rubric.version: file.rubric for file in rubric_files(home) if file.rubric.name == name}
        if not versions or (number is not None and int(number) not in versions):
            raise UsageError(f"judge.rubrics holds {wanted!r}, but {_there_are(home, name, sorted(versions))}.")
        asked[name] = versions[int(number)] if number else versions[max(versions)]
    return list(asked.values())


def _there_are(home: Path, name: str, versions: list[int]) -> str:
    if versions:
        return f"of {name!r} there are only the versions {', '.join(map(str, versions))} in {home / FOLDER}"
    names = sorted({file.rubric.name for file in rubric_files(home)})
    there = f"; there are {', '.join(names)}" if names else "; `evalflow errors rubric` makes some of the top themes"
    return f"{home / FOLDER} has no rubric of that name{there}"


def example_trace_ids(home: Path) -> set[str]:
    """The traces that any version of any rubric shows to a judge: no judge may be calibrated on them."""
    return {example.trace_id for file in rubric_files(home) for example in file.rubric.examples}


def write_rubric(home: Path, rubric: Rubric, made_from: MadeFrom) -> Path:
    """Write one version as a new file.

    Raises:
        UsageError: the file is there already: no version is ever overwritten.
    """
    path = home / FOLDER / f"{rubric.name}.v{rubric.version}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        temporary.write_text(_toml(rubric, made_from), encoding="utf-8")
        os.link(temporary, path)  # fails when the file exists
    except FileExistsError:
        raise UsageError(f"{path} was written by somebody else just now; run the same command again.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def rubric_name(title: str, otherwise: str) -> str:
    """A title as the name of a file: small letters, digits and hyphens; ``otherwise`` where nothing of it is left."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:MOST_NAME_CHARS].rstrip("-")
    return otherwise if name in ("", GENERAL) else name


def _toml(rubric: Rubric, made_from: MadeFrom) -> str:
    document = tomlkit.document()
    for line in (
        "What the LLM judge is asked when judge.rubrics names this rubric. Criteria and scale may be edited: the verdicts",
        "then count as those of another grader version.",
    ):
        document.add(tomlkit.comment(line))
    document.add("name", tomlkit.item(rubric.name))
    document.add("version", tomlkit.item(rubric.version))
    criteria = tomlkit.array()
    criteria.extend(rubric.criteria)
    document.add("criteria", criteria.multiline(True))
    document.add("made_from", _table(msgspec.to_builtins(made_from)))
    document.add("scale", _table(msgspec.to_builtins(rubric.scale)))
    examples = tomlkit.aot()
    for example in rubric.examples:
        examples.append(_table(msgspec.to_builtins(example)))
    if rubric.examples:
        document.add("examples", examples)
    return tomlkit.dumps(document)


def _table(values: dict[str, Any]) -> tomlkit.items.Table:
    table = tomlkit.table()
    for key, value in values.items():
        table.add(key, value)
    return table


def _read(path: Path) -> RubricFile:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadInputError(
            f"The rubric {path} cannot be read ({error.strerror}); correct that or remove it."
        ) from error
    return _parsed(path, text)


@lru_cache(maxsize=256)
def _parsed(path: Path, text: bytes) -> RubricFile:
    """One file's content, checked; remembered, since every day's fingerprint asks for it."""
    named = _FILE.fullmatch(path.name)
    if named is None:
        raise BadInputError(
            f"{path} is no name of a rubric; call it NAME.v1.toml with small letters, digits and hyphens."
        )
    try:
        found = msgspec.convert(tomllib.loads(text.decode()), type=_File)
    except UnicodeDecodeError as error:
        raise BadInputError(f"The rubric {path} is not UTF-8 text; save it as that.") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"The rubric {path} is not TOML ({error}); correct that line.") from error
    except msgspec.ValidationError as error:
        raise BadInputError(f"The rubric {path} is not of the form: {error}; correct that key.") from error
    if (found.name, found.version) != (named[1], int(named[2])):
        raise BadInputError(
            f"The rubric {path} says that it is {found.name!r}, version {found.version}; let file and content agree."
        )
    if found.name == GENERAL:
        raise BadInputError(f"The rubric {path} has the name of the built-in question, {GENERAL!r}; choose another.")
    blank = [name for name in ("passes", "fails", "unscored") if not getattr(found.scale, name).strip()]
    if blank or not any(line.strip() for line in found.criteria) or not all(line.strip() for line in found.criteria):
        what = "a blank line in its scale" if blank else "no criteria, or a blank one"
        raise BadInputError(f"The rubric {path} has {what}; say what passes and what fails.")
    rubric = Rubric(
        name=found.name,
        version=found.version,
        criteria=tuple(found.criteria),
        scale=found.scale,
        examples=tuple(found.examples),
    )
    return RubricFile(path, rubric, found.made_from)
