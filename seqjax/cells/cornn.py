"""Coupled oscillatory recurrent network (coRNN)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Step
from seqjax.cells.common.initialize import DENSE, uniform, zeros
from seqjax.checks import check_above, check_at_least, check_whole
from seqjax.ops.fixed_point import fixed_point
from seqjax.values import definition


class CoRNNParams(NamedTuple):
    """w_x ``[D, H]``, w_y and w_z ``[H, H]``, b ``[H]``."""

    w_x: jax.Array
    w_y: jax.Array
    w_z: jax.Array
    b: jax.Array


class CoRNNCarry(NamedTuple):
    """z (velocity), y (position) ``[*B, H]``."""

    z: jax.Array
    y: jax.Array


@definition
def cornn(
    hidden_size: int,
    *,
    step_size: float = 0.042,
    gamma: float = 2.7,
    epsilon: float = 4.7,
    implicit_damping: bool = False,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Coupled oscillatory recurrent network: driven, damped oscillators in discrete time.

    .. math::
        z_t &= z_{t-1} + \Delta t \left(\tanh(x_t W_x + y_{t-1} W_y + z_{t-1} W_z + b)
            - \gamma\, y_{t-1} - \epsilon\, z_{\bar t}\right) \\
        y_t &= y_{t-1} + \Delta t\, z_t

    where :math:`\bar t = t-1`, or t with implicit damping. The output is y.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry ``CoRNNCarry(z [*B, H], y [*B, H])``;
    params ``CoRNNParams(w_x [D, H], w_y [H, H], w_z [H, H], b [H])``.

    Gradients: the Jacobian of one step is the identity plus :math:`O(\Delta t)`. Over T steps with
    :math:`T \Delta t = O(1)` gradients neither vanish nor explode (the paper derives bounds). The weights enter only
    through slopes within [0, 1]. With weights of zero the units are independent damped oscillators.

    Args:
        hidden_size: H.
        step_size: Delta t.
        gamma: the squared frequency of each oscillator.
        epsilon: the damping coefficient.
        implicit_damping: whether the new velocity enters the damping, which is stable for any step_size * epsilon.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a step_size that is not positive, a negative gamma or epsilon, or a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.cornn(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        CoRNNParams(w_x=(2, 3), w_y=(3, 3), w_z=(3, 3), b=(3,))

    References:
        Rusch, Mishra 2021, "Coupled oscillatory recurrent neural network (coRNN)", arXiv:2010.00951, eq. 3. The
        defaults of step_size, gamma and epsilon are those of the authors' code for sequential MNIST. All params start
        uniform within :math:`\pm 1/\sqrt{D + 2H}`, as in that code (one torch.nn.Linear of [x, z, y]).
    """
    check_whole("cornn(hidden_size)", hidden_size)
    check_above("cornn(step_size)", step_size)
    check_at_least("cornn(gamma)", gamma, 0)
    check_at_least("cornn(epsilon)", epsilon, 0)

    def init(key: jax.Array, x: jax.Array) -> CoRNNParams:
        width = x.shape[-1]
        bound = 1 / math.sqrt(width + 2 * hidden_size)
        shapes = ((width, hidden_size), (hidden_size,) * 2, (hidden_size,) * 2, (hidden_size,))
        keys = jax.random.split(key, 4)
        return CoRNNParams(*(uniform(k, s, bound, param_dtype) for k, s in zip(keys, shapes, strict=True)))

    def step(params: CoRNNParams, carry: CoRNNCarry, u: jax.Array) -> tuple[CoRNNCarry, jax.Array]:
        force = jnp.tanh(u + carry.y @ params.w_y + carry.z @ params.w_z) - gamma * carry.y
        if implicit_damping:
            z = (carry.z + step_size * force) / (1 + step_size * epsilon)
        else:
            z = carry.z + step_size * (force - epsilon * carry.z)
        y = carry.y + step_size * z
        return CoRNNCarry(z, y), y

    def inverse(params: CoRNNParams, carry: CoRNNCarry, u: jax.Array) -> CoRNNCarry:
        """Solve for the position in closed form and for the velocity by fixed-point iteration, as the step is small."""
        w_y, w_z = params.w_y.astype(u.dtype), params.w_z.astype(u.dtype)
        y = carry.y - step_size * carry.z
        driven = u + y @ w_y

        def earlier(z: jax.Array) -> jax.Array:
            force = jnp.tanh(driven + z @ w_z) - gamma * y
            if implicit_damping:
                return (1 + step_size * epsilon) * carry.z - step_size * force
            return (carry.z - step_size * force) / (1 - step_size * epsilon)

        return CoRNNCarry(fixed_point(earlier, carry.z), y)

    initial_carry = zeros(CoRNNCarry, hidden_size)
    return Cell(init=init, initial_carry=initial_carry, recurrence=Step(step), project=DENSE, inverse=inverse)
