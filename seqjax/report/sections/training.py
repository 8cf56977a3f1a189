"""Show heat maps of the gradient with respect to each step's state, from initialization to the end of training."""

from typing import Any

import numpy as np

from seqjax.report.content import Caption, Figure, Fold, Note, View, listed, say
from seqjax.report.drawing import FLOAT32_ZERO, limits
from seqjax.report.heat import CEILING, FLOOR, color_bar, heat_map
from seqjax.report.results import Array, Profile, StudyResults
from seqjax.report.section import Section
from seqjax.report.text import percent, ten
from seqjax.study.sections.training import LOSSES, MEASUREMENT, NAME


def view(results: StudyResults) -> View:
    """Show heat maps by length, those of the mean loss in a fold."""
    last, mean = (_figures(results, loss) for loss in LOSSES)
    if not last:
        return View("", [Note("No profiles of the last loss have been measured yet.", muted=True)])
    intro = say(
        "The norm ‖∂<i>L</i>/∂<i>h</i><sub>t</sub>‖ of the whole carry for the loss at the last step. The horizontal "
        "axis is the step t, with the loss at the right edge. Each row is a snapshot at one training step; rows are "
        "evenly spaced. Where a map darkens quickly to the left, the cell can learn from the recent past only. "
        "Differences between rows are the effect of training."
    )
    if not mean:
        return View(intro, last)
    note = Note(
        "Here the state at step t collects gradients from every later step, so the right edge collects from few steps."
    )
    return View(intro, [*last, Fold("The same for the mean loss over all steps", [note, *mean])])


def _figures(results: StudyResults, loss: str) -> list[Figure]:
    return [_figure(results, loss, length, profiles) for length, profiles in results.profiles(loss).items()]


def _figure(results: StudyResults, loss: str, length: int, profiles: list[Profile]) -> Figure:
    means = {profile.cell: profile.iqm for profile in profiles}
    pooled = np.concatenate([mean.ravel() for mean in means.values()])
    scale = limits(pooled, FLOOR, CEILING)
    panels = [heat_map(p, scale, f"heat-{loss}-T{length}-{results.files[p.cell]}") for p in profiles]
    bar = color_bar(pooled, scale, f"scale-{loss}-T{length}")
    what = "at the last step alone" if loss == "last" else "averaged over all steps"
    shows = say("‖∂<i>L</i>/∂<i>h</i><sub>t</sub>‖ by step and training step for a loss {}. ", what)
    shows += say("All maps at this length share this scale, from {} to {}.", ten(scale[0]), ten(scale[1]))
    finite = pooled[np.isfinite(pooled)]
    if finite.size and finite.min() < scale[0]:
        shows += " Smaller norms are drawn in its darkest shade."
    if finite.size and finite.max() > scale[1]:
        shows += " Larger norms are drawn in its brightest shade."
    if finite.size < pooled.size:
        shows += " Hatched grey: the gradient of every example is exactly zero for some seed, or the step is masked."
    measured = say(
        "The adjoint is computed step by step in the log domain. Norms are geometric means over the examples of one "
        "fixed batch, then interquartile means of the logarithm over {}.",
        _seeds(profiles),
    )
    caption = Caption(shows, measured, _conclusion(means, pooled))
    return Figure(say("T = {}", length), panels, caption, [bar], length)


def _conclusion(means: dict[str, Array], pooled: Array) -> Any:
    falls = sorted((_fall(mean), cell) for cell, mean in means.items() if np.isfinite(_fall(mean)))
    text = say("")
    if falls:
        most, least = ((ten(f"{fall:.1f}"), cell) for fall, cell in (falls[-1], falls[0]))
        ratio = "At the last snapshot the norm at the first step is {} times the norm at the last step for <b>{}</b>"
        text += say(ratio, *most) + (say(", {} times for <b>{}</b>. ", *least) if falls[1:] else say(". "))
    if np.any(pooled < FLOAT32_ZERO):
        lost = {cell: percent(float((mean < FLOAT32_ZERO).mean())) for cell, mean in means.items()}
        shares = listed((say("<b>{}</b>\u00a0{}", *each) for each in lost.items()), ", ")
        return text + say("Share of the map below the smallest float32: {}.", shares)
    return text + "No norm lies below the smallest float32."


def _fall(mean: Array) -> float:
    first, last = mean[-1, [0, -1]]
    return float(first - last)


def _seeds(profiles: list[Profile]) -> str:
    count = max(profile.values.shape[0] for profile in profiles)
    return f"{count} seeds" if count > 1 else "one seed"


SECTION = Section(NAME, "Gradient norms during training", view, MEASUREMENT)
