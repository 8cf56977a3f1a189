"""Measure the singular values of the Jacobian over many steps."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from seqjax.probes import bind, singular_values
from seqjax.study.experiment import MOMENTS, Experiment
from seqjax.study.measurement import Measurement
from seqjax.study.presets import SIZES
from seqjax.study.rows import Part, Row, row
from seqjax.study.sections.lyapunov import state_size
from seqjax.study.settings import Settings

NAME = "singular"


def parts(settings: Settings) -> Iterable[Part]:
    """Return one part per cell and seed, at the greatest length."""
    length = max(settings.lengths)
    return [Part(NAME, cell, length, seed) for cell in settings.cells for seed in range(settings.seeds)]


def work(settings: Settings, part: Part) -> float:
    """The first seed compiles; each step takes a QR decomposition of the state."""
    steps = min(part.length or 0, SIZES[settings.preset].singular_steps)
    return (4.0 if part.seed == 0 else 0.0) + 2 * steps * (2 * settings.hidden_size) ** 3 * 2e-9


def measure(experiment: Experiment, part: Part) -> Iterable[Row]:
    """Yield log singular values of the product of the first tau Jacobians, before and after training."""
    cell, length, seed = part.cell or "", part.length or 0, part.seed or 0
    sizes = SIZES[experiment.settings.preset]
    steps = min(length, sizes.singular_steps)
    for place, moment in enumerate(MOMENTS):
        inner = experiment.inner(cell, length, seed, moment, batch_size=1)
        size = state_size(inner)
        if size > sizes.singular_state:
            yield row("not_measured", size, group=moment)
            continue
        run = experiment.keep(
            (NAME, cell),
            lambda: experiment.jit(
                lambda p, xs: singular_values(bind(inner.layer, p), xs),  # noqa: B023
                2 * experiment.settings.seeds * steps,
            ),
        )
        fan = jax.tree.map(np.asarray, run(inner.params, inner.xs[:steps]))
        at: dict[str, Any] = {"training_step": place * experiment.settings.training_steps, "group": moment}
        yield from (each | at for each in fan.rows())


MEASUREMENT = Measurement(NAME, parts, work, measure)
