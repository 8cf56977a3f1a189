"""Gradient algorithms against exact backpropagation: error against memory and time."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from seqjax import gradients
from seqjax.base import Batch, Estimator
from seqjax.ops.vectors import as_vector
from seqjax.report.blocks import (
    Block,
    Caption,
    Figure,
    Fold,
    Note,
    Panel,
    Row,
    Table,
    Text,
    View,
    listed,
    row,
    say,
)
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.drawing import label_of
from seqjax.report.frames import Data
from seqjax.report.lab import Lab
from seqjax.report.models import representatives
from seqjax.report.seeds import interval, spread
from seqjax.report.settings import Settings
from seqjax.report.store import Part
from seqjax.report.text import number
from seqjax.user_model import is_own

NAME = "algorithms"
TITLE = "Gradient algorithms"
LENGTHS = {"smoke": (8,), "cpu": (16, 64), "gpu": (64, 256)}
WIDTH = {"smoke": 3, "cpu": 8, "gpu": 32}
CELLS = {"smoke": 1, "cpu": 2, "gpu": 2}
"""So many cells, of different kinds of recurrence where there are; the page names the others."""
DRAWS = 8
BATCH = 2
EXACT = 1e-4
"""Below this an error is rounding, in float32."""


def algorithms(profile: str) -> dict[str, Estimator]:
    """By name, the exact one first."""
    window = LENGTHS[profile][0] // 2
    every = {
        "full BPTT": gradients.full_bptt(),
        f"truncated BPTT({window})": gradients.truncated_bptt(window),
        f"randomised BPTT({window})": gradients.randomised_truncated_bptt(window),
        "RTRL": gradients.rtrl(),
        "SnAp-1": gradients.snap(1),
        "UORO": gradients.uoro(),
        "KF-RTRL": gradients.kf_rtrl(),
        "RFLO": gradients.rflo(),
        "e-prop": gradients.eprop(),
    }
    few = ("full", "truncated", "RTRL", "UORO")
    return {name: each for name, each in every.items() if profile != "smoke" or name.startswith(few)}


def parts(settings: Settings) -> Iterable[Part]:
    """One per cell."""
    return [Part(NAME, cell) for cell in representatives(settings.cells, CELLS[settings.profile])]


def work(settings: Settings, part: Part) -> float:
    """Mostly compilation: each algorithm at each length."""
    return 1.5 * len(algorithms(settings.profile)) * len(LENGTHS[settings.profile])


def measure(lab: Lab, part: Part) -> Iterable[Row]:
    """Cosine and error against full backpropagation, bytes and seconds, by algorithm and length."""
    profile, cell = lab.settings.profile, part.cell or ""
    longest = max(LENGTHS[profile])
    width = lab.settings.hidden_size if is_own(cell) else WIDTH[profile]
    small = lab.like(dataclasses.replace(lab.settings, hidden_size=width, batch=BATCH))
    inner = small.inner(cell, longest, 0, batch=BATCH)
    for length in LENGTHS[profile]:
        xs = inner.xs[:length]
        batch = Batch(xs, jnp.roll(xs, -1, 0))  # each output is to foretell the next input
        exact = None
        for name, estimator in algorithms(profile).items():
            at: dict[str, Any] = {"group": name, "x": float(length)}
            try:
                draws, size, seconds = _estimate(estimator, inner.layer, inner.params, batch)
            except (TypeError, ValueError) as error:  # an algorithm that says it does not go with this cell
                yield row("not_applicable", 1, **at, leaf=" ".join(str(error).split()))
                continue
            exact = draws[0] if exact is None else exact
            for place, found in enumerate(draws):
                yield row("error", _error(exact, found), **at, t=place)
                yield row("cosine", _cosine(exact, found), **at, t=place)
            yield row("error_of_mean", _error(exact, np.mean(draws, 0)), **at)
            yield row("draws", len(draws), **at)
            yield row("bytes", size, **at)
            yield row("seconds", seconds, **at)
            lab.advance(1.5)


def _estimate(
    estimator: Estimator, layer: Any, params: Any, batch: Batch
) -> tuple[list[np.ndarray], int, float]:
    """Gradients of the mean loss as vectors, one per draw; bytes of state and temporaries; seconds."""
    init, update = estimator.bind(layer, _loss)
    x = batch.xs[0]
    carry = layer.initial_carry(params, x)
    state = jax.jit(lambda p: init(p, layer.initial_carry(p, x), x))(params)

    def run(params: Any, carry: Any, state: Any, batch: Batch, key: jax.Array) -> jax.Array:
        found = update(params, carry, state, batch, key=key)[0]
        return as_vector(jax.tree.map(lambda leaf: leaf / found.count, found.gradients))

    keys = [jax.random.key(seed) for seed in range(DRAWS)]
    program = jax.jit(run).lower(params, carry, state, batch, keys[0]).compile()
    analysis: Any = program.memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + (
        analysis.temp_size_in_bytes if analysis else 0
    )
    draws, seconds = [], []
    for key in keys:
        start = time.perf_counter()
        draws.append(np.asarray(program(params, carry, state, batch, key), np.float64))
        seconds.append(time.perf_counter() - start)
    random = any(not np.array_equal(draws[0], draw) for draw in draws[1:])
    return (draws if random else draws[:1]), size, float(np.median(seconds[1:]))


def _loss(ys: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean squared error per step, over as many numbers as both have: a model of one's own may put out fewer."""
    width = min(ys.shape[-1], targets.shape[-1])
    return jnp.mean(jnp.square(ys[..., :width] - targets[..., :width]), -1)


