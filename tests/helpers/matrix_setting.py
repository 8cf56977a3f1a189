"""Settings that the tests of the cells with a matrix for a state share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj
from seqjax.cells import REGISTRY

T, D, N, K, V, H = 7, 4, 2, 3, 5, 6
KEY = jax.random.key(0)
NAMES = [name for name, entry in REGISTRY.items() if isinstance(entry.make(4).recurrence, sj.Matrix)]
SIZES = {"num_heads": N, "key_size": K, "value_size": V}


@functools.cache
def setting(factory, **options):
    """A cell with heads of unequal sizes, float64 params away from their initial values, inputs without a batch."""
    cell = factory(H, **SIZES, param_dtype=jnp.float64, **options)
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(T, D)))
    params = jax.tree.map(
        lambda p: jnp.asarray(p + 0.3 * rng.normal(size=p.shape)), numpy(initial(cell, xs[0]))
    )
    return cell, params, xs


def initial(cell, x):
    """Initial params."""
    return jax.jit(cell.init)(KEY, x)


def unrolled(cell, params, xs):
    """Carry and outputs from the initial carry."""
    return jax.jit(sj.recurrent(cell).unroll)(params, cell.initial_carry(params, xs[0]), xs)


def numpy(params):
    return jax.tree.map(np.asarray, params)


def close(got, expected, rtol=1e-12):
    np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * np.abs(expected).max())
