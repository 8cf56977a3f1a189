r"""Power laws in the sequence length: exponents with their errors, and the length at which two power laws cross.

All fits are ordinary least squares in the log domain, in float64 on NumPy arrays. For noise-free values (bytes,
operations) the error measures the distance from a power law; for timings it includes the noise.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from seqjax.checks import check_within


class PowerLaw(NamedTuple):
    r"""Result of `fit_power_law`.

    Attributes:
        exponent: p in :math:`v = c\,T^p`.
        standard_error: the standard error of p; NaN for two lengths, which leave no residual.
        log_factor: :math:`\log c`.
    """

    exponent: float
    standard_error: float
    log_factor: float


class Crossover(NamedTuple):
    """Result of `find_crossover`: the intersection of two power laws.

    Attributes:
        length: T at which both costs are equal; T may lie far outside the measured lengths, see `inside`. Infinite for
            parallel lines, NaN for equal lines.
        low: lower end of the interval of T; 0 if the two exponents cannot be distinguished.
        high: upper end; infinite in the same case. Both ends are NaN for two lengths.
        inside: whether `length` lies within the measured lengths.
        cheaper_before: "first" or "second": the cheaper one at shorter lengths; "" for parallel lines.
        cheaper_after: the cheaper one at longer lengths; "" for parallel lines.
    """

    length: float
    low: float
    high: float
    inside: bool
    cheaper_before: str
    cheaper_after: str


def fit_power_law(lengths: Any, values: Any) -> PowerLaw:
    r"""Fit :math:`\log v = \log c + p \log T` by least squares.

    Args:
        lengths: T, two or more different lengths.
        values: positive values. If a value is not positive the law is NaN, since no power law passes through zero.

    Raises:
        ValueError: for fewer than two different lengths, or another number of values.

    Example:
        >>> import math, numpy as np
        >>> lengths = np.array([16, 64, 256])
        >>> law = fit_power_law(lengths, 3 * lengths**0.5)
        >>> round(law.exponent, 6), round(math.exp(law.log_factor), 6)
        (0.5, 3.0)
    """
    x, values = _checked("fit_power_law", lengths, values)
    if not np.all((values > 0) & np.isfinite(values)):
        return PowerLaw(math.nan, math.nan, math.nan)
    line = _fit(x, np.log(values))
    error = line.deviation / math.sqrt(line.spread)
    return PowerLaw(line.slope, error, line.mean_y - line.slope * line.mean_x)


def find_crossover(lengths: Any, first: Any, second: Any, *, confidence: float = 0.95) -> Crossover:
    r"""Return the length at which two costs are equal, from the fitted line of their log ratio.

    With :math:`r = \log(v_1 / v_2)` and the line :math:`r = \alpha + \beta \log T`, this length is
    :math:`T^* = e^{-\alpha / \beta}`. The interval is that of Fieller, which is exact for a ratio of two estimates. It
    is infinite if :math:`\beta` could be zero.

    Args:
        lengths: T, two or more different lengths.
        first: the positive cost at each length.
        second: the positive cost at each length.
        confidence: the confidence of the interval, in (0, 1).

    Raises:
        ValueError: as for `fit_power_law`, for costs that are not positive, or a confidence outside (0, 1).

    Example:
        100 T against T^2:

        >>> import numpy as np
        >>> lengths = np.array([16.0, 64.0, 256.0])
        >>> crossover = find_crossover(lengths, 100 * lengths, lengths**2)
        >>> round(crossover.length, 3), crossover.cheaper_before, crossover.cheaper_after, crossover.inside
        (100.0, 'second', 'first', True)

    References:
        Fieller 1954, "Some problems in interval estimation", Journal of the Royal Statistical Society B 16.
    """
    x, first = _checked("find_crossover", lengths, first)
    _, second = _checked("find_crossover", lengths, second)
    check_within("find_crossover(confidence)", confidence, "(0, 1)")
    costs = np.stack([first, second])
    if not np.all((costs > 0) & np.isfinite(costs)):
        raise ValueError(f"find_crossover: expected finite costs above zero, got {first} and {second}.")
    line = _fit(x, np.log(first) - np.log(second))
    negligible = 1e-12 * max(1.0, float(np.max(np.abs(np.log(costs)))))  # the roundings of the logarithms
    if abs(line.slope) * (np.max(x) - np.min(x)) <= negligible:
        same = abs(line.mean_y) <= negligible
        return Crossover(math.nan if same else math.inf, 0.0, math.inf, False, "", "")
    offset = -line.mean_y / line.slope
    length = _exp(line.mean_x + offset)
    low, high = _fieller(line, offset, confidence)
    inside = bool(np.min(x) <= math.log(length) <= np.max(x)) if 0 < length < math.inf else False
    before, after = ("first", "second") if line.slope > 0 else ("second", "first")
    return Crossover(length, low, high, inside, before, after)


class _Line(NamedTuple):
    """A least-squares line: number of points, means, slope, sum of squares of x about its mean, residual deviation."""

    points: int
    mean_x: float
    mean_y: float
    slope: float
    spread: float
    deviation: float


def _fit(x: np.ndarray, y: np.ndarray) -> _Line:
    mean_x, mean_y = float(np.mean(x)), float(np.mean(y))
    spread = float(np.sum((x - mean_x) ** 2))
    slope = float(np.sum((x - mean_x) * (y - mean_y))) / spread
    residual = y - mean_y - slope * (x - mean_x)
    freedom = len(x) - 2
    deviation = math.sqrt(float(np.sum(residual**2)) / freedom) if freedom else math.nan
    return _Line(len(x), mean_x, mean_y, slope, spread, deviation)


def _fieller(line: _Line, offset: float, confidence: float) -> tuple[float, float]:
    if line.points == 2:
        return math.nan, math.nan
    t = float(stdtrit(line.points - 2, (1 + confidence) / 2))
    g = (t * line.deviation / line.slope) ** 2 / line.spread
    if g >= 1:
        return 0.0, math.inf
    width = abs(t * line.deviation / line.slope) * math.sqrt((1 - g) / line.points + offset**2 / line.spread)
    return _exp(line.mean_x + (offset - width) / (1 - g)), _exp(line.mean_x + (offset + width) / (1 - g))


def _checked(who: str, lengths: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the logs of the lengths, and the values."""
    lengths, values = np.asarray(lengths, np.float64), np.asarray(values, np.float64)
    if lengths.ndim != 1 or len(np.unique(lengths)) < 2 or not np.all((lengths > 0) & np.isfinite(lengths)):
        raise ValueError(
            f"{who}: expected two different lengths or more of them, above zero and finite, got {lengths.tolist()}."
        )
    if values.shape != lengths.shape:
        raise ValueError(
            f"{who}: expected one value per length, {len(lengths)} in all, got {list(values.shape)}."
        )
    return np.log(lengths), values


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
