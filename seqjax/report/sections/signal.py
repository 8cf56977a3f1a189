"""Show gates, the signal-to-noise ratio of gradients, and clipping."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from seqjax.report.aggregate import shown
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.content import (
    Block,
    Caption,
    Note,
    Table,
    Text,
    View,
    bold,
    columns,
    figure_of,
    listed,
    say,
)
from seqjax.report.drawing import quarters
from seqjax.report.gates import gate_names
from seqjax.report.results import StudyResults, values
from seqjax.report.section import Section
from seqjax.report.text import number, percent, ten
from seqjax.statistics import bootstrap
from seqjax.study.experiment import MOMENTS
from seqjax.study.sections.signal import LEVELS, MEASUREMENT, NAME
from seqjax.study.training import CLIP

TELLS = 0.1
"""Above this ratio a batch of some ten examples determines a direction."""
LOWEST = 1e-4
"""Ratios below this are not drawn."""


def view(results: StudyResults) -> View:
    """Show signal to noise against the lag, a table of gates, and a table of noise and clipping."""
    rows = results.rows(NAME)
    intro = say(
        "A gate near 1 keeps the state, a gate near 0 erases it; a decay f per step has the time constant −1/ln f. "
        "Signal to noise compares the mean of the examples' gradients with their scatter. Where its estimate is below "
        "zero, a batch of this size does not determine a direction."
    )
    figure = _noise(results, rows)
    nothing = Note(
        say("Signal to noise: so few examples determine no direction at any lag.") + results.left_out(rows)
    )
    gates = say(
        "<b>Gates and decays</b> over steps, examples and units, for the data and seed 0. Gates have the names "
        "of the cell's formula; a decay is that of the part of the state that is named."
    )
    tables = _noise_table(results, rows), _gate_table(results, rows)
    return View(intro, [figure or nothing, tables[0], Note(gates), tables[1]])


def _noise(results: StudyResults, rows: pl.DataFrame) -> Block | None:
    some = rows.filter(quantity="signal_to_noise")
    if some.is_empty():
        return None
    length = int(some["length"][0])
    series, above = [], {}
    for cell, found in results.by_cell(some):
        ratios = values(found, "t")[::-1]
        drawn = np.where(ratios > LOWEST, ratios, np.nan)
        series.append(Series(cell, np.arange(len(ratios)), drawn, results.places[cell], cell))
        above[cell] = int((ratios > TELLS).sum())
    panel = chart(
        series,
        "signal-to-noise",
        title=f"T = {length}, after training",
        x=Axis("lag: steps back from the last", limits=(0, max(length - 1, 1)), ticks=quarters(length)),
        y=Axis("signal to noise", "log"),
        label=f"Signal to noise of the gradient of the state against the lag: {', '.join(s.name for s in series)}.",
    )
    if not any(np.isfinite(each.y).any() for each in series):
        return None
    examples = int(rows.filter(quantity="examples")["value"][0])
    none = [cell for cell, lags in above.items() if not lags]
    conclusion = say(
        "The ratio is above {} at no lag for any cell: {} examples determine no direction.", TELLS, examples
    )
    if any(above.values()):
        counts = listed(say("{} for <b>{}</b>", lags, cell) for cell, lags in above.items() if lags)
        conclusion = say("Of {} lags the ratio is above {} at {}", length, TELLS, counts)
        conclusion += say("; nowhere for {}. ", listed(none)) if none else say(". ")
        conclusion += "One seed shows no order of the cells. "
        conclusion += (
            "At the other lags the examples' gradients point in different directions, even where they have not "
            "vanished."
        )
    caption = Caption(
        "The gradient with respect to the state: its squared mean across examples, divided by the trace of its "
        "covariance, against the lag.",
        say(
            "{} sequences of the data, loss at the last step, seed 0. For a carry of several parts (c and h) the "
            "greater ratio is shown. Estimates are unbiased and may be negative; lines end below {}.",
            examples,
            ten(round(math.log10(LOWEST))),
        )
        + results.left_out(rows),
        conclusion,
    )
    return figure_of("Signal to noise", [panel], caption)


def _noise_table(results: StudyResults, rows: pl.DataFrame) -> Table:
    training = results.rows("training", quantity="gradient_norm")
    lines: list[Sequence[Text]] = []
    for cell, some in results.by_cell(rows):
        scale = some.filter(quantity="noise_scale")["value"].to_list()
        norms = training.filter(cell=cell)
        shares: dict[int, list[float]] = {}  # the seeds of each length are a stratum
        for (length, _), found in norms.group_by("length", "seed", maintain_order=True):
            share = (found["value"].fill_null(math.inf) > CLIP).mean()
            shares.setdefault(int(str(length)), []).append(100 * float(str(share)))
        clipped = shown(bootstrap(list(shares.values()))) if shares else "–"
        largest: Any = norms["value"].max()
        lines.append([bold(cell), number(scale[0] if scale else None), clipped, number(largest)])
    numbers = ["noise scale, examples", say("steps clipped at {}, %", number(CLIP, 1)), "largest norm"]
    return Table("Table of noise and clipping", columns(["cell"], numbers), [("", lines)])


def _gate_table(results: StudyResults, rows: pl.DataFrame) -> Table:
    lines: list[Sequence[Text]] = []
    for cell, some in results.by_cell(rows):
        why = some.filter(quantity="not_measured")
        if why.height:
            lines.append([bold(cell), why["note"][0], "", "", "", "", ""])
        names = gate_names(cell)
        for leaf in some.filter(quantity="share_open")["leaf"].unique(maintain_order=True):
            for moment in MOMENTS:
                found = some.filter(leaf=leaf, group=moment)

                def value(quantity: str, x: float | None = None) -> float:
                    known = values(found.filter(quantity=quantity, **({} if x is None else {"x": x})), "x")  # noqa: B023
                    return float(known[0]) if known.size else math.nan

                constants = (
                    [number(value("time_constant", level)) for level in LEVELS]
                    if leaf.startswith("decay")
                    else [""] * 3
                )
                shares = [percent(value(name)) for name in ("share_open", "share_shut")]
                median = number(value("quantile", 0.5))
                at_levels = " / ".join(constants).strip(" /")
                lines.append([bold(cell), names.get(leaf, leaf), moment, *shares, median, at_levels])
    numbers = ("above .99", "below .01", "median", "time constants at 5, 50, 95\u00a0%, steps")
    return Table("Table of gates and decays", columns(["cell", "value", "measured"], numbers), [("", lines)])


SECTION = Section(NAME, "Gates, signal and noise, clipping", view, MEASUREMENT)
