"""Show Lyapunov spectra along trajectories of the data, with intervals, and the identity that checks them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from seqjax.report.aggregate import interval, iqm, spread
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.content import Caption, Panel, Table, Text, View, bold, columns, figure_of, listed, say
from seqjax.report.drawing import label_of, zero_line
from seqjax.report.order import certainty
from seqjax.report.results import Array, StudyResults, values
from seqjax.report.section import Section
from seqjax.report.text import number, plural
from seqjax.study.experiment import MOMENTS
from seqjax.study.sections.lyapunov import MEASUREMENT, NAME


def view(results: StudyResults) -> View:
    """Show a panel per cell with both moments, a table of derived numbers and the identity."""
    rows = results.rows(NAME)
    intro = say(
        "The exponents λ<sub>i</sub> are the mean rates, in nats per step, at which small differences along each "
        "direction of the state grow (above 0) or shrink (below 0). Directions with exponents near 0 carry gradients "
        "over long times. If the largest exponent is above 0, the dynamics is chaotic and gradients explode."
    )
    panels = [_panel(results, cell, some) for cell, some in results.by_cell(rows)]
    length = int(rows["length"][0])
    caption = Caption(
        "All exponents in decreasing order, at initialization (grey) and after training. For cells with a large state, "
        "only the largest exponents. Bars are 95\u00a0% intervals within a run.",
        say(
            "The recurrent layer alone, on a sequence of the data of T = {}, whose first eighth is the warm-up. A QR "
            "decomposition at every step keeps the tangents orthogonal; growth is summed in the log domain. Intervals "
            "come from the means of 20 blocks. Points and ends of intervals are interquartile means over {}.",
            length,
            plural(rows["seed"].n_unique(), "seed"),
        ),
        _conclusion(results, rows),
    )
    return View(intro, [figure_of(say("T = {}", length), panels, caption), _table(results, rows)])


def _values(rows: pl.DataFrame, quantity: str, moment: str, **columns: Any) -> list[float]:
    """Return the values of a quantity by seed."""
    return values(rows.filter(quantity=quantity, group=moment, **columns), "seed").tolist()


def largest(rows: pl.DataFrame, moment: str) -> list[float]:
    """Return the largest exponent by seed."""
    return _values(rows, "exponent", moment, t=0)


def _middle(rows: pl.DataFrame, quantity: str, moment: str) -> Array:
    """Return, by index, the interquartile mean over seeds."""
    some = rows.filter(quantity=quantity, group=moment)
    if some.is_empty():
        return np.zeros(0)
    return iqm(values(some, "seed", "t").reshape(some["seed"].n_unique(), -1))


def _panel(results: StudyResults, cell: str, rows: pl.DataFrame) -> Panel:
    series = []
    for place, moment in enumerate(MOMENTS):
        exponents = _middle(rows, "exponent", moment)
        if not exponents.size:
            continue
        by_seed = rows.filter(quantity="exponent", group=moment)
        seeds = {
            int(seed): values(some, "t")
            for (seed,), some in by_seed.group_by("seed", maintain_order=True)  # type: ignore[misc]
        }
        low, high = (_middle(rows, f"exponent_{end}", moment) for end in ("low", "high"))
        index = np.arange(1, len(exponents) + 1)
        hue = results.places[cell] if place else None  # grey before training
        points = Series(moment, index, exponents, hue, None, low, high, seeds, marks="points", pattern=place)
        series.append(points)
    return chart(
        series,
        f"lyapunov-{results.files[cell]}",
        title=label_of(cell),
        x=Axis("exponent i", "whole"),
        y=Axis("λ, nats per step"),
        label=f"Lyapunov exponents of {cell}, from the largest down, at initialization and after training.",
        height=170,
        draw=zero_line,
        cell=cell,
    )


def _conclusion(results: StudyResults, rows: pl.DataFrame) -> Text:
    tops = {cell: interval(largest(some, MOMENTS[-1])) for cell, some in results.by_cell(rows)}
    tops = {cell: top for cell, top in tops.items() if not math.isnan(top.estimate)}
    known = {cell: top.estimate for cell, top in tops.items()}
    if not known:
        return "No exponent is known."
    chaotic = [cell for cell, top in known.items() if top > 1e-3]
    text = say("")
    if len(chaotic) < len(known):
        top, cell = max((top, cell) for cell, top in known.items() if top <= 1e-3)
        slowest = "After training the slowest decay without chaos is that of <b>{}</b>, λ<sub>1</sub> = {}"
        text += say(slowest, cell, number(top))
        text += say(" (1/e in {} steps). ", number(-1 / top)) if top < 0 else say(". ")
        text += certainty({name: tops[name] for name in known if name not in chaotic}, cell)
    text += (
        say("The largest exponent is above zero, so gradients grow, for {}. ", listed(chaotic))
        if chaotic
        else say("No exponent is clearly above zero. ")
    )
    gaps = [gap for cell, some in results.by_cell(rows) for moment in MOMENTS for gap in _gaps(some, moment)]
    if gaps:
        text += (
            say(
                "The sums of whole spectra equal the mean log|det J| within {}, as they must (relative to the latter "
                "where it is above 1).",
                number(max(gaps), 2),
            )
            if max(gaps) < 1e-3
            else say(
                "<b>The sums of whole spectra differ from the mean log|det J| by up to {}, so the small exponents are "
                "unreliable.</b>",
                number(max(gaps), 2),
            )
        )
    return text


def _gaps(rows: pl.DataFrame, moment: str) -> list[float]:
    """Return the sum of exponents minus the mean log determinant, relative to the latter, where J is invertible."""
    sums, determinants = (_values(rows, name, moment) for name in ("sum", "log_determinant"))
    return [
        abs(left - right) / max(1.0, abs(right))
        for left, right in zip(sums, determinants, strict=False)
        if math.isfinite(left) and math.isfinite(right)
    ]


def _table(results: StudyResults, rows: pl.DataFrame) -> Table:
    lines: list[Sequence[Text]] = []
    for cell, some in results.by_cell(rows):
        for moment in MOMENTS:
            names = ("state_size", "near_zero", "kaplan_yorke", "sum", "log_determinant")
            size, near_zero, dimension, total, determinant = (_values(some, name, moment) for name in names)
            lines.append(
                [
                    bold(cell),
                    moment,
                    f"{size[0]:.0f}" if size else "–",
                    spread(largest(some, moment)),
                    spread(near_zero, counts=True),
                    spread(dimension),
                    spread(total, 4) if determinant else "–",
                    number(max(_gaps(some, moment), default=math.nan), 2) if determinant else "too large",
                ]
            )
    numbers = ["state", say("λ<sub>1</sub>"), "within 1/T of 0", "Kaplan-Yorke dimension"]
    numbers += ["Σ λ", "log|det J| off by"]
    return Table("Table of Lyapunov spectra", columns(["cell", "measured"], numbers), [("", lines)])


SECTION = Section(NAME, "Lyapunov spectra", view, MEASUREMENT)
