"""Test rg_lru, min_gru, min_lstm, qrnn, sru, hgrn and rtu: closed forms, options, numerics, errors."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import diagonal
from references.gated import sigmoid

import seqjax as sj

KEY = jax.random.key(0)
T, B, D, H = 7, 2, 3, 4
F64 = {"param_dtype": jnp.float64}


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def init(cell, width=D):
    return jax.jit(cell.init)(KEY, jnp.zeros((B, width)))


def shaken(params):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: jnp.asarray(np.asarray(p, float) + 0.3 * rng.normal(size=p.shape)), params)


def close(got, expected, rtol=1e-12):
    np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * np.abs(expected).max())


def carried(cell, params, carry, xs):
    """d carry after / d carry before, for one example."""
    layer = sj.recurrent(cell)
    run = jax.jacrev(lambda c: layer.unroll(params, c, xs)[0], holomorphic=jnp.iscomplexobj(carry))
    return np.asarray(jax.jit(run)(carry))


# ---------------------------------------------------------------- gradients along the carry, in closed form


def decays(name, params, xs):
    """The decay of every step, from the paper's equations."""
    at = functools.partial(np.split, axis=-1)
    match name:
        case "rg_lru":
            us = xs @ params.w_x
            return sigmoid(params.a_logit) ** (8 * sigmoid(us @ params.w_r[0] + params.b_r))
        case "min_gru":
            return 1 - sigmoid(at(xs @ params.w_x + params.b, 2)[0])
        case "min_lstm":
            f, i, _ = at(xs @ params.w_x + params.b, 3)
            return sigmoid(f) / (sigmoid(f) + sigmoid(i))
        case "qrnn":
            return sigmoid(at(xs @ params.w_x + params.b, 3)[1])
        case "sru":
            return sigmoid(at(xs @ params.w_x, 3)[0] + params.b[:H])
        case "hgrn":
            return (0.3 + 0.7 * sigmoid(xs @ params.w_f + params.b_f)) * np.exp(1j * params.theta)
    return np.broadcast_to(np.exp(-np.exp(params.nu_log) + 1j * np.exp(params.theta_log)), (T, H))


