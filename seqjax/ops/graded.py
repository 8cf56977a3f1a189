r"""Singular values of products of many matrices, each with full relative accuracy, however widely the values spread.

A product is stored as :math:`Q\,\mathrm{diag}(e^d)\,T`, with Q orthogonal and T well conditioned with rows of length
one. The vector d contains the logarithms of all sizes. Rounding errors are then relative to each row instead of to the
largest row, and no number overflows or underflows, whatever the number of factors.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

SWEEPS = 30  # upper limit for Jacobi's method, which converges quadratically; 6 to 10 sweeps are usual


class Graded(NamedTuple):
    """The matrix ``q @ diag(exp(d + rest)) @ t``: q ``[S, S]``, d and rest ``[S]``, t ``[S, S]``.

    ``rest`` is the rounding error of the running sum d (compensated summation). Without it a float32 sum is off by 1e-5
    after 1000 factors.
    """

    q: Float[Array, "S S"]
    d: Float[Array, " S"]
    rest: Float[Array, " S"]
    t: Float[Array, "S S"]


def identity(size: int, dtype: jax.typing.DTypeLike) -> Graded:
    """Return the identity matrix ``[S, S]`` in graded form."""
    eye = jnp.eye(size, dtype=dtype)
    zeros = jnp.zeros(size, dtype)
    return Graded(eye, zeros, zeros, eye)


def multiply(moved: Float[Array, "S S"], product: Graded) -> Graded:
    """Multiply a product from the left by the next factor J, given as ``moved = J @ product.q``.

    Columns are sorted by size before the QR decomposition, which keeps the relative accuracy of every row.
    Work: one QR decomposition and one product of [S, S].

    References:
        Tomas et al. 2012, "Advancing large scale many-body QMC simulations on GPU accelerated multicore systems", IPDPS
        (QR with columns sorted beforehand).
    """
    tiny = jnp.finfo(moved.dtype).tiny
    lengths = jnp.linalg.norm(moved, axis=0)
    sizes = jnp.where(lengths > 0, jnp.log(jnp.maximum(lengths, tiny)), -jnp.inf) + product.d
    order = jnp.argsort(-sizes)
    q, r = jnp.linalg.qr(moved[:, order])
    d, rest, t = product.d[order], product.rest[order], product.t[order]
    # Rows of diag(exp(-d)) @ r @ diag(exp(d)), each divided by its largest entry. All d after a d of -inf are -inf.
    base = jnp.where(jnp.isneginf(d), 0, d)
    logs = jnp.where(r == 0, -jnp.inf, jnp.log(jnp.abs(jnp.where(r == 0, 1, r))))
    logs += (d - base[:, None]) + (rest - rest[:, None])
    top = jnp.max(logs, 1)
    rows = jnp.sign(r) * jnp.exp(logs - jnp.where(jnp.isneginf(top), 0, top)[:, None])
    growth, t = _unit_rows(top, jnp.matmul(rows, t, precision=jax.lax.Precision.HIGHEST))
    # The sum of d, rest and growth, and the rounding error of this sum.
    growth += rest
    total = base + growth
    left = jnp.where(jnp.isfinite(total), growth - (total - base), 0)
    return Graded(q, total, left, t)


def log_singular_values(product: Graded) -> Float[Array, " S"]:
    r"""Return the logarithms ``[S]`` of the singular values in descending order; -inf for zero.

    One-sided Jacobi rotations act on the rows of :math:`\mathrm{diag}(e^d) T`, in rounds of disjoint pairs. The sizes
    stay logarithms throughout. Work: up to 30 sweeps of :math:`O(S^3)`, usually 6 to 10.

    References:
        Demmel and Veselic 1992, "Jacobi's method is more accurate than QR", SIAM J. Matrix Anal. Appl. 13.
    """
    size = product.d.shape[0]
    d, t = _unit_rows(product.d + product.rest, product.t)
    if size == 1:
        return d
    odd = size % 2
    d = jnp.concatenate([d, jnp.full(odd, -jnp.inf, d.dtype)])
    t = jnp.concatenate([t, jnp.zeros((odd, size), t.dtype)])
    even = size + odd
    half = even // 2
    # Round-robin order: the first row stays, the others move by one place. Then even - 1 rounds rotate every pair once.
    order = jnp.concatenate([jnp.zeros(1, int), jnp.roll(jnp.arange(1, even), 1)])

    def rotate_pairs(
        state: tuple[jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        d, t = state
        (d_a, d_b), (t_a, t_b) = ((a[:half], a[half:][::-1]) for a in (d, t))
        # The larger of the two rows is called a. Both rows return to their places, which the round-robin order needs.
        swap = d_b > d_a
        d_a, d_b, t_a, t_b = _exchange(swap, d_a, d_b, t_a, t_b)
        cosine = jnp.sum(t_a * t_b, 1)
        s = jnp.where(jnp.isneginf(d_b), 0, jnp.exp(d_b - jnp.where(jnp.isneginf(d_b), 0, d_a)))
        acts = (cosine != 0) & ~jnp.isneginf(d_b)
        # tan of the angle, divided by s: the formula contains no quotient of sizes.
        u = (1 - s * s) / jnp.where(acts, 2 * cosine, 1)
        tangent = jnp.where(u < 0, -1, 1) / (jnp.abs(u) + jnp.sqrt(s * s + u * u))
        tangent = jnp.where(acts, tangent, 0)
        cos = 1 / jnp.sqrt(1 + jnp.square(s * tangent))
        new_a = cos[:, None] * (t_a + (s * s * tangent)[:, None] * t_b)
        new_b = cos[:, None] * (t_b - tangent[:, None] * t_a)
        d_a, t_a = _unit_rows(d_a, new_a)
        d_b, t_b = _unit_rows(d_b, new_b)
        d_a, d_b, t_a, t_b = _exchange(swap, d_a, d_b, t_a, t_b)
        d = jnp.concatenate([d_a, d_b[::-1]])[order]
        t = jnp.concatenate([t_a, t_b[::-1]])[order]
        return (d, t), jnp.max(jnp.abs(jnp.where(acts, cosine, 0)))

    tolerance = size * jnp.finfo(d.dtype).eps

    def unfinished(loop: tuple) -> jax.Array:
        sweep, off, _ = loop
        return (sweep < SWEEPS) & (off > tolerance)

    def sweep(loop: tuple) -> tuple:
        number, _, state = loop
        state, off = jax.lax.scan(rotate_pairs, state, None, length=even - 1)
        return number + 1, jnp.max(off), state

    first = (0, jnp.asarray(jnp.inf, d.dtype), (d, t))
    _, _, (d, _) = jax.lax.while_loop(unfinished, sweep, first)
    return -jnp.sort(-d)[:size]


def _unit_rows(
    d: Float[Array, " R"], t: Float[Array, "R S"]
) -> tuple[Float[Array, " R"], Float[Array, "R S"]]:
    """Normalize the rows of t in ``diag(exp(d)) @ t`` and adjust d; a row of zeros has d = -inf."""
    lengths = jnp.linalg.norm(t, axis=1)
    is_zero = (lengths == 0) | jnp.isneginf(d)
    safe = jnp.where(is_zero, 1, lengths)
    return jnp.where(is_zero, -jnp.inf, d + jnp.log(safe)), jnp.where(is_zero[:, None], 0, t / safe[:, None])


def _exchange(
    swap: Bool[Array, " P"],
    d_a: Float[Array, " P"],
    d_b: Float[Array, " P"],
    t_a: Float[Array, "P S"],
    t_b: Float[Array, "P S"],
) -> tuple:
    """Exchange the two rows of each pair where `swap` is True."""
    rows = swap[:, None]
    return (
        jnp.where(swap, d_b, d_a),
        jnp.where(swap, d_a, d_b),
        jnp.where(rows, t_b, t_a),
        jnp.where(rows, t_a, t_b),
    )
