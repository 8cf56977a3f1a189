"""How far back the gradient of a mean profile reaches, with its interval."""

from collections.abc import Sequence
from functools import partial

from seqjax.probes import horizon
from seqjax.report.aggregate import Array, interval
from seqjax.statistics import Interval, horizon_interval

RESAMPLES = 1000
"""A horizon is measured on every resample."""


def horizon_of(sequences: Array, share: int, by_seed: Sequence[float]) -> Interval:
    """Return the horizon of the mean profile, with its interval over seeds and, where recorded, sequences.

    Args:
        sequences: natural logs of norms ``[S, B, T]`` by seed, sequence and lag; empty where none were recorded.
        share: the share of the norm in percent.
        by_seed: the horizons of the seeds, for a study without single sequences.
    """
    if not sequences.size:
        return interval(by_seed)
    return horizon_interval(sequences, partial(horizon, share=share / 100), resamples=RESAMPLES)