def _error(exact: np.ndarray, found: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _cosine(exact: np.ndarray, found: np.ndarray) -> float:
    return float(exact @ found / np.linalg.norm(exact) / np.linalg.norm(found))


# ---------------------------------------------------------------- shown


def view(data: Data) -> View:
    """Error against bytes and against seconds for each cell, and one table."""
    rows = data.rows(NAME)
    if rows.is_empty():
        return View("", [Note("Not measured.", muted=True)])
    names = list(rows["group"].unique(maintain_order=True))
    intro = say(
        "Backpropagation keeps every step; other algorithms keep less and pay with time, bias or noise. Each "
        "is held against "
        "the exact gradient of the same loss. Nearer to the lower left corner is better; no point of the "
        "thin line is beaten "
        "in both respects."
    )
    longest = rows["x"].max()
    panels = [
        _panel(data, cell, some.filter(pl.col("x") == longest), names, cost)
        for cell, some in data.by_cell(rows)
        for cost in ("bytes", "seconds")
    ]
    measured = say(
        "The recurrent layer alone at initialisation, width {}, {} sequences of the data, squared error of "
        "the next input; "
        "bytes: state and temporary memory of the compiled update; seconds: median of {}. Random algorithms: "
        "interquartile means over {} draws (of the logarithm for errors), in the table with 95\u00a0% intervals.",
        WIDTH.get(str(data.settings.get("profile")), WIDTH["cpu"]),
        BATCH,
        DRAWS - 1,
        DRAWS,
    )
    measured += data.left_out(rows)
    shows = say(
        "Relative error of the gradient against memory and against time at T = {}; errors below "
        "10<sup>−8</sup> are drawn there.",
        int(float(str(longest))),
    )
    caption = Caption(shows, measured, _conclusion(data, rows.filter(pl.col("x") == longest), names))
    blocks: list[Block] = [Figure("Error against cost", panels, caption)]
    blocks.append(_table(data, rows.filter(pl.col("x") == longest), names))
    shorter = rows.filter(pl.col("x") < longest)
    if shorter.height:
        blocks.append(Fold("At shorter lengths", [_table(data, shorter, names)]))
    return View(intro, blocks)


def _values(rows: pl.DataFrame, name: str, quantity: str) -> list[float | None]:
    """By draw, for what differs from draw to draw."""
    return (
        rows.filter((pl.col("group") == name) & (pl.col("quantity") == quantity)).sort("t")["value"].to_list()
    )


def _value(rows: pl.DataFrame, name: str, quantity: str) -> float:
    return float(interval(_values(rows, name, quantity), log=quantity == "error").estimate)


def _panel(data: Data, cell: str, rows: pl.DataFrame, names: Sequence[str], cost: str) -> Panel:
    series, points = [], []
    for place, name in enumerate(names):
        x, y = _value(rows, name, cost), max(_value(rows, name, "error"), 1e-8)
        if math.isfinite(x) and math.isfinite(y):
            series.append(Series(name, [x], [y], place, marks="points"))
            points.append((x, y))
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))

    def draw(axes: Any) -> None:
        axes.plot(*zip(*front, strict=True), linewidth=0.8, color="#8c939b", zorder=1, drawstyle="steps-post")

    name = f"algorithms-{cost}-{data.files[cell]}"
    panel = chart(
        series,
        name,
        title=f"{label_of(cell)}, {cost}",
        x=Axis(cost, "log"),
        y=Axis("relative error", "log"),
        label=f"Error of gradient algorithms against {cost}, {cell}: {', '.join(s.name for s in series)}.",
        height=190,
        draw=draw if len(front) > 1 else None,
    )
    return Panel(panel.name, panel.svg, panel.data, cell)


