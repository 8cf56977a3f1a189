"""Text files as strings: encodings, byte order marks and line ends."""

import codecs

from seqjax.datasets.files import Name
from seqjax.datasets.text import read_bytes

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before that of UTF-16, with which it begins
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte order marks with the encodings that they announce."""


def read_string(path: Name, *, encoding: str = "utf-8") -> str:
    r"""Read a text file as one string. Every line ends with ``\n``.

    A byte order mark names the encoding of its file (UTF-8, UTF-16 or UTF-32) and is removed; `encoding` applies to
    files without a mark. `read_text` reads the bytes of a file in any encoding.

    Args:
        path: the file.
        encoding: a name that Python knows, such as "utf-8", "latin-1" or "cp1252".

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: when the file cannot be read, is empty or binary (contains zero characters), or is not in this
            encoding.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.datasets import read_string
        >>> path = pathlib.Path(tempfile.mkdtemp(), "text.txt")
        >>> _ = path.write_bytes("\ufeffañ\r\nb".encode())
        >>> read_string(path)
        'añ\nb'
    """
    data = bytes(read_bytes(path))
    try:
        "a".encode(encoding)
    except LookupError:
        raise ValueError(
            f'read_string(encoding): expected the name of an encoding, got {encoding!r}. Pass "utf-8" or "latin-1".'
        ) from None
    for mark, announced in MARKS.items():
        if data.startswith(mark):
            data, encoding = data.removeprefix(mark), announced
            break
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"read_string: expected {encoding}, got byte {data[error.start]:#04x} in line {line} of '{path}'. "
            "Convert the file to UTF-8, or pass its encoding with `encoding=`."
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"read_string: expected text, got a zero character in line {line} of '{path}', which is binary. "
            "Use read_bytes for binary files."
        )
    if not text:
        raise ValueError(
            f"read_string: expected a text, got '{path}', which has a byte order mark alone. Pass another file."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> list[str]:
    """Return the lines of a text without their ends; an end of the last line adds no empty line.

    Other characters that Unicode calls line ends, such as the next line and the form feed, stay inside their lines.
    """
    return text.removesuffix("\n").split("\n")
