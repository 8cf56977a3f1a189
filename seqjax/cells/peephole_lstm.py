"""Long short-term memory with peepholes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Gated, GatedWeights
from seqjax.cells.common.initialize import DENSE, gated_weights, zeros
from seqjax.cells.common.labels import elementwise
from seqjax.cells.lstm import LSTMCarry
from seqjax.checks import check_whole
from seqjax.ops.elementwise import tanh
from seqjax.values import definition

TANH, IDENTITY = Activation.TANH, Activation.IDENTITY


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

    The peepholes start at zero, so the cell starts as an `lstm`; the papers initialize peepholes as all other weights.

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

    recurrence = Gated(
        activations=(IDENTITY, IDENTITY, TANH, IDENTITY),
        num_update=3,
        update=update,
        emit=emit,
        weights=lambda params: GatedWeights(params.w_h, None, (params.w_ci, params.w_cf, params.w_co)),
        names=("input", "forget", "candidate", "output"),
    )
    return Cell(init=init, initial_carry=zeros(LSTMCarry, hidden_size), recurrence=recurrence, project=DENSE)
