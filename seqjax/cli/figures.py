"""``seqjax figures`` writes the figures and tables of a report for a paper."""

from pathlib import Path
from typing import Annotated

import typer

from seqjax.cli.common import UsageError, console, one_of, usage_errors
from seqjax.files import why
from seqjax.report import paper
from seqjax.report.text import plural

STYLES = ("paper",)


def figures(
    folder: Annotated[Path, typer.Argument(help="A report's folder.")],
    style: Annotated[
        str, typer.Option(help="Style: paper writes PDF and PGF, and tables as LaTeX and CSV.")
    ] = "paper",
    width: Annotated[float, typer.Option(help="Width of a column in inches.")] = paper.WIDTH,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the files; by default 'paper' in the report's folder.", show_default=False
        ),
    ] = None,
) -> None:
    r"""Write the figures and tables of a report for a paper, from the measurements in its folder.

    PDF figures hold all they need. PGF figures take the font of the document and need \usepackage{pgf}; LaTeX tables
    need \usepackage{booktabs}.
    """
    one_of("--style", style, STYLES)
    try:
        with usage_errors(of=(ValueError,)):
            written = paper.write_figures(folder, out, width=width)
    except OSError as error:
        raise UsageError(f"--out: {out or folder} cannot be written ({why(error)}).") from None
    console.print(
        f"Wrote {plural(written.figures, 'figure')} (PDF, PGF) and {plural(written.tables, 'table')} (LaTeX, CSV) to "
        f"{written.folder.resolve()}",
        soft_wrap=True,
        highlight=False,
    )
