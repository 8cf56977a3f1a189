"""Test cells with a matrix state: initial weights, options, ranges of numbers, errors."""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.matrix_setting import KEY, NAMES, SIZES, D, N, T, V, close, initial, numpy, setting, unrolled
from helpers.tiers import slow
from references import REFERENCES
from references.matrix import heads_of, layer_norm, rms_norm, sigmoid, softplus

import seqjax as sj
from seqjax.cells import REGISTRY
from seqjax.cells.common import heads as shared

# ---------------------------------------------------------------- initial weights


def test_weights_start_normal_with_the_variance_of_their_fan_in():
    width, size = 40, 60
    for name in NAMES:
        params = initial(REGISTRY[name].make(size), jnp.ones(width))._asdict()
        drawn = {n: p for n, p in params.items() if p.ndim == 2 and p.any() and name != "rwkv7"}
        drawn["w_o"] = params["w_o"]
        for p in drawn.values():
            # Five standard deviations of the mean of squares of normal numbers.
            assert jnp.mean(p**2) * len(p) == pytest.approx(1, abs=5 * math.sqrt(2 / p.size))


def test_mlstm_starts_with_gates_that_see_no_input():
    params = initial(sj.mlstm(8, num_heads=4, forget_bias=(1.0, 2.5)), jnp.ones(D))
    np.testing.assert_array_equal(params.b_if[4:], [1, 1.5, 2, 2.5])
    assert not params.w_if.any()
    b_i = initial(sj.mlstm(4000, num_heads=4000), jnp.ones(1)).b_if[:4000]
    assert jnp.std(b_i) == pytest.approx(0.1, rel=0.06) and abs(jnp.mean(b_i)) < 0.01
    default = initial(sj.mlstm(8, num_heads=4), jnp.ones(D)).b_if[4:]
    lengths = -1 / np.log(sigmoid(np.asarray(default, float)))
    assert lengths[0] == pytest.approx(20.6, abs=0.1) and lengths[-1] == pytest.approx(404, abs=1)


@pytest.mark.parametrize("factory", [sj.ssd, sj.gated_delta_net])
@pytest.mark.fast_cases(1)
def test_decay_rates_and_step_sizes_start_as_in_mamba_2(factory):
    heads = 4000
    params = initial(factory(heads, num_heads=heads, param_dtype=jnp.float64), jnp.ones(1))
    a, log_dt = np.exp(params.a_log), np.log(softplus(np.asarray(params.b_dt)))
    for sample, low, high in ((a, 1, 16), (log_dt, math.log(0.001), math.log(0.1))):
        assert low - 1e-9 <= sample.min() and sample.max() <= high + 1e-9
        standard_error = (high - low) / math.sqrt(12 * heads)
        assert abs(sample.mean() - (low + high) / 2) < 5 * standard_error
        assert sample.std() == pytest.approx((high - low) / math.sqrt(12), rel=0.04)
    if factory is sj.ssd:
        np.testing.assert_array_equal(params.d, np.ones(heads))


def test_gla_starts_with_an_e_folding_length_of_23_steps():
    cell = sj.gla(8)
    us = cell.project(initial(cell, jnp.ones(D)), jnp.zeros(D))
    close(-1 / us.log_decay, np.full((4, 1), 16 / math.log(2)), rtol=1e-6)


def test_rwkv7_starts_as_its_authors_code_does():
    width, size = 16, 64
    params = numpy(initial(sj.rwkv7(size, rank=8, gate_rank=16, param_dtype=jnp.float64), jnp.ones(width)))
    n = np.arange(size)
    close(params.b_d, -7 + 5 * (n / (size - 1)) ** 0.85 + 0.5)
    for name, bound in (("w_r", 0.5), ("w_k", 0.05), ("w_v", 0.5)):
        w = getattr(params, name) * math.sqrt(width)
        assert 0.98 * bound < np.abs(w).max() <= bound
        assert np.square(w).mean() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / w.size))
    for w in (params.w_d2, params.w_a2, params.w_g2):
        np.testing.assert_allclose(w @ w.T, 0.01 * np.eye(len(w)), atol=1e-15)
    tall = numpy(initial(sj.rwkv7(4, num_heads=1, rank=16, param_dtype=jnp.float64), jnp.ones(width))).w_d2
    np.testing.assert_allclose(tall.T @ tall, 0.04 * np.eye(4), atol=1e-15)
    for name, value in {"xi": 0.85, "alpha": 1, "rho": 0, "gain": 1, "bias": 0, "b_a": 0}.items():
        np.testing.assert_array_equal(getattr(params, name), value)
    assert not any(w.any() for w in (params.w_d1, params.w_a1, params.w_g1))


