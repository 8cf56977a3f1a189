r"""The recurrences of a `Matrix` recurrence from chunk to chunk: of the states, and of the scales of log input gates.

A chunk maps the state S at its start to the state after it by

.. math::
    S' = d \odot S + a^\top (y S) + p

with d ``[K]``, the decays of the chunk; a, y ``[C, K]``, the erasure in WY form; and p ``[K, V]``, what the chunk adds.
The adjoint is the same recurrence in reversed time with a and y exchanged. So one loop of two small products computes
all states of a group of chunks, and one more all their cotangents; everything else is computed for all chunks at once.
The loops are unrolled, since a group has few chunks.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqjax.base import MatrixInputs
from seqjax.ops.decay import sum_between
from seqjax.ops.segments import running_sum, same_earlier, segments
from seqjax.ops.select import keep, select
from seqjax.ops.step import expand_left


class StateStep(NamedTuple):
    """What a chunk does to the state at its start; fields of all chunks have one more leading axis ``[G]``.

    ``continues`` is False where the state at the start is forgotten, None where it never is. a and y are None without
    erasure.
    """

    d: Any  # [*B, N, K or 1, 1]
    a: Any  # [*B, N, C, K]
    y: Any  # [*B, N, C, K]
    p: Any  # [*B, N, K, V]
    continues: Any  # [*B, N]


def states(
    steps: StateStep, s: Float[Array, "*B N K V"]
) -> tuple[Float[Array, "G *B N K V"], Float[Array, "*B N K V"]]:
    """Return the state at the start of each chunk and the state after the last chunk, from the state s."""
    maps = steps._replace(p=None)

    def matvec(after: jax.Array) -> jax.Array:
        return after.at[1:].add(-_apply(_part(maps, slice(1, None)), after[:-1]))

    def transpose_solve(_: Any, g: jax.Array) -> jax.Array:
        backward = jax.tree.map(lambda m: jnp.flip(m[1:], 0), maps._replace(a=maps.y, y=maps.a))
        return jnp.flip(_solve(backward, jnp.flip(g, 0)), 0)

    p = steps.p.at[0].add(_apply(_part(maps, 0), s))
    after = jax.lax.custom_linear_solve(
        matvec, p, lambda _, p: _solve(_part(maps, slice(1, None)), p), transpose_solve
    )
    return jnp.concatenate([s[None], after[:-1]]), after[-1]


def _solve(maps: StateStep, p: Float[Array, "G *B N K V"]) -> Float[Array, "G *B N K V"]:
    """Return all ``S_g = maps_g S_{g-1} + p_g``, from ``S_0 = p_0``."""

    def body(s: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        m, p = inputs
        s = _apply(m, s) + p
        return s, s

    return jnp.concatenate([p[:1], jax.lax.scan(body, p[0], (maps, p[1:]), unroll=True)[1]])


def _apply(m: StateStep, s: Float[Array, "*BN K V"]) -> Float[Array, "*BN K V"]:
    s = keep(m.continues, s)
    after = m.d * s
    return after if m.a is None else after + m.a.mT @ (m.y @ s)


def _part(maps: StateStep, index: Any) -> StateStep:
    return jax.tree.map(lambda m: m[index], maps)


def scaled(
    inputs: MatrixInputs,
    m: Float[Array, "*B N"],
    m_first: Float[Array, "*B N"],
    reset: Bool[Array, "L *B"] | None,
    mask: Bool[Array, "L *B"] | None,
    steps: int,
) -> tuple[MatrixInputs, Float[Array, "L *B N"]]:
    r"""Fold the log input gate into keys and decays, and return the scales m; L is a multiple of `steps`.

    :math:`m_t = \max(g_t + m_{t-1}, l_t)` is a linear recurrence in the (max, +) algebra. In a chunk,
    :math:`m_t = \max(\Lambda_{t0} + m_0, \max_{s \le t} (\Lambda_{ts} + l_s))`, where only :math:`m_0` depends on
    earlier chunks.
    """
    g, l = inputs.log_decay, inputs.log_input
    g = jnp.zeros_like(l) if g is None else g
    if mask is not None:
        l = select(mask, l, jnp.full_like(l, jnp.finfo(l.dtype).min / 4))

    def of_chunk(g: jax.Array, l: jax.Array, reset: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the largest term of the chunk's own steps, the decay since the segment's start, the segment."""
        between = sum_between(jnp.moveaxis(g, 0, -1)[..., None])[..., 0]
        segment = jnp.broadcast_to(segments(reset, l[..., 0])[..., None], l.shape)
        terms = between + jnp.moveaxis(l, 0, -1)[..., None, :]
        terms = jnp.where(same_earlier(jnp.moveaxis(segment, 0, -1)), terms, -jnp.inf)
        return jnp.moveaxis(jnp.max(terms, -1), -1, 0), running_sum(g, reset), segment

    parts = jax.tree.map(lambda a: a.reshape(-1, steps, *a.shape[1:]), (g, l, reset))
    own, since_start, segment = jax.vmap(of_chunk)(*parts)
    from_first = jnp.maximum(own, since_start + expand_left(m_first, own.ndim))

    def after(m: jax.Array, last: Any) -> tuple[jax.Array, jax.Array]:
        own, since_start, segment, from_first = last
        return jnp.where(segment == 0, jnp.maximum(own, since_start + m), from_first), m

    last = jax.tree.map(lambda a: a[:, -1], (own, since_start, segment, from_first))
    _, starts = jax.lax.scan(after, m, last, unroll=True)
    scale = jnp.where(segment == 0, jnp.maximum(own, since_start + starts[:, None]), from_first)
    scale = scale.reshape(l.shape)
    entering = jnp.concatenate([m[None], scale[:-1]])
    before = select(reset, jnp.broadcast_to(m_first[None], scale.shape), entering)
    k = inputs.k * jnp.exp(l - scale)[..., None]
    return inputs._replace(k=k, log_decay=g + before - scale, log_input=None), scale
