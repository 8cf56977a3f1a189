"""Nonlinear cells beyond the classical gated ones."""

import itertools

import numpy as np

from references.gated import sigmoid


def exponential(a):
    """exp of the antisymmetric matrix with the entries of a above its diagonal, by the eigenvectors of i A."""
    skew = np.triu(a, 1) - np.triu(a, 1).T
    values, vectors = np.linalg.eigh(1j * skew)
    return ((vectors * np.exp(-1j * values)) @ vectors.conj().T).real


def orthogonal_rnn(activation="modrelu"):
    """Lezcano-Casado, Martinez-Rubio 2019, arXiv:1901.08428, expRNN; modReLU of Arjovsky et al. 2016, eq. 8."""

    def reference(params, carry, xs):
        (h,) = carry
        ys = []
        for x in xs:
            z = x @ params.w_x + h @ exponential(params.a)
            if activation == "modrelu":
                h = np.sign(z) * np.maximum(np.abs(z) + params.b, 0)
            else:
                h = {"tanh": np.tanh, "identity": np.positive}[activation](z + params.b)
            ys.append(h)
        return (h,), np.stack(ys)

    return reference


def antisymmetric_rnn(gated=False, epsilon=0.1, gamma=0.01):
    """Chang et al. 2019, arXiv:1902.09689, eq. 10, 12 and 13: Euler step, diffusion, gate; as rows, A transposed."""

    def reference(params, carry, xs):
        (h,) = carry
        a = params.w_h - params.w_h.T - gamma * np.eye(len(params.w_h))
        ys = []
        for x in xs:
            if gated:
                v_z, v_h = np.split(params.w_x, 2, axis=1)
                b_z, b_h = np.split(params.b, 2)
                z = sigmoid(h @ a + x @ v_z + b_z)
                h = h + epsilon * z * np.tanh(h @ a + x @ v_h + b_h)
            else:
                h = h + epsilon * np.tanh(h @ a + x @ params.w_x + params.b)
            ys.append(h)
        return (h,), np.stack(ys)

    return reference


def cornn(dt=0.042, gamma=2.7, epsilon=4.7, implicit=False):
    """Rusch, Mishra 2021, arXiv:2010.00951, eq. 3, with the damping at n - 1 or, solved for z_n, at n."""

    def reference(params, carry, xs):
        z, y = carry
        ys = []
        for u in xs:
            driven = (
                z + dt * np.tanh(y @ params.w_y + z @ params.w_z + u @ params.w_x + params.b) - dt * gamma * y
            )
            z = driven / (1 + dt * epsilon) if implicit else driven - dt * epsilon * z
            y = y + dt * z
            ys.append(y)
        return (z, y), np.stack(ys)

    return reference


def lem(dt=1.0):
    """Rusch et al. 2022, arXiv:2110.04744, eq. 3."""

    def reference(params, carry, xs):
        z, y = carry
        v_1, v_2, v_z, v_y = np.split(params.w_x, 4, axis=1)
        w_1, w_2, w_z = np.split(params.w_y, 3, axis=1)
        b_1, b_2, b_z, b_y = np.split(params.b, 4)
        ys = []
        for u in xs:
            dt_n = dt * sigmoid(y @ w_1 + u @ v_1 + b_1)
            dt_bar = dt * sigmoid(y @ w_2 + u @ v_2 + b_2)
            z = (1 - dt_n) * z + dt_n * np.tanh(y @ w_z + u @ v_z + b_z)
            y = (1 - dt_bar) * y + dt_bar * np.tanh(z @ params.w_z + u @ v_y + b_y)
            ys.append(y)
        return (z, y), np.stack(ys)

    return reference


def slstm(forget="sigmoid"):
    """Beck et al. 2024, arXiv:2405.04517, eq. 8-14 with the stabilizer of eq. 15-17, head by head.

    Where n = 0 (nothing stored yet) m is taken as minus infinity, as in the authors' code.
    """

    def reference(params, carry, xs):
        c, n, m, h = carry
        size = h.shape[-1]
        num_heads, d = params.w_h.shape[:2]
        ys = []
        for x in xs:
            recurrent = np.zeros((*h.shape[:-1], 4, size))
            for head, gate in itertools.product(range(num_heads), range(4)):
                own = slice(head * d, (head + 1) * d)
                recurrent[..., gate, own] = h[..., own] @ params.w_h[head, :, gate]
            i, f, z, o = (
                x @ w + recurrent[..., g, :] + b
                for g, (w, b) in enumerate(
                    zip(np.split(params.w_x, 4, axis=1), np.split(params.b, 4), strict=True)
                )
            )
            log_f = np.log(sigmoid(f)) if forget == "sigmoid" else f  # eq. 13
            before = np.where(n == 0, -np.inf, m)
            m = np.maximum(log_f + before, i)  # eq. 15
            i, f = np.exp(i - m), np.exp(log_f + before - m)  # eq. 16, 17
            c = f * c + i * np.tanh(z)  # eq. 8, 11
            n = f * n + i  # eq. 9
            h = sigmoid(o) * c / n  # eq. 10, 14
            ys.append(h)
        return (c, n, m, h), np.stack(ys)

    return reference


def para_gru(params, carry, xs):
    """Danieli et al. 2025, arXiv:2510.21450: a GRU whose state matrices are diagonal."""
    (h,) = carry
    b_xr, b_xz, b_xn = np.split(params.w_x, 3, axis=1)
    b_r, b_z, b_n = np.split(params.b, 3)
    a_r, a_z, a_n = (np.diag(a) for a in params.w_h)
    ys = []
    for x in xs:
        z = sigmoid(h @ a_z + x @ b_xz + b_z)
        r = sigmoid(h @ a_r + x @ b_xr + b_r)
        c = np.tanh((h * r) @ a_n + x @ b_xn + b_n)
        h = (1 - z) * h + z * c
        ys.append(h)
    return (h,), np.stack(ys)


