"""Helpers that all commands share: the console, progress bars, and one-line errors for bad input."""

import contextlib
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from seqjax import names
from seqjax.checks import check_whole
from seqjax.fields import SettingError, flag

console = Console()


class UsageError(Exception):
    """Bad input: the program prints the text and exits with status 2."""


@contextlib.contextmanager
def usage_errors(
    prefix: str = "", of: tuple[type[Exception], ...] = (ValueError, TypeError, FileNotFoundError)
) -> Iterator[None]:
    """Turn errors of the library into a `UsageError` of one line, in which fields are named as options.

    Args:
        prefix: text before the message.
        of: the types of errors to convert; other errors are raised unchanged.
    """
    try:
        yield
    except SettingError as error:
        raise UsageError(prefix + _one_line(error.spelled(flag))) from None
    except of as error:
        raise UsageError(prefix + _one_line(error)) from None


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def progress_bar() -> Progress:
    """Return a bar that shows the fraction done, the time elapsed and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def one_of(option: str, name: str, known: Iterable[str]) -> str:
    """Return the name if it is known, and raise a `UsageError` otherwise."""
    with usage_errors(f"{option}: "):
        return names.known_name(name, known)


def at_least_one(option: str, number: int) -> int:
    """Return the number if it is 1 or more, and raise a `UsageError` otherwise."""
    with usage_errors():
        return check_whole(option, number)