def _conclusion(data: Data, rows: pl.DataFrame, names: Sequence[str]) -> Text:
    text = say("")
    for cell, some in data.by_cell(rows):
        errors = {name: _value(some, name, "error") for name in names}
        exact = [name for name in names[1:] if errors[name] < EXACT]
        others = {name: e for name, e in errors.items() if math.isfinite(e) and e >= EXACT}
        text += say("<b>{}</b>: ", cell)
        if exact:
            cheapest = min(exact, key=lambda name: _value(some, name, "bytes"))
            ratio = _value(some, cheapest, "bytes") / _value(some, names[0], "bytes")
            text += say("{} {} exact too, ", listed(exact), "are" if exact[1:] else "is")
            text += say("{} with ", cheapest) if exact[1:] else "with "
            text += say("{} times the memory of backpropagation; ", number(ratio, 2))
        if others:
            best = min(others, key=lambda name: others[name])
            text += say(
                "of the inexact ones {} comes nearest (error {}, cosine {}). ",
                best,
                number(others[best], 2),
                number(_value(some, best, "cosine"), 3),
            )
        else:
            text += say("none measured here is inexact. ")
    return text


def _table(data: Data, rows: pl.DataFrame, names: Sequence[str]) -> Table:
    groups: list[tuple[Text, list[Sequence[Text]]]] = []
    refused = rows.filter(pl.col("quantity") == "not_applicable")
    for cell, some in data.by_cell(rows):
        for length in some["x"].unique().sort():
            at = some.filter(pl.col("x") == length)
            lines: list[Sequence[Text]] = []
            for name in names:
                why = refused.filter(
                    (pl.col("cell") == cell) & (pl.col("group") == name) & (pl.col("x") == length)
                )
                if why.height:
                    lines.append(
                        [name, *["–"] * 5, say('<span title="{}">does not apply</span>', why["leaf"][0])]
                    )
                    continue
                draws = _value(at, name, "draws")
                mean = number(_value(at, name, "error_of_mean"), 2) if draws > 1 else ""
                values = [spread(_values(at, name, q), log=q == "error") for q in ("cosine", "error")]
                costs = [number(_value(at, name, q), 3) for q in ("bytes", "seconds")]
                lines.append([name, *values, mean, *costs, f"{draws:.0f} draws" if draws > 1 else ""])
            groups.append((say("{}, T = {}", cell, int(length)), lines))
    columns: list[tuple[Text, str]] = [("algorithm", ""), ("cosine", "number"), ("error", "number")]
    columns += [("error of the mean", "number"), ("bytes", "number"), ("seconds", "number"), ("", "")]
    return Table("Table of gradient algorithms", columns, groups)
