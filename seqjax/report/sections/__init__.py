"""The sections of the report, one file each, in the order of the page.

A new section is one file here with ``NAME``, ``TITLE``, ``parts``, ``work``, ``measure`` and ``view`` (see
`seqjax.report.blocks.Section`), and one line in `SECTIONS`.
"""

from seqjax.report.blocks import Section
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
    calibration,
    training,
    decay,
    singular,
    lyapunov,
    precision,
    algorithms,
    truncation,
    scaling,
    success,
    signal,
    losses,
    summary,
)
"""Every section, in the order in which it is measured and shown."""

TIMED = (algorithms, scaling)
"""Those that take the time of something."""

NAMES = tuple(section.NAME for section in SECTIONS)


def chosen(names: tuple[str, ...] | list[str]) -> tuple[Section, ...]:
    """The sections of these names, in the order of the page; all for none."""
    return tuple(section for section in SECTIONS if not names or section.NAME in names)
