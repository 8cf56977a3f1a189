"""Comparisons of two conditions, with common seeds or without."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from seqjax.statistics.estimates import bootstrap
from seqjax.statistics.resampling import LEVEL, RESAMPLES, Interval, counts, interval, resampled, stratum


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
    lefts = [stratum("paired_comparison(a)", each, log) for each in a]
    rights = [stratum("paired_comparison(b)", each, log) for each in b]
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

    array = stratum("sign_flip_test", differences)
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
    a: Sequence[Any],
    b: Sequence[Any],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
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
    lefts = [stratum("probability_of_improvement(a)", each) for each in a]
    rights = [stratum("probability_of_improvement(b)", each) for each in b]
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
            rows = counts(rng, count, table.shape[0])
            columns = counts(rng, count, table.shape[1])
            total += np.einsum("rn,nk,rk->r", rows, table, columns, optimize=True) / table.size
        return total / len(tables)

    known = all(min(table.shape) > 1 for table in tables)
    size = sum(table.shape[0] + table.shape[1] for table in tables)
    estimate = float(np.mean([table.mean() for table in tables]))
    return interval(estimate, resampled(draw, size, resamples, seed) if known else None, level)
