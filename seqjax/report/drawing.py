"""Colors, sizes, axes and labels that all drawings share."""

import math
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from seqjax.report.aggregate import Array
from seqjax.report.svg import ABSENT, GRID, HALO, INK, LOST, printable
from seqjax.report.text import number, power, with_unit

FLOAT32_NORMAL = math.log10(2.0**-126)
FLOAT32_ZERO = math.log10(2.0**-149)
WIDTH = 380.0
"""Width of a drawing on the page in pixels; all sizes below are for this width."""
TEXT = 13.0
"""Size of all text in pixels: 12 or more where a narrow page shrinks a drawing to 352 pixels (``page.css``)."""

# A hue stands for a cell and for nothing else. Okabe and Ito's without black, and violet. Orange and sky blue
# are a little darker than the originals, for a contrast of 3:1 on a light and on a dark background.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a63d2", "#c98500", "#3c9cd6")
GREY = "#7d858d"
"""Lines and points that stand for no cell."""
DASHES = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 1.2, 1, 1.2, 1, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
"""Markers by pattern; the second round of them is hollow."""


class Medium(NamedTuple):
    """Where drawings appear: their width in points, and the colors of text and lines, grid, and two patterns."""

    width: float
    ink: str
    grid: str
    lost: str
    absent: str


PAGE = Medium(WIDTH, INK, GRID, LOST, ABSENT)
"""The report's page, whose colors `seqjax.report.svg` replaces by those of the theme."""


def paper(width: float) -> Medium:
    """Return the medium of a printed column of this width in inches: black text, no pattern of the page."""
    return Medium(72 * width, "#000000", "#d5d8dc", "#000000", "#a9adb2")


def color_of(place: int | None) -> str:
    """Return the hue of the cell at this place of a study; grey for None."""
    return GREY if place is None else COLORS[place % len(COLORS)]


def style(medium: Medium = PAGE) -> Any:
    """Return the context of matplotlib settings in which drawings are made; sizes scale with the medium's width."""
    scale = medium.width / WIDTH
    sizes = {
        "font.size": TEXT,
        "axes.titlesize": TEXT,
        "axes.labelsize": TEXT,
        "xtick.labelsize": TEXT,
        "ytick.labelsize": TEXT,
        "legend.fontsize": TEXT,
        "axes.titlepad": 8,
        "axes.labelpad": 4,
        "xtick.major.pad": 3.5,
        "ytick.major.pad": 3.5,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "xtick.minor.size": 2,
        "ytick.minor.size": 2,
        "axes.linewidth": 0.8,
        "xtick.major.width": 0.8,
        "ytick.major.width": 0.8,
        "xtick.minor.width": 0.6,
        "ytick.minor.width": 0.6,
        "grid.linewidth": 0.8,
        "lines.linewidth": 1.8,
        "lines.markersize": 6,
    }
    colors = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), medium.ink
    )
    looks: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "seqjax",
        "pdf.fonttype": 42,
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],
        "axes.titleweight": "bold",
        "grid.color": medium.grid,
        "figure.figsize": (medium.width / 72, 1),
        "figure.dpi": 72,
    }
    return mpl.rc_context(looks | colors | {name: scale * size for name, size in sizes.items()})  # type: ignore[arg-type]


def scaled(size: float) -> float:
    """Return a size in pixels of the page in the points of the current medium."""
    return size * 72 * mpl.rcParams["figure.figsize"][0] / WIDTH


as_power = FuncFormatter(lambda value, _: power(round(value)))
as_number = FuncFormatter(lambda value, _: tick(value))


def as_unit(unit: str) -> FuncFormatter:
    """Return a formatter of bytes ("B") or seconds ("s") with prefixes."""
    return FuncFormatter(lambda value, _: with_unit(value, unit, short=True))


def tick(value: float) -> str:
    """Format a number at an axis: short, with a power of ten where it is far from one."""
    if value == 0:
        return "0"
    exponent = math.log10(abs(value))
    if value > 0 and (exponent >= 4 or exponent < -2) and abs(exponent - round(exponent)) < 1e-9:
        return power(round(exponent))
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, _, digits = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}×{power(int(digits))}".replace("-", "−")
    text = number(value, 3)
    return text.rstrip("0").rstrip(".") if "." in text and "×" not in text else text


def axes_at(
    height: float, top: float, bottom: float, left: float = 62, right: float = 22
) -> tuple[Figure, Axes]:
    """Set one pair of axes at margins in pixels of the page, so that neighboring drawings line up."""
    figure = Figure(figsize=(scaled(WIDTH) / 72, scaled(height) / 72), dpi=72)
    box = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (top + bottom) / height)
    return figure, figure.add_axes(box)


def frame_of(axes: Axes) -> dict[str, Any]:
    """Return the position of the axes in pixels and their limits, for the page's script."""
    width, height = (72 * side for side in axes.figure.get_size_inches())  # type: ignore[union-attr]
    box = axes.get_position()
    return {
        "box": [box.x0 * width, (1 - box.y1) * height, box.x1 * width, (1 - box.y0) * height],
        "x": [*axes.get_xlim(), int(axes.get_xscale() == "log")],
        "y": [*axes.get_ylim(), int(axes.get_yscale() == "log")],
    }


def limits(values: Array, floor: float, ceiling: float) -> tuple[int, int]:
    """Return whole decades that hold every finite value, clipped to `floor` and `ceiling`."""
    values = values[np.isfinite(values)]
    if not values.size:
        return -1, 0
    low = math.floor(min(max(values.min(), floor), ceiling - 1))
    return low, max(math.ceil(min(values.max(), ceiling)), low + 1)


def label_of(text: str, most: int = 22) -> str:
    """Return a name without control characters, which XML does not allow, and cut to `most` characters."""
    text = printable(text)
    if len(text) <= most:
        return text
    own = ".py:" in text  # the end of a path is its most specific part
    return "…" + text[1 - most :] if own else text[: most - 1] + "…"


def quarters(length: int) -> list[int]:
    """Return ticks at the quarters of a sequence."""
    return sorted({min(part * length // 4, length - 1) for part in range(5)})


def between_gaps(y: Array) -> list[int]:
    """Return the indices of points without finite neighbors, which a line does not show."""
    known = np.concatenate([[False], np.isfinite(y), [False]])
    return np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:]).tolist()


def float32_marks(axes: Axes, low: float) -> None:
    """Mark the smallest normal float32, and the range below the smallest float32, where the axis shows them."""
    note: dict[str, Any] = {"ha": "right", "alpha": 0.75, "transform": axes.get_yaxis_transform()}
    if low < FLOAT32_NORMAL:
        looks: dict[str, Any] = {"color": mpl.rcParams["text.color"], "linestyle": (0, (2, 2)), "alpha": 0.75}
        axes.axhline(FLOAT32_NORMAL, linewidth=scaled(0.9), **looks)
        axes.text(0.99, FLOAT32_NORMAL, "smallest normal float32", va="bottom", gid=f"{HALO}-normal", **note)
    if low < FLOAT32_ZERO:
        axes.axhspan(low, FLOAT32_ZERO, color=mpl.rcParams["grid.color"], alpha=0.6, linewidth=0)
        axes.text(0.99, FLOAT32_ZERO, "float32 holds only 0", va="top", gid=f"{HALO}-zero", **note)


def zero_line(axes: Axes) -> None:
    """Mark zero where the axis shows it."""
    low, high = axes.get_ylim()
    if low < 0 < high:
        axes.axhline(0, color=mpl.rcParams["text.color"], linewidth=scaled(0.8), alpha=0.6)
