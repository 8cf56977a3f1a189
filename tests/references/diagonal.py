"""Cells with a diagonal linear recurrence."""

import numpy as np

from references.gated import sigmoid


def lru(params, carry, xs):
    """Orvieto et al. 2023, arXiv:2303.06349: the recurrence with its normalization, eq. 7, and the output map, eq. 1.

    The output is real: the real part of C x_k, as in the code of appendix A; D is a full matrix, as in eq. 1.
    """
    s = carry
    lam = np.exp(-np.exp(params.nu_log) + 1j * np.exp(params.theta_log))  # section 3.3
    b_real, b_imaginary = np.split(params.w_b, 2, axis=1)
    c_real, minus_c_imaginary = np.split(params.w_c, 2, axis=0)
    ys = []
    for u in xs:
        s = lam * s + np.exp(params.gamma_log) * (u @ (b_real + 1j * b_imaginary))  # eq. 7
        ys.append((s @ (c_real - 1j * minus_c_imaginary)).real + u @ params.w_d)  # eq. 1
    return s, np.stack(ys)


def discretize(a, step, rule):
    """Gu et al. 2022, arXiv:2206.11893, section 2: the discrete state matrix, and the factor of B."""
    if rule == "bilinear":
        return (1 + step * a / 2) / (1 - step * a / 2), step / (1 - step * a / 2)
    return np.exp(step * a), (np.exp(step * a) - 1) / a


def s4d(rule="zero_order_hold"):
    """Gu, Gupta, Goel, Re 2022, arXiv:2206.11893: x' = A x + B u, y = C x + D u per channel."""

    def reference(params, carry, xs):
        a = -np.exp(params.a_log) + 1j * params.a_imag
        b, c = (np.split(p, 2, axis=1)[0] + 1j * np.split(p, 2, axis=1)[1] for p in (params.b, params.c))
        state = carry.reshape(*carry.shape[:-1], *a.shape)
        a_bar, factor = discretize(a, np.exp(params.step_log)[:, None], rule)
        ys = []
        for x in xs:
            u = x if params.w_x is None else x @ params.w_x
            state = a_bar * state + factor * b * u[..., None]
            y = (c * state).sum(-1) + (c.conj() * state.conj()).sum(-1)  # the mode and its conjugate
            ys.append(y.real + params.d * u)
        return state.reshape(carry.shape), np.stack(ys)

    return reference


def s5(rule="zero_order_hold"):
    """Smith, Warrington, Linderman 2023, arXiv:2208.04933: eq. 5-6 and appendix B.1; the real part of A by exp."""

    def reference(params, carry, xs):
        state = carry
        lam = -np.exp(params.a_log) + 1j * params.a_imag
        b_real, b_imaginary = np.split(params.w_b, 2, axis=1)
        c_real, minus_c_imaginary = np.split(params.w_c, 2, axis=0)
        lam_bar, factor = discretize(lam, np.exp(params.step_log), rule)
        b_bar = factor * (b_real + 1j * b_imaginary)
        ys = []
        for u in xs:
            state = lam_bar * state + u @ b_bar
            ys.append(2 * (state @ (c_real - 1j * minus_c_imaginary)).real + u @ params.w_d)
        return state, np.stack(ys)

    return reference


def mamba(rule="zero_order_hold"):
    """Gu, Dao 2023, arXiv:2312.00752, algorithm 2 with eq. 4 and eq. 2; channel by channel."""

    def reference(params, carry, xs):
        a = -np.exp(params.a_log)
        h = carry.reshape(*carry.shape[:-1], *a.shape)
        ys = []
        for x in xs:
            u = x if params.w_x is None else x @ params.w_x
            b, c = u @ params.w_b, u @ params.w_c
            delta = np.log(1 + np.exp(u @ params.w_low @ params.w_step + params.b_step))
            y = np.zeros_like(u)
            h = h.copy()
            for d in range(len(a)):
                delta_a = delta[..., d, None] * a[d]
                delta_b = delta[..., d, None] * b
                if rule == "zero_order_hold":
                    delta_b = (np.exp(delta_a) - 1) / delta_a * delta_b  # eq. 4
                h[..., d, :] = np.exp(delta_a) * h[..., d, :] + delta_b * u[..., d, None]  # eq. 2a
                y[..., d] = (c * h[..., d, :]).sum(-1) + params.d[d] * u[..., d]  # eq. 2b
            ys.append(y)
        return h.reshape(carry.shape), np.stack(ys)

    return reference


def rg_lru(params, carry, xs):
    """De et al. 2024, arXiv:2402.19427, eq. 1-4, with c = 8; block-diagonal gates written out."""
    h = carry
    size = len(params.a_logit)

    def dense(blocks):
        w = np.zeros((size, size))
        for n, block in enumerate(blocks):
            at = slice(n * len(block), (n + 1) * len(block))
            w[at, at] = block
        return w

    ys = []
    for inputs in xs:
        x = inputs if params.w_x is None else inputs @ params.w_x
        r = sigmoid(x @ dense(params.w_r) + params.b_r)  # eq. 1
        i = sigmoid(x @ dense(params.w_i) + params.b_i)  # eq. 2
        a = sigmoid(params.a_logit) ** (8 * r)  # eq. 3
        h = a * h + np.sqrt(1 - a**2) * (i * x)  # eq. 4
        ys.append(h)
    return h, np.stack(ys)


def positive(v):
    """Feng et al. 2024, arXiv:2410.01201, appendix B: g."""
    return np.where(v >= 0, v + 0.5, sigmoid(v))


