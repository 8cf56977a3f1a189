"""Show the error of gradient algorithms against their memory and time."""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from seqjax.report.aggregate import interval, spread
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.content import (
    Block,
    Caption,
    Fold,
    Panel,
    Table,
    Text,
    View,
    columns,
    figure_of,
    listed,
    say,
)
from seqjax.report.drawing import GREY, label_of, scaled
from seqjax.report.results import StudyResults, values
from seqjax.report.section import Section
from seqjax.report.text import number, with_unit
from seqjax.study.sections.algorithms import BATCH, DRAWS, MEASUREMENT, NAME

COSTS = {"bytes": ("memory", "B"), "seconds": ("time", "s")}
"""By quantity of the rows: its name on the page, and its unit."""
EXACT = 1e-4
"""Errors below this are roundings of float32."""


def view(results: StudyResults) -> View:
    """Show error against bytes and against seconds for each cell, and one table."""
    rows = results.rows(NAME)
    names = list(rows["group"].unique(maintain_order=True))
    intro = say(
        "Backpropagation stores every step. Other algorithms store less, but take more time or have bias or noise. The "
        "figure compares each with the exact gradient of the same loss. Points near the lower left corner are better; "
        "for a point on the thin line, no algorithm is better in both respects."
    )
    longest = rows["x"].max()
    panels = [
        _panel(results, cell, some.filter(x=longest), names, cost)
        for cell, some in results.by_cell(rows)
        for cost in COSTS
    ]
    measured = say(
        "The recurrent layer alone at initialization, with width {} and {} sequences of the data. The loss is the "
        "squared error of a prediction of the next input. Memory is that of the state and of temporary values in the "
        "compiled update; time is the median of {} runs. For random algorithms the values are interquartile means over "
        "{} draws (of the logarithm for errors); the table has their 95\u00a0% intervals.",
        results.sizes.algorithms_width,
        BATCH,
        DRAWS - 1,
        DRAWS,
    )
    measured += results.left_out(rows)
    shows = say(
        "Relative error of the gradient against memory and against time at T = {}; errors below 10<sup>−8</sup> are "
        "drawn there. One marker per algorithm; markers that would cover each other stand side by side.",
        int(float(str(longest))),
    )
    caption = Caption(shows, measured, _conclusion(results, rows.filter(x=longest), names))
    blocks: list[Block] = [figure_of("Error against cost", panels, caption)]
    blocks.append(_table(results, rows.filter(x=longest), names))
    shorter = rows.filter(pl.col("x") < longest)
    if shorter.height:
        blocks.append(Fold("At shorter lengths", [_table(results, shorter, names)]))
    return View(intro, blocks)


def _values(rows: pl.DataFrame, name: str, quantity: str) -> list[float]:
    """Return a quantity by draw."""
    return values(rows.filter(group=name, quantity=quantity), "t").tolist()


def _value(rows: pl.DataFrame, name: str, quantity: str) -> float:
    return float(interval(_values(rows, name, quantity), log=quantity == "error").estimate)


def _panel(results: StudyResults, cell: str, rows: pl.DataFrame, names: Sequence[str], cost: str) -> Panel:
    series, points = [], []
    for place, name in enumerate(names):
        x, y = _value(rows, name, cost), max(_value(rows, name, "error"), 1e-8)
        if math.isfinite(x) and math.isfinite(y):
            hue = results.places[cell]
            series.append(Series(name, [x], [y], hue, marks="points", pattern=place))
            points.append((x, y))
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))

    def draw(axes: Any) -> None:
        axes.plot(
            *zip(*front, strict=True), linewidth=scaled(0.8), color=GREY, zorder=1, drawstyle="steps-post"
        )

    return chart(
        series,
        f"algorithms-{cost}-{results.files[cell]}",
        title=f"{label_of(cell)}, {COSTS[cost][0]}",
        x=Axis(COSTS[cost][0], "log", unit=COSTS[cost][1]),
        y=Axis("relative error", "log"),
        label=f"Error of gradient algorithms against {cost}, {cell}: {', '.join(s.name for s in series)}.",
        height=190,
        draw=draw if len(front) > 1 else None,
        cell=cell,
    )


def _conclusion(results: StudyResults, rows: pl.DataFrame, names: Sequence[str]) -> Text:
    text = say("")
    for cell, some in results.by_cell(rows):
        errors = {name: _value(some, name, "error") for name in names}
        exact = [name for name in names[1:] if errors[name] < EXACT]
        others = {name: e for name, e in errors.items() if math.isfinite(e) and e >= EXACT}
        text += say("<b>{}</b>: ", cell)
        if exact:
            cheapest = min(exact, key=lambda name: _value(some, name, "bytes"))
            ratio = _value(some, cheapest, "bytes") / _value(some, names[0], "bytes")
            text += say("{} {} also exact, ", listed(exact), "are" if exact[1:] else "is")
            text += say("{} with ", cheapest) if exact[1:] else "with "
            text += say("{} times the memory of backpropagation; ", number(ratio, 2))
        if others:
            best = min(others, key=lambda name: others[name])
            cosine = number(_value(some, best, "cosine"), 3)
            inexact = "of the inexact algorithms, {} has the smallest error ({}, cosine {}). "
            text += say(inexact, best, number(others[best], 2), cosine)
        else:
            text += say("every algorithm measured here is exact. ")
    return text


def _table(results: StudyResults, rows: pl.DataFrame, names: Sequence[str]) -> Table:
    groups: list[tuple[Text, list[Sequence[Text]]]] = []
    refused = rows.filter(quantity="not_applicable")
    for cell, some in results.by_cell(rows):
        for length in some["x"].unique().sort():
            at = some.filter(x=length)
            lines: list[Sequence[Text]] = []
            for name in names:
                why = refused.filter(cell=cell, group=name, x=length)
                if why.height:
                    lines.append(
                        [name, *["–"] * 5, say('<span title="{}">does not apply</span>', why["note"][0])]
                    )
                    continue
                draws = _value(at, name, "draws")
                mean = number(_value(at, name, "error_of_mean"), 2) if draws > 1 else ""
                errors = [spread(_values(at, name, q), log=q == "error") for q in ("cosine", "error")]
                costs = [with_unit(_value(at, name, cost), unit) for cost, (_, unit) in COSTS.items()]
                lines.append([name, *errors, mean, *costs, f"{draws:.0f} draws" if draws > 1 else ""])
            groups.append((say("{}, T = {}", cell, int(length)), lines))
    numbers = ("cosine", "error", "error of the mean", *(name for name, _ in COSTS.values()))
    return Table("Table of gradient algorithms", columns(["algorithm"], numbers, [""]), groups)


SECTION = Section(NAME, "Gradient algorithms", view, MEASUREMENT)
