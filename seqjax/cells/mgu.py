"""Minimal gated unit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Gated, Recurrence, Step
from seqjax.cells.common.initialize import DENSE, gated_weights, zeros
from seqjax.checks import check_whole
from seqjax.values import definition

SIGMOID, TANH = Activation.SIGMOID, Activation.TANH


class MGUParams(NamedTuple):
    """w_x ``[D, 2H]``, w_h ``[H, 2H]``, b ``[2H]``; columns in the order f, n."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


class MGUCarry(NamedTuple):
    """h ``[*B, H]``."""

    h: jax.Array


@definition
def mgu(hidden_size: int, *, reset_after: bool = False, param_dtype: Any = jnp.float32) -> Cell:
    r"""Minimal gated unit: a GRU whose one gate acts as update gate and as reset gate.

    .. math::
        f_t &= \sigma(x_t W_{xf} + h_{t-1} W_{hf} + b_f) \\
        n_t &= \tanh(x_t W_{xn} + (f_t \odot h_{t-1}) W_{hn} + b_n) && \text{(before)} \\
        n_t &= \tanh(x_t W_{xn} + f_t \odot (h_{t-1} W_{hn}) + b_n) && \text{(after)} \\
        h_t &= (1 - f_t) \odot h_{t-1} + f_t \odot n_t

    "Before" is the form of the paper; its second product depends on f (`Step`). "After" needs one product (`Gated`).
    ``flax.linen.MGUCell`` has neither form: it updates by :math:`h_t = (1 - f_t) \odot n_t + f_t \odot h_{t-1}`, with f
    and 1 - f exchanged.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``MGUCarry(h [*B, H])``;
    params ``MGUParams(w_x [D, 2H], w_h [H, 2H], b [2H])``.

    Gradients: the direct path multiplies gradients by :math:`1 - f_t`, without a matrix. f multiplies the path through
    n twice, outside and inside, so a gate near 0 closes that path.

    Args:
        hidden_size: H.
        reset_after: whether f acts after the recurrent product.
        param_dtype: dtype of the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.mgu(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        MGUParams(w_x=(2, 6), w_h=(3, 6), b=(6,))

    References:
        Zhou, Wu, Zhang, Zhou 2016, "Minimal gated unit for recurrent neural networks", arXiv:1603.09420 (table 1).
    """
    check_whole("mgu(hidden_size)", hidden_size)

    def init(key: jax.Array, x: jax.Array) -> MGUParams:
        w_x, w_h = gated_weights(key, x, hidden_size, 2, param_dtype)
        return MGUParams(w_x, w_h, jnp.zeros(2 * hidden_size, param_dtype))

    def reset_before(params: MGUParams, carry: MGUCarry, u: jax.Array) -> tuple[MGUCarry, jax.Array]:
        u_f, u_n = jnp.split(u, 2, -1)
        w_f, w_n = jnp.split(params.w_h, 2, -1)
        f = jax.nn.sigmoid(u_f + carry.h @ w_f)
        n = jnp.tanh(u_n + (f * carry.h) @ w_n)
        h = (1 - f) * carry.h + f * n
        return MGUCarry(h), h

    recurrence: Recurrence = Step(reset_before)
    if reset_after:
        recurrence = Gated(
            activations=(SIGMOID, TANH),
            num_update=2,
            update=lambda w, state, f, u_n, r_n: ((1 - f) * state[0] + f * jnp.tanh(u_n + f * r_n),),
            split=(1,),
            names=("forget", "candidate"),
        )
    return Cell(init=init, initial_carry=zeros(MGUCarry, hidden_size), recurrence=recurrence, project=DENSE)
