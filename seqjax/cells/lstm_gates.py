"""Long short-term memories with other gates: peepholes, one gate to forget and to write, refined gates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Dense, Gated, GatedWeights
from seqjax.cells.initialise import gated_weights, zero_carry
from seqjax.cells.labels import elementwise
from seqjax.cells.lstm import LSTMCarry
from seqjax.checks import check_whole
from seqjax.definition import definition
from seqjax.ops.elementwise import tanh
from seqjax.ops.select import wide

SIGMOID, TANH, IDENTITY = Activation.SIGMOID, Activation.TANH, Activation.IDENTITY


@elementwise("b", "w_ci", "w_cf", "w_co")
class PeepholeLSTMParams(NamedTuple):
    """w_x ``[D, 4H]``, w_h ``[H, 4H]``, b ``[4H]``, in the order i, f, g, o; peepholes w_ci, w_cf, w_co ``[H]``."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    w_ci: jax.Array
    w_cf: jax.Array
    w_co: jax.Array


@definition
def peephole_lstm(hidden_size: int, *, forget_bias: float = 1.0, param_dtype: Any = jnp.float32) -> Cell:
    r"""Long short-term memory with peepholes: the gates of each unit read its c.

    .. math::
        (i_t, f_t, g_t, o_t) &= x_t W_x + h_{t-1} W_h + b \\
        c_t &= \sigma(f_t + w_{cf} \odot c_{t-1}) \odot c_{t-1} + \sigma(i_t + w_{ci} \odot c_{t-1}) \odot \tanh(g_t) \\
        h_t &= \sigma(o_t + w_{co} \odot c_t) \odot \tanh(c_t)

    The peepholes start at zero, so the cell starts as an `lstm`; the papers initialise peepholes as all other weights.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``LSTMCarry(c [*B, H], h [*B, H])``;
    params ``PeepholeLSTMParams(w_x [D, 4H], w_h [H, 4H], b [4H], w_ci [H], w_cf [H], w_co [H])``.

    Gradients: along c the derivative of one step is elementwise; for the gates F and I it is
    :math:`F + w_{cf} F(1 - F) c_{t-1} + w_{ci} I(1 - I) \tanh(g_t)`. Peepholes can raise the derivative above one, so
    gradients along c can explode, unlike in an `lstm`.

    Args:
        hidden_size: H.
        forget_bias: initial bias of the forget gate.
        param_dtype: dtype of the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.peephole_lstm(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        PeepholeLSTMParams(w_x=(2, 12), w_h=(3, 12), b=(12,), w_ci=(3,), w_cf=(3,), w_co=(3,))

    References:
        Gers, Schmidhuber 2000, "Recurrent nets that time and count", IJCNN.
        Graves 2013, "Generating sequences with recurrent neural networks", arXiv:1308.0850, eq. 7-11.
    """
    check_whole("peephole_lstm(hidden_size)", hidden_size)

    def init(key: jax.Array, x: jax.Array) -> PeepholeLSTMParams:
        w_x, w_h = gated_weights(key, x, hidden_size, 4, param_dtype)
        b = jnp.zeros((4, hidden_size), param_dtype).at[1].set(forget_bias)
        peephole = jnp.zeros(hidden_size, param_dtype)
        return PeepholeLSTMParams(w_x, w_h, b.reshape(-1), peephole, peephole, peephole)

    def update(w: Any, state: Any, i: jax.Array, f: jax.Array, g: jax.Array) -> tuple[jax.Array]:
        (c,), (w_ci, w_cf, _) = state, w
        return (jax.nn.sigmoid(f + w_cf * c) * c + jax.nn.sigmoid(i + w_ci * c) * g,)

    def emit(w: Any, state: Any, o: jax.Array) -> jax.Array:
        (c,), (_, _, w_co) = state, w
        return jax.nn.sigmoid(o + w_co * c) * tanh(c)

    return Cell(
        init=init,
        initial_carry=lambda params, x: LSTMCarry(zero_carry(x, hidden_size), zero_carry(x, hidden_size)),
        recurrence=Gated(
            activations=(IDENTITY, IDENTITY, TANH, IDENTITY),
            num_update=3,
            update=update,
            emit=emit,
            weights=lambda params: GatedWeights(params.w_h, None, (params.w_ci, params.w_cf, params.w_co)),
        ),
        project=Dense(lambda params: (params.w_x, params.b)),
    )


