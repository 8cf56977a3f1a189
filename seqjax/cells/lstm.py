"""Long short-term memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Gated
from seqjax.cells.common.initialize import DENSE, gated_weights, zeros
from seqjax.checks import check_whole
from seqjax.ops.elementwise import tanh
from seqjax.values import definition

SIGMOID, TANH = Activation.SIGMOID, Activation.TANH


class LSTMParams(NamedTuple):
    """w_x ``[D, 4H]``, w_h ``[H, 4H]``, b ``[4H]``; columns in the order i, f, g, o."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


class LSTMCarry(NamedTuple):
    """c, h ``[*B, H]``."""

    c: jax.Array
    h: jax.Array


@definition
def lstm(hidden_size: int, *, forget_bias: float = 1.0, param_dtype: Any = jnp.float32) -> Cell:
    r"""Long short-term memory.

    .. math::
        (i_t, f_t, g_t, o_t) &= x_t W_x + h_{t-1} W_h + b \\
        c_t &= \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \tanh(g_t) \\
        h_t &= \sigma(o_t) \odot \tanh(c_t)

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``LSTMCarry(c [*B, H], h [*B, H])``;
    params ``LSTMParams(w_x [D, 4H], w_h [H, 4H], b [4H])``.

    Gradients: along c the derivative of one step is :math:`\sigma(f_t)`, without a matrix. Gradients decay slowly where
    the forget gate is near one. A bias b of the forget gate gives an e-folding length of :math:`-1/\ln\sigma(b)` steps
    at initialization, 3.2 for the default of 1.

    Args:
        hidden_size: H.
        forget_bias: initial bias of the forget gate.
        param_dtype: dtype of the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.lstm(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> params.b
        Array([0., 0., 0., 1., 1., 1., 0., 0., 0., 0., 0., 0.], dtype=float32)

    References:
        Hochreiter, Schmidhuber 1997, "Long short-term memory", Neural Computation 9.
        Gers, Schmidhuber, Cummins 2000, "Learning to forget", Neural Computation 12 (the forget gate).
        Jozefowicz, Zaremba, Sutskever 2015, "An empirical exploration of recurrent network architectures"
        (forget_bias 1).
    """
    check_whole("lstm(hidden_size)", hidden_size)

    def init(key: jax.Array, x: jax.Array) -> LSTMParams:
        w_x, w_h = gated_weights(key, x, hidden_size, 4, param_dtype)
        b = jnp.zeros((4, hidden_size), param_dtype).at[1].set(forget_bias)
        return LSTMParams(w_x, w_h, b.reshape(-1))

    recurrence = Gated(
        activations=(SIGMOID, SIGMOID, TANH, SIGMOID),
        num_update=3,
        update=lambda w, state, i, f, g: (f * state[0] + i * g,),
        emit=lambda w, state, o: o * tanh(state[0]),
        names=("input", "forget", "candidate", "output"),
    )
    return Cell(init=init, initial_carry=zeros(LSTMCarry, hidden_size), recurrence=recurrence, project=DENSE)
