"""Write files atomically, check that a folder can be written, and read files of a limited size.

A reader of a file that `put` writes finds the old file or the new one, never a part of either.
"""

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

LARGEST_JSON = 2**26
"""Largest size of a JSON file in bytes, 64 MB."""


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
    if path.exists() and not path.is_file() and not path.is_dir():
        write(path)  # a device or a pipe, such as /dev/stdout, is not replaced
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_text(path: Path, text: str) -> None:
    r"""Write a text in UTF-8 with `put`; an unpaired surrogate, as in a file name that is not UTF-8, as ``\\udcff``."""
    put(path, lambda place: place.write_text(text, encoding="utf-8", errors="backslashreplace"))


def check_can_write(folder: str | os.PathLike[str]) -> None:
    """Raise the error of the operating system for a folder in which no file can be created. Nothing is left there.

    A function that computes for long before it writes calls this first. The folder need not exist: then the folders
    above it are tried. A full disk shows only when bytes are written.

    Raises:
        OSError: when the folder cannot be written: no rights, a name that is too long, a file in place of a folder.

    Example:
        >>> from seqjax.files import check_can_write
        >>> try:
        ...     check_can_write("/dev/null/report")
        ... except OSError as error:
        ...     print(error.strerror)
        Not a directory
    """
    place = Path(folder).absolute()
    while not os.path.lexists(place):
        with contextlib.suppress(FileNotFoundError):
            os.lstat(place)  # a name that is too long, or below a file
        place = place.parent
    with tempfile.TemporaryFile(dir=place):  # without a name, or removed at once
        pass


def read_limited(path: str | os.PathLike[str], most: int) -> bytes:
    """Read a file or a pipe once and whole.

    Args:
        path: path of the file or pipe.
        most: the largest number of bytes, which is checked before a file is read.

    Raises:
        OSError: when the file cannot be read.
        ValueError: for a device, such as /dev/zero, and for more bytes.

    Example:
        >>> from seqjax.files import read_limited
        >>> try:
        ...     read_limited("/dev/zero", 100)
        ... except ValueError as error:
        ...     print(error)
        expected a file or a pipe, got '/dev/zero', which is a device
    """
    with open(path, "rb") as file:
        there = os.fstat(file.fileno())
        if not stat.S_ISREG(there.st_mode) and not stat.S_ISFIFO(there.st_mode):
            raise ValueError(f"expected a file or a pipe, got '{path}', which is a device")
        if there.st_size > most:
            raise ValueError(f"expected at most {most} bytes, got '{path}' of {there.st_size} bytes")
        if stat.S_ISREG(there.st_mode):
            return file.read()
        data = bytearray()
        while piece := file.read(2**20):
            data += piece
            if len(data) > most:
                raise ValueError(f"expected at most {most} bytes, got more from the pipe '{path}'")
        return bytes(data)


def read_json(path: str | os.PathLike[str], most: int = LARGEST_JSON) -> Any:
    """Return the value in a JSON file in UTF-8, with or without a byte order mark.

    Args:
        path: path of the file.
        most: the largest number of bytes.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when the file is too large, is not UTF-8, is not JSON, or is nested too deeply.

    Example:
        >>> import pathlib, tempfile
        >>> from seqjax.files import read_json
        >>> path = pathlib.Path(tempfile.mkdtemp(), "x.json")
        >>> _ = path.write_text("[" * 100_000)
        >>> try:
        ...     read_json(path)
        ... except ValueError as error:
        ...     print(error)
        it is nested too deeply
    """
    data = read_limited(path, most)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def why(error: OSError) -> str:
    """Return the operating system's reason for an error, such as "No space left on device"."""
    return error.strerror or str(error)
