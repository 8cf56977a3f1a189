"""Measure error, memory and time of gradient algorithms against exact backpropagation."""

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import gradients
from seqjax.base import Batch, Estimator
from seqjax.ops.vectors import as_vector
from seqjax.study.experiment import Experiment
from seqjax.study.measurement import Measurement
from seqjax.study.models import reads_tokens, representatives
from seqjax.study.presets import SIZES, Sizes
from seqjax.study.rows import Part, Row, row
from seqjax.study.settings import Settings
from seqjax.user_model import is_own

NAME = "algorithms"
DRAWS = 8
BATCH = 2


def algorithms(sizes: Sizes) -> dict[str, Estimator]:
    """Return the algorithms by name, the exact one first."""
    window = sizes.algorithms_lengths[0] // 2
    every = {
        "full BPTT": gradients.full_bptt(),
        f"truncated BPTT({window})": gradients.truncated_bptt(window),
        f"randomized BPTT({window})": gradients.randomized_truncated_bptt(window),
        "RTRL": gradients.rtrl(),
        "SnAp-1": gradients.snap(1),
        "UORO": gradients.uoro(),
        "KF-RTRL": gradients.kf_rtrl(),
        "RFLO": gradients.rflo(),
        "e-prop": gradients.eprop(),
    }
    few = ("full", "truncated", "RTRL", "UORO")
    return {name: each for name, each in every.items() if not sizes.algorithms_few or name.startswith(few)}


def parts(settings: Settings) -> Iterable[Part]:
    """Return one part per cell."""
    return [
        Part(NAME, cell) for cell in representatives(settings.cells, SIZES[settings.preset].algorithms_cells)
    ]


def work(settings: Settings, part: Part) -> float:
    """Compilation of each algorithm at each length takes most of the time."""
    sizes = SIZES[settings.preset]
    return 1.5 * len(algorithms(sizes)) * len(sizes.algorithms_lengths)


def measure(experiment: Experiment, part: Part) -> Iterable[Row]:
    """Yield cosine and error against full backpropagation, bytes and seconds, by algorithm and length."""
    sizes, cell = SIZES[experiment.settings.preset], part.cell or ""
    longest = max(sizes.algorithms_lengths)
    width = experiment.settings.hidden_size if is_own(cell) else sizes.algorithms_width
    small = experiment.like(dataclasses.replace(experiment.settings, hidden_size=width, batch_size=BATCH))
    inner = small.inner(cell, longest, 0, batch_size=BATCH)
    for length in sizes.algorithms_lengths:
        xs = inner.xs[:length]
        after = jnp.roll(xs, -1, 0)  # each output predicts the next input
        batch = Batch(xs, jax.nn.one_hot(after, width) if reads_tokens(cell) else after)
        exact = None
        for name, estimator in algorithms(sizes).items():
            at: dict[str, Any] = {"group": name, "x": float(length)}
            try:
                draws, size, seconds = _estimate(estimator, inner.layer, inner.params, batch)
            except (TypeError, ValueError) as error:  # the algorithm refuses this cell
                yield row("not_applicable", 1, **at, note=" ".join(str(error).split()))
                continue
            exact = draws[0] if exact is None else exact
            for place, found in enumerate(draws):
                yield row("error", _error(exact, found), **at, t=place)
                yield row("cosine", _cosine(exact, found), **at, t=place)
            yield row("error_of_mean", _error(exact, np.mean(draws, 0)), **at)
            yield row("draws", len(draws), **at)
            yield row("bytes", size, **at)
            yield row("seconds", seconds, **at)
            experiment.advance(1.5)


def _estimate(
    estimator: Estimator, layer: Any, params: Any, batch: Batch
) -> tuple[list[np.ndarray], int, float]:
    """Return gradients of the mean loss as vectors, one per draw; bytes of state and temporaries; seconds."""
    init, update = estimator.bind(layer, _loss)
    x = batch.xs[0]
    carry = layer.initial_carry(params, x)
    state = jax.jit(lambda p: init(p, layer.initial_carry(p, x), x))(params)

    def run(params: Any, carry: Any, state: Any, batch: Batch, key: jax.Array) -> jax.Array:
        found = update(params, carry, state, batch, key=key)[0]
        return as_vector(jax.tree.map(lambda leaf: leaf / found.count, found.gradients))

    keys = [jax.random.key(seed) for seed in range(DRAWS)]
    program = jax.jit(run).lower(params, carry, state, batch, keys[0]).compile()
    analysis: Any = program.memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + (
        analysis.temp_size_in_bytes if analysis else 0
    )
    draws, seconds = [], []
    for key in keys:
        start = time.perf_counter()
        draws.append(np.asarray(program(params, carry, state, batch, key), np.float64))
        seconds.append(time.perf_counter() - start)
    random = any(not np.array_equal(draws[0], draw) for draw in draws[1:])
    return (draws if random else draws[:1]), size, float(np.median(seconds[1:]))


def _loss(ys: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the mean squared error per step over the features that both have; a user's model may return fewer."""
    width = min(ys.shape[-1], targets.shape[-1])
    return jnp.mean(jnp.square(ys[..., :width] - targets[..., :width]), -1)


def _error(exact: np.ndarray, found: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _cosine(exact: np.ndarray, found: np.ndarray) -> float:
    return float(exact @ found / np.linalg.norm(exact) / np.linalg.norm(found))


MEASUREMENT = Measurement(NAME, parts, work, measure, timed=True)
