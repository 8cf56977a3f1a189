"""Draw scores of 0 to 1 around a circle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqjax.report.blocks import Panel
from seqjax.report.drawing import COLOURS, axes_at, label_of, style
from seqjax.report.frames import Array
from seqjax.report.svg import GRID, INK, write


def radar(cell: str, scores: Array, middle: Array, names: Sequence[str], place: int, name: str) -> Panel:
    """Draw one cell's scores as a polygon, the middle of all cells dashed; a score that is not known leaves a gap.

    Args:
        cell: its name.
        scores: one per name, 0 at the centre, 1 at the rim, NaN where not known.
        middle: likewise, of all cells.
        names: of the axes.
        place: the cell's place in the study, for its colour.
        name: of the file, and prefix of the ids.
    """
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    spokes = np.stack([np.cos(angles), np.sin(angles)], 1)
    colour = COLOURS[place % len(COLOURS)]
    with style():
        figure, axes = axes_at(270, top=34, bottom=10, left=60, right=60)
        turn = np.linspace(0, 2 * np.pi, 100)
        for radius in (0.25, 0.5, 0.75, 1.0):
            axes.plot(radius * np.cos(turn), radius * np.sin(turn), color=GRID, linewidth=0.8, zorder=1)
        for spoke, text in zip(spokes, names, strict=True):
            axes.plot(*zip((0, 0), spoke, strict=True), color=GRID, linewidth=0.8, zorder=1)
            side = "center" if abs(spoke[0]) < 0.1 else ("left" if spoke[0] > 0 else "right")
            axes.text(1.08 * spoke[0], 1.08 * spoke[1], text, ha=side, va="center", fontsize=10)
        own = {"color": colour, "linewidth": 1.8, "marker": "o", "markersize": 4}
        others = {"color": INK, "linewidth": 1.0, "linestyle": (0, (3, 3)), "alpha": 0.6}
        lines: list[tuple[Array, dict[str, Any]]] = [(middle, others), (scores, own)]
        for values, looks in lines:
            closed = np.concatenate([values, values[:1]])[:, None] * np.concatenate([spokes, spokes[:1]])
            axes.plot(closed[:, 0], closed[:, 1], **looks, zorder=3)
        if np.isfinite(scores).all():
            axes.fill(*(scores[:, None] * spokes).T, color=colour, alpha=0.15, linewidth=0, zorder=2)
        axes.set(xlim=(-1.3, 1.3), ylim=(-1.15, 1.15), aspect="equal")
        axes.set_axis_off()
        figure.text(8 / 380, 1 - 18 / 270, label_of(cell), fontsize=12, fontweight="bold", color=INK)
        known = ", ".join(f"{n} {s:.2f}" for n, s in zip(names, scores, strict=True) if not math.isnan(s))
        return Panel(name, write(figure, name, f"Scores of {cell}: {known}."), None, cell)
