"""Test s4d, s5 and mamba: initialization, discretization and closed forms, options, errors."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references.diagonal import mamba as mamba_reference
from references.diagonal import s4d as s4d_reference
from references.diagonal import s5 as s5_reference

import seqjax as sj
from seqjax.cells.s5 import hippo_modes
from seqjax.ops.discretize import bilinear, complement, log_softplus, zero_order_hold

KEY = jax.random.key(0)
T, B, D, H = 9, 2, 3, 4
F64 = {"param_dtype": jnp.float64}


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def init(cell, width=D):
    return jax.jit(cell.init)(KEY, jnp.zeros((B, width)))


def unroll(cell, params, xs, carry=None):
    layer = sj.recurrent(cell)
    xs = jnp.asarray(xs)
    carry = layer.initial_carry(params, xs[0]) if carry is None else carry
    return jax.tree.map(np.asarray, jax.jit(layer.unroll)(params, carry, xs))


def shaken(params):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: jnp.asarray(np.asarray(p, float) + 0.2 * rng.normal(size=p.shape)), params)


def matrix_exponential(matrix):
    """By eigen-decomposition."""
    values, vectors = np.linalg.eig(matrix)
    return (vectors * np.exp(values)) @ np.linalg.inv(vectors)


def close(got, expected, rtol=1e-12):
    np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * np.abs(expected).max())


# ---------------------------------------------------------------- discretization


def test_zero_order_hold_is_the_matrix_exponential_of_the_augmented_system():
    a, step = np.array([-0.5 + 3j, -2.0 + 0j, -1e-3 + 40j]), np.array([0.1, 1.0, 0.02])
    decay, gain = zero_order_hold(jnp.asarray(a), jnp.asarray(step + 0j))
    for i in range(3):
        # d/dt (s, u) = ((a, 1), (0, 0)) (s, u)
        expected = matrix_exponential(step[i] * np.array([[a[i], 1], [0, 0]]))
        np.testing.assert_allclose([decay[i], gain[i]], expected[0], rtol=1e-12)


def test_bilinear_keeps_the_left_half_plane_inside_the_unit_disk_and_is_second_order():
    a = jnp.asarray(-np.exp(normal(0, 1000) * 3) + 1j * 100 * normal(1, 1000))
    decay, _ = bilinear(a, jnp.ones_like(a))
    assert (np.abs(decay) < 1).all()
    errors = []
    for step in (1e-2, 5e-3):
        z = jnp.asarray([-1.0 + 2j])
        got, exact = bilinear(z, jnp.asarray([step + 0j])), zero_order_hold(z, jnp.asarray([step + 0j]))
        errors.append(abs(got[0][0] - exact[0][0]))
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.02)  # local error of order three


def test_zero_order_hold_keeps_its_accuracy_at_tiny_steps_in_float32():
    a, step = np.array([-0.5 + 3.14j, -1 + 0j]), 1e-6
    z = a * step
    exact = step * (1 + z / 2 + z**2 / 6)
    got = zero_order_hold(jnp.asarray(a, jnp.complex64), jnp.full(2, step, jnp.complex64))[1]
    assert np.abs(np.asarray(got) / exact - 1).max() < 1e-6


def test_the_complement_of_a_decay_is_accurate_and_has_a_finite_gradient():
    rho = np.array([1e-300, 1e-40, 1e-20, 1e-12, 1e-8, 1e-3, 0.5, 3.0, 40.0])
    for dtype, some in ((jnp.float64, rho), (jnp.float32, rho[2:])):
        log_rate = np.log(some).astype(dtype)
        exact = np.sqrt(-np.expm1(-2 * np.exp(log_rate.astype(float))))
        slope = np.exp(log_rate.astype(float)) * np.exp(-2 * np.exp(log_rate.astype(float))) / exact
        got, d_got = jax.vmap(jax.value_and_grad(complement))(jnp.asarray(log_rate, dtype))
        eps = float(jnp.finfo(dtype).eps)
        roundings = 1 + np.abs(log_rate).max()  # of the exponential of log_rate
        np.testing.assert_allclose(got, exact, rtol=4 * eps * roundings)
        # Where the slope is a small difference of two terms of the size of the value, to that size.
        np.testing.assert_allclose(d_got, slope, rtol=30 * eps, atol=30 * eps)
    value, slope = jax.value_and_grad(complement)(jnp.float32(-120.0))  # rho itself is zero in float32
    exact = math.sqrt(2) * math.exp(-60)
    assert value == pytest.approx(exact, rel=1e-5, abs=0) and slope == pytest.approx(
        exact / 2, rel=1e-5, abs=0
    )


def test_log_softplus_does_not_underflow():
    y = np.array([-1000.0, -60.0, -39.9, -1.0, 0.0, 5.0])
    exact = np.where(y < -30, y, np.log(np.log1p(np.exp(np.maximum(y, -30)))))
    np.testing.assert_allclose(log_softplus(jnp.asarray(y)), exact, rtol=1e-15)
    slopes = jax.vmap(jax.grad(log_softplus))(jnp.asarray(y))
    assert slopes[0] == 1 and np.isfinite(slopes).all()


# ---------------------------------------------------------------- s4d


@pytest.mark.parametrize("name", ["lin", "inv"])
def test_s4d_starts_as_in_its_paper(name):
    params = init(sj.s4d(50, state_size=8, initialization=name, step_min=0.01, step_max=0.5, **F64))
    n = np.arange(4)
    expected = {"lin": np.pi * n, "inv": 8 / np.pi * (8 / (2 * n + 1) - 1)}[name]
    np.testing.assert_allclose(params.a_imag, np.broadcast_to(expected, (50, 4)), rtol=1e-14)
    np.testing.assert_allclose(np.exp(params.a_log), 0.5, rtol=1e-14)
    np.testing.assert_array_equal(params.b, [[1] * 4 + [0] * 4] * 50)
    step = np.exp(params.step_log)
    assert 0.01 <= step.min() < 0.02 and 0.3 < step.max() <= 0.5
    assert np.log(step).mean() == pytest.approx(np.log(0.01 * 0.5) / 2, abs=5 * np.log(50) / np.sqrt(12 * 50))
    assert np.square(params.c).mean() == pytest.approx(1, abs=5 * math.sqrt(2 / 400))


@pytest.mark.parametrize("rule", ["zero_order_hold", "bilinear"])
@pytest.mark.fast_cases(1)
def test_s4d_is_the_convolution_with_its_impulse_response(rule):
    cell = sj.s4d(H, state_size=6, discretization=rule, input_map=False, step_max=1.0, **F64)
    params = shaken(init(cell, H))
    xs = normal(0, T, B, H)
    impulse = np.zeros((T, 1, H))
    impulse[0] = 1
    kernel = unroll(cell, params, impulse)[1][:, 0]
    a = -np.exp(params.a_log) + 1j * np.asarray(params.a_imag)
    step = np.exp(params.step_log)[:, None]
    half = a * step / 2
    a_bar, factor = (np.exp(a * step), np.expm1(a * step) / a)
    if rule == "bilinear":
        a_bar, factor = (1 + half) / (1 - half), step / (1 - half)
    b, c = (np.asarray(p[:, :3] + 1j * p[:, 3:]) for p in (params.b, params.c))
    powers = a_bar ** np.arange(T)[:, None, None]
    closed = 2 * (c * b * factor * powers).sum(-1).real
    closed[0] += np.asarray(params.d)
    close(kernel, closed)
    expected = np.stack([sum(kernel[k] * xs[t - k] for k in range(t + 1)) for t in range(T)])
    close(unroll(cell, params, xs)[1], expected)


def test_s4d_carries_its_state_by_the_powers_of_its_decay():
    cell = sj.s4d(2, state_size=4, step_min=0.5, step_max=1.0, **F64)
    params = shaken(init(cell))
    xs = jnp.asarray(normal(0, T, D))
    run = jax.jit(jax.jacrev(lambda s: sj.recurrent(cell).unroll(params, s, xs)[0], holomorphic=True))
    a = (-np.exp(params.a_log) + 1j * np.asarray(params.a_imag)) * np.exp(params.step_log)[:, None]
    close(run(jnp.ones(4, complex)), np.diag(np.exp(T * a).ravel()))


# ---------------------------------------------------------------- s5


def test_the_modes_of_s5_are_those_of_the_normal_part_of_hippo():
    size = 8
    hippo = -np.sqrt(np.outer(2 * np.arange(size) + 1, 2 * np.arange(size) + 1))
    legs = np.tril(hippo, -1) - np.diag(np.arange(size) + 1.0)
    p = np.sqrt(np.arange(size) + 0.5)
    matrix = legs + np.outer(p, p)  # the rank-one correction that makes it normal
    np.testing.assert_allclose(matrix @ matrix.T, matrix.T @ matrix, atol=1e-12)
    omega, v = hippo_modes(size)
    assert (omega > 0).all() and (np.diff(omega) > 0).all()
    np.testing.assert_allclose(matrix @ v, v * (-0.5 + 1j * omega), atol=1e-12)
    np.testing.assert_allclose(v.conj().T @ v, np.eye(size // 2), atol=1e-12)


@pytest.mark.parametrize("num_blocks", [1, 2])
@pytest.mark.fast_cases(1)
def test_s5_starts_as_a_real_system_with_the_hippo_matrix(num_blocks):
    size, step = 8, 0.05
    cell = sj.s5(H, state_size=size, num_blocks=num_blocks, step_min=step, step_max=step, **F64)
    params = init(cell)
    omega, v = hippo_modes(size // num_blocks)
    np.testing.assert_allclose(params.a_imag, np.tile(omega, num_blocks), rtol=1e-14)
    np.testing.assert_allclose(np.exp(params.step_log), step, rtol=1e-14)
    # B and C real: x B = 2 Re(w_b V^T), whatever the eigenvectors' phases are.
    blocks = [
        slice(i * size // 2 // num_blocks, (i + 1) * size // 2 // num_blocks) for i in range(num_blocks)
    ]
    b_real, b_imag = np.split(np.asarray(params.w_b), 2, 1)
    c_real, minus_c = np.split(np.asarray(params.w_c), 2, 0)
    w_b, w_c = b_real + 1j * b_imag, c_real - 1j * minus_c
    b = np.concatenate([2 * (w_b[:, at] @ v.T).real for at in blocks], 1)
    c = np.concatenate([2 * (v.conj() @ w_c[at]).real for at in blocks])
    block = (v * (-0.5 + 1j * omega)) @ v.conj().T
    block = 2 * block.real
    matrix = np.kron(np.eye(num_blocks), block)
    transition = matrix_exponential(step * matrix).real
    gain = np.linalg.solve(matrix, transition - np.eye(size))
    xs, state, ys = normal(0, T, B, D), np.zeros((B, size)), []
    for x in xs:
        state = state @ transition.T + (x @ b) @ gain.T
        ys.append(state @ c + x @ np.asarray(params.w_d))
    close(unroll(cell, params, xs)[1], np.stack(ys), 1e-10)
    assert np.square(b).mean() == pytest.approx(1 / D, abs=5 / D * math.sqrt(2 / b.size))
    assert np.square(c).mean() == pytest.approx(1 / size, abs=5 / size * math.sqrt(2 / c.size))


def test_s5_takes_the_least_state_that_holds_its_outputs():
    assert init(sj.s5(5)).a_log.shape == (3,) and init(sj.s5(5, num_blocks=2)).a_log.shape == (4,)


# ---------------------------------------------------------------- mamba


def test_mamba_starts_as_in_its_paper():
    params = init(sj.mamba(300, state_size=5, step_min=1e-5, step_max=0.1, **F64))
    np.testing.assert_allclose(
        -np.exp(params.a_log), np.broadcast_to(-np.arange(1.0, 6), (300, 5)), rtol=1e-14
    )
    step = np.log1p(np.exp(params.b_step))
    assert step.min() == pytest.approx(1e-4, rel=1e-10) and 0.08 < step.max() <= 0.1  # the floor, the range
    assert params.w_low.shape == (300, 19) and params.w_step.shape == (19, 300)  # R = H / 16, rounded up
    assert 0.95 / math.sqrt(19) < np.abs(params.w_step).max() <= 1 / math.sqrt(19)
    np.testing.assert_array_equal(params.d, np.ones(300))


def test_mamba_with_a_constant_input_follows_a_linear_differential_equation():
    cell = sj.mamba(H, state_size=3, input_map=False, **F64)
    params = shaken(init(cell, H))
    u = normal(0, H)
    step = np.log1p(np.exp(u @ np.asarray(params.w_low @ params.w_step) + np.asarray(params.b_step)))
    a, forcing = -np.exp(params.a_log), u[:, None] * (u @ np.asarray(params.w_b))
    start = normal(1, H, 3)
    carry, _ = unroll(cell, params, np.broadcast_to(u, (T, 1, H)), jnp.asarray(start.reshape(1, -1)))
    rest = -forcing / a
    exact = rest + (start - rest) * np.exp(a * T * step[:, None])  # s' = a s + B u at time T steps
    close(carry[0], exact.ravel())


def test_mamba_carries_its_state_by_the_exponential_of_the_summed_steps():
    cell = sj.mamba(2, state_size=3, **F64)
    params = shaken(init(cell))
    xs = normal(0, T, D)
    run = jax.jit(jax.jacrev(lambda s: sj.recurrent(cell).unroll(params, s, jnp.asarray(xs))[0]))
    u = xs @ np.asarray(params.w_x)
    steps = np.log1p(np.exp(u @ np.asarray(params.w_low @ params.w_step) + np.asarray(params.b_step)))
    close(run(jnp.ones(6)), np.diag(np.exp(steps.sum(0)[:, None] * -np.exp(params.a_log)).ravel()))


# ---------------------------------------------------------------- options and errors


@pytest.mark.parametrize(
    ("cell", "reference"),
    [
        (sj.s4d(H, state_size=4, discretization="bilinear", input_map=False), s4d_reference("bilinear")),
        (sj.s5(H, num_blocks=2, discretization="bilinear"), s5_reference("bilinear")),
        (sj.mamba(H, state_size=3, discretization="euler", step_rank=2), mamba_reference("euler")),
        (sj.mamba(H, state_size=3, input_map=False), mamba_reference()),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
@pytest.mark.fast_cases(1)
def test_options_equal_the_reference(cell, reference):
    params = shaken(init(cell, H))
    xs = normal(0, T, B, H)
    carry = jax.tree.map(lambda c: c + 0.5, cell.initial_carry(params, jnp.asarray(xs[0])))
    got = unroll(cell, params, xs, carry)
    for a, b in zip(got, reference(*jax.tree.map(np.asarray, (params, carry, xs))), strict=True):
        close(a, b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sj.s4d(3, state_size=5), "s4d(state_size): expected a multiple of 2, got 5."),
        (lambda: sj.s4d(3, state_size=0), "s4d(state_size): expected a whole number of at least 1, got 0."),
        (
            lambda: sj.s4d(3, initialization="legs"),
            "s4d(initialization): expected one of 'lin', 'inv', got 'legs'.",
        ),
        (
            lambda: sj.s4d(3, discretization="zoh"),
            "s4d(discretization): expected one of 'zero_order_hold', 'bilinear', got 'zoh'.",
        ),
        (
            lambda: sj.s4d(3, step_min=0.0),
            "s4d(step_min, step_max): expected 0 < step_min <= step_max, got 0.0 and 0.1.",
        ),
        (
            lambda: sj.s5(3, step_max=math.nan),
            "s5(step_min, step_max): expected 0 < step_min <= step_max, got ",
        ),
        (lambda: sj.s5(3, state_size=6, num_blocks=2), "s5(state_size): expected a multiple of 4, got 6."),
        (lambda: sj.s5(3, num_blocks=0), "s5(num_blocks): expected a whole number of at least 1, got 0."),
        (
            lambda: sj.s5(3, discretization=None),
            "s5(discretization): expected one of 'zero_order_hold', 'bilinear', got ",
        ),
        (lambda: sj.mamba(3, step_rank=0), "mamba(step_rank): expected a whole number of at least 1, got 0."),
        (
            lambda: sj.mamba(3, state_size=0),
            "mamba(state_size): expected a whole number of at least 1, got 0.",
        ),
        (
            lambda: sj.mamba(3, discretization="bilinear"),
            "mamba(discretization): expected one of 'zero_order_hold', 'euler', got 'bilinear'.",
        ),
        (
            lambda: sj.mamba(3, step_min=1.0),
            "mamba(step_min, step_max): expected 0 < step_min <= step_max, got 1.0",
        ),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    "cell",
    [sj.s4d(H, state_size=2), sj.s5(H), sj.mamba(H)],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_inputs_that_do_not_fit_are_refused(cell):
    params = init(cell)
    carry = cell.initial_carry(params, jnp.zeros((B, D)))
    with pytest.raises(ValueError, match=r"expected floating xs \[\.\.\., 3\] .* got float64 \[2, 2\]"):
        sj.recurrent(cell).step(params, carry, jnp.zeros((B, 2)))
    with pytest.raises(ValueError, match=r"expected floating xs \[\.\.\., 3\] .* got int"):
        sj.recurrent(cell).step(params, carry, jnp.zeros((B, 3), int))


def test_channels_without_input_map_have_the_width_of_the_inputs():
    cell = sj.mamba(H, input_map=False)
    params = init(cell, H)
    with pytest.raises(ValueError, match=r"xs \[\.\.\., 4\] \(input_map=False: .* got float64 \[2, 3\]"):
        sj.recurrent(cell).step(params, cell.initial_carry(params, jnp.zeros((B, 3))), jnp.zeros((B, 3)))
