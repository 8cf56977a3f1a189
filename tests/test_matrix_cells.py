"""Cells with a matrix for a state: parallel forms, exact derivatives of the state, initial weights, ranges, errors."""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import REFERENCES
from references.matrix import (
    heads_of,
    layer_norm,
    rms_norm,
    side_by_side,
    sigmoid,
    silu,
    softplus,
    unit,
)

import seqjax as sj
from seqjax.cells import REGISTRY
from seqjax.cells import heads as shared

T, D, N, K, V, H = 7, 4, 2, 3, 5, 6
KEY = jax.random.key(0)
NAMES = [name for name, entry in REGISTRY.items() if isinstance(entry.make(4).recurrence, sj.Matrix)]
SIZES = {"num_heads": N, "key_size": K, "value_size": V}


@functools.cache
def setting(factory, **options):
    """A cell with heads of unequal sizes, float64 params away from their initial values, inputs without a batch."""
    cell = factory(H, **SIZES, param_dtype=jnp.float64, **options)
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(T, D)))
    params = jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape), cell.init(KEY, xs[0]))
    return cell, params, xs


def unrolled(cell, params, xs):
    """Carry and outputs from the initial carry."""
    return jax.jit(sj.recurrent(cell).unroll)(params, cell.initial_carry(params, xs[0]), xs)


def numpy(params):
    return jax.tree.map(np.asarray, params)


def close(got, expected, rtol=1e-12):
    np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * np.abs(expected).max())


# ---------------------------------------------------------------- parallel forms: whole sequences as masked matrices


def causal(scores):
    """``[T, S, N]`` with what lies ahead set to zero."""
    return scores * np.tril(np.ones((T, T)))[..., None]


def sums(log_decay):
    """The sum of ``log_decay [T, ...]`` over steps s+1 to t, ``[T, S, ...]``; meaningless for s > t."""
    total = np.cumsum(log_decay, 0)
    return total[:, None] - total[None]


def projected(xs, weights):
    return [heads_of(np.asarray(xs) @ w, N) for w in weights]


@pytest.mark.parametrize("feature_map", ["elu", "identity"])
def test_linear_attention_is_attention_with_a_masked_kernel(feature_map):
    positive = feature_map == "elu"
    cell, params, xs = setting(sj.linear_attention, feature_map=feature_map, normalise=positive)
    p = numpy(params)
    q, k, v = projected(xs, p[:3])
    if positive:
        q, k = (np.where(a > 0, a + 1, np.exp(a)) for a in (q, k))
    weights = causal(np.einsum("tnk,snk->tsn", q, k))
    if positive:
        weights = weights / weights.sum(1, keepdims=True)
    close(unrolled(cell, params, xs)[1], side_by_side(np.einsum("tsn,snv->tnv", weights, v)) @ p.w_o)


def test_unnormalised_elu_attention_is_the_numerator():
    cell, params, xs = setting(sj.linear_attention, normalise=False)
    normalised, _, _ = setting(sj.linear_attention)
    numerator = cell.initial_carry(params, xs[0]).shape
    assert numerator == (N, K, V) and normalised.initial_carry(params, xs[0]).shape == (N, K, V + 1)
    p = numpy(params)
    q, k, v = projected(xs, p[:3])
    q, k = (np.where(a > 0, a + 1, np.exp(a)) for a in (q, k))
    o = np.einsum("tsn,snv->tnv", causal(np.einsum("tnk,snk->tsn", q, k)), v)
    close(unrolled(cell, params, xs)[1], side_by_side(o) @ p.w_o)


