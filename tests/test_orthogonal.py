"""Test the orthogonal and the antisymmetric network: structure, norms of gradients, initial weights, errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.cells import D, H, T, assert_equals_reference, init, jacobian, normal, random_case
from helpers.tiers import slow
from references import nonlinear as references

import seqjax as sj
from seqjax.cells import OrthogonalCarry, OrthogonalParams
from seqjax.cells.orthogonal_rnn import orthogonal_matrix


def antisymmetric(a):
    return np.triu(a, 1) - np.triu(a, 1).T


# ---------------------------------------------------------------- orthogonal_rnn


@pytest.mark.parametrize("size", [1, 7, *slow(2, 64)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@pytest.mark.fast_cases(1)
def test_the_matrix_is_orthogonal_and_has_determinant_one_whatever_the_params(size, scale):
    """Squarings, about log2 of the norm of A, each double the rounding error."""
    a = scale * normal(0, size, size)
    w = np.asarray(orthogonal_matrix(jnp.asarray(a)))
    norm = np.linalg.norm(antisymmetric(a), 1)
    np.testing.assert_allclose(w.T @ w, np.eye(size), atol=1e-14 * max(1, norm))
    assert np.linalg.det(w) == pytest.approx(1, abs=1e-13 * max(1, norm))
    np.testing.assert_allclose(w, references.exponential(a), atol=1e-14 * max(1, norm) * math.sqrt(size))


@pytest.mark.parametrize("angles", ["henaff", "cayley"])
@pytest.mark.fast_cases(1)
def test_the_initial_matrix_is_orthogonal_to_1e_14(angles):
    a = init(sj.orthogonal_rnn(64, angles=angles, param_dtype=jnp.float64)).a
    w = np.asarray(orthogonal_matrix(a))
    np.testing.assert_allclose(w.T @ w, np.eye(64), atol=1e-14)


def test_only_entries_above_the_diagonal_are_read():
    a = jnp.asarray(normal(0, H, H))
    np.testing.assert_array_equal(orthogonal_matrix(a), orthogonal_matrix(jnp.triu(a, 1)))
    gradient = jax.grad(lambda a: jnp.sum(orthogonal_matrix(a) * normal(1, H, H)))(a)
    assert np.abs(gradient).max() > 0.1 and not np.tril(gradient).any()


@pytest.mark.parametrize("activation", ["identity", "modrelu"])
@pytest.mark.parametrize("length", [1, 100])
@pytest.mark.fast_cases(1)
def test_every_singular_value_over_time_is_one_without_a_bias(activation, length):
    """C1 of the calibration block: the Jacobian is a power of W_h; gradients keep their norm over any lag."""
    cell = sj.orthogonal_rnn(H, activation=activation)
    params = OrthogonalParams(jnp.asarray(normal(0, D, H)), jnp.asarray(normal(1, H, H)), jnp.zeros(H))
    for h, xs in ((normal(2, H), normal(3, length, D)), (np.zeros(H), np.zeros((length, D)))):
        got = jacobian(cell, params, OrthogonalCarry(jnp.asarray(h)), jnp.asarray(xs))
        np.testing.assert_allclose(np.linalg.svd(got, compute_uv=False), 1, atol=1e-14 * max(10, length))
        power = np.linalg.matrix_power(references.exponential(np.asarray(params.a)), length)
        np.testing.assert_allclose(got, power.T, atol=1e-13 * length)


def test_slopes_of_modrelu_are_one_or_zero_and_gradients_never_grow():
    cell = sj.orthogonal_rnn(H)
    params = OrthogonalParams(jnp.asarray(normal(0, D, H)), jnp.asarray(normal(1, H, H)), -jnp.ones(H))
    h, x = 0.5 * normal(2, H), 0.5 * normal(3, D)
    got = jacobian(cell, params, OrthogonalCarry(jnp.asarray(h)), jnp.asarray(x[None]))
    w_h = references.exponential(np.asarray(params.a))
    open_units = np.abs(x @ params.w_x + h @ w_h) > 1
    assert 0 < open_units.sum() < H
    np.testing.assert_allclose(got, (w_h * open_units).T, atol=1e-14)
    xs = jnp.asarray(2 * normal(4, T, D))
    far = jacobian(cell, params, OrthogonalCarry(jnp.asarray(h)), xs)
    assert np.linalg.svd(far, compute_uv=False).max() <= 1 + 1e-13


def test_modrelu_hides_no_nan():
    cell, params, carry, xs = random_case(sj.orthogonal_rnn(H))
    _, ys = sj.recurrent(cell).unroll(params, carry, xs.at[2, 0].set(jnp.nan))
    assert np.isnan(ys[2:, 0]).all() and np.isfinite(ys[:, 1:]).all()


@pytest.mark.parametrize("activation", ["tanh", "identity"])
def test_other_activations_equal_the_reference(activation):
    cell = sj.orthogonal_rnn(H, activation=activation)
    assert_equals_reference(cell, references.orthogonal_rnn(activation))


@pytest.mark.parametrize("size", [601, *slow(600)])
@pytest.mark.parametrize("angles", ["henaff", "cayley"])
@pytest.mark.fast_cases(1)
def test_the_initial_angles_are_those_of_the_paper(angles, size):
    params = jax.tree.map(np.asarray, init(sj.orthogonal_rnn(size, angles=angles)))
    turns = params.a[np.arange(0, size - 1, 2), np.arange(1, size, 2)]
    assert np.count_nonzero(params.a) == len(turns) == size // 2
    theta = turns if angles == "henaff" else -2 * np.arctan(turns)
    low, high = (-math.pi, math.pi) if angles == "henaff" else (0, math.pi / 2)
    assert low <= theta.min() < low + 0.1 and high - 0.1 < theta.max() <= high
    assert theta.mean() == pytest.approx((low + high) / 2, abs=5 * (high - low) / math.sqrt(12 * len(theta)))
    assert (
        np.abs(params.b).max() <= 0.01
        and np.abs(params.b).min() < 0.001
        and params.b.min() < 0 < params.b.max()
    )
    assert params.w_x.std() == pytest.approx(math.sqrt(2 / D), rel=5 / math.sqrt(2 * params.w_x.size))


def test_without_modrelu_the_bias_starts_at_zero():
    np.testing.assert_array_equal(init(sj.orthogonal_rnn(H, activation="tanh")).b, np.zeros(H))


def test_unknown_choices_of_orthogonal_rnn_are_refused():
    with pytest.raises(
        ValueError, match=r"\(activation\): expected one of 'modrelu', 'tanh', 'identity', got 'relu'"
    ):
        sj.orthogonal_rnn(3, activation="relu")
    with pytest.raises(
        ValueError, match=r"orthogonal_rnn\(angles\): expected one of 'henaff', 'cayley', got 'haar'\."
    ):
        sj.orthogonal_rnn(3, angles="haar")


# ---------------------------------------------------------------- antisymmetric_rnn


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_eigenvalues_of_the_antisymmetric_matrix_have_real_part_minus_gamma(gamma):
    cell = sj.antisymmetric_rnn(H, diffusion=gamma)
    a = cell.recurrence.weights(random_case(cell)[1]).w_h
    eigenvalues = np.linalg.eigvals(np.asarray(a))
    np.testing.assert_allclose(eigenvalues.real, -gamma, atol=1e-13)
    assert np.abs(eigenvalues.imag).max() > 0.5


@pytest.mark.parametrize("gamma", [0.0, 0.3])
@pytest.mark.fast_cases(1)
def test_eigenvalues_of_the_jacobian_lie_between_no_loss_and_the_diffusion(gamma):
    """With slopes D in [0, 1], A D is similar to sqrt(D) A sqrt(D), whose symmetric part is -gamma D."""
    epsilon = 0.2
    cell, params, carry, xs = random_case(sj.antisymmetric_rnn(H, step_size=epsilon, diffusion=gamma))
    h, x = np.asarray(carry.h[0]), np.asarray(xs[0, :1])
    got = jacobian(cell, params, jax.tree.map(lambda a: a[0], carry), xs[:1, 0])
    a = np.asarray(params.w_h - params.w_h.T - gamma * jnp.eye(H))
    slopes = 1 - np.tanh(h @ a + x[0] @ params.w_x + params.b) ** 2
    np.testing.assert_allclose(got, (np.eye(H) + epsilon * a * slopes).T, atol=1e-13)
    rates = (np.linalg.eigvals(got).real - 1) / epsilon
    assert rates.min() >= -gamma * slopes.max() - 1e-12 and rates.max() <= -gamma * slopes.min() + 1e-12


def test_options_of_antisymmetric_rnn_equal_the_reference():
    for gated in (False, True):
        cell = sj.antisymmetric_rnn(H, gated=gated, step_size=0.7, diffusion=0.2)
        assert_equals_reference(cell, references.antisymmetric_rnn(gated, epsilon=0.7, gamma=0.2))


def test_antisymmetric_rnn_starts_with_the_variances_of_the_paper():
    width, size = 50, 100
    params = jax.tree.map(np.asarray, init(sj.antisymmetric_rnn(size, gated=True, weight_scale=0.5), width))
    for w, deviation in ((params.w_h, 0.5 / math.sqrt(size)), (params.w_x, 1 / math.sqrt(width))):
        assert w.std() == pytest.approx(deviation, rel=5 / math.sqrt(2 * w.size))
        assert np.mean(w**4) / w.var() ** 2 == pytest.approx(3, abs=0.3)  # normal, not uniform (1.8)
    assert not params.b.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, r"antisymmetric_rnn\(step_size\): expected a finite number above 0, got 0\.0\."),
        (
            {"diffusion": -0.1},
            r"antisymmetric_rnn\(diffusion\): expected a number of at least 0, got -0\.1\.",
        ),
        (
            {"weight_scale": math.nan},
            r"antisymmetric_rnn\(weight_scale\): expected a number of at least 0, got nan\.",
        ),
    ],
)
def test_arguments_of_antisymmetric_rnn_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        sj.antisymmetric_rnn(3, **options)
