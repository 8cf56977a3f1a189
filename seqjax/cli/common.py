"""Helpers that all commands share: the console, progress bars, and one-line errors for bad input."""

import contextlib
from collections.abc import Iterable, Iterator

import jax
from rich.console import Console
from rich.progress import Progress

from seqjax import names
from seqjax.checks import check_whole
from seqjax.cli.errors import UsageError, one_line
from seqjax.cli.progress import Lines, progress_of
from seqjax.fields import SettingError, flag


class _Console(Console):
    """A console that leaves a broken pipe to `seqjax.cli.ending`; rich would end the program with status 1."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 (called where the BrokenPipeError is handled)


console = _Console()
TOO_LARGE = (MemoryError, OverflowError, RecursionError)
"""Errors of values that are too large for Python or JAX, or nested too deeply."""


@contextlib.contextmanager
def usage_errors(
    prefix: str = "",
    of: tuple[type[Exception], ...] = (ValueError, TypeError, FileNotFoundError, ImportError, *TOO_LARGE),
) -> Iterator[None]:
    """Turn errors of the library into a `UsageError` of one line, in which fields are named as options.

    Args:
        prefix: text before the message.
        of: the types of errors to convert; other errors are raised unchanged.
    """
    try:
        yield
    except SettingError as error:
        raise UsageError(prefix + one_line(error.spelled(flag))) from None
    except of as error:
        note = f"{type(error).__name__}: " if isinstance(error, TOO_LARGE) else ""
        raise UsageError(prefix + note + one_line(error)) from None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UsageError(f"{prefix}out of memory ({one_line(error)}). Choose smaller sizes.") from None


def progress_bar() -> Progress | Lines:
    """Return the progress of a command on the console; see `seqjax.cli.progress`."""
    return progress_of(console)


def one_of(option: str, name: str, known: Iterable[str]) -> str:
    """Return the name if it is known, and raise a `UsageError` otherwise."""
    with usage_errors(f"{option}: "):
        return names.known_name(name, known)


def at_least_one(option: str, number: int) -> int:
    """Return the number if it is 1 or more, and raise a `UsageError` otherwise."""
    with usage_errors():
        return check_whole(option, number)
