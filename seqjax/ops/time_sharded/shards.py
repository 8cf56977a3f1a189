"""The shards of a sequence along a mesh axis, and the collectives between their devices.

The functions run inside ``jax.shard_map``, where every device has its own shard ``[T/n, ...]``. None loops over time.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from seqjax.compat import vary_like, varying_axes
from seqjax.ops.select import select


class Shards(NamedTuple):
    """Shards of equal length, in the order of the devices along a mesh axis or in the reverse order.

    Attributes:
        axis: the mesh axis.
        size: the number of shards, n.
        reverse: whether time runs from the last device to the first.
    """

    axis: str
    size: int
    reverse: bool = False

    def reversed(self) -> "Shards":
        """Return the shards for reversed time."""
        return self._replace(reverse=not self.reverse)

    def position(self) -> Int[Array, ""]:
        """Return the position of this device's shard; the earliest shard has position 0."""
        index = jax.lax.axis_index(self.axis)
        return self.size - 1 - index if self.reverse else index

    def is_first(self) -> Bool[Array, ""]:
        """Return whether this device has the earliest shard."""
        return self.position() == 0

    def varying(self, tree: Any) -> Any:
        """Mark a tree as varying over the mesh axis."""
        return vary_like(tree, jax.lax.axis_index(self.axis))

    def from_previous(self, last: Shaped[Array, "..."], first: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """Return `last` of the previous shard, and `first` on the earliest shard, by one permutation."""
        step = -1 if self.reverse else 1
        pairs = [(i, i + step) for i in range(self.size) if 0 <= i + step < self.size]
        received = jax.lax.ppermute(self.varying(last), self.axis, pairs)
        return jnp.where(self.is_first(), first, received)

    def broadcast_last(self, tree: Any) -> Any:
        """Return the tree of the latest shard on all devices, by one sum over devices."""
        is_last = self.position() == self.size - 1
        zeroed = jax.tree.map(lambda a: jnp.where(is_last, a, jnp.zeros_like(a)), tree)
        return jax.lax.psum(zeroed, self.axis)

    def max_over_devices(self, array: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """Return the maximum over all devices, including those along other mesh axes.

        Loops that contain collectives must have the same number of iterations on all devices.
        """
        array = self.varying(array)
        return jax.lax.pmax(array, tuple(sorted(varying_axes(array) | {self.axis})))

    def all_gather(self, tree: Any, batch_ndim: int) -> Any:
        """Gather the leaves ``[*B, ...]`` of all shards to ``[n, *B, ...]`` in the order of time, by one all-gather.

        All leaves have the same inexact dtype or are bool.
        """
        packed, unpack = _packed(tree, batch_ndim)
        gathered = jax.lax.all_gather(self.varying(packed), self.axis)
        return unpack(gathered[::-1] if self.reverse else gathered)

    def entering(
        self, own: Any, first: Any, join: Callable[[Any, Any], Any], reach: int, batch_ndim: int
    ) -> Any:
        """Return the joined results of the `reach` shards before this one; on the earliest shard `first`.

        One permutation passes the results to the next shard. Permutations over the distances 1, 2, 4, ... follow, each
        of which doubles the number of joined shards: one for a reach of 2, two up to 4, three up to 8.

        Args:
            own: the result of this shard, leaves ``[*B, ...]`` of one inexact dtype or bool.
            first: the result that enters the earliest shard; it needs no earlier one.
            join: ``(earlier, later) -> result`` of neighbors in time, associative.
            reach: how many results a shard needs, `first` included.
            batch_ndim: the number of batch axes of the leaves.
        """
        found, distance = self._shifted(own, first, 1, batch_ndim), 1
        while distance < min(reach, self.size):
            earlier = self._shifted(found, found, distance, batch_ndim)
            found = select(self.position() >= distance, join(earlier, found), found)
            distance *= 2
        return found

    def _shifted(self, tree: Any, first: Any, distance: int, batch_ndim: int) -> Any:
        """Return the tree of the shard at a distance before this one, or `first`, by one permutation."""
        packed, unpack = _packed(tree, batch_ndim)
        pairs = [(i, i + distance) for i in range(self.size - distance)]
        received = unpack(jax.lax.ppermute(self.varying(packed), self.axis, pairs))
        return select(self.position() < distance, first, received)

    def gather_sequence(self, tree: Any) -> Any:
        """Gather leaves ``[T/n, ...]`` to the whole sequence ``[T, ...]``, in the order of time."""

        def join(a: jax.Array) -> jax.Array:
            shards = jax.lax.all_gather(self.varying(a), self.axis)
            return (shards[::-1] if self.reverse else shards).reshape(-1, *a.shape[1:])

        return jax.tree.map(join, tree)

    def local_shard(self, tree: Any) -> Any:
        """Return this device's shard of leaves ``[T, ...]``."""

        def cut(a: jax.Array) -> jax.Array:
            length = a.shape[0] // self.size
            return jax.lax.dynamic_slice_in_dim(a, self.position() * length, length)

        return jax.tree.map(cut, tree)


def shards_of(xs: Any, axis: str = "time") -> Shards | None:
    """Return the shards of the sequence of which xs is one; None where xs is a whole sequence.

    Inside ``jax.shard_map`` xs is a shard where it varies over the axis, or where JAX does not track variation.
    """
    mesh = jax.sharding.get_abstract_mesh()
    size = mesh.shape.get(axis, 1)
    if size == 1 or axis not in mesh.manual_axes:
        return None
    varies = any(axis in varying_axes(a) for a in jax.tree.leaves(xs))
    untracked = axis not in varying_axes(jax.lax.axis_index(axis))
    return Shards(axis, size) if varies or untracked else None


def _packed(tree: Any, batch_ndim: int) -> tuple[Shaped[Array, "*B N"], Callable[[jax.Array], Any]]:
    """Return the leaves ``[*B, ...]`` as one array, and the function that splits an array ``[..., *B, N]`` again."""
    leaves, treedef = jax.tree.flatten(tree)
    dtype = next(a.dtype for a in leaves if a.dtype != bool)
    batch = jnp.broadcast_shapes(*(a.shape[:batch_ndim] for a in leaves))
    flat = [jnp.broadcast_to(a, batch + a.shape[batch_ndim:]).reshape(*batch, -1) for a in leaves]

    def unpack(packed: jax.Array) -> Any:
        parts, start = [], 0
        for a in leaves:
            shape, end = a.shape[batch_ndim:], start + math.prod(a.shape[batch_ndim:])
            part = packed[..., start:end].reshape(*packed.shape[:-1], *shape)
            parts.append(part != 0 if a.dtype == bool else part)
            start = end
        return jax.tree.unflatten(treedef, parts)

    return jnp.concatenate([a.astype(dtype) for a in flat], -1), unpack