def test_retention_is_its_parallel_form():
    """RetNet, eq. 5 with theta = 0: (Q K^T * D) V, then eq. 8."""
    cell, params, xs = setting(sj.retention)
    p = numpy(params)
    q, k, v = projected(xs, p[:3])
    gamma = np.array([31 / 32, 63 / 64])
    lag = np.arange(T)[:, None] - np.arange(T)
    scores = np.einsum("tnk,snk->tsn", q, k) / math.sqrt(K) * gamma ** np.maximum(lag, 0)[..., None]
    o = side_by_side(layer_norm(np.einsum("tsn,snv->tnv", causal(scores), v)))
    close(unrolled(cell, params, xs)[1], (silu(np.asarray(xs) @ p.w_g) * o) @ p.w_o)


@pytest.mark.parametrize("temperature", [16.0, 2.0])
def test_gla_is_its_parallel_form(temperature):
    """GLA, eq. 4: ((Q * B) (K / B)^T masked) V with B the cumulative products of the decays."""
    cell, params, xs = setting(sj.gla, temperature=temperature)
    p = numpy(params)
    q, k, v = projected(xs, p[:3])
    decay = sigmoid(np.asarray(xs) @ p.w_a1 @ p.w_a2 + p.b_a) ** (1 / temperature)
    b = np.cumprod(heads_of(decay, N), 0)
    o = np.einsum("tsn,snv->tnv", causal(np.einsum("tnk,snk->tsn", q * b, k / b)), v)
    gate = silu(np.asarray(xs) @ p.w_g + p.b_g)
    close(unrolled(cell, params, xs)[1], (gate * side_by_side(layer_norm(o))) @ p.w_o)


def test_ssd_is_its_dual_form():
    """Mamba-2, the structured masked attention (L * C B^T) X, with L the products of the decays, and the skip."""
    cell, params, xs = setting(sj.ssd)
    p = numpy(params)
    c, b = (silu(np.asarray(xs) @ w) for w in (p.w_q, p.w_k))  # one group for both heads
    value = heads_of(silu(np.asarray(xs) @ p.w_v), N)
    dt = softplus(np.asarray(xs) @ p.w_dt + p.b_dt)
    mask = np.exp(np.minimum(sums(-np.exp(p.a_log) * dt), 0))
    scores = causal(mask * (c @ b.T)[..., None])
    o = np.einsum("tsn,snv->tnv", scores, dt[..., None] * value) + p.d[:, None] * value
    close(unrolled(cell, params, xs)[1], side_by_side(o) @ p.w_o)


def mlstm_gates(p, xs):
    q, k, v = (heads_of(np.asarray(xs) @ w + b, N) for w, b in zip(p[:3], p[3:6], strict=True))
    i, f = np.split(np.asarray(xs) @ p.w_if + p.b_if, 2, -1)
    return q, k / math.sqrt(K), v, i, np.log(sigmoid(f))


def test_mlstm_is_its_parallel_form():
    """xLSTM, appendix on the parallel mLSTM: D of the log gates, stabilised by the maximum of each row."""
    cell, params, xs = setting(sj.mlstm)
    p = numpy(params)
    q, k, v, i, log_f = mlstm_gates(p, xs)
    d = np.where(np.tril(np.ones((T, T)))[..., None] > 0, sums(log_f) + i[None], -np.inf)
    m = d.max(1, keepdims=True)
    weights = np.einsum("tnk,snk->tsn", q, k) * np.exp(d - m)
    h = np.einsum("tsn,snv->tnv", weights, v)
    h = h / np.maximum(np.abs(weights.sum(1)), np.exp(-m[:, 0]))[..., None]
    gate = sigmoid(np.asarray(xs) @ p.w_g + p.b_g)
    close(unrolled(cell, params, xs)[1], (gate * side_by_side(h)) @ p.w_o)


