"""The measurements of the report's sections, one file each; `seqjax.report.sections` shows their results."""

from collections.abc import Sequence

from seqjax.study.measurement import Measurement
from seqjax.study.sections import (
    algorithms,
    calibration,
    lyapunov,
    precision,
    scaling,
    signal,
    singular,
    success,
    training,
    truncation,
)

MEASUREMENTS: tuple[Measurement, ...] = (
    calibration.MEASUREMENT,
    training.MEASUREMENT,
    singular.MEASUREMENT,
    lyapunov.MEASUREMENT,
    precision.MEASUREMENT,
    algorithms.MEASUREMENT,
    truncation.MEASUREMENT,
    scaling.MEASUREMENT,
    success.MEASUREMENT,
    signal.MEASUREMENT,
)
"""Every measurement, in the order in which they run."""


def chosen(names: Sequence[str]) -> tuple[Measurement, ...]:
    """Return the measurements of the sections with these names; all for no name."""
    return tuple(each for each in MEASUREMENTS if not names or each.name in names)