# ---------------------------------------------------------------- options and shared parts


def test_ssd_shares_keys_and_queries_within_a_group():
    few, many = (sj.ssd(8, num_groups=g, key_size=3, param_dtype=jnp.float64) for g in (2, 4))
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, D)))
    params = few.init(KEY, xs[0])
    repeated = [np.repeat(heads_of(np.asarray(w), 2), 2, -2).reshape(D, -1) for w in params[:2]]
    same = params._replace(w_q=jnp.asarray(repeated[0]), w_k=jnp.asarray(repeated[1]))
    close(unrolled(many, same, xs)[1], unrolled(few, params, xs)[1])


def test_negative_eigenvalues_double_beta():
    for factory in (sj.delta_net, sj.gated_delta_net):
        cell, params, xs = setting(factory)
        double, _, _ = setting(factory, negative_eigenvalues=True)
        once, twice = cell.project(params, xs), double.project(params, xs)
        close(twice.erase[0], 2 * once.erase[0])
        close(twice.v, 2 * once.v)


@pytest.mark.parametrize("name", NAMES)
def test_heads_are_the_hidden_size_divided_unless_sizes_are_given(name):
    factory = getattr(sj, name)
    cell = factory(32)
    carry = cell.initial_carry(None, jnp.ones((3, D)))
    shape = (carry.s if isinstance(carry, tuple) else carry).shape
    k, v = {"retention": (8, 16), "gla": (4, 8)}.get(name, (8, 8))
    assert shape == (3, 4, k, v + (name in ("linear_attention", "mlstm")))
    odd = factory(7, **SIZES)
    assert jax.eval_shape(odd.init, KEY, jnp.ones(D)).w_o.shape == (N * V, 7)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.fast_cases(1)
def test_the_norm_of_the_heads_is_that_of_flax(center):
    o = jnp.asarray(np.random.default_rng(0).normal(size=(T, N, V)))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(T, N, V)))
    if center:
        peer = nn.GroupNorm(N, epsilon=1e-5, use_scale=False, use_bias=False, dtype=jnp.float64)
        by_flax = lambda o: peer.apply({}, o.reshape(T, N * V)).reshape(T, N, V)  # noqa: E731
    else:
        by_flax = functools.partial(nn.RMSNorm(epsilon=1e-5, use_scale=False, dtype=jnp.float64).apply, {})
    ours = functools.partial(shared.normalize, center=center)
    close(ours(o), (layer_norm if center else rms_norm)(np.asarray(o)))
    close(ours(o), by_flax(o), 1e-10)
    found, expected = (jax.grad(lambda o, f=f: jnp.sum(weights * f(o)))(o) for f in (ours, by_flax))
    close(found, expected, 1e-10)


# ---------------------------------------------------------------- ranges


@functools.cache
def outcome_and_gradients(cell):
    """``(params, xs) -> ((carry, ys), gradients)`` of a sum of squares of carry and outputs."""

    def loss(params, carry, xs):
        outcome = sj.recurrent(cell).unroll(params, carry, xs)
        return sum(jnp.sum(a.astype(jnp.float32) ** 2) for a in jax.tree.leaves(outcome)), outcome

    @jax.jit
    def run(params, xs):
        grad = jax.grad(loss, (0, 1, 2), has_aux=True)
        return grad(params, cell.initial_carry(params, xs[0]), xs)[::-1]

    return run


