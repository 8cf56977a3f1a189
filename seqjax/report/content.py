"""The content of a section: figures with captions, tables, folds and notes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.figure
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from seqjax.report.drawing import PAGE, Medium, style
from seqjax.report.svg import write

Text = str | Markup


class Caption(NamedTuple):
    """A caption: the contents of the figure, the measurement, and the conclusion."""

    shows: Text
    measured: Text
    conclusion: Text


class Drawn(NamedTuple):
    """A drawing, and its values for the page's script (see ``page.js``); None for a drawing without interaction."""

    figure: matplotlib.figure.Figure
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Panel:
    """A drawing, made anew for each medium: as SVG for the page, as PDF and PGF for a paper.

    Attributes:
        name: name of the file, and prefix of its ids; use `file_names` for parts of it that come from results.
        draw: draws for a medium, inside its `style`.
        label: description for screen readers.
        title: name in a sentence.
        points: number of different positions that have a value; None where one position is enough to draw.
        cell: the only cell that the drawing shows, or None.
        length: the only sequence length that the drawing shows, or None.
    """

    name: str
    draw: Callable[[Medium], Drawn]
    label: str = ""
    title: str = ""
    points: int | None = None
    cell: str | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        """Refuse a name that could lead out of the folder of figures; results of others may hold any name."""
        if not re.fullmatch("[A-Za-z0-9_-][A-Za-z0-9_.-]*", self.name):
            raise ValueError(
                f"Panel: expected letters, digits, '_', '-' and '.' in a name, got {self.name!r}."
            )

    @cached_property
    def page(self) -> tuple[str, Mapping[str, Any] | None]:
        """One ``<svg>`` element for the page, and its values for the page's script."""
        with style(PAGE):
            drawn = self.draw(PAGE)
            return write(drawn.figure, self.name, self.label), drawn.data

    @property
    def svg(self) -> str:
        return self.page[0]

    @property
    def data(self) -> Mapping[str, Any] | None:
        return self.page[1]

    @property
    def markup(self) -> Markup:
        return Markup(self.svg)

    @property
    def json(self) -> Markup:
        """The data as JSON, escaped so that it cannot close its HTML element."""
        text = json.dumps(plain(self.data), separators=(",", ":"), allow_nan=False)
        return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@dataclass(frozen=True)
class Figure:
    """Panels under one caption; `aside` is a scale or a small table inside the caption."""

    title: Text
    panels: Sequence[Panel]
    caption: Caption
    aside: Sequence[Panel | Table] = ()
    length: int | None = None

    kind = "figure"


def figure_of(
    title: Text,
    panels: Sequence[Panel],
    caption: Caption,
    aside: Sequence[Panel | Table] = (),
    length: int | None = None,
) -> Figure | Note:
    """Return a figure of the panels that show two positions or more; a note where no panel does.

    The caption names the panels that are left out. A single dot shows no relation, and the tables have its value.
    """
    drawn = [panel for panel in panels if panel.points is None or panel.points > 1]
    few = listed(panel.title for panel in panels if panel not in drawn)
    if not drawn:
        return Note(
            say("<b>{}</b>: too few values to draw. {} {}", title, caption.measured, caption.conclusion)
        )
    if few:
        caption = caption._replace(shows=caption.shows + say(" Too few values to draw: {}.", few))
    return Figure(title, drawn, caption, aside, length)


@dataclass(frozen=True)
class Table:
    """A table whose rows form groups; each group has a heading unless it is empty.

    Attributes:
        label: description for screen readers.
        columns: titles, and "number" for columns of numbers, else "".
        groups: headings and rows of cells.
        small: whether the table stands inside a caption.
    """

    label: str
    columns: Sequence[tuple[Text, str]]
    groups: Sequence[tuple[Text, Sequence[Sequence[Text]]]]
    small: bool = False

    kind = "table"


@dataclass(frozen=True)
class Fold:
    """Blocks that a click on the title shows and hides."""

    title: Text
    blocks: Sequence[Block]

    kind = "fold"


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: Text
    muted: bool = False

    kind = "note"


Block = Figure | Table | Fold | Note


@dataclass(frozen=True)
class View:
    """The content of a section: an introduction and blocks."""

    intro: Text
    blocks: Sequence[Block] = ()


def templates(folder: Path) -> Environment:
    """Return the templates in a folder; a name without a value is an error."""
    loader = FileSystemLoader(folder)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def say(template: str, *values: Any, **named: Any) -> Markup:
    """Format a template of trusted markup with values, which are escaped."""
    return Markup(template).format(*values, **named)


def bold(word: Any) -> Markup:
    """Return the word in bold type."""
    return say("<b>{}</b>", word)


def columns(*titles: Iterable[Text]) -> list[tuple[Text, str]]:
    """Return the columns of a `Table` from lists of titles: in turn of texts and of numbers.

    Example:
        >>> columns(["cell"], ["T", "loss"])
        [('cell', ''), ('T', 'number'), ('loss', 'number')]
    """
    return [(title, "number" if turn % 2 else "") for turn, some in enumerate(titles) for title in some]


def listed(words: Iterable[Any], last: str = " and ") -> Markup:
    """Join words to a list in a sentence."""
    items = [escape(word) for word in words]
    if len(items) < 2:
        return Markup("").join(items)
    return Markup(", ").join(items[:-1]) + last + items[-1]


def plain(value: Any, digits: int = 5) -> Any:
    """Convert arrays and numbers to JSON values of few digits; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        short = float(f"{value:.{digits}g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    return value
