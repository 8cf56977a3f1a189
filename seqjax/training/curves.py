"""Draw the learning curves of a run from its log."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

from seqjax.files import put
from seqjax.training.evaluation import EVALUATION

MOST_POINTS = 2000
"""How many points of a curve are drawn; a picture has fewer columns of pixels."""
NOT_DRAWN = ("step", "seconds", "finite", "consecutive", "event", "reason")


def draw_curves(log: str | PathLike, out: str | PathLike) -> Path:
    r"""Draw each metric of a log over the steps in a panel of its own, and return the path of the picture.

    A panel shows training and evaluation together. Dotted lines mark skipped steps. The axis is logarithmic when all
    values are positive and span more than a factor of 20. Of a long run the picture shows the lowest and the highest
    value of each of 1,000 pieces.

    Args:
        log: a ``metrics.jsonl``.
        out: the picture; its suffix sets the format.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.training.curves import draw_curves
        >>> log = pathlib.Path(tempfile.mkdtemp(), "metrics.jsonl")
        >>> _ = log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5, "evaluation/loss": 1.7}\n')
        >>> draw_curves(log, log.with_name("curves.svg")).name
        'curves.svg'
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    series, skipped = _series(Path(log))
    names = list(dict.fromkeys(name.removeprefix(EVALUATION) for name in series))
    columns = min(len(names), 2) or 1
    rows = -(-len(names) // columns) or 1
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "seqjax"}):
        figure = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(grid.flat, names):
            shown: list[float] = []
            for key, label, look in (
                (name, "training", {"linewidth": 1.0, "color": "#0072b2"}),
                (EVALUATION + name, "evaluation", {"marker": "o", "markersize": 3, "color": "#d55e00"}),
            ):
                if key in series:
                    steps, values = zip(*thinned(series[key]), strict=True)
                    axes.plot(steps, values, label=label, **look)
                    shown += values
            axes.vlines(
                skipped[:: 1 + len(skipped) // MOST_POINTS],
                0,
                1,
                transform=axes.get_xaxis_transform(),
                color="#999999",
                linewidth=0.6,
                linestyle=":",
            )
            if min(shown) > 0 and max(shown) > 20 * min(shown):
                axes.set_yscale("log")
            axes.set(title=name, xlabel="step")
            axes.grid(linewidth=0.4, alpha=0.5)
            axes.legend(frameon=False)
        out = Path(out)
        metadata = {"Date": None} if out.suffix == ".svg" else None
        # The temporary file has another ending, so the format is given.
        put(out, lambda place: figure.savefig(place, format=out.suffix[1:], metadata=metadata))
    return out


def thinned(points: list[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """Return about that many points of a curve at most: the lowest and the highest of each piece, in order.

    Example:
        >>> from seqjax.training.curves import thinned
        >>> thinned([(0, 1.0), (1, 3.0), (2, 2.0), (3, 0.0), (4, 0.5), (5, 0.2)], most=4)
        [(0, 1.0), (1, 3.0), (3, 0.0), (4, 0.5)]
    """
    if len(points) <= most:
        return points
    size = -(-2 * len(points) // most)
    pieces = (points[start : start + size] for start in range(0, len(points), size))
    return [
        point
        for piece in pieces
        for point in sorted({min(piece, key=lambda p: p[1]), max(piece, key=lambda p: p[1])})
    ]


def _series(log: Path) -> tuple[dict[str, list[tuple[int, float]]], list[int]]:
    """Return ``(step, value)`` of each metric that is a number, and the skipped steps."""
    series: dict[str, list[tuple[int, float]]] = {}
    skipped = []
    for text in log.read_text(encoding="utf-8").splitlines():
        line: dict[str, Any] = json.loads(text)
        if line.get("event") == "skipped":
            skipped.append(line["step"])
        for name, value in line.items():
            if name not in NOT_DRAWN and isinstance(value, int | float):
                series.setdefault(name, []).append((line["step"], float(value)))
    return series, skipped
