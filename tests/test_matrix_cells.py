"""Test cells with a matrix state: parallel forms over whole sequences, exact derivatives of the state."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.matrix_setting import D, K, N, T, V, close, numpy, setting, unrolled
from references.matrix import heads_of, layer_norm, side_by_side, sigmoid, silu, softplus, unit

import seqjax as sj

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
@pytest.mark.fast_cases(1)
def test_linear_attention_is_attention_with_a_masked_kernel(feature_map):
    positive = feature_map == "elu"
    cell, params, xs = setting(sj.linear_attention, feature_map=feature_map, normalize=positive)
    p = numpy(params)
    q, k, v = projected(xs, p[:3])
    if positive:
        q, k = (np.where(a > 0, a + 1, np.exp(a)) for a in (q, k))
    weights = causal(np.einsum("tnk,snk->tsn", q, k))
    if positive:
        weights = weights / weights.sum(1, keepdims=True)
    close(unrolled(cell, params, xs)[1], side_by_side(np.einsum("tsn,snv->tnv", weights, v)) @ p.w_o)


def test_unnormalized_elu_attention_is_the_numerator():
    cell, params, xs = setting(sj.linear_attention, normalize=False)
    normalized, _, _ = setting(sj.linear_attention)
    numerator = cell.initial_carry(params, xs[0]).shape
    assert numerator == (N, K, V) and normalized.initial_carry(params, xs[0]).shape == (N, K, V + 1)
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
@pytest.mark.fast_cases(1)
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
    """xLSTM, appendix on the parallel mLSTM: D of the log gates, stabilized by the maximum of each row."""
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
    """The plain recurrence of xLSTM, eq. 19-21, without a stabilizer."""
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
@pytest.mark.fast_cases(1)
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
@pytest.mark.fast_cases(1)
def test_what_is_written_with_a_beta_of_one_is_read_exactly(factory):
    cell, params, _ = setting(factory)
    xs = jnp.abs(jnp.asarray(np.random.default_rng(1).normal(size=(T, D)))) + 0.1
    params = params._replace(w_beta=jnp.full((D, N), 200.0))
    carry, _ = unrolled(cell, params, xs)
    last = cell.project(params, xs[-1])
    value = silu(np.asarray(xs[-1] @ params.w_v)).reshape(N, V)
    close(jnp.einsum("nkv,nk->nv", carry, last.k), value)
