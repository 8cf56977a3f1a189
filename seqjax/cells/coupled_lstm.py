"""Long short-term memory with a coupled input and forget gate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Gated
from seqjax.cells.common.initialize import DENSE, gated_weights, zeros
from seqjax.cells.lstm import LSTMCarry
from seqjax.checks import check_whole
from seqjax.ops.elementwise import tanh
from seqjax.values import definition

SIGMOID, TANH, IDENTITY = Activation.SIGMOID, Activation.TANH, Activation.IDENTITY


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

    recurrence = Gated(
        activations=(IDENTITY, TANH, SIGMOID),
        num_update=2,
        update=lambda w, state, i, g: (jax.nn.sigmoid(-i) * state[0] + jax.nn.sigmoid(i) * g,),
        emit=lambda w, state, o: o * tanh(state[0]),
        names=("input", "candidate", "output"),
    )
    return Cell(init=init, initial_carry=zeros(LSTMCarry, hidden_size), recurrence=recurrence, project=DENSE)
