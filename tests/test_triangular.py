"""Compare unit lower triangular solves with LAPACK, in value and derivative, also where products of powers fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import seqjax as sj
from seqjax.ops.triangular import solve_unit_lower


def system(size, batch=(2, 3), columns=4, dtype=np.float64):
    rng = np.random.default_rng(size)
    a = np.tril(rng.standard_normal((*batch, size, size)), -1) / np.sqrt(size)
    return a.astype(dtype), rng.standard_normal((*batch, size, columns)).astype(dtype)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 64, 70])
@pytest.mark.fast_cases(2)
def test_it_solves_what_numpy_solves(size):
    a, r = system(size)
    expected = np.linalg.solve(np.eye(size) - a, r)
    np.testing.assert_allclose(
        solve_unit_lower(jnp.asarray(a), jnp.asarray(r)), expected, rtol=1e-12, atol=1e-12
    )


def test_its_derivatives_are_right_in_both_modes_and_twice():
    a, r = map(jnp.asarray, system(18, (), 2))

    def solve(a, r):
        return solve_unit_lower(jnp.tril(a, -1), jnp.asarray(r))

    check_grads(solve, (a, r), order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


def test_equal_keys_that_reflect_lose_no_digits():
    """Entries of -2: powers of a reach 10^10 in a chunk of 64, while the solution stays between -1 and 1."""
    size = 64
    a = -2 * jnp.tril(jnp.ones((size, size), jnp.float32), -1)
    w = np.asarray(solve_unit_lower(a, jnp.ones((size, 1), jnp.float32))).ravel()
    np.testing.assert_array_equal(w, (-1.0) ** np.arange(size))  # 1 - 2 (1 - 1 + 1 - ...)


def test_masked_batches_map():
    a, r = map(jnp.asarray, system(20))
    np.testing.assert_allclose(jax.vmap(solve_unit_lower)(a, r), solve_unit_lower(a, r), rtol=1e-13)


@pytest.mark.slow  # a larger size
def test_a_long_delta_rule_in_chunks_of_64_ends():
    """LAPACK's triangular solver in this loop did not, on two cores at T = 2048."""
    cell = sj.delta_net(64, num_heads=4)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((2048, 8, 64)), jnp.float32)
    params = cell.init(jax.random.key(0), xs[0])

    def gradient(method):
        layer = sj.recurrent(cell, method)
        return jax.jit(
            jax.grad(
                lambda params: jnp.mean(layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1] ** 2)
            )
        )(params)

    for got, want in zip(jax.tree.leaves(gradient(sj.Chunked(64))), jax.tree.leaves(gradient(sj.Scan()))):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.max(np.abs(want)))
