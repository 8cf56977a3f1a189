"""Simple and gated recurrent networks: elman, lstm, gru. Their variants are in `gated_variants`."""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def elman(phi):
    """Goodfellow, Bengio, Courville 2016, Deep Learning, eq. 10.8-10.9 (Elman 1990 gives the network as a figure)."""

    def reference(params, carry, xs):
        (h,) = carry
        ys = []
        for x in xs:
            a = params.b + h @ params.w_h + x @ params.w_x  # eq. 10.8
            h = phi(a)  # eq. 10.9
            ys.append(h)
        return (h,), np.stack(ys)

    return reference


def lstm(params, carry, xs):
    """Graves 2013, arXiv:1308.0850, eq. 7-11, with peephole weights W_ci, W_cf, W_co of zero."""
    c, h = carry
    w_xi, w_xf, w_xc, w_xo = np.split(params.w_x, 4, axis=1)
    w_hi, w_hf, w_hc, w_ho = np.split(params.w_h, 4, axis=1)
    b_i, b_f, b_c, b_o = np.split(params.b, 4)
    ys = []
    for x in xs:
        i = sigmoid(x @ w_xi + h @ w_hi + b_i)  # eq. 7
        f = sigmoid(x @ w_xf + h @ w_hf + b_f)  # eq. 8
        c = f * c + i * np.tanh(x @ w_xc + h @ w_hc + b_c)  # eq. 9
        o = sigmoid(x @ w_xo + h @ w_ho + b_o)  # eq. 10
        h = o * np.tanh(c)  # eq. 11
        ys.append(h)
    return (c, h), np.stack(ys)


def gru_reset_before(params, carry, xs):
    """Cho et al. 2014, arXiv:1406.1078, eq. 5-8, with both biases everywhere (the paper leaves them out)."""
    (h,) = carry
    w_r, w_z, w = np.split(params.w_x, 3, axis=1)
    u_r, u_z, u = np.split(params.w_h, 3, axis=1)
    b_r, b_z, b = np.split(params.b + params.b_h, 3)
    ys = []
    for x in xs:
        r = sigmoid(x @ w_r + h @ u_r + b_r)  # eq. 5
        z = sigmoid(x @ w_z + h @ u_z + b_z)  # eq. 6
        candidate = np.tanh(x @ w + (r * h) @ u + b)  # eq. 8
        h = z * h + (1 - z) * candidate  # eq. 7
        ys.append(h)
    return (h,), np.stack(ys)


def gru(params, carry, xs):
    """The four unnumbered equations of the documentation of torch.nn.GRU: r acts on the product and its bias."""
    (h,) = carry
    w_ir, w_iz, w_in = np.split(params.w_x, 3, axis=1)
    w_hr, w_hz, w_hn = np.split(params.w_h, 3, axis=1)
    b_ir, b_iz, b_in = np.split(params.b, 3)
    b_hr, b_hz, b_hn = np.split(params.b_h, 3)
    ys = []
    for x in xs:
        r = sigmoid(x @ w_ir + b_ir + h @ w_hr + b_hr)
        z = sigmoid(x @ w_iz + b_iz + h @ w_hz + b_hz)
        n = np.tanh(x @ w_in + b_in + r * (h @ w_hn + b_hn))
        h = (1 - z) * n + z * h
        ys.append(h)
    return (h,), np.stack(ys)


REFERENCES = {
    "elman": elman(np.tanh),
    "elman_relu": elman(lambda a: np.maximum(a, 0)),
    "elman_identity": elman(lambda a: a),
    "lstm": lstm,
    "gru": gru,
    "gru_reset_before": gru_reset_before,
}
