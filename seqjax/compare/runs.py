"""Compare two studies in every quantity that both measured, paired by seed."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from seqjax.names import known_name
from seqjax.statistics import (
    Interval,
    Paired,
    interquartile_mean,
    paired_comparison,
    probability_of_improvement,
)
from seqjax.study.experiment import MOMENTS
from seqjax.study.reading import read_study

LEVEL = 0.05
"""The level of significance, for all quantities together."""
_POSITIVE = ("parameter_gradient_norm", "exponential_length")  # span decades: compared by their ratio
_NOT_KEYS = ("part", "seed", "training_step", "t", "note", "value")
_HOW = "draws steps examples baseline state_size checks_in_all not_applicable not_measured".split()
"""Quantities that describe a measurement."""
_TWICE = ("exponential_aic", "power_aic", "log_determinant")
"""Quantities that repeat others."""
FEWEST = 1 + math.ceil(math.log2(1 / LEVEL))
"""The number of pairs from which on the sign-flip test can reach the level: with n pairs p is at least 2^(1 - n)."""


class Row(NamedTuple):
    """One quantity of one cell at one length.

    Attributes:
        key: the columns that identify the row: cell, length, quantity and others that apply.
        a: interquartile mean of A over the common seeds.
        b: interquartile mean of B over the common seeds.
        ratio: whether `paired` compares ratios b/a instead of differences b - a.
        paired: the comparison on common seeds.
        above: probability that a run of B is above a run of A, for independent seeds.
        differs: whether the sign-flip test finds a difference, corrected for the number of rows.
    """

    key: dict[str, Any]
    a: float
    b: float
    ratio: bool
    paired: Paired
    above: Interval
    differs: bool


class RunsComparison(NamedTuple):
    """The result of `compare_runs`: one row per quantity, sorted by p, and remarks for the reader."""

    a: str
    b: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether no quantity was shown to differ."""
        return not any(row.differs for row in self.rows)

    @property
    def undecided(self) -> bool:
        """Whether there are too few common seeds to show any difference."""
        return self.rows[0].paired.pairs < FEWEST


def is_run(folder: str | Path) -> bool:
    """Return whether this is the folder of a study."""
    return os.path.isfile(os.path.join(folder, "summary.json"))


def compare_runs(
    a: str | Path,
    b: str | Path,
    *,
    cells: Mapping[str, str] | Literal["position"] | None = None,
    quantities: Sequence[str] = (),
    resamples: int = 10_000,
) -> RunsComparison:
    """Compare the results of two studies, as `seqjax gradients` writes them, after their last training step.

    Compared are quantities without a time axis: summaries of profiles, such as lag_90, and the last point of curves (by
    number of steps, by length). Profiles are left out; gradient norms by parameter are compared where `quantities`
    names them. Where some rows have enough common seeds for the test, rows with fewer are left out. Of the rows marked
    as different, a share of at most `LEVEL` is false in expectation (Benjamini and Hochberg). For two studies of one
    distribution, the probability of any marked row is at most `LEVEL`.

    Args:
        a: the folder of a study.
        b: another such folder.
        cells: which cells are compared: a mapping from cells of A to cells of B; "position" for the first with the
            first, and so on, in the order of the settings; None for cells of one name.
        quantities: names of the quantities to compare, with all their rows without time axis; empty for those above.
        resamples: number of resamples of the bootstrap.

    Raises:
        ValueError: for a folder without results or with damaged files, for cells that a study does not have, and for
            two folders without a common quantity on a common seed.

    References:
        Benjamini and Hochberg 1995, "Controlling the false discovery rate", J. R. Statist. Soc. B 57.
        Gilbert 2005, "A modified false discovery rate multiple-comparisons procedure for discrete data", J. R. Statist.
        Soc. C 54 (rows whose smallest p is above the level do not count).
    """
    frames, summaries = zip(*(_load(Path(folder)) for folder in (a, b)))
    names = [_cells(frame, summary) for frame, summary in zip(frames, summaries, strict=True)]
    if cells is not None:
        _check_measured((a, b), names, summaries)
    frames = _renamed(frames, names, cells)
    keys = [c for c in frames[0].columns if c in frames[1].columns and c not in _NOT_KEYS]
    if quantities:
        known = set(frames[0]["quantity"]) & set(frames[1]["quantity"])
        missing = [name for name in quantities if name not in known]
        if missing:
            raise ValueError(
                f"compare: expected quantities of both studies ({', '.join(sorted(known))}), got {missing[0]!r}."
            )
        frames = tuple(frame.filter(pl.col("quantity").is_in(quantities)) for frame in frames)
    else:
        frames = tuple(_results(frame, keys) for frame in frames)
    lasts = [_last(frame, keys) for frame in frames]
    joined = lasts[0].join(lasts[1], on=[*keys, "seed"], nulls_equal=True, suffix="_b")
    if joined.is_empty():
        _check_measured((a, b), names, summaries)
        raise ValueError(
            "compare: expected a common cell, length, quantity and seed, got none in "
            f"{a} (cells {', '.join(names[0])}) and {b} (cells {', '.join(names[1])}). Use studies that share cells, "
            "lengths and seeds, or pair cells of different names with --cells A=B or --cells position."
        )
    pairs, unknown = [], 0
    for _, group in joined.group_by(keys, maintain_order=True):
        left, right = (group[name].to_numpy() for name in ("value", "value_b"))
        known = ~(np.isnan(left) | np.isnan(right))
        unknown += int((~known).sum())
        if known.any():
            pairs.append((dict(zip(keys, group.select(keys).row(0))), left[known], right[known]))
    if not pairs:
        raise ValueError(f"compare: expected numbers on common seeds, got NaN everywhere in {a} or {b}.")
    enough = min(FEWEST, max(len(left) for _, left, _ in pairs))
    rows = [_row(*each, resamples) for each in pairs if len(each[1]) >= enough]
    remarks = _remarks(summaries, joined, rows, unknown) + _alone(names, cells)
    if len(rows) < len(pairs):
        some = dict.fromkeys(
            str(key.get("section") or key["quantity"]) for key, left, _ in pairs if len(left) < enough
        )
        remarks.append(
            f"Left out: {len(pairs) - len(rows)} quantities with fewer than {enough} common seeds "
            f"({', '.join(some)})."
        )
    return RunsComparison(str(a), str(b), tuple(_marked(rows)), tuple(remarks))


