"""Find the first step at which two implementations differ.

`compare` runs both sides on the same numbers, in value and gradient. The tolerance of each step is measured: a float64
reference runs with noise of the size of the roundings, and its response is what rounding may explain. On the command
line, with a page of results:

    seqjax compare gru examples/compare_implementations.py:build

`build(params)` receives the params of the other side, so both sides compute with the same weights.
"""

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from seqjax.cells import GRUCarry, GRUParams
from seqjax.compare import Implementation, compare


def step(params: GRUParams, carry: GRUCarry, x: jax.Array) -> tuple[GRUCarry, jax.Array]:
    """Return one step of a GRU, written by hand: gates r, z, n."""
    u, r = x @ params.w_x + params.b, carry.h @ params.w_h + params.b_h
    (u_r, u_z, u_n), (r_r, r_z, r_n) = jnp.split(u, 3, -1), jnp.split(r, 3, -1)
    z = jax.nn.sigmoid(u_z + r_z)
    n = jnp.tanh(u_n + jax.nn.sigmoid(u_r + r_r) * r_n)
    h = (1 - z) * n + z * carry.h
    return GRUCarry(h), h


def build(params: GRUParams) -> tuple:
    """Return the params and the step, as `seqjax compare` reads them."""
    return params, step


def main(length: int = 64) -> bool:
    """Compare the two, print the verdict, and return whether they are equal."""
    xs = np.random.default_rng(0).normal(size=(length, 4, 3))  # [T, B, D]
    found = compare(Implementation(sj.gru(8)), Implementation(build), xs)
    print("equal, as far as rounding goes" if found.equal else f"different, first: {found.first}")

    # An error in the weights of a gate is found at the first step that it reaches.
    wrong = compare(Implementation(sj.gru(8)), Implementation(lambda params: (params, mistaken)), xs)
    first = wrong.first
    print(f"with an error: the sides differ from step {first.first} on, in the {first.quantity}")
    return found.equal and not wrong.equal


def mistaken(params: GRUParams, carry: GRUCarry, x: jax.Array) -> tuple[GRUCarry, jax.Array]:
    """Return one step with the update gate the wrong way round."""
    next_carry, _ = step(params, carry, x)
    h = carry.h + 1.001 * (next_carry.h - carry.h)
    return GRUCarry(h), h


if __name__ == "__main__":
    main()
