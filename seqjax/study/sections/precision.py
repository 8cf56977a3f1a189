"""Precision of the gradient against the length, by dtype, and where the error comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from seqjax.probes import longest_time_constant, precision_error
from seqjax.report.blocks import Caption, Figure, Note, Panel, Row, Table, Text, View, listed, row, say
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.frames import Data
from seqjax.report.lab import MOMENTS, Lab
from seqjax.report.models import representatives
from seqjax.report.settings import Settings
from seqjax.report.store import Part
from seqjax.report.text import number, percent

NAME = "precision"
TITLE = "Precision against the length"
LENGTHS = {"smoke": (8,), "cpu": (32, 256), "gpu": (64, 512)}
DTYPES = {"smoke": ("bfloat16",), "cpu": ("bfloat16", "float32"), "gpu": ("bfloat16", "tf32", "float32")}
CELLS = {"smoke": 1, "cpu": 3, "gpu": 6}
"""So many cells, of different kinds of recurrence where there are; the page names the others."""
SOURCES = ("inputs", "parameters", "state", "products", "accumulation")


def parts(settings: Settings) -> Iterable[Part]:
    """One per cell, at the greatest length."""
    cells = representatives(settings.cells, CELLS[settings.profile])
    return [Part(NAME, cell, max(settings.lengths), 0) for cell in cells]


def work(settings: Settings, part: Part) -> float:
    """Mostly compilation: a program per length for the reference, and one per dtype."""
    return 1.2 * len(LENGTHS[settings.profile]) * (1 + len(DTYPES[settings.profile]))


def measure(lab: Lab, part: Part) -> Iterable[Row]:
    """The error of the gradient by the params of the recurrent layer after training, for a loss of its last output."""
    cell, longest, profile = part.cell or "", part.length or 0, lab.settings.profile
    inner = lab.inner(cell, longest, part.seed or 0, MOMENTS[-1], batch=min(4, lab.settings.batch))
    lengths = sorted({min(length, longest) for length in LENGTHS[profile]})
    with jax.enable_x64(True):
        params, xs = jax.tree.map(_double, (inner.params, inner.xs))
        carry = inner.layer.initial_carry(params, xs[0])
        found = precision_error(
            inner.layer,
            lambda ys, _: jnp.mean(jnp.square(ys[-1]), -1),
            params,
            carry,
            xs,
            None,
            dtypes=DTYPES[profile],
            lengths=lengths,
        )
    for each in found:
        at: dict[str, Any] = {"group": each.dtype, "x": float(each.length)}
        for name in ("error", "cosine", "vanished", *SOURCES):
            yield row(name, getattr(each, name), **at)


def view(data: Data) -> View:
    """Error against the length, a panel per dtype; where it comes from at the greatest length."""
    rows = data.rows(NAME)
    if rows.is_empty():
        return View("", [Note("Not measured.", muted=True)])
    dtypes = list(rows["group"].unique(maintain_order=True))
    reach = listed(say("{}: {} steps", d, number(longest_time_constant(d), 4)) for d in dtypes)
    intro = say(
        "How far the gradient in a narrow dtype lies from that in float64, relative to its norm: 1 means "
        "that nothing of it "
        "is right. Longest time constant that a decay in each dtype can express: {}.",
        reach,
    )
    panels = [_panel(data, rows, dtype) for dtype in dtypes]
    caption = Caption(
        "Relative error of the gradient by the parameters against the length T, one line per cell, a panel "
        "per dtype.",
        say(
            "The recurrent layer after training, on the data, for the mean square of its last output; reference: the "
            "same loop in float64. Seed 0."
        )
        + data.left_out(rows),
        _conclusion(data, rows, dtypes),
    )
    return View(intro, [Figure("Error by dtype", panels, caption), _table(data, rows, dtypes)])


def _double(array: jax.Array) -> jax.Array:
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return array.astype(jnp.complex128)
    return array.astype(jnp.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _panel(data: Data, rows: pl.DataFrame, dtype: str) -> Panel:
    some = rows.filter((pl.col("group") == dtype) & (pl.col("quantity") == "error")).sort("x")
    series = []
    for cell, found in data.by_cell(some):
        errors = found["value"].fill_null(math.nan).to_numpy()
        series.append(
            Series(
                cell,
                found["x"].to_numpy(),
                np.where(errors > 0, errors, np.nan),
                data.places[cell],
                cell,
                marks="both",
            )
        )
    ticks = sorted(some["x"].unique())
    return chart(
        series,
        f"precision-{dtype}",
        title=dtype,
        x=Axis("length T", "log", ticks=ticks, names=[f"{t:.0f}" for t in ticks]),
        y=Axis("relative error", "log"),
        label=f"Relative error of the gradient in {dtype} against T: {', '.join(s.name for s in series)}.",
    )


def _at(rows: pl.DataFrame, dtype: str, quantity: str) -> float:
    """The value at the greatest length."""
    some = rows.filter((pl.col("group") == dtype) & (pl.col("quantity") == quantity)).sort("x")
    value = None if some.is_empty() else some["value"][-1]
    return math.nan if value is None else float(value)


def _conclusion(data: Data, rows: pl.DataFrame, dtypes: Sequence[str]) -> Text:
    text = say("")
    for dtype in dtypes:
        errors = {cell: _at(some, dtype, "error") for cell, some in data.by_cell(rows)}
        known = {cell: error for cell, error in errors.items() if not math.isnan(error)}
        if not known:
            continue
        best, worst = min(known, key=lambda c: known[c]), max(known, key=lambda c: known[c])
        text += say("In {} the error at T = {} ", dtype, int(float(str(rows["x"].max()))))
        text += (
            say("is {} for {}. ", number(known[best], 2), best)
            if best == worst
            else say(
                "goes from {} ({}) to {} ({}). ", number(known[best], 2), best, number(known[worst], 2), worst
            )
        )
        lost = [cell for cell, error in known.items() if not error < 0.5]
        if lost:
            text += say("The gradient is mostly wrong for {}. ", listed(lost))
    return text or say("No error is known.")


def _table(data: Data, rows: pl.DataFrame, dtypes: Sequence[str]) -> Table:
    groups: list[tuple[Text, list[Sequence[Text]]]] = []
    for dtype in dtypes:
        lines: list[Sequence[Text]] = []
        for cell, some in data.by_cell(rows):
            values = [_at(some, dtype, name) for name in ("error", "cosine", *SOURCES)]
            vanished = percent(_at(some, dtype, "vanished"))
            lines.append(
                [
                    say("<b>{}</b>", cell),
                    *(number(value, 3 if i == 1 else 2) for i, value in enumerate(values)),
                    vanished,
                ]
            )
        groups.append((dtype, lines))
    columns: list[tuple[Text, str]] = [("cell", ""), ("error", "number"), ("cosine", "number")]
    columns += [(f"from {name}", "number") for name in SOURCES] + [("vanished", "number")]
    return Table("Where the error at the greatest length comes from", columns, groups)
