"""Draw gradient profiles as SVG text that suits a light and a dark page alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from seqjax.report.svg import ABSENT, GRID, HALO, INK, LOST, printable, write

Array = NDArray[np.float64]

FLOAT32_NORMAL = math.log10(2.0**-126)
FLOAT32_ZERO = math.log10(2.0**-149)
COLOUR_FLOOR, COLOUR_CEILING = -45.0, 39.0
CURVE_FLOOR, CURVE_CEILING = -60.0, 60.0
WIDTH = 380.0

# Okabe and Ito's hues; orange, sky blue and the dark theme's blue need 3:1 on either background, so orange
# and sky blue are a little darker than the originals. Their black is the ink of the theme.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", INK, "#c98500", "#3c9cd6")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 2)),
    (0, (1.5, 1.5)),
    (0, (7, 2, 1.5, 2)),
    (0, (3, 1.2, 1, 1.2, 1, 1.2)),
)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_COLUMNS, _MOST_POINTS, _MOST_ROW_LABELS = 1024, 400, 10
_STYLE = {
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


@dataclass(frozen=True)
class Profile:
    """Gradient norms of one cell at one length: log10 values by seed, snapshot and step."""

    cell: str
    length: int
    steps: tuple[int, ...]
    values: Array

    def mean(self) -> Array:
        """Average over seeds in the log domain, by snapshot and step; masked seeds are left out."""
        known = ~np.isnan(self.values)
        with np.errstate(invalid="ignore"):
            total = np.where(known, self.values, 0.0).sum(axis=0)
        return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def power(exponent: int) -> str:
    """Write a power of ten with superscript digits."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def limits(values: Array, floor: float, ceiling: float) -> tuple[int, int]:
    """Whole decades that hold every finite value, cut to `floor` and `ceiling`."""
    values = values[np.isfinite(values)]
    if not values.size:
        return -1, 0
    low = math.floor(min(max(values.min(), floor), ceiling - 1))
    return low, max(math.ceil(min(values.max(), ceiling)), low + 1)


def heat_map(profile: Profile, scale: tuple[int, int], name: str) -> str:
    """Draw one cell's norms by step (across) and training step (upwards, one row per snapshot)."""
    columns = _thin(profile.length, _MOST_COLUMNS)
    values = profile.mean()[:, columns]
    rows = len(profile.steps)
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure, axes = _axes(height=236, top=30, bottom=44, left=58, right=16)
        axes.imshow(
            np.ma.masked_invalid(values),
            cmap=_colour_map(),
            vmin=scale[0],
            vmax=scale[1],
            aspect="auto",
            origin="lower",
            interpolation="none",
            extent=(-0.5, profile.length - 0.5, -0.5, rows - 0.5),
        )
        width = profile.length / len(columns)
        lost = np.isfinite(values) & (values < FLOAT32_ZERO)
        axes.add_patch(PathPatch(_outline(lost, width), facecolor=LOST, linewidth=0))
        axes.add_patch(PathPatch(_outline(~np.isfinite(values), width), facecolor=ABSENT, linewidth=0))
        axes.set_xticks(_quarters(profile.length))
        shown = _thin(rows, _MOST_ROW_LABELS)
        axes.set_yticks(shown, [str(profile.steps[row]) for row in shown])
        axes.tick_params(length=3)
        axes.set(xlabel="step t", ylabel="training step")
        axes.set_title(f"{_label(profile.cell)}, T = {profile.length}", loc="left", pad=8)
        label = (
            f"Heat map of gradient norms, {profile.cell}, T = {profile.length}: step t across, "
            f"training step upwards, colours from {power(scale[0])} to {power(scale[1])}."
        )
        return write(figure, name, label)


def colour_bar(values: Array, scale: tuple[int, int], name: str) -> str:
    """Draw the colour scale that several heat maps share, with a key to the hatchings they need."""
    low, high = scale
    keys = []
    if np.any(np.isfinite(values) & (values < FLOAT32_ZERO)):
        keys.append(Patch(label="float32 holds only 0", facecolor=LOST, linewidth=0))
    if not np.all(np.isfinite(values)):
        keys.append(Patch(label="exactly 0, or masked", facecolor=ABSENT, linewidth=0))
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure, axes = _axes(height=94 if keys else 74, top=26, bottom=54 if keys else 34, left=14, right=22)
        axes.imshow(
            np.linspace(low, high, 256)[None],
            cmap=_colour_map(),
            aspect="auto",
            interpolation="none",
            extent=(low, high, 0, 1),
        )
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power(round(value))))
        axes.set_title("gradient norm", loc="left", fontsize=11, fontweight="normal", pad=5)
        if keys:
            figure.legend(
                handles=keys, loc="lower left", ncols=2, frameon=False, fontsize=10, borderaxespad=0.2
            )
        return write(figure, name, f"Colour scale from {power(low)} to {power(high)}.")


