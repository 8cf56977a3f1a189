"""Place markers side by side where they would cover each other, and names at the ends of lines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from seqjax.report.aggregate import Array
from seqjax.report.drawing import scaled

REACH = 7.0
"""Markers closer than this in both directions cover each other, in pixels of the page."""
LINE = 15.0
"""Height of a line of text in pixels of the page."""


def dodge(axes: Axes, drawn: Sequence[tuple[Line2D, Any]]) -> None:
    """Move markers of different lines apart, sideways around their middle, where they would cover each other.

    Args:
        axes: the axes, with their final scales and limits.
        drawn: lines with markers, each with its intervals (a collection of vertical lines) or None.
    """
    places = [axes.transData.transform(np.column_stack(line.get_data())) for line, _ in drawn]
    reach = scaled(REACH)
    spacing = np.array([_spacing(each[:, 0], reach) for each in places])
    owners = np.repeat(np.arange(len(places)), [len(each) for each in places])
    points = np.concatenate(places or [np.zeros((0, 2))])
    moved = points[:, 0].copy()
    for group in _groups(points, owners, np.minimum(reach, spacing / 2), reach):
        ranks = np.argsort(np.argsort(owners[group], kind="stable"), kind="stable")
        step = min(reach, 0.6 * spacing[owners[group]].min() / len(group))
        moved[group] = points[group, 0].mean() + (ranks - (len(group) - 1) / 2) * step
    for i, (line, bars) in enumerate(drawn):
        own = np.column_stack([moved[owners == i], points[owners == i, 1]])
        if np.array_equal(own, places[i], equal_nan=True):
            continue
        across = axes.transData.inverted().transform(own)[:, 0]
        line.set_xdata(np.where(np.isfinite(across), across, np.asarray(line.get_xdata(), float)))
        if bars is not None:
            segments = [s if len(s) else np.full((2, 2), np.nan) for s in bars.get_segments()]
            bars.set_segments([[(x, s[0][1]), (x, s[-1][1])] for x, s in zip(across, segments, strict=True)])


def _spacing(across: Array, reach: float) -> float:
    """Return the smallest distance between neighbors of one line, at most several markers."""
    gaps = np.diff(np.unique(across[np.isfinite(across)]))
    return float(min(gaps.min(initial=20 * reach), 20 * reach))


def _groups(points: Array, owners: Any, across: Array, upwards: float) -> list[Any]:
    """Return the sets of points of different lines that cover each other, directly or by way of others."""
    groups: list[set[int]] = []
    known = np.flatnonzero(np.isfinite(points).all(1))
    for i in known:
        near = np.abs(points[known] - points[i])
        close = (near[:, 0] < np.minimum(across[owners[known]], across[owners[i]])) & (near[:, 1] < upwards)
        own = {int(i), *map(int, known[close & (owners[known] != owners[i])])}
        touching = [group for group in groups if group & own]
        groups = [group for group in groups if not group & own] + [own.union(*touching)]
    return [np.array(sorted(group)) for group in groups if len(group) > 1]


def label_ends(axes: Axes, lines: Sequence[Line2D], names: Sequence[str]) -> None:
    """Write the name of each line to the right of the axes, as close to its end as the other names allow."""
    box = axes.get_window_extent()
    low, high = box.y0 + scaled(LINE) / 2, box.y1 - scaled(LINE) / 2
    ends = []
    for line, name in zip(lines, names, strict=True):
        x, y = (np.asarray(values, float) for values in line.get_data())
        known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if known.size:
            end = axes.transData.transform((x[known[-1]], y[known[-1]]))
            ends.append((line, name, float(end[0]), float(np.clip(end[1], box.y0, box.y1))))
    heights = spread_out(np.array([end[3] for end in ends]), scaled(LINE), low, high)
    to_axes = axes.transAxes.inverted()
    for (line, name, across, up), height in zip(ends, heights, strict=True):
        turn = box.x1 + scaled(3), box.x1 + scaled(12)
        path = to_axes.transform([(across, up), (turn[0], up), (turn[1], height)])
        look: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
        lead = Line2D(
            *path.T, color=line.get_color(), linewidth=scaled(0.8), gid=f"{line.get_gid()}-lead", **look
        )
        axes.add_line(lead)
        axes.text(path[2, 0] + 0.01, path[2, 1], name, va="center", gid=f"{line.get_gid()}-end", **look)


def spread_out(wanted: Array, gap: float, low: float, high: float) -> Array:
    """Return places at least `gap` apart, in the order of those wanted and as close to them as possible.

    Example:
        >>> spread_out(np.array([5.0, 5.0, 20.0]), 4.0, 0.0, 30.0)
        array([ 3.,  7., 20.])
    """
    if not wanted.size:
        return wanted
    from scipy.optimize import isotonic_regression

    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    # Places with the gaps taken out may not decrease: the closest such sequence is the isotonic regression.
    free = np.clip(isotonic_regression(wanted[order] - steps).x, low, max(low, high - steps[-1]))
    found = np.empty(len(wanted))
    found[order] = free + steps
    return found
