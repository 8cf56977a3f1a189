r"""Windows over a sequence that is sharded over time: each shard borrows the last steps before it.

A convolution of kernel size w reads the last L = w - 1 inputs, attention over a window of w steps the last L = w keys
and values, of the steps that happened since the reset. Let :math:`c_{i+1}` be those L steps after shard i, and
:math:`o_i` the steps of shard i alone, with the number of them. A shard with L steps or with a reset determines
:math:`c_{i+1}` by itself; otherwise earlier steps come before its own:

.. math:: c_{i+1} = \mathrm{join}(c_i, o_i) = \mathrm{join}(\mathrm{join}(c_{i-1}, o_{i-1}), o_i) = \dots

Communication: one permutation of L steps, from each device to its right neighbor, where a shard has L steps or more and
nothing is masked. Join is associative, so ceil(log2 m) more permutations of L steps reach m shards back: as many as the
L steps need, or all where a mask may leave any shard without steps. The backward pass has as many permutations. None is
in a loop.

References:
    Liu, Zaharia, Abbeel 2023, "Ring attention with blockwise transformers", arXiv:2310.01889 (keys and values passed
    on from device to device; here no more of them than the window needs).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from seqjax.base import Attention, AttentionCarry
from seqjax.ops.attention import cache_after
from seqjax.ops.lags import lagged
from seqjax.ops.segments import segments
from seqjax.ops.select import expand, select
from seqjax.ops.step import expand_left
from seqjax.ops.time_sharded.linear import Operands, Run
from seqjax.ops.time_sharded.shards import Shards

TAP_ON_ONE_DEVICE = "Profile gradients on one device, without the axis."


class Borrowed(NamedTuple):
    """Steps ``[*B, L, ...]``, and where they are known, ``filled [*B, L]``; earlier shards know the others."""

    steps: Any
    filled: Any


def entering_lags(
    shards: Shards,
    xs: Shaped[Array, "T *B D"],
    carry: Shaped[Array, "*B L D"],
    reset: Bool[Array, "T *B"] | None,
    mask: Bool[Array, "T *B"] | None,
) -> Shaped[Array, "*B L D"]:
    """Return the carry of `seqjax.ops.lags.lagged` before this shard.

    Args:
        shards: the shards of the sequence.
        xs: inputs of this shard.
        carry: the last L inputs before the whole sequence, oldest first.
        reset: resets of this shard.
        mask: the mask of this shard.
    """
    length, size = xs.shape[0], carry.shape[-2]
    if size == 0:
        return carry
    own, _ = lagged(xs, jnp.zeros_like(carry), reset, mask)
    count, cut = _steps_since_reset(carry[..., 0, 0], length, reset, mask)
    place = expand_left(jnp.arange(size, dtype=jnp.int32), carry.ndim - 1)
    filled = cut[..., None] | (place >= size - count[..., None])
    everything = Borrowed(carry, jnp.ones(carry.shape[:-1], bool))
    return shards.entering(
        Borrowed(own, filled), everything, _join_lags, _reach(shards, size, length, mask), carry.ndim - 2
    ).steps


def _join_lags(earlier: Borrowed, later: Borrowed) -> Any:
    """Return the last L steps of two shards, oldest first: those of the earlier one move to the left."""
    size = later.filled.shape[-1]
    count = jnp.sum(later.filled, -1, dtype=jnp.int32)[..., None]
    index = jnp.minimum(expand_left(jnp.arange(size, dtype=jnp.int32), count.ndim) + count, size - 1)
    axis = index.ndim - 1
    moved = jax.tree.map(lambda a: jnp.take_along_axis(a, expand(index, a.ndim), axis), earlier)
    return select(later.filled, later, moved)


def run_window(run: Run, attention: Attention, shards: Shards, operands: Operands) -> tuple[Any, Any]:
    """Return ``(cache after this shard, hs of this shard)`` of an `Attention` recurrence.

    Every device holds as many keys and values as the window has steps.

    Args:
        run: ``(us, carry, flags) -> (carry, hs)``, which runs the recurrence on one device.
        attention: the recurrence.
        shards: the shards of the sequence.
        operands: the operands of this shard, all marked as varying over the axis, without a tap.
    """
    us, first, flags = operands
    length, size = us.q.shape[0], attention.capacity
    count, cut = _steps_since_reset(first.position, length, flags.reset, flags.mask)
    position = _entering_position(shards, length, count, cut, operands)
    empty = AttentionCarry(jnp.zeros_like(first.k), jnp.zeros_like(first.v), position)
    own = cache_after(attention, us, empty, flags)
    slot = expand_left(jnp.arange(size, dtype=jnp.int32), position.ndim + 1)
    steps_ago = (own.position[..., None] - 1 - slot) % size
    filled = cut[..., None] | (steps_ago < count[..., None])
    entering = shards.entering(
        Borrowed((own.k, own.v), filled),
        Borrowed((first.k, first.v), jnp.ones(filled.shape, bool)),
        _join_rings,
        _reach(shards, size - 1, length, flags.mask),  # the present step takes the slot of the oldest
        position.ndim,
    )
    k, v = entering.steps
    return run(us, AttentionCarry(k, v, position), flags)


def _join_rings(earlier: Borrowed, later: Borrowed) -> Any:
    """Return the ring of the last L steps of two shards; a slot belongs to a position, so none moves."""
    return select(later.filled, later, earlier)


def _reach(shards: Shards, size: int, length: int, mask: Any) -> int:
    """Return how many shards hold the last `size` steps before a shard, at most."""
    return shards.size if mask is not None else max(1, -(-size // length))


def _steps_since_reset(
    like: Shaped[Array, "*B"],
    length: int,
    reset: Bool[Array, "T *B"] | None,
    mask: Bool[Array, "T *B"] | None,
) -> tuple[Int[Array, "*B"], Bool[Array, "*B"]]:
    """Return how many steps of a shard happened since its last reset, and whether it has a reset."""
    if reset is None and mask is None:
        return jnp.full_like(like, length, dtype=jnp.int32), jnp.zeros_like(like, dtype=bool)
    segment = segments(reset, jnp.broadcast_to(like, (length, *like.shape)))
    counts = segment == segment[-1:]
    return jnp.sum(counts if mask is None else counts & mask, 0, dtype=jnp.int32), segment[-1] > 0


def _entering_position(
    shards: Shards, length: int, count: Int[Array, "*B"], cut: Bool[Array, "*B"], operands: Operands
) -> Int[Array, "*B"]:
    """Return how many steps happened before this shard since the reset; with flags, by one all-gather of counts."""
    _, first, flags = operands
    if flags.reset is None and flags.mask is None:
        return first.position + shards.position() * length
    counts = jax.lax.all_gather(shards.varying(jnp.stack([count, cut.astype(jnp.int32)])), shards.axis)

    def after(position: jax.Array, shard: jax.Array) -> tuple[jax.Array, jax.Array]:
        count, cut = shard
        return jnp.where(cut == 1, flags.initial.position, position) + count, position

    return jax.lax.scan(after, first.position, counts)[1][shards.position()]
