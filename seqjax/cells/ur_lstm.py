"""Long short-term memory with a refined forget gate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Gated
from seqjax.cells.common.initialize import DENSE, gated_weights, zeros
from seqjax.cells.lstm import LSTMCarry
from seqjax.checks import check_whole
from seqjax.ops.elementwise import tanh
from seqjax.ops.select import wide
from seqjax.values import definition

SIGMOID, TANH, IDENTITY = Activation.SIGMOID, Activation.TANH, Activation.IDENTITY


class URLSTMParams(NamedTuple):
    """w_x ``[D, 4H]``, w_h ``[H, 4H]``, b ``[4H]``; columns in the order f, r, u, o."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


@definition
def ur_lstm(hidden_size: int, *, param_dtype: Any = jnp.float32) -> Cell:
    r"""Long short-term memory with a refined forget gate and uniform gate initialization (UR-LSTM).

    .. math::
        (f_t, r_t, o_t) &= \sigma(x_t W_{f,r,o} + h_{t-1} U_{f,r,o} + b_{f,r,o}) \\
        g_t &= r_t \odot (1 - (1 - f_t)^2) + (1 - r_t) \odot f_t^2 \\
        c_t &= g_t \odot c_{t-1} + (1 - g_t) \odot \tanh(x_t W_u + h_{t-1} U_u + b_u) \\
        h_t &= o_t \odot \tanh(c_t)

    Biases start at :math:`b_f = -\ln(1/u - 1)`, u uniform in [1/H, 1 - 1/H], and :math:`b_r = -b_f`. The paper adds
    :math:`\pm b_f` to projections that have trainable biases; here their sum is one trainable bias. g and 1 - g
    are computed as :math:`f^2 + 2 f (1 - f) r` and :math:`(1 - f)^2 + 2 f (1 - f) (1 - r)`, without cancellation.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``LSTMCarry(c [*B, H], h [*B, H])``;
    params ``URLSTMParams(w_x [D, 4H], w_h [H, 4H], b [4H])``.

    Gradients: along c the derivative of one step is g, without a matrix. At a forget gate near one, 1 - g reaches
    :math:`(1 - f)^2`: an e-folding length of L steps of f becomes up to L^2 steps, while the slope of f still is 1/L.

    Args:
        hidden_size: H.
        param_dtype: dtype of the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.ur_lstm(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        URLSTMParams(w_x=(2, 12), w_h=(3, 12), b=(12,))

    References:
        Gu, Gulcehre, Paine, Hoffman, Pascanu 2020, "Improving the gating mechanism of recurrent neural networks",
        arXiv:1910.09890 (the UR-LSTM): eq. 9-11 (refine gate, effective forget gate, state), 12 (uniform gate
        initialization).
    """
    check_whole("ur_lstm(hidden_size)", hidden_size)

    def init(key: jax.Array, x: jax.Array) -> URLSTMParams:
        key_w, key_b = jax.random.split(key)
        w_x, w_h = gated_weights(key_w, x, hidden_size, 4, param_dtype)
        dtype = wide(jnp.dtype(param_dtype))
        low = 1 / max(2, hidden_size)  # [1/H, 1 - 1/H] is empty for one unit, and the point 1/2 for two
        u = jax.random.uniform(key_b, (hidden_size,), dtype, low, 1 - low)
        b_f = jnp.log(u) - jnp.log1p(-u)
        b = jnp.concatenate([b_f, -b_f, jnp.zeros(2 * hidden_size, dtype)])
        return URLSTMParams(w_x, w_h, b.astype(param_dtype))

    def update(w: Any, state: Any, f: jax.Array, r: jax.Array, u: jax.Array) -> tuple[jax.Array]:
        f, not_f = jax.nn.sigmoid(f), jax.nn.sigmoid(-f)
        g = f * (f + 2 * not_f * jax.nn.sigmoid(r))
        not_g = not_f * (not_f + 2 * f * jax.nn.sigmoid(-r))
        return (g * state[0] + not_g * u,)

    recurrence = Gated(
        activations=(IDENTITY, IDENTITY, TANH, SIGMOID),
        num_update=3,
        update=update,
        emit=lambda w, state, o: o * tanh(state[0]),
        names=("forget", "refine", "candidate", "output"),
    )
    return Cell(init=init, initial_carry=zeros(LSTMCarry, hidden_size), recurrence=recurrence, project=DENSE)
