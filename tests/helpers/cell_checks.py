"""The checks of one registered cell; they also run for the cell that CONTRIBUTING.md adds."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import REFERENCES

import seqjax as sj
from helpers.cells import KEY, B, D, H, T, assert_equal, init, reference, setting
from seqjax.cells import REGISTRY


def every_cell_has_a_reference():
    assert set(REFERENCES) == set(REGISTRY)


def unroll_equals_the_reference(name):
    cell, params, carry, xs = setting(name)
    unroll = jax.jit(sj.recurrent(cell).unroll)
    assert_equal(unroll(params, carry, xs), reference(name, params, carry, xs))


def a_loop_of_step_equals_the_reference(name):
    cell, params, carry, xs = setting(name)
    expected = reference(name, params, carry, xs)
    step = jax.jit(sj.recurrent(cell).step)
    xs, ys = jax.device_get(xs), []  # slices of JAX arrays are programs
    for x in (jax.tree.map(lambda a, t=t: a[t], xs) for t in range(T)):
        carry, y = step(params, carry, x)
        ys.append(y)
    assert_equal((carry, np.stack(ys)), expected)


def the_initial_carry_is_zero_and_reads_no_values(name):
    entry = REGISTRY[name]
    cell = entry.make(H)
    x = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), entry.example((B,), D))
    carry = cell.initial_carry(init(cell, example=entry.example), x)
    for leaf in jax.tree.leaves(carry):
        np.testing.assert_array_equal(leaf, np.zeros((B, *leaf.shape[1:])))


def params_have_the_dtype_that_was_asked_for_and_float32_by_default(name, options):
    entry = REGISTRY[name]
    params = jax.eval_shape(entry.make(H, **options).init, KEY, entry.example((B,), D))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    assert dtypes == {jnp.dtype(options.get("param_dtype", jnp.float32))}


def weights_start_orthogonal_and_uniform_per_gate(name):
    width, size = 40, 60
    params = jax.tree.map(np.asarray, init(REGISTRY[name].make(size), width))
    recurrent = np.split(params.w_h.astype(float), params.w_h.shape[1] // size, axis=1)
    for i, gate in enumerate(recurrent):
        np.testing.assert_allclose(gate.T @ gate, np.eye(size), atol=20 * np.finfo(np.float32).eps)
        assert all(np.abs(gate - other).max() > 0.1 for other in recurrent[:i])
    for gate in np.split(params.w_x, params.w_x.shape[1] // size, axis=1):
        bound = math.sqrt(6 / (width + size))  # Glorot, Bengio 2010, eq. 16
        assert 0.98 * bound < np.abs(gate).max() <= bound
        # The second moment of 2400 uniform numbers: a relative standard deviation of sqrt(4/5/2400).
        assert np.square(gate).mean() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / gate.size))


def a_size_is_a_whole_number_of_at_least_one(name, size):
    expected = f"(hidden_size): expected a whole number of at least 1, got {size!r}."
    with pytest.raises(ValueError, match=re.escape(expected)):
        REGISTRY[name].make(size)
