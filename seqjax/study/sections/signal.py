"""Measure gates, and the signal and noise of gradients."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from seqjax.base import Batch, Diagonal, Gated, Matrix
from seqjax.cells import REGISTRY
from seqjax.gradients import last_step
from seqjax.layers.recurrent import recurrent
from seqjax.probes import (
    adjoint_signal_to_noise,
    bind,
    gate_statistics,
    gradient_noise_scale,
    per_example_gradients,
)
from seqjax.study.experiment import MOMENTS, Experiment
from seqjax.study.measurement import Measurement
from seqjax.study.models import representatives
from seqjax.study.presets import SIZES
from seqjax.study.rows import Part, Row, row
from seqjax.study.settings import Settings
from seqjax.user_model import is_own

NAME = "signal"
LEVELS = (0.05, 0.5, 0.95)


def parts(settings: Settings) -> Iterable[Part]:
    """Return one part per cell, at the smallest length and seed 0."""
    cells = representatives(settings.cells, SIZES[settings.preset].signal_cells)
    return [Part(NAME, cell, min(settings.lengths), 0) for cell in cells]


def work(settings: Settings, part: Part) -> float:
    """Compilation takes most of the time."""
    return 5.0


def measure(experiment: Experiment, part: Part) -> Iterable[Row]:
    """Yield decays and gates for the data, and signal to noise across examples; "training" measures clipping."""
    cell, length, seed = part.cell or "", part.length or 0, part.seed or 0
    examples = SIZES[experiment.settings.preset].signal_examples
    more = experiment.like(dataclasses.replace(experiment.settings, batch_size=examples))
    for place, moment in enumerate(MOMENTS):
        at: dict[str, Any] = {"training_step": place * experiment.settings.training_steps, "group": moment}
        params = experiment.params(cell, length, seed, moment)
        inner = more.inner_of(cell, length, params)
        yield from _gates(cell, experiment, inner, at)
    source, model = more.source(length), experiment.model(cell, length)
    xs, targets = source.probe[:2]
    loss = last_step(source.task.loss)

    def noise(params: Any) -> Any:
        bound, batch = bind(model, params), Batch(xs, targets)
        adjoint = adjoint_signal_to_noise(bound, loss, batch)
        gradients = per_example_gradients(bound, source.task.loss, batch)
        return [leaf.ratio for leaf in jax.tree.leaves(adjoint, is_leaf=_is_ratio)], gradient_noise_scale(
            gradients
        )

    ratios, scale = jax.device_get(
        experiment.jit(noise, length)(experiment.params(cell, length, seed, MOMENTS[-1]))
    )
    # For a carry of several leaves (c and h), the leaf with the largest ratio.
    best = np.nanmax(np.where(np.isfinite(ratios), ratios, np.nan), axis=0) if ratios else np.zeros(0)
    for t, value in enumerate(best):
        yield row("signal_to_noise", value, t=t)
    yield row("noise_scale", scale.noise_scale)
    yield row("examples", examples)


def _is_ratio(node: Any) -> bool:
    return hasattr(node, "ratio")


def _gates(cell: str, experiment: Experiment, inner: Any, at: dict[str, Any]) -> Iterable[Row]:
    made = None if is_own(cell) else REGISTRY[cell].make(experiment.settings.hidden_size)
    if made is None or not isinstance(made.recurrence, Gated | Diagonal | Matrix):
        yield row("not_measured", 0, **at, note="its gates cannot be identified")
        return
    run = experiment.keep(
        (NAME, cell),
        lambda: experiment.jit(
            lambda p, xs: gate_statistics(bind(recurrent(made), p), xs, quantiles=LEVELS), 2 * len(inner.xs)
        ),
    )
    found = jax.device_get(run(inner.params, inner.xs))
    for kind, values in (("gate", found.gates), ("decay", found.decays)):
        for place, each in enumerate(values):
            if each is None:
                continue
            leaf = f"{kind} {place}"
            yield row("share_open", each.share_open, **at, leaf=leaf)
            yield row("share_shut", each.share_shut, **at, leaf=leaf)
            for level, quantile, constant in zip(LEVELS, each.quantiles, each.time_constants, strict=True):
                yield row("quantile", quantile, **at, leaf=leaf, x=level)
                yield row("time_constant", constant, **at, leaf=leaf, x=level)


MEASUREMENT = Measurement(NAME, parts, work, measure)
