"""Show memory, arithmetic and time against the length, by method: fitted exponents and crossovers."""

import math
from collections.abc import Sequence

import polars as pl

from seqjax.report.charts import Axis, Series, chart
from seqjax.report.content import Caption, Panel, Table, Text, View, bold, columns, figure_of, listed, say
from seqjax.report.results import StudyResults, values
from seqjax.report.section import Section
from seqjax.report.text import file_names, number
from seqjax.study.sections.scaling import MEASUREMENT, NAME

QUANTITIES = {"bytes": "memory", "flops": "operations", "seconds": "time"}
UNITS = {"bytes": "B", "seconds": "s"}


def view(results: StudyResults) -> View:
    """Show bytes and seconds by method, and a table of exponents and crossovers."""
    rows = results.rows(NAME)
    intro = say(
        "The cost of one gradient of a loss at the last step, for {} sequences of T steps and the recurrent layer "
        "alone. A power law T<sup>p</sup> is fitted to each quantity. Memory and time of backpropagation through time "
        "have p near 1; the memory of checkpoints has p near ½ or below.",
        results.settings.get("batch_size", "several"),
    )
    files = file_names(rows["group"].drop_nulls())
    panels = [
        panel
        for quantity in ("bytes", "seconds")
        for method, file in files.items()
        if (panel := _panel(results, rows, quantity, method, file))
    ]
    measured = say(
        "Memory is reported by the compiler, without noise. Times are medians over rounds in which the methods "
        "alternate. Operations in the table are counted from the program's equations, with loops multiplied out."
    )
    measured += results.left_out(rows)
    shows = (
        "Temporary memory and time of one gradient against the length T, a panel per method, both axes logarithmic. "
        "Markers that would cover each other stand side by side."
    )
    caption = Caption(shows, measured, _conclusion(results, rows))
    return View(intro, [figure_of("Cost against length", panels, caption), _table(results, rows)])


def _panel(results: StudyResults, rows: pl.DataFrame, quantity: str, method: str, file: str) -> Panel | None:
    some = rows.filter(pl.col("value") > 0, quantity=quantity, group=method)
    series = [
        Series(cell, found["x"], found["value"], results.places[cell], cell, marks="both")
        for cell, found in results.by_cell(some.sort("x"))
    ]
    if not series:
        return None
    ticks = sorted(some["x"].unique())
    return chart(
        series,
        f"scaling-{quantity}-{file}",
        title=f"{QUANTITIES[quantity]}, {method}",
        x=Axis("length T, steps", "log", ticks=ticks, names=[f"{t:.0f}" for t in ticks]),
        y=Axis(QUANTITIES[quantity], "log", unit=UNITS[quantity]),
        label=f"{QUANTITIES[quantity]} against T, {method}: {', '.join(s.name for s in series)}.",
        height=180,
    )


def _value(rows: pl.DataFrame, quantity: str, method: str) -> float:
    found = values(rows.filter(quantity=quantity, group=method), "x")
    return float(found[0]) if found.size else math.nan


def _table(results: StudyResults, rows: pl.DataFrame) -> Table:
    lines: list[Sequence[Text]] = []
    for cell, some in results.by_cell(rows):
        for method in some["group"].drop_nulls().unique(maintain_order=True):
            if " to " in method:
                continue
            exponents: list[Text] = []
            for quantity in QUANTITIES:
                p, error = (_value(some, f"{quantity}_exponent{suffix}", method) for suffix in ("", "_error"))
                exponents.append(number(p, 2) + ("" if math.isnan(error) else f" ± {number(error, 1)}"))
            lines.append([bold(cell), method, *exponents, _crossings(some, method)])
    numbers = [f"p of {name}" for name in QUANTITIES.values()]
    heads = columns(["cell", "method"], numbers, ["becomes the cheaper at T"])
    return Table("Exponents by method", heads, [("", lines)])


def _crossings(rows: pl.DataFrame, method: str) -> Text:
    texts = []
    for quantity in ("bytes", "seconds"):
        crossing = rows.filter(quantity=f"{quantity}_crossover")
        for pair, length in crossing.select("group", "value").iter_rows():
            before, after = pair.split(" to ")
            if after == method:
                texts.append(say("{} ({}, than {})", number(length, 2), QUANTITIES[quantity], before))
    return listed(texts, ", ")


def _conclusion(results: StudyResults, rows: pl.DataFrame) -> Text:
    saved, slower = {}, {}
    for cell, some in results.by_cell(rows):
        longest = some["x"].max()
        last = some.filter(x=longest)
        plain = some["group"].drop_nulls()[0]
        pairs = [[_value(last, q, m) for m in (plain, "nested")] for q in ("bytes", "seconds")]
        if all(math.isfinite(v) and v > 0 for pair in pairs for v in pair):
            saved[cell], slower[cell] = pairs[0][0] / pairs[0][1], pairs[1][1] / pairs[1][0]
    if "nested" not in rows["group"]:
        exponents = [
            say("{} for <b>{}</b>", number(p, 2), cell)
            for cell, some in results.by_cell(rows)
            if math.isfinite(p := _value(some, "bytes_exponent", str(some["group"].drop_nulls()[0])))
        ]
        return say("Memory grows like T to the power {}. No checkpoints were measured.", listed(exponents))
    if not saved:
        return "Too few numbers to compare the methods."
    best = max(saved, key=lambda cell: saved[cell])
    text = say(
        "At T = {} nested checkpoints save most memory for <b>{}</b>: they take {} times less memory and {} times the "
        "time. ",
        int(float(str(rows["x"].max()))),
        best,
        number(saved[best], 2),
        number(slower[best], 2),
    )
    steep = [c for c, s in results.by_cell(rows) if _value(s, "bytes_exponent", "nested") > 0.75]
    if steep:
        return text + say("Their memory still grows almost like T for {}.", listed(steep))
    return text + "With checkpoints memory grows clearly slower than T for every cell here."


SECTION = Section(NAME, "Memory and time against the length", view, MEASUREMENT)
