"""Test variants of simple and gated networks: initial weights, gradients in closed form, options."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.cells import assert_equal, init, jacobian, normal, shaken
from helpers.tiers import slow
from references.gated import sigmoid
from references.gated_variants import layer_norm
from scipy.special import expn

import seqjax as sj
from seqjax.cells import REGISTRY, ElmanCarry, LSTMCarry

T, B, D, H = 7, 3, 4, 6
KEY = jax.random.key(0)


def columns(params, xs, which, gates):
    """Pre-activations of one gate where h plays no part."""
    return np.split(xs @ params.w_x + params.b, gates, axis=-1)[which]


def assert_uniform(samples, low, high):
    """Within the bounds, and the greatest distance of the distributions below its 99.9 % quantile."""
    samples = np.sort(np.ravel(samples).astype(float))
    assert low * (1 - 1e-6) <= samples[0] and samples[-1] <= high * (1 + 1e-6)
    ideal = (samples - low) / (high - low)
    steps = np.arange(len(samples) + 1) / len(samples)
    assert max(np.abs(ideal - steps[1:]).max(), np.abs(ideal - steps[:-1]).max()) < 1.95 / math.sqrt(
        len(samples)
    )


@functools.cache
def many_inits(cell):
    """Params drawn 500 times."""
    return jax.tree.map(
        np.asarray,
        jax.jit(jax.vmap(lambda key: cell.init(key, jnp.ones((B, D)))))(jax.random.split(KEY, 500)),
    )


# ---------------------------------------------------------------- gradients along the carry, in closed form


def refined(params, xs):
    f, r = sigmoid(columns(params, xs, 0, 4)), sigmoid(columns(params, xs, 1, 4))
    return r * (1 - (1 - f) ** 2) + (1 - r) * f**2


# What one step keeps of c (of h, where there is no c) if the gates do not depend on the carry.
KEEPS = {
    "chrono_lstm": lambda params, xs: sigmoid(columns(params, xs, 1, 4)),
    "peephole_lstm": lambda params, xs: sigmoid(columns(params, xs, 1, 4)),
    "coupled_lstm": lambda params, xs: 1 - sigmoid(columns(params, xs, 0, 3)),
    "projection_lstm": lambda params, xs: sigmoid(columns(params, xs, 1, 4)),
    "layer_norm_lstm": lambda params, xs: sigmoid(
        np.split(layer_norm(xs @ params.w_x, params.alpha_x, params.b), 4, axis=-1)[1]
    ),
    "ur_lstm": refined,
    "mgu": lambda params, xs: 1 - sigmoid(columns(params, xs, 0, 2)),
    "mgu_reset_after": lambda params, xs: 1 - sigmoid(columns(params, xs, 0, 2)),
    "ugrnn": lambda params, xs: sigmoid(columns(params, xs, 0, 2)),
}


@pytest.mark.parametrize("name", KEEPS)
@pytest.mark.fast_cases(1)
def test_gates_of_the_input_alone_carry_by_their_product(name):
    cell, xs = REGISTRY[name].make(H), normal(2, T, D)
    params = shaken(init(cell))
    blind = {
        field: jnp.zeros_like(getattr(params, field))
        for field in ("w_h", "w_ci", "w_cf")
        if hasattr(params, field)
    }
    params = params._replace(**blind)
    carry = shaken(cell.initial_carry(params, jnp.asarray(xs[0])))
    expected = KEEPS[name](jax.tree.map(np.asarray, params), xs)
    assert_equal(jacobian(cell, params, carry, jnp.asarray(xs)), np.diag(expected.prod(0)))


@pytest.mark.slow  # as those of biases in test_cells.py
def test_over_bfloat16_inputs_the_gradients_of_peepholes_add_up_in_float32():
    """Over 2,048 rows a sum of equal terms in bfloat16 stops at 256 of them."""
    layer = sj.recurrent(sj.peephole_lstm(4), sj.Scan())

    def gradients(dtype):
        xs = jnp.full((64, 32, 2), 0.7, dtype)
        params = jax.tree.map(lambda p: p.astype(jnp.float32), init(sj.peephole_lstm(4), 2))
        carry = layer.initial_carry(params, xs[0])
        loss = lambda p: jnp.sum(layer.unroll(p, carry, xs)[1].astype(jnp.float32))  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    found, expected = gradients(jnp.bfloat16), gradients(jnp.float32)
    for name in ("w_ci", "w_cf", "w_co"):
        exact = getattr(expected, name)
        np.testing.assert_allclose(getattr(found, name), exact, rtol=0, atol=0.1 * np.abs(exact).max())


def test_peepholes_add_the_slopes_of_their_gates_to_the_gradient_along_c():
    cell, x = sj.peephole_lstm(H), normal(2, 1, D)
    params = shaken(init(cell))._replace(w_h=jnp.zeros((H, 4 * H)))
    c, h = normal(3, 2, H)
    i, f, g, _ = np.split((x @ params.w_x + params.b)[0], 4)
    i, f = sigmoid(i + params.w_ci * c), sigmoid(f + params.w_cf * c)
    expected = f + params.w_cf * f * (1 - f) * c + params.w_ci * i * (1 - i) * np.tanh(g)
    assert_equal(jacobian(cell, params, LSTMCarry(c, h), jnp.asarray(x)), np.diag(expected))


def folding_lengths(cell, scales=None, steps=5):
    """Steps in which the gradient along the first leaf of the carry falls by e, for inputs and w_h of zero.

    Scales, one per unit, multiply the biases.
    """
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), init(cell))
    params = params._replace(w_h=jnp.zeros_like(params.w_h))
    if scales is not None:
        params = params._replace(b=params.b * np.tile(scales, len(params.b) // len(scales)))
    xs = jnp.zeros((steps, D))
    kept = jacobian(cell, params, cell.initial_carry(params, xs[0]), xs)
    assert_equal(kept, np.diag(np.diag(kept)))
    return -steps / np.log(np.diag(kept))


@pytest.mark.parametrize(
    "cell",
    [
        sj.lstm(5), sj.layer_norm_lstm(5), sj.ugrnn(5),
        *slow(sj.coupled_lstm(5), sj.peephole_lstm(5), sj.projection_lstm(5, cell_size=5)),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.fast_cases(1)
def test_a_bias_sets_the_e_folding_length(cell):
    lengths = folding_lengths(cell, scales=[0, 1, 2, math.log(99), math.log(999)])
    np.testing.assert_allclose(lengths, [1.443, 3.192, 7.878, 99.50, 999.5], rtol=0, atol=1e-3)


def test_chrono_lengths_are_those_of_its_biases():
    cell = sj.chrono_lstm(64, t_max=200)
    u = np.exp(np.split(init(cell).b, 4)[1].astype(float))
    lengths = folding_lengths(cell)
    np.testing.assert_allclose(lengths, 1 / np.log1p(1 / u), rtol=1e-9)
    np.testing.assert_allclose(lengths, u + 0.5, rtol=0, atol=1 / 12)
    assert 1.44 < lengths.min() < 20 and 180 < lengths.max() < 200


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.fast_cases(1)
def test_irnn_starts_as_the_identity_on_active_units(scale):
    cell = sj.irnn(H, scale=scale, param_dtype=jnp.float64)
    params = init(cell)
    h = np.abs(normal(0, H)) * [1, 1, -1, 1, -1, 1]
    got = jacobian(cell, params, ElmanCarry(jnp.asarray(h)), jnp.zeros((T, D)))
    np.testing.assert_array_equal(got, np.diag((h > 0) * scale**T))
    ys = jax.jit(sj.recurrent(cell).unroll)(params, ElmanCarry(jnp.asarray(h)), jnp.zeros((T, D)))[1]
    np.testing.assert_array_equal(ys, scale ** np.arange(1, T + 1)[:, None] * np.maximum(h, 0))


@pytest.mark.parametrize(
    ("activation", "slope"),
    [("relu", lambda h: h > 0), ("tanh", lambda h: 1 - h * h), ("identity", np.ones_like)],
)
@pytest.mark.fast_cases(1)
def test_indrnn_carries_each_unit_by_its_weight_and_slopes(activation, slope):
    cell, xs = sj.indrnn(H, activation=activation), jnp.asarray(normal(2, T, D))
    params = shaken(init(cell))
    params = params._replace(b=params.b + 1)  # most units active
    carry = ElmanCarry(jnp.asarray(normal(3, H)))
    hs = np.asarray(jax.jit(sj.recurrent(cell).unroll)(params, carry, xs)[1])
    expected = np.prod(np.asarray(params.w_h) * slope(hs), 0)
    assert np.count_nonzero(expected) > 1
    assert_equal(jacobian(cell, params, carry, xs), np.diag(expected))


@pytest.mark.parametrize(("refine", "bound"), [(40.0, lambda f: 1 - (1 - f) ** 2), (-40.0, lambda f: f**2)])
@pytest.mark.fast_cases(1)
def test_a_refine_gate_reaches_the_bounds_of_its_paper(refine, bound):
    cell, f = sj.ur_lstm(H), np.linspace(0.05, 0.95, H)
    b = np.concatenate([np.log(f / (1 - f)), np.full(H, refine), np.zeros(2 * H)])
    params = init(cell)._replace(w_x=jnp.zeros((D, 4 * H)), w_h=jnp.zeros((H, 4 * H)), b=jnp.asarray(b))
    got = jacobian(cell, params, LSTMCarry(*normal(0, 2, H)), jnp.zeros((1, D)))
    assert_equal(got, np.diag(bound(f)))


# ---------------------------------------------------------------- gates that are nearly shut


def one_step_of_c(cell, b, c, **others):
    params = jax.tree.map(jnp.zeros_like, init(cell))._replace(b=jnp.asarray(b, float), **others)
    return np.asarray(
        jax.jit(sj.recurrent(cell).unroll)(
            params, LSTMCarry(jnp.full(1, c), jnp.zeros(1)), jnp.zeros((1, D))
        )[0].c
    )


def test_coupled_gates_keep_their_relative_accuracy_at_both_ends():
    for z in (
        40.0,
        -40.0,
    ):  # (i, g, o): what is kept, for a candidate of zero; what is written, for c of zero
        np.testing.assert_allclose(
            one_step_of_c(sj.coupled_lstm(1), [z, 0, 0], 1.0), 1 / (1 + math.exp(z)), rtol=1e-14
        )
        written = math.tanh(1) / (1 + math.exp(-z))
        np.testing.assert_allclose(one_step_of_c(sj.coupled_lstm(1), [z, 1, 0], 0.0), written, rtol=1e-14)


def test_refined_gates_keep_their_relative_accuracy_at_both_ends():
    tiny = math.exp(-20) / (1 + math.exp(-20))
    # f and r near one: 1 - g = k^2 + 2 f k s, with k = 1 - f and s = 1 - r both tiny; near zero: g likewise.
    both = tiny**2 + 2 * (1 - tiny) * tiny * tiny
    np.testing.assert_allclose(
        one_step_of_c(sj.ur_lstm(1), [20, 20, 1, 0], 0.0), both * math.tanh(1), rtol=1e-13
    )
    np.testing.assert_allclose(one_step_of_c(sj.ur_lstm(1), [-20, -20, 0, 0], 1.0), both, rtol=1e-13)


# ---------------------------------------------------------------- initial weights


def test_chrono_biases_start_as_in_its_paper():
    t_max, size = 100.0, 8
    b = many_inits(sj.chrono_lstm(size, t_max=t_max, param_dtype=jnp.float64)).b
    b_i, b_f, b_g, b_o = np.split(b, 4, axis=1)
    u = np.exp(b_f)
    assert_uniform(u, 1, t_max - 1)
    np.testing.assert_array_equal(b_i, -b_f)
    assert not b_g.any() and not b_o.any()
    for lag in (1, 10, 100, 300):
        kept = (u / (1 + u)) ** lag
        error = 5 * kept.std() / math.sqrt(kept.size)
        assert kept.mean() == pytest.approx(expn(2, lag / t_max), abs=error + 0.02)


def test_chrono_has_the_equations_of_lstm():
    chrono, plain = sj.chrono_lstm(H), sj.lstm(H)
    params, xs = shaken(init(chrono)), jnp.asarray(normal(0, T, B, D))
    carry = plain.initial_carry(params, xs[0])
    got, expected = (jax.jit(sj.recurrent(cell).unroll)(params, carry, xs) for cell in (chrono, plain))
    assert_equal(got, expected, rtol=0)
    assert chrono != plain and chrono == sj.chrono_lstm(H) and repr(chrono) == f"chrono_lstm(hidden_size={H})"


def test_refine_biases_start_uniform_over_the_gate():
    size = 8
    b_f, b_r, b_u, b_o = np.split(many_inits(sj.ur_lstm(size, param_dtype=jnp.float64)).b, 4, axis=1)
    assert_uniform(sigmoid(b_f), 1 / size, 1 - 1 / size)
    np.testing.assert_array_equal(b_r, -b_f)
    assert not b_u.any() and not b_o.any()


def test_the_smallest_ur_lstms_start_in_the_middle():
    for size in (1, 2):
        np.testing.assert_allclose(init(sj.ur_lstm(size)).b, 0, atol=1e-6)


def test_irnn_starts_with_small_normal_inputs():
    params = many_inits(sj.irnn(H))
    assert (params.w_h == np.eye(H)).all() and not params.b.any()
    inputs = params.w_x / 0.001
    # 12000 standard normal numbers: mean, variance and fourth moment, each within 5 standard errors.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        assert (inputs**power).mean() == pytest.approx(moment, abs=5 * math.sqrt(variance / inputs.size))
    assert (many_inits(sj.irnn(H, scale=0.01)).w_h == np.float32(0.01) * np.eye(H, dtype=np.float32)).all()


def test_indrnn_weights_start_uniform_between_their_bounds():
    params = many_inits(sj.indrnn(H, w_min=0.9, w_max=1.1, param_dtype=jnp.float64))
    assert_uniform(params.w_h, 0.9, 1.1)
    bound = math.sqrt(6 / (D + H))  # Glorot, Bengio 2010, eq. 16
    assert_uniform(params.w_x + bound, 0, 2 * bound)
    assert not params.b.any()
    assert_uniform(many_inits(sj.indrnn(H, param_dtype=jnp.float64)).w_h, 0, 1)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda b: sj.peephole_lstm(2, forget_bias=b), [0, 0, 3, 3, 0, 0, 0, 0]),
        (lambda b: sj.coupled_lstm(2, forget_bias=b), [-3, -3, 0, 0, 0, 0]),
        (lambda b: sj.projection_lstm(1, cell_size=2, forget_bias=b), [0, 0, 3, 3, 0, 0, 0, 0]),
        (lambda b: sj.layer_norm_lstm(2, forget_bias=b), [0, 0, 3, 3, 0, 0, 0, 0]),
        (lambda b: sj.ugrnn(2, update_bias=b), [3, 3, 0, 0]),
    ],
    ids=["peephole", "coupled", "projection", "layer_norm", "ugrnn"],
)
@pytest.mark.fast_cases(2)
def test_only_the_gate_that_keeps_starts_with_a_bias(make, expected):
    np.testing.assert_array_equal(init(make(3.0)).b, expected)


def test_peepholes_and_norms_start_neutral():
    params = init(sj.peephole_lstm(H))
    assert not any(w.any() for w in (params.w_ci, params.w_cf, params.w_co))
    params = init(sj.layer_norm_lstm(H))
    assert all((alpha == 1).all() for alpha in (params.alpha_x, params.alpha_h, params.alpha_c))
    assert not params.b_c.any()


def test_projection_weights_start_with_orthogonal_rows_and_uniform():
    size, cells = 20, 30
    params = jax.tree.map(np.asarray, init(sj.projection_lstm(size, cell_size=cells)))
    for gate in np.split(params.w_h.astype(float), 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(size), atol=20 * np.finfo(np.float32).eps)
    for gate in np.split(params.w_x, 4, axis=1):
        bound = math.sqrt(6 / (D + cells))
        assert_uniform(gate + bound, 0, 2 * bound)
    bound = math.sqrt(6 / (cells + size))
    assert_uniform(params.w_p + bound, 0, 2 * bound)


def test_a_projection_has_twice_as_many_cells_by_default():
    layer = sj.recurrent(sj.projection_lstm(H))
    params = layer.init(KEY, jnp.zeros((B, D)))
    carry, ys = jax.jit(layer.unroll)(
        params, layer.initial_carry(params, jnp.zeros((B, D))), jnp.ones((T, B, D))
    )
    assert carry.c.shape == (B, 2 * H) and carry.h.shape == (B, H) and ys.shape == (T, B, H)


# ---------------------------------------------------------------- layer normalization


def test_layer_norm_takes_no_notice_of_the_scale_of_the_weights():
    layer, xs = sj.recurrent(sj.layer_norm_lstm(H, epsilon=1e-24)), jnp.asarray(normal(0, T, B, D))
    params = shaken(init(sj.layer_norm_lstm(H)))
    carry = LSTMCarry(*jnp.asarray(normal(1, 2, B, H)))
    scaled = params._replace(w_x=1000 * params.w_x, w_h=0.01 * params.w_h)
    assert_equal(
        jax.jit(layer.unroll)(scaled, carry, xs), jax.jit(layer.unroll)(params, carry, xs), rtol=1e-11
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.fast_cases(1)
def test_layer_norm_has_finite_gradients_where_h_and_x_are_zero(dtype):
    cell = sj.layer_norm_lstm(H)
    params, xs = init(cell), jnp.zeros((T, B, D), dtype)

    def loss(params, xs):
        return jnp.sum(sj.recurrent(cell).unroll(params, cell.initial_carry(params, xs[0]), xs)[1] ** 2)

    gradients = jax.jit(jax.grad(loss, (0, 1)))(params, xs)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))


# ---------------------------------------------------------------- options


def test_both_forms_of_mgu_coincide_where_the_matrix_of_the_candidate_is_diagonal():
    before, after = sj.mgu(H), sj.mgu(H, reset_after=True)
    params, xs = shaken(init(before)), jnp.asarray(normal(0, T, B, D))
    carry = type(before.initial_carry(params, xs[0]))(jnp.asarray(normal(1, B, H)))
    diagonal = params._replace(w_h=params.w_h.at[:, H:].set(jnp.diag(normal(2, H))))
    unrolled = [
        [jax.jit(sj.recurrent(cell).unroll)(p, carry, xs)[1] for cell in (before, after)]
        for p in (diagonal, params)
    ]
    assert_equal(*unrolled[0])
    assert np.abs(unrolled[1][0] - unrolled[1][1]).max() > 0.01


# ---------------------------------------------------------------- errors


def refuses(message, make):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("t_max", [2, -1.0, math.inf, math.nan])
def test_a_time_without_room_is_refused(t_max):
    message = f"chrono_lstm(t_max): expected a finite number of steps above 2, got {t_max!r}."
    refuses(message, lambda: sj.chrono_lstm(3, t_max=t_max))


@pytest.mark.parametrize("epsilon", [0.0, -1e-5, math.nan])
def test_a_variance_needs_something_added(epsilon):
    message = f"layer_norm_lstm(epsilon): expected a finite number above 0, got {epsilon!r}."
    refuses(message, lambda: sj.layer_norm_lstm(3, epsilon=epsilon))


def test_a_projection_needs_a_cell():
    message = "projection_lstm(cell_size): expected a whole number of at least 1, got 0."
    refuses(message, lambda: sj.projection_lstm(3, cell_size=0))


@pytest.mark.parametrize(("w_min", "w_max"), [(0.5, 0.4), (0.0, math.inf), (-math.inf, 1.0), (math.nan, 1.0)])
def test_other_arguments_of_indrnn_are_checked(w_min, w_max):
    message = f"indrnn: expected finite w_min <= w_max, got w_min={w_min}, w_max={w_max}."
    refuses(message, lambda: sj.indrnn(3, w_min=w_min, w_max=w_max))
    message = "indrnn(activation): expected one of 'tanh', 'relu', 'identity', got 'gelu'."
    refuses(message, lambda: sj.indrnn(3, activation="gelu"))


def test_inputs_of_layer_norm_lstm_are_checked():
    cell = sj.layer_norm_lstm(H)
    params, layer = init(cell), sj.recurrent(cell)
    carry = cell.initial_carry(params, jnp.zeros((B, D)))
    weights = f"(the input weights are [{D}, {4 * H}])"
    message = f"layer_norm_lstm(hidden_size={H}).unroll: expected floating xs [..., {D}] {weights}, got "
    for xs in (jnp.zeros((T, B, D + 1)), jnp.zeros((T, B, D), int)):
        with pytest.raises(ValueError, match=re.escape(f"{message}{xs.dtype} [{B}, {xs.shape[-1]}].")):
            layer.unroll(params, carry, xs)
