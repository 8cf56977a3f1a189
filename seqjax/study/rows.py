"""The rows of results: their columns, the parts that they belong to, and their Parquet files."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from seqjax.rows import COLUMNS
from seqjax.rows import Row as Row
from seqjax.rows import row as row

_TYPES: dict[type, Any] = {str: pl.String, int: pl.Int32, float: pl.Float64}
SCHEMA: dict[str, Any] = {column: _TYPES[of] for column, of in COLUMNS.items()}
"""The columns of ``results.parquet``, one row per number measured; null where a column does not apply."""


class Part(NamedTuple):
    """A unit of measurement and storage: the rows of a section for one cell, length and seed, as far as these apply."""

    section: str
    cell: str | None = None
    length: int | None = None
    seed: int | None = None

    @property
    def name(self) -> str:
        """The part as one word, such as ``training/lstm/64/0``."""
        return "/".join("" if value is None else str(value) for value in self).rstrip("/")

    def __str__(self) -> str:
        seed = "" if self.seed is None else f"seed {self.seed}"
        length = "" if self.length is None else f"T = {self.length}"
        return ", ".join(filter(None, (self.section.replace("_", " "), self.cell, length, seed)))

    def tags(self) -> dict[str, Any]:
        """Return the columns that all rows of the part have in common."""
        return self._asdict()


REMEDY = (
    "Run 'seqjax gradients' with the settings of the study and --resume to measure again what is damaged, or with "
    "--overwrite to begin again."
)
REQUIRED = ("part", "section", "quantity")
"""The columns that have a value in every row."""


def write_rows(rows: pl.DataFrame) -> bytes:
    """Return rows as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()


def read_rows(content: bytes, name: str | Path) -> pl.DataFrame:
    """Return the rows in the bytes of a Parquet file that `write_rows` made.

    Args:
        content: the bytes of the file.
        name: the name of the file, for the error.

    Raises:
        ValueError: for a file that lacks a column of `SCHEMA`, has columns of other types, or rows without a part, a
            section or a quantity.
    """
    try:
        absent = set(SCHEMA) - set(pl.read_parquet_schema(io.BytesIO(content)))
        if not absent:
            rows = pl.read_parquet(io.BytesIO(content), columns=list(SCHEMA)).cast(pl.Schema(SCHEMA))
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(
            f"{name} cannot be read as results ({str(error).splitlines()[0]}). {REMEDY}"
        ) from None
    if absent:
        raise ValueError(
            f"{name} has no column {', '.join(sorted(absent))}: another version of seqjax wrote it. Measure again with "
            "'seqjax gradients --overwrite'."
        )
    empty = [column for column in REQUIRED if rows[column].null_count()]
    if empty:
        raise ValueError(f"{name}: expected a {empty[0]} in every row, got rows without one. {REMEDY}")
    return rows


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows in the order of the merged results."""
    return rows.sort("section", "length", "cell", "seed", maintain_order=True)
