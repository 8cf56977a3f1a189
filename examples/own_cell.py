"""Write a cell of your own and stack it.

A cell is a value of `Cell` with three functions: `init` makes the params from one time step, `initial_carry` the first
carry, and the recurrence says what one step does. `Step` takes any function `(params, carry, x) -> (carry, h)`. The
cell then runs under every method of its kind, inside every combinator, with resets and masks.

`check_cell` runs the conformance suite on the cell: the whole sequence equals the loop of steps, masked steps do not
matter, and so on. The suite computes in float64 and refuses silent broadcasting, hence `broadcast_to`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

import seqjax as sj
from seqjax.testing import check_cell


class LeakyParams(NamedTuple):
    """w_x ``[D, H]``, w_h ``[H, H]``, rate ``[H]``."""

    w_x: jax.Array
    w_h: jax.Array
    rate: jax.Array


@sj.definition  # leaky(8) == leaky(8), and it prints as leaky(hidden_size=8)
def leaky(hidden_size: int) -> sj.Cell:
    """Return a leaky integrator, h_t = h_{t-1} + sigmoid(rate) (tanh(x_t W_x + h_{t-1} W_h) - h_{t-1})."""

    def init(key: jax.Array, x: jax.Array) -> LeakyParams:
        key_x, key_h = jax.random.split(key)
        lecun, orthogonal = jax.nn.initializers.lecun_normal(), jax.nn.initializers.orthogonal()
        return LeakyParams(
            lecun(key_x, (x.shape[-1], hidden_size)),
            orthogonal(key_h, (hidden_size, hidden_size)),
            jnp.zeros(hidden_size),
        )

    def step(params: LeakyParams, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        candidate = jnp.tanh(x @ params.w_x + h @ params.w_h)
        h = h + jnp.broadcast_to(jax.nn.sigmoid(params.rate), h.shape) * (candidate - h)
        return h, h

    def initial_carry(params: LeakyParams, x: jax.Array) -> jax.Array:
        return jnp.zeros((*x.shape[:-1], hidden_size), x.dtype)

    return sj.Cell(init=init, initial_carry=initial_carry, recurrence=sj.Step(step))


def main(check: bool = True) -> tuple[int, ...]:
    """Check the cell, run three layers of it, and return the shape of the outputs."""
    if check:
        check_cell(leaky(4), jnp.ones((2, 3)))

    def block(hidden_size: int) -> sj.Layer:
        return sj.residual(sj.serial(sj.pointwise(nn.RMSNorm()), sj.recurrent(leaky(hidden_size))))

    model = sj.serial(sj.pointwise(nn.Dense(16)), block(16), block(16), block(16), sj.pointwise(nn.Dense(1)))
    xs = jax.random.normal(jax.random.key(0), (50, 4, 3))  # [T, B, D]
    params = model.init(jax.random.key(1), xs[0])
    _, ys = jax.jit(model.unroll)(params, None, xs)
    print(leaky(16), ys.shape)
    return ys.shape


if __name__ == "__main__":
    main()
