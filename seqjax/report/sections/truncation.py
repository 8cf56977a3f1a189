"""Show the bias of a truncated gradient against the window."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from seqjax.report.aggregate import band, count, interval, iqm, spread
from seqjax.report.charts import Axis, Series, chart
from seqjax.report.content import Caption, Panel, Table, Text, View, bold, columns, figure_of, listed, say
from seqjax.report.order import certainty
from seqjax.report.results import StudyResults, values
from seqjax.report.section import Section
from seqjax.study.sections.truncation import MEASUREMENT, NAME


def view(results: StudyResults) -> View:
    """Show bias and cosine against the window, and the windows that suffice."""
    rows = results.rows(NAME)
    intro = say(
        "Truncated backpropagation keeps the parts of the gradient that travel fewer than K steps. Its bias is the "
        "norm of the missing parts, divided by the norm of the full gradient."
    )
    steps = int(float(str(rows["x"].max())))
    panels = [_panel(results, rows, quantity, steps) for quantity in ("bias", "cosine")]
    needed = {
        cell: some.filter(quantity="window_10")["value"].to_list() for cell, some in results.by_cell(rows)
    }
    caption = Caption(
        say(
            "The bias, and the cosine of truncated and full gradient, against the window K. Lines are interquartile "
            "means over seeds (of the logarithm for the bias), with 95\u00a0% bootstrap intervals. At K = {} the two "
            "gradients differ by rounding only.",
            steps,
        ),
        say(
            "The gradient with respect to the recurrent parameters after training, split by lag. The loss is the mean "
            "square of all outputs over {} steps of the data.",
            steps,
        ),
        _conclusion(needed, steps),
    )
    lines: list[Sequence[Text]] = []
    for cell, some in results.by_cell(rows):
        windows = [values(some.filter(quantity=name), "seed") for name in ("window_10", "window_1")]
        lines.append([bold(cell), *(spread(found, counts=True) for found in windows)])
    heads = columns(["cell"], ["K for a bias of 10\u00a0%, steps", "K for 1\u00a0%, steps"])
    table = Table("Windows that suffice", heads, [("", lines)])
    return View(intro, [figure_of("Bias by window", panels, caption), table])


def _panel(results: StudyResults, rows: pl.DataFrame, quantity: str, steps: int) -> Panel:
    series = []
    for cell, some in results.by_cell(rows.filter(quantity=quantity)):
        seeds = {
            int(seed): values(found, "x")
            for (seed,), found in some.group_by("seed", maintain_order=True)  # type: ignore[misc]
        }
        curves = np.stack(list(seeds.values()))
        if quantity == "bias":  # spans decades
            curves = np.log(np.where(curves > 0, curves, np.nan))
        lines = [iqm(curves), *band(curves)]
        y, low, high = map(np.exp, lines) if quantity == "bias" else lines
        windows = np.arange(1, curves.shape[1] + 1)
        series.append(Series(cell, windows, y, results.places[cell], cell, low, high, seeds))
    # A window of all steps is exact up to rounding; with it the axis would span twice as many decades.
    shown = [s.y[:-1] for s in series if np.isfinite(s.y[:-1]).any()]
    lowest = min(map(np.nanmin, shown), default=1e-3)
    return chart(
        series,
        f"truncation-{quantity}",
        title=quantity,
        x=Axis("window K, steps", limits=(1, max(steps, 2))),
        y=Axis("relative bias", "log", limits=(max(lowest, 1e-6) / 1.5, 2))
        if quantity == "bias"
        else Axis("cosine"),
        label=f"{quantity} of the truncated gradient against the window, by cell.",
    )


def _conclusion(needed: dict[str, list[float]], steps: int) -> Text:
    found = {cell: interval(values) for cell, values in needed.items() if values and None not in values}
    means = {cell: each.estimate for cell, each in found.items()}
    if not means:
        return "No bias is known."
    least, most = min(means, key=lambda c: means[c]), max(means, key=lambda c: means[c])
    text = say("A bias below 10\u00a0% needs K = {} for <b>{}</b>", count(means[least]), least)
    if most != least:
        text += say(" and K = {} for <b>{}</b>, of {} steps", count(means[most]), most, steps)
    text += say(". ") + certainty(found, least)
    beyond = [cell for cell, value in means.items() if value > steps / 2]
    return text + (
        say("For {} this is more than half of the sequence.", listed(beyond))
        if beyond
        else "For every cell half of the sequence is enough."
    )


SECTION = Section(NAME, "Truncation bias", view, MEASUREMENT)
