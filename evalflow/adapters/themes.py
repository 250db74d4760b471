"""Themes of what goes wrong, as people keep them: append-only, a version each time they are proposed or edited.

Belongs here: storing versions, and the file in which people edit one. Keep out: how codes are grouped (``core/themes.py``).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomlkit

from evalflow.adapters.journal import Journal
from evalflow.core.labels import unique_label
from evalflow.core.lineage import fingerprint
from evalflow.core.themes import code_key
from evalflow.errors import BadInputError, UsageError

Origin = Literal["proposed", "edited"]
_KIND = "themes"
MOST_NAME_CHARS = 80


class Theme(msgspec.Struct, kw_only=True, frozen=True):
    """A theme by what it holds; ``theme_id`` stays when it is renamed or its codes change."""

    theme_id: str
    name: str
    codes: tuple[str, ...]


class ThemesVersion(msgspec.Struct, kw_only=True, frozen=True):
    """All themes as they stood from one recording to the next."""

    version: int
    origin: Origin
    n_ids: int
    """How many theme ids were ever given: none is given twice."""
    themes: tuple[Theme, ...]

    @property
    def theme_of(self) -> dict[str, str]:
        """The theme's id by ``code_key``."""
        return {code_key(code): theme.theme_id for theme in self.themes for code in theme.codes}

    @property
    def content(self) -> str:
        """A hash of themes and codes, for what is computed from them."""
        return fingerprint(msgspec.to_builtins(self))


class Themes:
    """The folder ``themes/`` of a home."""

    def __init__(self, root: Path) -> None:
        self.journal = Journal(root, _KIND)

    def newest(self) -> ThemesVersion | None:
        """The version in force; None before the first.

        Raises:
            BadInputError: a file was changed after it was written.
        """
        versions = [
            msgspec.json.decode(line, type=ThemesVersion) for file in self.journal.files() for line in file.lines
        ]
        return max(versions, key=lambda version: version.version, default=None)

    def add(
        self, themes: Sequence[Theme], origin: Origin, source: str, recorded_at: datetime, expected: int
    ) -> ThemesVersion:
        """Append a version; the same themes as in force add none. A theme whose id is empty is new and gets one.

        Args:
            expected: the version that these themes were made from, 0 where there was none.

        Raises:
            UsageError: another version has been recorded since.
        """
        with self.journal.exclusive():
            held = self.newest()
            number = held.version if held else 0
            if number != expected:
                raise UsageError(
                    f"These themes were made from version {expected}, but version {number} was recorded since; make the changes "
                    "in that one (`evalflow errors themes --out FILE` writes it)."
                )
            n_ids, named = held.n_ids if held else 0, []
            for theme in themes:
                if not theme.theme_id:
                    n_ids += 1
                    theme = msgspec.structs.replace(theme, theme_id=f"t{n_ids:02d}")
                named.append(theme)
            if held and tuple(named) == held.themes:
                return held
            version = ThemesVersion(version=number + 1, origin=origin, n_ids=n_ids, themes=tuple(named))
            self.journal.append(_KIND, [msgspec.json.encode(version)], source, recorded_at)
            return version


# -- one change at a time ------------------------------------------------------------------------------------------


def renamed(themes: Sequence[Theme], theme_id: str, name: str) -> list[Theme]:
    """The themes with another name for one of them.

    Raises:
        BadInputError: there is no such theme, or the name is blank, too long or another theme's.
    """
    _existing(themes, theme_id)
    others = [theme for theme in themes if theme.theme_id != theme_id]
    given = _usable_name(name, others)
    return [msgspec.structs.replace(theme, name=given) if theme.theme_id == theme_id else theme for theme in themes]


def with_moved(
    themes: Sequence[Theme], codes: Collection[str], to: str, name: str, in_use: Collection[str]
) -> list[Theme]:
    """The themes with some codes in another one; a theme that is left without codes goes.

    Args:
        to: the id of the theme that gets the codes; empty for a new one.
        name: of the new theme; passed over otherwise.
        in_use: the codes of all answers; those of the themes are known anyway.

    Raises:
        BadInputError: no code is named, or one that nobody used; the theme is not there, or the new name cannot be used.
    """
    known = {code_key(code): code for code in [*in_use, *(code for theme in themes for code in theme.codes)]}
    wanted = list(dict.fromkeys(map(code_key, codes)))
    if not wanted:
        raise BadInputError("No code was chosen; tick at least one that is to be moved.")
    for code in codes:
        if code_key(code) not in known:
            raise BadInputError(f"The code {code!r} is in no theme, and no answer uses it; look at the themes again.")
    if to:
        _existing(themes, to)
    moved, found = set(wanted), []
    for theme in themes:
        is_target = theme.theme_id == to
        kept = tuple(code for code in theme.codes if is_target or code_key(code) not in moved)
        there = set(map(code_key, kept))
        new = tuple(known[key] for key in wanted if key not in there) if is_target else ()
        if kept or new:
            found.append(msgspec.structs.replace(theme, codes=(*kept, *new)))
    if not to:
        codes_of_new = tuple(known[key] for key in wanted)
        found.append(Theme(theme_id="", name=_usable_name(name, found), codes=codes_of_new))
    return found


def _existing(themes: Sequence[Theme], theme_id: str) -> None:
    if theme_id not in {theme.theme_id for theme in themes}:
        raise BadInputError(f"There is no theme {theme_id!r}; look at the themes again.")


