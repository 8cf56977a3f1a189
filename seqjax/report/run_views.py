"""The views of a training's page: how what the instruments measured changes from step to step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from seqjax.report.aggregate import Array, thin
from seqjax.report.charts import Axis, Series, chart, decade_limits
from seqjax.report.content import Block, Caption, Figure, Note, Panel, Text, View, figure_of, listed, say
from seqjax.report.drawing import float32_marks, label_of, limits, quarters, zero_line
from seqjax.report.heat import CEILING, FLOOR, color_bar, heat_map
from seqjax.report.results import Profile, StudyResults, values
from seqjax.report.text import number, ten
from seqjax.training.curves import thinned
from seqjax.training.evaluation import EVALUATION

LINES = 5
"""The largest number of lines in a chart; of more, those are drawn that are evenly spread."""
MODEL = 0
"""The place of the trained model, whose hue all lines have; they differ by dashes and markers."""
STEPS = "training step"
LOSS = "instrument"
"""Stands in the column ``loss`` for the loss of an instrument, which has no name."""


def losses(metrics: Sequence[Mapping[str, Any]]) -> View:
    """Show the loss and the norm of the gradient by training step, with evaluations."""
    panels: list[Panel] = []
    for name in ("loss", "gradient_norm"):
        series = []
        for place, (key, label, marks) in enumerate(
            ((name, "training", "line"), (EVALUATION + name, "held out", "both"))
        ):
            points = [(line["step"], line[key]) for line in metrics if isinstance(line.get(key), int | float)]
            if points:
                steps, found = zip(*thinned(points), strict=True)
                series.append(Series(label, steps, found, MODEL, marks=marks, pattern=place))
        if series:
            title = name.replace("_", " ")

            panels.append(
                chart(
                    series,
                    f"run-{name}",
                    title=title,
                    x=Axis(STEPS),
                    y=Axis(title),
                    label=f"{title} by {STEPS}.",
                )
            )
    if not panels:
        return View("", [Note("The log has no losses.", muted=True)])
    caption = Caption(
        "The mean loss and the norm of the gradient of a batch, and the loss of held-out data.",
        "From metrics.jsonl; the norm is that before clipping.",
        _from_to("The loss", _ends(metrics, "loss"))
        + _from_to(" The held-out loss", _ends(metrics, EVALUATION + "loss")),
    )
    return View("", [figure_of("By training step", panels, caption)])


def profiles(results: StudyResults) -> View:
    """Show the norm of the gradient by time step and training step, its decay with the lag, and horizons."""
    blocks: list[Block] = []
    for length, found in results.profiles(LOSS).items():
        blocks += [_heat(results, length, found), _decay(results, length, found)]
    intro = say(
        "The norm ‖∂<i>L</i>/∂<i>h</i><sub>t</sub>‖ of the gradient of the instrument's loss with respect to the whole "
        "carry that enters step t. Norms are geometric means over the sequences of the batch."
    )
    return View(intro, blocks)


def _heat(results: StudyResults, length: int, found: Sequence[Profile]) -> Figure:
    pooled = np.concatenate([profile.iqm.ravel() for profile in found])
    scale = limits(pooled, FLOOR, CEILING)
    panels = [heat_map(p, scale, f"run-heat-T{length}-{results.files[p.cell]}") for p in found]
    falls = [(profile.cell, _fall(profile.iqm[0]), _fall(profile.iqm[-1])) for profile in found]
    known = [each for each in falls if all(map(math.isfinite, each[1:]))]
    conclusion = listed(
        say("for <b>{}</b> from {} to {}", name, ten(f"{first:.1f}"), ten(f"{last:.1f}"))
        for name, first, last in known
    )
    caption = Caption(
        say(
            "The norm by time step (across) and training step (upwards, one row per measurement). The scale goes from "
            "{} to {}.",
            ten(scale[0]),
            ten(scale[1]),
        ),
        "The adjoint is computed step by step in the log domain, so norms far below the smallest float are exact.",
        say("The norm at the first time step over that at the last goes {}.", conclusion)
        if known
        else say("Some norms are exactly zero."),
    )
    return Figure(
        say("During training, T = {}", length),
        panels,
        caption,
        [color_bar(pooled, scale, f"run-scale-T{length}")],
    )


def _fall(log10: Array) -> float:
    return float(log10[0] - log10[-1])


def _decay(results: StudyResults, length: int, found: Sequence[Profile]) -> Block:
    panels = []
    for profile in found:
        name, lags = results.files[profile.cell], np.arange(profile.length)
        shown = thin(len(profile.steps), LINES)
        lines = np.where(np.isfinite(profile.iqm), profile.iqm, np.nan)[:, ::-1]
        span = decade_limits(lines[shown])
        panels.append(
            chart(
                [
                    Series(f"step {profile.steps[row]}", lags, lines[row], MODEL, pattern=i)
                    for i, row in enumerate(shown)
                ],
                f"run-decay-T{length}-{name}",
                title=f"{label_of(profile.cell)}, by lag",
                x=Axis(
                    "lag: steps back from the last",
                    limits=(0, max(length - 1, 1)),
                    ticks=quarters(length),
                ),
                y=Axis("gradient norm", "decades", span),
                label=f"Gradient norm against the lag of {profile.cell} at training steps.",
                draw=lambda axes, span=span: float32_marks(axes, span[0]),  # type: ignore[misc]
            )
        )
        rows = results.rows("training", cell=profile.cell, length=length)
        reach = {f"lag {share} %": rows.filter(quantity=f"lag_{share}") for share in (50, 90)}
        panels.append(
            over_training(
                reach, f"run-reach-T{length}-{name}", f"{label_of(profile.cell)}, horizons", "steps"
            )
        )
    changes = Markup(" ").join(
        _from_to(
            f"The lag of 90 % of {p.cell}",
            _first_and_last(results.rows("training", cell=p.cell, quantity="lag_90")),
        )
        for p in found
    )
    caption = Caption(
        "Left: the norm against the lag at some training steps. Right: the lags within which 50\u00a0% and 90\u00a0% "
        "of the summed norm lie.",
        "From the same profiles. Horizons are those of a loss at the last step.",
        changes or "No horizon is known.",
    )
    return figure_of(say("Decay with distance, T = {}", length), panels, caption)


def exponents(results: StudyResults) -> View:
    """Show the Lyapunov exponents by training step."""
    rows = results.rows("lyapunov")
    panels, ends = [], []
    for cell, some in results.by_cell(rows):
        found = some.filter(quantity="exponent")
        count = int(found["t"].max()) + 1  # type: ignore[arg-type]
        lines = {f"λ{i + 1}": found.filter(t=int(i)) for i in thin(count, LINES)}
        name = f"run-lyapunov-{results.files[cell]}"
        panels.append(over_training(lines, name, label_of(cell), "λ, nats per step", zero_line))
        ends.append(_from_to(f"The largest exponent of {cell}", _first_and_last(found.filter(t=0))))
    caption = Caption(
        "The largest exponents, at most five of them, by training step.",
        "Along the sequences of the batch; means over the sequences.",
        Markup(" ").join(ends),
    )
    intro = say(
        "The exponents λ<sub>i</sub> are the mean rates, in nats per step, at which small differences of the state "
        "grow (above 0) or shrink (below 0). A largest exponent above 0 means that gradients explode; one far below 0 "
        "means that they vanish."
    )
    return View(intro, [figure_of("By training step", panels, caption)])


def singular(results: StudyResults) -> View:
    """Show the singular values of the Jacobian over the largest lag by training step."""
    rows = results.rows("singular", quantity="log_singular_value")
    panels, ends = [], []
    for cell, some in results.by_cell(rows):
        lag = some["x"].max()
        found = some.filter(x=lag).with_columns(pl.col("value") / math.log(10))
        count = int(found["t"].max()) + 1  # type: ignore[arg-type]
        lines = {f"σ{i + 1}": found.filter(t=int(i)) for i in thin(count, LINES)}
        title = f"{label_of(cell)}, {number(float(lag))} steps"  # type: ignore[arg-type]
        panels.append(
            over_training(lines, f"run-singular-{results.files[cell]}", title, "log₁₀ σ", zero_line)
        )
        ends.append(_from_to(f"The log₁₀ of the largest value of {cell}", _first_and_last(found.filter(t=0))))
    caption = Caption(
        "Singular values of the Jacobian over the largest lag that was measured, by training step.",
        "Means of the logarithm over the sequences of the batch.",
        Markup(" ").join(ends),
    )
    return View("", [figure_of("By training step", panels, caption)])


def others(results: StudyResults, rows: pl.DataFrame) -> View:
    """Show any other quantity by training step, one panel each."""
    panels, ends = [], []
    for number_of, (key, some) in enumerate(rows.group_by("part", "quantity", maintain_order=True)):
        part, quantity = map(str, key)
        places = some.select("x", "t").unique(maintain_order=True).rows()
        lines = {}
        for place in thin(len(places), LINES):
            x, t = places[place]
            same = pl.col("x").eq_missing(pl.lit(x, pl.Float64)) & pl.col("t").eq_missing(pl.lit(t, pl.Int32))
            shown = ", ".join(f"{each:g}" for each in (x, t) if each is not None)
            lines[f"at {shown}" if shown else quantity] = some.filter(same)
        title = part if quantity == "value" else f"{part}: {quantity}"
        panels.append(over_training(lines, f"run-other-{number_of}", label_of(title, 40), label_of(quantity)))
        if len(places) == 1:
            ends.append(_from_to(title, _first_and_last(some)))
    caption = Caption(
        "Every other quantity by training step; of a quantity with many values, five that are evenly spread.",
        "By functions of the user.",
        Markup(" ").join(ends) or "See the lines.",
    )
    return View("", [figure_of("By training step", panels, caption)])


RUN_VIEWS: dict[str, tuple[str, Callable[[StudyResults], View]]] = {
    "training": ("Gradient norms", profiles),
    "lyapunov": ("Lyapunov spectra", exponents),
    "singular": ("Singular values of the Jacobian", singular),
}
"""The title and the view of each section of rows."""


def over_training(
    lines: Mapping[str, pl.DataFrame], name: str, title: str, y: str, draw: Callable[[Any], Any] | None = None
) -> Panel:
    """Draw one line per name: the values of its rows by training step."""
    series = [
        Series(
            label,
            rows.sort("training_step")["training_step"].to_numpy(),
            values(rows, "training_step"),
            MODEL,
            marks="both",
            pattern=i,
        )
        for i, (label, rows) in enumerate(lines.items())
    ]
    label = f"{title} by {STEPS}: {', '.join(lines)}."
    return chart(series, name, title=title, x=Axis(STEPS), y=Axis(y), label=label, draw=draw)


def _first_and_last(rows: pl.DataFrame) -> tuple[float, float] | None:
    found = values(rows, "training_step")
    return None if len(found) < 2 else (float(found[0]), float(found[-1]))


def _ends(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float] | None:
    found = [float(line[key]) for line in metrics if isinstance(line.get(key), int | float)]
    return None if len(found) < 2 else (found[0], found[-1])


def _from_to(what: str, ends: tuple[float, float] | None) -> Text:
    return (
        Markup("")
        if ends is None
        else say(
            "{} goes from {} to {}.", what, *(f"{end:g}" if end.is_integer() else number(end) for end in ends)
        )
    )
