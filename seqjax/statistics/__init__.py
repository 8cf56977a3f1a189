"""Statistics over seeds: estimates with intervals, in float64 NumPy. Every function is pure; randomness is seeded.

The unit is the seed. A *stratum* holds the values of one condition (one cell at one length, one task), one per seed.
Resampling stays inside the strata, so that every resample has as many values of each condition as the data.
Pass positive quantities that span decades as logarithms, or with ``log=True``, which returns results on the original
scale. NaN is refused; infinite values are allowed (the logarithm of zero).
"""

from seqjax.statistics.comparisons import (
    Paired,
    paired_comparison,
    probability_of_improvement,
    sign_flip_test,
)
from seqjax.statistics.estimates import bootstrap, horizon_interval, interquartile_mean, wilson
from seqjax.statistics.resampling import LEVEL, RESAMPLES, Interval, percentiles

__all__ = [
    "LEVEL",
    "RESAMPLES",
    "Interval",
    "Paired",
    "bootstrap",
    "horizon_interval",
    "interquartile_mean",
    "paired_comparison",
    "percentiles",
    "probability_of_improvement",
    "sign_flip_test",
    "wilson",
]