def _usable_name(name: str, others: Sequence[Theme]) -> str:
    given = " ".join(name.split())
    if not given or len(given) > MOST_NAME_CHARS or not given.isprintable():
        raise BadInputError(f"A theme needs a name of at most {MOST_NAME_CHARS} ordinary characters.")
    if unique_label(given, [theme.name for theme in others]) != given:
        raise BadInputError(
            f"Another theme has the name {given!r} already; choose another one, or move its codes there."
        )
    return given


# -- the file that people edit ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class EditedThemes:
    """An edited file: the version that it was made from, its themes, and codes in use that stand in none of them."""

    version: int
    themes: tuple[Theme, ...]
    left_out: tuple[str, ...]


def themes_toml(version: ThemesVersion, unassigned: Iterable[str]) -> str:
    """The version as a file to edit; codes that no theme holds stand at the end, to be moved where they belong."""
    document = tomlkit.document()
    for line in (
        "Themes of what goes wrong. Rename a theme, move codes between themes, merge two by moving all codes of one,",
        "split one by adding a [[theme]] without an id. Then: evalflow errors themes --apply FILE",
    ):
        document.add(tomlkit.comment(line))
    document.add("version", tomlkit.item(version.version))
    document.add("unassigned", _lines(sorted(unassigned)))
    themes = tomlkit.aot()
    for theme in version.themes:
        table = tomlkit.table()
        table.add("id", theme.theme_id)
        table.add("name", theme.name)
        table.add("codes", _lines(theme.codes))
        themes.append(table)
    if version.themes:
        document.add("theme", themes)
    return tomlkit.dumps(document)


def _lines(texts: Iterable[str]) -> Any:
    lines = tomlkit.array()
    lines.extend(texts)
    return lines.multiline(True)


def read_themes(path: Path, in_use: Collection[str], held: ThemesVersion | None) -> EditedThemes:
    """An edited file, checked against the codes that reviewers use.

    Args:
        in_use: the codes of all answers.
        held: the version in force, whose ids the file may name.

    Raises:
        UsageError: there is no such file.
        BadInputError: it is not of the form, or names a code that nobody used, one code twice, or a theme twice; the
            message says which.
    """
    document = _document(path)
    unknown = sorted(set(document) - {"version", "unassigned", "theme"})
    if unknown:
        raise BadInputError(
            f"{path}: {unknown[0]!r} is no key of a file of themes; it has version, unassigned and theme."
        )
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise BadInputError(
            f"{path}: version = {version!r} is no number; keep the line that the file was written with."
        )
    known = {code_key(code): code for code in in_use}
    ids = {theme.theme_id for theme in held.themes} if held else set()
    themes: list[Theme] = []
    place: dict[str, str] = {}
    for number, table in enumerate(_tables(path, document), start=1):
        theme = _theme_of(path, number, table)
        where = f"{path}: the theme {theme.name!r}"
        if theme.theme_id and (theme.theme_id not in ids or theme.theme_id in {other.theme_id for other in themes}):
            raise BadInputError(
                f"{where} has the id {theme.theme_id!r}, which {_taken(theme.theme_id, ids)}; leave id out."
            )
        if unique_label(theme.name, [other.name for other in themes]) != theme.name:
            raise BadInputError(f"{where} stands twice; give each theme a name of its own, or merge them.")
        for code in theme.codes:
            key = code_key(code)
            if key not in known:
                raise BadInputError(
                    f"{where} holds the code {code!r}, which no answer uses; write it as the reviewers did."
                )
            if key in place:
                raise BadInputError(
                    f"{path}: the code {code!r} stands in {place[key]!r} and in {theme.name!r}; keep one."
                )
            place[key] = theme.name
        themes.append(msgspec.structs.replace(theme, codes=tuple(known[code_key(code)] for code in theme.codes)))
    if not themes:
        raise BadInputError(f"{path} holds no theme; add at least one [[theme]] with a name and codes.")
    left_out = tuple(sorted(code for key, code in known.items() if key not in place))
    return EditedThemes(version, tuple(themes), left_out)


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); name a file that `--out` wrote.") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8 text; save it as that.") from error
    except tomlkit.exceptions.ParseError as error:
        raise BadInputError(f"{path} is not TOML ({error}); correct that line.") from error


def _tables(path: Path, document: dict[str, Any]) -> list[dict[str, Any]]:
    tables = document.get("theme", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise BadInputError(f"{path}: theme is no list of tables; write each theme under a line [[theme]].")
    return tables


def _theme_of(path: Path, number: int, table: dict[str, Any]) -> Theme:
    where = f"{path}: theme {number}"
    unknown = sorted(set(table) - {"id", "name", "codes"})
    if unknown:
        raise BadInputError(f"{where} has the key {unknown[0]!r}; a theme has id, name and codes.")
    name, codes, theme_id = table.get("name"), table.get("codes"), table.get("id", "")
    if not isinstance(name, str) or not name.strip():
        raise BadInputError(f"{where} has no name; give it one.")
    if not isinstance(codes, list) or not codes or not all(isinstance(code, str) for code in codes):
        raise BadInputError(f"{where} ({name!r}) has no list of codes; remove a theme that holds none.")
    if not isinstance(theme_id, str):
        raise BadInputError(
            f"{where} ({name!r}) has the id {theme_id!r}, which is no text; leave id out for a new theme."
        )
    return Theme(theme_id=theme_id, name=" ".join(name.split()), codes=tuple(codes))


def _taken(theme_id: str, ids: Collection[str]) -> str:
    return "another theme of the file has" if theme_id in ids else "no theme in force has"
