"""The results of a study, arranged for its page."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from seqjax.report.aggregate import Array, interval, iqm
from seqjax.report.content import listed, say
from seqjax.report.text import file_names
from seqjax.statistics import Interval
from seqjax.study.presets import SIZES, Sizes

Key = tuple[str, str, int, str | None, str | None]


@dataclass(frozen=True)
class Profile:
    """Gradient norms of one cell at one length: log10 values by seed, snapshot and step."""

    cell: str
    length: int
    steps: tuple[int, ...]
    values: Array
    seeds: tuple[int, ...] = ()

    @cached_property
    def iqm(self) -> Array:
        """The interquartile mean over seeds in the log domain, by snapshot and step; masked seeds are left out."""
        return iqm(self.values)

    def fall(self, place: int) -> float:
        """Return log10 of the first step's norm over the last step's, at the first (0) or last (1) snapshot."""
        if place and len(self.steps) < 2:
            return math.nan
        first, last = self.iqm[-place, [0, -1]].tolist()
        return math.nan if math.isinf(last) else first - last

    def falls(self, place: int) -> Interval:
        """Return the interquartile mean over seeds of the fall of each seed, with its interval."""
        ends = self.values[:, -place][:, [0, -1]]
        known = np.isfinite(ends).all(1)
        return interval((ends[known, 0] - ends[known, 1]).tolist())


class StudyResults:
    """The rows and settings of a study, and the order and file names of its cells."""

    def __init__(self, frame: pl.DataFrame, summary: Mapping[str, Any]) -> None:
        self.frame, self.summary = frame, summary
        self.settings: Mapping[str, Any] = summary.get("settings") or {}
        named = [str(cell) for cell in self.settings.get("cells") or ()]
        self.cells = list(dict.fromkeys([*named, *sorted(frame["cell"].drop_nulls().unique())]))
        self.places = {cell: place for place, cell in enumerate(self.cells)}
        self.files = file_names(self.cells)
        lengths = frame.filter(pl.col("section") == "training")["length"].drop_nulls().unique()
        self.lengths = sorted({*map(int, self.settings.get("lengths") or ()), *lengths})
        self._profiles: dict[str, dict[int, list[Profile]]] = {}

    @property
    def sizes(self) -> Sizes:
        """The sizes of the study's preset; those of "cpu" where the summary names none."""
        return SIZES.get(str(self.settings.get("preset")), SIZES["cpu"])

    def rows(self, section: str, **columns: Any) -> pl.DataFrame:
        """Return the rows of a section that have these values in these columns."""
        return self.frame.filter(section=section, **columns)

    def by_cell(self, rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield each cell that has rows, in the order of the study, with its rows."""
        for cell in self.cells:
            some = rows.filter(cell=cell)
            if some.height:
                yield cell, some

    def left_out(self, rows: pl.DataFrame) -> Markup:
        """Name the cells of the study that have none of these rows in a sentence; empty where all have some."""
        absent = [cell for cell in self.cells if cell not in rows["cell"].unique()]
        return say(" Not measured under this preset: {}.", listed(absent)) if absent else Markup("")

    @cached_property
    def measured(self) -> list[tuple[int, str]]:
        """The lengths and cells that were trained."""
        pairs = self.rows("training").select("length", "cell").unique().iter_rows()
        return sorted(pairs, key=lambda pair: (pair[0], self.places[pair[1]]))

    @cached_property
    def scalars(self) -> Scalars:
        """The quantities without a time axis that training recorded."""
        return Scalars(self.rows("training"))

    @cached_property
    def baselines(self) -> dict[str, float]:
        """The losses of models without memory, by name."""
        return {
            str(name).replace("_", " "): float(value)
            for name, value in (self.summary.get("baselines") or {}).items()
            if isinstance(value, int | float)
        }

    def profiles(self, loss: str) -> dict[int, list[Profile]]:
        """Return the norms of the whole carry by length, then by cell, in log10."""
        if loss not in self._profiles:
            self._profiles[loss] = self._arrange(loss)
        return self._profiles[loss]

    def sequences(self, cell: str, length: int, last: bool) -> Array:
        """Return natural logs of the carry's norms by seed, sequence and lag, for the last loss.

        They are those of the first or the last snapshot. Unfinished seeds are left out; the array is empty where the
        study recorded no single sequences.
        """
        rows = self.rows("training", quantity="sequence_log_norm", cell=cell, length=length)
        steps = rows["training_step"]
        if rows.is_empty() or last and steps.n_unique() < 2:
            return np.zeros((0, 0, 0))
        rows = rows.filter(steps == (steps.max() if last else steps.min()))
        return values(rows, "seed", "x", "t").reshape(rows["seed"].n_unique(), -1, length)[..., ::-1]

    def _arrange(self, loss: str) -> dict[int, list[Profile]]:
        rows = self.rows("training", quantity="log_norm", leaf="carry", loss=loss)
        groups: dict[int, list[Profile]] = {}
        for (cell, length), some in rows.filter(pl.col("t").is_not_null()).group_by("cell", "length"):
            seeds, seed = np.unique(some["seed"].to_numpy(), return_inverse=True)
            steps, step = np.unique(some["training_step"].to_numpy(), return_inverse=True)
            values = np.full((len(seeds), len(steps), int(str(length))), np.nan)
            norms = some["value"].fill_null(math.nan).to_numpy() / math.log(10)
            values[seed, step, some["t"].to_numpy()] = norms
            snapshots, numbers = tuple(map(int, steps)), tuple(map(int, seeds))
            profile = Profile(str(cell), values.shape[2], snapshots, values, numbers)
            groups.setdefault(profile.length, []).append(profile)
        for profiles in groups.values():
            profiles.sort(key=lambda profile: self.places[profile.cell])
        return dict(sorted(groups.items()))


@contextlib.contextmanager
def drawable(folder: Path) -> Iterator[None]:
    """Turn an error of the ``with`` block, which draws the results of a folder, into a ValueError with a remedy."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{folder}: its results cannot be drawn ({type(error).__name__}: {error}). Another version of seqjax may "
            "have measured them. Measure again with 'seqjax gradients --overwrite'."
        ) from error


