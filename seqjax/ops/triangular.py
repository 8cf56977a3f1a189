r"""Batched solution of small unit lower triangular systems, :math:`w_t = \sum_{s<t} a_{ts} w_s + r_t`.

The inverse of :math:`1 - a` is computed from the inverses X of its diagonal blocks, whose size doubles at each level:
where L is the part of a below each pair of neighboring blocks, the inverse of the joined blocks is :math:`X + X L X`.
The levels need neither a loop over rows nor reshapes, so a GPU starts few operations. The shorter product
:math:`(1 + a)(1 + a^2)(1 + a^4) \cdots` is unstable, because powers of a grow and cancel. The inverse serves all
right-hand sides, those of the derivatives included. Work O(C^3 log C + C^2 V), depth 2 log2 C.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from seqjax.ops.step import expand_left


def solve_unit_lower(a: Inexact[Array, "*N C C"], r: Inexact[Array, "*N C V"]) -> Inexact[Array, "*N C V"]:
    """Solve ``w = a @ w + r`` for w, where a is zero on and above the diagonal.

    The derivatives, of any order and in both modes, are solutions of this system and of its transpose.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.asarray([[0.0, 0.0], [2.0, 0.0]])
        >>> solve_unit_lower(a, jnp.asarray([[1.0], [5.0]])).ravel()
        Array([1., 7.], dtype=float32)
    """
    inverse = jax.lax.stop_gradient(inverse_unit_lower(a))
    return jax.lax.custom_linear_solve(
        lambda w: w - a @ w, r, lambda _, r: inverse @ r, transpose_solve=lambda _, r: inverse.mT @ r
    )


def inverse_unit_lower(a: Inexact[Array, "*N C C"]) -> Inexact[Array, "*N C C"]:
    """Return ``(1 - a)^-1`` for a that is zero on and above the diagonal."""
    step = jnp.arange(a.shape[-1])

    def below(size: int) -> Inexact[Array, "*N C C"]:
        """Return a in the lower left quarter of each diagonal block of twice the size, else 0."""
        block = step // size
        quarter = (block[:, None] == block[None, :] + 1) & (block[:, None] % 2 == 1)
        return jnp.where(expand_left(quarter, a.ndim), a, 0)

    inverse = expand_left(jnp.eye(len(step), dtype=a.dtype), a.ndim) + below(1)
    size = 2
    while size < len(step):
        inverse = inverse + jnp.matmul(jnp.matmul(inverse, below(size)), inverse)
        size *= 2
    return inverse
