"""A section of the page."""

from collections.abc import Callable
from dataclasses import dataclass

from seqjax.report.content import Note, View
from seqjax.report.results import StudyResults
from seqjax.study.measurement import Measurement


@dataclass(frozen=True)
class Section:
    """A section: a file in `seqjax.report.sections`, listed in `SECTIONS` there.

    Attributes:
        name: name in ``--sections`` and in the page's links.
        title: heading on the page.
        view: returns the content of the section from the results; called where the measurement has rows.
        measurement: the measurement of the same name; None for a section that shows results of other sections
            (`seqjax.study.sections.SHOWN` lists which).
    """

    name: str
    title: str
    view: Callable[[StudyResults], View]
    measurement: Measurement | None = None

    def show(self, results: StudyResults) -> View:
        """Return the view, or a note where nothing was measured."""
        if self.measurement and results.rows(self.name).is_empty():
            return View("", [Note("Not measured.", muted=True)])
        return self.view(results)
