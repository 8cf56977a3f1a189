"""What a section shows: figures with captions, tables, notes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape

Text = str | Markup


class Caption(NamedTuple):
    """The three things a caption says: what is shown, how it was measured, what to conclude."""

    shows: Text
    measured: Text
    conclusion: Text


@dataclass(frozen=True)
class Panel:
    """One drawing: SVG text, and where its lines lie on the page, for those who point at them.

    Attributes:
        name: of the file, and prefix of its ids.
        svg: one ``<svg>`` element.
        data: plain values for the page's script, see ``page.js``; None for a drawing that does not react.
        cell: what it shows, when it shows one cell only.
        length: likewise.
    """

    name: str
    svg: str
    data: Mapping[str, Any] | None = None
    cell: str | None = None
    length: int | None = None

    @property
    def markup(self) -> Markup:
        return Markup(self.svg)

    @property
    def json(self) -> Markup:
        """The data as JSON that cannot end the element it stands in."""
        text = json.dumps(plain(self.data), separators=(",", ":"), allow_nan=False)
        return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@dataclass(frozen=True)
class Figure:
    """Panels that are read together, under one caption; `aside` stands in the caption: a scale or a small table."""

    title: Text
    panels: Sequence[Panel]
    caption: Caption
    aside: Sequence[Panel | Table] = ()
    length: int | None = None

    kind = "figure"


@dataclass(frozen=True)
class Table:
    """Rows under one head; in groups, with a heading each, where a heading is not empty.

    Attributes:
        label: what the table is, for those who hear it.
        columns: titles, and "number" for columns of numbers, else "".
        groups: headings and rows of cells.
        small: whether it stands inside a caption.
    """

    label: str
    columns: Sequence[tuple[Text, str]]
    groups: Sequence[tuple[Text, Sequence[Sequence[Text]]]]
    small: bool = False

    kind = "table"


@dataclass(frozen=True)
class Fold:
    """Blocks behind one line that opens."""

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
    """What a section shows on the page."""

    intro: Text
    blocks: Sequence[Block] = ()


def say(template: str, *values: Any, **named: Any) -> Markup:
    """Text with markup of our own around values that are escaped."""
    return Markup(template).format(*values, **named)


def listed(words: Iterable[Any], last: str = " and ") -> Markup:
    """Words as a list in a sentence."""
    items = [escape(word) for word in words]
    if len(items) < 2:
        return Markup("").join(items)
    return Markup(", ").join(items[:-1]) + last + items[-1]


def plain(value: Any, digits: int = 5) -> Any:
    """Arrays and numbers as JSON holds them, with few digits; what is not finite as None."""
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
