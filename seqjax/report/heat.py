"""Draw gradient profiles as heat maps."""

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from seqjax.report.aggregate import Array, thin
from seqjax.report.content import Panel
from seqjax.report.drawing import FLOAT32_ZERO, as_power, axes_at, frame_of, label_of, quarters, style
from seqjax.report.results import Profile
from seqjax.report.svg import ABSENT, LOST, write
from seqjax.report.text import power

FLOOR, CEILING = -45.0, 39.0
COLOR_MAP = "viridis"
_MOST_COLUMNS, _MOST_POINTS, _MOST_ROW_LABELS = 1024, 100, 10


def heat_map(profile: Profile, scale: tuple[int, int], name: str) -> Panel:
    """Draw one cell's norms by step (across) and training step (upwards, one row per snapshot)."""
    columns = thin(profile.length, _MOST_COLUMNS)
    middle = profile.iqm
    values = middle[:, columns]
    rows = len(profile.steps)
    with style():
        figure, axes = axes_at(height=236, top=30, bottom=44)
        axes.imshow(
            np.ma.masked_invalid(values),
            cmap=COLOR_MAP,
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
        axes.set_xticks(quarters(profile.length))
        shown = thin(rows, _MOST_ROW_LABELS)
        axes.set_yticks(shown, [str(profile.steps[row]) for row in shown])
        axes.tick_params(length=3)
        axes.set(xlabel="step t", ylabel="training step")
        axes.set_title(f"{label_of(profile.cell)}, T = {profile.length}", loc="left", pad=8)
        label = (
            f"Heat map of gradient norms, {profile.cell}, T = {profile.length}: step t across, "
            f"training step upwards, colors from {power(scale[0])} to {power(scale[1])}."
        )
        svg = write(figure, name, label)
    points = thin(profile.length, _MOST_POINTS)
    data = frame_of(axes) | {"z": middle[:, points].round(4), "t": points, "r": profile.steps}
    return Panel(name, svg, data, profile.cell, profile.length)


def color_bar(values: Array, scale: tuple[int, int], name: str) -> Panel:
    """Draw the color scale that several heat maps share, with a key to the hatchings they need."""
    low, high = scale
    keys = []
    if np.any(np.isfinite(values) & (values < FLOAT32_ZERO)):
        keys.append(Patch(label="float32 holds only 0", facecolor=LOST, linewidth=0))
    if not np.all(np.isfinite(values)):
        keys.append(Patch(label="exactly 0, or masked", facecolor=ABSENT, linewidth=0))
    with style():
        height, bottom = (94, 54) if keys else (74, 34)
        figure, axes = axes_at(height=height, top=26, bottom=bottom, left=14, right=22)
        axes.imshow(
            np.linspace(low, high, 256)[None],
            cmap=colormaps[COLOR_MAP],
            aspect="auto",
            interpolation="none",
            extent=(low, high, 0, 1),
        )
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(as_power)
        axes.set_title("gradient norm", loc="left", fontsize=11, fontweight="normal", pad=5)
        if keys:
            figure.legend(
                handles=keys, loc="lower left", ncols=2, frameon=False, fontsize=10, borderaxespad=0.2
            )
        return Panel(name, write(figure, name, f"Color scale from {power(low)} to {power(high)}."))


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
