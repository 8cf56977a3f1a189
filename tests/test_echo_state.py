"""Test the echo state reservoir: spectral radius, sparsity and scale, a constant reservoir, its Jacobian, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.cells import B, D, H, T, assert_equals_reference, init, jacobian, normal, random_case
from helpers.tiers import slow
from references import nonlinear as references

import seqjax as sj
from seqjax.cells import EchoStateCarry
from seqjax.cells.echo_state import spectral_radius


def radius_of(w):
    return np.abs(np.linalg.eigvals(np.asarray(w, float))).max()


@pytest.mark.parametrize("size", [1, 3, 50, *slow(2, 200)])
@pytest.mark.parametrize("connections", [1, 10, None])
@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 2e-5), (jnp.float64, 1e-10)])
@pytest.mark.fast_cases(3)
def test_the_reservoir_has_the_chosen_radius(size, connections, dtype, rtol):
    w_h = init(sj.echo_state(size, radius=1.3, connections=connections, param_dtype=dtype)).w_h
    assert w_h.dtype == dtype
    assert radius_of(w_h) == pytest.approx(1.3, rel=rtol)


@pytest.mark.parametrize(
    ("w", "expected"),
    [
        ([[0.0, 4.0], [-1.0, 0.0]], 2.0),
        ([[0.5, 100.0], [0.0, 0.5]], 0.5),  # defective
        ([[3.0, 0.0], [0.0, -3.0]], 3.0),  # two of the same modulus
        ([[0.0, 1.0], [0.0, 0.0]], 0.0),  # nilpotent
        ([[1e-30, 0.0], [0.0, 1e-35]], 1e-30),
    ],
)
def test_the_spectral_radius_of_special_matrices(w, expected):
    assert spectral_radius(jnp.asarray(w)) == pytest.approx(expected, rel=1e-9)


def test_the_spectral_radius_is_that_of_the_eigenvalues():
    for seed in range(5):
        w = normal(seed, 30, 30)
        assert spectral_radius(jnp.asarray(w)) == pytest.approx(radius_of(w), rel=1e-10)


def test_every_unit_reads_the_chosen_number_of_others_at_random():
    w_h = np.asarray(init(sj.echo_state(80, connections=7)).w_h)
    np.testing.assert_array_equal((w_h != 0).sum(0), 7)
    assert len(set((w_h != 0).sum(1))) > 3
    assert (np.asarray(init(sj.echo_state(80, connections=None)).w_h) != 0).all()


def test_inputs_and_bias_are_uniform_in_their_scale():
    params = jax.tree.map(np.asarray, init(sj.echo_state(300, input_scale=0.2)))
    for w in (params.w_x, params.b):
        assert 0.18 < np.abs(w).max() <= 0.2
        assert np.square(w).mean() == pytest.approx(0.04 / 3, rel=0.4)


@pytest.mark.parametrize("method", [sj.Scan(), sj.Scan(gradient="autodiff")], ids=repr)
@pytest.mark.fast_cases(1)
def test_no_gradient_reaches_the_reservoir_but_inputs_and_carry(method):
    cell, params, carry, xs = random_case(sj.echo_state(H, leak=0.4))
    layer = sj.recurrent(cell, method)

    def loss(params, carry, xs):
        return jnp.sum(layer.unroll(params, carry, xs)[1] * normal(3, T, B, H))

    d_params, d_carry, d_xs = jax.jit(jax.grad(loss, (0, 1, 2)))(params, carry, xs)
    for leaf in d_params:
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))
    assert np.abs(d_carry.h).min() > 0 and np.abs(d_xs).min() > 0


def test_the_jacobian_at_zero_has_the_eigenvalues_of_the_leaky_reservoir():
    leak, radius = 0.3, 0.8
    cell = sj.echo_state(H, leak=leak, radius=radius, param_dtype=jnp.float64)
    params = init(cell)._replace(b=jnp.zeros(H))
    got = jacobian(cell, params, EchoStateCarry(jnp.zeros(H)), jnp.zeros((1, D)))
    expected = (1 - leak) * np.eye(H) + leak * np.asarray(params.w_h).T
    np.testing.assert_allclose(got, expected, atol=1e-14)
    far = jacobian(cell, params, EchoStateCarry(jnp.zeros(H)), jnp.zeros((200, D)))
    assert radius_of(far) == pytest.approx(radius_of(expected) ** 200, rel=1e-9)


def test_two_states_meet_under_the_same_inputs():
    """The echo state property: the state forgets where it started."""
    cell = sj.echo_state(100, radius=0.5, param_dtype=jnp.float64)
    layer, params, xs = sj.recurrent(cell), init(cell), jnp.asarray(normal(0, 200, 2, D))
    xs = xs.at[:, 1].set(xs[:, 0])
    _, ys = layer.unroll(params, EchoStateCarry(jnp.asarray(normal(1, 2, 100))), xs)
    distance = np.linalg.norm(np.asarray(ys)[:, 0] - np.asarray(ys)[:, 1], axis=-1)
    assert distance[0] > 0.1 and distance[-1] < 1e-12


def test_the_leak_equals_the_reference():
    assert_equals_reference(sj.echo_state(H, leak=0.3), references.echo_state(0.3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"leak": 0.0}, r"echo_state\(leak\): expected a number in \(0, 1\], got 0\.0\."),
        ({"leak": 1.5}, r"echo_state\(leak\): expected a number in \(0, 1\], got 1\.5\."),
        ({"radius": -0.5}, r"echo_state\(radius\): expected a number of at least 0, got -0\.5\."),
        ({"input_scale": -1.0}, r"echo_state\(input_scale\): expected a number of at least 0, got -1\.0\."),
        ({"connections": 0}, r"echo_state\(connections\): expected a whole number of at least 1, got 0\."),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        sj.echo_state(3, **options)
