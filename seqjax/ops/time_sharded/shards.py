"""The parts of a sequence that the devices along a mesh axis hold, and what they say to each other.

For code inside ``jax.shard_map``, where every device sees its own part ``[T/n, ...]``. Nothing here loops over time.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.compat import vary_like, varying_axes


class Shards(NamedTuple):
    """Parts of equal length, in the order of the devices along a mesh axis, or in the reverse order.

    Attributes:
        axis: of the mesh.
        size: how many parts, n.
        reverse: whether time runs from the last device to the first.
    """

    axis: str
    size: int
    reverse: bool = False

    def backwards(self) -> "Shards":
        """The same parts in reversed time."""
        return self._replace(reverse=not self.reverse)

    def number(self) -> jax.Array:
        """Which part this device holds, 0 the earliest."""
        index = jax.lax.axis_index(self.axis)
        return self.size - 1 - index if self.reverse else index

    def is_first(self) -> jax.Array:
        """Whether this device holds the earliest part."""
        return self.number() == 0

    def varying(self, tree: Any) -> Any:
        """The tree, marked as one of its own for each device."""
        return vary_like(tree, jax.lax.axis_index(self.axis))

    def from_before(self, last: jax.Array, first: jax.Array) -> jax.Array:
        """The `last` of the part before; `first` on the earliest part. One permutation."""
        step = -1 if self.reverse else 1
        pairs = [(i, i + step) for i in range(self.size) if 0 <= i + step < self.size]
        received = jax.lax.ppermute(self.varying(last), self.axis, pairs)
        return jnp.where(self.is_first(), first, received)

    def of_last(self, tree: Any) -> Any:
        """What the device with the latest part has, on all devices: one sum over devices."""
        mine = self.number() == self.size - 1
        zeroed = jax.tree.map(lambda a: jnp.where(mine, a, jnp.zeros_like(a)), tree)
        return jax.lax.psum(zeroed, self.axis)

    def largest(self, array: jax.Array) -> jax.Array:
        """The largest over all devices, those along other axes too: loops that talk must end at once everywhere."""
        array = self.varying(array)
        return jax.lax.pmax(array, tuple(sorted(varying_axes(array) | {self.axis})))

    def gathered(self, tree: Any, batch_ndim: int) -> Any:
        """Leaves ``[*B, ...]`` of all parts, ``[n, *B, ...]`` in the order of time, by one gather.

        Leaves are of one inexact dtype, or bool.
        """
        leaves, treedef = jax.tree.flatten(tree)
        dtype = next(a.dtype for a in leaves if a.dtype != bool)
        batch = jnp.broadcast_shapes(*(a.shape[:batch_ndim] for a in leaves))
        flat = [jnp.broadcast_to(a, batch + a.shape[batch_ndim:]).reshape(*batch, -1) for a in leaves]
        packed = jnp.concatenate([a.astype(dtype) for a in flat], -1)
        everything = jax.lax.all_gather(self.varying(packed), self.axis)
        everything = everything[::-1] if self.reverse else everything
        parts, start = [], 0
        for a in leaves:
            shape, end = a.shape[batch_ndim:], start + math.prod(a.shape[batch_ndim:])
            part = everything[..., start:end].reshape(self.size, *batch, *shape)
            parts.append(part != 0 if a.dtype == bool else part)
            start = end
        return jax.tree.unflatten(treedef, parts)

    def whole(self, tree: Any) -> Any:
        """Leaves ``[T/n, ...]`` as those of the whole sequence ``[T, ...]``, in the order of time."""

        def join(a: jax.Array) -> jax.Array:
            parts = jax.lax.all_gather(self.varying(a), self.axis)
            return (parts[::-1] if self.reverse else parts).reshape(-1, *a.shape[1:])

        return jax.tree.map(join, tree)

    def part(self, tree: Any) -> Any:
        """This device's part of leaves ``[T, ...]``."""

        def cut(a: jax.Array) -> jax.Array:
            length = a.shape[0] // self.size
            return jax.lax.dynamic_slice_in_dim(a, self.number() * length, length)

        return jax.tree.map(cut, tree)
