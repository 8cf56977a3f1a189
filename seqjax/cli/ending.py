"""The end of the command line: every exception becomes an exit status and at most one line on stderr."""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import typer

from seqjax.cli.errors import UsageError, one_line
from seqjax.files import why
from seqjax.interrupts import INTERRUPTED

PASSED, FAILED, BAD_INPUT = 0, 1, 2
BROKEN_PIPE = 141
"""The exit status when the reader of the output has gone, as in ``seqjax list | head -1``."""
TRACEBACK = "SEQJAX_TRACEBACK"
"""The environment variable that shows the traceback of every error."""
HINT = f"Set {TRACEBACK}=1 to see the full error."
MISUSED_PATH = (
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)
"""Errors of the operating system about a path that the user gave."""


def ending(error: BaseException) -> tuple[int, str]:
    """Return the exit status and the text of the line on stderr; "" prints no line.

    The status is 2 for bad input, 1 for other failures, 130 for Ctrl-C and 141 for a broken pipe.

    Example:
        >>> from seqjax.cli.ending import ending
        >>> ending(KeyboardInterrupt())
        (130, 'interrupted.')
        >>> ending(OverflowError("too large"))
        (1, 'internal error: OverflowError: too large. Set SEQJAX_TRACEBACK=1 to see the full error.')
    """
    if isinstance(error, typer.Exit):
        return error.exit_code, ""
    if isinstance(error, SystemExit):
        return (error.code or PASSED, "") if isinstance(error.code, int | None) else (FAILED, str(error.code))
    if isinstance(error, UsageError):
        return BAD_INPUT, one_line(error)
    if isinstance(error, typer.TyperException):
        # Typer's text names the option. It is empty when no command was given and the help is shown.
        return BAD_INPUT, one_line(error.format_message())
    if (interrupt := _interrupt(error)) is not None:
        return INTERRUPTED, str(interrupt) or "interrupted."  # it may hold a command, which stays as it is
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE, ""
    name, text = type(error).__name__, one_line(error).rstrip(".")
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return FAILED, f"out of memory{text and f' ({text})'}. Choose smaller sizes. {HINT}"
    if isinstance(error, RecursionError):
        return FAILED, f"a value is nested too deeply ({text}). {HINT}"
    if isinstance(error, OSError) and error.filename is not None:
        told = f"{one_line(error.filename)} cannot be used ({why(error)})."
        return (BAD_INPUT, told) if error.errno in MISUSED_PATH else (FAILED, f"{told} {HINT}")
    if isinstance(error, OSError):
        return FAILED, f"a file or the output cannot be used ({why(error)}). {HINT}"
    return FAILED, f"internal error: {name}{text and f': {text}'}. {HINT}"


@contextlib.contextmanager
def ends() -> Iterator[None]:
    """End the program with the status of what happens in the ``with`` block.

    Raises:
        SystemExit: always.
    """
    _accept_every_letter()
    try:
        yield
        _flush(sys.stdout)
        status = PASSED
    except BaseException as error:
        status, text = ending(error)
        if os.environ.get(TRACEBACK) and text:
            _print("".join(traceback.format_exception(error)).rstrip())
        if text:
            _print(f"seqjax: {text}")
        status = _closed(status)
    sys.exit(status)


def _accept_every_letter() -> None:
    r"""Print letters that the encoding of the terminal does not have as ``\\xfc``, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the Ctrl-C that an error is or comes from: libraries raise errors of their own from it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def _closed(status: int) -> int:
    """Flush the output; return the status, or another one where a program that passed could not write it."""
    try:
        _flush(sys.stdout)
    except OSError as error:
        if status == PASSED:
            status, text = ending(error)
            if text:
                _print(f"seqjax: {text}")
    return status


def _flush(stream: Any) -> None:
    """Flush a stream; one that cannot be written is closed, or Python would try again at its end, with a message."""
    if stream is None:  # the program was started without it
        return
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        raise


def _print(text: str) -> None:
    """Print to stderr, if anybody can still read it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr)
        _flush(sys.stderr)
