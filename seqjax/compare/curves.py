"""Draw errors by time step beside their tolerance, as SVG for a light and a dark page."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from seqjax.compare.difference import Difference
from seqjax.report.drawing import between_gaps
from seqjax.report.svg import GRID, INK, printable, write
from seqjax.report.text import power

_WIDTH, _HEIGHT, MOST_POINTS = 440, 300, 600
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "seqjax",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
}


def draw(difference: Difference, name: str) -> str:
    """Return an SVG element: relative error and tolerance by step, with a mark at the first step past the tolerance."""
    length = len(difference.errors)
    with np.errstate(divide="ignore"):
        errors, tolerances = (np.log10(line) for line in (difference.errors, difference.tolerances))
    # Of many steps, each stretch is drawn as one point: the step with the largest ratio of error to tolerance.
    stretches = np.array_split(np.arange(length), min(length, MOST_POINTS))
    steps = np.array([s[np.argmax(np.nan_to_num(errors[s] - tolerances[s], nan=np.inf))] for s in stretches])
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), dpi=72)
        bottom = 70 if difference.first is None else 88  # a legend of one or two lines
        axes = figure.add_axes((58 / _WIDTH, bottom / _HEIGHT, 1 - 74 / _WIDTH, 1 - (bottom + 34) / _HEIGHT))
        drawn = [_finite(line[steps]) for line in (tolerances, errors)]
        axes.plot(steps, drawn[0], color="#009e73", linestyle=(0, (6, 2)), linewidth=1.8, label="tolerance")
        axes.plot(steps, drawn[1], color="#0072b2", linewidth=1.8, label="difference of A and B")
        alone = between_gaps(drawn[1])
        axes.plot(steps[alone], drawn[1][alone], "o", color="#0072b2", markersize=5, markeredgewidth=0)
        if difference.first is not None:
            first = f"first past the tolerance: step {difference.first}"
            looks: dict[str, Any] = {"color": "#d55e00", "linewidth": 1.6, "linestyle": (0, (1.5, 1.5))}
            axes.axvline(difference.first, label=first, clip_on=False, **looks)
        shown = np.concatenate(drawn)
        shown = shown[~np.isnan(shown)]
        low, high = (np.floor(shown.min() - 0.2), np.ceil(shown.max() + 0.2)) if shown.size else (-8, 0)
        axes.set(ylim=(low, high), xlim=(0, max(length - 1, 1)))
        axes.set(xlabel="step t", ylabel="relative difference")
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: power(round(v))))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(printable(difference.label), loc="left", pad=8, fontsize=12, fontweight="bold")
        figure.legend(
            loc="lower center", frameon=False, fontsize=11, ncols=2, columnspacing=1.2, borderaxespad=0.1
        )
        about = "difference of A and B by step, and its tolerance, on a logarithmic axis."
        return write(figure, name, f"{difference.label}: {about}")


def _finite(line: np.ndarray) -> np.ndarray:
    """Return the line with NaN, a gap, where a difference is exactly zero or not finite: a log axis has neither."""
    return np.where(np.isfinite(line), line, np.nan)
