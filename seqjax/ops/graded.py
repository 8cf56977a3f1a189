r"""Singular values of products of many matrices, to full relative accuracy, however far they lie apart.

A product is held as :math:`Q\,\mathrm{diag}(e^d)\,T`, Q orthogonal, T well conditioned with rows of length one, and all
sizes in d, as logarithms. Rounding is then relative to each row instead of to the largest, and nothing over- or
underflows, whatever the number of factors.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

SWEEPS = 30  # of Jacobi's method at most; it converges quadratically, 6 to 10 are usual


class Graded(NamedTuple):
    """The matrix ``q @ diag(exp(d + rest)) @ t``: q ``[S, S]``, d and rest ``[S]``, t ``[S, S]``.

    ``rest`` is what rounding takes from the running sum d: without it a float32 sum is off by 1e-5 after 1000 factors.
    """

    q: jax.Array
    d: jax.Array
    rest: jax.Array
    t: jax.Array


def identity(size: int, dtype: jax.typing.DTypeLike) -> Graded:
    """The unit matrix."""
    eye = jnp.eye(size, dtype=dtype)
    zeros = jnp.zeros(size, dtype)
    return Graded(eye, zeros, zeros, eye)


def multiply(moved: jax.Array, product: Graded) -> Graded:
    """The next factor J from the left, given as ``moved = J @ product.q``.

    Columns are brought into the order of their sizes before the QR, so that the larger are not lost in the smaller.
    Work: one QR and one product of [S, S].

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
    # Rows of diag(exp(-d)) @ r @ diag(exp(d)), each divided by its largest entry. After a d of -inf all are.
    base = jnp.where(jnp.isneginf(d), 0, d)
    logs = jnp.where(r == 0, -jnp.inf, jnp.log(jnp.abs(jnp.where(r == 0, 1, r))))
    logs += (d - base[:, None]) + (rest - rest[:, None])
    top = jnp.max(logs, 1)
    rows = jnp.sign(r) * jnp.exp(logs - jnp.where(jnp.isneginf(top), 0, top)[:, None])
    growth, t = _unit_rows(top, jnp.matmul(rows, t, precision=jax.lax.Precision.HIGHEST))
    # The sum of d, rest and growth, and what rounding takes from it.
    growth += rest
    total = base + growth
    left = jnp.where(jnp.isfinite(total), growth - (total - base), 0)
    return Graded(q, total, left, t)


def log_singular_values(product: Graded) -> jax.Array:
    r"""The logarithms ``[S]`` of the singular values, from the largest down; -inf for zero.

    One-sided Jacobi rotations of the rows of :math:`\mathrm{diag}(e^d) T`, in rounds of disjoint pairs, with the sizes
    as logarithms throughout. Work: up to 30 sweeps of :math:`O(S^3)`, 6 to 10 as a rule.

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
    # A tournament: the first stays, the others move on by one place, so that in even - 1 rounds all pairs meet.
    turn = jnp.concatenate([jnp.zeros(1, int), jnp.roll(jnp.arange(1, even), 1)])

    def meet(state: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        d, t = state
        (d_a, d_b), (t_a, t_b) = ((a[:half], a[half:][::-1]) for a in (d, t))
        # The larger of the two goes by the name a; both return to their places, or else some would never meet.
        swap = d_b > d_a
        d_a, d_b, t_a, t_b = _exchange(swap, d_a, d_b, t_a, t_b)
        cosine = jnp.sum(t_a * t_b, 1)
        s = jnp.where(jnp.isneginf(d_b), 0, jnp.exp(d_b - jnp.where(jnp.isneginf(d_b), 0, d_a)))
        acts = (cosine != 0) & ~jnp.isneginf(d_b)
        # tan of the angle, divided by s: no quotient of sizes appears in it.
        u = (1 - s * s) / jnp.where(acts, 2 * cosine, 1)
        tangent = jnp.where(u < 0, -1, 1) / (jnp.abs(u) + jnp.sqrt(s * s + u * u))
        tangent = jnp.where(acts, tangent, 0)
        cos = 1 / jnp.sqrt(1 + jnp.square(s * tangent))
        new_a = cos[:, None] * (t_a + (s * s * tangent)[:, None] * t_b)
        new_b = cos[:, None] * (t_b - tangent[:, None] * t_a)
        d_a, t_a = _unit_rows(d_a, new_a)
        d_b, t_b = _unit_rows(d_b, new_b)
        d_a, d_b, t_a, t_b = _exchange(swap, d_a, d_b, t_a, t_b)
        d = jnp.concatenate([d_a, d_b[::-1]])[turn]
        t = jnp.concatenate([t_a, t_b[::-1]])[turn]
        return (d, t), jnp.max(jnp.abs(jnp.where(acts, cosine, 0)))

    tolerance = size * jnp.finfo(d.dtype).eps

    def unfinished(loop: tuple) -> jax.Array:
        sweep, off, _ = loop
        return (sweep < SWEEPS) & (off > tolerance)

    def sweep(loop: tuple) -> tuple:
        number, _, state = loop
        state, off = jax.lax.scan(meet, state, None, length=even - 1)
        return number + 1, jnp.max(off), state

    first = (0, jnp.asarray(jnp.inf, d.dtype), (d, t))
    _, _, (d, _) = jax.lax.while_loop(unfinished, sweep, first)
    return -jnp.sort(-d)[:size]


def _unit_rows(d: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same ``diag(exp(d)) @ t`` with rows of length one; a row of zeros has d = -inf."""
    lengths = jnp.linalg.norm(t, axis=1)
    gone = (lengths == 0) | jnp.isneginf(d)
    safe = jnp.where(gone, 1, lengths)
    return jnp.where(gone, -jnp.inf, d + jnp.log(safe)), jnp.where(gone[:, None], 0, t / safe[:, None])


def _exchange(swap: jax.Array, d_a: jax.Array, d_b: jax.Array, t_a: jax.Array, t_b: jax.Array) -> tuple:
    """Pairs with their partners exchanged where the flag holds."""
    rows = swap[:, None]
    return (
        jnp.where(swap, d_b, d_a),
        jnp.where(swap, d_a, d_b),
        jnp.where(rows, t_b, t_a),
        jnp.where(rows, t_a, t_b),
    )
