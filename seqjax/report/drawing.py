"""Colors, sizes, axes and labels that all drawings share."""

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from seqjax.report.results import Array
from seqjax.report.svg import GRID, HALO, INK, printable
from seqjax.report.text import number, power

FLOAT32_NORMAL = math.log10(2.0**-126)
FLOAT32_ZERO = math.log10(2.0**-149)
WIDTH = 380.0

# Okabe and Ito's hues. Orange and sky blue are a little darker than the originals, for a contrast of 3:1 on a light and
# on a dark background. Their black is the ink of the theme.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", INK, "#c98500", "#3c9cd6")
DASHES = ("-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 1.2, 1, 1.2, 1, 1.2)))
# As many as dashes, so that a line and its points go together.
MARKERS = ("o", "s", "^", "D", "v")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "seqjax",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.labelsize": 11,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "hatch.linewidth": 0.8,
}

as_power = FuncFormatter(lambda value, _: power(round(value)))
as_number = FuncFormatter(lambda value, _: tick(value))


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


def style() -> Any:
    """Return the context of matplotlib settings for all drawings."""
    return mpl.rc_context(STYLE)  # type: ignore[arg-type]


def axes_at(height: int, top: int, bottom: int, left: int = 58, right: int = 16) -> tuple[Figure, Axes]:
    """Set one pair of axes at margins in pixels, so that neighboring drawings line up."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
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
    note: dict[str, Any] = {
        "fontsize": 9,
        "ha": "right",
        "color": INK,
        "alpha": 0.75,
        "transform": axes.get_yaxis_transform(),
    }
    if low < FLOAT32_NORMAL:
        axes.axhline(FLOAT32_NORMAL, color=INK, linewidth=0.9, linestyle=(0, (2, 2)), alpha=0.75)
        axes.text(0.99, FLOAT32_NORMAL, "smallest normal float32", va="bottom", gid=f"{HALO}-normal", **note)
    if low < FLOAT32_ZERO:
        axes.axhspan(low, FLOAT32_ZERO, color=GRID, alpha=0.6, linewidth=0)
        axes.text(0.99, FLOAT32_ZERO, "float32 holds only 0", va="top", gid=f"{HALO}-zero", **note)


def zero_line(axes: Axes) -> None:
    """Mark zero where the axis shows it."""
    low, high = axes.get_ylim()
    if low < 0 < high:
        axes.axhline(0, color=INK, linewidth=0.8, alpha=0.6)