def test_the_scale_of_mlstm_changes_no_output():
    """The plain recurrence of xLSTM, eq. 19-21, without a stabiliser."""
    cell, params, xs = setting(sj.mlstm)
    p = numpy(params)
    q, k, v, i, log_f = mlstm_gates(p, xs)
    c, n, hs = np.zeros((N, K, V)), np.zeros((N, K)), []
    for t in range(T):
        f = np.exp(log_f[t])[:, None]
        c = f[..., None] * c + np.exp(i[t])[:, None, None] * k[t][..., None] * v[t][:, None]
        n = f * n + np.exp(i[t])[:, None] * k[t]
        h = np.einsum("nkv,nk->nv", c, q[t])
        hs.append(h / np.maximum(np.abs((n * q[t]).sum(-1)), 1)[:, None])
    gate = sigmoid(np.asarray(xs) @ p.w_g + p.b_g)
    carry, ys = unrolled(cell, params, xs)
    close(ys, (gate * side_by_side(np.stack(hs))) @ p.w_o)
    close(carry.s * np.exp(carry.m)[:, None, None], np.concatenate([c, n[..., None]], -1))
    # The quotient takes the larger of its two candidates; both occur here.
    larger = [abs((n * q[-1]).sum(-1)) > 1]
    assert np.unique(larger).size == 2


# ---------------------------------------------------------------- derivatives of the state


def jacobian(cell, params, xs, of=lambda carry: carry):
    """The derivative of the state after xs by the state before it, flat, per head: ``[N, K*V, K*V]``."""
    initial = jax.tree.map(lambda a: a + 0.1, cell.initial_carry(params, xs[0]))
    state = initial.s if isinstance(initial, tuple) else initial

    def after(state):
        carry = initial._replace(s=state) if isinstance(initial, tuple) else state
        return of(sj.recurrent(cell).unroll(params, carry, xs)[0])

    full = np.asarray(jax.jit(jax.jacrev(after))(state))
    across = full[0, :, :, 1]
    assert not across.any(), "one head's state reached another's"
    width = state.shape[1] * state.shape[2]
    return np.stack([full[n, :, :, n].reshape(width, width) for n in range(N)])


def by_column(matrix, columns):
    """A matrix on keys ``[N, K, K]`` as one on flat states ``[N, K*V, K*V]``."""
    return np.stack([np.kron(m, np.eye(columns)) for m in matrix])


def test_linear_attention_carries_its_state_unchanged():
    cell, params, xs = setting(sj.linear_attention)
    close(jacobian(cell, params, xs), np.stack([np.eye(K * (V + 1))] * N))


def test_retention_carries_its_state_by_the_powers_of_gamma():
    cell, params, xs = setting(sj.retention)
    close(jacobian(cell, params, xs), np.array([31 / 32, 63 / 64])[:, None, None] ** T * np.eye(K * V))


def test_gla_carries_its_state_by_the_products_of_decays_per_key():
    cell, params, xs = setting(sj.gla)
    p = numpy(params)
    alpha = heads_of(sigmoid(np.asarray(xs) @ p.w_a1 @ p.w_a2 + p.b_a) ** (1 / 16), N)
    product = by_column([np.diag(a) for a in alpha.prod(0)], V)
    close(jacobian(cell, params, xs), product)
    # All Lyapunov exponents of the state are means of ln alpha, each V times.
    exponents = np.log(np.linalg.svd(jacobian(cell, params, xs), compute_uv=False)) / T
    close(np.sort(exponents), np.sort(np.log(alpha).mean(0).repeat(V, -1)))


def test_ssd_has_one_lyapunov_exponent_per_head_the_mean_log_decay():
    cell, params, xs = setting(sj.ssd)
    p = numpy(params)
    mean = (-np.exp(p.a_log) * softplus(np.asarray(xs) @ p.w_dt + p.b_dt)).mean(0)
    exponents = np.log(np.linalg.svd(jacobian(cell, params, xs), compute_uv=False)) / T
    close(exponents, np.broadcast_to(mean[:, None], (N, K * V)))


