"""The generated blocks of the documentation; run this to rewrite those that are stale.

    python -m evalflow_tests.docs_blocks

A block lies between ``<!-- name:begin -->`` and ``<!-- name:end -->``. Keep out: checking (``test_docs.py``).
"""

import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import dagster as dg
import duckdb
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from evalflow.adapters.home import Home
from evalflow.adapters.tables import TABLES
from evalflow.definitions import station_definitions
from evalflow.settings import Settings, TriageRoute

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PARTITIONS: dict[type, str] = {
    dg.DailyPartitionsDefinition: "day",
    dg.WeeklyPartitionsDefinition: "week",
    dg.MonthlyPartitionsDefinition: "month",
    dg.DynamicPartitionsDefinition: "day effective",
    NoneType: "none",
}
BOUNDS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
TYPE_NAMES = {int: "integer", float: "number", str: "text", TriageRoute: "table"}


@dataclass(frozen=True)
class Block:
    """One generated block: the file that holds it, its name in the markers, and what it should say."""

    file: str
    name: str
    render: Callable[[], str]

    @property
    def path(self) -> Path:
        return DOCS / self.file

    def refreshed(self, text: str) -> str:
        """The text with this block as it should be.

        Raises:
            ValueError: the markers are missing or stand more than once.
        """
        begin, end = f"<!-- {self.name}:begin -->", f"<!-- {self.name}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"docs/{self.file} must hold {begin} and {end} once each")
        before, _, rest = text.partition(begin)
        return f"{before}{begin}\n{self.render()}\n{end}{rest.partition(end)[2]}"


def settings_table() -> str:
    rows = [
        (
            f"`{key}`",
            f"`{_toml(field.default)}`" if field.default is not None else "not set",
            _type(field),
            field.description or "",
        )
        for key, field in setting_fields()
    ]
    return _markdown(("setting", "default", "type", "what and why"), rows)


def setting_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its dotted key, in the order in which the settings declare them."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from ((f"{name}.{leaf}", own) for leaf, own in field.annotation.model_fields.items())
        else:
            yield name, field


def tables_list() -> str:
    """Every table with the columns that SQL shows, asked of DuckDB over an empty home."""
    sections = []
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(":memory:") as connection:
        home = Home(Path(folder), Settings.model_construct()).prepare()
        with home.attach(connection):
            for table in TABLES.values():
                described = connection.sql(f"describe {table.name}").fetchall()
                columns = _markdown(("column", "type"), [(f"`{name}`", kind.lower()) for name, kind, *_ in described])
                sections.append(f"### {table.name}\n\nPartition: {table.unit}. One row is {table.row_is}.\n\n{columns}")
    return "\n\n".join(sections)


def assets_table() -> str:
    """Every asset but the dbt marts, in flow order."""
    with tempfile.TemporaryDirectory() as folder:
        definitions = station_definitions(Home(Path(folder), Settings.model_construct()))
    specs = [asset if isinstance(asset, dg.AssetSpec) else asset.get_asset_spec() for asset in definitions.assets or ()]  # type: ignore[union-attr]  # ours are assets or specs
    rows = [
        (
            f"`{spec.key.to_user_string()}`",
            spec.group_name or "",
            PARTITIONS[type(spec.partitions_def)],
            spec.description or "",
        )
        for spec in specs
    ]
    return _markdown(("asset", "group", "partition", "description"), rows)


BLOCKS = (
    Block("operations.md", "settings", settings_table),
    Block("tables.md", "assets", assets_table),
    Block("tables.md", "tables", tables_list),
)


def main() -> None:
    for block in BLOCKS:
        text = block.path.read_text(encoding="utf-8")
        refreshed = block.refreshed(text)
        if refreshed != text:
            block.path.write_text(refreshed, encoding="utf-8")
            sys.stdout.write(f"docs/{block.file}: {block.name} rewritten\n")


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"|{'|'.join(f' {cell} ' if cell != '---' else cell for cell in line)}|" for line in lines)


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(limit, name)}" for limit in field.metadata for name, sign in BOUNDS if hasattr(limit, name)
    ]
    return ", ".join([_type_name(field.annotation), *sorted(bounds, reverse=True)])


def _type_name(annotation: Any) -> str:
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in arguments)
    if get_origin(annotation) is list:
        return f"list of {_type_name(arguments[0])}".replace("list of one of", "any of")
    if get_origin(annotation) in (Union, UnionType):
        return _type_name(next(kind for kind in arguments if kind is not NoneType))
    return TYPE_NAMES.get(annotation) or re.sub(r"^date$", "day", annotation.__name__)


if __name__ == "__main__":
    main()