def values(rows: pl.DataFrame, *by: str) -> Array:
    """Return the values of rows in the order of these columns; a value that is null becomes NaN."""
    return rows.sort(*by)["value"].fill_null(math.nan).to_numpy()


class Scalars:
    """The quantities without a step axis: values by seed at the first and the last training step."""

    def __init__(self, frame: pl.DataFrame) -> None:
        """Collect the values from a tidy frame."""
        steps: dict[Key, dict[int, list[float]]] = {}
        columns = ("quantity", "cell", "length", "loss", "leaf", "training_step", "value")
        rows = frame.filter(pl.col("t").is_null()).sort("seed").select(columns)
        for quantity, cell, length, loss, leaf, step, value in rows.iter_rows():
            by_step = steps.setdefault((quantity, cell, length, loss, leaf), {})
            by_step.setdefault(step, []).append(math.nan if value is None else value)
        self._ends: dict[Key, tuple[list[float], list[float]]] = {
            key: (by_step[min(by_step)], by_step[max(by_step)] if len(by_step) > 1 else [])
            for key, by_step in steps.items()
        }

    def ends(
        self, quantity: str, cell: str, length: int, loss: str | None = None, leaf: str | None = None
    ) -> tuple[list[float], list[float]]:
        """Return values by seed at the first and at the last training step; the latter are empty for a single step."""
        return self._ends.get((quantity, cell, length, loss, leaf), ([], []))

    def leaves(self, quantity: str, cell: str, length: int) -> list[str]:
        """Return the names of the leaves for which a quantity was measured."""
        return sorted({key[4] or "" for key in self._ends if key[:3] == (quantity, cell, length)})


def by_length(rows: Sequence[tuple[int, list[Any]]]) -> list[tuple[str, list[Any]]]:
    """Group the rows of a table by their length."""
    lengths = dict.fromkeys(length for length, _ in rows)
    return [(f"T = {length}", [cells for n, cells in rows if n == length]) for length in lengths]
