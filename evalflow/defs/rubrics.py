"""From a theme to a rubric: what to look for, what each verdict means, and examples that people judged.

Keep out: the files (``adapters/rubrics.py``) and how a judge is asked (``core/grading.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import polars as pl

from evalflow.adapters.home import Home
from evalflow.adapters.rubrics import MadeFrom, RubricFile, rubric_files, rubric_name, write_rubric
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import ERROR_THEMES
from evalflow.core.error_analysis import Label
from evalflow.core.grading import Example, Rubric, Scale
from evalflow.core.sampling import random_numbers
from evalflow.core.themes import code_key
from evalflow.defs.queue import Item, queued_items
from evalflow.defs.themes import SPECIAL_NAMES, UNASSIGNED, PlacedThemes, labels_of, themes_of
from evalflow.errors import CannotTellError

FAILING_EXAMPLES, PASSING_EXAMPLES = 3, 2
MOST_CODES = 10
MOST_CHARS = 1_500
"""Of each text of an example: it is sent with every question."""
SCALE = Scale(
    passes="The answer is free of this failure, also where the request gives no occasion for it. Other faults do not count here.",
    fails="The answer clearly shows this failure.",
    unscored="It cannot be told from the request and the answer alone.",
)


@dataclass(frozen=True)
class Made:
    """What came of one theme. ``is_replacing_edits``: the version before had been edited by hand, and this one lacks that."""

    theme_id: str
    theme_name: str
    outcome: Literal["written", "unchanged"]
    path: Path
    rubric: Rubric
    is_replacing_edits: bool


def make_rubrics(home: Home, week: date, top: int) -> list[Made]:
    """Rubrics of the week's largest themes: a new version where what a judge would read has changed, else none.

    A theme keeps its rubric when it is renamed. Examples that are still true stay, so that a new answer alone makes no
    new version.

    Raises:
        CannotTellError: the week's themes are not counted yet, or there are none.
    """
    rows = home.lake.read(ERROR_THEMES, [week], ["theme_id", "name"]).filter(pl.col("theme_id").is_not_null())
    themes = [row for row in rows.iter_rows(named=True) if row["theme_id"] not in SPECIAL_NAMES]
    placed = themes_of(home)
    if not themes or placed.version is None:
        raise CannotTellError(
            f"There are no themes for the week of {week}; `evalflow errors themes` makes and counts them."
        )
    labels = labels_of(home, placed)
    items = queued_items(home, labels)
    return [_make(home, week, row["theme_id"], row["name"], placed, labels, items) for row in themes[:top]]


def _make(
    home: Home,
    week: date,
    theme_id: str,
    theme_name: str,
    placed: PlacedThemes,
    labels: Mapping[str, Label],
    items: list[Item],
) -> Made:
    files = rubric_files(home.path)
    own = [file for file in files if file.made_from is not None and file.made_from.theme == theme_id]
    held = own[-1] if own else None
    taken = {file.rubric.name for file in files}
    name = held.rubric.name if held else _free(rubric_name(theme_name, theme_id), taken)
    shown = {example.trace_id for example in held.rubric.examples} if held else set()
    codes = [code for key, code in placed.codes.items() if placed.theme_of.get(key, UNASSIGNED) == theme_id]
    scrubber = Scrubber(home.settings.privacy)
    criteria = [f"The answer is free of this failure: {scrubber.scrub(theme_name).text}."]
    if codes:
        criteria.append("Reviewers described it as: " + "; ".join(code.text for code in codes[:MOST_CODES]) + ".")
    rubric = Rubric(
        name=name,
        version=max((file.rubric.version for file in files if file.rubric.name == name), default=0) + 1,
        criteria=tuple(criteria),
        scale=SCALE,
        examples=tuple(_examples(home, theme_id, placed, labels, items, shown)),
    )
    if held is not None and held.made_from is not None and rubric.content == held.made_from.content:
        return Made(theme_id, theme_name, "unchanged", held.path, held.rubric, False)
    made_from = MadeFrom(theme=theme_id, theme_name=theme_name, week=str(week), content=rubric.content)
    path = write_rubric(home.path, rubric, made_from)
    return Made(theme_id, theme_name, "written", path, rubric, _is_edited(held))


def _is_edited(held: RubricFile | None) -> bool:
    return held is not None and held.is_edited


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _examples(
    home: Home,
    theme_id: str,
    placed: PlacedThemes,
    labels: Mapping[str, Label],
    items: list[Item],
    shown: set[str],
) -> list[Example]:
    """Answered traces with an answer: some that show the failure, some that are none at all, where there are any like these."""
    known = [item for item in items if item.row["output"]]
    failing = [item for item in known if theme_id in labels[item.row["trace_id"]].themes]
    passing = [item for item in known if not labels[item.row["trace_id"]].is_failing]
    number = random_numbers(
        f"{home.settings.sampling.salt}/rubrics", pl.Series([item.row["trace_id"] for item in known], dtype=pl.String)
    )
    order = {item.row["trace_id"]: float(own) for item, own in zip(known, number, strict=True)}
    bins = {item.row["bin"] for item in failing}

    def rank(item: Item) -> tuple[bool, bool, float, str]:
        trace_id = item.row["trace_id"]
        return trace_id not in shown, item.row["bin"] not in bins, order[trace_id], trace_id

    scrubber = Scrubber(home.settings.privacy)
    chosen = [
        *((item, "fail") for item in sorted(failing, key=rank)[:FAILING_EXAMPLES]),
        *((item, "pass") for item in sorted(passing, key=rank)[:PASSING_EXAMPLES]),
    ]
    return [_example(item, verdict, theme_id, placed, scrubber) for item, verdict in chosen]


def _example(item: Item, verdict: Any, theme_id: str, placed: PlacedThemes, scrubber: Scrubber) -> Example:
    votes = [review for review in item.reviews if review.verdict != "unsure"]
    expected = [review.expected_output for review in votes if review.expected_output] if verdict == "fail" else []
    said = [" ".join(scrubber.scrub(code).text.split()) for review in votes for code in review.open_codes]
    why = [code for code in dict.fromkeys(said) if placed.theme_of.get(code_key(code)) == theme_id]
    return Example(
        trace_id=item.row["trace_id"],
        input=_cut(item.row["text"]),
        output=_cut(item.row["output"]),
        verdict=verdict,
        expected=_cut(scrubber.scrub(expected[-1]).text if expected else ""),
        why=_cut("; ".join(why)),
    )


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARS else text[: MOST_CHARS - 1] + "…"
