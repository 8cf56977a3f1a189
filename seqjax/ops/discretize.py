r"""Discretization of continuous-time modes, accurate even where one step hardly changes the state.

A mode :math:`\dot s = a s + u` over a step of length :math:`\Delta` becomes :math:`s_t = \bar a s_{t-1} + \bar b u_t`.
All functions are elementwise. For a decay near one the difference :math:`1 - \bar a` has few correct digits, so no
function computes a result from this difference.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

# Below this edge softplus(y) equals e^y to the last bit of float64: the next term of the series is e^y / 2 < 3e-18.
_LOG_SOFTPLUS_EDGE = -40.0


def zero_order_hold(
    a: Inexact[Array, "..."], step: Inexact[Array, "..."]
) -> tuple[Inexact[Array, "..."], Inexact[Array, "..."]]:
    r"""Return :math:`(\bar a, \bar b) = (e^{a\Delta}, (e^{a\Delta} - 1) / a)`, exact for inputs constant over the step.

    Safe for every a except zero, however small the product of a and step is. Both arguments have the same dtype and
    shapes that broadcast.

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
    r"""Trapezoidal rule: return :math:`((1 + a\Delta/2) / (1 - a\Delta/2), \Delta / (1 - a\Delta/2))`.

    The rule maps the left half plane into the unit disk. There the denominator is at least one in absolute value.
    """
    half = a * step / 2
    return (1 + half) / (1 - half), step / (1 - half)


def log_softplus(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return ``log(log(1 + exp(y)))`` without underflow; the result is y where y is far below zero."""
    inside = jnp.maximum(y, _LOG_SOFTPLUS_EDGE)
    return jnp.where(y > _LOG_SOFTPLUS_EDGE, jnp.log(jax.nn.softplus(inside)), y)


def complement(log_rate: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Return :math:`\sqrt{1 - a^2}` of a decay :math:`a = e^{-\rho}`, from :math:`\log\rho`.

    With this input scale, :math:`h_t = a h_{t-1} + \sqrt{1 - a^2} x_t` has the variance of x. The function evaluates
    :math:`\sqrt{2\rho}\sqrt{(1 - e^{-2\rho}) / 2\rho}`, whose relative error is the relative error of :math:`\rho` for
    every a. Value and gradient are finite where a rounds to one; there, the square root of ``1 - a**2`` has an infinite
    slope.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> jax.value_and_grad(complement)(jnp.float32(-100.0))        # a = 1 - 4e-44
        (Array(2.7276621e-22, dtype=float32), Array(1.3638311e-22, dtype=float32))
    """
    double = 2 * jnp.exp(log_rate)
    # Below this size the ratio is one to the last bit. The constant avoids a division by a number that may be zero.
    small = double < jnp.finfo(double.dtype).eps / 4
    safe = jnp.where(small, jnp.ones_like(double), double)
    ratio = jnp.where(small, jnp.ones_like(double), -jnp.expm1(-safe) / safe)
    return jnp.exp((log_rate + math.log(2)) / 2) * jnp.sqrt(ratio)
