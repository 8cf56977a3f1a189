r"""Batched solution of small unit lower triangular systems, :math:`w_t = \sum_{s<t} a_{ts} w_s + r_t`.

Forward substitution, row by row and for all blocks in parallel, inverts the diagonal blocks of size 16. Matrix products
combine the blocks. Forward substitution is stable here; the shorter product
:math:`(1 + a)(1 + a^2)(1 + a^4) \cdots` is unstable, because powers of a grow and cancel. Work O(C^2 (V + 16)), depth
16 + C/16. (LAPACK's batched solver inside a loop on a CPU may make its threads wait for each other.)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

BLOCK = 16


def solve_unit_lower(a: Inexact[Array, "*N C C"], r: Inexact[Array, "*N C V"]) -> Inexact[Array, "*N C V"]:
    """Solve ``w = a @ w + r`` for w, where a is zero on and above the diagonal.

    The derivatives, of any order and in both modes, are solutions of this system and of its transpose.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.asarray([[0.0, 0.0], [2.0, 0.0]])
        >>> solve_unit_lower(a, jnp.asarray([[1.0], [5.0]])).ravel()
        Array([1., 7.], dtype=float32)
    """

    def transposed(_: object, r: jax.Array) -> jax.Array:
        """Solve the transposed system, which is lower triangular after reversing both axes."""
        return _substitute(a.mT[..., ::-1, ::-1], r[..., ::-1, :])[..., ::-1, :]

    return jax.lax.custom_linear_solve(
        lambda w: w - a @ w, r, lambda _, r: _substitute(a, r), transpose_solve=transposed
    )


def _substitute(a: Inexact[Array, "*N C C"], r: Inexact[Array, "*N C V"]) -> Inexact[Array, "*N C V"]:
    length = r.shape[-2]
    whole = -(-length // BLOCK) * BLOCK if length > BLOCK else length
    pad = [(0, 0)] * (a.ndim - 2)
    a = jnp.pad(a, [*pad, (0, whole - length), (0, whole - length)])
    r = jnp.pad(r, [*pad, (0, whole - length), (0, 0)])
    size = min(whole, BLOCK)
    starts = range(0, whole, size)
    inverses = _inverse(jnp.stack([a[..., i : i + size, i : i + size] for i in starts]))
    done: list[jax.Array] = []
    for inverse, i in zip(inverses, starts):
        right = r[..., i : i + size, :]
        if done:
            right = right + a[..., i : i + size, :i] @ jnp.concatenate(done, -2)
        done.append(inverse @ right)
    return jnp.concatenate(done, -2)[..., :length, :]


def _inverse(a: Inexact[Array, "*N C C"]) -> Inexact[Array, "*N C C"]:
    """Return ``(1 - a)^-1``, computed row by row: row t is ``e_t`` plus ``a_t`` times the rows above."""
    size = a.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(size, dtype=a.dtype), a.shape)

    def row(t: jax.Array, rows: jax.Array) -> jax.Array:
        new = jnp.einsum("...s,...sc->...c", a[..., t, :], rows) + identity[..., t, :]
        return rows.at[..., t, :].set(new)

    return jax.lax.fori_loop(0, size, row, jnp.zeros_like(a))
