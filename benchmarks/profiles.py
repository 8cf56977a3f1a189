"""Compare the time of a gradient profile with that of a plain backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from benchmarks.results import Case, Group, measured
from benchmarks.timing import check, interleave, jax_arm, paired_ratio
from seqjax.probes import bind, gradient_profile

TITLE = "Gradient profiles beside a plain backward pass"
ABOUT = """\
Relative time is the median over paired rounds with a 95% bootstrap interval. Numbers are float32; every round has fresh
inputs; loss = mean(w ys^2) with fixed random w. Both arms compute the loss and its gradient with respect to the params.
The profile also computes, by a tap, the norm of the loss's gradient with respect to the carry that enters each step.
Before the benchmark measures times, it checks that loss and gradients of both arms are equal, and that the norms equal
those of the step-by-step adjoint. The column "error" is the largest deviation, relative to the largest entry. The limit
is a ratio of 1.1; a profile misses it where its whole interval lies above 1.1."""
SHAPES = ((8, 4096, 256, 256),)
LIMIT = 1.1
TOLERANCE = 2e-4
CELLS = {"lstm": sj.lstm, "gru": sj.gru, "lru": sj.lru}
PLAIN, PROFILE = "backward", "profile"

Shape = tuple[int, int, int, int]


def loss(ys: jax.Array, w: jax.Array) -> jax.Array:
    """Return one loss per step."""
    return jnp.mean(w * jnp.square(ys), -1)


def plain(layer: sj.Layer) -> Callable:
    """Return ``(params, xs, w) -> (loss, gradients)``."""

    def mean(params: Any, xs: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.mean(loss(layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1], w))

    return jax.value_and_grad(mean)


def profiled(layer: sj.Layer, extended_range: bool = False) -> Callable:
    """Return ``(params, xs, w) -> (loss, gradients, norms)``."""

    def run(params: Any, xs: jax.Array, w: jax.Array) -> Any:
        bound, batch = bind(layer, params), sj.Batch(xs, w)
        found = gradient_profile(bound, loss, batch, extended_range=extended_range)
        return found.loss, found.gradients, jax.tree.map(jnp.exp, found.log_norm)

    return run


def measure(name: str, shape: Shape, rounds: int) -> Case:
    """Check and then time both arms for one cell and shape ``(B, T, D, H)``.

    Raises:
        Mismatch: where the profile's loss or gradients differ from the plain pass, or its norms from the adjoint.
    """
    batch, length, input_size, hidden_size = shape
    layer = sj.recurrent(CELLS[name](hidden_size))
    params = layer.init(jax.random.key(0), jax.ShapeDtypeStruct((batch, input_size), jnp.float32))
    w = np.random.default_rng(0).uniform(0.5, 1.5, (length, batch, hidden_size)).astype(np.float32)

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([1, number + 100])
        return rng.standard_normal((length, batch, input_size), np.float32), w

    arms = [
        jax_arm(PLAIN, plain(layer), (params,), draw(-2)),
        jax_arm(PROFILE, profiled(layer), (params,), draw(-2)),
    ]
    backward, profile = (arm.run(arm.prepare(draw(-2))) for arm in arms)
    expected = (*backward, jax.jit(profiled(layer, extended_range=True))(params, *draw(-2))[2])
    error = check(PROFILE, profile, expected, TOLERANCE)
    samples = interleave(arms, draw, rounds)
    verdict = "within" if paired_ratio(samples[PROFILE], samples[PLAIN]).low <= LIMIT else "above"
    notes = ("", f"{verdict} {LIMIT}")
    rows = [
        measured(arm, samples[arm.name], e, n) for arm, e, n in zip(arms, (0.0, error), notes, strict=True)
    ]
    return Case(f"{name}: {', '.join(map(str, shape))}", PLAIN, rows)


def run(shapes: Sequence[Shape], rounds: int, say: Callable) -> list[Group]:
    """Measure every cell at every shape."""
    cases = []
    for shape in shapes:
        for name in CELLS:
            say(f"profile of {name}, B, T, D, H = {', '.join(map(str, shape))}")
            cases.append(measure(name, shape, rounds))
    return [Group("All norms of the gradient by the carry, relative to a backward pass", "B, T, D, H", cases)]