def by_reference(name, cell, params, xs):
    """In float64, by the loop transcribed from the paper."""
    wide = functools.partial(jax.tree.map, lambda a: np.asarray(a, float))
    return REFERENCES[name](wide(params), wide(cell.initial_carry(params, xs[0])), wide(xs))


def all_finite(tree):
    return all(np.isfinite(np.asarray(a, float)).all() for a in jax.tree.leaves(tree))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, *slow(jnp.float32)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.fast_cases(1)
def test_inputs_of_zero_have_finite_values_and_gradients(name, dtype):
    """As in masked steps: keys of length zero, and nothing written yet to divide by."""
    cell = REGISTRY[name].make(4)
    params = initial(cell, jnp.ones(D))
    xs = jnp.zeros((3, D), dtype)
    assert all_finite(outcome_and_gradients(cell)(params, xs))


# What drives each decay to about -60 per step and beyond, and the same for gates that write.
EXTREME = {
    "gla": lambda p, z: p._replace(b_a=jnp.full_like(p.b_a, -16 * z)),
    "ssd": lambda p, z: p._replace(b_dt=jnp.full_like(p.b_dt, z), a_log=jnp.zeros_like(p.a_log)),
    "gated_delta_net": lambda p, z: p._replace(b_dt=jnp.full_like(p.b_dt, z), a_log=jnp.zeros_like(p.a_log)),
    "mlstm": lambda p, z: p._replace(b_if=jnp.concatenate([p.b_if[:2], jnp.full_like(p.b_if[2:], -z)])),
    "rwkv7": lambda p, z: p._replace(b_d=jnp.full_like(p.b_d, z)),
}


@pytest.mark.parametrize("size", [1e4, *slow(60.0)])
@pytest.mark.parametrize("name", EXTREME)
@pytest.mark.fast_cases(1)
def test_decays_of_60_and_more_per_step_are_exact_and_have_finite_gradients(name, size):
    cell = REGISTRY[name].make(6)
    params = EXTREME[name](initial(cell, jnp.ones(D)), size)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, D)), jnp.float32)
    if name not in ("rwkv7",):  # its decays are bounded
        assert jnp.min(cell.project(params, xs).log_decay) == pytest.approx(-size, rel=0.1)
    got, gradients = outcome_and_gradients(cell)(params, xs)
    expected = by_reference(name, cell, params, xs)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        close(a, b, 1e-5)
    assert all_finite(gradients)


@pytest.mark.parametrize("size", [-1000.0, -50.0, 50.0, 1000.0])
@pytest.mark.fast_cases(1)
def test_input_gates_of_mlstm_may_be_of_any_size(size):
    cell = REGISTRY["mlstm"].make(6)
    params = initial(cell, jnp.ones(D))
    params = params._replace(b_if=params.b_if.at[:2].set(size))
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, D)), jnp.float32)
    xs = xs.at[3].set(0)  # a query of zero: numerator and denominator vanish
    got, gradients = outcome_and_gradients(cell)(params, xs)
    expected = by_reference("mlstm", cell, params, xs)
    # Numbers of this size have errors of this size times the precision in float32, and so do their exponentials.
    rounding = float(jnp.finfo(jnp.float32).eps) * max(1, abs(size))
    happened = np.arange(T) != 3
    close(got[0].m, expected[0][1], 1e-6)
    close(got[0].s, expected[0][0], 10 * rounding)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(
            got[1][happened], expected[1][happened], rtol=20 * rounding, atol=20 * rounding
        )
    assert all_finite(got) and all_finite(gradients)


def test_small_features_of_linear_attention_keep_their_relative_accuracy():
    cell = sj.linear_attention(1, num_heads=1, param_dtype=jnp.float32)
    params = jax.tree.map(jnp.ones_like, initial(cell, jnp.ones(1)))
    zs = np.array([-80.0, -30.0, -1.0, 0.0, 2.0], np.float32)
    k = cell.project(params, jnp.asarray(zs)[:, None]).k[:, 0, 0]
    np.testing.assert_allclose(k, np.where(zs > 0, zs + 1, np.exp(zs.astype(float))), rtol=1e-6)


