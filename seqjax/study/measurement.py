"""The record of a section's measurement."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from seqjax.study.experiment import Experiment
from seqjax.study.rows import Part, Row
from seqjax.study.settings import Settings


@dataclass(frozen=True)
class Measurement:
    """The measurement of one section: a file in `seqjax.study.sections`, listed in `MEASUREMENTS` there.

    Attributes:
        name: name of the section; the column ``section`` of its rows.
        parts: lists the parts, which are measured and stored one by one.
        work: returns the approximate seconds of a part on two cores, for the progress bar.
        measure: yields the rows of one part, made with `seqjax.study.rows.row`.
        timed: whether the measurement contains times; then it runs after the others, alone.
    """

    name: str
    parts: Callable[[Settings], Iterable[Part]]
    work: Callable[[Settings, Part], float]
    measure: Callable[[Experiment, Part], Iterable[Row]]
    timed: bool = False
