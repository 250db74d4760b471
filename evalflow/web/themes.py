"""How themes are laid out for people who edit them: each with its codes, how many traces hold them, its share of traffic.

Keep out: how themes are made and counted (``defs/themes.py``), HTML.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from evalflow.adapters.home import Home
from evalflow.adapters.tables import ERROR_THEMES
from evalflow.adapters.themes import ThemesVersion
from evalflow.core.themes import code_key

if TYPE_CHECKING:
    from evalflow.defs.themes import Code


class CodeLine(NamedTuple):
    text: str
    n_traces: int


@dataclass(frozen=True)
class ThemeCard:
    """``counted``: its row of the newest counting, None where the themes changed since."""

    theme_id: str
    name: str
    codes: list[CodeLine]
    n_traces: int
    counted: Mapping[str, Any] | None


@dataclass(frozen=True)
class ThemesView:
    """``loose``: codes in use that no theme lists; ``n_hidden``: codes not shown, since only unanswered traces have them."""

    version: int
    origin: str
    cards: list[ThemeCard]
    loose: list[CodeLine]
    n_hidden: int

    @property
    def is_counted(self) -> bool:
        return any(card.counted for card in self.cards)


def themes_view(
    version: ThemesVersion | None,
    codes: Mapping[str, "Code"],
    hidden: Collection[str],
    shares: Mapping[int, Mapping[str, Any]],
) -> ThemesView:
    """The themes with most traces first; codes that only traces of ``hidden`` have are left out."""
    traces = {key: set(code.trace_ids) for key, code in codes.items()}
    unseen = {key for key, own in traces.items() if own <= set(hidden)}
    cards = []
    for theme in version.themes if version else ():
        keys = {code_key(code): code for code in theme.codes}
        lines = [CodeLine(code, len(traces.get(key, ()))) for key, code in keys.items() if key not in unseen]
        seen: set[str] = set().union(*(traces.get(key, set()) for key in keys if key not in unseen))
        counted = shares.get(version.version if version else 0, {}).get(theme.theme_id)
        lines.sort(key=lambda line: -line.n_traces)
        cards.append(ThemeCard(theme.theme_id, theme.name, lines, len(seen), counted))
    listed = version.theme_of if version else {}
    loose = [CodeLine(codes[key].text, len(traces[key])) for key in codes if key not in listed and key not in unseen]
    cards.sort(key=lambda card: -card.n_traces)
    return ThemesView(
        version.version if version else 0, version.origin if version else "", cards, loose, n_hidden=len(unseen)
    )


def shares_of(home: Home) -> dict[int, dict[str, Any]]:
    """The newest counting: its rows by theme, under the version of the themes that was counted."""
    keys = home.lake.keys(ERROR_THEMES)
    if not keys:
        return {}
    rows = home.lake.read(ERROR_THEMES, [date.fromisoformat(max(keys))]).to_dicts()
    counted = {row["theme_id"]: row for row in rows if row["theme_id"] and row["share"] is not None}
    return {rows[0]["themes_version"]: counted} if counted else {}