def test_mlstm_carries_its_memory_by_the_product_of_forget_gates():
    cell, params, xs = setting(sj.mlstm)
    p = numpy(params)
    product = sigmoid(np.split(np.asarray(xs) @ p.w_if + p.b_if, 2, -1)[1]).prod(0)
    true_state = lambda carry: carry.s * jnp.exp(carry.m - 0.1)[:, None, None]  # noqa: E731 (m starts at 0.1)
    got = jacobian(cell, params, xs, of=true_state)
    close(got, product[:, None, None] * np.eye(K * (V + 1)))


@pytest.mark.parametrize("factory", [sj.delta_net, sj.gated_delta_net])
@pytest.mark.parametrize("negative", [False, True])
def test_the_log_singular_values_of_a_delta_rule_add_up_to_the_log_determinant(factory, negative):
    cell, params, xs = setting(factory, negative_eigenvalues=negative)
    p = numpy(params)
    x = np.asarray(xs[:1])
    beta = (2 if negative else 1) * sigmoid(x @ p.w_beta)[0]
    log_alpha = np.zeros(N)
    if factory is sj.gated_delta_net:
        log_alpha = (-np.exp(p.a_log) * softplus(x @ p.w_dt + p.b_dt))[0]
    k = unit(heads_of(silu(x @ p.w_k), N))[0]
    step = jacobian(cell, params, xs[:1])
    householder = np.eye(K) - beta[:, None, None] * k[..., None] * k[:, None]
    close(step, by_column(np.exp(log_alpha)[:, None, None] * householder, V))
    sums_of_logs = np.log(np.linalg.svd(step, compute_uv=False)).sum(-1)
    close(sums_of_logs, V * (K * log_alpha + np.log(np.abs(1 - beta))))


def test_a_write_with_a_beta_of_two_reflects():
    cell, params, xs = setting(sj.delta_net, negative_eigenvalues=True)
    x = jnp.ones((1, D))
    params = params._replace(w_beta=jnp.full((D, N), 50.0))
    step = jacobian(cell, params, x)
    close(step @ step, np.stack([np.eye(K * V)] * N))
    close(np.sort(np.linalg.eigvalsh(step)), np.stack([[-1.0] * V + [1.0] * (K - 1) * V] * N))


def test_rwkv7_carries_its_state_by_a_diagonal_and_a_product_of_removal_keys():
    cell, params, xs = setting(sj.rwkv7, rank=3, gate_rank=3)
    p = numpy(params)
    x = np.asarray(xs[:1])
    w = np.exp(-np.exp(-0.5) * sigmoid(np.tanh(x @ p.w_d1) @ p.w_d2 + p.b_d))
    a = sigmoid(x @ p.w_a1 @ p.w_a2 + p.b_a)
    w, a, kappa = (heads_of(z, N)[0] for z in (w, a, x @ p.w_k * p.xi))
    kappa = unit(kappa)
    step = jacobian(cell, params, xs[:1])
    close(step, by_column([np.diag(w[n]) - np.outer(a[n] * kappa[n], kappa[n]) for n in range(N)], V))
    determinant = w.prod(-1) * (1 - (kappa * a * kappa / w).sum(-1))
    close(np.linalg.slogdet(step)[1], V * np.log(np.abs(determinant)))


@pytest.mark.parametrize("factory", [sj.delta_net, sj.gated_delta_net])
def test_what_is_written_with_a_beta_of_one_is_read_exactly(factory):
    cell, params, _ = setting(factory)
    xs = jnp.abs(jnp.asarray(np.random.default_rng(1).normal(size=(T, D)))) + 0.1
    params = params._replace(w_beta=jnp.full((D, N), 200.0))
    carry, _ = unrolled(cell, params, xs)
    last = cell.project(params, xs[-1])
    value = silu(np.asarray(xs[-1] @ params.w_v)).reshape(N, V)
    close(jnp.einsum("nkv,nk->nv", carry, last.k), value)


# ---------------------------------------------------------------- initial weights


