"""Derivatives of functions that act element by element."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqjax.jaxprs import depends


@jax.custom_jvp
def tanh(x: jax.Array) -> jax.Array:
    r"""The hyperbolic tangent, with a slope that is right where the value has rounded to 1.

    `jax.numpy.tanh` has the slope :math:`1 - y^2` of its rounded value, which in float32 is nothing but rounding, or
    exactly zero, beyond :math:`|x| = 9`. Here it is :math:`4 e^{-2|x|} / (1 + e^{-2|x|})^2`. The c of an LSTM has no
    bound, so that all gradients that enter it pass such slopes.

    Example:
        >>> import jax
        >>> x = jax.numpy.float32(20.0)
        >>> float(jax.grad(jax.numpy.tanh)(x)), f"{jax.grad(tanh)(x):.2e}"
        (0.0, '1.70e-17')
    """
    return jnp.tanh(x)


@jax.custom_jvp
def _slope(x: jax.Array) -> jax.Array:
    e = jnp.exp(-2 * jnp.abs(x))
    return 4 * e / jnp.square(1 + e)


@tanh.defjvp
def _tanh_jvp(primals: tuple, tangents: tuple) -> tuple:
    ((x,), (dx,)) = primals, tangents
    return tanh(x), _slope(x) * dx


@_slope.defjvp
def _slope_jvp(primals: tuple, tangents: tuple) -> tuple:
    ((x,), (dx,)) = primals, tangents
    slope = _slope(x)
    return slope, -2 * tanh(x) * slope * dx


def elementwise_jacobian(fn: Callable, args: tuple) -> list[list[jax.Array | None]]:
    """``d out_j / d arg_i`` of an elementwise function of arrays to a tuple of arrays; None where there is none."""
    reads = depends(fn, *args)
    rows: list[list[jax.Array | None]] = [[None] * len(args) for _ in reads]
    for i, arg in enumerate(args):
        if any(row[i] for row in reads):

            def of_one(a: jax.Array, i: int = i) -> tuple:
                return fn(*args[:i], a, *args[i + 1 :])

            tangents = jax.jvp(of_one, (arg,), (jnp.ones_like(arg),))[1]
            for j, tangent in enumerate(tangents):
                rows[j][i] = tangent if reads[j][i] else None
    return rows
