"""Windows of time series for a forecaster: what is known before an origin, and what follows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Origin = tuple[int, int]
"""The number of a series, and the first of its steps that is not known."""


class Span(NamedTuple):
    """A series ``[N]`` float64, and the first step that is to be forecast."""

    values: np.ndarray
    begin: int


class Windows(NamedTuple):
    """B windows, each shifted and scaled by what is known of it.

    Attributes:
        xs: the last T known values ``[T, B, 1]`` float32; those of a shorter series stand first, and zeros follow.
        mask: where a value is known, ``[T, B]``.
        targets: the F values that follow, ``[B, F]`` float32.
        center: the mean of the known values, ``[B]`` float64.
        width: their standard deviation, ``[B]``; of constant values, the size of the constant, and 1 for zeros.
    """

    xs: np.ndarray
    mask: np.ndarray
    targets: np.ndarray
    center: np.ndarray
    width: np.ndarray


def windows(spans: Sequence[Span], origins: Sequence[Origin], length: int, horizon: int) -> Windows:
    """Return the windows at some origins.

    Nothing of a window depends on the values after its origin, but for the targets.

    Args:
        spans: the series.
        origins: the origins; with a horizon of 0 an origin may be the end of its series.
        length: T, the largest number of known values.
        horizon: F, the number of targets.

    Example:
        >>> import numpy as np
        >>> from seqjax.training.applications.windows import Span, windows
        >>> found = windows([Span(np.array([1.0, 3.0, 5.0]), 2)], [(0, 2)], length=3, horizon=1)
        >>> found.xs[:, 0, 0], found.targets[0], found.center, found.width
        (array([-1.,  1.,  0.], dtype=float32), array([3.], dtype=float32), array([2.]), array([1.]))
    """
    count = len(origins)
    xs, mask = np.zeros((length, count, 1), np.float32), np.zeros((length, count), bool)
    targets = np.zeros((count, horizon), np.float32)
    center, width = np.zeros(count), np.ones(count)
    for place, (number, origin) in enumerate(origins):
        values = spans[number].values
        known = values[max(0, origin - length) : origin]
        center[place], width[place] = known.mean(), _width(known)
        xs[: len(known), place, 0] = (known - center[place]) / width[place]
        mask[: len(known), place] = True
        targets[place] = (values[origin : origin + horizon] - center[place]) / width[place]
    return Windows(xs, mask, targets, center, width)


def _width(known: np.ndarray) -> float:
    size, deviation = float(np.abs(known).max()), float(known.std())
    return deviation if deviation > 1e-9 * size else size or 1.0


def origins_of(spans: Sequence[Span], horizon: int, every: int = 1) -> np.ndarray:
    """Return all origins ``[M, 2]`` whose targets are in the spans, every so many steps.

    Example:
        >>> import numpy as np
        >>> from seqjax.training.applications.windows import Span, origins_of
        >>> origins_of([Span(np.zeros(6), 2), Span(np.zeros(3), 2)], horizon=2).tolist()
        [[0, 2], [0, 3], [0, 4]]
    """
    found = [
        np.stack([np.full(len(steps), number), steps], 1)
        for number, span in enumerate(spans)
        for steps in [np.arange(span.begin, len(span.values) - horizon + 1, every)]
    ]
    return np.concatenate(found) if found else np.zeros((0, 2), int)
