"""Fixed points of contractions, for inverses that have no closed form."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def fixed_point(
    fn: Callable[[jax.Array], jax.Array], start: jax.Array, *, max_iterations: int = 100
) -> jax.Array:
    r"""x with ``fn(x) = x``, by iteration until x moves by no more than a few roundings.

    Each iteration shrinks the error by the Lipschitz constant of fn. Where fn is no contraction the result is whatever
    the last iteration gave: check it.

    Example:
        >>> import jax.numpy as jnp
        >>> fixed_point(lambda x: 1 + 0.5 * x, jnp.zeros(1)).round(5)
        Array([2.], dtype=float32)
    """
    tolerance = 4 * jnp.finfo(start.dtype).eps

    def moves(state: tuple) -> jax.Array:
        number, before, now = state
        moved = jnp.max(jnp.abs(now - before), initial=0) > tolerance * jnp.max(jnp.abs(now), initial=0)
        return moved & (number < max_iterations)

    return jax.lax.while_loop(
        moves, lambda state: (state[0] + 1, state[2], fn(state[2])), (1, start, fn(start))
    )[2]
