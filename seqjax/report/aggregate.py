"""Aggregate over seeds: interquartile means with bootstrap intervals, of arrays with gaps."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from seqjax.report.text import between, decades, number
from seqjax.statistics import Interval, bootstrap, interquartile_mean, percentiles

Array = NDArray[np.float64]

BAND_RESAMPLES, BAND_POINTS = 1000, 161
"""A band has an interval at each of at most `BAND_POINTS` points, and is interpolated between them."""


def iqm(values: Array) -> Array:
    """Return interquartile means over seeds ``[S, ...] -> [...]``, without NaN; NaN where all values are NaN.

    Pass logarithms of quantities that span decades.

    Example:
        >>> import numpy as np
        >>> iqm(np.array([[1.0, 2.0], [3.0, np.nan], [5.0, np.nan]]))
        array([3., 2.])
    """
    flat = values.reshape(len(values), -1)
    found = np.full(flat.shape[1], math.nan)
    for seeds, columns in _present(flat):
        found[columns] = interquartile_mean(flat[np.ix_(seeds, columns)], axis=0)
    return found.reshape(values.shape[1:])


def band(values: Array) -> tuple[Array, Array]:
    """Return the ends of 95% bootstrap intervals of the interquartile mean over seeds: ``[S, T] -> [T], [T]``.

    NaN where fewer than two seeds have a number.
    """
    length = values.shape[1]
    points = thin(length, BAND_POINTS)
    some = values[:, points]
    low, high = (np.full(len(points), math.nan) for _ in range(2))
    rng = np.random.default_rng(0)
    for seeds, columns in _present(some):
        if len(seeds) < 2:
            continue
        drawn = seeds[rng.integers(len(seeds), size=(BAND_RESAMPLES, len(seeds)))]
        low[columns], high[columns] = percentiles(interquartile_mean(some[:, columns][drawn], axis=1))
    if len(points) == length:
        return low, high
    lags = np.arange(length)
    return _between(lags, points, low), _between(lags, points, high)


def thin(length: int, most: int) -> NDArray[np.int64]:
    """Return the indices of at most `most` steps, evenly spread, with the first and the last."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(np.int64))


def interval(values: Sequence[float | None], *, log: bool = False) -> Interval:
    """Return the interquartile mean of one value per seed, with its interval; None and NaN are left out."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return bootstrap([known], log=log) if known else Interval(math.nan, math.nan, math.nan)


def spread(
    values: Sequence[float | None] | Array,
    digits: int = 3,
    factor: float = 1.0,
    *,
    log: bool = False,
    counts: bool = False,
) -> Markup:
    """Format the interquartile mean over seeds with its 95% interval in brackets; use `log` where values span decades.

    Example:
        >>> spread([1.0, 2.0, 3.0], counts=True)
        Markup('2 <span class="span">(1 to 3)</span>')
    """
    known = [factor * value for value in values if value is not None and not math.isnan(value)]
    return shown(interval(known, log=log), digits, counts=counts)


def spread_of_decades(values: Sequence[float] | Array) -> Markup:
    """Format the interquartile mean of powers of ten, given by their exponents, with its interval."""
    found = interval(list(values))
    middle, low, high = map(decades, found)
    return middle if low == high or math.isnan(found.low) else between(middle, low, high)


def shown(found: Interval, digits: int = 3, *, counts: bool = False) -> Markup:
    """Format an estimate with its interval, if any, in brackets; `counts`, such as lags, have one decimal."""
    middle, low, high = (count(each) if counts else number(each, digits) for each in found)
    return Markup(middle) if low == high or math.isnan(found.low) else between(middle, low, high)


def count(value: float) -> str:
    """Format a mean of counts, such as lags, with one decimal."""
    return f"{value:.1f}".removesuffix(".0").replace("-", "−") if math.isfinite(value) else number(value)


def _present(flat: Array) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield each set of seeds that have a number in the same columns, with these columns."""
    patterns, which = np.unique(~np.isnan(flat), axis=1, return_inverse=True)
    which = which.reshape(-1)
    for place, pattern in enumerate(patterns.T):
        if pattern.any():
            yield np.flatnonzero(pattern), np.flatnonzero(which == place)


def _between(lags: Any, points: Any, values: Array) -> Array:
    known = np.isfinite(values)
    if not known.any():
        return np.full(len(lags), math.nan)
    filled = np.interp(lags, points[known], values[known])
    nearest = np.clip(np.searchsorted(points, lags), 0, len(points) - 1)
    return np.where(known[nearest], filled, math.nan)
