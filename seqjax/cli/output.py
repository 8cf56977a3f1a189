"""The places that commands write to: checked before anything is computed, and errors of writing in one line."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from seqjax.cli.errors import UsageError
from seqjax.files import check_can_write, why


@contextlib.contextmanager
def writing(out: object, option: str = "--out") -> Iterator[None]:
    """Turn errors of the operating system into a `UsageError` that says that the output cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{option}: {out} cannot be written ({why(error)}). Choose another place.") from None


def check_folder(out: Path, option: str = "--out") -> None:
    """Raise a `UsageError` unless files can be written to a folder, which need not exist. Nothing is written."""
    if os.path.isfile(out):
        raise UsageError(f"{option}: expected a folder, got the file {out}. Choose another name.")
    with writing(out, option):
        check_can_write(out)


def check_file(out: Path, option: str = "--out") -> None:
    """Raise a `UsageError` unless a file can be written, or replaced. Nothing is written."""
    with writing(out, option):
        with contextlib.suppress(FileNotFoundError):
            os.lstat(out)  # a name that is too long, or below a file
        if out.exists() and not out.is_file() and not out.is_dir():
            return  # a device or a pipe, such as /dev/stdout
        if out.is_dir() or not out.parent.is_dir():
            raise UsageError(
                f"{option}: expected a file in a folder that exists, got {out}. Choose another place."
            )
        check_can_write(out.parent)
