"""Write files atomically: a reader finds the old file or the new one, never a part of either."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def put(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write`` with a temporary path in the same folder, and rename the result to ``path``.

    Args:
        path: the file to create or replace.
        write: a function that writes the file at the given path. If it raises, the temporary file is removed.

    Raises:
        OSError: when the file cannot be written.

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
    finally:
        temporary.unlink(missing_ok=True)


def put_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 with `put`."""
    put(path, lambda place: place.write_text(text, encoding="utf-8"))


def why(error: OSError) -> str:
    """Return the operating system's reason for an error, such as "No space left on device"."""
    return error.strerror or str(error)
