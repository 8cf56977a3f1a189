"""Update gate recurrent network."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Gated
from seqjax.cells.common.initialize import DENSE, gated_weights, zeros
from seqjax.checks import check_whole
from seqjax.values import definition

SIGMOID, TANH = Activation.SIGMOID, Activation.TANH


class UGRNNParams(NamedTuple):
    """w_x ``[D, 2H]``, w_h ``[H, 2H]``, b ``[2H]``; columns in the order g, c."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


class UGRNNCarry(NamedTuple):
    """h ``[*B, H]``."""

    h: jax.Array


@definition
def ugrnn(hidden_size: int, *, update_bias: float = 1.0, param_dtype: Any = jnp.float32) -> Cell:
    r"""Update gate recurrent network: a simple recurrent network with one update gate (UGRNN).

    .. math::
        g_t &= \sigma(x_t W_{xg} + h_{t-1} W_{hg} + b_g) \\
        c_t &= \tanh(x_t W_{xc} + h_{t-1} W_{hc} + b_c) \\
        h_t &= g_t \odot h_{t-1} + (1 - g_t) \odot c_t

    ``flax.linen.MGUCell(reset_gate=False)`` is this cell. The paper also tests relu in place of tanh.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``UGRNNCarry(h [*B, H])``;
    params ``UGRNNParams(w_x [D, 2H], w_h [H, 2H], b [2H])``.

    Gradients: the direct path multiplies gradients by :math:`g_t`, without a matrix, with an e-folding length of
    :math:`-1/\ln\sigma(b_g)` steps at initialization, 3.2 for the default bias of 1. The second path is that of an
    `elman` network, times 1 - g.

    Args:
        hidden_size: H.
        update_bias: initial bias of the gate.
        param_dtype: dtype of the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> sj.ugrnn(3).init(jax.random.key(0), jnp.ones((5, 2))).b
        Array([1., 1., 1., 0., 0., 0.], dtype=float32)

    References:
        Collins, Sohl-Dickstein, Sussillo 2017, "Capacity and trainability in recurrent neural networks",
        arXiv:1611.09913, section 1.4, eq. 2-4 (the UGRNN).
    """
    check_whole("ugrnn(hidden_size)", hidden_size)

    def init(key: jax.Array, x: jax.Array) -> UGRNNParams:
        w_x, w_h = gated_weights(key, x, hidden_size, 2, param_dtype)
        b = jnp.zeros((2, hidden_size), param_dtype).at[0].set(update_bias)
        return UGRNNParams(w_x, w_h, b.reshape(-1))

    recurrence = Gated(
        activations=(SIGMOID, TANH),
        num_update=2,
        update=lambda w, state, g, c: (g * state[0] + (1 - g) * c,),
        names=("update", "candidate"),
    )
    return Cell(init=init, initial_carry=zeros(UGRNNCarry, hidden_size), recurrence=recurrence, project=DENSE)
