"""A section of the page."""

from collections.abc import Callable
from dataclasses import dataclass

from seqjax.report.content import View
from seqjax.report.results import StudyResults
from seqjax.study.measurement import Measurement


@dataclass(frozen=True)
class Section:
    """One section: a file in `seqjax.report.sections`, listed in `SECTIONS` there.

    Attributes:
        name: how ``--sections`` and the page's links call it.
        title: its heading.
        view: returns what the page shows of the results.
        measurement: of the same name; None for a section that shows what others measured.
    """

    name: str
    title: str
    view: Callable[[StudyResults], View]
    measurement: Measurement | None = None
