"""Long short-term memory with a projection of h."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Step
from seqjax.cells.common.initialize import DENSE, per_gate, zeros
from seqjax.cells.lstm import LSTMCarry
from seqjax.checks import check_whole
from seqjax.ops.elementwise import tanh
from seqjax.values import definition


class ProjectionLSTMParams(NamedTuple):
    """w_x ``[D, 4M]``, w_h ``[H, 4M]``, b ``[4M]``, in the order i, f, g, o; w_p ``[M, H]``."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    w_p: jax.Array


@definition
def projection_lstm(
    hidden_size: int,
    *,
    cell_size: int | None = None,
    forget_bias: float = 1.0,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Long short-term memory with a projection: h is a narrow linear projection of M memory cells (LSTMP).

    .. math::
        (i_t, f_t, g_t, o_t) &= x_t W_x + h_{t-1} W_h + b \\
        c_t &= \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \tanh(g_t) \\
        h_t &= (\sigma(o_t) \odot \tanh(c_t)) W_p

    The cell has 4 (D + H) M + M H weights; an `lstm` of M cells has 4 (D + M) M. The paper's cell also has peepholes
    and a second projection without recurrence; this form is PyTorch's (``proj_size``).

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``LSTMCarry(c [*B, M], h [*B, H])``;
    params ``ProjectionLSTMParams(w_x [D, 4M], w_h [H, 4M], b [4M], w_p [M, H])``.

    Gradients: along c the Jacobian is the product of the forget gates, as in `lstm`; the path through h has rank H at
    most.

    Args:
        hidden_size: H, the width of h (PyTorch's proj_size).
        cell_size: M, the number of memory cells (PyTorch's hidden_size); twice hidden_size by default.
        forget_bias: initial bias of the forget gate.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.projection_lstm(3, cell_size=8).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        ProjectionLSTMParams(w_x=(2, 32), w_h=(3, 32), b=(32,), w_p=(8, 3))

    References:
        Sak, Senior, Beaufays 2014, "Long short-term memory based recurrent neural network architectures for large
        vocabulary speech recognition", arXiv:1402.1128, section 2.2 (LSTMP).
    """
    check_whole("projection_lstm(hidden_size)", hidden_size)
    size = 2 * hidden_size if cell_size is None else cell_size
    check_whole("projection_lstm(cell_size)", size)

    def init(key: jax.Array, x: jax.Array) -> ProjectionLSTMParams:
        key_x, key_h, key_p = jax.random.split(key, 3)
        glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
        w_x = per_gate(glorot, key_x, (x.shape[-1], size), 4, param_dtype)
        w_h = per_gate(orthogonal, key_h, (hidden_size, size), 4, param_dtype)
        w_p = per_gate(glorot, key_p, (size, hidden_size), 1, param_dtype)
        b = jnp.zeros((4, size), param_dtype).at[1].set(forget_bias)
        return ProjectionLSTMParams(w_x, w_h, b.reshape(-1), w_p)

    def step(params: ProjectionLSTMParams, carry: LSTMCarry, u: jax.Array) -> tuple[LSTMCarry, jax.Array]:
        i, f, g, o = jnp.split(u + carry.h @ params.w_h, 4, -1)
        c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = (jax.nn.sigmoid(o) * tanh(c)) @ params.w_p
        return LSTMCarry(c, h), h

    return Cell(
        init=init, initial_carry=zeros(LSTMCarry, size, hidden_size), recurrence=Step(step), project=DENSE
    )
