"""Themes of a home: proposed from the open codes of its reviews, new codes placed in them, counted for a week.

Keep out: how texts are grouped and shares estimated (``core``), and the themes' files (``adapters/themes.py``).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl

from evalflow.adapters.embedder import Embedder
from evalflow.adapters.home import Home
from evalflow.adapters.naming import Named, Namer, Unnamed
from evalflow.adapters.scrubber import Scrubber
from evalflow.adapters.tables import ERROR_BATCH, ERROR_DRAW, ERROR_THEMES, TRIAGE_QUEUE
from evalflow.adapters.themes import Theme, ThemesVersion, read_themes, renamed, with_moved
from evalflow.core.calendar import sunday_of
from evalflow.core.error_analysis import BatchShares, Label, Share, answered_at, batch_shares, finding_of
from evalflow.core.labels import THEME_NAMING, cluster_terms, unique_label
from evalflow.core.records import Review
from evalflow.core.text import text_hash
from evalflow.core.themes import central, code_key, inherited, nearest_code, theme_groups
from evalflow.defs.station import Station, parents
from evalflow.errors import CannotTellError, UsageError

UNASSIGNED, NO_CODE = "unassigned", "no_code"
"""In place of a theme: codes that no theme holds or is near; failing traces that nobody gave a code."""
SPECIAL_NAMES = {UNASSIGNED: "(in no theme yet)", NO_CODE: "(failing, without a code)"}
MOST_NAME_CHARS = 60
NO_THEMES = "there are no themes yet: nobody has written an open code, or `evalflow errors themes` was not run"


@dataclass(frozen=True)
class Code:
    """A code as it was first written, scrubbed, and the traces whose answers hold it."""

    text: str
    trace_ids: tuple[str, ...]


@dataclass(frozen=True)
class PlacedThemes:
    """The themes in force and where every code in use belongs.

    ``theme_of``: the theme's id by ``code_key``; ``placed``: of the codes that no theme lists those that are near one that
    a theme does, with the cosine distance; ``unassigned``: the other codes.
    """

    version: ThemesVersion | None
    codes: Mapping[str, Code]
    theme_of: Mapping[str, str]
    placed: Mapping[str, float]
    unassigned: tuple[str, ...]

    def themes_of(self, codes: Iterable[str]) -> frozenset[str]:
        return frozenset(self.theme_of.get(code_key(code), UNASSIGNED) for code in codes)


def _theme_inputs(home: Home, week: date) -> Iterable[Any]:
    version = home.themes.newest()
    yield version.content if version else None
    yield home.settings.embedding.model_dump(mode="json")
    yield home.settings.privacy.model_dump(mode="json")
    yield home.reviews.journal.names()
    yield from parents(home, ERROR_DRAW, [week])
    for table in (TRIAGE_QUEUE, ERROR_BATCH):
        yield from parents(home, table, map(date.fromisoformat, home.lake.keys(table)))


THEMES = Station("error_themes", ERROR_THEMES, "week", "2", _theme_inputs, is_on_demand=True)


# -- codes and themes ------------------------------------------------------------------------------------------


def codes_in_use(home: Home) -> dict[str, Code]:
    """Every open code of an answer that calls its trace something else than no failure, by ``code_key``; the most
    frequent first, equals by their key. Of each reviewer the newest answer counts: a code that was corrected is none."""
    scrubber = Scrubber(home.settings.privacy)
    text: dict[str, str] = {}
    where: dict[str, dict[str, None]] = {}
    newest = {(review.trace_id, review.reviewer): review for review in sorted(home.reviews.all(), key=answered_at)}
    for review in sorted(newest.values(), key=lambda review: review.number):
        for code in _scrubbed_codes(review, scrubber):
            text.setdefault(code_key(code), code)
            where.setdefault(code_key(code), {})[review.trace_id] = None
    ordered = sorted(text, key=lambda key: (-len(where[key]), key))
    return {key: Code(text[key], tuple(where[key])) for key in ordered}


def _scrubbed_codes(review: Review, scrubber: Scrubber) -> list[str]:
    if review.verdict == "not_a_failure":
        return []
    return [" ".join(scrubber.scrub(code).text.split()) for code in review.open_codes if code.strip()]


def themes_of(home: Home) -> PlacedThemes:
    """The themes in force, with every code that came since placed with its nearest known one, or told as unassigned."""
    version, codes = home.themes.newest(), codes_in_use(home)
    if version is None:
        return PlacedThemes(None, codes, {}, {}, tuple(code.text for code in codes.values()))
    theme_of = version.theme_of
    new = [key for key in codes if key not in theme_of]
    placed: dict[str, float] = {}
    if new:
        known = [code for theme in version.themes for code in theme.codes]
        vectors = _vectors(home, [*known, *(codes[key].text for key in new)])
        for key, vector in zip(new, vectors[len(known) :], strict=True):
            nearest = nearest_code(vector, vectors[: len(known)])
            if nearest is not None:
                theme_of[key] = version.theme_of[code_key(known[nearest.place])]
                placed[key] = nearest.distance
    unassigned = tuple(codes[key].text for key in codes if key not in theme_of)
    return PlacedThemes(version, codes, theme_of, placed, unassigned)


def _vectors(home: Home, texts: list[str]) -> np.ndarray:
    found = Embedder(home.settings.embedding, home.cache).embed(texts)
    return np.stack([found[text_hash(text)] for text in texts])


def propose_themes(home: Home, held: ThemesVersion | None) -> tuple[list[Theme], Named | None]:
    """Themes from all codes in use. One that shares more than half of its codes with a theme in force keeps its id and name.

    Returns:
        The themes, and what naming by the judge's model came to, None without one.

    Raises:
        CannotTellError: nobody has written an open code yet.
    """
    codes = codes_in_use(home)
    if not codes:
        raise CannotTellError(
            "No answer holds an open code yet; draw a batch with `evalflow errors batch`, and let reviewers write down what "
            "went wrong in open_codes."
        )
    keys = list(codes)
    texts = [codes[key].text for key in keys]
    vectors = _vectors(home, texts)
    groups = theme_groups(vectors)
    members = [np.flatnonzero(groups == number) for number in range(int(groups.max()) + 1)]
    before = held.themes if held else ()
    kept = inherited(
        [frozenset(keys[i] for i in own) for own in members],
        [frozenset(map(code_key, theme.codes)) for theme in before],
    )
    middle = [texts[own[central(vectors[own])[0]]] for own in members]
    named = _named(home, texts, groups, members, [i for i, old in enumerate(kept) if old is None])
    themes: list[Theme] = []
    for number, own in enumerate(members):
        old = kept[number]
        name = before[old].name if old is not None else (named.names.get(number) if named else None)
        unique = unique_label(name or _short(middle[number]), [theme.name for theme in themes])
        themes.append(
            Theme(
                theme_id="" if old is None else before[old].theme_id,
                name=unique,
                codes=tuple(texts[i] for i in own),
            )
        )
    return themes, named


class Recorded(NamedTuple):
    """The version in force after a proposal or an edit, and sentences about what it left out."""

    version: ThemesVersion
    notes: list[str]


def record_proposal(home: Home) -> Recorded:
    """Record themes from all codes in use as the next version; the same themes as in force add none."""
    held = home.themes.newest()
    proposed, named = propose_themes(home, held)
    version = home.themes.add(proposed, "proposed", "evalflow errors themes", home.now(), held.version if held else 0)
    why = named.why_not.items() if named else ()
    return Recorded(
        version, [f"{n} {'theme' if n == 1 else 'themes'} kept a code as name: {reason}." for reason, n in why]
    )


def apply_themes(home: Home, path: Path) -> Recorded:
    """Record an edited file as the next version.

    Raises:
        UsageError: there are no themes yet, no such file, or the file was made from an older version.
        BadInputError: the file cannot be used.
    """
    held = home.themes.newest()
    if held is None:
        raise UsageError(
            f"There are no themes yet that {path} could change; `evalflow errors themes --out {path}` makes them."
        )
    in_use = [code.text for code in codes_in_use(home).values()]
    in_use += [code for theme in held.themes for code in theme.codes]  # an answer that was corrected may have held it
    edited = read_themes(path, in_use, held)
    version = home.themes.add(edited.themes, "edited", str(path), home.now(), edited.version)
    return Recorded(version, [f"The code {code!r} stands in no theme of {path}." for code in edited.left_out])


def rename_theme(home: Home, theme_id: str, name: str, expected: int, who: str) -> ThemesVersion:
    """Record the themes with another name for one of them; ``expected`` is the version that its editor has seen.

    Raises:
        UsageError: another version has been recorded since.
        BadInputError: there is no such theme, or the name cannot be used.
    """
    held = home.themes.newest()
    themes = renamed(held.themes if held else (), theme_id, name)
    return home.themes.add(themes, "edited", f"review page, {who}", home.now(), expected)


def move_codes(home: Home, codes: Collection[str], to: str, name: str, expected: int, who: str) -> ThemesVersion:
    """Record the themes with these codes in another one, or in a new one of that name where ``to`` is empty.

    Raises as ``rename_theme``; also where no code is named, or one that nobody used.
    """
    held = home.themes.newest()
    in_use = [code.text for code in codes_in_use(home).values()]
    themes = with_moved(held.themes if held else (), codes, to, name, in_use)
    return home.themes.add(themes, "edited", f"review page, {who}", home.now(), expected)


def _named(
    home: Home, texts: list[str], groups: np.ndarray, members: list[np.ndarray], wanted: list[int]
) -> Named | None:
    if home.settings.judge.model is None or not wanted:
        return None
    terms = cluster_terms(texts, groups)
    unnamed = [Unnamed(number, terms[number], [texts[i] for i in members[number]]) for number in wanted]
    return Namer(home.settings.judge, home.cache, THEME_NAMING).name(unnamed)


def _short(text: str) -> str:
    return text if len(text) <= MOST_NAME_CHARS else text[: MOST_NAME_CHARS - 1] + "…"


# -- a week ----------------------------------------------------------------------------------------------------


def labels_of(home: Home, placed: PlacedThemes) -> dict[str, Label]:
    """What every answered trace shows: whether it failed, and in which themes."""
    scrubber = Scrubber(home.settings.privacy)
    by_trace: dict[str, list[Review]] = {}
    for review in home.reviews.all():
        clean = msgspec.structs.replace(review, open_codes=_scrubbed_codes(review, scrubber))
        by_trace.setdefault(review.trace_id, []).append(clean)
    labels = {}
    for trace_id, reviews in by_trace.items():
        finding = finding_of(reviews)
        if finding is not None:
            themes = placed.themes_of(finding.codes) or frozenset([NO_CODE] if finding.is_failing else [])
            labels[trace_id] = Label(finding.is_failing, themes)
    return labels


def theme_rows(home: Home, week: date) -> pl.DataFrame:
    """Rows of ``error_themes``: each theme's shares of the week's traffic, the largest first, then what is in no theme."""
    placed = themes_of(home)
    labels = labels_of(home, placed)
    frame = home.lake.read(ERROR_DRAW, [week])
    also = _also_seen(home, week, frame, labels)
    seen = {theme_id for label in labels.values() for theme_id in label.themes}
    wanted = [theme.theme_id for theme in placed.version.themes] if placed.version else []
    wanted += [name for name in SPECIAL_NAMES if name in seen]
    found = batch_shares(frame, labels, wanted, _queued_elsewhere(home))
    head = _head(home, week, frame, found, placed)
    if not wanted:
        reason = "; ".join(why for why in (NO_THEMES, head["reason"]) if why)
        return pl.DataFrame(
            [{"codes": [], "n_coded": 0, "also_seen": 0, **head, "reason": reason}], schema=ERROR_THEMES.schema
        )
    names = {theme.theme_id: theme.name for theme in placed.version.themes} if placed.version else {}
    shares = {own.theme_id: own for own in found.themes}
    answered = frame.filter("is_drawn")["trace_id"].to_list()
    counts = Counter(theme for trace_id in answered if trace_id in labels for theme in labels[trace_id].themes)
    rows = []
    for theme_id in wanted:
        own = shares.get(theme_id)
        rows.append(
            {
                "theme_id": theme_id,
                "name": (names | SPECIAL_NAMES)[theme_id],
                "codes": [
                    code.text for key, code in placed.codes.items() if placed.theme_of.get(key, UNASSIGNED) == theme_id
                ],
                "n_coded": counts[theme_id],
                **_share("share", own.traffic if own else None),
                **_share("failing_share", own.failing if own else None),
                "also_seen": also[theme_id],
                **head,
            }
        )
    ordered = sorted(
        rows,
        key=lambda row: (row["theme_id"] in SPECIAL_NAMES, -(row["share"] or 0), -row["n_coded"] - row["also_seen"]),
    )
    return pl.DataFrame(ordered, schema=ERROR_THEMES.schema)


def _queued_elsewhere(home: Home) -> set[str]:
    """The traces that triage queued, for whatever reason, or that a case holds."""
    keys = [date.fromisoformat(key) for key in home.lake.keys(TRIAGE_QUEUE)]
    queued = set(home.lake.read(TRIAGE_QUEUE, keys, ["trace_id"])["trace_id"])
    own_keys = [date.fromisoformat(key) for key in home.lake.keys(ERROR_BATCH)]
    cases = {trace_id for case in home.ledger.newest().values() for trace_id in case.trace_ids}
    return queued | (cases - set(home.lake.read(ERROR_BATCH, own_keys, ["trace_id"])["trace_id"]))


def _head(home: Home, week: date, frame: pl.DataFrame, found: BatchShares, placed: PlacedThemes) -> dict[str, Any]:
    reason = found.reason
    if frame.is_empty():
        reason = "no batch was drawn for the week: `evalflow errors batch`"
    return {
        "n_drawn": found.n_drawn,
        "n_answered": found.n_answered,
        "n_failing": found.n_failing,
        **_share("failing_traffic_share", found.failing),
        "reason": reason,
        "themes_version": placed.version.version if placed.version else None,
        "as_of": sunday_of(week),
        "weighting": frame["weighting"][0] if len(frame) else None,
    }


def _share(name: str, share: Share | None) -> dict[str, float | None]:
    low, value, high = (share.low, share.value, share.high) if share else (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _also_seen(home: Home, week: date, frame: pl.DataFrame, labels: Mapping[str, Label]) -> Counter[str]:
    """Answered traces of the window that the batch did not draw, by theme: seen, but with no known chance of being so."""
    window = home.calendar.window(week)
    drawn = set(frame.filter("is_drawn")["trace_id"])
    seen: set[str] = set()
    for table in (TRIAGE_QUEUE, ERROR_BATCH):
        keys = [date.fromisoformat(key) for key in home.lake.keys(table)]
        rows = home.lake.read(table, keys, ["trace_id", "timestamp"])
        seen |= set(rows.filter(pl.col("timestamp").dt.date().is_in(window))["trace_id"])
    return Counter(
        theme for trace_id in sorted(seen - drawn) if trace_id in labels for theme in labels[trace_id].themes
    )
