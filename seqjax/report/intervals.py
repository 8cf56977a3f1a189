"""Intervals in closed form: success rates, and means of correlated series. In float64, on NumPy arrays."""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate and its interval; ``low`` and ``high`` are NaN where the values cannot tell (a single seed)."""

    estimate: Any
    low: Any
    high: Any


def wilson(successes: int, trials: int, *, level: float = LEVEL) -> Interval:
    r"""A success rate with Wilson's score interval, which stays inside [0, 1] and is not empty at 0 and at n.

    .. math::
        \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    Args:
        successes: how many.
        trials: of how many, n of at least 1.
        level: of confidence.

    Example:
        >>> wilson(0, 10)
        Interval(estimate=0.0, low=0.0, high=0.2775327998628...)

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"wilson: expected 0 <= successes <= trials >= 1, got {successes} of {trials}.")
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / trials
    centre = p + z**2 / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return Interval(p, low, high)


def block_mean_interval(series: Any, *, blocks: int = 20, level: float = LEVEL) -> Interval:
    r"""The mean of a correlated series, with Student's interval from the means of blocks.

    The blocks must be longer than the correlation time; what does not fill the blocks is left out at the beginning,
    where a transient would be.

    .. math::
        \bar x \pm t_{n-1} s / \sqrt{n}

    with n blocks and s the standard deviation of their means.

    Args:
        series: ``[N, ...]``, N of at least `blocks`; trailing axes are quantities of their own (exponents).
        blocks: n of at least 2; 20 or more is usual.
        level: of confidence.

    Example:
        >>> block_mean_interval([1.0, 3.0, 2.0, 4.0], blocks=2)
        Interval(estimate=2.5, low=-3.853102..., high=8.853102...)
    """
    array = checked("block_mean_interval", series)
    if blocks < 2 or array.ndim < 1 or len(array) < blocks:
        raise ValueError(
            f"block_mean_interval: expected a series [N, ...] with N >= blocks >= 2, got {list(array.shape)} "
            f"and blocks={blocks}."
        )
    size = len(array) // blocks
    means = array[len(array) - size * blocks :].reshape(blocks, size, *array.shape[1:]).mean(1)
    mean = means.mean(0)
    half = student_quantile((1 + level) / 2, blocks - 1) * means.std(0, ddof=1) / math.sqrt(blocks)
    parts = (mean, mean - half, mean + half)
    return Interval(*(part.item() if part.ndim == 0 else part for part in parts))


def student_quantile(p: float, degrees: int) -> float:
    """The quantile of Student's t for 0.5 <= p < 1, from its closed form for whole degrees of freedom.

    Example:
        >>> round(student_quantile(0.975, 19), 3)
        2.093

    References:
        Abramowitz and Stegun 1964, equations 26.7.3 and 26.7.4.
    """
    if not 0.5 <= p < 1 or degrees < 1:
        raise ValueError(f"student_quantile: expected 0.5 <= p < 1 and degrees >= 1, got {p} and {degrees}.")
    low, high = 0.0, math.pi / 2  # in the angle atan(t / sqrt(degrees))
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, degrees) < 2 * p - 1 else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _student_within(angle: float, degrees: int) -> float:
    """P(|t| < sqrt(degrees) tan(angle)): a finite sum of powers of the cosine."""
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees % 2 == 0:
        term = total = 1.0
        for k in range(1, degrees // 2):
            term *= cosine**2 * (2 * k - 1) / (2 * k)
            total += term
        return sine * total
    term = total = cosine if degrees > 1 else 0.0
    for k in range(1, (degrees - 1) // 2):
        term *= cosine**2 * (2 * k) / (2 * k + 1)
        total += term
    return 2 / math.pi * (angle + sine * total)


def checked(who: str, values: Any) -> np.ndarray:
    """Float64 values, at least one, none of them NaN."""
    array = np.asarray(values, np.float64)
    if not array.size:
        raise ValueError(f"{who}: expected at least one value, got {list(array.shape)}.")
    if np.isnan(array).any():
        raise ValueError(
            f"{who}: expected numbers, got {int(np.isnan(array).sum())} NaN of {array.size}. Leave out or count apart "
            "what is not known."
        )
    return array
