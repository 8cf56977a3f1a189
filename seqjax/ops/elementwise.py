"""Derivatives of elementwise functions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.jaxprs import depends


@jax.custom_jvp
def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Hyperbolic tangent with a derivative that stays accurate where the value rounds to 1.

    `jax.numpy.tanh` computes the derivative :math:`1 - y^2` from the rounded value y. In float32 this difference is
    only rounding error, or exactly zero, beyond :math:`|x| = 9`. This function computes
    :math:`4 e^{-2|x|} / (1 + e^{-2|x|})^2` instead. The c of an LSTM is unbounded, and all gradients of c through h
    have this derivative as a factor.

    Example:
        >>> import jax
        >>> x = jax.numpy.float32(20.0)
        >>> float(jax.grad(jax.numpy.tanh)(x)), f"{jax.grad(tanh)(x):.2e}"
        (0.0, '1.70e-17')
    """
    return jnp.tanh(x)


@jax.custom_jvp
def _slope(x: Float[Array, "..."]) -> Float[Array, "..."]:
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
    """Return ``d out_j / d arg_i`` as ``[j][i]`` for an elementwise function from arrays to a tuple of arrays.

    An entry is None where the output does not depend on the argument.
    """
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
