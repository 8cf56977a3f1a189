"""``seqjax list`` shows the cells, methods and tasks, one per line, or the docstring of one."""

import inspect
from typing import Annotated, Any, NamedTuple

import typer

from seqjax.cells import REGISTRY
from seqjax.cli.common import UsageError, console
from seqjax.methods import NAMED
from seqjax.names import known_name
from seqjax.report import catalog
from seqjax.tasks import TASKS


class Entry(NamedTuple):
    """One line: kind, name, description, and the object whose docstring says more, or None."""

    kind: str
    name: str
    description: str
    of: Any


def list_(
    word: Annotated[
        str | None,
        typer.Argument(
            help="A name, whose docstring is shown; or a part of names, kinds and descriptions.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List all cells, methods and tasks, one per line, or show the docstring of one.

    Cells are listed with their kind of recurrence, and methods as they are written in Python.
    """
    found = entries()
    exact = [each for each in found if each.name == word]
    for entry in exact:
        docstring = "" if entry.of is None else f"\n\n{inspect.getdoc(entry.of)}"
        typer.echo(f"{entry.kind} {entry.name}: {entry.description}{docstring}")
    if exact:
        return
    shown = [each for each in found if word is None or word.lower() in " ".join(each[:3]).lower()]
    if not shown:
        try:
            known_name(str(word), [each.name for each in found])
        except ValueError as error:
            raise UsageError(f"list: {error}") from None
    width = max(len(each.name) for each in shown)
    for each in shown:
        line = f"{each.kind:<6}  {each.name:<{width}}  {each.description}"
        cut = console.is_terminal and len(line) > console.width
        typer.echo(f"{line[: console.width - 3]}..." if cut else line)


def entries() -> list[Entry]:
    """Return every cell, method and task."""
    found = []
    for name, kind, description, gradients in catalog.cells().rows:
        factory = getattr(REGISTRY[name].make, "func", REGISTRY[name].make)
        found.append(Entry("cell", name, f"{kind}. {description} {gradients}", factory))
    for name, method in NAMED.items():
        first = (inspect.getdoc(type(method)) or "").split("\n")[0]
        found.append(Entry("method", name, f"{method!r}. {first}", type(method)))
    for name, description in catalog.tasks().rows:
        found.append(Entry("task", name, description, TASKS.get(name)))
    return found
