"""Write the figures and tables of a study for a paper, from the values that draw its page."""

import io
import re
from pathlib import Path
from typing import Any, NamedTuple

from seqjax.files import check_can_write, put
from seqjax.report.content import Panel, Table
from seqjax.report.drawing import Medium, paper, style
from seqjax.report.latex import csv_table, latex_table, tables_of
from seqjax.report.page import contents, panels_of
from seqjax.report.pgf import pgf
from seqjax.report.results import StudyResults, drawable
from seqjax.study.reading import read_study

WIDTH = 3.25
"""Width of a column of a page in two columns, in inches."""


class Written(NamedTuple):
    """The folder, and the numbers of figures and tables in it."""

    folder: Path
    figures: int
    tables: int


def write_figures(folder: str | Path, out: str | Path | None = None, *, width: float = WIDTH) -> Written:
    """Write every figure of a study as PDF and PGF, and every table as LaTeX and CSV.

    All files are made before the first one is written, and each file is written as a whole.

    Args:
        folder: the folder of a study, complete or not.
        out: the folder to write to; by default ``paper`` in the folder of the study.
        width: width of the figures in inches. Text has 8 points at 3.25 inches, and grows with the width.

    Raises:
        ValueError: when the folder holds no study, a file differs from what was written, the results cannot be drawn,
            or the width is not between 1 and 20 inches. Nothing is written then.
        OSError: when the folder or the files cannot be written; most such folders are found before a figure is drawn.
    """
    if not 1 <= width <= 20:
        raise ValueError(
            f"width: expected 1 to 20 inches, got {width}. The column of a paper has 3 to 7 inches."
        )
    folder = Path(folder)
    out = folder / "paper" if out is None else Path(out)
    summary, rows = read_study(folder)
    check_can_write(out)
    with drawable(folder):
        panels, tables = _contents(StudyResults(rows, summary))
        files = {name: content for panel in panels for name, content in _files(panel, paper(width)).items()}
        for name, table in tables.items():
            files |= {f"{name}.tex": latex_table(table).encode(), f"{name}.csv": csv_table(table).encode()}
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        put(out / name, lambda place, content=content: place.write_bytes(content))  # type: ignore[misc]
    return Written(out, len(panels), len(tables))


def _contents(results: StudyResults) -> tuple[list[Panel], dict[str, Table]]:
    """Return the drawings and the named tables of the page."""
    first, sections = contents(results)
    panels = [first.panel] if first.panel else []
    tables: dict[str, Table] = {}
    views: list[tuple[str, Any]] = [("answer", [first.table] if first.table else [])]
    views += [(section.name, view.blocks) for section, view in sections]
    for section, blocks in views:
        panels += panels_of(blocks)
        for table in tables_of(blocks):
            name = f"table-{section}-" + re.sub("[^a-z0-9]+", "-", table.label.lower()).strip("-")
            again = sum(known == name or known.startswith(f"{name}.") for known in tables)
            tables[f"{name}.{again + 1}" if again else name] = table
    return panels, tables


def _files(panel: Panel, medium: Medium) -> dict[str, bytes]:
    """Return one drawing as PDF and as PGF with its images, by file name."""
    with style(medium):
        figure = panel.draw(medium).figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
        text, images = pgf(figure, panel.name)
    return {f"{panel.name}.pdf": buffer.getvalue(), f"{panel.name}.pgf": text.encode()} | images
