"""Cells with a matrix for a state: linear attention, its gated forms and delta rules.

The state S ``[*B, N, K, V]`` lies as in seqjax; papers that write ``S k v^T`` the other way round are transposed.
"""

import numpy as np

EPSILON = 1e-5  # of the norms, PyTorch's default; the papers give none


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def silu(z):
    return z * sigmoid(z)


def softplus(z):
    return np.logaddexp(0, z)


def unit(z):
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def rms_norm(o):
    return o / np.sqrt((o**2).mean(-1, keepdims=True) + EPSILON)


def layer_norm(o, epsilon=EPSILON):
    return (o - o.mean(-1, keepdims=True)) / np.sqrt(o.var(-1, keepdims=True) + epsilon)


def heads_of(z, number):
    return z.reshape(*z.shape[:-1], number, -1)


def side_by_side(o):
    return o.reshape(*o.shape[:-2], -1)


def outer(k, v):
    return np.einsum("...k,...v->...kv", k, v)


def read(s, q):
    return np.einsum("...kv,...k->...v", s, q)


def linear_attention(params, carry, xs):
    """Katharopoulos et al. 2020, arXiv:2006.16236, eq. 18-20 without residual and f_l, with W_o; phi of eq. 7."""
    n = carry.shape[-3]
    s, z = carry[..., :-1], carry[..., -1]

    def phi(a):
        return np.where(a > 0, a, np.exp(a) - 1) + 1  # eq. 7

    ys = []
    for x in xs:
        q, k, v = (heads_of(x @ w, n) for w in (params.w_q, params.w_k, params.w_v))
        s = s + outer(phi(k), v)  # eq. 18
        z = z + phi(k)  # eq. 19
        y = read(s, phi(q)) / (phi(q) * z).sum(-1, keepdims=True)  # eq. 20
        ys.append(side_by_side(y) @ params.w_o)
    return np.concatenate([s, z[..., None]], -1), np.stack(ys)


def retention(params, s, xs):
    """Sun et al. 2023, arXiv:2307.08621, eq. 6 and 8, with theta = 0 and QK^T / sqrt(d) of section 2.2."""
    n, d = s.shape[-3:-1]
    gamma = 1 - 2.0 ** (-5 - np.arange(n))  # eq. 8
    ys = []
    for x in xs:
        q, k, v = (heads_of(x @ w, n) for w in (params.w_q, params.w_k, params.w_v))
        s = gamma[:, None, None] * s + outer(k / np.sqrt(d), v)  # eq. 6
        y = side_by_side(layer_norm(read(s, q)))  # eq. 6; eq. 8, a group of GroupNorm per head
        ys.append((silu(x @ params.w_g) * y) @ params.w_o)  # eq. 8
    return s, np.stack(ys)


def gla(params, s, xs):
    """Yang et al. 2023, arXiv:2312.06635, eq. 3 per head, as in section 4.4; tau = 16."""
    n = s.shape[-3]
    ys = []
    for x in xs:
        q, k, v = (heads_of(x @ w, n) for w in (params.w_q, params.w_k, params.w_v))
        alpha = heads_of(sigmoid(x @ params.w_a1 @ params.w_a2 + params.b_a) ** (1 / 16), n)
        s = alpha[..., None] * s + outer(k, v)
        o = side_by_side(layer_norm(read(s, q)))
        ys.append((silu(x @ params.w_g + params.b_g) * o) @ params.w_o)
    return s, np.stack(ys)


def mlstm(params, carry, xs):
    """Beck et al. 2024, arXiv:2405.04517, eq. 19-27 with the stabilizer of eq. 15-17, per head, then W_o.

    With C and n scaled by exp(-m), the 1 of eq. 21 is exp(-m).
    """
    s, m = carry
    number, d = s.shape[-3:-1]
    c, n = s[..., :-1], s[..., -1]
    ys = []
    for x in xs:
        q = heads_of(x @ params.w_q + params.b_q, number)  # eq. 22
        k = heads_of(x @ params.w_k + params.b_k, number) / np.sqrt(d)  # eq. 23
        v = heads_of(x @ params.w_v + params.b_v, number)  # eq. 24
        i, f = np.split(x @ params.w_if + params.b_if, 2, -1)  # eq. 25, 26 before their activations
        log_f = np.log(sigmoid(f))
        m_before, m = m, np.maximum(log_f + m, i)  # eq. 15
        i = np.exp(i - m)  # eq. 16
        f = np.exp(log_f + m_before - m)  # eq. 17
        c = f[..., None, None] * c + i[..., None, None] * outer(k, v)  # eq. 19
        n = f[..., None] * n + i[..., None] * k  # eq. 20
        total = np.abs((n * q).sum(-1))
        h = read(c, q) / np.maximum(total, np.exp(-m))[..., None]  # eq. 21
        o = sigmoid(x @ params.w_g + params.b_g)  # eq. 27
        ys.append((o * side_by_side(h)) @ params.w_o)
    return (np.concatenate([c, n[..., None]], -1), m), np.stack(ys)


