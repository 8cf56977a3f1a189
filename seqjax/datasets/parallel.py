"""Parallel text: sentences and their translations, in two files of lines or in one table."""

from pathlib import Path
from typing import NamedTuple

from seqjax.datasets.files import Name
from seqjax.datasets.strings import lines_of, read_string
from seqjax.datasets.tables import Column, read_table


class ParallelText(NamedTuple):
    """Sentences and their translations, N each."""

    sources: list[str]
    targets: list[str]


def read_parallel(
    source: Name,
    target: Name | None = None,
    *,
    columns: tuple[Column, Column] = (0, 1),
    delimiter: str | None = None,
    header: bool = True,
    encoding: str = "utf-8",
) -> ParallelText:
    r"""Read pairs of sentences: line n of one file with line n of another, or two columns of a table.

    Lines that are empty in both languages are skipped.

    Args:
        source: the file of source sentences, or the table.
        target: the file of target sentences; None reads both from the table.
        columns: the columns of source and target, by name or by position from 0; for tables.
        delimiter: see `read_table`; for tables.
        header: see `read_table`; for tables.
        encoding: the encoding of files without a byte order mark.

    Raises:
        FileNotFoundError: when a path does not exist.
        ValueError: when the files have different numbers of lines, a sentence has no translation, or there is no pair.
            The error names the line.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.datasets import read_parallel
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "x.en").write_text("good day\nthanks\n")
        >>> _ = (folder / "x.es").write_text("buenos días\ngracias\n")
        >>> read_parallel(folder / "x.en", folder / "x.es")
        ParallelText(sources=['good day', 'thanks'], targets=['buenos días', 'gracias'])
    """
    if target is None:
        table = read_table(source, delimiter=delimiter, header=header, encoding=encoding)
        lines, pairs = table.lines, list(zip(*(table.column(column) for column in columns), strict=True))
        names = [f"column {table.names[table.place(column)]!r}" for column in columns]
    else:
        one, other = (lines_of(read_string(path, encoding=encoding)) for path in (source, target))
        if len(one) != len(other):
            raise ValueError(
                f"read_parallel: expected as many lines in '{target}' as in '{source}', {len(one)}, got {len(other)}. "
                "Write one sentence per line, and its translation in the same line of the other file."
            )
        lines, pairs = list(range(1, len(one) + 1)), list(zip(one, other, strict=True))
        names = [f"'{Path(path).name}'" for path in (source, target)]
    found = [(line, a.strip(), b.strip()) for line, (a, b) in zip(lines, pairs, strict=True)]
    found = [(line, a, b) for line, a, b in found if a or b]
    for line, a, b in found:
        if not (a and b):
            empty, full = names if not a else names[::-1]
            raise ValueError(
                f"read_parallel: expected a sentence in line {line} of {empty}, as {full} has one, got none "
                f"('{source}'). Remove both sentences, or add the translation."
            )
    if not found:
        raise ValueError(f"read_parallel: expected a pair of sentences, got empty lines alone in '{source}'.")
    return ParallelText([a for _, a, _ in found], [b for _, _, b in found])
