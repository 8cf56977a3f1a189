"""Render the measurements of instruments inside a training as one self-contained page."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from seqjax.files import check_can_write, put_text, read_json
from seqjax.report.content import View, templates
from seqjax.report.page import FOLDER, facts_of, panels_of
from seqjax.report.results import StudyResults
from seqjax.report.run_views import LOSS, RUN_VIEWS, losses, others
from seqjax.report.section import Section
from seqjax.report.svg import standalone
from seqjax.rows import from_line
from seqjax.study.reading import SUMMARY
from seqjax.study.rows import SCHEMA
from seqjax.training.metrics_log import INSTRUMENTS

METRICS = "metrics.jsonl"


def is_run(folder: str | Path) -> bool:
    """Return whether this is the folder of a training, not of a study."""
    folder = Path(folder)
    there = any((folder / name).exists() for name in (INSTRUMENTS, METRICS))
    return there and not (folder / SUMMARY).exists()


def render_run(folder: str | Path) -> Path:
    """Write `index.html` and `figures/*.svg` beside the measurements of a training. It may still be running.

    Args:
        folder: the folder of the log of `fit`, or of a run of ``seqjax train``.

    Returns:
        The path of the page.

    Raises:
        ValueError: when the folder holds no measurements, or they cannot be read or drawn. Nothing is written then.
        OSError: when the folder cannot be written; most such folders are found before the page is drawn.
    """
    folder = Path(folder)
    rows, metrics = read_rows(folder), read_lines(folder / METRICS)
    check_can_write(folder)
    try:
        page, panels = _drawn(folder, rows, metrics)
    except Exception as error:
        raise ValueError(
            f"{folder}: its measurements cannot be drawn ({type(error).__name__}: {error}). Another version of seqjax "
            "may have written them."
        ) from error
    (folder / "figures").mkdir(exist_ok=True)
    for panel in panels:
        put_text(folder / "figures" / f"{panel.name}.svg", standalone(panel.svg))
    put_text(folder / "index.html", page)
    return folder / "index.html"


def read_rows(folder: str | Path) -> pl.DataFrame:
    """Return the rows of all instruments of a training, in the columns of a study; ``cell`` is the instrument.

    Raises:
        ValueError: when the folder holds no rows, or other ones.
    """
    path = Path(folder) / INSTRUMENTS
    lines = read_lines(path)
    if not lines:
        raise ValueError(
            f"{folder}: expected measurements of a training in {INSTRUMENTS}, got none. Train with 'seqjax train "
            "--instruments profile,spectrum', or with fit(instruments=...)."
        )
    try:
        rows = [
            {**dict.fromkeys(SCHEMA), "cell": each["part"], "seed": 0, **from_line(each)} for each in lines
        ]
        frame = pl.DataFrame(rows, schema=SCHEMA)
    except (KeyError, TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{path}: expected rows of instruments, got others ({error}).") from None
    wanted = ("part", "section", "quantity", "training_step")
    if any(frame[name].null_count() for name in wanted):
        raise ValueError(f"{path}: expected {', '.join(wanted)} in every row, got rows without one.")
    return frame.with_columns(pl.col("loss").fill_null(LOSS))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file of lines of JSON, without a line that is being written; nothing without the file.

    Raises:
        ValueError: when the file cannot be read, or a complete line is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}).") from None
    found = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ValueError(f"{path}: line {number} is damaged. Remove the line, or resume the training.")
        found.append(value)
    return found


def _drawn(folder: Path, rows: pl.DataFrame, metrics: list[dict[str, Any]]) -> tuple[str, list[Any]]:
    """Return the text of the page, and its panels."""
    results = StudyResults(rows, {})
    sections: list[tuple[Section, View]] = []

    def add(name: str, title: str, view: Callable[..., View], *data: Any) -> None:
        sections.append((Section(name, title, view), view(*data)))

    if metrics:
        add("losses", "Losses", losses, metrics)
    for name, (title, view) in RUN_VIEWS.items():
        if not results.rows(name).is_empty():
            add(name, title, view, results)
    rest = rows.filter(~pl.col("section").is_in(list(RUN_VIEWS)))
    if not rest.is_empty():
        add("others", "Other measurements", others, results, rest)
    panels = [panel for _, view in sections for panel in panels_of(view.blocks)]
    context = {
        "title": "Gradients during a training",
        "last": int(rows["training_step"].max()),  # type: ignore[arg-type]
        "settings": facts_of(_settings(folder)),
        "sections": sections,
        "css": Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        "js": Markup((FOLDER / "page.js").read_text(encoding="utf-8")),
    }
    return templates(FOLDER).get_template("run_page.html.jinja").render(context), panels


def _settings(folder: Path) -> Mapping[str, Any]:
    """Return the settings in ``config.json``; nothing without them."""
    try:
        found = read_json(folder / "config.json")
    except (OSError, ValueError):
        return {}
    return (
        {name: value for name, value in found.items() if name != "changes"} if isinstance(found, dict) else {}
    )
