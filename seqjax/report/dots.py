"""Draw one value per cell with its interval, a row per cell."""

from collections.abc import Mapping

import numpy as np

from seqjax.report.charts import Axis, scale_axis
from seqjax.report.content import Drawn, Panel
from seqjax.report.drawing import Medium, axes_at, color_of, label_of, scaled
from seqjax.report.order import has_interval
from seqjax.report.quantities import Quantity
from seqjax.report.text import file_name
from seqjax.statistics import Interval

ROW = 24
"""Height of a row in pixels of the page."""


def dot_plot(
    quantity: Quantity, values: Mapping[str, Interval], places: Mapping[str, int], number: int
) -> Panel:
    """Draw the values of one quantity; `places` are those of the cells, `number` that of the quantity."""
    names = [label_of(cell, 18) for cell in values]
    left = min(164, 22 + 8 * max(map(len, names), default=0))
    ends = np.array([[*found] for found in values.values()], float)
    known = ends[np.isfinite(ends)]
    log = quantity.log and known.size and known.min() > 0 and known.max() > 8 * known.min()

    def draw(medium: Medium) -> Drawn:
        figure, axes = axes_at(30 + ROW * len(names) + 52, top=30, bottom=52, left=left, right=22)
        for row, (cell, found) in enumerate(values.items()):
            color = color_of(places[cell])
            if has_interval(found):
                axes.plot(found[1:], [row, row], color=color, linewidth=scaled(1.6), gid=f"s{row}-band")
            axes.plot(
                [found.estimate],
                [row],
                "o",
                color=color,
                markersize=scaled(7),
                markeredgewidth=0,
                gid=f"s{row}",
            )
        axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=f"{quantity.unit}; {quantity.better}")
        axes.margins(x=0.08)
        axes.set_yticks(range(len(names)), names)
        scale_axis(axes.xaxis, Axis("", "log" if log else "linear"))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_title(quantity.name, loc="left")
        return Drawn(figure)

    label = f"{quantity.name}, {quantity.unit}, with 95% intervals: {', '.join(values)}."
    return Panel(f"summary-{file_name(quantity.name, number)}", draw, label, quantity.name, len(values))