def _load(folder: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    try:
        summary, frame = read_study(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"compare: {error}") from None
    return frame.with_columns(pl.col("value").fill_null(math.nan)), summary


def _cells(frame: pl.DataFrame, summary: Mapping[str, Any]) -> list[str]:
    """Return the cells of a study that have rows, in the order of its settings."""
    there = set(frame["cell"].drop_nulls()) if "cell" in frame.columns else set()
    named = [str(cell) for cell in (summary.get("settings") or {}).get("cells") or ()]
    return [*(cell for cell in named if cell in there), *sorted(there - set(named))]


def _check_measured(
    folders: Sequence[str | Path], names: Sequence[list[str]], summaries: Sequence[dict[str, Any]]
) -> None:
    """Raise a ValueError for a study without results of cells."""
    for folder, cells, summary in zip(folders, names, summaries, strict=True):
        if not cells:
            sections = ", ".join((summary.get("settings") or {}).get("sections") or ("all",))
            raise ValueError(
                f"compare: expected results of cells in {folder}, got none (its sections: {sections}). Measure it with "
                "the section training, or with all sections."
            )


def _renamed(
    frames: Sequence[pl.DataFrame], names: Sequence[list[str]], cells: Mapping[str, str] | str | None
) -> tuple[pl.DataFrame, ...]:
    """Return the frames with one name for each pair of cells, without cells that have no partner."""
    if cells is None:
        return tuple(frames)
    if cells == "position":
        if len(names[0]) != len(names[1]):
            raise ValueError(
                f"compare(cells): expected as many cells in A as in B to pair them by position, got "
                f"{', '.join(names[0])} and {', '.join(names[1])}. Pair them by name."
            )
        cells = dict(zip(*names, strict=True))
    if not isinstance(cells, Mapping) or len(set(cells.values())) < len(cells):
        raise ValueError(f"compare(cells): expected pairs of different cells, or 'position', got {cells!r}.")
    for side, known, given in zip("AB", names, (cells, cells.values()), strict=True):
        for cell in given:
            try:
                known_name(cell, known)
            except ValueError as error:
                raise ValueError(f"compare(cells): {side}: {error}") from None
    pairs = {(x, y): x if x == y else f"{x} | {y}" for x, y in cells.items()}
    maps = [{pair[side]: name for pair, name in pairs.items()} for side in (0, 1)]
    return tuple(
        frame.filter(pl.col("cell").is_null() | pl.col("cell").is_in(list(new))).with_columns(
            pl.col("cell").replace(new)
        )
        for frame, new in zip(frames, maps, strict=True)
    )


def _alone(names: Sequence[list[str]], cells: Any) -> list[str]:
    """Return a remark on cells that have no partner of the same name."""
    if cells is not None:
        return []
    alone = [[cell for cell in own if cell not in other] for own, other in (names, names[::-1])]
    if not all(alone):
        return []
    return [
        f"Not compared: {', '.join(alone[0])} of A and {', '.join(alone[1])} of B, which have other names. Pair them "
        f"with --cells {alone[0][0]}={alone[1][0]}, or with --cells position."
    ]


def _results(frame: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Return the rows that are results: no settings, no norms of single weights, and of curves the end or summary."""
    kept = ~pl.col("quantity").is_in([*_HOW, *_TWICE]) & ~pl.col("quantity").str.ends_with("_exponent_error")
    if "leaf" in keys:
        kept &= (pl.col("quantity") != "parameter_gradient_norm") | pl.col("leaf").is_null()
    if "section" in keys:
        kept &= (pl.col("section") != "truncation") | pl.col("quantity").str.starts_with("window")
    if "x" in keys:
        curve = [key for key in keys if key != "x"]
        kept &= pl.col("x").is_null() | (pl.col("x") == pl.col("x").max().over(curve))
    return frame.filter(kept.fill_null(True))


def _last(frame: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Return the values without time axis, each at its last training step, and the largest exponent."""
    largest = (pl.col("quantity") == "exponent") & (pl.col("t") == 0)
    scalars = frame.filter(pl.col("t").is_null() | largest)
    if "group" in keys:
        scalars = scalars.filter(pl.col("group").ne_missing(MOMENTS[0]))
    ordered = scalars.sort("training_step", nulls_last=False)
    return ordered.unique([*keys, "seed"], keep="last", maintain_order=True)


def _row(key: dict[str, Any], a: np.ndarray, b: np.ndarray, resamples: int) -> Row:
    ratio = key["quantity"] in _POSITIVE and bool((a >= 0).all() and (b >= 0).all())
    paired = paired_comparison([a], [b], resamples=resamples, log=ratio)
    above = probability_of_improvement([a], [b], resamples=resamples)
    with np.errstate(divide="ignore"):
        mean_a, mean_b = (
            float(np.exp(interquartile_mean(np.log(x))) if ratio else interquartile_mean(x)) for x in (a, b)
        )
    return Row({k: v for k, v in key.items() if v is not None}, mean_a, mean_b, ratio, paired, above, False)


def _marked(rows: list[Row]) -> list[Row]:
    """Mark the rows with the k smallest p, for the largest k whose k-th p is at most LEVEL k/m; sort all rows by p."""
    order = sorted(rows, key=lambda row: row.paired.p)
    below = [place for place, row in enumerate(order, 1) if row.paired.p <= LEVEL * place / len(rows)]
    level = order[max(below) - 1].paired.p if below else -1.0
    marked = [row._replace(differs=row.paired.p <= level) for row in rows]
    return sorted(marked, key=lambda row: row.paired.p)


def _remarks(summaries: Sequence[dict], joined: pl.DataFrame, rows: list[Row], unknown: int) -> list[str]:
    remarks = []
    settings = [summary.get("settings") or {} for summary in summaries]
    changed = [
        f"{name} {settings[0].get(name)} and {settings[1].get(name)}"
        for name in dict.fromkeys([*settings[0], *settings[1]])
        if settings[0].get(name) != settings[1].get(name) and name not in ("cells", "lengths", "seeds")
    ]
    if changed:
        remarks.append(f"The settings differ: {'; '.join(changed)}.")
    steps = joined.filter(pl.col("training_step") != pl.col("training_step_b"))
    if not steps.is_empty():
        pair = (steps["training_step"][0], steps["training_step_b"][0])
        remarks.append(f"The last training steps differ: {pair[0]} of A and {pair[1]} of B.")
    if not all(summary.get("complete", True) for summary in summaries):
        remarks.append("Not every run of the studies is finished.")
    fewest = min(row.paired.pairs for row in rows)
    smallest = 2.0 ** (1 - fewest)
    together = math.ceil(smallest * len(rows) / LEVEL)
    if fewest < FEWEST:
        remarks.append(
            f"{fewest} common seed{'s' if fewest > 1 else ''}: the smallest possible p is {smallest:.2g}, so the test "
            f"cannot show a difference. Use {FEWEST} seeds or more."
        )
    elif together > 1:
        remarks.append(
            f"{fewest} common seeds: the smallest possible p is {smallest:.2g}. Among {len(rows)} quantities the test "
            f"can show a difference only where {together} or more differ at every seed. Use more seeds or fewer "
            "quantities."
        )
    if unknown:
        remarks.append(f"Left out: {unknown} pairs with a value that is not a number.")
    return remarks
