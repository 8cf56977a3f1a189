"""Two studies side by side: every quantity that both measured, paired by seed."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from seqjax.report.statistics import (
    Interval,
    Paired,
    interquartile_mean,
    paired_comparison,
    probability_of_improvement,
)

LEVEL = 0.05
"""Of significance, for all quantities together."""
_POSITIVE = ("parameter_gradient_norm", "exponential_length")  # span decades: compared by their ratio
_NOT_KEYS = ("part", "seed", "training_step", "t", "value")


class Row(NamedTuple):
    """One quantity of one cell at one length.

    Attributes:
        key: what tells it from others: cell, length, quantity and what else applies.
        a: interquartile mean of A over the common seeds.
        b: that of B.
        ratio: whether `paired` is of ratios b/a instead of differences b - a.
        paired: the comparison on common seeds.
        above: probability that a run of B is above one of A, whatever the seeds.
        differs: whether the sign-flip test tells them apart, allowing for the number of rows (Holm).
    """

    key: dict[str, Any]
    a: float
    b: float
    ratio: bool
    paired: Paired
    above: Interval
    differs: bool


class RunsComparison(NamedTuple):
    """What `compare_runs` finds: one row per quantity, and remarks for the reader."""

    a: str
    b: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether no quantity was shown to differ."""
        return not any(row.differs for row in self.rows)


def is_run(folder: str | Path) -> bool:
    """Whether this is the folder of a study."""
    return (Path(folder) / "summary.json").is_file()


def compare_runs(
    a: str | Path, b: str | Path, *, quantities: Sequence[str] = (), resamples: int = 10_000
) -> RunsComparison:
    """Compare the results of two studies, as `seqjax gradients` leaves them, after their last training step.

    Rows by time step (profiles) are left out: their summaries, such as lag_90, are compared.

    Args:
        a: a folder with ``summary.json`` and ``results.parquet``.
        b: another.
        quantities: which; none for all.
        resamples: of the bootstrap.

    Raises:
        ValueError: for a folder without results, and for two that have no quantity on a common seed.

    References:
        Holm 1979, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6.
    """
    frames, summaries = zip(*(_load(Path(folder)) for folder in (a, b)))
    keys = [c for c in frames[0].columns if c in frames[1].columns and c not in _NOT_KEYS]
    if quantities:
        known = set(frames[0]["quantity"]) & set(frames[1]["quantity"])
        missing = [name for name in quantities if name not in known]
        if missing:
            raise ValueError(
                f"compare: no quantity {missing[0]!r} in both. There are {', '.join(sorted(known))}."
            )
        frames = tuple(frame.filter(pl.col("quantity").is_in(quantities)) for frame in frames)
    lasts = [_last(frame, keys) for frame in frames]
    joined = lasts[0].join(lasts[1], on=[*keys, "seed"], nulls_equal=True, suffix="_b")
    if joined.is_empty():
        raise ValueError(
            f"compare: {a} and {b} have nothing in common: no cell, length and quantity on the same seed."
        )
    rows, unknown = [], 0
    for _, group in joined.group_by(keys, maintain_order=True):
        left, right = (group[name].to_numpy() for name in ("value", "value_b"))
        known = ~(np.isnan(left) | np.isnan(right))
        unknown += int((~known).sum())
        if known.any():
            rows.append(
                _row(dict(zip(keys, group.select(keys).row(0))), left[known], right[known], resamples)
            )
    if not rows:
        raise ValueError(f"compare: no number of {a} and {b} is known on a common seed (all are NaN).")
    remarks = _remarks(summaries, joined, rows, unknown)
    return RunsComparison(str(a), str(b), tuple(_holm(rows)), tuple(remarks))


def _load(folder: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        frame = pl.read_parquet(folder / "results.parquet")
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise ValueError(
            f"compare: {folder} holds no results that can be read ({str(error).splitlines()[0]}). "
            "Expected summary.json and results.parquet, as 'seqjax gradients' writes them."
        ) from None
    wanted = {"cell", "length", "seed", "quantity", "value"}
    if not wanted <= set(frame.columns):
        absent = ", ".join(sorted(wanted - set(frame.columns)))
        raise ValueError(f"compare: {folder / 'results.parquet'} has no column {absent}.")
    for name, dtype in (("t", pl.Int32), ("training_step", pl.Int32)):
        if name not in frame.columns:
            frame = frame.with_columns(pl.lit(None, dtype).alias(name))
    return frame.with_columns(pl.col("value").cast(pl.Float64).fill_null(math.nan)), summary


def _last(frame: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """The values without time axis, each at the last training step that measured it."""
    scalars = frame.filter(pl.col("t").is_null())
    return scalars.sort("training_step", nulls_last=False).unique(
        [*keys, "seed"], keep="last", maintain_order=True
    )


def _row(key: dict[str, Any], a: np.ndarray, b: np.ndarray, resamples: int) -> Row:
    ratio = key["quantity"] in _POSITIVE and bool((a >= 0).all() and (b >= 0).all())
    paired = paired_comparison([a], [b], resamples=resamples, log=ratio)
    above = probability_of_improvement([a], [b], resamples=resamples)
    with np.errstate(divide="ignore"):
        mean_a, mean_b = (
            float(np.exp(interquartile_mean(np.log(x))) if ratio else interquartile_mean(x)) for x in (a, b)
        )
    return Row({k: v for k, v in key.items() if v is not None}, mean_a, mean_b, ratio, paired, above, False)


def _holm(rows: list[Row]) -> list[Row]:
    """Mark the rows that differ: the smallest p against the level over all rows, the next over one less, and so on."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].paired.p)
    marked = list(rows)
    for place, i in enumerate(order):
        if rows[i].paired.p > LEVEL / (len(rows) - place):
            break
        marked[i] = rows[i]._replace(differs=True)
    return marked


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
    needed = 1 + math.ceil(math.log2(len(rows) / LEVEL))
    if fewest < needed:
        remarks.append(
            f"{fewest} common seed{'s' if fewest > 1 else ''}: the smallest p there can be is "
            f"{2.0 ** (1 - fewest):.2g}, so that no difference in {len(rows)} quantities can be shown. "
            f"Use {needed} seeds or more, or fewer quantities."
        )
    if unknown:
        remarks.append(f"{unknown} pairs with a value that is not a number are left out.")
    return remarks