CELLS = {
    "rg_lru": sj.rg_lru(H),
    "min_gru": sj.min_gru(H),
    "min_lstm": sj.min_lstm(H),
    "qrnn": sj.qrnn(H),
    "sru": sj.sru(H),
    "hgrn": sj.hgrn(H, lower_bound=0.3),
    "rtu": sj.rtu(H),
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.fast_cases(1)
def test_the_carry_is_carried_by_the_product_of_the_decays(name):
    cell, xs = CELLS[name], normal(0, T, D)
    params = shaken(init(cell))
    carry = cell.initial_carry(params, jnp.asarray(xs[0])) + 0.5
    product = decays(name, jax.tree.map(np.asarray, params), xs).prod(0)
    close(carried(cell, params, carry, jnp.asarray(xs)), np.diag(product))
    if name == "hgrn":
        assert (np.abs(product) >= 0.3**T).all()


def test_a_nonlinear_rtu_without_nonlinearity_is_the_linear_one():
    xs = jnp.asarray(normal(0, T, B, D))
    results = []
    for nonlinear in (False, True):
        layer = sj.recurrent(sj.rtu(H, nonlinear=nonlinear, activation="identity"))
        params = shaken(layer.init(KEY, xs[0]))
        results.append(jax.jit(layer.unroll)(params, layer.initial_carry(params, xs[0]), xs))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        close(a, np.asarray(b))


# ---------------------------------------------------------------- numerics at the edges of the gates


def test_rg_lru_keeps_the_variance_and_a_finite_gradient_where_its_gate_is_shut():
    cell = sj.rg_lru(1, input_map=False)
    params = init(cell, 1)._replace(w_r=jnp.zeros((1, 1, 1)), w_i=jnp.zeros((1, 1, 1)))
    for z in (0.0, -20.0, -80.0, -120.0):
        for logit in (0.0, 30.0):
            p = jax.tree.map(lambda a: a.astype(jnp.float32), params._replace(a_logit=jnp.full(1, logit)))

            def loss(b_r, a_logit, p=p):
                inputs = cell.project(p._replace(b_r=b_r, a_logit=a_logit), jnp.ones((1,), jnp.float32))
                return (2 * inputs.b)[0], inputs.a  # i = 1/2

            (b, a), slopes = jax.value_and_grad(loss, (0, 1), has_aux=True)(
                jnp.full(1, z, jnp.float32), p.a_logit
            )
            log_rho = math.log(8) - np.logaddexp(0, -z) + (math.log(np.log1p(math.exp(-logit))))
            exact = (
                math.exp((log_rho + math.log(2)) / 2)
                if log_rho < -30
                else math.sqrt(-math.expm1(-2 * math.exp(log_rho)))
            )
            assert b == pytest.approx(exact, rel=3e-5, abs=0)
            assert a[0] == pytest.approx(math.exp(-math.exp(log_rho)), rel=1e-6)
            assert all(np.isfinite(s).all() for s in slopes)
            if z < -10:  # b is proportional to the square root of rho
                assert slopes[0][0] == pytest.approx(exact / 2, rel=1e-4, abs=0)


def test_the_gates_of_min_lstm_stay_finite_where_both_shut():
    cell = sj.min_lstm(1)
    for p, k in (
        (-2000.0, -2000.0),
        (-2000.0, -1999.0),
        (2000.0, 2000.0),
        (-2000.0, 2000.0),
        (2000.0, -2000.0),
    ):
        params = init(cell, 1)._replace(w_x=jnp.zeros((1, 3)), b=jnp.asarray([p, k, 1.0]))

        def decay(params):
            inputs = cell.project(params, jnp.ones((1,)))
            return inputs.a[0], inputs.b[0]

        a, b = decay(params)
        # f / (f + i) with f = e^p, i = e^k where both are shut
        expected = 1 / (1 + math.exp(np.clip(min(k, 0) - min(p, 0), -700, 700)))
        assert a == pytest.approx(expected, rel=1e-12, abs=1e-300) and a + b == pytest.approx(1, rel=1e-12)
        slope = jax.grad(lambda params, decay=decay: decay(params)[0])(params).b
        assert np.isfinite(slope).all()
    assert abs(slope[0]) <= 0.25


@pytest.mark.parametrize("name", ["min_gru", "qrnn", "sru", "hgrn"])
@pytest.mark.fast_cases(2)
def test_an_almost_open_gate_lets_in_a_little_with_full_accuracy(name):
    """1 - sigmoid(40) is zero in float32; the gain is 4e-18."""
    cell = {**CELLS, "hgrn": sj.hgrn(H)}[name]
    params = jax.tree.map(jnp.zeros_like, init(cell))
    gate = {"min_gru": ("b", slice(0, H), -40.0), "qrnn": ("b", slice(H, 2 * H), 40.0)}
    field, at, value = gate.get(name, ("b" if name == "sru" else "b_f", slice(0, H), 40.0))
    params = params._replace(**{field: getattr(params, field).at[at].set(value)})
    if name in ("min_gru", "qrnn"):
        candidate = slice(H, 2 * H) if name == "min_gru" else slice(0, H)
        params = params._replace(b=params.b.at[candidate].set(1.0))
    if name == "sru":
        params = params._replace(w_x=params.w_x.at[:, 2 * H :].set(1 / D))
    if name == "hgrn":
        params = params._replace(b_c=params.b_c.at[:H].set(1.0))
    gain = cell.project(params, jnp.ones((1, D), jnp.float32)).b.real[0, 0]
    candidate = {"qrnn": math.tanh(1), "hgrn": sigmoid(1.0)}.get(name, 1.0)
    assert gain == pytest.approx(math.exp(-40) * candidate, rel=1e-5, abs=0)


# ---------------------------------------------------------------- initial values


def test_rg_lru_starts_with_decays_uniform_between_its_bounds():
    size = 20_000
    init_logit = jax.jit(
        lambda: sj.rg_lru(size, num_blocks=size, input_map=False, **F64).init(KEY, jnp.zeros((1, size)))
    )
    a = sigmoid(np.asarray(init_logit().a_logit)) ** 8
    assert 0.9 <= a.min() and a.max() <= 0.999
    for lag in (1, 8, 64):  # moments of a uniform number, as of the ring of an LRU
        power = a**lag
        expected = (0.999 ** (lag + 1) - 0.9 ** (lag + 1)) / ((lag + 1) * 0.099)
        assert abs(power.mean() - expected) < 5 * power.std() / math.sqrt(size)


@pytest.mark.parametrize(("r_min", "r_max"), [(0.0, 1.0), (0.4, 0.9)])
def test_rtu_moduli_start_in_the_ring(r_min, r_max):
    size = 50_000
    params = init(sj.rtu(size, r_min=r_min, r_max=r_max, max_phase=0.3, **F64), 1)
    modulus, angle = np.exp(-np.exp(params.nu_log)), np.exp(params.theta_log)
    assert modulus.min() >= r_min and modulus.max() <= r_max and 0 < angle.min() and angle.max() <= 0.3
    assert angle.mean() == pytest.approx(0.15, abs=5 * 0.3 / math.sqrt(12 * size))
    for lag in (1, 8, 64):
        power = modulus ** (2 * lag)
        expected = (r_max ** (2 * (lag + 1)) - r_min ** (2 * (lag + 1))) / ((lag + 1) * (r_max**2 - r_min**2))
        assert abs(power.mean() - expected) < 5 * power.std() / math.sqrt(size)


@pytest.mark.parametrize("make", [sj.lru, sj.rtu])
def test_in_bfloat16_moduli_start_in_the_whole_ring(make):
    """What is stored is the logarithm of the rate, which has digits enough; near 1 the modulus has four values."""
    params = init(make(512, r_min=0.99, r_max=0.999, param_dtype=jnp.bfloat16), 1)
    modulus = np.exp(-np.exp(np.float64(params.nu_log)))
    assert 0.9898 < modulus.min() < 0.9902 and 0.9988 < modulus.max() < 0.9991
    assert len(np.unique(modulus)) > 50


def test_rtu_edges_of_the_ring_are_finite():
    for r_min, r_max in ((1 - 1e-12, 1.0), (0.0, 1e-12)):
        assert all(np.isfinite(p).all() for p in init(sj.rtu(100, r_min=r_min, r_max=r_max), 1))


def test_biases_and_angles_start_as_stated():
    np.testing.assert_array_equal(init(sj.min_lstm(2, forget_bias=1.5)).b, [1.5, 1.5, 0, 0, 0, 0])
    np.testing.assert_array_equal(init(sj.sru(2, highway_bias=-3.0)).b, [0, 0, -3, -3])
    np.testing.assert_allclose(init(sj.hgrn(4, **F64)).theta, 10000.0 ** (-np.arange(4) / 2), rtol=1e-12)
    low = np.float64(init(sj.hgrn(600, param_dtype=jnp.bfloat16)).theta)  # not each angle twice
    np.testing.assert_allclose(low, 10000.0 ** (-np.arange(600) / 300), rtol=0.004)


def test_weights_start_with_the_stated_variance():
    size, width = 64, 48
    for cell, field, variance in (
        (sj.sru(size), "w_x", 1 / width),  # uniform within sqrt(3 / D)
        (sj.qrnn(size), "w_x", 2 / (width + size)),  # Glorot
        (sj.min_gru(size), "w_x", 2 / (width + size)),
        (sj.rg_lru(size, num_blocks=4), "w_r", 1 / 16),
        (sj.rtu(size), "w_x", 1 / width),
        (sj.hgrn(size), "w_o", 1 / (2 * size)),
    ):
        w = np.asarray(getattr(init(cell, width), field))
        assert np.square(w).mean() == pytest.approx(variance, rel=5 * math.sqrt(2 / w.size)), cell


# ---------------------------------------------------------------- options


OPTIONS = {
    "rg_lru": (sj.rg_lru(H, num_blocks=2, input_map=False), diagonal.rg_lru, H),
    "min_gru": (sj.min_gru(H, activation="positive"), diagonal.min_gru(diagonal.positive), D),
    "min_lstm": (sj.min_lstm(H, activation="positive"), diagonal.min_lstm(diagonal.positive), D),
    "qrnn f": (sj.qrnn(H, pooling="f"), diagonal.qrnn("f"), D),
    "sru of one width": (sj.sru(H, highway_bias=-1.0), diagonal.sru(-1.0), H),
    "sru peepholes": (sj.sru(H, peepholes=True, highway_bias=-1.0), diagonal.sru(-1.0), H),
    "rtu": (sj.rtu(H, activation="tanh"), diagonal.rtu(False, np.tanh), D),
    "rtu nonlinear": (sj.rtu(H, nonlinear=True), diagonal.rtu(True), D),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.fast_cases(3)
def test_options_equal_the_reference(name):
    cell, reference, width = OPTIONS[name]
    params, xs = shaken(init(cell, width)), jnp.asarray(normal(0, T, B, width))
    carry = cell.initial_carry(params, xs[0]) + 0.5
    got = jax.jit(sj.recurrent(cell).unroll)(params, carry, xs)
    for a, b in zip(got, reference(*jax.tree.map(np.asarray, (params, carry, xs))), strict=True):
        close(a, b)


def test_sru_projects_its_highway_only_between_different_widths():
    assert init(sj.sru(D)).w_skip is None and init(sj.sru(H)).w_skip.shape == (D, H)


def test_two_streams_of_a_token_shift_make_a_qrnn_of_window_two():
    """Bradbury et al. 2017, eq. 2: z_t = tanh(W^1 x_{t-1} + W^2 x_t), and so on; x_0 is zero."""
    layer = sj.serial(sj.token_shift(num_outputs=2), sj.recurrent(sj.qrnn(H)))
    xs = normal(0, T, B, D)
    shift, gates = shaken(layer.init(KEY, jnp.asarray(xs[0])))
    w_1, w_2 = normal(1, D, 3 * H), normal(2, D, 3 * H)
    # x W_2 + x' W_1 = sum_s (x + mu_s (x' - x)) V_s:  V_1 + V_2 = W_1 + W_2,  mu_1 V_1 + mu_2 V_2 = W_1.
    mu_1, mu_2 = np.asarray(shift.mu)[..., None]
    v_1 = (w_1 - mu_2 * (w_1 + w_2)) / (mu_1 - mu_2)
    v = np.concatenate([v_1, w_1 + w_2 - v_1])
    params = (shift, gates._replace(w_x=jnp.asarray(v), b=jnp.zeros(3 * H)))
    ys = layer.unroll(params, layer.initial_carry(params, jnp.asarray(xs[0])), jnp.asarray(xs))[1]
    c, before = np.zeros((B, H)), np.zeros((B, D))
    for x, y in zip(xs, ys, strict=True):
        z, f, o = np.split(before @ w_1 + x @ w_2, 3, -1)
        c = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(z)
        close(y, sigmoid(o) * c, 1e-10)
        before = x


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sj.rg_lru(4, num_blocks=3),
            "rg_lru(num_blocks): expected a divisor of hidden_size=4, got 3.",
        ),
        (
            lambda: sj.rg_lru(4, num_blocks=0),
            "rg_lru(num_blocks): expected a whole number of at least 1, got 0.",
        ),
        (lambda: sj.rg_lru(4, exponent=0.0), "rg_lru(exponent): expected a finite number above 0, got 0.0."),
        (
            lambda: sj.rg_lru(4, a_max=1.0),
            "rg_lru: expected 0 < a_min < a_max < 1, got a_min=0.9, a_max=1.0.",
        ),
        (
            lambda: sj.min_gru(4, activation="g"),
            "min_gru(activation): expected one of 'identity', 'positive', got 'g'.",
        ),
        (
            lambda: sj.min_lstm(4, activation=None),
            "min_lstm(activation): expected one of 'identity', 'positive', got None.",
        ),
        (lambda: sj.qrnn(4, pooling="fi"), "qrnn(pooling): expected one of 'f', 'fo', 'ifo', got 'fi'."),
        (lambda: sj.hgrn(4, lower_bound=1.0), "hgrn(lower_bound): expected a number in [0, 1), got 1.0."),
        (
            lambda: sj.rtu(4, activation="gelu"),
            "rtu(activation): expected one of 'relu', 'tanh', 'identity', got 'gelu'.",
        ),
        (lambda: sj.rtu(4, r_min=1.0), "rtu: expected 0 <= r_min < r_max <= 1, got r_min=1.0, r_max=1.0."),
        (lambda: sj.rtu(4, max_phase=0.0), "rtu(max_phase): expected a finite number above 0, got 0.0."),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("name", CELLS)
def test_inputs_that_do_not_fit_are_refused(name):
    cell = CELLS[name]
    params = init(cell)
    carry = cell.initial_carry(params, jnp.zeros((B, D)))
    for x, found in ((jnp.zeros((B, 2)), "float64 [2, 2]"), (jnp.zeros((B, D), int), "int64 [2, 3]")):
        with pytest.raises(
            ValueError, match=rf"expected floating xs \[\.\.\., 3\] .* got {re.escape(found)}"
        ):
            sj.recurrent(cell).step(params, carry, x)
