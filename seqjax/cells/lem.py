"""Long expressive memory (LEM)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Step
from seqjax.cells.common.initialize import DENSE, uniform, zeros
from seqjax.checks import check_whole, check_within
from seqjax.values import definition


class LEMParams(NamedTuple):
    """w_x ``[D, 4H]``, w_y ``[H, 3H]``, w_z ``[H, H]``, b ``[4H]``; columns in the order 1, 2, z, y."""

    w_x: jax.Array
    w_y: jax.Array
    w_z: jax.Array
    b: jax.Array


class LEMCarry(NamedTuple):
    """z (slow), y (fast) ``[*B, H]``."""

    z: jax.Array
    y: jax.Array


@definition
def lem(hidden_size: int, *, step_size: float = 1.0, param_dtype: Any = jnp.float32) -> Cell:
    r"""Long expressive memory: two coupled equations, each with an input-dependent step size (LEM).

    .. math::
        \Delta_t &= \Delta t\, \sigma(x_t W_{x1} + y_{t-1} W_{y1} + b_1) \\
        \bar\Delta_t &= \Delta t\, \sigma(x_t W_{x2} + y_{t-1} W_{y2} + b_2) \\
        z_t &= (1 - \Delta_t) \odot z_{t-1} + \Delta_t \odot \tanh(x_t W_{xz} + y_{t-1} W_{yz} + b_z) \\
        y_t &= (1 - \bar\Delta_t) \odot y_{t-1} + \bar\Delta_t \odot \tanh(x_t W_{xy} + z_t W_z + b_y)

    The output is y.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry ``LEMCarry(z [*B, H], y [*B, H])``;
    params ``LEMParams(w_x [D, 4H], w_y [H, 3H], w_z [H, H], b [4H])``, columns in the order 1, 2, z, y (w_y without y).

    Gradients: along z and along y the Jacobian is the product of :math:`1 - \Delta_t`, without a matrix, as in an LSTM
    along c. Gradients from y reach z through W_z.

    Args:
        hidden_size: H.
        step_size: Delta t, at most 1.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a step_size outside (0, 1], or a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.lem(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        LEMParams(w_x=(2, 12), w_y=(3, 9), w_z=(3, 3), b=(12,))

    References:
        Rusch, Mishra, Erichson, Mahoney 2022, "Long expressive memory for sequence modeling", arXiv:2110.04744, eq. 3.
        All params start uniform within :math:`\pm 1/\sqrt{H}`, as in the authors' code.
    """
    check_whole("lem(hidden_size)", hidden_size)
    check_within("lem(step_size)", step_size, "(0, 1]")

    def init(key: jax.Array, x: jax.Array) -> LEMParams:
        width, size, bound = x.shape[-1], hidden_size, 1 / math.sqrt(hidden_size)
        shapes = ((width, 4 * size), (size, 3 * size), (size, size), (4 * size,))
        keys = jax.random.split(key, 4)
        return LEMParams(*(uniform(k, s, bound, param_dtype) for k, s in zip(keys, shapes, strict=True)))

    def step(params: LEMParams, carry: LEMCarry, u: jax.Array) -> tuple[LEMCarry, jax.Array]:
        u_1, u_2, u_z, u_y = jnp.split(u, 4, -1)
        r_1, r_2, r_z = jnp.split(carry.y @ params.w_y, 3, -1)
        slow, fast = step_size * jax.nn.sigmoid(u_1 + r_1), step_size * jax.nn.sigmoid(u_2 + r_2)
        z = (1 - slow) * carry.z + slow * jnp.tanh(u_z + r_z)
        y = (1 - fast) * carry.y + fast * jnp.tanh(u_y + z @ params.w_z)
        return LEMCarry(z, y), y

    return Cell(init=init, initial_carry=zeros(LEMCarry, hidden_size), recurrence=Step(step), project=DENSE)
