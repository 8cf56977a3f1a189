r"""Causal softmax attention over whole sequences, block by block, with the cache of the steps before.

A block of C queries meets one block of C keys at a time and keeps a running maximum, sum and weighted sum of values
(the online softmax):

.. math::
    m' = \max(m, \max_s z_s), \qquad
    l' = e^{m - m'} l + \sum_s e^{z_s - m'}, \qquad
    o' = e^{m - m'} o + \sum_s e^{z_s - m'} v_s

so that the T x T matrix of scores never exists. Who sees whom follows from segments and positions, not from places in
an array: a query sees the keys of its segment at most L - 1 positions before its own.

Work: O(T (L + C) K) without a mask, where only blocks inside the window are visited; O(T (L + T) K) with one, for
masked steps take a place but no position. Temporary memory: one block of C x C scores per head; the backward pass
computes each again from its inputs.

References:
    Milakov, Gimelshein 2018, "Online normalizer calculation for softmax", arXiv:1805.02867, algorithm 3.
    Rabe, Staats 2021, "Self-attention does not need O(n^2) memory", arXiv:2112.05682.
    Dao et al. 2022, "FlashAttention", arXiv:2205.14135, algorithm 1.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Attention, AttentionCarry, AttentionInputs, Flags
from seqjax.ops.chunks import over_chunks
from seqjax.ops.rotary import rotate
from seqjax.ops.segments import all_finite, only_finite, segments, spoil
from seqjax.ops.select import select, wide
from seqjax.ops.step import expand_left


class _Queries(NamedTuple):
    """``q [T, *B, G, n, K]``, finite; the others ``[T, *B]``."""

    q: Any
    fine: Any
    position: Any
    segment: Any


class _Keys(NamedTuple):
    """Finite ``k, v [S, *B, G, ...]``; whether they were, which steps happened, positions and segments ``[S, *B]``."""

    k: Any
    v: Any
    fine: Any
    happened: Any
    position: Any
    segment: Any


def blockwise(
    attention: Attention,
    inputs: AttentionInputs,
    carry: AttentionCarry,
    flags: Flags,
    *,
    size: int,
) -> tuple[AttentionCarry, jax.Array]:
    """``(carry, hs)`` of an `Attention` recurrence in blocks of `size` steps; T need not be a multiple.

    Shapes: inputs as `AttentionInputs`; carry and flags.initial as `AttentionCarry`; hs ``[T, *B, N, V]``. Keys and
    taps are not used.
    """
    reset, mask, _, _, initial = flags
    length, *batch = inputs.q.shape[:-2]
    lead = 1 + len(batch)
    segment = segments(reset, inputs.q[..., 0, 0])
    happened = jnp.ones(segment.shape, bool) if mask is None else mask
    position, count = _positions(happened, segment, reset, carry.position, initial.position)
    q, k, v = inputs
    if attention.rotary_base is not None:
        q, k = (rotate(array, position, attention.rotary_base) for array in (q, k))

    cached = _in_order(attention, carry)
    groups, heads = k.shape[-2], q.shape[-2]
    fine = all_finite((k, v), lead)
    finite_k, finite_v = only_finite((k, v), fine)
    steps = _Keys(finite_k, finite_v, fine, happened, position, segment)
    keys = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), cached, steps)
    fine_query = all_finite(q, lead)
    q = only_finite(q, fine_query).reshape(length, *batch, groups, heads // groups, q.shape[-1])
    queries = _Queries(q, fine_query, position, segment)

    # Without a mask positions advance with the steps, so that a block sees nothing before `start`.
    near = mask is None

    def block(start: jax.Array, queries: _Queries) -> tuple[jax.Array, jax.Array]:
        count = len(queries.position)
        span = keys
        if near:
            span = jax.tree.map(
                lambda a: jax.lax.dynamic_slice_in_dim(a, start, attention.capacity + count), keys
            )
        return start + count, _attend(attention, queries, span, size)

    _, hs = over_chunks(block, jnp.zeros((), jnp.int32), queries, size)
    hs = hs.reshape(length, *batch, heads, v.shape[-1]).astype(v.dtype)
    return _after(attention, carry, initial, k, v, steps, count), hs


def _positions(happened: Any, segment: Any, reset: Any, before: Any, initial: Any) -> tuple[Any, Any]:
    """How many steps of its segment happened before each step ``[T, *B]``, and before the step after the last."""
    happened = happened.astype(jnp.int32)
    so_far = jnp.cumsum(happened, 0, jnp.int32)
    earlier = so_far - happened
    if reset is None:
        return before[None] + earlier, before + so_far[-1]
    # The count at the beginning of a segment: a running maximum, for counts only grow.
    at_begin = jax.lax.cummax(jnp.where(reset, earlier, 0), 0)
    first = jnp.where(segment == 0, before[None], initial[None])
    return first + earlier - at_begin, first[-1] + so_far[-1] - at_begin[-1]


def _in_order(attention: Attention, carry: AttentionCarry) -> _Keys:
    """The cached keys from the oldest to the newest, ``[L, *B, ...]``."""
    batch, capacity = carry.position.shape, attention.capacity
    position = jnp.moveaxis(carry.position[..., None] - capacity + _arange(capacity, len(batch) + 1), -1, 0)
    slot = jnp.moveaxis(position % capacity, 0, -1)[..., None, None]
    k, v = (jnp.moveaxis(jnp.take_along_axis(a, slot, len(batch)), len(batch), 0) for a in carry[:2])
    # A slot that was never written holds no step, whatever its number.
    happened = position >= 0
    fine = all_finite((k, v), position.ndim) | ~happened
    k, v = only_finite((k, v), fine & happened)
    return _Keys(k, v, fine, happened, position, jnp.zeros_like(position))


def _attend(attention: Attention, queries: _Queries, keys: _Keys, size: int) -> jax.Array:
    """The outputs ``[C, *B, G, n, V]`` of one block of queries, in float32 at least."""
    dtype = wide(queries.q.dtype)
    q = queries.q.astype(dtype) / math.sqrt(queries.q.shape[-1])
    lowest = jnp.finfo(dtype).min / 2

    def step(state: Any, keys: _Keys) -> tuple[Any, None]:
        top, total, values, spoilt = state
        sees = (queries.segment[:, None] == keys.segment[None]) & keys.happened[None]
        distance = queries.position[:, None] - keys.position[None]
        sees = sees & (distance >= 0) & (distance < attention.capacity)  # [C, S, *B]
        spoilt = spoilt | jnp.any(sees & ~keys.fine[None], 1)
        where = sees[..., None, None]
        scores = jnp.einsum("c...gnk,s...gk->cs...gn", q, keys.k.astype(dtype))
        scores = jnp.where(where, scores, lowest)
        # The result does not depend on `top`, so neither does its gradient.
        higher = jax.lax.stop_gradient(jnp.maximum(top, jnp.max(scores, 1)))
        weights = jnp.where(where, jnp.exp(scores - higher[:, None]), 0)
        shrink = jnp.exp(top - higher)
        total = total * shrink + jnp.sum(weights, 1)
        added = jnp.einsum("cs...gn,s...gv->c...gnv", weights, keys.v.astype(dtype))
        return (higher, total, values * shrink[..., None] + added, spoilt), None

    shape = q.shape[:-1]
    start = (
        jnp.full_like(q[..., 0], lowest),
        jnp.zeros_like(q[..., 0]),
        jnp.zeros_like(q[..., :1], shape=(*shape, keys.v.shape[-1])),
        ~queries.fine,
    )
    (_, total, values, spoilt), _ = over_chunks(jax.checkpoint(step), start, keys, size)
    # A masked step may see nothing; its output is not used.
    return spoil(spoilt, values / jnp.where(total > 0, total, 1)[..., None])


def _after(
    attention: Attention,
    carry: AttentionCarry,
    initial: AttentionCarry,
    k: Any,
    v: Any,
    steps: _Keys,
    count: Any,
) -> AttentionCarry:
    """The cache after the last step."""
    batch = count.shape
    capacity = attention.capacity
    started = steps.segment[-1] > 0
    kept = (
        steps.happened & (steps.segment == steps.segment[-1:]) & (steps.position >= (count - capacity)[None])
    )
    slot = jnp.where(kept, steps.position % capacity, capacity)  # one past the end is dropped
    size = math.prod(batch)
    rows = jnp.broadcast_to(_arange(size, 2), (len(slot), size))

    def write(cache: jax.Array, new: jax.Array) -> jax.Array:
        flat = cache.reshape(size, *cache.shape[len(batch) :])
        flat = flat.at[rows, slot.reshape(-1, size)].set(
            new.reshape(-1, size, *new.shape[1 + len(batch) :]), mode="drop"
        )
        return flat.reshape(cache.shape)

    base = select(started, initial, carry)
    return AttentionCarry(write(base.k, k), write(base.v, v), count)


def _arange(length: int, ndim: int) -> jax.Array:
    return expand_left(jnp.arange(length, dtype=jnp.int32), ndim)
