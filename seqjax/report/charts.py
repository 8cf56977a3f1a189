"""Line charts: series over a common axis, with bands or intervals, as drawings and as data for the page's script."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from seqjax.report.aggregate import Array, thin
from seqjax.report.content import Drawn, Panel
from seqjax.report.drawing import (
    COLORS,
    DASHES,
    MARKERS,
    WIDTH,
    Medium,
    as_number,
    as_power,
    as_unit,
    axes_at,
    between_gaps,
    color_of,
    frame_of,
    label_of,
    limits,
    scaled,
)
from seqjax.report.placing import dodge, label_ends
from seqjax.report.svg import printable

_MOST_POINTS = 160
_LETTER = 8.0
"""Width of a letter in pixels of the page, on average."""


@dataclass(frozen=True)
class Series:
    """A line: its name in the legend, its points, and its cell for the page's filter.

    Attributes:
        name: name in the legend; lines of one name share an entry.
        x: increasing positions.
        y: one value for each x; values that are not finite are left out.
        place: index of the hue: the cell's place in the study; None for a line that stands for no cell, which is grey.
        cell: the cell, for the filter by cells.
        low: lower end of a band or an interval, in the shape of y.
        high: upper end, in the shape of y.
        seeds: y by seed, for the page's choice of a seed.
        marks: "line", "points", or "both".
        pattern: index of dashes and marker; by default the place.
    """

    name: str
    x: Any
    y: Any
    place: int | None
    cell: str | None = None
    low: Any = None
    high: Any = None
    seeds: Mapping[int, Any] = field(default_factory=dict)
    marks: str = "line"
    pattern: int | None = None

    @property
    def look(self) -> dict[str, Any]:
        """Color, dashes and marker for matplotlib."""
        pattern = self.pattern if self.pattern is not None else self.place or 0
        look: dict[str, Any] = {"color": color_of(self.place), "linestyle": DASHES[pattern % len(DASHES)]}
        if self.marks != "line":
            hollow = pattern // len(MARKERS) % 2
            look |= {
                "marker": MARKERS[pattern % len(MARKERS)],
                "markeredgewidth": scaled(1.2) if hollow else 0,
            }
            look |= {"markerfacecolor": "none"} if hollow else {}
        if self.marks == "points":
            look["linestyle"] = "none"
        return look


@dataclass(frozen=True)
class Axis:
    """An axis: its label, and its scale: "linear", "whole" for counts, "log", or "decades" for logarithms to base 10.

    The unit is "B" for bytes or "s" for seconds, which get prefixes at the ticks; other units are part of the label.
    """

    label: str
    scale: str = "linear"
    limits: tuple[float, float] | None = None
    ticks: Sequence[float] | None = None
    names: Sequence[str] | None = None
    unit: str = ""


def chart(
    series: Sequence[Series],
    name: str,
    *,
    title: str,
    x: Axis,
    y: Axis,
    label: str,
    cell: str | None = None,
    length: int | None = None,
    height: int = 224,
    draw: Callable[[Axes], Any] | None = None,
) -> Panel:
    """Draw series over one another; lines of more cells than there are hues have their names at their ends.

    Args:
        series: lines in the order of the legend.
        name: name of the file, and prefix of the ids.
        title: title above the axes.
        x: the horizontal axis.
        y: the vertical axis.
        label: description for screen readers.
        cell: the only cell that the drawing shows, for the page's filter.
        length: the only sequence length that the drawing shows, for the page's filter.
        height: height in pixels, without the legend.
        draw: adds other elements, such as a reference line, to the axes.
    """
    names = list(dict.fromkeys(label_of(each.name) for each in series))
    at_ends = len({each.cell for each in series if each.cell}) > len(COLORS)
    # The number of names that fit side by side, with a line of some 40 pixels before each.
    columns = max(1, min(len(names), 4, int(WIDTH / (44 + _LETTER * max(map(len, names), default=1)))))
    keyed = not at_ends and (len(names) > 1 or bool(series and series[0].name))
    legend_rows = math.ceil(len(names) / columns) if keyed else 0

    def drawn(medium: Medium) -> Drawn:
        bottom = 58 + 18 * legend_rows
        right = 24 + _LETTER * max(len(label_of(each, 14)) for each in names) if at_ends else 22
        inner = max(height, 15 * (len(names) + 1)) if at_ends else height
        left = 78 if y.scale == "log" else 62  # for ticks such as 2×10⁻⁷ and 500 kB
        figure, axes = axes_at(height=inner + bottom, top=30, bottom=bottom, left=left, right=right)
        handles: dict[str, Line2D] = {}
        lines = []
        for place, each in enumerate(series):
            handle, *line = _draw(axes, each, f"s{place}", 0.1 if at_ends else 0.22)
            handles.setdefault(label_of(each.name), handle)
            lines.append(line)
        scale_axis(axes.xaxis, x)
        scale_axis(axes.yaxis, y)
        if draw:
            draw(axes)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel=x.label, ylabel=y.label)
        axes.set_title(printable(title), loc="left")
        dodge(
            axes,
            [(line, bars) for each, (line, bars) in zip(series, lines, strict=True) if each.marks != "line"],
        )
        if at_ends:
            label_ends(axes, [line for line, _ in lines], [label_of(each.name, 14) for each in series])
        if legend_rows:
            figure.legend(
                list(handles.values()),
                names,
                loc="lower center",
                frameon=False,
                ncols=columns,
                handlelength=2.4,
                columnspacing=1.1,
                borderaxespad=0.1,
                labelspacing=0.3,
            )
        data = {
            "dec": int(y.scale == "decades"),
            "xl": x.label,
            "xu": x.unit,
            "yu": y.unit,
            "s": [_data(each, f"{name}-s{place}") for place, each in enumerate(series)],
        }
        return Drawn(figure, frame_of(axes) | data)

    return Panel(name, drawn, label, title, _positions(series), cell, length)


def _positions(series: Sequence[Series]) -> int:
    """Return the number of different x that have a value."""
    known = [np.asarray(each.x, float)[np.isfinite(np.asarray(each.y, float))] for each in series]
    return len(np.unique(np.concatenate(known))) if known else 0


def _draw(axes: Axes, each: Series, gid: str, opacity: float) -> tuple[Line2D, Line2D, Any]:
    """Return the line of the legend, the drawn line, and its intervals if it has them; `opacity` is that of bands."""
    look = each.look
    x, y = np.asarray(each.x, float), _finite(each.y)
    bars = None
    if each.low is not None:
        low, high = _finite(each.low), _finite(each.high)
        if each.marks == "line":
            axes.fill_between(
                x, low, high, color=look["color"], alpha=opacity, linewidth=0, gid=f"{gid}-band"
            )
        else:
            bars = axes.vlines(x, low, high, color=look["color"], linewidth=scaled(1.1), gid=f"{gid}-band")
    handle = Line2D([], [], **look)
    if each.marks == "line" and (alone := between_gaps(y)):
        look |= {"marker": MARKERS[0], "markersize": scaled(5), "markeredgewidth": 0, "markevery": alone}
    (line,) = axes.plot(x, y, gid=gid, **look)
    return handle, line, bars


def scale_axis(axis: Any, wanted: Axis) -> None:
    """Give an axis of matplotlib its scale, limits and ticks."""
    numbers = as_unit(wanted.unit) if wanted.unit else as_number
    if wanted.scale == "log":
        getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
        low, high = getattr(axis.axes, f"get_{axis.axis_name}lim")()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=7))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(numbers)
    elif wanted.scale == "decades":
        axis.set_major_locator(MaxNLocator(7, integer=True))
        axis.set_major_formatter(as_power)
    else:
        axis.set_major_locator(MaxNLocator(6, integer=wanted.scale == "whole"))
        axis.set_major_formatter(numbers)
    if wanted.limits is not None:
        getattr(axis.axes, f"set_{axis.axis_name}lim")(*wanted.limits)
    if wanted.ticks is not None:
        axis.set_ticks(list(wanted.ticks), list(wanted.names) if wanted.names else None)
        axis.minorticks_off()


def _finite(values: Any) -> Array:
    array = np.asarray(values, float)
    return np.where(np.isfinite(array), array, np.nan)


def _data(each: Series, identity: str) -> dict[str, Any]:
    points = thin(len(each.x), _MOST_POINTS)
    x, y = np.asarray(each.x, float)[points], np.asarray(each.y, float)[points]
    found: dict[str, Any] = {"n": each.name, "c": each.cell, "id": identity, "x": x, "y": y}
    if each.seeds:
        found["e"] = {seed: np.asarray(values, float)[points] for seed, values in each.seeds.items()}
    return found


def decade_limits(values: Array, floor: float = -60.0, ceiling: float = 60.0) -> tuple[float, float]:
    """Return limits for an axis of decades, with a little room above."""
    low, high = limits(np.asarray(values, float), floor, ceiling)
    return low, high + 0.03 * (high - low)
