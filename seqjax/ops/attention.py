r"""Causal softmax attention over whole sequences, block by block, with a cache of earlier steps.

Each block of C queries processes one block of C keys at a time. It keeps a running maximum, a running sum and a running
weighted sum of values (the online softmax):

.. math::
    m' = \max(m, \max_s z_s), \qquad
    l' = e^{m - m'} l + \sum_s e^{z_s - m'}, \qquad
    o' = e^{m - m'} o + \sum_s e^{z_s - m'} v_s

On NVIDIA GPUs, in half precision, without resets, from an empty cache and with masked steps at the end alone, cuDNN
computes the outputs instead (`seqjax.ops.flash_attention`). The program decides about cache and mask when it runs.

The T x T matrix of scores is never stored. Segments and positions decide which keys a query attends to, not array
indices: a query attends to the keys of its segment that are at most L - 1 positions earlier.

Work: without a mask O(T (L + C) K), since only blocks inside the window are computed. With a mask O(T (L + T) K), since
masked steps occupy array entries without advancing the position. Temporary memory: one block of C x C scores per head;
the backward pass recomputes each block from its inputs.

References:
    Milakov, Gimelshein 2018, "Online normalizer calculation for softmax", arXiv:1805.02867, algorithm 3.
    Rabe, Staats 2021, "Self-attention does not need O(n^2) memory", arXiv:2112.05682.
    Dao et al. 2022, "FlashAttention", arXiv:2205.14135, algorithm 1.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from seqjax.base import Attention, AttentionCarry, AttentionInputs, Flags
from seqjax.ops.chunks import over_chunks
from seqjax.ops.flash_attention import flash, kernel_exists
from seqjax.ops.rotary import rotate
from seqjax.ops.segments import all_finite, segments, set_nan, zero_nonfinite
from seqjax.ops.select import select, wide
from seqjax.ops.step import expand_left
from seqjax.ops.triton import on_gpu


class _Queries(NamedTuple):
    """Queries ``[T, *B, G, n, K]`` with zeros for non-finite rows; the other fields are ``[T, *B]``."""

    q: Any
    finite: Any
    position: Any
    segment: Any


class _Keys(NamedTuple):
    """Keys and values ``[S, *B, G, ...]`` with zeros for non-finite rows; the other fields are ``[S, *B]``.

    `happened` is False at masked steps and in empty slots of the cache.
    """

    k: Any
    v: Any
    finite: Any
    happened: Any
    position: Any
    segment: Any


class _Places(NamedTuple):
    """Which steps happened, with positions and segments, ``[T, *B]``, and the position of the next step ``[*B]``."""

    happened: Any
    position: Any
    segment: Any
    count: Any


def blockwise(
    attention: Attention, inputs: AttentionInputs, carry: AttentionCarry, flags: Flags, *, size: int
) -> tuple[AttentionCarry, Float[Array, "T *B N V"]]:
    """Return ``(carry, hs)`` of an `Attention` recurrence, computed in blocks of `size` steps.

    T need not be a multiple of `size`. The function ignores ``flags.key`` and ``flags.tap``.

    Shapes: inputs as `AttentionInputs`; carry and flags.initial as `AttentionCarry`; hs ``[T, *B, N, V]``.
    """
    length, *batch = inputs.q.shape[:-2]
    lead = 1 + len(batch)
    places = _places(inputs, carry, flags)
    q, k, v = inputs
    if attention.rotary_base is not None:
        q, k = (rotate(array, places.position, attention.rotary_base) for array in (q, k))

    cached = _in_order(attention, carry)
    groups, heads = k.shape[-2], q.shape[-2]
    finite = all_finite((k, v), lead)
    finite_k, finite_v = zero_nonfinite((k, v), finite)
    steps = _Keys(finite_k, finite_v, finite, places.happened, places.position, places.segment)
    keys = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), cached, steps)
    finite_query = all_finite(q, lead)
    q = zero_nonfinite(q, finite_query).reshape(length, *batch, groups, heads // groups, q.shape[-1])
    queries = _Queries(q, finite_query, places.position, places.segment)

    # Without a mask, positions advance with the steps, so a block attends to no key before index `start`.
    use_window = flags.mask is None

    def block(start: jax.Array, queries: _Queries) -> tuple[jax.Array, jax.Array]:
        count = len(queries.position)
        span = keys
        if use_window:
            span = jax.tree.map(
                lambda a: jax.lax.dynamic_slice_in_dim(a, start, attention.capacity + count), keys
            )
        return start + count, _attend(attention, queries, span, size)

    def in_blocks() -> jax.Array:
        hs = over_chunks(block, jnp.zeros((), jnp.int32), queries, size)[1]
        return hs.reshape(length, *batch, heads, v.shape[-1]).astype(v.dtype)

    def in_one_kernel() -> jax.Array:
        """Run a kernel if no step is cached, and only the last steps are masked."""
        happened = places.happened
        masked_at_end = flags.mask is None or jnp.all(happened[:-1] | ~happened[1:])
        first = jnp.all(carry.position == 0) & masked_at_end
        flat = q.reshape(length, *batch, heads, q.shape[-1])
        run = partial(flash, flat, finite_k, finite_v, finite_query, finite, window=attention.capacity)
        return jax.lax.cond(first, run, in_blocks)

    has_kernel = flags.reset is None and kernel_exists(q.reshape(inputs.q.shape), finite_k, finite_v)
    hs = on_gpu(in_one_kernel, in_blocks) if has_kernel else in_blocks()
    return _after(attention, carry, flags.initial, k, v, places), hs


def cache_after(
    attention: Attention, inputs: AttentionInputs, carry: AttentionCarry, flags: Flags
) -> AttentionCarry:
    """Return the carry of `blockwise` without its outputs; see there."""
    places, k = _places(inputs, carry, flags), inputs.k
    if attention.rotary_base is not None:
        k = rotate(k, places.position, attention.rotary_base)
    return _after(attention, carry, flags.initial, k, inputs.v, places)


def _places(inputs: AttentionInputs, carry: AttentionCarry, flags: Flags) -> _Places:
    segment = segments(flags.reset, inputs.q[..., 0, 0])
    happened = jnp.ones(segment.shape, bool) if flags.mask is None else flags.mask
    position, count = _positions(happened, segment, flags.reset, carry.position, flags.initial.position)
    return _Places(happened, position, segment, count)


def _positions(
    happened: Bool[Array, "T *B"],
    segment: Int[Array, "T *B"],
    reset: Bool[Array, "T *B"] | None,
    before: Int[Array, "*B"],
    initial: Int[Array, "*B"],
) -> tuple[Int[Array, "T *B"], Int[Array, "*B"]]:
    """Count the unmasked earlier steps of the same segment, for each step and for the step after the last one."""
    happened = happened.astype(jnp.int32)
    so_far = jnp.cumsum(happened, 0, jnp.int32)
    earlier = so_far - happened
    if reset is None:
        return before[None] + earlier, before + so_far[-1]
    # The count at the start of each segment is a running maximum, since counts never decrease.
    at_begin = jax.lax.cummax(jnp.where(reset, earlier, 0), 0)
    first = jnp.where(segment == 0, before[None], initial[None])
    return first + earlier - at_begin, first[-1] + so_far[-1] - at_begin[-1]


def _in_order(attention: Attention, carry: AttentionCarry) -> _Keys:
    """Return the cached keys and values from the oldest to the newest, ``[L, *B, ...]``."""
    batch, capacity = carry.position.shape, attention.capacity
    position = jnp.moveaxis(carry.position[..., None] - capacity + _arange(capacity, len(batch) + 1), -1, 0)
    slot = jnp.moveaxis(position % capacity, 0, -1)[..., None, None]
    k, v = (jnp.moveaxis(jnp.take_along_axis(a, slot, len(batch)), len(batch), 0) for a in carry[:2])
    # A slot with a negative position was never written.
    happened = position >= 0
    finite = all_finite((k, v), position.ndim) | ~happened
    k, v = zero_nonfinite((k, v), finite & happened)
    return _Keys(k, v, finite, happened, position, jnp.zeros_like(position))


def _attend(attention: Attention, queries: _Queries, keys: _Keys, size: int) -> Float[Array, "C *B G n V"]:
    """Return the outputs of one block of queries, in at least float32."""
    dtype = wide(queries.q.dtype)
    q = queries.q.astype(dtype) / math.sqrt(queries.q.shape[-1])
    lowest = jnp.finfo(dtype).min / 2

    def step(state: Any, keys: _Keys) -> tuple[Any, None]:
        maximum, total, values, is_nan = state
        attends = (queries.segment[:, None] == keys.segment[None]) & keys.happened[None]
        distance = queries.position[:, None] - keys.position[None]
        attends = attends & (distance >= 0) & (distance < attention.capacity)  # [C, S, *B]
        is_nan = is_nan | jnp.any(attends & ~keys.finite[None], 1)
        where = attends[..., None, None]
        scores = jnp.einsum("c...gnk,s...gk->cs...gn", q, keys.k.astype(dtype))
        scores = jnp.where(where, scores, lowest)
        # The result does not depend on the maximum, so the gradient does not pass through the maximum either.
        new_maximum = jax.lax.stop_gradient(jnp.maximum(maximum, jnp.max(scores, 1)))
        weights = jnp.where(where, jnp.exp(scores - new_maximum[:, None]), 0)
        rescale = jnp.exp(maximum - new_maximum)
        total = total * rescale + jnp.sum(weights, 1)
        added = jnp.einsum("cs...gn,s...gv->c...gnv", weights, keys.v.astype(dtype))
        return (new_maximum, total, values * rescale[..., None] + added, is_nan), None

    shape = q.shape[:-1]
    start = (
        jnp.full_like(q[..., 0], lowest),
        jnp.zeros_like(q[..., 0]),
        jnp.zeros_like(q[..., :1], shape=(*shape, keys.v.shape[-1])),
        ~queries.finite,
    )
    (_, total, values, is_nan), _ = over_chunks(jax.checkpoint(step), start, keys, size)
    # A masked step may attend to no key; its output is not used.
    return set_nan(is_nan, values / jnp.where(total > 0, total, 1)[..., None])


def _after(
    attention: Attention,
    carry: AttentionCarry,
    initial: AttentionCarry,
    k: Shaped[Array, "T *B G K"],
    v: Shaped[Array, "T *B G V"],
    steps: _Places,
) -> AttentionCarry:
    """Return the cache after the last step."""
    count = steps.count
    batch = count.shape
    capacity = attention.capacity
    started = steps.segment[-1] > 0
    recent = steps.position >= (count - capacity)[None]
    kept = steps.happened & (steps.segment == steps.segment[-1:]) & recent
    slot = jnp.where(kept, steps.position % capacity, capacity)  # writes to slot `capacity` are dropped
    size = math.prod(batch)
    rows = jnp.broadcast_to(_arange(size, 2), (len(slot), size))

    def write(cache: jax.Array, new: jax.Array) -> jax.Array:
        flat = cache.reshape(size, *cache.shape[len(batch) :])
        new = new.reshape(-1, size, *new.shape[1 + len(batch) :])
        return flat.at[rows, slot.reshape(-1, size)].set(new, mode="drop").reshape(cache.shape)

    base = select(started, initial, carry)
    return AttentionCarry(write(base.k, k), write(base.v, v), count)


def _arange(length: Any, ndim: int) -> Int[Array, "..."]:
    return expand_left(jnp.arange(length, dtype=jnp.int32), ndim)
