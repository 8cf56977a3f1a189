"""Labelled text: one text and one class or number per row of a table."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqjax.datasets.files import Name
from seqjax.datasets.tables import Column, Table, read_table


class LabelledText(NamedTuple):
    """Texts with their classes or numbers.

    Attributes:
        texts: N texts.
        labels: classes ``[N]`` int32, or numbers ``[N]`` float32.
        names: the names of the classes; empty for numbers.
    """

    texts: list[str]
    labels: np.ndarray
    names: tuple[str, ...]


def read_labelled(
    path: Name,
    *,
    text: Column = "text",
    label: Column = "label",
    names: Sequence[str] | None = None,
    numbers: bool = False,
    delimiter: str | None = None,
    header: bool = True,
    encoding: str = "utf-8",
) -> LabelledText:
    r"""Read texts and their labels from two columns of a comma- or tab-separated table.

    Args:
        path: the file, for `read_table`.
        text: name of the column of texts, or its position from 0.
        label: name of the column of labels, or its position from 0.
        names: the classes in order, such as those of the training file for a test file. By default the labels of the
            file, in the order of the numbers where all are whole numbers, else of the alphabet.
        numbers: read numbers, such as ratings, in place of classes.
        delimiter: see `read_table`.
        header: see `read_table`.
        encoding: see `read_table`.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: for tables that `read_table` refuses, empty texts, labels that are not among `names`, fewer than
            two classes, and with ``numbers=True`` labels that are no finite numbers. The error names the line.

    Example:
        >>> import tempfile, pathlib
        >>> from seqjax.datasets import read_labelled
        >>> path = pathlib.Path(tempfile.mkdtemp(), "reviews.tsv")
        >>> _ = path.write_text("text\tlabel\nI liked it\tpos\nDull\tneg\n")
        >>> read_labelled(path)
        LabelledText(texts=['I liked it', 'Dull'], labels=array([1, 0], dtype=int32), names=('neg', 'pos'))
    """
    table = read_table(path, delimiter=delimiter, header=header, encoding=encoding)
    texts, found = table.column(text), [each.strip() for each in table.column(label)]
    for line, each in zip(table.lines, texts, strict=True):
        if not each.strip():
            raise ValueError(
                f"read_labelled: expected a text, got an empty field in line {line} of '{path}'. Remove the line."
            )
    if numbers:
        return LabelledText(texts, _numbers(table, found), ())
    order = tuple(_in_order(set(found)) if names is None else names)
    if len(order) < 2:
        raise ValueError(
            f"read_labelled: expected at least two classes, got {', '.join(map(repr, order))} in '{path}'. "
            "Pass the column of labels with `label=`, or all classes with `names=`."
        )
    places = {name: place for place, name in enumerate(order)}
    for line, each in zip(table.lines, found, strict=True):
        if each not in places:
            shown = ", ".join(map(repr, order[:8])) + ", ..." * (len(order) > 8)
            raise ValueError(
                f"read_labelled: expected one of the classes {shown}, got {each!r} in line {line} of '{path}'. "
                "Correct the label, or add it to `names=`."
            )
    return LabelledText(texts, np.array([places[each] for each in found], np.int32), order)


def _in_order(labels: set[str]) -> list[str]:
    try:
        return sorted(labels, key=lambda each: (int(each), each))
    except ValueError:
        return sorted(labels)


def _numbers(table: Table, found: list[str]) -> np.ndarray:
    values = []
    for line, each in zip(table.lines, found, strict=True):
        try:
            value = float(each)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(
                f"read_labelled: expected a finite number, got {each!r} in line {line} of '{table.path}'. "
                "Correct it, or read classes with `numbers=False`."
            )
        values.append(value)
    return np.array(values, np.float32)