def curves(
    profiles: Sequence[Profile],
    places: Mapping[str, int],
    snapshot: int,
    scale: tuple[int, int],
    name: str,
    by_lag: bool,
) -> str:
    """Draw one line per cell at one snapshot, with a band from the lowest to the highest seed.

    Args:
        profiles: the cells' profiles, all of one length.
        places: each cell's place in the study, which fixes its colour and dashes.
        snapshot: 0 for initialisation, -1 for the last one.
        scale: decades at the lower and upper end of the vertical axis.
        name: prefix of the ids inside the drawing.
        by_lag: whether the horizontal axis is the distance to the last step, or the step itself.
    """
    length = profiles[0].length
    points = _thin(length, _MOST_POINTS)
    title = "at initialisation" if snapshot == 0 else f"after {profiles[0].steps[-1]} training steps"
    names = [_label(profile.cell) for profile in profiles]
    # So many names fit beside each other, with a line of some 40 pixels before each.
    legend_columns = max(1, min(len(names), 4, int(WIDTH / (40 + 7.5 * max(map(len, names))))))
    legend_rows = math.ceil(len(names) / legend_columns)
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure, axes = _axes(
            height=276 + 18 * legend_rows, top=30, bottom=52 + 18 * legend_rows, left=58, right=16
        )
        handles = []
        for profile in profiles:
            place = places[profile.cell]
            colour, dashes = _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)]
            seeds = profile.values[:, snapshot, :]
            # Points at minus infinity have no place on the axis: the line stops there.
            mean, least, most = (
                np.where(np.isfinite(line), line, np.nan)[:: -1 if by_lag else 1][points]
                for line in (profile.mean()[snapshot], np.fmin.reduce(seeds), np.fmax.reduce(seeds))
            )
            axes.fill_between(points, least, most, color=colour, alpha=0.22, linewidth=0)
            axes.plot(points, mean, color=colour, linestyle=dashes, linewidth=1.8)
            handles.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=1.8))
        _float32_marks(axes, scale[0])
        axes.set_ylim(scale[0], scale[1] + 0.03 * (scale[1] - scale[0]))
        axes.set_xlim(0, length - 1 if length > 1 else 1)
        axes.set_xticks(_quarters(length))
        axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power(round(value))))
        axes.grid(axis="y", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("gradient norm")
        axes.set_xlabel("lag: steps back from the last step" if by_lag else "step t")
        axes.set_title(f"T = {length}, {title}", loc="left", pad=8)
        figure.legend(
            handles,
            names,
            loc="lower center",
            frameon=False,
            fontsize=11,
            ncols=legend_columns,
            handlelength=2.6,
            columnspacing=1.2,
            borderaxespad=0.1,
            labelspacing=0.3,
        )
        cells = ", ".join(profile.cell for profile in profiles)
        against = "lag" if by_lag else "step"
        return write(figure, name, f"Gradient norm against {against}, T = {length}, {title}: {cells}.")


def _colour_map() -> Colormap:
    return mpl.colormaps["viridis"]


def _label(text: str) -> str:
    """Make a name fit for a drawing: XML allows no control characters, and room is short."""
    text = printable(text)
    return text if len(text) <= 22 else text[:21] + "…"


def _quarters(length: int) -> list[int]:
    return sorted({min(part * length // 4, length - 1) for part in range(5)})


def _thin(length: int, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` steps, evenly spread, first and last included."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(np.int64))


def _axes(height: int, top: int, bottom: int, left: int, right: int) -> tuple[Figure, Axes]:
    """Set one pair of axes at margins in pixels, so that neighbouring drawings line up."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    box = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (top + bottom) / height)
    return figure, figure.add_axes(box)


def _outline(mask: NDArray[np.bool_], width: float) -> Path:
    """Outline the true entries of a mask by row and column, one box per run of columns."""
    vertices: list[tuple[float, float]] = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
        for start, stop in edges.reshape(-1, 2) * width - 0.5:
            bottom, top = row - 0.5, row + 0.5
            vertices += [(start, bottom), (stop, bottom), (stop, top), (start, top), (start, bottom)]
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * (len(vertices) // 5)
    return Path(np.array(vertices).reshape(-1, 2), codes)


def _float32_marks(axes: Axes, low: int) -> None:
    """Mark the smallest normal float32, and the range below the smallest float32, where they are in view."""
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
