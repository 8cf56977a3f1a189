"""Memory, arithmetic and time against the length, by method: fitted exponents, and where methods cross."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import polars as pl

from seqjax.base import Diagonal, Layer, Matrix
from seqjax.cells import REGISTRY
from seqjax.combinators import Nested, checkpointed
from seqjax.methods import Associative, Chunked, Sequential
from seqjax.probes.scaling import (
    Scaling,
    crossovers,
    flops_scaling,
    gradient_of_carry,
    memory_scaling,
    time_scaling,
)
from seqjax.report.blocks import Caption, Figure, Note, Panel, Row, Table, Text, View, listed, row, say
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.frames import Data
from seqjax.report.lab import Lab
from seqjax.report.models import recurrent_layer, representatives
from seqjax.report.settings import Settings
from seqjax.report.store import Part
from seqjax.report.text import number
from seqjax.user_model import is_own

NAME = "scaling"
TITLE = "Memory and time against the length"
LENGTHS = {"smoke": (8, 32), "cpu": (64, 256, 1024), "gpu": (256, 1024, 4096)}
CELLS = {"smoke": 1, "cpu": 2, "gpu": 2}
"""So many cells, of different kinds of recurrence where there are; the page names the others."""
ROUNDS = {"smoke": 2, "cpu": 7, "gpu": 7}
QUANTITIES = {"bytes": "temporary memory, bytes", "flops": "operations", "seconds": "seconds"}


def parts(settings: Settings) -> Iterable[Part]:
    """One per cell."""
    return [Part(NAME, cell) for cell in representatives(settings.cells, CELLS[settings.profile])]


def work(settings: Settings, part: Part) -> float:
    """Mostly compilation: every length and method, for memory and again for time."""
    return 2.0 * len(LENGTHS[settings.profile]) * len(_methods(part.cell or "", settings.profile)) * 0.8


def measure(lab: Lab, part: Part) -> Iterable[Row]:
    """Bytes, operations and seconds of one gradient of a loss at the end, by method and length."""
    cell, settings = part.cell or "", lab.settings
    methods, lengths = _methods(cell, settings.profile), LENGTHS[settings.profile]
    x = jax.ShapeDtypeStruct((settings.batch, settings.hidden_size), jnp.dtype(settings.dtype))

    def layer(method: Any) -> Layer:
        plain = recurrent_layer(
            cell, settings.hidden_size, Sequential(chunk=64) if method == "nested" else method
        )
        return checkpointed(plain, Nested()) if method == "nested" else plain

    common: dict[str, Any] = {"methods": methods, "program": gradient_of_carry}
    found = [*memory_scaling(layer, x, lengths, **common)]
    found += flops_scaling(layer, x, lengths, **common)
    seconds = time_scaling(layer, x, lengths, rounds=ROUNDS[settings.profile], **common)
    for each in [*found, *seconds]:
        yield from _rows(each)
    for quantity in ("bytes", "seconds"):
        some = [each for each in (*found, *seconds) if each.quantity == quantity]
        if all((each.values > 0).all() for each in some):
            for crossing in crossovers(some).values():
                pair = f"{crossing.cheaper_before} to {crossing.cheaper_after}"
                if crossing.inside:
                    yield row(f"{quantity}_crossover", crossing.length, group=pair)


def view(data: Data) -> View:
    """Bytes and seconds by method, a table of exponents, crossovers."""
    rows = data.rows(NAME)
    if rows.is_empty():
        return View("", [Note("Not measured.", muted=True)])
    intro = say(
        "What one gradient of a loss at the end costs, for {} sequences of T steps and the recurrent layer alone. A "
        "power law T<sup>p</sup> is fitted to each; p near 1 is what backpropagation through time costs, p near ½ or "
        "below is the memory of checkpoints.",
        data.settings.get("batch", "several"),
    )
    panels = [
        panel
        for quantity in ("bytes", "seconds")
        for method in rows["group"].drop_nulls().unique(maintain_order=True)
        if (panel := _panel(data, rows, quantity, method))
    ]
    measured = say(
        "Bytes: the compiler's own account, free of noise. Seconds: medians over rounds in which the methods "
        "take turns. "
        "Operations in the table: the program's equations, with loops multiplied out."
    )
    measured += data.left_out(rows)
    caption = Caption(
        "Temporary memory and time of one gradient against the length T, a panel per method, both axes logarithmic.",
        measured,
        _conclusion(data, rows),
    )
    return View(intro, [Figure("Cost against length", panels, caption), _table(data, rows)])


# ---------------------------------------------------------------- measured


def _methods(cell: str, profile: str) -> dict[str, Any]:
    """By name; the smoke profile has no time for checkpoints."""
    nested = {} if profile == "smoke" else {"nested": "nested"}
    if is_own(cell):
        return {"as it is": Sequential(chunk=64), **nested}
    kind = type(REGISTRY[cell].make(4).recurrence)
    methods: dict[str, Any] = {"sequential": Sequential(chunk=64), **nested}
    if kind is Diagonal:
        methods["associative"] = Associative()
    if kind is Matrix:
        methods["chunked"] = Chunked(16)
    return methods


def _rows(scaling: Scaling) -> Iterable[Row]:
    for length, value in zip(scaling.lengths, scaling.values, strict=True):
        yield row(scaling.quantity, value, group=scaling.method, x=float(length))
    yield row(f"{scaling.quantity}_exponent", scaling.law.exponent, group=scaling.method)
    yield row(f"{scaling.quantity}_exponent_error", scaling.law.standard_error, group=scaling.method)


# ---------------------------------------------------------------- shown


def _panel(data: Data, rows: pl.DataFrame, quantity: str, method: str) -> Panel | None:
    some = rows.filter((pl.col("quantity") == quantity) & (pl.col("group") == method) & (pl.col("value") > 0))
    series = [
        Series(cell, found["x"].to_numpy(), found["value"].to_numpy(), data.places[cell], cell, marks="both")
        for cell, found in data.by_cell(some.sort("x"))
    ]
    if not series:
        return None
    ticks = sorted(some["x"].unique())
    return chart(
        series,
        f"scaling-{quantity}-{method.replace(' ', '-')}",
        title=f"{quantity}, {method}",
        x=Axis("length T", "log", ticks=ticks, names=[f"{t:.0f}" for t in ticks]),
        y=Axis(QUANTITIES[quantity], "log"),
        label=f"{quantity} against T, {method}: {', '.join(s.name for s in series)}.",
        height=180,
    )


def _value(rows: pl.DataFrame, quantity: str, method: str) -> float:
    some = rows.filter((pl.col("quantity") == quantity) & (pl.col("group") == method))["value"]
    return math.nan if some.is_empty() or some[0] is None else float(some[0])


def _table(data: Data, rows: pl.DataFrame) -> Table:
    lines: list[Sequence[Text]] = []
    for cell, some in data.by_cell(rows):
        for method in some["group"].drop_nulls().unique(maintain_order=True):
            if " to " in method:
                continue
            exponents: list[Text] = []
            for quantity in QUANTITIES:
                p, error = (_value(some, f"{quantity}_exponent{suffix}", method) for suffix in ("", "_error"))
                exponents.append(
                    number(p, 2) if math.isnan(error) else f"{number(p, 2)} ± {number(error, 1)}"
                )
            lines.append([say("<b>{}</b>", cell), method, *exponents, _crossings(some, method)])
    columns: list[tuple[Text, str]] = [("cell", ""), ("method", ""), ("p of bytes", "number")]
    columns += [("p of operations", "number"), ("p of seconds", "number"), ("becomes the cheaper at T", "")]
    return Table("Exponents by method", columns, [("", lines)])


def _crossings(rows: pl.DataFrame, method: str) -> Text:
    texts = []
    for quantity in ("bytes", "seconds"):
        crossing = rows.filter(pl.col("quantity") == f"{quantity}_crossover")
        for pair, length in crossing.select("group", "value").iter_rows():
            before, after = pair.split(" to ")
            if after == method:
                texts.append(say("{} ({}, than {})", number(length, 2), quantity, before))
    return listed(texts, ", ")


def _conclusion(data: Data, rows: pl.DataFrame) -> Text:
    saved, slower = {}, {}
    for cell, some in data.by_cell(rows):
        longest = some["x"].max()
        last = some.filter(pl.col("x") == longest)
        plain = next(m for m in some["group"].drop_nulls().unique(maintain_order=True))
        pairs = [[_value(last, q, m) for m in (plain, "nested")] for q in ("bytes", "seconds")]
        if all(math.isfinite(v) and v > 0 for pair in pairs for v in pair):
            saved[cell], slower[cell] = pairs[0][0] / pairs[0][1], pairs[1][1] / pairs[1][0]
    if "nested" not in rows["group"]:
        exponents = [
            say("{} for <b>{}</b>", number(p, 2), cell)
            for cell, some in data.by_cell(rows)
            if math.isfinite(p := _value(some, "bytes_exponent", str(some["group"].drop_nulls()[0])))
        ]
        return say("Memory grows like T to the power {}: no checkpoints are measured.", listed(exponents))
    if not saved:
        return "Too few numbers to compare the methods."
    best = max(saved, key=lambda cell: saved[cell])
    text = say(
        "At T = {} nested checkpoints save most memory for <b>{}</b>: {} times less, for {} times the time. ",
        int(float(str(rows["x"].max()))),
        best,
        number(saved[best], 2),
        number(slower[best], 2),
    )
    steep = [c for c, s in data.by_cell(rows) if _value(s, "bytes_exponent", "nested") > 0.75]
    if steep:
        return text + say("Their memory still grows almost like T for {}.", listed(steep))
    return text + "With them memory grows clearly slower than T for every cell here."
