"""A program as users write them, for type checkers: a model, its two views, training, gradients, decoding."""

from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import seqjax as sj
from seqjax.base import Carry, Params
from seqjax.cells import LSTMParams
from seqjax.probes import GradientProfile, gradient_profile
from seqjax.training import Checkpoints, Fitted, cross_entropy, fit, init_train_state, make_train_step


def model(width: int, *, method: sj.Method | None = None) -> sj.Layer:
    """Compose a model of layers."""
    layers = [
        sj.recurrent(cell, method or sj.Auto()) for cell in (sj.lstm(width), sj.gru(width, reset_after=False))
    ]
    return sj.serial(
        sj.pointwise(nn.Embed(16, width)),
        *(sj.residual(layer) for layer in layers),
        sj.stack(sj.lru(width), 2, dropout=0.1),
        sj.pointwise(nn.Dense(16)),
    )


def run(layer: sj.Layer, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Run both views."""
    params: Params = layer.init(jax.random.key(0), tokens[0])
    carry, ys = layer.unroll(params, None, tokens, mask=sj.lengths_to_mask(jnp.array([3, 2]), 3))
    carry, y = layer.step(params, carry, tokens[0], reset=jnp.array([True, False]))
    return ys, y


def repeated(step: sj.StepFunction, times: int, params: Params, carry: Carry, x: jax.Array) -> object:
    """Take a step of any layer several times."""
    for _ in range(times):
        carry, x = step(params, carry, x)
    return carry


def whole(unroll: sj.UnrollFunction, params: Params, xs: jax.Array) -> object:
    """Run a sequence of any layer."""
    return unroll(params, None, xs, key=jax.random.key(1))[1]


def views(layer: sj.Layer, params: Params, xs: jax.Array) -> None:
    """Pass the views of a layer, and a function of the same form."""
    repeated(layer.step, 2, params, layer.initial_carry(params, xs[0]), xs[0])
    whole(layer.unroll, params, xs)
    whole(partial(layer.unroll, mask=None), params, xs)


def train(layer: sj.Layer, batch: sj.Batch, folder: Path) -> Fitted:
    """Train with checkpoints."""
    optimizer = optax.adam(1e-3)
    step = make_train_step(layer, cross_entropy, optimizer, estimator=sj.truncated_bptt(8))
    state = init_train_state(layer, optimizer, jax.random.key(0), batch.xs[0])
    return fit(step, state, lambda at: batch, num_steps=3, checkpoints=Checkpoints(folder), progress="lines")


def profile(layer: sj.Layer, params: Params, batch: sj.Batch) -> GradientProfile:
    """Measure a gradient profile."""
    loss = sj.gradients.last_step(cross_entropy)
    return gradient_profile(sj.probes.bind(layer, params), loss, batch)


def weights() -> LSTMParams:
    """Make the params of a cell."""
    return LSTMParams(jnp.ones((2, 8)), jnp.ones((2, 8)), jnp.ones(8))


@sj.definition
def leaky(rate: float) -> sj.Cell:
    """Return a cell of one's own."""

    def step(params: jax.Array, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = params * h + (1 - params) * x
        return h, h

    return sj.Cell(
        init=lambda key, x: jnp.full(x.shape[-1:], rate),
        initial_carry=lambda params, x: jnp.zeros_like(x),
        recurrence=sj.Step(step),
    )


def main(folder: Path) -> None:
    """Use the names above."""
    layer = model(8, method=sj.Scan(chunk=4))
    tokens = jnp.zeros((3, 2), int)
    run(layer, tokens)
    train(layer, sj.Batch(tokens, tokens), folder)
    print(
        sj.summary(layer, tokens[0]).num_params,
        leaky(0.5) == leaky(0.5),
        sj.REGISTRY["lstm"].make(4),
        weights(),
    )
    print(sj.tasks.TASKS["parity"](8), sj.testing.check_cell, sj.models, sj.interop.from_torch)
