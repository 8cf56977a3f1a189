"""Draw a small table of shares as colored boxes with their text."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps

from seqjax.report.aggregate import Array
from seqjax.report.content import Drawn, Panel
from seqjax.report.drawing import WIDTH, Medium, axes_at, label_of


def grid(
    values: Array,
    texts: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    name: str,
    title: str,
    label: str,
) -> Panel:
    """Draw values of 0 to 1 ``[rows, columns]``, the first row at the top; a box without a value stays empty."""
    names = [label_of(row, 18) for row in rows]
    left = min(164, 18 + 8 * max(map(len, names), default=0))
    size = min((WIDTH - left - 16) / max(len(columns), 1), 110)
    right = round(WIDTH - left - size * len(columns))
    colors = colormaps["gray"]

    def draw(medium: Medium) -> Drawn:
        figure, axes = axes_at(30 + 26 * len(rows) + 34, top=30, bottom=34, left=left, right=right)
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        for i, line in enumerate(texts):
            for j, text in enumerate(line):
                if np.isnan(values[i, j]):
                    continue
                shade = 0.25 + 0.65 * float(values[i, j])  # the ends would vanish in a dark or a light page
                axes.fill_between([j + 0.02, j + 0.98], i + 0.05, i + 0.95, color=colors(shade), linewidth=0)
                ink = "#ffffff" if shade < 0.5 else "#101010"
                axes.text(j + 0.5, i + 0.53, text, ha="center", va="center", color=ink)
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
        axes.set_yticks(np.arange(len(rows)) + 0.5, names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(label_of(title), loc="left")
        return Drawn(figure)

    return Panel(name, draw, label, title, int(np.isfinite(values).sum()))
