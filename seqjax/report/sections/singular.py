"""Show the singular values of the Jacobian over many steps."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from seqjax.report.aggregate import band, interval, iqm, spread, spread_of_decades
from seqjax.report.charts import Axis, Series, chart, decade_limits
from seqjax.report.content import (
    Caption,
    Note,
    Panel,
    Table,
    Text,
    View,
    bold,
    columns,
    figure_of,
    listed,
    say,
)
from seqjax.report.drawing import label_of
from seqjax.report.order import certainty
from seqjax.report.results import Array, StudyResults, values
from seqjax.report.section import Section
from seqjax.report.text import decades, percent, plural
from seqjax.study.experiment import MOMENTS
from seqjax.study.sections.singular import MEASUREMENT, NAME

SHARES = {"largest": 0.0, "upper quarter": 0.25, "median": 0.5, "lower quarter": 0.75, "smallest": 1.0}


def view(results: StudyResults) -> View:
    """Show a fan per cell after training, and a table."""
    rows = results.rows(NAME)
    intro = say(
        "The Jacobian of τ steps, <i>M</i> = <i>J</i><sub>τ</sub> ⋯ <i>J</i><sub>1</sub>, scales each direction of the "
        "state by one of its singular values σ. If all σ stay near 1 (<i>dynamical isometry</i>), gradients keep their "
        "norm. If the fan opens, gradients survive in few directions only."
    )
    seeds = rows["seed"].n_unique()
    panels = [panel for cell, some in results.by_cell(rows) if (panel := _panel(results, cell, some))]
    left_out = rows.filter(quantity="not_measured")
    measured = say(
        "The recurrent layer on the first steps of a sequence of the data, after training. The product of Jacobians is "
        "stored as a graded factorization, so the smallest values are as accurate as the largest. Lines are "
        "interquartile means of the logarithm over {}, with 95\u00a0% bootstrap intervals.",
        plural(seeds, "seed"),
    )
    if left_out.height:
        sizes = {cell: int(some["value"][0]) for cell, some in results.by_cell(left_out)}
        measured += say(
            " Not measured, since their state is too large: {}.",
            listed(f"{c} ({n} numbers)" for c, n in sizes.items()),
        )
    shows = (
        "The largest and smallest singular values and the quartiles between them, against the number of steps τ, a "
        "panel per cell."
    )
    blocks: list[Any] = []
    if panels:
        caption = Caption(shows, measured, _conclusion(results, rows))
        blocks = [figure_of("Fans after training", panels, caption), _table(results, rows)]
    return View(intro, blocks or [Note(measured)])


def _values(rows: pl.DataFrame, quantity: str, moment: str, tau: float) -> list[float]:
    return values(rows.filter(quantity=quantity, group=moment, x=tau), "seed").tolist()


def _fan(rows: pl.DataFrame, moment: str) -> tuple[Array, Array]:
    """Return lags, and log10 singular values ``[seed, tau, S]``."""
    some = rows.filter(quantity="log_singular_value", group=moment)
    if some.is_empty():
        return np.zeros(0), np.zeros((0, 0, 0))
    taus, logs = some["x"].unique().sort().to_numpy(), values(some, "seed", "x", "t") / math.log(10)
    return taus, logs.reshape(some["seed"].n_unique(), len(taus), -1)


def _panel(results: StudyResults, cell: str, rows: pl.DataFrame) -> Panel | None:
    taus, logs = _fan(rows, MOMENTS[-1])
    if not taus.size:
        return None
    last, series = logs.shape[2] - 1, []
    for place, (name, share) in enumerate(SHARES.items()):
        some = logs[:, :, round(share * last)]
        hue = results.places[cell]
        series.append(Series(name, taus, iqm(some), hue, None, *band(some), marks="both", pattern=place))
    limits = decade_limits(logs, -60, 30)
    ticks = [t for t in taus if math.log2(t) % 1 == 0][:: 2 if len(taus) > 6 else 1]
    return chart(
        series,
        f"singular-{results.files[cell]}",
        title=label_of(cell),
        x=Axis("τ, steps", "log", ticks=ticks, names=[f"{t:.0f}" for t in ticks]),
        y=Axis("singular value", "decades", limits),
        label=f"Singular values of the Jacobian of tau steps, {cell}: largest, quartiles, smallest.",
        height=170,
        cell=cell,
    )


def _conclusion(results: StudyResults, rows: pl.DataFrame) -> Text:
    last = float(str(rows["x"].max()))
    opened, conditions = {}, {}
    for cell, some in results.by_cell(rows):
        condition = [v for v in _values(some, "log_condition", MOMENTS[-1], last) if not math.isnan(v)]
        if condition:
            conditions[cell] = interval(condition)
            opened[cell] = conditions[cell].estimate / math.log(10)
    if not opened:
        return "No fan could be measured."
    narrow, wide = min(opened, key=lambda c: opened[c]), max(opened, key=lambda c: opened[c])
    isometry = {
        cell: interval(_values(some, "isometry", MOMENTS[-1], last))
        for cell, some in results.by_cell(rows)
        if cell in opened
    }
    shares = {cell: found.estimate for cell, found in isometry.items()}
    best = max(opened, key=lambda c: np.nan_to_num(shares[c], nan=-1.0))
    text = say("Over {} steps the fan of <b>{}</b> ", int(last), narrow)
    text += (
        say("stays narrowest (condition number {})", _condition(opened[narrow]))
        + say(" and that of <b>{}</b> opens widest ({}). ", wide, _condition(opened[wide]))
        if wide != narrow
        else say("opens to a condition number of {}. ", _condition(opened[narrow]))
    )
    text += certainty(conditions, narrow)
    if shares[best] > 0:
        most = say(
            "<b>{}</b> keeps most directions within a factor of two of 1: {}. ", best, percent(shares[best])
        )
        return text + most + certainty(isometry, best)
    return text + "No cell keeps a direction within a factor of two of 1 in most runs."


def _condition(value: float) -> Text:
    return "∞: the product is singular" if math.isinf(value) else decades(value)


def _table(results: StudyResults, rows: pl.DataFrame) -> Table:
    last = float(str(rows["x"].max()))
    lines: list[Sequence[Text]] = []
    for cell, some in results.by_cell(rows):
        for moment in MOMENTS:
            taus, logs = _fan(some, moment)
            if not taus.size:
                continue
            condition = [v / math.log(10) for v in _values(some, "log_condition", moment, last)]
            sizes = [spread_of_decades(found) for found in (logs[:, -1, 0], logs[:, -1, -1], condition)]
            ratio = spread(_values(some, "participation_ratio", moment, last))
            near = spread(_values(some, "isometry", moment, last), factor=100.0)
            lines.append([bold(cell), moment, *sizes, ratio, f"of {logs.shape[2]}", near])
    numbers = ("largest σ", "smallest σ", "condition number", "participation ratio")
    heads = columns(["cell", "measured"], numbers, ["directions"], ["near 1, %"])
    label, group = f"Table of singular values at tau = {last:.0f}", say("τ = {}", int(last))
    return Table(label, heads, [(group, lines)])


SECTION = Section(NAME, "Singular values over many steps", view, MEASUREMENT)
