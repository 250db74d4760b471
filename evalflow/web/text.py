"""Hostile text made fit to be looked at: nothing in it is markup, and nothing in it is invisible.

Belongs here: the template filters for text of traces. Keep out: which text is shown where.
"""

import json
import re
import unicodedata
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

LONG = 4_000
"""Characters of a text that stand open; the rest of it is one click away."""
_KEPT = "\n\t\u200c\u200d"
"""Not printable and harmless: the breaks of a text, and the joiners that Persian, Hindi and emoji are written with."""
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""Controls, direction overrides, zero-width signs and tags: what makes a text look like another one."""


def visible(text: str) -> Markup:
    """The text escaped, with each hidden character shown by its code point."""
    parts: list[Markup] = []
    end = 0
    for found in _HIDDEN.finditer(text):
        parts += [escape(text[end : found.start()]), _mark(found.group())]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def visible_line(text: str, length: int = 300) -> str:
    """One short line for titles and attributes: hidden characters are dropped, white space is folded."""
    line = " ".join(_HIDDEN.sub("", text[: 4 * length]).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def as_json(value: Any) -> str:
    """A nested value as indented JSON; a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, default=str)


def moment(value: datetime | str | None) -> str:
    """A time to the second in UTC, as people write it."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%-d %b %Y, %H:%M:%S} UTC"
    try:
        return moment(datetime.fromisoformat(value))
    except ValueError:
        return visible_line(value, 40)


def words(name: str) -> str:
    """A name of the code as people say it: ``not_a_failure`` is "not a failure"."""
    return name.replace("_", " ")


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _mark(character: str) -> Markup:
    code = f"U+{ord(character):04X}"
    name = unicodedata.name(character, "control character").lower()
    return Markup('<span class="hidden-character" title="{}">{}</span>').format(f"{code}, {name}", code)
