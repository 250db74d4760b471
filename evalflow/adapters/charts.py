"""Pictures for people: drawn with matplotlib, returned as PNG bytes or as Markdown that Dagster shows."""

import base64
import io
from collections.abc import Sequence

import numpy as np

MOST_ROWS = 40
LABEL_CHARS = 42


def heatmap_png(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, n_left_column: int = 0
) -> bytes:
    """A heatmap of shares.

    Args:
        values: shape (rows, columns), shares in [0, 1]; NaN is drawn as missing.
        rows, columns: their names; of more than 40 rows the last are cut and the title says so.
        title: stands above.
        n_left_column: a white line is drawn after this many columns from the right, to set the suite apart.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = min(len(rows), MOST_ROWS)
    if shown < len(rows):
        title = f"{title} (the largest {shown} of {len(rows)} bins)"
    figure = Figure(figsize=(3.4 + 0.95 * len(columns), 0.9 + 0.24 * shown), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = np.ma.masked_invalid(values[:shown])
    image = axes.imshow(
        drawn, aspect="auto", cmap="viridis", vmin=0, vmax=max(float(np.nanmax(values, initial=0)), 1e-9)
    )
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(shown), [_cut(name) for name in rows[:shown]], fontsize=7, parse_math=False)
    if n_left_column:
        axes.axvline(len(columns) - n_left_column - 0.5, color="white", linewidth=3)
    for y in range(shown):
        for x in range(len(columns)):
            if not drawn.mask.any() or not np.ma.getmaskarray(drawn)[y, x]:
                light = values[y, x] > 0.55 * image.get_clim()[1]
                axes.text(
                    x,
                    y,
                    f"{values[y, x]:.1%}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="black" if light else "white",
                )
    axes.set_title(title, fontsize=9, parse_math=False)
    axes.tick_params(length=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def as_markdown(png: bytes, alt: str) -> str:
    """The picture inside Markdown, as Dagster's metadata shows it."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _cut(name: str) -> str:
    return name if len(name) <= LABEL_CHARS else name[: LABEL_CHARS - 1] + "…"
