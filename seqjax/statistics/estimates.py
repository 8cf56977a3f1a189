"""Estimates over seeds with their intervals."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seqjax.statistics.resampling import LEVEL, RESAMPLES, Interval, checked, interval, resampled, stratum

Statistic = Callable[..., Any]


def interquartile_mean(values: Any, axis: int | None = None) -> Any:
    r"""Return the mean of the middle half of the values, as robust as the median but with less noise.

    .. math::
        2 \int_{1/4}^{3/4} Q(u)\, du

    with Q the empirical quantile function. If the number of values is not a multiple of four, the two values at the
    quartiles count in part. For multiples of four the result equals ``scipy.stats.trim_mean(x, 0.25)``, which trims
    whole values.

    Args:
        values: any shape; no NaN.
        axis: the axis of the mean; None for all values.

    Example:
        >>> interquartile_mean([0.0, 1.0, 2.0, 1000.0])
        1.5
        >>> interquartile_mean([1.0, 2.0, 4.0])
        2.166666666666667

    References:
        Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", arXiv:2108.13264.
    """
    array = np.sort(checked("interquartile_mean", values), axis=axis)
    if axis is None:
        array = array.ravel()
    array = np.moveaxis(array, -1 if axis is None else axis, -1)
    n = array.shape[-1]
    edges = np.arange(n + 1) / n
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0.0, None)
    inside = weights > 1e-12 / n  # an infinite value outside must not meet a weight of zero
    with np.errstate(invalid="ignore"):  # infinities of both signs have no mean
        result = array[..., inside] @ (weights[inside] / weights[inside].sum())
    return result.item() if result.ndim == 0 else result


def bootstrap(
    strata: Sequence[Any],
    statistic: Statistic = interquartile_mean,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    log: bool = False,
) -> Interval:
    """Return a statistic of all strata together, with its percentile interval by stratified bootstrap.

    With few values per stratum (fewer than about ten) percentile intervals are too narrow, so report the number of
    seeds beside them. If a stratum holds a single value, its spread is unknown and the interval is NaN.

    Args:
        strata: arrays ``[N_i]``, the values of one condition each; lengths may differ.
        statistic: ``(values [..., N], axis=-1) -> [...]`` of the concatenated strata, such as `numpy.mean`.
        resamples: the number of resamples.
        level: the confidence level.
        seed: the seed of the resampling.
        log: aggregate positive values as logarithms and return the result on their own scale; the logarithm of a zero
            is minus infinity, which comes back as zero.

    Example:
        >>> bootstrap([[1.0, 2.0, 3.0, 4.0]], np.mean, resamples=1000)
        Interval(estimate=2.5, low=1.5, high=3.5)

    References:
        Agarwal et al. 2021, arXiv:2108.13264 (stratified bootstrap over the runs of each task).
    """
    arrays = [stratum("bootstrap", values, log) for values in strata]
    if not arrays:
        raise ValueError("bootstrap: expected at least one stratum, got none.")

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        return np.concatenate([a[rng.integers(len(a), size=(count, len(a)))] for a in arrays], axis=-1)

    estimate = statistic(np.concatenate(arrays), axis=-1)
    size = sum(map(len, arrays))
    known = all(len(a) > 1 for a in arrays)
    drawn = resampled(lambda r, n: statistic(draw(r, n), axis=-1), size, resamples, seed) if known else None
    return interval(estimate, drawn, level, log)


def horizon_interval(
    log_norms: Any,
    measure: Callable[[np.ndarray], float],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Return a horizon of the mean profile, with its interval by bootstrap over seeds and over the sequences of a seed.

    The mean is over the logarithms of all profiles whose gradient is not exactly zero. A horizon is a whole number of
    steps and not a smooth function of the profile, so the function measures it on every resample. With a single seed
    the interval is over its sequences alone; with a single sequence of a single seed it is NaN.

    Args:
        log_norms: natural logs ``[S, B, T]`` by seed, sequence and lag; NaN for masked steps.
        measure: ``profile [T] -> steps``, such as ``lambda p: seqjax.probes.horizon(p, 0.9)``.
        resamples: the number of resamples.
        level: the confidence level.
        seed: the seed of the resampling.

    Example:
        >>> profiles = np.log(0.5) * np.arange(6) * np.array([[[1.0], [0.7]], [[0.9], [1.1]]])
        >>> first_below_a_tenth = lambda profile: float(np.argmax(profile < np.log(0.1)))
        >>> horizon_interval(profiles, first_below_a_tenth, resamples=1000)
        Interval(estimate=4.0, low=4.0, high=5.0)
    """
    array = np.asarray(log_norms, np.float64)
    if array.ndim != 3 or not array.size:
        raise ValueError(
            f"horizon_interval: expected log_norms [S, B, T] by seed, sequence and lag, got {list(array.shape)}."
        )
    seeds, sequences, length = array.shape
    flat = array.reshape(-1, length)
    finite = np.isfinite(flat)
    filled, present = np.where(finite, flat, 0.0), finite.astype(np.float64)

    def measured(weights: np.ndarray) -> np.ndarray:
        count = weights @ present

        zero = np.where(weights @ np.isneginf(flat) > 0, -np.inf, np.nan)
        profiles = np.where(count > 0, (weights @ filled) / np.maximum(count, 1), zero)
        return np.array([measure(profile) for profile in profiles], np.float64)

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        weights = np.zeros((count, seeds, sequences))
        row = np.arange(count)[:, None]
        for _ in range(seeds):
            which = rng.integers(seeds, size=(count, 1))
            drawn = rng.integers(sequences, size=(count, sequences))
            np.add.at(weights, (row, which, drawn), 1.0)
        return measured(weights.reshape(count, -1))

    estimate = float(measured(np.ones((1, seeds * sequences)))[0])
    known = seeds * sequences > 1
    drawn = resampled(draw, max(length, seeds * sequences), resamples, seed) if known else None
    return interval(estimate, drawn, level)


def wilson(successes: int, trials: int, *, level: float = LEVEL) -> Interval:
    r"""Return a success rate with Wilson's score interval, which stays inside [0, 1] and is not empty at 0 and n.

    .. math::
        \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4n^2}}{1 + z^2 / n}

    Args:
        successes: the number of successes.
        trials: n, the number of trials, at least 1.
        level: the confidence level.

    Example:
        >>> wilson(0, 10)
        Interval(estimate=0.0, low=0.0, high=0.2775327998628...)

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"wilson: expected 0 <= successes <= trials >= 1, got {successes} of {trials}.")
    from scipy import stats  # takes half a second

    low, high = stats.binomtest(successes, trials).proportion_ci(level, "wilson")
    return Interval(successes / trials, float(low), float(high))