def test_weights_start_normal_with_the_variance_of_their_fan_in():
    width, size = 40, 60
    for name in NAMES:
        params = REGISTRY[name].make(size).init(KEY, jnp.ones(width))._asdict()
        drawn = {n: p for n, p in params.items() if p.ndim == 2 and p.any() and name != "rwkv7"}
        drawn["w_o"] = params["w_o"]
        for p in drawn.values():
            # Five standard deviations of the mean of squares of normal numbers.
            assert jnp.mean(p**2) * len(p) == pytest.approx(1, abs=5 * math.sqrt(2 / p.size))


def test_mlstm_starts_with_gates_that_see_no_input():
    params = sj.mlstm(8, num_heads=4, forget_bias=(1.0, 2.5)).init(KEY, jnp.ones(D))
    np.testing.assert_array_equal(params.b_if[4:], [1, 1.5, 2, 2.5])
    assert not params.w_if.any()
    b_i = sj.mlstm(4000, num_heads=4000).init(KEY, jnp.ones(1)).b_if[:4000]
    assert jnp.std(b_i) == pytest.approx(0.1, rel=0.06) and abs(jnp.mean(b_i)) < 0.01
    default = sj.mlstm(8, num_heads=4).init(KEY, jnp.ones(D)).b_if[4:]
    lengths = -1 / np.log(sigmoid(np.asarray(default, float)))
    assert lengths[0] == pytest.approx(20.6, abs=0.1) and lengths[-1] == pytest.approx(404, abs=1)


@pytest.mark.parametrize("factory", [sj.ssd, sj.gated_delta_net])
def test_decay_rates_and_step_sizes_start_as_in_mamba_2(factory):
    heads = 4000
    params = factory(heads, num_heads=heads, param_dtype=jnp.float64).init(KEY, jnp.ones(1))
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
    us = cell.project(cell.init(KEY, jnp.ones(D)), jnp.zeros(D))
    close(-1 / us.log_decay, np.full((4, 1), 16 / math.log(2)), rtol=1e-6)


def test_rwkv7_starts_as_its_authors_code_does():
    width, size = 16, 64
    params = numpy(sj.rwkv7(size, rank=8, gate_rank=16, param_dtype=jnp.float64).init(KEY, jnp.ones(width)))
    n = np.arange(size)
    close(params.b_d, -7 + 5 * (n / (size - 1)) ** 0.85 + 0.5)
    for name, bound in (("w_r", 0.5), ("w_k", 0.05), ("w_v", 0.5)):
        w = getattr(params, name) * math.sqrt(width)
        assert 0.98 * bound < np.abs(w).max() <= bound
        assert np.square(w).mean() == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / w.size))
    for w in (params.w_d2, params.w_a2, params.w_g2):
        np.testing.assert_allclose(w @ w.T, 0.01 * np.eye(len(w)), atol=1e-15)
    tall = numpy(sj.rwkv7(4, num_heads=1, rank=16, param_dtype=jnp.float64).init(KEY, jnp.ones(width))).w_d2
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


@pytest.mark.parametrize("centre", [False, True])
def test_the_norm_of_the_heads_is_that_of_flax(centre):
    o = jnp.asarray(np.random.default_rng(0).normal(size=(T, N, V)))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(T, N, V)))
    if centre:
        peer = nn.GroupNorm(N, epsilon=1e-5, use_scale=False, use_bias=False, dtype=jnp.float64)
        by_flax = lambda o: peer.apply({}, o.reshape(T, N * V)).reshape(T, N, V)  # noqa: E731
    else:
        by_flax = functools.partial(nn.RMSNorm(epsilon=1e-5, use_scale=False, dtype=jnp.float64).apply, {})
    ours = functools.partial(shared.normalise, centre=centre)
    close(ours(o), (layer_norm if centre else rms_norm)(np.asarray(o)))
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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_inputs_of_zero_have_finite_values_and_gradients(name, dtype):
    """As in masked steps: keys of length zero, and nothing written yet to divide by."""
    cell = REGISTRY[name].make(4)
    params = cell.init(KEY, jnp.ones(D))
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