class CoupledLSTMParams(NamedTuple):
    """w_x ``[D, 3H]``, w_h ``[H, 3H]``, b ``[3H]``; columns in the order i, g, o."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


@definition
def coupled_lstm(hidden_size: int, *, forget_bias: float = 1.0, param_dtype: Any = jnp.float32) -> Cell:
    r"""Long short-term memory with a coupled input and forget gate, f = 1 - i (CIFG).

    .. math::
        (i_t, g_t, o_t) &= x_t W_x + h_{t-1} W_h + b \\
        c_t &= (1 - \sigma(i_t)) \odot c_{t-1} + \sigma(i_t) \odot \tanh(g_t) \\
        h_t &= \sigma(o_t) \odot \tanh(c_t)

    1 - sigma(i) is computed as sigma(-i), which keeps the relative accuracy of a nearly closed gate. The paper's LSTM
    also has peepholes (see `peephole_lstm`); this cell has none.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``LSTMCarry(c [*B, H], h [*B, H])``;
    params ``CoupledLSTMParams(w_x [D, 3H], w_h [H, 3H], b [3H])``.

    Gradients: along c the derivative of one step is :math:`1 - \sigma(i_t)`, without a matrix. c is a weighted mean of
    values of tanh and stays within (-1, 1).

    Args:
        hidden_size: H.
        forget_bias: initial bias of the forget gate; the bias of i is its negative.
        param_dtype: dtype of the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.coupled_lstm(2).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> params.b
        Array([-1., -1.,  0.,  0.,  0.,  0.], dtype=float32)

    References:
        Greff et al. 2015, "LSTM: a search space odyssey", arXiv:1503.04069, section 3 (variant CIFG,
        :math:`f_t = 1 - i_t`).
    """
    check_whole("coupled_lstm(hidden_size)", hidden_size)

    def init(key: jax.Array, x: jax.Array) -> CoupledLSTMParams:
        w_x, w_h = gated_weights(key, x, hidden_size, 3, param_dtype)
        b = jnp.zeros((3, hidden_size), param_dtype).at[0].set(-forget_bias)
        return CoupledLSTMParams(w_x, w_h, b.reshape(-1))

    return Cell(
        init=init,
        initial_carry=lambda params, x: LSTMCarry(zero_carry(x, hidden_size), zero_carry(x, hidden_size)),
        recurrence=Gated(
            activations=(IDENTITY, TANH, SIGMOID),
            num_update=2,
            update=lambda w, state, i, g: (jax.nn.sigmoid(-i) * state[0] + jax.nn.sigmoid(i) * g,),
            emit=lambda w, state, o: o * tanh(state[0]),
            weights=lambda params: GatedWeights(params.w_h),
        ),
        project=Dense(lambda params: (params.w_x, params.b)),
    )


class URLSTMParams(NamedTuple):
    """w_x ``[D, 4H]``, w_h ``[H, 4H]``, b ``[4H]``; columns in the order f, r, u, o."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


@definition
def ur_lstm(hidden_size: int, *, param_dtype: Any = jnp.float32) -> Cell:
    r"""Long short-term memory with a refined forget gate and uniform gate initialisation (UR-LSTM).

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
        initialisation).
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

    return Cell(
        init=init,
        initial_carry=lambda params, x: LSTMCarry(zero_carry(x, hidden_size), zero_carry(x, hidden_size)),
        recurrence=Gated(
            activations=(IDENTITY, IDENTITY, TANH, SIGMOID),
            num_update=3,
            update=update,
            emit=lambda w, state, o: o * tanh(state[0]),
            weights=lambda params: GatedWeights(params.w_h),
        ),
        project=Dense(lambda params: (params.w_x, params.b)),
    )
