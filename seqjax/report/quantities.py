"""The quantities by which the report compares cells: one value per cell, with its interval."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from seqjax.report.aggregate import count, interval
from seqjax.report.content import Text, say
from seqjax.report.horizons import horizon_of
from seqjax.report.order import has_interval
from seqjax.report.results import StudyResults
from seqjax.report.text import between, number
from seqjax.statistics import Interval, wilson
from seqjax.study.experiment import MOMENTS

SOLVED = 0.5
"""A run succeeds where its loss is below this share of the blind baseline, which no model without memory reaches."""
UNKNOWN = Interval(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Quantity:
    """A quantity by which cells are compared, after training and at the greatest length.

    Attributes:
        name: name in tables and sentences.
        unit: label of its axis, with the unit.
        meaning: what is measured, as a noun with its article.
        more: whether more is better.
        measure: returns the value of a cell with its interval; NaN where it is not known.
        write: formats a value.
        log: whether values span decades.
    """

    name: str
    unit: str
    meaning: Text
    more: bool
    measure: Callable[[StudyResults, str], Interval]
    write: Callable[[float], str] = number
    log: bool = False

    @property
    def better(self) -> str:
        return "more is better" if self.more else "less is better"

    def text(self, found: Interval) -> Text:
        """Write a value with its interval, if it has one, in brackets."""
        if not has_interval(found):
            return self.write(found.estimate)
        return between(*map(self.write, found))

    def with_unit(self, found: Interval) -> Text:
        """Write a value with its interval and unit; shares and relative errors have none."""
        text = self.text(found)
        return text if self.unit.startswith(("share", "relative")) else say("{} {}", text, self.unit)

    def ahead(self, a: Interval, b: Interval) -> bool:
        """Return whether the whole interval of a is better than that of b; False where one has no interval."""
        if not (has_interval(a) and has_interval(b)):
            return False
        return bool(a.low > b.high if self.more else a.high < b.low)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and np.isfinite(value)]


def _reach(results: StudyResults, cell: str) -> Interval:
    length = max(results.lengths, default=0)
    by_seed = _known(results.scalars.ends("lag_90", cell, length, "last", "carry")[1])
    if not by_seed:
        return UNKNOWN
    sequences = results.sequences(cell, length, True)
    found = horizon_of(sequences, 90, by_seed)
    # The sequences of a single seed do not show how seeds differ.
    return found if len(by_seed) > 1 else Interval(found.estimate, np.nan, np.nan)


def _exponent(results: StudyResults, cell: str) -> Interval:
    rows = results.rows("lyapunov", cell=cell, quantity="exponent", group=MOMENTS[-1], t=0)
    return interval([abs(value) for value in _known(rows["value"])])


def _isometry(results: StudyResults, cell: str) -> Interval:
    return interval(_last(results.rows("singular", cell=cell, quantity="isometry", group=MOMENTS[-1])))


def _bfloat16(results: StudyResults, cell: str) -> Interval:
    return interval(_last(results.rows("precision", cell=cell, quantity="error", group="bfloat16")))


def _last(rows: pl.DataFrame) -> list[float]:
    return _known(rows.filter(pl.col("x") == rows["x"].max())["value"]) if rows.height else []


def _tasks(results: StudyResults, cell: str) -> Interval:
    losses = results.rows("success", cell=cell, quantity="final_loss")
    bases = results.rows("success", cell=cell, quantity="baseline").select("length", "group", base="value")
    joined = losses.join(bases, on=["length", "group"])
    if not joined.height:
        return UNKNOWN
    won: Any = (joined["value"] < SOLVED * joined["base"]).sum()
    return wilson(int(won), joined.height)


def _learning(results: StudyResults, cell: str) -> Interval:
    first, last = results.scalars.ends("held_out_loss", cell, max(results.lengths, default=0))
    return interval(_known(b / a for a, b in zip(first, last, strict=False) if a and b is not None))


QUANTITIES = (
    Quantity(
        "reach",
        "steps",
        "the lag within which 90\u00a0% of the gradient norm of the last loss lies",
        True,
        _reach,
        count,
        log=True,
    ),
    Quantity(
        "|λ₁|",
        "nats per step",
        "the distance of the largest Lyapunov exponent from 0, where nothing grows or shrinks",
        False,
        _exponent,
        log=True,
    ),
    Quantity(
        "isometry", "share", "the share of singular values within a factor of two of 1", True, _isometry
    ),
    Quantity(
        "bfloat16",
        "relative error",
        "the error of the gradient in bfloat16, relative to its norm in float64",
        False,
        _bfloat16,
        log=True,
    ),
    Quantity("tasks", "share", "the share of successful runs on synthetic tasks", True, _tasks),
    Quantity(
        "remaining loss",
        "share of the first",
        "the held-out loss after training, relative to that at initialization",
        False,
        _learning,
    ),
)
"""Every quantity, in the order of the page."""


def measured(results: StudyResults) -> dict[Quantity, dict[str, Interval]]:
    """Return the known values of each quantity by cell; a quantity that no cell has is left out."""
    found = {
        quantity: {
            cell: value
            for cell in results.cells
            if np.isfinite((value := quantity.measure(results, cell)).estimate)
        }
        for quantity in QUANTITIES
    }
    return {quantity: values for quantity, values in found.items() if values}
