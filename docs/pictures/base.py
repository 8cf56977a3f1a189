"""What a picture is, and how it is drawn: measurements are blue points, the closed form is a grey line."""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from seqjax.report.drawing import as_number, style
from seqjax.report.svg import GRID, INK, standalone, write

WIDTH, HEIGHT, TEXT = 480, 260, 12.5
MEASURED, EXACT = "#1c86cc", "#8c939b"
MARKERS, DASHES = ("o", "s", "^", "D", "v"), ("-", (0, (6, 2)), (0, (2, 2)))
BEGIN, END = "<metadata>", "</metadata>"


class Curve(NamedTuple):
    """Measurements of one system, and their closed form.

    Attributes:
        label: what is measured, for the legend.
        x: the positions of the measurements ``[N]``.
        y: the measurements ``[N]``.
        exact: the closed form: a function of x, or its values ``[N]``; None where there is none.
        formula: the name of the closed form in the legend.
        low: the lower ends of intervals ``[N]``, or None.
        high: the upper ends.
    """

    label: str
    x: Any
    y: Any
    exact: Any = None
    formula: str = "closed form"
    low: Any = None
    high: Any = None


class Picture(NamedTuple):
    """One picture of the page.

    Attributes:
        name: the name of the file.
        probes: the public functions of `seqjax.probes` that the picture stands for.
        x: the label of the horizontal axis, with the unit.
        y: the label of the vertical axis.
        curves: runs the probes in float64.
        log: the axes with a logarithmic scale: "", "x", "y" or "xy".
        tolerance: the relative difference between machines and versions that a new measurement may show.
    """

    name: str
    probes: tuple[str, ...]
    x: str
    y: str
    curves: Callable[[], Sequence[Curve]]
    log: str = ""
    tolerance: float = 1e-4

    def measure(self) -> tuple[Curve, ...]:
        """Run the probes."""
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            return tuple(self.curves())


def numbers(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Return the measurements and their closed forms for JSON, to six digits."""
    found = []
    for curve in curves:
        exact = curve.exact(np.asarray(curve.x)) if callable(curve.exact) else curve.exact
        columns = {"x": curve.x, "y": curve.y, "exact": exact, "low": curve.low, "high": curve.high}
        arrays = {name: np.asarray(a, np.float64) for name, a in columns.items() if a is not None}
        digits = {name: [float(f"{value:.6g}") for value in array] for name, array in arrays.items()}
        found.append({"label": curve.label, **digits})
    return found


def numbers_in(svg: str) -> list[dict[str, Any]]:
    """Return the numbers that a picture carries."""
    return json.loads(svg.partition(BEGIN)[2].partition(END)[0])


def drawn(picture: Picture, curves: Sequence[Curve]) -> str:
    """Return the picture as SVG, light or dark as the reader's system, with its numbers as metadata."""
    sizes = {
        f"{name}size": TEXT for name in ("font.", "axes.label", "xtick.label", "ytick.label", "legend.font")
    }
    with style(), mpl.rc_context(sizes):
        entries = _legend(curves)
        columns = _columns([label for _, label in entries])
        rows = math.ceil(len(entries) / columns)
        left, right, top, bottom = 70, 16, 10 + 18 * rows, 46
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        box = (left / WIDTH, bottom / HEIGHT, 1 - (left + right) / WIDTH, 1 - (top + bottom) / HEIGHT)
        axes = figure.add_axes(box)
        for place, curve in enumerate(curves):
            _draw(axes, curve, place, _formulas(curves), "x" in picture.log)
        for name in "xy":
            _scale(axes, name, name in picture.log)
        axes.set_xlabel(picture.x)
        axes.set_ylabel(picture.y)
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        handles, labels = zip(*entries, strict=True)
        looks: dict[str, Any] = {"handlelength": 1.6, "columnspacing": 1.4, "labelspacing": 0.25}
        place_of = {"loc": "upper left", "bbox_to_anchor": (0.01, 1.0), "ncols": columns}
        figure.legend(handles, labels, frameon=False, borderaxespad=0.2, **place_of, **looks)
        svg = standalone(write(figure, picture.name, _description(picture, curves)))
    head, tail = svg.split("</style>", 1)
    looks, tail = _short(tail)
    return f"{head}{looks}</style>{BEGIN}{json.dumps(numbers(curves))}{END}{tail}"


def _short(svg: str) -> tuple[str, str]:
    """Collect styles in classes, and leave out what has no effect: names that nothing refers to, blanks, digits."""
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r'(?<= [xy]=")\d+\.\d{3,}', lambda found: f"{float(found[0]):.2f}", svg)
    svg = re.sub(r">\s+<", "><", svg)
    styles = list(dict.fromkeys(re.findall(r' style="([^"]*)"', svg)))
    for place, each in enumerate(styles):
        svg = svg.replace(f' style="{each}"', f' class="s{place}"')
    return "".join(f".s{place}{{{each}}}" for place, each in enumerate(styles)), svg


