"""ParaGRU, a GRU with diagonal recurrent weights for Newton's method."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Gated
from seqjax.cells.common.initialize import DENSE, gated_weights, zeros
from seqjax.cells.common.labels import elementwise
from seqjax.checks import check_whole
from seqjax.values import definition

SIGMOID, TANH = Activation.SIGMOID, Activation.TANH


@elementwise("w_h", "b")
class ParaGRUParams(NamedTuple):
    """w_x ``[D, 3H]``, w_h ``[3, H]`` (diagonals), b ``[3H]``; in the order r, z, n."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


class ParaGRUCarry(NamedTuple):
    """h ``[*B, H]``."""

    h: jax.Array


@definition
def para_gru(hidden_size: int, *, param_dtype: Any = jnp.float32) -> Cell:
    r"""GRU with diagonal recurrent weights, whose Jacobian is diagonal (ParaGRU).

    .. math::
        r_t &= \sigma(x_t W_{xr} + w_{hr} \odot h_{t-1} + b_r) \\
        z_t &= \sigma(x_t W_{xz} + w_{hz} \odot h_{t-1} + b_z) \\
        n_t &= \tanh(x_t W_{xn} + w_{hn} \odot r_t \odot h_{t-1} + b_n) \\
        h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot n_t

    z and 1 - z are exchanged with respect to `seqjax.gru`, as in the paper.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``ParaGRUCarry(h [*B, H])``;
    params ``ParaGRUParams(w_x [D, 3H], w_h [3, H], b [3H])``, in the order r, z, n.

    Gradients: :math:`\partial h_t / \partial h_{t-1}` is diagonal: the layer does not mix the gradients of its units.
    Each diagonal entry is :math:`1 - z_t` plus the paths through the gates.

    Args:
        hidden_size: H.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.para_gru(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        ParaGRUParams(w_x=(2, 9), w_h=(3, 3), b=(9,))

    References:
        Danieli et al. 2025, "ParaRNN: unlocking parallel training of nonlinear RNNs for large language models",
        arXiv:2510.21450. Initial values as in the authors' code: w_x by Glorot, w_h normal of variance
        4/(5H), the bias of z falling evenly from 0 to -1 over the units. The authors' input weights may be
        block-diagonal by heads; here they are dense.
    """
    check_whole("para_gru(hidden_size)", hidden_size)

    def init(key: jax.Array, x: jax.Array) -> ParaGRUParams:
        return ParaGRUParams(*initial_weights(key, x, hidden_size, 1, param_dtype))

    def update(w: Any, state: tuple, r: jax.Array, z: jax.Array, u_n: jax.Array, r_n: jax.Array) -> tuple:
        return ((1 - z) * state[0] + z * jnp.tanh(u_n + r * r_n),)

    recurrence = Gated(
        activations=(SIGMOID, SIGMOID, TANH),
        num_update=3,
        update=update,
        split=(2,),
        names=("reset", "update", "candidate"),
    )
    return Cell(
        init=init, initial_carry=zeros(ParaGRUCarry, hidden_size), recurrence=recurrence, project=DENSE
    )


def diagonals(key: jax.Array, num: int, size: int, dtype: Any) -> jax.Array:
    """Draw ``[num, size]`` normal diagonals of variance 4 / (5 size)."""
    return 2 / math.sqrt(5 * size) * jax.random.normal(key, (num, size), dtype)


def initial_weights(key: jax.Array, x: jax.Array, size: int, falling: int, dtype: Any) -> tuple:
    """Draw w_x ``[D, 3H]``, w_h ``[3, H]`` and b ``[3H]``; one gate's bias falls from 0 to -1 over the units."""
    key_x, key_h = jax.random.split(key)
    w_x, _ = gated_weights(key_x, x, size, 3, dtype)
    b = jnp.zeros((3, size), dtype).at[falling].set(-jnp.linspace(0, 1, size, dtype=dtype))
    return w_x, diagonals(key_h, 3, size, dtype), b.reshape(-1)
