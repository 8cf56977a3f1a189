"""Draw gradient profiles as heat maps."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from seqjax.report.aggregate import Array, thin
from seqjax.report.content import Drawn, Panel
from seqjax.report.drawing import (
    FLOAT32_ZERO,
    PAGE,
    Medium,
    as_power,
    axes_at,
    frame_of,
    label_of,
    quarters,
    scaled,
)
from seqjax.report.results import Profile
from seqjax.report.text import power

FLOOR, CEILING = -45.0, 39.0
COLOR_MAP = "gray"
_MOST_COLUMNS, _MOST_POINTS, _MOST_ROW_LABELS = 1024, 100, 10


def heat_map(profile: Profile, scale: tuple[int, int], name: str) -> Panel:
    """Draw one cell's norms by step (across) and training step (upwards, one row per snapshot)."""
    columns = thin(profile.length, _MOST_COLUMNS)
    middle = profile.iqm
    values = middle[:, columns]
    rows = len(profile.steps)

    def draw(medium: Medium) -> Drawn:
        figure, axes = axes_at(height=240, top=30, bottom=48)
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
        areas = (lost, medium.lost, "\\\\"), (~np.isfinite(values), medium.absent, "//")
        for where, color, hatch in areas:
            if where.any():  # matplotlib cannot hatch an area without extent
                axes.add_patch(PathPatch(_outline(where, width), **_pattern(medium, color, hatch)))
        axes.set_xticks(quarters(profile.length))
        shown = thin(rows, _MOST_ROW_LABELS)
        axes.set_yticks(shown, [str(profile.steps[row]) for row in shown])
        axes.set(xlabel="step t", ylabel="training step")
        axes.set_title(f"{label_of(profile.cell)}, T = {profile.length}", loc="left")
        points = thin(profile.length, _MOST_POINTS)
        data = {"z": middle[:, points].round(4), "t": points, "r": profile.steps}
        return Drawn(figure, frame_of(axes) | data)

    label = (
        f"Heat map of gradient norms, {profile.cell}, T = {profile.length}: step t across, "
        f"training step upwards, shades from {power(scale[0])} to {power(scale[1])}."
    )
    return Panel(name, draw, label, profile.cell, None, profile.cell, profile.length)


def color_bar(values: Array, scale: tuple[int, int], name: str) -> Panel:
    """Draw the scale that several heat maps share, with a key to the hatchings they need."""
    low, high = scale
    wanted = {
        "float32 holds only 0": bool(np.any(np.isfinite(values) & (values < FLOAT32_ZERO))),
        "exactly 0, or masked": not np.all(np.isfinite(values)),
    }

    def draw(medium: Medium) -> Drawn:
        looks = (_pattern(medium, medium.lost, "\\\\"), _pattern(medium, medium.absent, "//"))
        keys = [
            Patch(label=key, **look) for (key, here), look in zip(wanted.items(), looks, strict=True) if here
        ]
        height, bottom = (98, 58) if keys else (78, 38)
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
        axes.set_title("gradient norm", loc="left", fontweight="normal", pad=scaled(5))
        if keys:
            figure.legend(
                handles=keys,
                loc="lower left",
                ncols=2,
                frameon=False,
                borderaxespad=0.2,
                columnspacing=1.0,
                handlelength=1.4,
            )
        return Drawn(figure)

    return Panel(name, draw, f"Scale of shades from {power(low)} to {power(high)}.", "scale")


def _pattern(medium: Medium, color: str, hatch: str) -> dict[str, Any]:
    """Return the looks of a hatched area; on the page the SVG gets small patterns in place of the colors."""
    if medium is PAGE:
        return {"facecolor": color, "linewidth": 0}
    return {"facecolor": color, "edgecolor": "#ffffff", "hatch": 3 * hatch, "linewidth": 0}


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
