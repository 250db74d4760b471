"""Pictures for people: drawn with matplotlib, returned as PNG bytes or as Markdown that Dagster shows."""

import base64
import io
import re
from collections.abc import Sequence

import numpy as np

LABEL_CHARS = 42
MOST_BINS = 40
"""Bins of a picture with two panels; of more the smallest are cut, and the title says so."""
COLUMN_CHARS = 16
_MARKS = "|<>[]`*_\\&#!~"
"""What Markdown or the HTML in it would read as more than a sign."""
_ADDRESS = re.compile(r"(?i)\w+://|www\.|@\S")
PALETTE = 256
FARTHEST_LOG2 = 3.0
"""Density ratios beyond 1/8 and 8 have the colour of those."""


def coverage_png(
    shares: np.ndarray, ratios: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str
) -> bytes:
    """Two panels over the same bins: what part of the traffic each is, and how much of that the suite has.

    Args:
        shares: shape (rows, columns), production shares in [0, 1]; NaN is drawn as missing.
        ratios: the same shape, golden over production share on a log2 scale around 1: red under-tested, blue over-tested;
            0 is no case; NaN (no production, or no suite) is drawn as missing.
        rows, columns: their names; a line break in a column's name is kept.
        title: stands above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    shown, n = min(len(rows), MOST_BINS), len(columns)
    if shown < len(rows):
        title = f"{title} (the largest {shown} of {len(rows)} bins)"
    width, height = 3.2 + 2 * 0.62 * max(n, 2), 1.25 + 0.185 * max(shown, 4)
    figure = Figure(figsize=(width, height), dpi=100)
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    # In inches: 2.9 for the bins' names, .85 above for title and columns, .35 below.
    edges = {"left": 2.9 / width, "right": 1 - 0.15 / width, "top": 1 - 0.85 / height, "bottom": 0.35 / height}
    figure.subplots_adjust(**edges, wspace=0.06)
    share, ratio = shares[:shown], ratios[:shown]
    top = max(float(np.nanmax(share, initial=0)), 1e-9)
    with np.errstate(divide="ignore"):
        distance = np.clip(np.log2(ratio), -FARTHEST_LOG2, FARTHEST_LOG2)
    panels = (
        (left, share, share / top, "viridis", (0.0, 1.0), "share of traffic, %", lambda v: f"{100 * v:.1f}"),
        (right, ratio, distance, "RdBu", (-FARTHEST_LOG2, FARTHEST_LOG2), "suite over traffic (1 = its due)", _times),
    )
    for axes, values, colour, colours, (low, high), name, written in panels:
        image = axes.imshow(np.ma.masked_invalid(colour), aspect="auto", cmap=colours, vmin=low, vmax=high)
        axes.set_facecolor("#eeeeee")
        axes.xaxis.tick_top()
        names = ["\n".join(_cut(line, COLUMN_CHARS) for line in column.split("\n")) for column in columns]
        axes.set_xticks(range(n), names, fontsize=6.5, parse_math=False)
        axes.set_xlabel(name, fontsize=8)
        axes.tick_params(length=0)
        for y, x in zip(*np.nonzero(np.isfinite(values)), strict=True):
            red, green, blue, _ = image.cmap(image.norm(colour[y, x]))
            is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
            text = {"ha": "center", "va": "center", "fontsize": 6, "color": "black" if is_light else "white"}
            axes.text(x, y, written(values[y, x]), **text)
    left.set_yticks(range(shown), [_cut(name) for name in rows[:shown]], fontsize=6.5, parse_math=False)
    figure.suptitle(title, fontsize=9, parse_math=False, y=1 - 0.12 / height)
    canvas.draw()
    buffer = io.BytesIO()
    # Metadata lies in Dagster's event log, week by week: a palette takes a quarter of the bytes.
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(PALETTE, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        buffer, format="png", optimize=True
    )
    return buffer.getvalue()


def _times(ratio: float) -> str:
    digits = 2 if ratio < 0.095 else 1 if ratio < 9.95 else 0
    return "0" if ratio == 0 else f"{ratio:.{digits}f}"


def as_markdown(png: bytes, alt: str) -> str:
    """The picture inside Markdown, as Dagster's metadata shows it."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})"


def as_cell(text: str) -> str:
    """Somebody else's text for Markdown: one line, none of its own markup, no link of a bare address, nobody mentioned."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return "".join(f"&#{ord(sign)};" if sign in _MARKS else sign for sign in _ADDRESS.sub(_broken, line))


def _broken(found: re.Match[str]) -> str:
    """An address with a space behind each sign that would make a link of it."""
    return "".join(f"{sign} " if sign in ":.@" else sign for sign in found[0])


def _cut(name: str, most: int = LABEL_CHARS) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
