"""What lets gradients through and what drowns them: gates, signal to noise, clipping."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import polars as pl

from seqjax.base import Diagonal, Gated, Matrix
from seqjax.cells import REGISTRY
from seqjax.gradients import last_step
from seqjax.probes import (
    adjoint_signal_to_noise,
    bind,
    gate_statistics,
    gradient_noise_scale,
    per_example_gradients,
)
from seqjax.report.blocks import Block, Caption, Figure, Note, Row, Table, Text, View, listed, row, say
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.drawing import quarters
from seqjax.report.frames import Data
from seqjax.report.lab import MOMENTS, Lab
from seqjax.report.models import representatives
from seqjax.report.seeds import shown
from seqjax.report.settings import Settings
from seqjax.report.statistics import bootstrap
from seqjax.report.store import Part
from seqjax.report.text import number, percent, ten
from seqjax.report.training import CLIP
from seqjax.user_model import is_own

NAME = "signal"
TITLE = "Gates, signal and noise, clipping"
EXAMPLES = {"smoke": 4, "cpu": 16, "gpu": 64}
CELLS = {"smoke": 1, "cpu": 6, "gpu": 6}
"""So many cells, of different kinds of recurrence where there are; the page names the others."""
LEVELS = (0.05, 0.5, 0.95)
TELLS = 0.1
"""Above this ratio a batch of some ten examples tells a direction."""
LOWEST = 1e-4
"""Ratios below are not drawn."""


def parts(settings: Settings) -> Iterable[Part]:
    """One per cell, at the smallest length and seed 0."""
    cells = representatives(settings.cells, CELLS[settings.profile])
    return [Part(NAME, cell, min(settings.lengths), 0) for cell in cells]


def work(settings: Settings, part: Part) -> float:
    """Mostly compilation."""
    return 5.0


def measure(lab: Lab, part: Part) -> Iterable[Row]:
    """Decays and gates along the data, signal to noise across examples; clipping was recorded in training."""
    cell, length, seed = part.cell or "", part.length or 0, part.seed or 0
    examples = EXAMPLES[lab.settings.profile]
    more = lab.like(dataclasses.replace(lab.settings, batch=examples))
    for place, moment in enumerate(MOMENTS):
        at: dict[str, Any] = {"training_step": place * lab.settings.training_steps, "group": moment}
        params = lab.params(cell, length, seed, moment)
        inner = more.inner_of(cell, length, params)
        yield from _gates(cell, lab, inner, at)
    source, model = more.source(length), lab.model(cell, length)
    xs, targets = source.probe[:2]
    loss = last_step(source.task.loss)

    def noise(params: Any) -> Any:
        adjoint = adjoint_signal_to_noise(bind(model, params), None, xs, loss, targets)
        carry = model.initial_carry(params, xs[0])
        gradients = per_example_gradients(model, source.task.loss, params, carry, xs, targets)
        return [leaf.ratio for leaf in jax.tree.leaves(adjoint, is_leaf=_is_ratio)], gradient_noise_scale(
            gradients
        )

    ratios, scale = jax.device_get(lab.jit(noise, length)(lab.params(cell, length, seed, MOMENTS[-1])))
    # Of several leaves of a carry (c and h) the one that tells most.
    best = np.nanmax(np.where(np.isfinite(ratios), ratios, np.nan), axis=0) if ratios else np.zeros(0)
    for t, value in enumerate(best):
        yield row("signal_to_noise", value, t=t)
    yield row("noise_scale", scale.noise_scale)
    yield row("examples", examples)


def _is_ratio(node: Any) -> bool:
    return hasattr(node, "ratio")


def _gates(cell: str, lab: Lab, inner: Any, at: dict[str, Any]) -> Iterable[Row]:
    recurrent = None if is_own(cell) else REGISTRY[cell].make(lab.settings.hidden_size)
    if recurrent is None or not isinstance(recurrent.recurrence, Gated | Diagonal | Matrix):
        yield row("not_measured", 0, **at, leaf="its gates cannot be told apart")
        return
    run = lab.keep(
        (NAME, cell),
        lambda: lab.jit(
            lambda p, xs: gate_statistics(recurrent, p, None, xs, quantiles=LEVELS), 2 * len(inner.xs)
        ),
    )
    found = jax.device_get(run(inner.params, inner.xs))
    for kind, values in (("gate", found.gates), ("decay", found.decays)):
        for place, each in enumerate(values):
            if each is None:
                continue
            leaf = f"{kind} {place}"
            yield row("share_open", each.share_open, **at, leaf=leaf)
            yield row("share_shut", each.share_shut, **at, leaf=leaf)
            for level, quantile, constant in zip(LEVELS, each.quantiles, each.time_constants, strict=True):
                yield row("quantile", quantile, **at, leaf=leaf, x=level)
                yield row("time_constant", constant, **at, leaf=leaf, x=level)


# ---------------------------------------------------------------- shown


def view(data: Data) -> View:
    """Signal to noise against the lag, a table of gates, a table of noise and clipping."""
    rows = data.rows(NAME)
    if rows.is_empty():
        return View("", [Note("Not measured.", muted=True)])
    intro = say(
        "A gate near 1 keeps, near 0 forgets; a decay f per step has the time constant −1/ln f. Signal to "
        "noise compares the "
        "mean of the examples' gradients with their scatter: where it falls below zero in the estimate, no "
        "batch of this size "
        "can tell a direction."
    )
    figure = _noise(data, rows)
    nothing = Note(
        say("Signal to noise: so few examples tell no direction at any lag.") + data.left_out(rows)
    )
    blocks: list[Block] = [figure or nothing]
    return View(
        intro,
        [
            *blocks,
            _noise_table(data, rows),
            Note(
                say(
                    "<b>Gates and decays</b>, over steps, examples and units of the data, seed 0; gates by their place "
                    "in the cell's formula (LSTM: 0 input, 1 forget, 3 output; GRU: 0 reset, 1 update):"
                )
            ),
            _gate_table(data, rows),
        ],
    )


def _noise(data: Data, rows: pl.DataFrame) -> Figure | None:
    some = rows.filter(pl.col("quantity") == "signal_to_noise")
    if some.is_empty():
        return None
    length = int(some["length"][0])
    series, above = [], {}
    for cell, found in data.by_cell(some):
        values = found.sort("t")["value"].fill_null(math.nan).to_numpy()[::-1]
        series.append(
            Series(
                cell,
                np.arange(len(values)),
                np.where(values > LOWEST, values, np.nan),
                data.places[cell],
                cell,
            )
        )
        above[cell] = int((values > TELLS).sum())
    panel = chart(
        series,
        "signal-to-noise",
        title=f"T = {length}, after training",
        x=Axis("lag: steps back from the last step", limits=(0, max(length - 1, 1)), ticks=quarters(length)),
        y=Axis("signal to noise", "log"),
        label=f"Signal to noise of the gradient by the state against the lag: {', '.join(s.name for s in series)}.",
    )
    if not any(np.isfinite(each.y).any() for each in series):
        return None
    examples = int(rows.filter(pl.col("quantity") == "examples")["value"][0])
    most, none = max(above, key=lambda c: above[c]), [cell for cell, lags in above.items() if not lags]
    conclusion = say(
        "The ratio is above {} at no lag for any cell: {} examples tell no direction.", TELLS, examples
    )
    if above[most]:
        conclusion = say(
            "The ratio is above {} most often for <b>{}</b>, at {} of {} lags",
            TELLS,
            most,
            above[most],
            length,
        )
        conclusion += say("; nowhere for {}. ", listed(none)) if none else say(". ")
        conclusion += (
            "Elsewhere the examples disagree about the direction, even where gradients have not vanished."
        )
    caption = Caption(
        "The squared mean over the trace of the covariance, across examples, of the gradient by the state, "
        "against the lag.",
        say(
            "{} sequences of the data, loss at the last step, seed 0; of the parts of a carry (c and h) the greater "
            "ratio. Unbiased estimates, which may be negative; lines break off below {}.",
            examples,
            ten(round(math.log10(LOWEST))),
        )
        + data.left_out(rows),
        conclusion,
    )
    return Figure("Signal to noise", [panel], caption)


def _noise_table(data: Data, rows: pl.DataFrame) -> Table:
    training = data.rows("training", quantity="gradient_norm")
    lines: list[Sequence[Text]] = []
    for cell, some in data.by_cell(rows):
        scale = some.filter(pl.col("quantity") == "noise_scale")["value"].to_list()
        norms = training.filter(pl.col("cell") == cell)
        shares: dict[int, list[float]] = {}  # by length: its seeds are a stratum
        for (length, _), found in norms.group_by("length", "seed", maintain_order=True):
            share = (found["value"].fill_null(math.inf) > CLIP).mean()
            shares.setdefault(int(str(length)), []).append(100 * float(str(share)))
        largest = norms["value"].max()
        lines.append(
            [
                say("<b>{}</b>", cell),
                number(scale[0]) if scale and scale[0] is not None else "–",
                shown(bootstrap(list(shares.values()))) if shares else "–",
                number(float(str(largest))) if largest is not None else "–",
            ]
        )
    columns: list[tuple[Text, str]] = [("cell", ""), ("noise scale, examples", "number")]
    columns += [(say("steps clipped at {}, %", number(CLIP, 1)), "number"), ("largest norm", "number")]
    return Table("Table of noise and clipping", columns, [("", lines)])


def _gate_table(data: Data, rows: pl.DataFrame) -> Table:
    lines: list[Sequence[Text]] = []
    for cell, some in data.by_cell(rows):
        why = some.filter(pl.col("quantity") == "not_measured")
        if why.height:
            lines.append([say("<b>{}</b>", cell), why["leaf"][0], "", "", "", "", ""])
        for leaf in some.filter(pl.col("quantity") == "share_open")["leaf"].unique(maintain_order=True):
            for moment in MOMENTS:
                found = some.filter((pl.col("leaf") == leaf) & (pl.col("group") == moment))

                def value(quantity: str, x: float | None = None) -> float:
                    kept = found.filter(pl.col("quantity") == quantity)  # noqa: B023
                    kept = kept if x is None else kept.filter(pl.col("x") == x)
                    return (
                        math.nan if kept.is_empty() or kept["value"][0] is None else float(kept["value"][0])
                    )

                constants = (
                    [number(value("time_constant", level)) for level in LEVELS]
                    if leaf.startswith("decay")
                    else [""] * 3
                )
                shares = [percent(value(name)) for name in ("share_open", "share_shut")]
                lines.append(
                    [
                        say("<b>{}</b>", cell),
                        leaf,
                        moment,
                        *shares,
                        number(value("quantile", 0.5)),
                        " / ".join(constants).strip(" /"),
                    ]
                )
    columns: list[tuple[Text, str]] = [
        ("cell", ""),
        ("value", ""),
        ("measured", ""),
        ("above .99", "number"),
        ("below .01", "number"),
    ]
    columns += [("median", "number"), ("time constants at 5, 50, 95\u00a0%, steps", "number")]
    return Table("Table of gates and decays", columns, [("", lines)])
