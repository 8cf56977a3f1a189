"""What the commands share: the console, progress bars, and the parsing of options with one clear line for bad input."""

import difflib
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from seqjax.checks import check_whole

console = Console()

MANY = 30


class UsageError(Exception):
    """Bad input: its text is shown, and the exit status is 2."""


def option(what: str, default: Any, *, otherwise: str = "by default") -> Any:
    """An option that is None where it is not given: its default may come from elsewhere, and is said in the help."""
    shown = joined(default) if isinstance(default, tuple) else default
    return typer.Option(help=f"{what}; {shown} {otherwise}.", show_default=False)


def progress_bar() -> Progress:
    """A bar with the share done, the time passed and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def joined(values: Iterable[Any]) -> str:
    """Values as an option takes them: separated by commas."""
    return ",".join(str(value) for value in values)


def names(option: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Known names separated by commas, each once."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise UsageError(f"{option}: expected at least one name, got {text!r}.")
    return tuple(dict.fromkeys(one_of(option, name, known) for name in found))


def one_of(option: str, name: str, known: Iterable[str]) -> str:
    """The name, if it is known."""
    choices = list(known)
    if name in choices:
        return name
    near = difflib.get_close_matches(name, choices, 1, 0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    # Of all that is chosen by name only the cells are too many for one line.
    there = f"There are {', '.join(choices)}." if len(choices) < MANY else "'seqjax list' shows all."
    raise UsageError(f"{option}: unknown name {name!r}.{hint} {there}")


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers of at least one, separated by commas, in order."""
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise UsageError(f"{option}: expected whole numbers separated by commas, got {text!r}.")
    return tuple(sorted({at_least_one(option, number) for number in found}))


def at_least_one(option: str, number: int) -> int:
    """The number, if it is one or more."""
    try:
        return check_whole(option, number)
    except ValueError as error:
        raise UsageError(str(error)) from None