def test_a_sum_of_weights_of_zero_gives_zero_and_finite_gradients():
    cell = sj.linear_attention(2, num_heads=1)
    params = initial(cell, jnp.ones(1))._replace(w_q=jnp.full((1, 2), -500.0))
    (_, ys), gradients = outcome_and_gradients(cell)(params, jnp.ones((3, 1), jnp.float32))
    assert not ys.any() and all_finite(gradients)


def test_a_short_vector_has_no_direction():
    xs = jnp.asarray([[0.0, 0.0], [3e-9, 4e-9], [3e-5, 4e-5], [3e5, 4e5]], jnp.float32)
    close(shared.unit(xs), [[0, 0], [0.003, 0.004], [0.6, 0.8], [0.6, 0.8]], 1e-6)
    assert shared.unit(xs.astype(jnp.bfloat16)).dtype == jnp.float32


# ---------------------------------------------------------------- errors


def test_heads_that_do_not_divide_the_hidden_size_are_refused():
    for name in NAMES:
        message = f"{name}: expected a hidden_size that is a multiple of num_heads, got 6 and 4. Pass another"
        with pytest.raises(ValueError, match=re.escape(message)):
            getattr(sj, name)(6)


@pytest.mark.parametrize("size", ["num_heads", "key_size", "value_size"])
@pytest.mark.parametrize("name", NAMES)
def test_sizes_of_heads_are_whole_numbers_of_at_least_one(name, size):
    message = rf"{name}\({size}\): expected a whole number of at least 1, got 0\."
    with pytest.raises(ValueError, match=message):
        getattr(sj, name)(8, **{size: 0})


@pytest.mark.parametrize("name", ["retention", "gla", "rwkv7"])
def test_a_single_number_is_not_centred(name):
    with pytest.raises(
        ValueError, match=rf"{name}\(value_size\): expected at least 2, got 1: .* would be zero"
    ):
        getattr(sj, name)(8, value_size=1)


OPTIONS = [
    (
        sj.linear_attention,
        {"feature_map": "relu"},
        "linear_attention(feature_map): expected one of 'elu', 'identity', got",
    ),
    (
        sj.linear_attention,
        {"feature_map": "identity"},
        "expected normalize=False with feature_map='identity'",
    ),
    (sj.gla, {"rank": 0}, "gla(rank): expected a whole number of at least 1, got 0."),
    (sj.gla, {"temperature": 0.0}, "gla(temperature): expected a finite number above 0, got 0.0."),
    (sj.gla, {"temperature": math.nan}, "gla(temperature): expected a finite number above 0, got nan."),
    (sj.mlstm, {"forget_bias": 3.0}, "mlstm(forget_bias): expected two numbers, got 3.0."),
    (sj.ssd, {"num_groups": 3}, "ssd(num_groups): expected a divisor of num_heads=4, got 3."),
    (sj.ssd, {"num_groups": 0}, "ssd(num_groups): expected a whole number of at least 1, got 0."),
    (sj.rwkv7, {"rank": 0}, "rwkv7(rank): expected a whole number of at least 1, got 0."),
    (sj.rwkv7, {"gate_rank": -1}, "rwkv7(gate_rank): expected a whole number of at least 1, got -1."),
]


@pytest.mark.parametrize(
    ("factory", "options", "message"), OPTIONS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_options_out_of_range_are_refused(factory, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        factory(8, **options)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_do_not_fit_are_refused(name):
    layer = sj.recurrent(REGISTRY[name].make(4))
    params = layer.init(KEY, jnp.ones((3, D)))
    carry = layer.initial_carry(params, jnp.ones((3, D)))
    for xs, got in ((jnp.ones((T, 3, 5)), "float64 [3, 5]"), (jnp.ones((T, 3, D), int), f"int64 [3, {D}]")):
        message = rf"\.unroll: expected floating xs \[\.\.\., {D}\] \(.*\), got {re.escape(got)}\."
        with pytest.raises(ValueError, match=message):
            layer.unroll(params, carry, xs)
