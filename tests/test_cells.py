"""Test the cells: each equals its NumPy reference, has the documented initial weights, and refuses bad arguments."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import cell_checks
from helpers.cells import KEY, D, H, T, assert_equal, init, jacobian, normal, setting
from references import gated as classical
from references.gated import sigmoid

import seqjax as sj
from seqjax.cells import REGISTRY, GRUCarry, GRUParams, LSTMCarry, LSTMParams
from seqjax.ops.step import step_of

# ---------------------------------------------------------------- values


def test_every_cell_has_a_reference():
    cell_checks.every_cell_has_a_reference()


# In the fast tier this follows: a loop of step equals the reference, and by the conformance suite unroll that loop.
@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY)
def test_unroll_equals_the_reference(name):
    cell_checks.unroll_equals_the_reference(name)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_loop_of_step_equals_the_reference(name):
    cell_checks.a_loop_of_step_equals_the_reference(name)


# One for each way to project and to read out.
WITH_BIASES = "lstm qrnn gla ssd rwkv7 multi_query_attention conv_lstm cfc layer_norm_lstm".split()


@pytest.mark.parametrize("name", WITH_BIASES)
@pytest.mark.fast_cases(1)
def test_over_bfloat16_inputs_the_gradients_of_biases_add_up_in_float32(name):
    """Over 2,048 rows a sum of ones in bfloat16 stops at 256."""
    entry = REGISTRY[name]
    cell = entry.make(H)
    params = jax.jit(cell.init)(KEY, entry.example((1,), 2))

    def gradients(dtype):
        ones = functools.partial(jax.tree.map, lambda a: jnp.ones(a.shape, a.dtype))
        xs = jax.tree.map(lambda a: jnp.full((64, *a.shape), 0.7, dtype), entry.example((32,), 2))
        carry = cell.initial_carry(params, jax.tree.map(lambda a: a[0], xs))
        us = jax.eval_shape(cell.project, params, xs)
        step = jax.vmap(step_of(cell.recurrence, params, dtype), (None, 0))
        hs = ones(jax.eval_shape(step, carry, us)[1])
        out, pull = jax.vjp(lambda p: (cell.project(p, xs), cell.readout(p, hs, xs)), params)
        return [g for g in jax.tree.leaves(pull(ones(out))[0]) if g.ndim == 1]

    for found, expected in zip(gradients(jnp.bfloat16), gradients(jnp.float32), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.03 * np.abs(expected).max())


def test_within_a_step_in_bfloat16_the_gradient_of_a_bias_adds_up_in_float32_over_the_batch():
    layer = sj.recurrent(sj.gru(H, reset_after=False))
    params = jax.jit(layer.init)(KEY, jnp.zeros((1, 2)))

    def gradient(dtype):
        x = jnp.full((2048, 2), 0.7, dtype)
        carry = GRUCarry(jnp.full((2048, H), 0.5, dtype))
        loss = lambda p: jnp.sum(layer.step(p, carry, x)[1].astype(jnp.float32))  # noqa: E731
        return jax.jit(jax.grad(loss))(params).b_h

    expected = gradient(jnp.float32)
    np.testing.assert_allclose(gradient(jnp.bfloat16), expected, rtol=0, atol=0.05 * np.abs(expected).max())


# ---------------------------------------------------------------- initial weights and carries


@pytest.mark.parametrize("name", REGISTRY)
def test_the_initial_carry_is_zero_and_reads_no_values(name):
    cell_checks.the_initial_carry_is_zero_and_reads_no_values(name)


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("options", [{"param_dtype": jnp.bfloat16}, {"param_dtype": jnp.float64}, {}])
def test_params_have_the_dtype_that_was_asked_for_and_float32_by_default(name, options):
    cell_checks.params_have_the_dtype_that_was_asked_for_and_float32_by_default(name, options)


@pytest.mark.parametrize("name", classical.REFERENCES)
@pytest.mark.fast_cases(3)
def test_weights_start_orthogonal_and_uniform_per_gate(name):
    cell_checks.weights_start_orthogonal_and_uniform_per_gate(name)


def test_only_the_forget_gate_of_lstm_starts_with_a_bias():
    b = init(sj.lstm(H, forget_bias=2.5)).b
    np.testing.assert_array_equal(np.split(b, 4), [[0.0] * H, [2.5] * H, [0.0] * H, [0.0] * H])
    np.testing.assert_array_equal(init(sj.lstm(H)).b[H : 2 * H], [1.0] * H)


RINGS = [(0.0, 1.0), (0.4, 0.9), (0.9, 0.999)]
SAMPLES = 100_000


@functools.cache
def ring(r_min, r_max, **options):
    cell = sj.lru(1, state_size=SAMPLES, r_min=r_min, r_max=r_max, param_dtype=jnp.float64, **options)
    return jax.tree.map(np.asarray, init(cell, 1))


@pytest.mark.parametrize(("r_min", "r_max"), RINGS)
@pytest.mark.fast_cases(2)
def test_lru_moduli_start_in_the_ring_with_the_stated_moments(r_min, r_max):
    params = ring(r_min, r_max)
    modulus = np.exp(-np.exp(params.nu_log))
    assert modulus.min() >= r_min and modulus.max() <= r_max
    for lag in (0.5, 1, 4, 32, 256):
        power = modulus ** (2 * lag)
        expected = (r_max ** (2 * (lag + 1)) - r_min ** (2 * (lag + 1))) / ((lag + 1) * (r_max**2 - r_min**2))
        # Five standard errors of the mean, whose own error is a few percent at the largest lag.
        assert abs(power.mean() - expected) < 5 * power.std() / math.sqrt(SAMPLES)
        if (r_min, r_max) == (0, 1):
            assert expected == pytest.approx(1 / (lag + 1), rel=1e-14)


@pytest.mark.parametrize(("r_min", "r_max"), RINGS)
def test_lru_gamma_starts_at_the_norm_of_its_paper(r_min, r_max):
    params = ring(r_min, r_max)
    modulus = np.exp(-np.exp(params.nu_log))
    np.testing.assert_allclose(np.exp(2 * params.gamma_log), 1 - modulus**2, rtol=0, atol=1e-14)


def test_lru_angles_start_uniform_up_to_the_greatest():
    angle = np.exp(ring(0.0, 1.0, max_phase=0.3).theta_log)
    assert 0 < angle.min() and angle.max() <= 0.3
    assert angle.mean() == pytest.approx(0.15, abs=5 * 0.3 / math.sqrt(12 * SAMPLES))
    assert np.square(angle).mean() == pytest.approx(0.03, abs=5 * 0.09 * math.sqrt(4 / 45 / SAMPLES))


def test_lru_keeps_finite_params_at_the_edges_of_the_ring():
    for r_min, r_max in ((1 - 1e-12, 1.0), (0.0, 1e-12)):
        for dtype in (jnp.float32, jnp.float64):
            init(sj.lru(1, state_size=1000, r_min=r_min, r_max=r_max, param_dtype=dtype), 1)  # checks


# ---------------------------------------------------------------- gradients along the carry, in closed form


def test_lstm_with_gates_of_the_input_alone_carries_c_by_the_product_of_forget_gates():
    w_x, b, xs = normal(0, D, 4 * H), normal(1, 4 * H), normal(2, T, D)
    carry = LSTMCarry(*normal(3, 2, H))
    for w in (w_x, np.zeros_like(w_x)):
        params = LSTMParams(*map(jnp.asarray, (w, np.zeros((H, 4 * H)), b)))
        forget = sigmoid(xs @ w + b)[:, H : 2 * H]
        assert_equal(jacobian(sj.lstm(H), params, carry, jnp.asarray(xs)), np.diag(forget.prod(0)))


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_with_gates_of_the_input_alone_carries_h_by_the_product_of_update_gates(reset_after):
    w_x, b, b_h, xs = normal(0, D, 3 * H), normal(1, 3 * H), normal(2, 3 * H), normal(3, T, D)
    params = GRUParams(*map(jnp.asarray, (w_x, np.zeros((H, 3 * H)), b, b_h)))
    update = sigmoid(xs @ w_x + b + b_h)[:, H : 2 * H]
    got = jacobian(sj.gru(H, reset_after=reset_after), params, GRUCarry(normal(4, H)), jnp.asarray(xs))
    assert_equal(got, np.diag(update.prod(0)))


def test_a_linear_elman_network_carries_h_by_the_powers_of_its_matrix():
    cell, params, carry, xs = setting("elman_identity")
    got = jacobian(cell, params, jax.tree.map(lambda a: a[0], carry), xs[:, 0])
    assert_equal(got, np.linalg.matrix_power(np.asarray(params.w_h), T).T)


def test_lru_carries_its_state_by_the_powers_of_lambda():
    cell, params, carry, xs = setting("lru")
    lam = np.exp(-np.exp(params.nu_log) + 1j * np.exp(params.theta_log))
    assert_equal(jacobian(cell, params, carry[0], xs[:, 0], holomorphic=True), np.diag(lam**T))


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("size", [0, -3, True, 2.5, "8", None, (4,)])
@pytest.mark.parametrize("name", REGISTRY)
def test_a_size_is_a_whole_number_of_at_least_one(name, size):
    cell_checks.a_size_is_a_whole_number_of_at_least_one(name, size)


def test_a_numpy_integer_is_a_size():
    assert sj.lstm(np.int64(8)) == sj.lstm(8)


def test_an_unknown_activation_is_refused():
    with pytest.raises(
        ValueError, match=r"elman\(activation\): expected one of 'tanh', 'relu', 'identity', got 'gelu'\."
    ):
        sj.elman(3, activation="gelu")
    with pytest.raises(ValueError, match=r"elman\(activation\): .* got None\."):
        sj.elman(3, activation=None)


@pytest.mark.parametrize(
    ("r_min", "r_max"), [(0.9, 0.9), (0.9, 0.1), (-0.1, 0.5), (0.0, 1.1), (math.nan, 1.0)]
)
def test_a_ring_without_room_is_refused(r_min, r_max):
    with pytest.raises(
        ValueError, match=rf"lru: expected 0 <= r_min < r_max <= 1, got r_min={r_min}, r_max={r_max}\."
    ):
        sj.lru(3, r_min=r_min, r_max=r_max)


def test_other_arguments_of_lru_are_checked():
    with pytest.raises(ValueError, match=r"lru\(max_phase\): expected a finite number above 0, got 0\.0\."):
        sj.lru(3, max_phase=0.0)
    with pytest.raises(
        ValueError, match=r"lru\(state_size\): expected a whole number of at least 1, got 0\."
    ):
        sj.lru(3, state_size=0)
