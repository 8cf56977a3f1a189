"""ParaLSTM, an LSTM with diagonal recurrent weights for Newton's method."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Gated, GatedWeights
from seqjax.cells.common.initialize import DENSE, zeros
from seqjax.cells.common.labels import elementwise
from seqjax.cells.para_gru import diagonals, initial_weights
from seqjax.checks import check_whole
from seqjax.ops.elementwise import tanh
from seqjax.values import definition

IDENTITY, TANH = Activation.IDENTITY, Activation.TANH


@elementwise("w_h", "w_c", "b")
class ParaLSTMParams(NamedTuple):
    """w_x ``[D, 3H]``, w_h ``[3, H]`` (diagonals), w_c ``[2, H]`` (peepholes of f, o), b ``[3H]``; order f, g, o."""

    w_x: jax.Array
    w_h: jax.Array
    w_c: jax.Array
    b: jax.Array


class ParaLSTMCarry(NamedTuple):
    """c, h ``[*B, H]``."""

    c: jax.Array
    h: jax.Array


@definition
def para_lstm(hidden_size: int, *, param_dtype: Any = jnp.float32) -> Cell:
    r"""LSTM with diagonal recurrent weights, peepholes and i = 1 - f, whose Jacobian has 2 x 2 blocks (ParaLSTM).

    .. math::
        f_t &= \sigma(x_t W_{xf} + w_{hf} \odot h_{t-1} + w_{cf} \odot c_{t-1} + b_f) \\
        g_t &= \tanh(x_t W_{xg} + w_{hg} \odot h_{t-1} + b_g) \\
        c_t &= f_t \odot c_{t-1} + (1 - f_t) \odot g_t \\
        o_t &= \sigma(x_t W_{xo} + w_{ho} \odot h_{t-1} + w_{co} \odot c_t + b_o) \\
        h_t &= o_t \odot \tanh(c_t)

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``ParaLSTMCarry(c [*B, H], h [*B, H])``;
    params ``ParaLSTMParams(w_x [D, 3H], w_h [3, H], w_c [2, H], b [3H])``, in the order f, g, o.

    Gradients: unit j of (c, h) depends only on unit j of the previous carry, so the Jacobian has one 2 x 2 block per
    unit. Along c its entry is f_t plus the path through the peephole.

    Args:
        hidden_size: H.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.para_lstm(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        ParaLSTMParams(w_x=(2, 9), w_h=(3, 3), w_c=(2, 3), b=(9,))

    References:
        Danieli et al. 2025, "ParaRNN: unlocking parallel training of nonlinear RNNs for large language models",
        arXiv:2510.21450. Initial values as in the authors' code: w_x by Glorot, w_h and w_c normal of
        variance 4/(5H), the bias of f falling evenly from 0 to -1 over the units. The authors' input weights may be
        block-diagonal by heads; here they are dense.
    """
    check_whole("para_lstm(hidden_size)", hidden_size)

    def init(key: jax.Array, x: jax.Array) -> ParaLSTMParams:
        key, key_c = jax.random.split(key)
        w_x, w_h, b = initial_weights(key, x, hidden_size, 0, param_dtype)
        w_c = diagonals(key_c, 2, hidden_size, param_dtype)
        return ParaLSTMParams(w_x, w_h, w_c, b)

    # Gates with peepholes arrive as pre-activations.
    def update(w: tuple, state: tuple, f: jax.Array, g: jax.Array) -> tuple:
        (c,) = state
        f = jax.nn.sigmoid(f + w[0] * c)
        return (f * c + (1 - f) * g,)

    def emit(w: tuple, state: tuple, o: jax.Array) -> jax.Array:
        (c,) = state
        return jax.nn.sigmoid(o + w[1] * c) * tanh(c)

    recurrence = Gated(
        activations=(IDENTITY, TANH, IDENTITY),
        num_update=2,
        update=update,
        emit=emit,
        weights=lambda params: GatedWeights(params.w_h, None, (params.w_c[0], params.w_c[1])),
    )
    return Cell(
        init=init, initial_carry=zeros(ParaLSTMCarry, hidden_size), recurrence=recurrence, project=DENSE
    )
