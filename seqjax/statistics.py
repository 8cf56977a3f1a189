"""Statistics over seeds: estimates with intervals, in float64 NumPy. Every function is pure; randomness is seeded.

The unit is the seed. A *stratum* holds the values of one condition (one cell at one length, one task), one per seed.
Resampling stays inside the strata, so that every resample has as many values of each condition as the data.
Pass positive quantities that span decades as logarithms, or with ``log=True``, which returns results on the original
scale. NaN is refused; infinite values are allowed (the logarithm of zero).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000
_BLOCK = 2**21  # numbers drawn at a time, 16 MB of float64

Statistic = Callable[..., Any]


class Interval(NamedTuple):
    """An estimate and its interval; ``low`` and ``high`` are NaN where they cannot be computed (a single seed)."""

    estimate: Any
    low: Any
    high: Any


class Paired(NamedTuple):
    """The results of `paired_comparison`: ``b - a`` on common seeds.

    Attributes:
        difference: interquartile mean of the differences; with ``log=True`` of the log ratios, returned as a ratio b/a.
        wins: the share of pairs with b above a; a tie counts half.
        pairs: the number of pairs.
        p: the p-value of `sign_flip_test`.
    """

    difference: Interval
    wins: float
    pairs: int
    p: float


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
    array = np.sort(_checked("interquartile_mean", values), axis=axis)
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
    arrays = [_stratum("bootstrap", values, log) for values in strata]
    if not arrays:
        raise ValueError("bootstrap: expected at least one stratum, got none.")

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        return np.concatenate([a[rng.integers(len(a), size=(count, len(a)))] for a in arrays], axis=-1)

    estimate = statistic(np.concatenate(arrays), axis=-1)
    size = sum(map(len, arrays))
    known = all(len(a) > 1 for a in arrays)
    drawn = _resampled(lambda r, n: statistic(draw(r, n), axis=-1), size, resamples, seed) if known else None
    return _interval(estimate, drawn, level, log)


def paired_comparison(
    a: Sequence[Any],
    b: Sequence[Any],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    log: bool = False,
) -> Paired:
    """Compare b with a on the same seeds, so that effects of the seed (initial values, data) cancel.

    Args:
        a: strata ``[N_i]``; value j of a stratum has the same seed in a and b.
        b: strata of the same lengths.
        resamples: the number of resamples, of whole pairs inside the strata.
        level: the confidence level.
        seed: the seed of the resampling.
        log: compare logarithms and return the ratio b/a.

    Raises:
        ValueError: when a and b have different numbers of values.

    Example:
        >>> paired_comparison([[1.0, 20.0, 300.0]], [[1.1, 22.0, 330.0]], log=True).difference.estimate
        1.1
    """
    if [np.shape(each) for each in a] != [np.shape(each) for each in b]:
        raise ValueError(
            "paired_comparison: expected strata of the same sizes in a and b, got "
            f"{[np.shape(each) for each in a]} and {[np.shape(each) for each in b]}. Keep only the common seeds."
        )
    lefts = [_stratum("paired_comparison(a)", each, log) for each in a]
    rights = [_stratum("paired_comparison(b)", each, log) for each in b]
    with np.errstate(invalid="ignore"):  # two equal infinities are a tie, a difference of zero
        pairs = [np.where(x == y, 0.0, y - x) for x, y in zip(lefts, rights)]
    found = bootstrap(pairs, resamples=resamples, level=level, seed=seed)
    if log:
        found = Interval(*(float(np.exp(value)) for value in found))
    together = np.concatenate(pairs)
    p = sign_flip_test(together, resamples=resamples, seed=seed)
    return Paired(found, float(np.mean((np.sign(together) + 1) / 2)), len(together), p)


def sign_flip_test(differences: Any, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    r"""Return the p-value of the mean of paired differences, if each difference could equally have the other sign.

    The test is exact for up to 12 pairs, over all :math:`2^n` assignments of signs. For more pairs it draws assignments
    and adds the observed one. With n pairs no p is below :math:`2^{1-n}`, so five seeds cannot be significant at 5%.

    Args:
        differences: ``[N]``; infinite ones count as larger than any other.
        resamples: the number of assignments to draw, for more than 12 pairs.
        seed: the seed of the draws.

    Example:
        >>> sign_flip_test([0.1, 0.3, 0.2, 0.5, 0.4, 0.6])
        0.03125
    """
    from scipy import stats  # takes half a second

    array = _stratum("sign_flip_test", differences)
    if len(array) < 2:
        return 1.0
    largest = 2 * len(array) * (np.abs(array[np.isfinite(array)]).max(initial=0.0) or 1.0)
    array = np.clip(array, -largest, largest)
    found = stats.permutation_test(
        (array,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=max(resamples, 2**12),
        random_state=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def probability_of_improvement(
    a: Sequence[Any], b: Sequence[Any], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    r"""Return the probability that a run of b is above a run of a, on a randomly chosen stratum.

    .. math::
        P(b > a) = \frac{1}{M} \sum_m \frac{1}{N_m K_m} \sum_{i, j}
        \left([b_{m,j} > a_{m,i}] + \tfrac{1}{2} [b_{m,j} = a_{m,i}]\right)

    the Mann-Whitney statistic divided by its largest value, averaged over the M strata; both sides are resampled. The
    probability does not measure by how much b is above a.

    Args:
        a: strata ``[N_i]``.
        b: as many strata, ``[K_i]``.
        resamples: the number of resamples.
        level: the confidence level.
        seed: the seed of the resampling.

    Example:
        >>> probability_of_improvement([[1.0, 2.0, 3.0]], [[2.0, 3.0, 4.0]]).estimate
        0.7777777777777778

    References:
        Agarwal et al. 2021, arXiv:2108.13264 (average probability of improvement).
    """
    lefts = [_stratum("probability_of_improvement(a)", each) for each in a]
    rights = [_stratum("probability_of_improvement(b)", each) for each in b]
    if len(lefts) != len(rights) or not lefts:
        raise ValueError(
            "probability_of_improvement: expected the same number of strata in a and b, at least one, "
            f"got {len(lefts)} and {len(rights)}."
        )
    tables = [
        (y[None, :] > x[:, None]) + 0.5 * (y[None, :] == x[:, None]) for x, y in zip(lefts, rights)
    ]  # [N, K]

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        total = np.zeros(count)
        for table in tables:
            rows = _counts(rng, count, table.shape[0])
            columns = _counts(rng, count, table.shape[1])
            total += np.einsum("rn,nk,rk->r", rows, table, columns, optimize=True) / table.size
        return total / len(tables)

    known = all(min(table.shape) > 1 for table in tables)
    size = sum(table.shape[0] + table.shape[1] for table in tables)
    estimate = float(np.mean([table.mean() for table in tables]))
    return _interval(estimate, _resampled(draw, size, resamples, seed) if known else None, level)


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
    drawn = _resampled(draw, max(length, seeds * sequences), resamples, seed) if known else None
    return _interval(estimate, drawn, level)


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


def _stratum(who: str, values: Any, log: bool = False) -> np.ndarray:
    array = _checked(who, values)
    if array.ndim != 1:
        raise ValueError(f"{who}: expected strata [N], one value per seed, got {list(array.shape)}.")
    if not log:
        return array
    if (array < 0).any():
        raise ValueError(f"{who}: expected values of at least 0 for log=True, got {array.min()}.")
    with np.errstate(divide="ignore"):
        return np.log(array)


def _counts(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    """Return how often each of n values is drawn in each of `count` resamples, ``[count, n]``."""
    return rng.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)


def _resampled(draw: Callable, size: int, resamples: int, seed: int) -> np.ndarray:
    """Call ``draw(rng, count) -> [count]`` in blocks that fit in memory, and concatenate the results."""
    if resamples < 1:
        raise ValueError(f"resamples: expected at least 1, got {resamples}.")
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(size, 1))
    counts = [min(block, resamples - done) for done in range(0, resamples, block)]
    return np.concatenate([draw(rng, count) for count in counts])


def _interval(estimate: Any, drawn: np.ndarray | None, level: float, log: bool = False) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share in (0, 1), got {level}.")
    low = high = math.nan
    if drawn is not None and not np.isnan(drawn).any():
        low, high = map(float, percentiles(drawn, level))
    parts = (float(estimate), low, high)
    return Interval(*(float(np.exp(part)) for part in parts)) if log else Interval(*parts)


def percentiles(drawn: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the central interval of resampled values ``[R, ...]``, as order statistics.

    `scipy.stats.bootstrap` draws other random numbers, resamples the strata one by one, and interpolates between
    infinite values.
    """
    tail, ordered = math.floor((1 - level) / 2 * (len(drawn) - 1)), np.sort(drawn, axis=0)
    return ordered[tail], ordered[-1 - tail]


def _checked(who: str, values: Any) -> np.ndarray:
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
