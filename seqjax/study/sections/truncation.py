"""Measure the bias of a truncated gradient, by the window."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.probes import bind, truncation_bias
from seqjax.study.experiment import MOMENTS, Experiment
from seqjax.study.measurement import Measurement
from seqjax.study.presets import SIZES
from seqjax.study.rows import Part, Row, row
from seqjax.study.settings import Settings

NAME = "truncation"


def parts(settings: Settings) -> Iterable[Part]:
    """Return one part per cell and seed, at the greatest length."""
    length = max(settings.lengths)
    return [Part(NAME, cell, length, seed) for cell in settings.cells for seed in range(settings.seeds)]


def work(settings: Settings, part: Part) -> float:
    """Time is quadratic in the number of steps."""
    steps = min(part.length or 0, SIZES[settings.preset].truncation_steps)
    return (2.5 if part.seed == 0 else 0.0) + steps**2 * 1e-4


def measure(experiment: Experiment, part: Part) -> Iterable[Row]:
    """Yield bias and cosine of the gradient truncated after K steps, for every K, after training."""
    cell, length = part.cell or "", part.length or 0
    steps = min(length, SIZES[experiment.settings.preset].truncation_steps)
    inner = experiment.inner(
        cell, length, part.seed or 0, MOMENTS[-1], batch_size=min(4, experiment.settings.batch_size)
    )
    run = experiment.keep(
        (NAME, cell),
        lambda: experiment.jit(
            lambda p, xs: truncation_bias(bind(inner.layer, p), _loss, xs),
            experiment.settings.seeds * steps,
        ),
    )
    found = jax.tree.map(np.asarray, run(inner.params, inner.xs[:steps]))
    for window, bias, cosine in zip(found.windows, found.bias, found.cosine, strict=True):
        yield row("bias", bias, x=float(window))
        yield row("cosine", cosine, x=float(window))
    yield row("window_10", found.window_10)
    yield row("window_1", found.window_1)


def _loss(ys: jax.Array, _: None) -> jax.Array:
    return jnp.mean(jnp.square(ys), -1)


MEASUREMENT = Measurement(NAME, parts, work, measure)
