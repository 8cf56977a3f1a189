"""Tables of cells, methods and tasks, generated from the code for ``seqjax list`` and the documents."""

import inspect
from collections.abc import Sequence
from typing import NamedTuple, get_args

from seqjax.base import Recurrence
from seqjax.cells import REGISTRY
from seqjax.datasets.sources import SOURCES
from seqjax.methods import METHODS
from seqjax.tasks import TASKS


class Table(NamedTuple):
    """A title, column heads and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def cells() -> Table:
    """Return the table of registered cells: kind, description, behavior of gradients."""
    rows = []
    for name, entry in REGISTRY.items():
        cell = entry.make(4)
        factory = getattr(entry.make, "func", entry.make)
        rows.append((name, type(cell.recurrence).__name__, _first_line(factory), entry.gradients))
    return Table("Cells", ("cell", "kind", "description", "gradients"), rows)


def families() -> Table:
    """Return the table of the names of registered cells, by kind of recurrence."""
    names: dict[str, list[str]] = {kind.__name__: [] for kind in get_args(Recurrence)}
    for name, entry in REGISTRY.items():
        names[type(entry.make(4).recurrence).__name__].append(name)
    rows = [(kind, ", ".join(cells)) for kind, cells in names.items()]
    return Table("Cells by kind of recurrence", ("kind", "cells"), rows)


def methods() -> Table:
    """Return the table of methods and the kinds of recurrence that they run."""
    kinds = get_args(Recurrence)
    rows = [(m.__name__, *("yes" if kind in m.kinds else "-" for kind in kinds)) for m in METHODS]  # type: ignore[attr-defined]
    return Table("Methods by kind of recurrence", ("method", *(kind.__name__ for kind in kinds)), rows)


def tasks() -> Table:
    """Return the table of the values of ``--task``."""
    text = "Next-byte prediction on a text, Moby-Dick by default (--data FILE for any other file)."
    rows = [("text", text), *((name, _first_line(factory)) for name, factory in TASKS.items())]
    return Table("Tasks", ("task", "description"), rows)


def data() -> Table:
    """Return the table of the data that ``seqjax data`` downloads."""
    rows = []
    for name, source in SOURCES.items():
        packages = ", ".join(f"{package} ({package.client})" for package in source.packages)
        rows.append((name, source.about, packages, source.license, source.credit))
    return Table("Data", ("name", "data", "packages", "license", "credit"), rows)


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def _first_line(factory: object) -> str:
    return (inspect.getdoc(factory) or "").split("\n")[0]
