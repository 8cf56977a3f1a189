"""Lyapunov spectra along real trajectories, with intervals, and the identity that checks them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from seqjax.report.aggregate import interval, iqm, spread
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.content import Caption, Figure, Panel, Table, Text, View, listed, say
from seqjax.report.drawing import label_of, zero_line
from seqjax.report.results import Array, StudyResults, values
from seqjax.report.section import Section
from seqjax.report.text import number, plural
from seqjax.study.experiment import MOMENTS
from seqjax.study.sections.lyapunov import MEASUREMENT, NAME


def view(results: StudyResults) -> View:
    """Show a panel per cell with both moments, a table of derived numbers and the identity."""
    rows = results.rows(NAME)
    intro = say(
        "The exponents λ<sub>i</sub> say by how many nats per step small differences along each direction of the state "
        "grow (above 0) or shrink (below 0) on average. Exponents near 0 carry gradients over long times; a largest "
        "one above 0 means chaos and exploding gradients."
    )
    panels = [_panel(results, cell, some) for cell, some in results.by_cell(rows)]
    length = int(rows["length"][0])
    caption = Caption(
        "All exponents from the largest down, at initialization and after training; bars are 95\u00a0% intervals "
        "within a run. Where a cell's state is large, its largest only.",
        say(
            "The recurrent layer alone, on a sequence of the data of T = {}, the first eighth as warm-up; tangents "
            "kept apart by QR at every step, growth in the log domain. Intervals by the means of 20 blocks; of points "
            "and of ends of intervals the interquartile mean over {}.",
            length,
            plural(rows["seed"].n_unique(), "seed"),
        ),
        _conclusion(results, rows),
    )
    return View(intro, [Figure(say("T = {}", length), panels, caption), _table(results, rows)])


def _values(rows: pl.DataFrame, quantity: str, moment: str, **columns: Any) -> list[float]:
    """The values by seed."""
    return values(rows.filter(quantity=quantity, group=moment, **columns), "seed").tolist()


def largest(rows: pl.DataFrame, moment: str) -> list[float]:
    """The largest exponent by seed."""
    return _values(rows, "exponent", moment, t=0)


def _middle(rows: pl.DataFrame, quantity: str, moment: str) -> Array:
    """By index, the interquartile mean over seeds."""
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
        series.append(Series(moment, index, exponents, place, None, low, high, seeds, marks="points"))
    name = f"lyapunov-{results.files[cell]}"
    return chart(
        series,
        name,
        title=label_of(cell),
        x=Axis("exponent i", "whole"),
        y=Axis("λ, nats per step"),
        label=f"Lyapunov exponents of {cell}, from the largest down, at initialization and after training.",
        height=170,
        draw=zero_line,
        cell=cell,
    )


def _conclusion(results: StudyResults, rows: pl.DataFrame) -> Text:
    tops = {cell: interval(largest(some, MOMENTS[-1])).estimate for cell, some in results.by_cell(rows)}
    known = {cell: top for cell, top in tops.items() if not math.isnan(top)}
    if not known:
        return "No exponent is known."
    chaotic = [cell for cell, top in known.items() if top > 1e-3]
    slowest = (
        max((top, cell) for cell, top in known.items() if top <= 1e-3) if len(chaotic) < len(known) else None
    )
    text = say("")
    if slowest:
        text += say(
            "After training the slowest decay without chaos is that of <b>{}</b>, λ<sub>1</sub> = {}",
            slowest[1],
            number(slowest[0]),
        )
        text += say(" (1/e in {} steps). ", number(-1 / slowest[0])) if slowest[0] < 0 else say(". ")
    text += (
        say("Largest exponent above zero, hence growing gradients: {}. ", listed(chaotic))
        if chaotic
        else say("No largest exponent is clearly above zero. ")
    )
    gaps = [gap for cell, some in results.by_cell(rows) for moment in MOMENTS for gap in _gaps(some, moment)]
    if gaps:
        text += (
            say(
                "The sums of whole spectra equal the mean log|det J| within {}, as they must (relatively, where it is "
                "above 1).",
                number(max(gaps), 2),
            )
            if max(gaps) < 1e-3
            else say(
                "<b>The sums of whole spectra differ from the mean log|det J| by up to {}: doubt the small "
                "exponents.</b>",
                number(max(gaps), 2),
            )
        )
    return text


def _gaps(rows: pl.DataFrame, moment: str) -> list[float]:
    """Sum of exponents less mean log determinant, relative to their size, where J is invertible."""
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
                    say("<b>{}</b>", cell),
                    moment,
                    f"{size[0]:.0f}" if size else "–",
                    spread(largest(some, moment)),
                    spread(near_zero, counts=True),
                    spread(dimension),
                    spread(total, 4) if determinant else "–",
                    number(max(_gaps(some, moment), default=math.nan), 2) if determinant else "too large",
                ]
            )
    columns: list[tuple[Text, str]] = [
        ("cell", ""),
        ("measured", ""),
        ("state", "number"),
        (say("λ<sub>1</sub>"), "number"),
    ]
    columns += [("within 1/T of 0", "number"), ("Kaplan-Yorke dimension", "number")]
    columns += [("Σ λ", "number"), ("log|det J| off by", "number")]
    return Table("Table of Lyapunov spectra", columns, [("", lines)])


SECTION = Section(NAME, "Lyapunov spectra", view, MEASUREMENT)