def _columns(labels: Sequence[str]) -> int:
    """Return the largest number of columns, filled one after another, that fits the width."""
    widths = [44 + 7 * len(label) for label in labels]
    for columns in range(len(labels), 1, -1):
        rows, longer = divmod(len(labels), columns)
        ends = np.cumsum([rows + (i < longer) for i in range(columns)])
        if sum(max(part) for part in np.split(np.array(widths), ends[:-1])) <= WIDTH:
            return columns
    return 1


def _formulas(curves: Sequence[Curve]) -> list[str]:
    return list(dict.fromkeys(curve.formula for curve in curves if curve.exact is not None))


def _looks(place: int) -> dict[str, Any]:
    """Return the look of measurements: filled points first, hollow ones after."""
    inside = MEASURED if place == 0 else "none"
    return {
        "marker": MARKERS[place],
        "linestyle": "none",
        "markersize": 5.5 if place == 0 else 6.5,
        "color": MEASURED,
        "markerfacecolor": inside,
        "markeredgewidth": 1.3,
    }


def _legend(curves: Sequence[Curve]) -> list[tuple[Line2D, str]]:
    points = [(Line2D([], [], **_looks(place)), curve.label) for place, curve in enumerate(curves)]
    lines = [
        (Line2D([], [], color=EXACT, linewidth=2, linestyle=DASHES[place]), formula)
        for place, formula in enumerate(_formulas(curves))
    ]
    return points + lines


def _draw(axes: Axes, curve: Curve, place: int, formulas: list[str], log: bool) -> None:
    x = np.asarray(curve.x, np.float64)
    if curve.exact is not None:
        at, line = x, curve.exact
        if callable(line):
            at = np.geomspace(x.min(), x.max(), 80) if log else np.linspace(x.min(), x.max(), 80)
            line = line(at)
        dashes = DASHES[formulas.index(curve.formula)]
        axes.plot(at, line, color=EXACT, linewidth=2, linestyle=dashes, zorder=1)
    if curve.low is not None:
        axes.vlines(x, curve.low, curve.high, color=MEASURED, linewidth=1.3, zorder=2)
    axes.plot(x, curve.y, zorder=3, **_looks(place))


def _scale(axes: Axes, name: str, log: bool) -> None:
    axis = getattr(axes, f"{name}axis")
    if log:
        getattr(axes, f"set_{name}scale")("log")
        low, high = getattr(axes, f"get_{name}lim")()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 150 * low else (1,), numticks=7))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(as_number)
    axis.set_tick_params(length=3, color=INK)


def _description(picture: Picture, curves: Sequence[Curve]) -> str:
    points = ", ".join(curve.label for curve in curves)
    return f"{picture.y} against {picture.x}. Points: {points}. Lines: {', '.join(_formulas(curves))}."
