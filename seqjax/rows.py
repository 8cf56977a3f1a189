"""Rows of results: one number each, in columns that say what was measured.

Studies and training runs write the same rows. They are dictionaries of plain Python values, so they need no package.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

COLUMNS: dict[str, type] = {
    "part": str,
    "section": str,
    "cell": str,
    "length": int,
    "seed": int,
    "training_step": int,
    "loss": str,
    "quantity": str,
    "leaf": str,
    "group": str,
    "note": str,
    "t": int,
    "x": float,
    "value": float,
}
"""The columns of a row with their types; a row has those that apply to its number.

``t`` counts time steps, lags or places in a list; ``x`` is any other abscissa; ``group`` distinguishes rows of one
quantity (a method, a dtype, an algorithm, a task); ``note`` gives the reason why something was not measured.
"""
MOST = 2**16
"""The largest number of rows that `rows_of` makes of a value that does not make its own."""

Row = dict[str, Any]
"""One row of results by column."""


@runtime_checkable
class HasRows(Protocol):
    """A result that makes its own rows, such as a `GradientProfile`."""

    def rows(self) -> Iterable[Row]: ...


def row(quantity: str, value: Any, **columns: Any) -> Row:
    """Return one row: the columns of `COLUMNS` that apply.

    Example:
        >>> from seqjax.rows import row
        >>> row("lag_90", 12, leaf="carry")
        {'leaf': 'carry', 'quantity': 'lag_90', 'value': 12.0}
    """
    return columns | {"quantity": quantity, "value": float(value)}


def rows_of(value: Any) -> list[Row]:
    """Return the rows of a measured value.

    Results of probes with a method ``rows`` make their own. Of any other value each leaf is a quantity, named by its
    path: a number is one row, an array ``[T]`` has one row per t, and an array ``[X, T]`` one per x and t.

    Args:
        value: a number, an array, or a tree of them; None has no row.

    Raises:
        TypeError: for a leaf that is no real number.
        ValueError: for an array with more axes, or more than `MOST` numbers.

    Example:
        >>> from seqjax.rows import rows_of
        >>> import numpy as np
        >>> from seqjax.rows import rows_of
        >>> rows_of(0.5)
        [{'quantity': 'value', 'value': 0.5}]
        >>> rows_of({"norms": np.array([1.0, 2.0])})
        [{'t': 0, 'quantity': 'norms', 'value': 1.0}, {'t': 1, 'quantity': 'norms', 'value': 2.0}]
    """
    if isinstance(value, HasRows):
        return list(value.rows())
    found: list[Row] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
        array = np.asarray(leaf)
        if array.dtype.kind not in "biuf" and array.dtype.name not in ("bfloat16", "float16"):
            raise TypeError(f"expected real numbers, got {array.dtype} for {name!r}")
        if array.ndim > 2 or array.size + len(found) > MOST:
            raise ValueError(
                f"expected numbers, or arrays of one or two axes and at most {MOST} numbers, got {list(array.shape)} "
                f"for {name!r}"
            )
        axes = ("x", "t")[2 - array.ndim :]
        found += [row(name, array[place], **dict(zip(axes, place))) for place in np.ndindex(array.shape)]
    return found


def scalars(rows: Iterable[Row]) -> dict[str, float]:
    """Return the numbers without an axis by name.

    Example:
        >>> from seqjax.rows import row, scalars
        >>> scalars([row("log_norm", -1.0, leaf="carry", t=0), row("lag_90", 12.0, leaf="carry")])
        {'lag_90/carry': 12.0}
    """
    names = ("quantity", "leaf", "group")
    return {
        "/".join(each[name] for name in names if each.get(name)): each["value"]
        for each in rows
        if each.get("t") is None and each.get("x") is None
    }


def to_line(row: Mapping[str, Any]) -> str:
    """Return a row as a line of JSON, which has no infinity: the value is then null and the note names the number.

    Example:
        >>> from seqjax.rows import row, to_line
        >>> to_line(row("log_norm", float("-inf"), t=3))
        '{"t": 3, "quantity": "log_norm", "value": null, "note": "-inf"}'
    """
    value = row["value"]
    return json.dumps(dict(row) if math.isfinite(value) else {**row, "value": None, "note": str(value)})


def from_line(row: Mapping[str, Any]) -> Row:
    """Return the row that `to_line` wrote, from the object in the line.

    Example:
        >>> from seqjax.rows import from_line
        >>> from_line({"quantity": "log_norm", "value": None, "note": "-inf"})["value"]
        -inf
    """
    if row["value"] is None and row.get("note") in ("inf", "-inf", "nan"):
        return {**row, "value": float(row["note"]), "note": None}
    return dict(row)
