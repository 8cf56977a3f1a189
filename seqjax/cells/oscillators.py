"""Recurrent networks that discretise differential equations: coRNN (oscillators) and LEM (multiple time scales)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Dense, Step
from seqjax.cells.initialise import uniform, zero_carry
from seqjax.checks import check_above, check_at_least, check_whole, check_within
from seqjax.definition import definition
from seqjax.ops.fixed_point import fixed_point


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

    return Cell(
        init=init,
        initial_carry=lambda params, x: CoRNNCarry(zero_carry(x, hidden_size), zero_carry(x, hidden_size)),
        recurrence=Step(step),
        project=Dense(lambda params: (params.w_x, params.b)),
        inverse=inverse,
    )


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
        shapes = (
            (x.shape[-1], 4 * hidden_size),
            (hidden_size, 3 * hidden_size),
            (hidden_size, hidden_size),
            (4 * hidden_size,),
        )
        bound = 1 / math.sqrt(hidden_size)
        keys = jax.random.split(key, 4)
        return LEMParams(*(uniform(k, s, bound, param_dtype) for k, s in zip(keys, shapes, strict=True)))

    def step(params: LEMParams, carry: LEMCarry, u: jax.Array) -> tuple[LEMCarry, jax.Array]:
        u_1, u_2, u_z, u_y = jnp.split(u, 4, -1)
        r_1, r_2, r_z = jnp.split(carry.y @ params.w_y, 3, -1)
        slow, fast = step_size * jax.nn.sigmoid(u_1 + r_1), step_size * jax.nn.sigmoid(u_2 + r_2)
        z = (1 - slow) * carry.z + slow * jnp.tanh(u_z + r_z)
        y = (1 - fast) * carry.y + fast * jnp.tanh(u_y + z @ params.w_z)
        return LEMCarry(z, y), y

    return Cell(
        init=init,
        initial_carry=lambda params, x: LEMCarry(zero_carry(x, hidden_size), zero_carry(x, hidden_size)),
        recurrence=Step(step),
        project=Dense(lambda params: (params.w_x, params.b)),
    )
