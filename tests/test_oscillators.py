"""Test coRNN and LEM: linear oscillators in closed form, options, initial weights, errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.cells import D, H, T, assert_equal, assert_equals_reference, init, normal
from references import nonlinear as references
from references.gated import sigmoid

import seqjax as sj
from seqjax.cells import CoRNNCarry, CoRNNParams, LEMCarry, LEMParams


def full_jacobian(cell, params, carry, xs):
    """d carry after / d carry before, for one example: ``[2, H, 2, H]``, z first."""

    def after(both):
        carry_after, _ = sj.recurrent(cell).unroll(params, type(carry)(*both), xs)
        return jnp.stack(carry_after)

    return np.asarray(jax.jit(jax.jacrev(after))(jnp.stack(carry)))


@pytest.mark.parametrize("implicit", [False, True])
def test_cornn_without_weights_is_a_damped_oscillator_per_unit(implicit):
    dt, gamma, epsilon = 0.1, 3.0, 0.5
    cell = sj.cornn(H, step_size=dt, gamma=gamma, epsilon=epsilon, implicit_damping=implicit)
    zero = jnp.zeros((H, H))
    params = CoRNNParams(jnp.asarray(normal(0, D, H)), zero, zero, jnp.zeros(H))
    got = full_jacobian(
        cell, params, CoRNNCarry(*jnp.asarray(normal(1, 2, H))), jnp.asarray(normal(2, 50, D))
    )
    # Eq. 3 as a matrix: the row of z, then y = y + dt z.
    row = (
        np.array([1, -dt * gamma]) / (1 + dt * epsilon)
        if implicit
        else np.array([1 - dt * epsilon, -dt * gamma])
    )
    power = np.linalg.matrix_power(np.stack([row, [0, 1] + dt * row]), 50)
    assert_equal(got, np.einsum("ij,kl->ikjl", power, np.eye(H)), 1e-13)


def test_cornn_loses_and_amplifies_nothing_without_damping():
    """Without damping the symplectic Euler step has determinant 1; its eigenvalues lie on the unit circle."""
    zero = jnp.zeros((H, H))
    params = CoRNNParams(jnp.zeros((D, H)), zero, zero, jnp.zeros(H))
    cell = sj.cornn(H, step_size=0.1, gamma=2.0, epsilon=0.0)
    carry = CoRNNCarry(jnp.ones(H), jnp.ones(H))
    got = full_jacobian(cell, params, carry, jnp.zeros((1000, D))).reshape(2 * H, 2 * H)
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(got)), 1, atol=1e-10)


@pytest.mark.parametrize("implicit", [False, True])
def test_options_of_cornn_equal_the_reference(implicit):
    cell = sj.cornn(H, step_size=0.2, gamma=1.5, epsilon=2.5, implicit_damping=implicit)
    assert_equals_reference(cell, references.cornn(0.2, 1.5, 2.5, implicit))


def test_lem_with_gates_of_the_input_alone_carries_z_and_y_by_products():
    dt = 0.7
    w_x, b, xs = normal(0, D, 4 * H), normal(1, 4 * H), normal(2, T, D)
    params = LEMParams(*map(jnp.asarray, (w_x, np.zeros((H, 3 * H)), np.zeros((H, H)), b)))
    got = full_jacobian(
        sj.lem(H, step_size=dt), params, LEMCarry(*jnp.asarray(normal(3, 2, H))), jnp.asarray(xs)
    )
    slow, fast, _, _ = np.split(1 - dt * sigmoid(xs @ w_x + b), 4, axis=1)
    expected = np.zeros((2, H, 2, H))
    expected[0, :, 0], expected[1, :, 1] = np.diag(slow.prod(0)), np.diag(fast.prod(0))
    assert_equal(got, expected, 1e-13)


def test_the_step_size_of_lem_equals_the_reference():
    assert_equals_reference(sj.lem(H, step_size=0.3), references.lem(0.3))


@pytest.mark.parametrize(
    ("cell", "bound"), [(sj.cornn(80), 1 / math.sqrt(40 + 160)), (sj.lem(80), 1 / math.sqrt(80))]
)
def test_all_params_start_uniform_within_the_bound(cell, bound):
    for leaf in map(np.asarray, init(cell, 40)):
        assert 0.9 * bound < np.abs(leaf).max() <= bound
        assert np.square(leaf).mean() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / leaf.size))


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (sj.cornn, {"step_size": 0}, r"cornn\(step_size\): expected a finite number above 0, got 0\."),
        (sj.cornn, {"gamma": -1.0}, r"cornn\(gamma\): expected a number of at least 0, got -1\.0\."),
        (sj.cornn, {"epsilon": -1.0}, r"cornn\(epsilon\): expected a number of at least 0, got -1\.0\."),
        (sj.lem, {"step_size": 1.5}, r"lem\(step_size\): expected a number in \(0, 1\], got 1\.5\."),
        (sj.lem, {"step_size": 0.0}, r"lem\(step_size\): expected a number in \(0, 1\], got 0\.0\."),
    ],
)
def test_arguments_are_checked(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(3, **options)