def min_gru(g=lambda v: v):
    """Feng et al. 2024, arXiv:2410.01201, section 3.1."""

    def reference(params, carry, xs):
        h = carry
        w_z, w_h = np.split(params.w_x, 2, axis=1)
        b_z, b_h = np.split(params.b, 2)
        ys = []
        for x in xs:
            z = sigmoid(x @ w_z + b_z)
            h = (1 - z) * h + z * g(x @ w_h + b_h)
            ys.append(h)
        return h, np.stack(ys)

    return reference


def min_lstm(g=lambda v: v):
    """Feng et al. 2024, arXiv:2410.01201, section 3.2."""

    def reference(params, carry, xs):
        h = carry
        w_f, w_i, w_h = np.split(params.w_x, 3, axis=1)
        b_f, b_i, b_h = np.split(params.b, 3)
        ys = []
        for x in xs:
            f, i = sigmoid(x @ w_f + b_f), sigmoid(x @ w_i + b_i)
            h = f / (f + i) * h + i / (f + i) * g(x @ w_h + b_h)
            ys.append(h)
        return h, np.stack(ys)

    return reference


def qrnn(pooling):
    """Bradbury et al. 2017, arXiv:1611.01576, eq. 1 with a window of 1, and 3, 4 or 5."""

    def reference(params, carry, xs):
        c = carry
        gates = len(params.b) // c.shape[-1]
        ys = []
        for x in xs:
            z, f, *others = np.split(x @ params.w_x + params.b, gates, axis=-1)
            z, f = np.tanh(z), sigmoid(f)  # eq. 1
            o, i = ([sigmoid(other) for other in others] + [1, 1])[:2]
            c = f * c + (i if pooling == "ifo" else 1 - f) * z  # eq. 5, or 3 and 4
            ys.append(c if pooling == "f" else o * c)
        return c, np.stack(ys)

    return reference


def sru(highway_bias=0.0):
    """Lei et al. 2018, arXiv:1709.02755, section 3: v of zero where there is none; alpha by section 3.2."""

    def reference(params, carry, xs):
        c = carry
        w_f, w_r, w = np.split(params.w_x, 3, axis=1)
        b_f, b_r = np.split(params.b, 2)
        v_f, v_r = (0, 0) if params.v is None else np.split(params.v, 2)
        alpha = np.sqrt(1 + np.exp(highway_bias) * 2)
        ys = []
        for x in xs:
            f = sigmoid(x @ w_f + v_f * c + b_f)
            r = sigmoid(x @ w_r + v_r * c + b_r)  # the carry before this step, as f
            c = f * c + (1 - f) * (x @ w)
            passed = x if params.w_skip is None else x @ params.w_skip
            ys.append(r * c + (1 - r) * passed * alpha)
        return c, np.stack(ys)

    return reference


def hgrn(gamma=0.0):
    """Qin, Yang, Zhong 2023, arXiv:2311.04823, section 3.2, for a layer with the lower bound gamma."""

    def reference(params, carry, xs):
        h = carry
        w_cr, w_ci = np.split(params.w_c, 2, axis=1)
        b_cr, b_ci = np.split(params.b_c, 2)
        ys = []
        for x in xs:
            real, imaginary = x @ w_cr + b_cr, x @ w_ci + b_ci
            c = real * sigmoid(real) + 1j * imaginary * sigmoid(imaginary)  # SiLU
            mu = sigmoid(x @ params.w_f + params.b_f)
            lam = gamma + (1 - gamma) * mu
            h = lam * np.exp(1j * params.theta) * h + (1 - lam) * c
            gated = sigmoid(x @ params.w_g + params.b_g) * np.concatenate([h.real, h.imag], axis=-1)
            mean, variance = gated.mean(-1, keepdims=True), gated.var(-1, keepdims=True)
            normal = (gated - mean) / np.sqrt(variance + 1e-5) * params.scale + params.shift
            ys.append(normal @ params.w_o + params.b_o)
        return h, np.stack(ys)

    return reference


def rtu(nonlinear, f=lambda z: np.maximum(z, 0)):
    """Elelimy et al. 2024, arXiv:2409.01449: two real numbers per unit."""

    def reference(params, carry, xs):
        h_1, h_2 = carry.real, carry.imag
        r, theta = np.exp(-np.exp(params.nu_log)), np.exp(params.theta_log)
        g, phi, norm = r * np.cos(theta), r * np.sin(theta), np.sqrt(1 - r**2)
        w_1, w_2 = np.split(params.w_x, 2, axis=1)
        ys = []
        for x in xs:
            h_1, h_2 = g * h_1 - phi * h_2 + norm * (x @ w_1), g * h_2 + phi * h_1 + norm * (x @ w_2)
            if nonlinear:
                h_1, h_2 = f(h_1), f(h_2)
            both = np.concatenate([h_1, h_2], axis=-1)
            ys.append(both if nonlinear else f(both))
        return h_1 + 1j * h_2, np.stack(ys)

    return reference


REFERENCES = {
    "lru": lru,
    "s4d": s4d(),
    "s4d_bilinear": s4d("bilinear"),
    "s5": s5(),
    "mamba": mamba(),
    "rg_lru": rg_lru,
    "min_gru": min_gru(),
    "min_lstm": min_lstm(),
    "qrnn": qrnn("fo"),
    "qrnn_ifo": qrnn("ifo"),
    "sru": sru(),
    "sru_peepholes": sru(),
    "hgrn": hgrn(0.5),
    "rtu": rtu(False),
    "rtu_nonlinear": rtu(True, np.tanh),
}
