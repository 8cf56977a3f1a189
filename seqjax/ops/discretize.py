r"""From continuous to discrete time, accurate where a step hardly changes the state.

A mode :math:`\dot s = a s + u` over a step of length :math:`\Delta` becomes :math:`s_t = \bar a s_{t-1} + \bar b u_t`.
Everything here is elementwise. A decay near one leaves :math:`1 - \bar a` few digits, so nothing is computed from that
difference.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

# softplus(y) equals e^y to the last bit of float64 below: the next term of its series is e^y / 2 < 3e-18.
_LOG_SOFTPLUS_EDGE = -40.0


def zero_order_hold(
    a: Inexact[Array, "..."], step: Inexact[Array, "..."]
) -> tuple[Inexact[Array, "..."], Inexact[Array, "..."]]:
    r"""Exact for inputs constant over the step: :math:`(e^{a\Delta}, (e^{a\Delta} - 1) / a)`.

    Safe for any a other than zero, however small a times step is. Both arguments in one dtype, shapes that broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> zero_order_hold(jnp.float32(-2), jnp.float32(1e-9))[1]
        Array(1.e-09, dtype=float32)
    """
    z = a * step
    return jnp.exp(z), jnp.expm1(z) / a


def bilinear(
    a: Inexact[Array, "..."], step: Inexact[Array, "..."]
) -> tuple[Inexact[Array, "..."], Inexact[Array, "..."]]:
    r"""The trapezoidal rule: :math:`((1 + a\Delta/2) / (1 - a\Delta/2), \Delta / (1 - a\Delta/2))`.

    Maps the left half plane into the unit disk; the denominator is at least one there.
    """
    half = a * step / 2
    return (1 + half) / (1 - half), step / (1 - half)


def log_softplus(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """``log(log(1 + exp(y)))`` without underflow: y itself where y is far below zero."""
    inside = jnp.maximum(y, _LOG_SOFTPLUS_EDGE)
    return jnp.where(y > _LOG_SOFTPLUS_EDGE, jnp.log(jax.nn.softplus(inside)), y)


def complement(log_rate: Float[Array, "..."]) -> Float[Array, "..."]:
    r""":math:`\sqrt{1 - a^2}` of a decay :math:`a = e^{-\rho}`, from :math:`\log\rho`.

    The norm of the input that keeps the variance of :math:`h_t = a h_{t-1} + \sqrt{1 - a^2} x_t` at that of x. As
    :math:`\sqrt{2\rho}\sqrt{(1 - e^{-2\rho}) / 2\rho}` its relative error is that of :math:`\rho` for every a, and
    value and gradient are finite where a rounds to one, where the square root of ``1 - a**2`` has an infinite slope.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> jax.value_and_grad(complement)(jnp.float32(-100.0))        # a = 1 - 4e-44
        (Array(2.7276621e-22, dtype=float32), Array(1.3638311e-22, dtype=float32))
    """
    double = 2 * jnp.exp(log_rate)
    # Below the edge the ratio is one to the last bit, and dividing by a number that may be zero is avoided.
    small = double < jnp.finfo(double.dtype).eps / 4
    safe = jnp.where(small, jnp.ones_like(double), double)
    ratio = jnp.where(small, jnp.ones_like(double), -jnp.expm1(-safe) / safe)
    return jnp.exp((log_rate + math.log(2)) / 2) * jnp.sqrt(ratio)
