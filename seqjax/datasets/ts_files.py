"""The ``.ts`` files of the UCR and UEA archives: labelled time series with one or several channels."""

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import numpy as np

from seqjax.datasets.files import Name
from seqjax.datasets.series import number_of
from seqjax.datasets.strings import lines_of, read_string

FLAGS = {"true": True, "false": False}


class LabelledSeries(NamedTuple):
    """Labelled time series.

    Attributes:
        xs: N arrays ``[T_i, D]`` float32.
        labels: classes ``[N]`` int32, or numbers ``[N]`` float32 for regression; empty ``[0]`` without labels.
        names: the names of the classes, in the order of the file; empty for numbers.
    """

    xs: list[np.ndarray]
    labels: np.ndarray
    names: tuple[str, ...]


def read_ts(path: Name, *, encoding: str = "utf-8") -> LabelledSeries:
    r"""Read a ``.ts`` file: a header of ``@`` lines, then one series per line.

    The channels of a series are separated by colons, their values by commas; the class or the number comes last.

    Args:
        path: the file.
        encoding: the encoding of files without a byte order mark.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: for files without ``@data`` or series, with time stamps, missing or infinite values, channels of
            different lengths, another number of channels than ``@dimensions``, or classes that ``@classLabel`` does
            not name. The error names the line.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.datasets import read_ts
        >>> path = pathlib.Path(tempfile.mkdtemp(), "Two_TRAIN.ts")
        >>> _ = path.write_text("@dimensions 2\n@classLabel true a b\n@data\n1,2,3:4,5,6:b\n")
        >>> read_ts(path)
        LabelledSeries(xs=[array([[1., 4.],
               [2., 5.],
               [3., 6.]], dtype=float32)], labels=array([1], dtype=int32), names=('a', 'b'))
    """
    lines = lines_of(read_string(path, encoding=encoding))
    header, begin = _header(lines, path)
    if header.get("timestamps", ["false"])[0].lower() == "true":
        _refuse("values without time stamps", "@timeStamps true", None, path, "Write the values alone.")
    classes = _classes(header, path)
    targets = header.get("targetlabel", ["false"])[0].lower() == "true"
    labelled = classes is not None or targets
    xs: list[np.ndarray] = []
    labels: list[float] = []
    dimensions = _dimensions(header, path)
    for line, text in enumerate(lines[begin:], begin + 1):
        if not text.strip() or text.startswith("#"):
            continue
        fields = [field.strip() for field in text.strip().split(":")]
        if labelled:
            labels.append(_label(fields.pop(), classes, line, path))
        xs.append(_channels(fields, dimensions, line, path))
        dimensions = xs[0].shape[1] if dimensions is None else dimensions
    if not xs:
        _refuse("a series after @data", "none", None, path, "Pass another file.")
    return LabelledSeries(xs, np.array(labels, np.int32 if classes else np.float32), tuple(classes or ()))


def _header(lines: list[str], path: Name) -> tuple[dict[str, list[str]], int]:
    """Return the values of the header by name in lower case, and the place of the first line after ``@data``."""
    header: dict[str, list[str]] = {}
    for place, text in enumerate(lines):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        if not text.startswith("@"):
            _refuse(
                "a line of the header (@name ...)",
                repr(text[:30]),
                place + 1,
                path,
                "Add the line @data before it.",
            )
        name, *values = text[1:].split()
        if name.lower() == "data":
            return header, place + 1
        header[name.lower()] = values or [""]
    _refuse("the line @data", "none", None, path, "The file may be truncated.")


def _dimensions(header: dict[str, list[str]], path: Name) -> int | None:
    found = header["dimensions"][0] if "dimensions" in header else None
    if found is not None and not found.isdecimal():
        _refuse(
            "a whole number of channels",
            f"@dimensions {found}",
            None,
            path,
            "Correct it, or remove the line.",
        )
    return None if found is None else int(found)


def _classes(header: dict[str, list[str]], path: Name) -> list[str] | None:
    flag, *classes = header.get("classlabel", ["false"])
    if not FLAGS.get(flag.lower(), False):
        return None
    if len(classes) < 2:
        _refuse(
            "the names of at least two classes",
            f"@classLabel true {' '.join(classes)}",
            None,
            path,
            "Name them.",
        )
    return classes


def _label(field: str, classes: Sequence[str] | None, line: int, path: Name) -> float:
    if classes is None:
        return number_of(field, "read_ts", f"line {line} of '{path}'")
    if field not in classes:
        _refuse(f"one of the classes {', '.join(classes)}", repr(field), line, path, "Add it to @classLabel.")
    return float(classes.index(field))


def _channels(fields: list[str], dimensions: int | None, line: int, path: Name) -> np.ndarray:
    """Return the values of a series ``[T, D]``."""
    if dimensions is not None and len(fields) != dimensions:
        _refuse(
            f"{dimensions} channels separated by colons", str(len(fields)), line, path, "Correct @dimensions."
        )
    where = f"line {line} of '{path}'"
    channels = [[number_of(each, "read_ts", where) for each in field.split(",")] for field in fields]
    if len({len(channel) for channel in channels}) > 1:
        lengths = ", ".join(str(len(channel)) for channel in channels)
        _refuse("channels of one length", lengths, line, path, "Fill up the shorter ones.")
    xs = np.array(channels, np.float32).T
    if np.isnan(xs).any():
        _refuse("known values", "a missing one", line, path, "Fill the gaps.")
    return xs


def _refuse(expected: str, got: str, line: int | None, path: Name, remedy: str) -> NoReturn:
    where = f" in line {line} of '{path}'" if line else f" in '{path}'"
    raise ValueError(f"read_ts: expected {expected}, got {got}{where}. {remedy}")
