"""Files that are put in place whole: a reader sees the old one or the new one, and none is half written."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl


def put(path: Path, write: Callable[[Path], Any]) -> None:
    """What `write` writes to the path that it is given, at this path.

    Raises:
        OSError: where it cannot be written; a table, too.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "x.txt")
        >>> put(path, lambda place: place.write_text("whole"))
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('whole', 1)
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    except pl.exceptions.PolarsError as error:
        raise OSError(str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)


def put_text(path: Path, text: str) -> None:
    """A text, likewise."""
    put(path, lambda place: place.write_text(text, encoding="utf-8"))


def why(error: OSError) -> str:
    """What the system says, in few words."""
    return error.strerror or str(error)
