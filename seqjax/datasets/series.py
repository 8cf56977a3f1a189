"""Tables of time series: a column per series, or a row per series as in the M competitions."""

import math
from typing import NamedTuple

import numpy as np

from seqjax.datasets.files import Name
from seqjax.datasets.tables import Column, Table, read_table

MISSING = ("", "na", "nan", "null", "none", "?")
"""Fields, in lower case, that stand for a missing value."""


class Series(NamedTuple):
    """Time series with their names.

    Attributes:
        names: N names.
        values: N arrays ``[T_i]`` float64, in the precision of the file.
        times: the times of the steps as they are in the file, for series that share them; else empty.
    """

    names: tuple[str, ...]
    values: list[np.ndarray]
    times: tuple[str, ...] = ()


def read_series(
    path: Name,
    *,
    time: Column | None = None,
    columns: tuple[Column, ...] | None = None,
    missing: str = "refuse",
    delimiter: str | None = None,
    header: bool = True,
    encoding: str = "utf-8",
) -> Series:
    r"""Read a wide table: a row per time step, a column per series.

    Args:
        path: the file, for `read_table`.
        time: the column of times, which is no series.
        columns: the columns to read, by name or position from 0; by default all but `time`.
        missing: what to do with empty fields, "NA", "NaN", "null" and "?": "refuse" them; "interpolate" them linearly
            between the nearest known values, with the nearest known value at the ends; or "keep" them as NaN.
        delimiter: see `read_table`.
        header: see `read_table`.
        encoding: see `read_table`.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: for tables that `read_table` refuses, and fields that are no finite numbers. The error names the
            line and the column.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.datasets import read_series
        >>> path = pathlib.Path(tempfile.mkdtemp(), "load.csv")
        >>> _ = path.write_text("hour,north,south\n0,1.5,7\n1,,8\n2,2.5,9\n")
        >>> series = read_series(path, time="hour", missing="interpolate")
        >>> series.names, series.values[0]
        (('north', 'south'), array([1.5, 2. , 2.5]))
    """
    table = read_table(path, delimiter=delimiter, header=header, encoding=encoding)
    without = None if time is None else table.place(time)
    chosen = range(len(table.names)) if columns is None else [table.place(column) for column in columns]
    places = [place for place in chosen if place != without]
    values = []
    for place in places:
        numbers = [
            number_of(row[place], "read_series", f"column {table.names[place]!r} of line {line} of '{path}'")
            for row, line in zip(table.rows, table.lines, strict=True)
        ]
        values.append(_without_gaps(np.array(numbers), table, place, missing))
    times = () if without is None else tuple(table.column(without))
    return Series(tuple(table.names[place] for place in places), values, times)


def read_series_rows(
    path: Name,
    *,
    leading: int = 1,
    delimiter: str | None = None,
    header: bool = True,
    encoding: str = "utf-8",
) -> Series:
    r"""Read a table with a row per series, as the M competitions have it: a name, then the values of all steps.

    Series may have different lengths: empty fields at the end of a row are no values. The files of M4 have one column
    before the values; the sheets of M3, saved as CSV, have six (series, N, NF, type, year, month).

    Args:
        path: the file, for `read_table`.
        leading: the number of columns before the values; the first one has the names.
        delimiter: see `read_table`.
        header: see `read_table`.
        encoding: see `read_table`.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: for tables that `read_table` refuses, fields that are no finite numbers, and series with a gap or
            without values. The error names the line and the column.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.datasets import read_series_rows
        >>> path = pathlib.Path(tempfile.mkdtemp(), "Monthly-train.csv")
        >>> _ = path.write_text('"V1","V2","V3","V4"\n"M1",8000,8350,8570\n"M2",400,401,\n')
        >>> read_series_rows(path)
        Series(names=('M1', 'M2'), values=[array([8000., 8350., 8570.]), array([400., 401.])], times=())
    """
    table = read_table(path, delimiter=delimiter, header=header, encoding=encoding)
    if not 1 <= leading < len(table.names):
        raise ValueError(
            f"read_series_rows(leading): expected 1 to {len(table.names) - 1} columns before the values, got {leading}."
        )
    values = []
    for row, line in zip(table.rows, table.lines, strict=True):
        fields = list(row[leading:])
        while fields and not fields[-1].strip():
            fields.pop()
        if not fields:
            raise ValueError(
                f"read_series_rows: expected values, got none in line {line} of '{path}'. Remove the line."
            )
        numbers = []
        for place, field in enumerate(fields, leading):
            where = f"column {table.names[place]!r} of line {line} of '{path}'"
            number = number_of(field, "read_series_rows", where)
            if math.isnan(number):
                raise ValueError(
                    f"read_series_rows: expected a number, got {field!r} in {where}. Fill the gap, or cut the series."
                )
            numbers.append(number)
        values.append(np.array(numbers))
    return Series(tuple(row[0] for row in table.rows), values)


def number_of(field: str, who: str, where: str) -> float:
    """Return the number in a field, NaN for a missing one; raise a ValueError for other fields."""
    field = field.strip()
    if field.lower() in MISSING:
        return math.nan
    try:
        value = float(field)
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise ValueError(
            f"{who}: expected a finite number, got {field!r} in {where}. Correct it, or leave it empty."
        )
    return value


def _without_gaps(values: np.ndarray, table: Table, place: int, missing: str) -> np.ndarray:
    if missing not in ("refuse", "interpolate", "keep"):
        raise ValueError(
            f"read_series(missing): expected 'refuse', 'interpolate' or 'keep', got {missing!r}."
        )
    gaps = np.isnan(values)
    if missing == "keep" or not gaps.any():
        return values
    if missing == "refuse" or gaps.all():
        line = table.lines[int(np.flatnonzero(gaps)[0])]
        remedy = "Choose `columns=`." if gaps.all() else 'Pass missing="interpolate" or "keep".'
        raise ValueError(
            f"read_series: expected a number in every row, got {gaps.sum()} missing ones in column "
            f"{table.names[place]!r}, the first in line {line} of '{table.path}'. {remedy}"
        )
    steps = np.arange(len(values))
    return np.interp(steps, steps[~gaps], values[~gaps])
