"""Show the error of the gradient against the length, by dtype, and its sources."""

import math
from collections.abc import Sequence

import numpy as np
import polars as pl

from seqjax.probes import longest_time_constant
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.content import Caption, Panel, Table, Text, View, bold, columns, figure_of, listed, say
from seqjax.report.results import StudyResults, values
from seqjax.report.section import Section
from seqjax.report.text import file_names, number, percent
from seqjax.study.sections.precision import MEASUREMENT, NAME, SOURCES


def view(results: StudyResults) -> View:
    """Show error against length, a panel per dtype, and the sources of the error at the greatest length."""
    rows = results.rows(NAME)
    dtypes = list(rows["group"].unique(maintain_order=True))
    reach = listed(say("{}: {} steps", d, number(longest_time_constant(d), 4)) for d in dtypes)
    intro = say(
        "The error is the distance of the gradient in a narrow dtype from the gradient in float64, relative to the "
        "norm of the latter. At an error of 1 no digit of the gradient is right. The longest time constant that a "
        "decay in each dtype can express: {}.",
        reach,
    )
    panels = [_panel(results, rows, dtype, file) for dtype, file in file_names(dtypes).items()]
    caption = Caption(
        "Relative error of the gradient with respect to the parameters against the length T, one line per cell, a "
        "panel per dtype. Markers that would cover each other stand side by side.",
        say(
            "The recurrent layer after training, on the data. The loss is the mean square of its last output; the "
            "reference is the same loop in float64. Seed 0."
        )
        + results.left_out(rows),
        _conclusion(results, rows, dtypes),
    )
    return View(intro, [figure_of("Error by dtype", panels, caption), _table(results, rows, dtypes)])


def _panel(results: StudyResults, rows: pl.DataFrame, dtype: str, file: str) -> Panel:
    some = rows.filter(group=dtype, quantity="error").sort("x")
    series = []
    for cell, found in results.by_cell(some):
        x, y = found["x"].to_numpy(), values(found, "x")
        y = np.where(y > 0, y, np.nan)
        series.append(Series(cell, x, y, results.places[cell], cell, marks="both"))
    ticks = sorted(some["x"].unique())
    return chart(
        series,
        f"precision-{file}",
        title=dtype,
        x=Axis("length T, steps", "log", ticks=ticks, names=[f"{t:.0f}" for t in ticks]),
        y=Axis("relative error", "log"),
        label=f"Relative error of the gradient in {dtype} against T: {', '.join(s.name for s in series)}.",
    )


def _at(rows: pl.DataFrame, dtype: str, quantity: str) -> float:
    """Return the value at the greatest length."""
    found = values(rows.filter(group=dtype, quantity=quantity), "x")
    return float(found[-1]) if found.size else math.nan


def _conclusion(results: StudyResults, rows: pl.DataFrame, dtypes: Sequence[str]) -> Text:
    text = say("")
    for dtype in dtypes:
        errors = {cell: _at(some, dtype, "error") for cell, some in results.by_cell(rows)}
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
            text += say("The error is one half or more for {}. ", listed(lost))
    return text or say("No error is known.")


def _table(results: StudyResults, rows: pl.DataFrame, dtypes: Sequence[str]) -> Table:
    groups: list[tuple[Text, list[Sequence[Text]]]] = []
    for dtype in dtypes:
        lines: list[Sequence[Text]] = []
        for cell, some in results.by_cell(rows):
            found = [_at(some, dtype, name) for name in ("error", "cosine", *SOURCES)]
            numbers = [number(value, 3 if i == 1 else 2) for i, value in enumerate(found)]
            lines.append([bold(cell), *numbers, percent(_at(some, dtype, "vanished"))])
        groups.append((dtype, lines))
    heads = columns(["cell"], ["error", "cosine", *(f"from {name}" for name in SOURCES), "vanished"])
    return Table("Where the error at the greatest length comes from", heads, groups)


SECTION = Section(NAME, "Precision against the length", view, MEASUREMENT)
