"""Cells of softmax attention: the whole score matrix at once, over the history in the carry."""

import numpy as np


def turned(x, positions):
    """Su et al. 2021, arXiv:2104.09864, section 3.2: pairs as complex numbers, times e^(i m theta), eq. 12."""
    size = x.shape[-1]
    theta = 10000.0 ** (-2 * np.arange(size // 2) / size)
    z = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * positions[:, None, None] * theta)
    return np.stack([z.real, z.imag], -1).reshape(x.shape)


def root_mean_square_norm(x, scale):
    return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def attention(num_heads, num_groups, length, rotary=True):
    """Vaswani et al. 2017, arXiv:1706.03762, eq. 1 and section 3.2.2, decoder side: illegal connections are -inf.

    Heads share keys and values by Ainslie et al. 2023, arXiv:2305.13245, section 2.2. A step sees itself and
    ``length - 1`` steps before it; step p lies in slot ``p % length`` of the carry.
    """

    def split(x, count):
        return x.reshape(len(x), count, -1)

    def reference(params, carry, xs):
        rings = [leaf.copy() for leaf in carry]
        ys = np.stack(
            [one_row(params, [leaf[row] for leaf in rings], xs[:, row]) for row in range(xs.shape[1])], 1
        )
        return (rings[0], rings[1], rings[2] + len(xs)), ys

    def one_row(params, carry, x):
        ring_k, ring_v, start = carry  # written to below
        old = np.arange(max(0, start - length), start)
        new = start + np.arange(len(x))
        b_q, b_k, b_v, b_o = (0 if b is None else b for b in params[4:8])
        q = split(x @ params.w_q + b_q, num_heads)
        k = split(x @ params.w_k + b_k, num_groups)
        v = split(x @ params.w_v + b_v, num_groups)
        if params.scale_q is not None:
            q, k = root_mean_square_norm(q, params.scale_q), root_mean_square_norm(k, params.scale_k)
        if rotary:
            q, k = turned(q, new), turned(k, new)
        k = np.concatenate([ring_k[old % length], k])
        v = np.concatenate([ring_v[old % length], v])
        lag = new[:, None] - np.concatenate([old, new])
        visible = (lag >= 0) & (lag < length)
        heads = []
        for head in range(num_heads):
            group = head * num_groups // num_heads
            scores = np.where(visible, q[:, head] @ k[:, group].T / np.sqrt(q.shape[-1]), -np.inf)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(weights / weights.sum(1, keepdims=True) @ v[:, group])
        last = np.arange(max(new[-1] + 1 - length, 0), new[-1] + 1)
        ring_k[last % length], ring_v[last % length] = k[-len(last) :], v[-len(last) :]
        return np.concatenate(heads, 1) @ params.w_o + b_o

    return reference


REFERENCES = {
    "attention": attention(4, 4, 64),
    "multi_query_attention": attention(4, 1, 64, rotary=False),
    "sliding_window_attention": attention(4, 2, 8),
}