@pytest.mark.parametrize("size", [60.0, 1e4])
@pytest.mark.parametrize("name", EXTREME)
def test_decays_of_60_and_more_per_step_are_exact_and_have_finite_gradients(name, size):
    cell = REGISTRY[name].make(6)
    params = EXTREME[name](cell.init(KEY, jnp.ones(D)), size)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(T, D)), jnp.float32)
    if name not in ("rwkv7",):  # its decays are bounded
        assert jnp.min(cell.project(params, xs).log_decay) == pytest.approx(-size, rel=0.1)
    got, gradients = outcome_and_gradients(cell)(params, xs)
    expected = by_reference(name, cell, params, xs)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        close(a, b, 1e-5)
    assert all_finite(gradients)


@pytest.mark.parametrize("size", [-1000.0, -50.0, 50.0, 1000.0])
def test_input_gates_of_mlstm_may_be_of_any_size(size):
    cell = REGISTRY["mlstm"].make(6)
    params = cell.init(KEY, jnp.ones(D))
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
    params = jax.tree.map(jnp.ones_like, cell.init(KEY, jnp.ones(1)))
    zs = np.array([-80.0, -30.0, -1.0, 0.0, 2.0], np.float32)
    k = cell.project(params, jnp.asarray(zs)[:, None]).k[:, 0, 0]
    np.testing.assert_allclose(k, np.where(zs > 0, zs + 1, np.exp(zs.astype(float))), rtol=1e-6)


def test_a_sum_of_weights_of_zero_gives_zero_and_finite_gradients():
    cell = sj.linear_attention(2, num_heads=1)
    params = cell.init(KEY, jnp.ones(1))._replace(w_q=jnp.full((1, 2), -500.0))
    (_, ys), gradients = outcome_and_gradients(cell)(params, jnp.ones((3, 1), jnp.float32))
    assert not ys.any() and all_finite(gradients)


def test_a_short_vector_has_no_direction():
    xs = jnp.asarray([[0.0, 0.0], [3e-9, 4e-9], [3e-5, 4e-5], [3e5, 4e5]], jnp.float32)
    close(shared.unit(xs), [[0, 0], [0.003, 0.004], [0.6, 0.8], [0.6, 0.8]], 1e-6)
    assert shared.unit(xs.astype(jnp.bfloat16)).dtype == jnp.float32


# ---------------------------------------------------------------- errors


def test_heads_that_do_not_divide_the_hidden_size_are_refused():
    for name in NAMES:
        message = f"{name}: expected a hidden_size that is a multiple of num_heads, got 6 and 4. Give another"
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
        "linear_attention(feature_map): expected 'elu' or 'identity', got",
    ),
    (
        sj.linear_attention,
        {"feature_map": "identity"},
        "expected normalise=False with feature_map='identity'",
    ),
    (sj.gla, {"rank": 0}, "gla(rank): expected a whole number of at least 1, got 0."),
    (sj.gla, {"temperature": 0.0}, "gla(temperature): expected a number above 0, got 0.0."),
    (sj.gla, {"temperature": math.nan}, "gla(temperature): expected a number above 0, got nan."),
    (sj.mlstm, {"forget_bias": 3.0}, "mlstm(forget_bias): expected two numbers, got 3.0."),
    (sj.ssd, {"num_groups": 3}, "ssd(num_groups): expected a divisor of num_heads=4, got 3."),
    (sj.ssd, {"num_groups": 0}, "ssd(num_groups): expected a whole number of at least 1, got 0."),
    (sj.rwkv7, {"rank": 0}, "rwkv7(rank): expected a whole number of at least 1, got 0."),
    (sj.rwkv7, {"gate_rank": -1}, "rwkv7(gate_rank): expected a whole number of at least 1, got -1."),
]


@pytest.mark.parametrize(("factory", "options", "message"), OPTIONS, ids=lambda value: str(value)[:30])
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
