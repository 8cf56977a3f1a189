"""Resampling, and the intervals made from it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
RESAMPLES = 10_000
BLOCK = 2**21  # numbers drawn at a time, 16 MB of float64


class Interval(NamedTuple):
    """An estimate and its interval; ``low`` and ``high`` are NaN where they cannot be computed (a single seed)."""

    estimate: Any
    low: Any
    high: Any


def checked(who: str, values: Any) -> Float[np.ndarray, "..."]:
    """Return the values in float64; raise a ValueError if there are none, or if one is NaN."""
    array = np.asarray(values, np.float64)
    if not array.size:
        raise ValueError(f"{who}: expected at least one value, got {list(array.shape)}.")
    if np.isnan(array).any():
        raise ValueError(
            f"{who}: expected numbers, got {int(np.isnan(array).sum())} NaN of {array.size}. Leave out unknown values, "
            "or count them separately."
        )
    return array


def stratum(who: str, values: Any, log: bool = False) -> Float[np.ndarray, " N"]:
    """Return the values ``[N]`` of one condition in float64, as logarithms with ``log=True``."""
    array = checked(who, values)
    if array.ndim != 1:
        raise ValueError(f"{who}: expected strata [N], one value per seed, got {list(array.shape)}.")
    if not log:
        return array
    if (array < 0).any():
        raise ValueError(f"{who}: expected values of at least 0 for log=True, got {array.min()}.")
    with np.errstate(divide="ignore"):
        return np.log(array)


def counts(rng: np.random.Generator, count: int, n: int) -> Float[np.ndarray, "R N"]:
    """Return how often each of n values is drawn in each of `count` resamples, ``[count, n]``."""
    return rng.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)


def resampled(draw: Callable, size: int, resamples: int, seed: int) -> Float[np.ndarray, " R"]:
    """Call ``draw(rng, count) -> [count]`` in blocks that fit in memory, and concatenate the results."""
    if resamples < 1:
        raise ValueError(f"resamples: expected at least 1, got {resamples}.")
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // max(size, 1))
    counts = [min(block, resamples - done) for done in range(0, resamples, block)]
    return np.concatenate([draw(rng, count) for count in counts])


def interval(estimate: Any, drawn: np.ndarray | None, level: float, log: bool = False) -> Interval:
    """Return an estimate with the central interval of its resampled values; None where these are unknown."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share in (0, 1), got {level}.")
    low = high = math.nan
    if drawn is not None and not np.isnan(drawn).any():
        low, high = map(float, percentiles(drawn, level))
    parts = (float(estimate), low, high)
    return Interval(*(float(np.exp(part)) for part in parts)) if log else Interval(*parts)


def percentiles(drawn: Float[np.ndarray, "R ..."], level: float = LEVEL) -> tuple[Any, Any]:
    """Return the ends of the central interval of resampled values ``[R, ...]``, as order statistics.

    `scipy.stats.bootstrap` draws other random numbers, resamples the strata one by one, and interpolates between
    infinite values.
    """
    tail, ordered = math.floor((1 - level) / 2 * (len(drawn) - 1)), np.sort(drawn, axis=0)
    return ordered[tail], ordered[-1 - tail]
