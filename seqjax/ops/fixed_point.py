"""Fixed points of contractions, for inverses without a closed form."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def fixed_point(
    fn: Callable[[jax.Array], jax.Array], start: Float[Array, "..."], *, max_iterations: int = 100
) -> Float[Array, "..."]:
    r"""Solve ``fn(x) = x`` by iteration, until x changes by at most four roundings of its largest entry.

    Each iteration multiplies the error by at most the Lipschitz constant of fn. If fn is not a contraction, the result
    is the last iterate, which need not be a solution: check it.

    Example:
        >>> import jax.numpy as jnp
        >>> fixed_point(lambda x: 1 + 0.5 * x, jnp.zeros(1)).round(5)
        Array([2.], dtype=float32)
    """
    tolerance = 4 * jnp.finfo(start.dtype).eps

    def unsolved(state: tuple) -> Bool[Array, ""]:
        number, before, now = state
        moved = jnp.max(jnp.abs(now - before), initial=0) > tolerance * jnp.max(jnp.abs(now), initial=0)
        return moved & (number < max_iterations)

    return jax.lax.while_loop(
        unsolved, lambda state: (state[0] + 1, state[2], fn(state[2])), (1, start, fn(start))
    )[2]
