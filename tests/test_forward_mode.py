"""Forward mode through the default methods, and NaN checks of JAX on clean inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiers import slow

import seqjax as sj
from seqjax.ops.segments import set_nan

RNG = np.random.default_rng(0)
METHODS = {
    "lru": [None, sj.Scan(), sj.AssociativeScan(), sj.Chunked(2)],
    "rg_lru": [None],
    "linear_attention": [None],
    "gated_delta_net": [None],
    "attention": [None],
}
CASES = [(name, method) for name, methods in METHODS.items() for method in methods]


def function(name, method=None, flags=False, size=4):
    cell = sj.REGISTRY[name].make(size)
    layer = sj.recurrent(cell) if method is None else sj.recurrent(cell, method)
    xs = jnp.asarray(RNG.normal(size=(5, 2, size)))
    params = jax.tree.map(
        lambda a: a.astype(jnp.result_type(a, jnp.float64)), layer.init(jax.random.key(0), xs[0])
    )
    given = {}
    if flags:
        given = {
            "reset": jnp.zeros((5, 2), bool).at[3, 0].set(True),
            "mask": jnp.ones((5, 2), bool).at[2, 1].set(False),
        }

    def run(xs):
        return jnp.sin(layer.unroll(params, layer.initial_carry(params, xs[0]), xs, **given)[1])

    return run, xs


@pytest.mark.parametrize("flags", [False, True], ids=["plain", "flags"])
@pytest.mark.parametrize(("name", "method"), CASES, ids=str)
@pytest.mark.fast_cases(3)
def test_forward_mode_is_the_transpose_of_reverse_mode(name, method, flags):
    run, xs = function(name, method, flags)
    tangent = jnp.asarray(RNG.normal(size=xs.shape))

    @jax.jit
    def both(xs, tangent):
        ys, forward = jax.jvp(run, (xs,), (tangent,))
        cotangent = jnp.cos(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)
        (backward,) = jax.vjp(run, xs)[1](cotangent)
        return jnp.vdot(cotangent, forward), jnp.vdot(backward, tangent)

    left, right = both(xs, tangent)
    np.testing.assert_allclose(left, right, rtol=1e-9)


@pytest.mark.parametrize("name", ["lru", pytest.param("gated_delta_net", marks=pytest.mark.slow)])
def test_hessians_are_those_of_reverse_mode_twice(name):
    run, xs = function(name, size=2)

    def of_scalar(s):
        return jnp.sum(run(xs * s[0] + s[1]))

    at = jnp.asarray([0.7, 0.1])
    forward, twice = jax.jit(lambda s: (jax.hessian(of_scalar)(s), jax.jacrev(jax.jacrev(of_scalar))(s)))(at)
    np.testing.assert_allclose(forward, twice, rtol=1e-8)
    np.testing.assert_allclose(forward, forward.T, rtol=1e-8)


def test_forward_mode_of_gated_cells_names_the_remedy():
    run, xs = function("gru")
    with pytest.raises(
        TypeError, match=r'Gated recurrence: expected reverse mode .* Scan\(gradient="autodiff"\)'
    ):
        jax.jvp(run, (xs,), (xs,))
    plain, xs = function("gru", sj.Scan(gradient="autodiff"))
    assert jax.jvp(plain, (xs,), (xs,))[1].shape == xs.shape


@pytest.mark.parametrize("name", ["linear_attention", *slow("mlstm"), "attention", "lru"])
def test_nan_checks_stop_at_no_nan_of_ours(name):
    run, xs = function(name)
    with jax.debug_nans(True):
        assert np.isfinite(run(xs)).all()


def test_what_is_spoilt_is_nan_and_blocks_gradients():
    bad = jnp.asarray([False, True])
    found, gradient = jax.value_and_grad(lambda a: jnp.nansum(set_nan(bad, a)))(jnp.ones((2, 3)))
    np.testing.assert_array_equal(gradient, [[1, 1, 1], [0, 0, 0]])
    assert found == 3 and np.isnan(set_nan(bad, jnp.ones((2, 3)))[1]).all()
    assert np.isnan(jax.jit(set_nan)(bad, jnp.ones((2, 3)))[1]).all()
