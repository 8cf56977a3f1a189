"""Variants of simple and gated recurrent networks."""

import numpy as np

from references.gated import elman, lstm, sigmoid


def relu(a):
    return np.maximum(a, 0)


def indrnn(phi):
    """Li et al. 2018, arXiv:1803.04831, eq. 2."""

    def reference(params, carry, xs):
        (h,) = carry
        ys = []
        for x in xs:
            h = phi(x @ params.w_x + params.w_h * h + params.b)
            ys.append(h)
        return (h,), np.stack(ys)

    return reference


def peephole_lstm(params, carry, xs):
    """Graves 2013, arXiv:1308.0850, eq. 7-11; W_ci, W_cf, W_co are diagonal, as the text below eq. 11 says."""
    c, h = carry
    w_xi, w_xf, w_xc, w_xo = np.split(params.w_x, 4, axis=1)
    w_hi, w_hf, w_hc, w_ho = np.split(params.w_h, 4, axis=1)
    b_i, b_f, b_c, b_o = np.split(params.b, 4)
    ys = []
    for x in xs:
        i = sigmoid(x @ w_xi + h @ w_hi + c @ np.diag(params.w_ci) + b_i)  # eq. 7
        f = sigmoid(x @ w_xf + h @ w_hf + c @ np.diag(params.w_cf) + b_f)  # eq. 8
        c = f * c + i * np.tanh(x @ w_xc + h @ w_hc + b_c)  # eq. 9
        o = sigmoid(x @ w_xo + h @ w_ho + c @ np.diag(params.w_co) + b_o)  # eq. 10
        h = o * np.tanh(c)  # eq. 11
        ys.append(h)
    return (c, h), np.stack(ys)


def coupled_lstm(params, carry, xs):
    """Greff et al. 2015, arXiv:1503.04069: the vanilla LSTM of section 2 with f = 1 - i, peepholes p of zero."""
    c, y = carry
    w_i, w_z, w_o = np.split(params.w_x, 3, axis=1)
    r_i, r_z, r_o = np.split(params.w_h, 3, axis=1)
    b_i, b_z, b_o = np.split(params.b, 3)
    ys = []
    for x in xs:
        z = np.tanh(x @ w_z + y @ r_z + b_z)  # block input
        i = sigmoid(x @ w_i + y @ r_i + b_i)  # input gate
        f = 1 - i  # CIFG
        c = z * i + c * f  # cell
        o = sigmoid(x @ w_o + y @ r_o + b_o)  # output gate
        y = np.tanh(c) * o  # block output
        ys.append(y)
    return (c, y), np.stack(ys)


def projection_lstm(params, carry, xs):
    """Sak et al. 2014, arXiv:1402.1128, section 2.2, without peepholes and without the projection p."""
    c, r = carry
    w_ix, w_fx, w_cx, w_ox = np.split(params.w_x, 4, axis=1)
    w_ir, w_fr, w_cr, w_or = np.split(params.w_h, 4, axis=1)
    b_i, b_f, b_c, b_o = np.split(params.b, 4)
    ys = []
    for x in xs:
        i = sigmoid(x @ w_ix + r @ w_ir + b_i)
        f = sigmoid(x @ w_fx + r @ w_fr + b_f)
        c = f * c + i * np.tanh(x @ w_cx + r @ w_cr + b_c)
        o = sigmoid(x @ w_ox + r @ w_or + b_o)
        m = o * np.tanh(c)
        r = m @ params.w_p
        ys.append(r)
    return (c, r), np.stack(ys)


def layer_norm(z, gain, bias, epsilon=1e-5):
    """Ba et al. 2016, arXiv:1607.06450, eq. 15-16 of the supplement, with an epsilon under the root."""
    return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + epsilon) * gain + bias


def layer_norm_lstm(params, carry, xs):
    """Ba et al. 2016, arXiv:1607.06450, eq. 20-22, with beta_1 = beta_2 = 0; gates in our order i, f, g, o."""
    c, h = carry
    ys = []
    for x in xs:
        gates = (
            layer_norm(h @ params.w_h, params.alpha_h, 0)
            + layer_norm(x @ params.w_x, params.alpha_x, 0)
            + params.b
        )  # eq. 20
        i, f, g, o = np.split(gates, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)  # eq. 21
        h = sigmoid(o) * np.tanh(layer_norm(c, params.alpha_c, params.b_c))  # eq. 22
        ys.append(h)
    return (c, h), np.stack(ys)


def ur_lstm(params, carry, xs):
    """Gu et al. 2020, arXiv:1910.09890, eq. 9-11: a refine gate between the bounds f^2 and 1 - (1 - f)^2 of f."""
    c, h = carry
    p_f, p_r, p_u, p_o = (
        lambda x, h, w=w, v=v, b=b: x @ w + h @ v + b
        for w, v, b in zip(
            np.split(params.w_x, 4, axis=1), np.split(params.w_h, 4, axis=1), np.split(params.b, 4)
        )
    )
    ys = []
    for x in xs:
        f, r, u, o = sigmoid(p_f(x, h)), sigmoid(p_r(x, h)), np.tanh(p_u(x, h)), sigmoid(p_o(x, h))
        g = r * (1 - (1 - f) ** 2) + (1 - r) * f**2
        c = g * c + (1 - g) * u
        h = o * np.tanh(c)
        ys.append(h)
    return (c, h), np.stack(ys)


def mgu(reset_after):
    """Zhou et al. 2016, arXiv:1603.09420, table 1 (MGU); "after" has f on the product, as torch.nn.GRU has r."""

    def reference(params, carry, xs):
        (h,) = carry
        w_fx, w_hx = np.split(params.w_x, 2, axis=1)
        w_fh, w_hh = np.split(params.w_h, 2, axis=1)
        b_f, b_h = np.split(params.b, 2)
        ys = []
        for x in xs:
            f = sigmoid(h @ w_fh + x @ w_fx + b_f)
            product = f * (h @ w_hh) if reset_after else (f * h) @ w_hh
            h = (1 - f) * h + f * np.tanh(product + x @ w_hx + b_h)
            ys.append(h)
        return (h,), np.stack(ys)

    return reference


def ugrnn(params, carry, xs):
    """Collins et al. 2017, arXiv:1611.09913, eq. 2-4, the UGRNN, with s = tanh."""
    (h,) = carry
    w_gx, w_cx = np.split(params.w_x, 2, axis=1)
    w_gh, w_ch = np.split(params.w_h, 2, axis=1)
    b_g, b_c = np.split(params.b, 2)
    ys = []
    for x in xs:
        c = np.tanh(h @ w_ch + x @ w_cx + b_c)
        g = sigmoid(h @ w_gh + x @ w_gx + b_g)
        h = g * h + (1 - g) * c
        ys.append(h)
    return (h,), np.stack(ys)


REFERENCES = {
    "irnn": elman(relu),  # Le et al. 2015, arXiv:1504.00941: other initial weights, the same equation
    "indrnn": indrnn(relu),
    "indrnn_tanh": indrnn(np.tanh),
    "chrono_lstm": lstm,  # Tallec, Ollivier 2018, arXiv:1804.11188, eq. 11-15: other initial biases, same equations
    "peephole_lstm": peephole_lstm,
    "coupled_lstm": coupled_lstm,
    "projection_lstm": projection_lstm,
    "layer_norm_lstm": layer_norm_lstm,
    "ur_lstm": ur_lstm,
    "mgu": mgu(reset_after=False),
    "mgu_reset_after": mgu(reset_after=True),
    "ugrnn": ugrnn,
}