def para_lstm(params, carry, xs):
    """Danieli et al. 2025, arXiv:2510.21450: LSTM, coupled gates, peepholes, diagonal state matrices."""
    c, h = carry
    b_xf, b_xc, b_xo = np.split(params.w_x, 3, axis=1)
    b_f, b_c, b_o = np.split(params.b, 3)
    a_f, a_c, a_o = (np.diag(a) for a in params.w_h)
    c_f, c_o = (np.diag(w) for w in params.w_c)
    ys = []
    for x in xs:
        f = sigmoid(h @ a_f + x @ b_xf + c @ c_f + b_f)
        new = np.tanh(h @ a_c + x @ b_xc + b_c)
        c = f * c + (1 - f) * new
        o = sigmoid(h @ a_o + x @ b_xo + c @ c_o + b_o)
        h = o * np.tanh(c)
        ys.append(h)
    return (c, h), np.stack(ys)


def cfc(params, carry, xs):
    """Hasani et al. 2022, Nature Machine Intelligence 4, eq. 10: f, g and h as heads on a backbone of one layer."""
    (state,) = carry
    w_f, w_g, w_h = np.split(params.w_o, 3, axis=1)
    b_f, b_g, b_h = np.split(params.b_o, 3)
    ys = []
    for x, t in zip(*xs, strict=True):
        weights = np.concatenate([params.w_x, params.w_h])
        backbone = 1.7159 * np.tanh(2 / 3 * (np.concatenate([x, state], -1) @ weights + params.b))
        gate = sigmoid(-(backbone @ w_f + b_f) * t[..., None])
        state = gate * np.tanh(backbone @ w_g + b_g) + (1 - gate) * np.tanh(backbone @ w_h + b_h)
        ys.append(state)
    return (state,), np.stack(ys)


def ltc(unfolds=6):
    """Hasani et al. 2021, arXiv:2006.04439, algorithm 1 with the fused step of eq. 3; no time runs backwards."""

    def reference(params, carry, xs):
        (state,) = carry
        tau = np.exp(params.log_tau)
        ys = []
        for x, elapsed in zip(*xs, strict=True):
            dt = np.maximum(elapsed, 0)[..., None] / unfolds
            for _ in range(unfolds):
                f = sigmoid(x @ params.w_x + state @ params.w_h + params.b)
                state = (state + dt * f * params.a) / (1 + dt * (1 / tau + f))
            ys.append(state)
        return (state,), np.stack(ys)

    return reference


def convolution(x, w):
    """The field's convolution (a correlation) in the plane, zeros around, pixel by pixel; odd kernels."""
    rows, columns = x.shape[-3:-1]
    half = len(w) // 2
    y = np.zeros((*x.shape[:-1], w.shape[-1]))
    for row, column in itertools.product(range(rows), range(columns)):
        for i, j in itertools.product(range(len(w)), range(len(w))):
            r, c = row + i - half, column + j - half
            if 0 <= r < rows and 0 <= c < columns:
                y[..., row, column, :] += x[..., r, c, :] @ w[i, j]
    return y


def conv_lstm(params, carry, xs):
    """Shi et al. 2015, arXiv:1506.04214, eq. 3; without params.w_c the peephole weights are zero."""
    c, h = carry
    w_xi, w_xf, w_xc, w_xo = np.split(params.w_x, 4, axis=-1)
    w_hi, w_hf, w_hc, w_ho = np.split(params.w_h, 4, axis=-1)
    b_i, b_f, b_c, b_o = np.split(params.b, 4)
    w_ci, w_cf, w_co = np.zeros(3) if params.w_c is None else params.w_c
    ys = []
    for x in xs:
        i = sigmoid(convolution(x, w_xi) + convolution(h, w_hi) + w_ci * c + b_i)
        f = sigmoid(convolution(x, w_xf) + convolution(h, w_hf) + w_cf * c + b_f)
        new = f * c + i * np.tanh(convolution(x, w_xc) + convolution(h, w_hc) + b_c)
        o = sigmoid(convolution(x, w_xo) + convolution(h, w_ho) + w_co * new + b_o)
        c, h = new, o * np.tanh(new)
        ys.append(h)
    return (c, h), np.stack(ys)


def echo_state(leak=1.0):
    """Lukosevicius 2012, "A practical guide to applying echo state networks", eq. 2 and 3."""

    def reference(params, carry, xs):
        (h,) = carry
        w_in = np.concatenate([params.b[None], params.w_x])
        ys = []
        for u in xs:
            update = np.tanh(
                np.concatenate([np.ones((*u.shape[:-1], 1)), u], -1) @ w_in + h @ params.w_h
            )  # eq. 2
            h = (1 - leak) * h + leak * update  # eq. 3
            ys.append(h)
        return (h,), np.stack(ys)

    return reference


REFERENCES = {
    "orthogonal_rnn": orthogonal_rnn(),
    "antisymmetric_rnn": antisymmetric_rnn(),
    "antisymmetric_rnn_gated": antisymmetric_rnn(gated=True),
    "cornn": cornn(),
    "lem": lem(),
    "slstm": slstm(),
    "para_gru": para_gru,
    "para_lstm": para_lstm,
    "cfc": cfc,
    "ltc": ltc(),
    "conv_lstm": conv_lstm,
    "echo_state": echo_state(),
}
