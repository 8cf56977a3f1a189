"""Tables of time series for a forecaster: which columns are series, and how missing values are filled in."""

import numpy as np

from seqjax import datasets
from seqjax.datasets import Series
from seqjax.datasets.series import MISSING
from seqjax.fields import SettingError
from seqjax.training.applications.common import Examples, listed
from seqjax.training.applications.windows import Span
from seqjax.training.recipe import Recipe

HORIZON = 24
"""The usual number of steps ahead."""
TIMES = (
    "",
    "date",
    "datetime",
    "day",
    "ds",
    "hour",
    "index",
    "month",
    "step",
    "time",
    "timestamp",
    "week",
    "year",
)
"""Names, in lower case, of a first column that holds times."""


def horizon_of(recipe: Recipe) -> int:
    """Return the number of steps ahead."""
    return HORIZON if recipe.horizon is None else recipe.horizon


def least_of(recipe: Recipe) -> int:
    """Return how many values before an origin must be known: as many as steps ahead, or the length if that is less."""
    return min(recipe.length, horizon_of(recipe))


def read_spans(recipe: Recipe, path: str, begin: int | None = None) -> tuple[Examples, int]:
    """Return the names and the values of the series of a table, and how many missing values were filled in.

    A missing value becomes the one before, so that no value depends on later ones. A series begins with its first value
    that is not missing. All of its values from the step `begin` on are to be forecast; by default from the least number
    of known values on.

    Raises:
        ValueError: for tables that cannot be used, and series without a value.
    """
    found = _series(recipe, path)
    filled, spans = 0, []
    for name, values in zip(found.names, found.values, strict=True):
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            raise SettingError(
                "{columns}: expected numbers in the column {name!r} of '{path}', got missing values alone. Choose the "
                "columns of the series.",
                name=name,
                path=path,
            )
        values = values[known[0] :]
        missing = np.isnan(values)
        filled += int(missing.sum())
        before = np.maximum.accumulate(np.where(missing, 0, np.arange(len(values))))
        spans.append(Span(values[before], least_of(recipe) if begin is None else begin))
    return Examples(list(found.names), spans), filled


def _series(recipe: Recipe, path: str) -> Series:
    """Return the series of a table, with NaN for missing values."""
    if recipe.layout == "rows":
        if recipe.columns is not None:
            raise SettingError("{columns} goes with {layout} columns, got rows. Leave it out.")
        return datasets.read_series_rows(path)
    table = datasets.read_table(path)
    columns = None if recipe.columns is None else listed(recipe.columns)
    if columns == ():
        raise SettingError(
            "{columns}: expected columns such as north,south, got {given!r}.", given=recipe.columns
        )
    first = table.rows[0][0].strip()
    timed = len(table.names) > 1 and (table.names[0].strip().lower() in TIMES or not _is_number(first))
    return datasets.read_series(
        path, time=0 if timed and columns is None else None, columns=columns, missing="keep"
    )


def _is_number(field: str) -> bool:
    try:
        return field.lower() in MISSING or float(field) is not None
    except ValueError:
        return False
