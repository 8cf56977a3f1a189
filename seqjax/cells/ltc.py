"""Liquid time-constant network (LTC)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Step
from seqjax.cells.common.labels import elementwise
from seqjax.cells.common.linear import glorot
from seqjax.cells.common.timed import ContinuousTimeCarry, TimedInputs, initial_carry, parts, project
from seqjax.checks import check_whole
from seqjax.values import definition


@elementwise("b", "log_tau", "a")
class LTCParams(NamedTuple):
    """w_x ``[D, H]``, w_h ``[H, H]``, b ``[H]``, log_tau ``[H]``, a ``[H]``."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    log_tau: jax.Array
    a: jax.Array


@definition
def ltc(hidden_size: int, *, unfolds: int = 6, param_dtype: Any = jnp.float32) -> Cell:
    r"""Liquid time-constant network: a differential equation whose time constants depend on the input (fused solver).

    .. math::
        \frac{dh}{dt} &= -\left(\frac{1}{\tau} + f(h, x_t)\right) \odot h + f(h, x_t) \odot a, \qquad
        f(h, x) = \sigma(x W_x + h W_h + b) \\
        h &\leftarrow \frac{h + \delta f(h, x_t) \odot a}{1 + \delta (1/\tau + f(h, x_t))}
        \qquad L \text{ times, with } \delta = \max(\delta_t, 0) / L

    :math:`\delta_t` is the time since the previous step; a negative time counts as zero.

    Shapes: inputs ``TimedInputs(x [*B, D], dt [*B])`` -> h ``[*B, H]``; carry ``ContinuousTimeCarry(h [*B, H])``;
    params ``LTCParams(w_x [D, H], w_h [H, H], b [H], log_tau [H], a [H])``.

    Gradients: the direct path along h shrinks by :math:`(1 + \delta (1/\tau + f))^{-L}` per step, whatever W_h is. The
    factor falls with the elapsed time and is 1 where no time elapses.

    Args:
        hidden_size: H.
        unfolds: L, solver steps per time step.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1; from `unroll`, for inputs of another structure.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> x = sj.TimedInputs(x=jnp.ones((5, 2)), dt=jnp.ones(5))
        >>> params = sj.ltc(3).init(jax.random.key(0), x)
        >>> jax.tree.map(jnp.shape, params)
        LTCParams(w_x=(2, 3), w_h=(3, 3), b=(3,), log_tau=(3,), a=(3,))

    References:
        Hasani et al. 2021, "Liquid time-constant networks", arXiv:2006.04439, eq. 1 (the equation), eq. 3 and
        algorithm 1 (the solver, 6 unfolds). The params store the logarithm of tau, so tau is positive; tau starts at 1;
        w_x and w_h start Glorot-uniform, b at zero, a uniform in [-1, 1]: the paper gives no initialization.
    """
    check_whole("ltc(hidden_size)", hidden_size)
    check_whole("ltc(unfolds)", unfolds)

    def init(key: jax.Array, inputs: TimedInputs) -> LTCParams:
        x, _ = parts(inputs)
        key_x, key_h, key_a = jax.random.split(key, 3)
        return LTCParams(
            glorot(key_x, x.shape[-1], hidden_size, 1, param_dtype),
            glorot(key_h, hidden_size, hidden_size, 1, param_dtype),
            jnp.zeros(hidden_size, param_dtype),
            jnp.zeros(hidden_size, param_dtype),
            jax.random.uniform(key_a, (hidden_size,), param_dtype, -1, 1),
        )

    def step(params: LTCParams, carry: ContinuousTimeCarry, u: Any) -> tuple[ContinuousTimeCarry, jax.Array]:
        u, dt = u
        h = carry.h
        delta = jnp.maximum(dt, jnp.zeros_like(dt)) / unfolds
        rate, a = (jnp.broadcast_to(p, h.shape) for p in (jnp.exp(-params.log_tau), params.a))
        for _ in range(unfolds):
            f = jax.nn.sigmoid(u + h @ params.w_h)
            h = (h + delta * f * a) / (1 + delta * (rate + f))
        return ContinuousTimeCarry(h), h

    return Cell(init=init, initial_carry=initial_carry(hidden_size), recurrence=Step(step), project=project)
