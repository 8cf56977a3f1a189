"""Line charts: series over a common axis, with bands or intervals, as SVG and as data for the page's script."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from seqjax.report.aggregate import Array, thin
from seqjax.report.content import Panel
from seqjax.report.drawing import (
    COLORS,
    DASHES,
    MARKERS,
    WIDTH,
    as_number,
    as_power,
    axes_at,
    between_gaps,
    frame_of,
    label_of,
    limits,
    style,
)
from seqjax.report.svg import printable, write

_MOST_POINTS = 160


@dataclass(frozen=True)
class Series:
    """A line: its name in the legend, its points, and its cell for the page's filter.

    Attributes:
        name: name in the legend; lines of one name share an entry.
        x: increasing positions.
        y: one value for each x; values that are not finite are left out.
        place: index of color, dashes and marker: the cell's place in the study.
        cell: the cell, for the filter by cells.
        low: lower end of a band or an interval, in the shape of y.
        high: upper end, in the shape of y.
        seeds: y by seed, for the page's choice of a seed.
        marks: "line", "points", "both", or "fit" for a thin line through measurements.
    """

    name: str
    x: Any
    y: Any
    place: int
    cell: str | None = None
    low: Any = None
    high: Any = None
    seeds: Mapping[int, Any] = field(default_factory=dict)
    marks: str = "line"


@dataclass(frozen=True)
class Axis:
    """An axis: its label and scale: "linear", "whole" for counts, "log", or "decades" for logarithms to base 10."""

    label: str
    scale: str = "linear"
    limits: tuple[float, float] | None = None
    ticks: Sequence[float] | None = None
    names: Sequence[str] | None = None


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
    """Draw series over one another.

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
    # The number of names that fit side by side, with a line of some 40 pixels before each.
    columns = max(1, min(len(names), 4, int(WIDTH / (40 + 7.5 * max(map(len, names), default=1)))))
    legend_rows = math.ceil(len(names) / columns) if len(names) > 1 or series and series[0].name else 0
    with style():
        bottom = 55 + 15 * legend_rows
        figure, axes = axes_at(height=height + bottom, top=30, bottom=bottom)
        handles: dict[str, Line2D] = {}
        for place, each in enumerate(series):
            handles.setdefault(label_of(each.name), _draw(axes, each, f"s{place}"))
        _scale(axes.xaxis, x)
        _scale(axes.yaxis, y)
        if draw:
            draw(axes)
        axes.grid(axis="y", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel=x.label, ylabel=y.label)
        axes.set_title(printable(title), loc="left", pad=8)
        if legend_rows:
            figure.legend(
                list(handles.values()),
                names,
                loc="lower center",
                frameon=False,
                fontsize=11,
                ncols=columns,
                handlelength=2.6,
                columnspacing=1.2,
                borderaxespad=0.1,
                labelspacing=0.3,
            )
        svg = write(figure, name, label)
    data = frame_of(axes) | {
        "dec": int(y.scale == "decades"),
        "xl": x.label,
        "s": [_data(each, f"{name}-s{place}") for place, each in enumerate(series)],
    }
    return Panel(name, svg, data, cell, length)


def _draw(axes: Axes, each: Series, gid: str) -> Line2D:
    color, dashes = COLORS[each.place % len(COLORS)], DASHES[each.place % len(DASHES)]
    looks: dict[str, Any] = {"color": color, "linestyle": dashes, "linewidth": 1.8}
    if each.marks == "fit":
        looks |= {"linewidth": 1.0, "alpha": 0.8}
    if each.marks in ("points", "both"):
        looks |= {"marker": MARKERS[each.place % len(MARKERS)], "markersize": 5.5, "markeredgewidth": 0}
    if each.marks == "points":
        looks["linestyle"] = "none"
    x, y = np.asarray(each.x, float), _finite(each.y)
    if each.low is not None:
        low, high = _finite(each.low), _finite(each.high)
        if each.marks in ("points", "both"):
            axes.vlines(x, low, high, color=color, linewidth=1.1, gid=f"{gid}-band")
        else:
            axes.fill_between(x, low, high, color=color, alpha=0.22, linewidth=0, gid=f"{gid}-band")
    handle = Line2D([], [], **looks)
    if "marker" not in looks and (alone := between_gaps(y)):
        looks |= {"marker": MARKERS[0], "markersize": 5, "markeredgewidth": 0, "markevery": alone}
    axes.plot(x, y, gid=gid, **looks)
    return handle


def _scale(axis: Any, wanted: Axis) -> None:
    if wanted.scale == "log":
        getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
        low, high = getattr(axis.axes, f"get_{axis.axis_name}lim")()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=7))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(as_number)
    elif wanted.scale == "decades":
        axis.set_major_locator(MaxNLocator(7, integer=True))
        axis.set_major_formatter(as_power)
    else:
        axis.set_major_locator(MaxNLocator(6, integer=wanted.scale == "whole"))
        axis.set_major_formatter(as_number)
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