def ssd(params, h, xs):
    """Dao, Gu 2024, arXiv:2405.21060: eq. 2 with a scalar A per head, the heads of section 7.2, Swish of figure 6."""
    n, k = h.shape[-3:-1]
    groups = params.w_k.shape[1] // k
    ys = []
    for x in xs:
        c, b = (heads_of(silu(x @ w), groups).repeat(n // groups, -2) for w in (params.w_q, params.w_k))
        value = heads_of(silu(x @ params.w_v), n)
        dt = softplus(x @ params.w_dt + params.b_dt)
        a_bar = np.exp(-dt * np.exp(params.a_log))
        h = a_bar[..., None, None] * h + outer(dt[..., None] * b, value)  # eq. 2a
        y = read(h, c) + params.d[:, None] * value  # eq. 2b and the skip
        ys.append(side_by_side(y) @ params.w_o)
    return h, np.stack(ys)


def delta_rule(s, k, v, beta, alpha=1.0):
    """Schlag et al. 2021, arXiv:2102.11174, eq. 20-25: what k reads is moved towards v by beta; after a decay."""
    s = alpha * s
    return s + outer(k, beta * (v - read(s, k)))


def delta_net(params, s, xs):
    """Yang et al. 2024, arXiv:2406.06484, section 2.2 (the rule), section 3.3 (SiLU, L2 norm, output norm)."""
    n = s.shape[-3]
    ys = []
    for x in xs:
        q, k, v = (heads_of(silu(x @ w), n) for w in (params.w_q, params.w_k, params.w_v))
        s = delta_rule(s, unit(k), v, sigmoid(x @ params.w_beta)[..., None])
        ys.append(side_by_side(rms_norm(read(s, unit(q)))) @ params.w_o)
    return s, np.stack(ys)


def gated_delta_net(params, s, xs):
    """Yang et al. 2024, arXiv:2412.06464, eq. 10, and figure 1; alpha as in Mamba-2."""
    n, d = s.shape[-3:-1]
    ys = []
    for x in xs:
        q, k, v = (heads_of(silu(x @ w), n) for w in (params.w_q, params.w_k, params.w_v))
        k = unit(k)
        beta = sigmoid(x @ params.w_beta)[..., None, None]
        dt = softplus(x @ params.w_dt + params.b_dt)
        alpha = np.exp(-dt * np.exp(params.a_log))[..., None, None]
        s = (alpha * (np.eye(d) - beta * outer(k, k))) @ s + beta * outer(k, v)  # eq. 10
        o = side_by_side(rms_norm(read(s, unit(q))))
        ys.append((silu(x @ params.w_g) * o) @ params.w_o)
    return s, np.stack(ys)


def rwkv7(params, s, xs):
    """Peng et al. 2025, arXiv:2503.14456, eq. 4-7 and 11-22 of the first layer, mu = 0 in eq. 3 (no token shift)."""
    n, d = s.shape[-3:-1]
    wkv = s.swapaxes(-1, -2)  # the paper's state, [V, K]
    ys = []
    for x in xs:
        a = sigmoid(x @ params.w_a1 @ params.w_a2 + params.b_a)  # eq. 4
        k = x @ params.w_k  # eq. 5
        kappa = k * params.xi  # eq. 6
        k_tilde = k * (1 + (a - 1) * params.alpha)  # eq. 7, lerp(1, a, alpha)
        v = heads_of(x @ params.w_v, n)  # eq. 9, 10 in the first layer
        decay = np.tanh(x @ params.w_d1) @ params.w_d2 + params.b_d  # eq. 11
        w = np.exp(-np.exp(-0.5) * sigmoid(decay))  # eq. 12
        r = x @ params.w_r  # eq. 13
        g = sigmoid(x @ params.w_g1) @ params.w_g2  # eq. 14
        a, kappa, k_tilde, w, r, rho = (heads_of(z, n) for z in (a, kappa, k_tilde, w, r, params.rho))
        kappa = unit(kappa)  # eq. 15
        wkv = wkv @ (w[..., None] * np.eye(d) - outer(kappa, a * kappa)) + outer(v, k_tilde)  # eq. 16, 17
        u = (r * rho * k_tilde).sum(-1, keepdims=True) * v  # eq. 20
        o = side_by_side(layer_norm(np.einsum("...vk,...k->...v", wkv, r), 64e-5))
        p = params.gain * o + params.bias + side_by_side(u)  # eq. 21
        ys.append((g * p) @ params.w_o)  # eq. 22
    return wkv.swapaxes(-1, -2), np.stack(ys)


REFERENCES = {
    "linear_attention": linear_attention,
    "retention": retention,
    "gla": gla,
    "mlstm": mlstm,
    "ssd": ssd,
    "delta_net": delta_net,
    "gated_delta_net": gated_delta_net,
    "rwkv7": rwkv7,
}
