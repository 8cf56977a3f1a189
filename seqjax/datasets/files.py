"""Readers of text lines, JSON lines and arrays. Each error is one line that names the fault of the file."""

import json
from os import PathLike
from pathlib import Path

import numpy as np

from seqjax.datasets.text import read_bytes

Name = str | PathLike[str]
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
JSON_LINES = (".jsonl", ".ndjson")
NO_TEXT = {
    "arrays": (".npz", ".npy", ".h5", ".hdf5", ".safetensors", ".pt", ".pkl", ".pickle", ".mat"),
    "a table": (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xlsx"),
    "a compressed file": (".gz", ".zip", ".xz", ".bz2", ".zst", ".tar", ".7z"),
}
LONGEST_LINE = 2**24
"""Largest length of a line in bytes, 16 MB. A longer line is unlikely to be one document."""


def read_text(path: Name) -> np.ndarray:
    r"""Read a text as bytes ``[N]``, by the name of its file.

    The texts of a ``.jsonl`` file (`read_json_lines`) are joined by newlines; any other text is read as it is, in any
    encoding, without the byte order mark of UTF-8.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: when the file cannot be read or is empty, and for files of arrays, tables and compressed files, by
            the ends of their names.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.datasets import read_text
        >>> path = pathlib.Path(tempfile.mkdtemp(), "documents.jsonl")
        >>> _ = path.write_text('{"text": "one"}\n{"text": "two"}\n')
        >>> bytes(read_text(path))
        b'one\ntwo'
    """
    suffix = Path(path).suffix.lower()
    for kind, suffixes in NO_TEXT.items():
        if suffix in suffixes:
            remedy = {
                "arrays": "Train on arrays in Python, with datasets.examples.",
                "a table": "Read its columns with datasets.read_table, or write the text of one to a text file.",
                "a compressed file": "Unpack it first.",
            }[kind]
            read_bytes(path)  # a file that does not exist is reported first
            raise ValueError(
                f"read_text: expected a text, got '{path}', whose name is that of {kind}. {remedy}"
            )
    if suffix in JSON_LINES:
        return np.frombuffer(b"\n".join(bytes(text) for text in read_json_lines(path)), np.uint8)
    data = bytes(read_bytes(path)).removeprefix(BYTE_ORDER_MARK)
    if not data:
        raise ValueError(f"read_text: expected a text, got '{path}', which has a byte order mark alone.")
    return np.frombuffer(data, np.uint8)


def read_lines(path: Name, *, longest: int = LONGEST_LINE) -> list[np.ndarray]:
    r"""Read one document per line, as bytes ``[N_i]`` in any encoding; empty lines are skipped.

    Args:
        path: the file.
        longest: largest number of bytes in a line.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: when the file cannot be read, is empty or binary (contains zero bytes), or has a longer line.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.datasets import read_lines
        >>> path = pathlib.Path(tempfile.mkdtemp(), "lines.txt")
        >>> _ = path.write_text("one\n\nthree\n")
        >>> [bytes(line) for line in read_lines(path)]
        [b'one', b'three']
    """
    data = bytes(read_bytes(path)).removeprefix(BYTE_ORDER_MARK)
    if b"\0" in data:
        raise ValueError(
            f"read_lines: expected text, got '{path}', which is binary: byte {data.index(0)} is zero. "
            "Use read_bytes for binary files."
        )
    lines = [line.rstrip(b"\r") for line in data.split(b"\n")]
    for number, line in enumerate(lines, 1):
        if len(line) > longest:
            raise ValueError(
                f"read_lines: expected lines of at most {longest} bytes, got {len(line)} in line {number} of '{path}'. "
                "Use read_bytes, or pass a larger `longest=`."
            )
    found = [np.frombuffer(line, np.uint8) for line in lines if line]
    if not found:
        raise ValueError(f"read_lines: expected a line with text, got '{path}', whose lines are all empty.")
    return found


def read_json_lines(path: Name, field: str = "text") -> list[np.ndarray]:
    r"""Read one JSON object per line; return the bytes (UTF-8) of one of its fields as a document.

    Args:
        path: the file.
        field: name of the field with the text.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: when the file cannot be read or is empty, or a line is not UTF-8, is not JSON (as the last line of a
            truncated file), does not have the field, or has an unpaired surrogate in the field.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.datasets import read_json_lines
        >>> path = pathlib.Path(tempfile.mkdtemp(), "documents.jsonl")
        >>> _ = path.write_text('{"text": "hello"}\n')
        >>> bytes(read_json_lines(path)[0])
        b'hello'
    """
    documents = []
    lines = bytes(read_bytes(path)).removeprefix(BYTE_ORDER_MARK).split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"line {number} of '{path}'"
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"read_json_lines: expected UTF-8, got byte {line[error.start]:#04x} at {error.start} in {where}. "
                "Convert the file to UTF-8."
            ) from None
        except (ValueError, RecursionError) as error:
            last = " The file may be truncated." if number == len(lines) else ""
            raise ValueError(f"read_json_lines: expected JSON, got {error} in {where}.{last}") from None
        if not isinstance(value, dict) or not isinstance(value.get(field), str):
            raise ValueError(
                f"read_json_lines: expected an object with the text {field!r}, got {str(value)[:60]} in {where}. "
                "Pass the name of the field with `field=`."
            )
        try:
            documents.append(np.frombuffer(value[field].encode(), np.uint8))
        except UnicodeEncodeError as error:
            raise ValueError(
                f"read_json_lines: expected text, got an unpaired surrogate at {error.start} of {field!r} in {where}. "
                "Write surrogates in pairs."
            ) from None
    if not documents:
        raise ValueError(f"read_json_lines: expected an object, got '{path}', whose lines are all empty.")
    return documents


def read_arrays(path: Name) -> dict[str, np.ndarray]:
    """Read the arrays of a ``.npz`` file by their names, or the array of a ``.npy`` file by the name "xs".

    Args:
        path: the file. Arrays of Python objects are refused, since reading them would run code.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: when the file has another format, is truncated, or contains Python objects.

    Example:
        >>> import tempfile, pathlib, numpy as np
        >>> from seqjax.datasets import read_arrays
        >>> path = pathlib.Path(tempfile.mkdtemp(), "arrays.npz")
        >>> np.savez(path, xs=np.zeros((2, 3)), targets=np.zeros(2))
        >>> {name: array.shape for name, array in read_arrays(path).items()}
        {'xs': (2, 3), 'targets': (2,)}
    """
    read_bytes(path)  # raises the errors above
    try:
        loaded = np.load(Path(path), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"xs": loaded}
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name} is no array")
        return arrays
    except Exception as error:  # numpy, zipfile, zlib and ast raise many types for damaged files
        raise ValueError(
            f"read_arrays: expected a complete .npy or .npz file of numbers, got '{path}' ({error}). "
            "Write the file with numpy.savez."
        ) from None
