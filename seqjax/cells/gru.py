"""Gated recurrent unit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import spread
from seqjax.base import Activation, Cell, Gated, GatedWeights, Recurrence, Step
from seqjax.cells.common.initialize import DENSE, gated_weights, zeros
from seqjax.checks import check_whole
from seqjax.values import definition

SIGMOID, TANH = Activation.SIGMOID, Activation.TANH


class GRUParams(NamedTuple):
    """w_x ``[D, 3H]``, w_h ``[H, 3H]``, b and b_h ``[3H]``; columns in the order r, z, n."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    b_h: jax.Array


class GRUCarry(NamedTuple):
    """h ``[*B, H]``."""

    h: jax.Array


@definition
def gru(hidden_size: int, *, reset_after: bool = True, param_dtype: Any = jnp.float32) -> Cell:
    r"""Gated recurrent unit, with the reset gate after or before the recurrent product.

    .. math::
        r_t &= \sigma(x_t W_{xr} + b_r + h_{t-1} W_{hr} + b_{hr}) \\
        z_t &= \sigma(x_t W_{xz} + b_z + h_{t-1} W_{hz} + b_{hz}) \\
        n_t &= \tanh(x_t W_{xn} + b_n + r_t \odot (h_{t-1} W_{hn} + b_{hn})) && \text{(after)} \\
        n_t &= \tanh(x_t W_{xn} + b_n + (r_t \odot h_{t-1}) W_{hn} + b_{hn}) && \text{(before)} \\
        h_t &= (1 - z_t) \odot n_t + z_t \odot h_{t-1}

    "After" is the form of PyTorch and cuDNN; it is elementwise except for one product (`Gated`). "Before" is the form
    of the paper; its second product depends on r (`Step`). Chung et al. 2014 (arXiv:1412.3555) exchange z and 1 - z.
    b_h is a bias of PyTorch's form.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``GRUCarry(h [*B, H])``;
    params ``GRUParams(w_x [D, 3H], w_h [H, 3H], b [3H], b_h [3H])``.

    Gradients: the direct path multiplies gradients by :math:`z_t`, without a matrix, as the forget gate of an LSTM
    does. At initialization z is near 1/2.

    Args:
        hidden_size: H.
        reset_after: whether the reset gate acts after the recurrent product.
        param_dtype: dtype of the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.gru(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        GRUParams(w_x=(2, 9), w_h=(3, 9), b=(9,), b_h=(9,))

    References:
        Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", arXiv:1406.1078, eq. 5-8.
    """
    check_whole("gru(hidden_size)", hidden_size)

    def init(key: jax.Array, x: jax.Array) -> GRUParams:
        w_x, w_h = gated_weights(key, x, hidden_size, 3, param_dtype)
        b, b_h = jnp.zeros(3 * hidden_size, param_dtype), jnp.zeros(3 * hidden_size, param_dtype)
        return GRUParams(w_x, w_h, b, b_h)

    def reset_before(params: GRUParams, carry: GRUCarry, u: jax.Array) -> tuple[GRUCarry, jax.Array]:
        u = u + spread(params.b_h, u)
        u_r, u_z, u_n = jnp.split(u, 3, -1)
        w_r, w_z, w_n = jnp.split(params.w_h, 3, -1)
        r = jax.nn.sigmoid(u_r + carry.h @ w_r)
        z = jax.nn.sigmoid(u_z + carry.h @ w_z)
        n = jnp.tanh(u_n + (r * carry.h) @ w_n)
        h = (1 - z) * n + z * carry.h
        return GRUCarry(h), h

    recurrence: Recurrence = Step(reset_before)
    if reset_after:
        recurrence = Gated(
            activations=(SIGMOID, SIGMOID, TANH),
            num_update=3,
            update=lambda w, state, r, z, u_n, r_n: ((1 - z) * jnp.tanh(u_n + r * r_n) + z * state[0],),
            weights=lambda params: GatedWeights(params.w_h, params.b_h),
            split=(2,),
            names=("reset", "update", "candidate"),
        )
    return Cell(init=init, initial_carry=zeros(GRUCarry, hidden_size), recurrence=recurrence, project=DENSE)
