"""Measure the error of the gradient by length, dtype and source."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.probes import bind, precision_error
from seqjax.study.experiment import MOMENTS, Experiment
from seqjax.study.measurement import Measurement
from seqjax.study.models import representatives
from seqjax.study.presets import SIZES
from seqjax.study.rows import Part, Row, row
from seqjax.study.settings import Settings

NAME = "precision"
SOURCES = ("inputs", "parameters", "state", "products", "accumulation")


def parts(settings: Settings) -> Iterable[Part]:
    """Return one part per cell, at the greatest length."""
    cells = representatives(settings.cells, SIZES[settings.preset].precision_cells)
    return [Part(NAME, cell, max(settings.lengths), 0) for cell in cells]


def work(settings: Settings, part: Part) -> float:
    """Compilation takes most of the time: per length one program for the reference, and one per dtype."""
    sizes = SIZES[settings.preset]
    return 1.2 * len(sizes.precision_lengths) * (1 + len(sizes.precision_dtypes))


def measure(experiment: Experiment, part: Part) -> Iterable[Row]:
    """Yield the error of the gradient with respect to the trained layer's params, for a loss of its last output."""
    cell, longest, sizes = part.cell or "", part.length or 0, SIZES[experiment.settings.preset]
    inner = experiment.inner(
        cell, longest, part.seed or 0, MOMENTS[-1], batch_size=min(4, experiment.settings.batch_size)
    )
    lengths = sorted({min(length, longest) for length in sizes.precision_lengths})
    with jax.enable_x64(True):
        params, xs = jax.tree.map(_double, (inner.params, inner.xs))
        found = precision_error(
            bind(inner.layer, params),
            lambda ys, _: jnp.mean(jnp.square(ys[-1]), -1),
            xs,
            dtypes=sizes.precision_dtypes,
            lengths=lengths,
        )
    for each in found:
        at: dict[str, Any] = {"group": each.dtype, "x": float(each.length)}
        for name in ("error", "cosine", "vanished", *SOURCES):
            yield row(name, getattr(each, name), **at)


def _double(array: jax.Array) -> jax.Array:
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return array.astype(jnp.complex128)
    return array.astype(jnp.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


MEASUREMENT = Measurement(NAME, parts, work, measure)
