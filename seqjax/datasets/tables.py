"""Comma- and tab-separated tables of text."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from seqjax.datasets.files import Name
from seqjax.datasets.strings import lines_of, read_string

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
NAMES_OF_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars", " ": "spaces"}
LONGEST_FIELD = 2**24
"""Largest length of a field in characters; Python's own limit is 131,072, less than a long document."""
Column = str | int


class Table(NamedTuple):
    """A table of strings.

    Attributes:
        path: the file, for errors.
        names: the names of the columns: the fields of the first line, or "0", "1", ... without a header.
        rows: the fields of each row.
        lines: the line number of each row.
    """

    path: str
    names: tuple[str, ...]
    rows: list[tuple[str, ...]]
    lines: list[int]

    def column(self, column: Column) -> list[str]:
        """Return the fields of a column, by its name or its position from 0.

        Raises:
            ValueError: when the table has no such column.
        """
        place = self.place(column)
        return [row[place] for row in self.rows]

    def place(self, column: Column) -> int:
        """Return the position of a column; raise a ValueError when the table has no such column."""
        if isinstance(column, int) and 0 <= column < len(self.names):
            return column
        if column not in self.names:
            raise ValueError(
                f"read_table: expected a column {column!r}, got {', '.join(map(repr, self.names))} in line 1 of "
                f"'{self.path}'. Pass the name of a column, or its position from 0."
            )
        return self.names.index(str(column))


def read_table(
    path: Name, *, delimiter: str | None = None, header: bool = True, encoding: str = "utf-8"
) -> Table:
    r"""Read a table of text, one row per line.

    Fields of tables with tabs are read as they are. In other tables a field may be quoted (``"a, b"``); two quotes
    inside stand for one, and a quoted field may extend over several lines. Empty lines are skipped.

    Args:
        path: the file.
        delimiter: one character; by default a comma for ``.csv``, a tab for ``.tsv`` and ``.tab``, and for other
            names a tab where the first line has one, else a comma.
        header: whether the first line has the names of the columns.
        encoding: the encoding of files without a byte order mark.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: for the files that `read_string` refuses, rows of different lengths, columns of one name, quotes
            that do not close, and tables without rows. The error names the line.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.datasets import read_table
        >>> path = pathlib.Path(tempfile.mkdtemp(), "table.csv")
        >>> _ = path.write_text('text,label\n"good, cheap",1\nbad,0\n')
        >>> read_table(path).column("text")
        ['good, cheap', 'bad']
    """
    text = read_string(path, encoding=encoding)
    if delimiter is None:
        first = lines_of(text)[0]
        delimiter = DELIMITERS.get(Path(path).suffix.lower(), "\t" if "\t" in first else ",")
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f"read_table(delimiter): expected one character, got {delimiter!r}.")
    found = list(_records(text, delimiter, path))
    if not found:
        _refuse("at least one row", "empty lines alone", path, "Pass another file.")
    names = tuple(found[0][1]) if header else tuple(map(str, range(len(found[0][1]))))
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        _refuse(
            "columns of different names",
            f"{twice[0]!r} twice in line {found[0][0]}",
            path,
            "Pass `header=False` if the file has no header.",
        )
    rows = found[1:] if header else found
    if not rows:
        _refuse("a row after the header", "the header alone", path, "Pass `header=False` if it is a row.")
    for line, fields in rows:
        if len(fields) != len(names):
            shown = NAMES_OF_DELIMITERS.get(delimiter, repr(delimiter))
            _refuse(
                f"{len(names)} fields separated by {shown}, as in line {found[0][0]}",
                f"{len(fields)} in line {line}",
                path,
                "Quote fields that contain the delimiter, or pass `delimiter=`."
                if delimiter != "\t"
                else "Remove tabs from its fields, or pass `delimiter=`.",
            )
    return Table(str(path), names, [fields for _, fields in rows], [line for line, _ in rows])


def _records(text: str, delimiter: str, path: Name) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the fields of each row that is not empty, with the number of its first line."""
    if delimiter == "\t":
        for line, each in enumerate(lines_of(text), 1):
            if each:
                yield line, tuple(each.split("\t"))
        return
    before = csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader((line + "\n" for line in lines_of(text)), delimiter=delimiter, strict=True)
    try:
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                unclosed = f"the quotes of line {line} to close" if "end of data" in str(error) else "a row"
                _refuse(unclosed, f"{error} in line {line}", path, 'Write a quote inside a field twice: "".')
            if fields:
                yield line, tuple(fields)
    finally:
        csv.field_size_limit(before)


def _refuse(expected: str, got: str, path: Name, remedy: str) -> NoReturn:
    raise ValueError(f"read_table: expected {expected}, got {got} of '{path}'. {remedy}")
