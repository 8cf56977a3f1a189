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

SHOWN = {
    "decay": ("training",),
    "losses": ("training",),
    "summary": ("training", "singular", "lyapunov", "precision", "success"),
}
"""The measurements that a section without a measurement of its own shows."""


def chosen(names: Sequence[str]) -> tuple[Measurement, ...]:
    """Return the measurements of the sections with these names; all for no name.

    A section without a measurement of its own brings those that it shows, unless one of them is there.
    """
    wanted = set(names)
    for section, shown in SHOWN.items():
        if section in wanted and wanted.isdisjoint(shown):
            wanted.update(shown)
    return tuple(each for each in MEASUREMENTS if not names or each.name in wanted)
