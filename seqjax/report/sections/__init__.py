"""The sections of the page, one file each.

A new section is one file here with a `seqjax.report.section.Section`, and one line in `SECTIONS`. Where it measures
something, that is one file in `seqjax.study.sections`, and one line in `MEASUREMENTS` there.
"""

from collections.abc import Sequence

from seqjax.report.section import Section
from seqjax.report.sections import (
    algorithms,
    calibration,
    decay,
    losses,
    lyapunov,
    precision,
    scaling,
    signal,
    singular,
    success,
    summary,
    training,
    truncation,
)

SECTIONS: tuple[Section, ...] = (
    calibration.SECTION,
    training.SECTION,
    decay.SECTION,
    singular.SECTION,
    lyapunov.SECTION,
    precision.SECTION,
    algorithms.SECTION,
    truncation.SECTION,
    scaling.SECTION,
    success.SECTION,
    signal.SECTION,
    losses.SECTION,
    summary.SECTION,
)
"""Every section, in the order of the page."""

NAMES = tuple(section.name for section in SECTIONS)


def chosen(names: Sequence[str]) -> tuple[Section, ...]:
    """Return the sections with these names, in the order of the page; all for no name."""
    return tuple(section for section in SECTIONS if not names or section.name in names)
