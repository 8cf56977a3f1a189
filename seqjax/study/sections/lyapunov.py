"""Measure Lyapunov spectra along trajectories of the data, and the determinant that checks them."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from seqjax.probes import bind, lyapunov_spectrum
from seqjax.study.experiment import MOMENTS, Experiment, Inner
from seqjax.study.measurement import Measurement
from seqjax.study.presets import SIZES
from seqjax.study.rows import Part, Row, row
from seqjax.study.settings import Settings

NAME = "lyapunov"
LARGEST = 12
"""The number of exponents for states that are too large for a whole spectrum."""


def parts(settings: Settings) -> Iterable[Part]:
    """Return one part per cell and seed, at the greatest length."""
    length = max(settings.lengths)
    return [Part(NAME, cell, length, seed) for cell in settings.cells for seed in range(settings.seeds)]


def work(settings: Settings, part: Part) -> float:
    """The first seed compiles; each step takes a QR decomposition."""
    tangents = min(2 * settings.hidden_size, SIZES[settings.preset].lyapunov_whole)
    return (4.0 if part.seed == 0 else 0.0) + 2 * (part.length or 0) * tangents**2 * 1e-7


def measure(experiment: Experiment, part: Part) -> Iterable[Row]:
    """Yield exponents of the recurrent layer on one sequence of the data, before and after training."""
    cell, length, seed = part.cell or "", part.length or 0, part.seed or 0
    warm_up = length // 8
    for place, moment in enumerate(MOMENTS):
        inner = experiment.inner(cell, length, seed, moment, batch_size=1)
        size = state_size(inner)
        k = size if size <= SIZES[experiment.settings.preset].lyapunov_whole else LARGEST

        def spectrum(params: Any, xs: Any) -> Any:
            step = bind(inner.layer, params)  # noqa: B023
            whole = k == size  # noqa: B023
            return lyapunov_spectrum(step, xs, k=k, warm_up=warm_up, log_determinant=whole)  # noqa: B023

        run = experiment.keep(
            (NAME, cell), lambda: experiment.jit(spectrum, 2 * experiment.settings.seeds * length)
        )
        found = jax.tree.map(lambda a: np.asarray(a)[0], run(inner.params, inner.xs))
        at: dict[str, Any] = {"training_step": place * experiment.settings.training_steps, "group": moment}
        yield from (each | at for each in found.rows())
        yield row("state_size", size, **at)


def state_size(inner: Inner) -> int:
    """Return the number of real numbers in the carry of one sequence."""
    carry = jax.eval_shape(inner.layer.initial_carry, inner.params, inner.xs[0])
    batch = inner.xs.shape[1]
    sizes = [
        leaf.size // batch * (2 if np.issubdtype(leaf.dtype, np.complexfloating) else 1)
        for leaf in jax.tree.leaves(carry)
        if np.issubdtype(leaf.dtype, np.inexact) or leaf.dtype == jax.numpy.bfloat16
    ]
    return sum(sizes)


MEASUREMENT = Measurement(NAME, parts, work, measure)
