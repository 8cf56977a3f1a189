"""Trees of arrays as one real vector, and their floating leaves apart from the others."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Coordinates:
    """The inexact leaves ``[*B, ...]`` of a tree, one after another, as one real vector ``[*B, S]``.

    A complex leaf gives its real, then its imaginary parts.

    Attributes:
        size: S.
        sizes: of each leaf's part of the vector.
        dtype: of the vector, the widest among the leaves, float32 at least.

    Args:
        tree: arrays or ShapeDtypeStructs.
        chosen: for each leaf, whether it takes part; by default all that are inexact do.
        batch_ndim: the number of batch axes B of the leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> tree = {"a": jnp.array([1.0, 2.0]), "n": jnp.array(3), "z": jnp.array([4.0 + 5.0j])}
        >>> space = Coordinates(tree)
        >>> space.vector(tree)
        Array([1., 2., 4., 5.], dtype=float32)
        >>> space.tree(2 * space.vector(tree), tree)["z"]
        Array([8.+10.j], dtype=complex64)
    """

    def __init__(self, tree: Any, chosen: tuple[bool, ...] | None = None, *, batch_ndim: int = 0):
        leaves, self.treedef = jax.tree.flatten(tree)
        inexact = [_is_inexact(leaf) for leaf in leaves]
        self.batch_ndim = batch_ndim
        self.chosen = tuple(a and b for a, b in zip(inexact, chosen or inexact, strict=True))
        self.leaves = [jax.ShapeDtypeStruct(leaf.shape[batch_ndim:], leaf.dtype) for leaf in leaves]
        kept = [leaf for leaf, is_chosen in zip(self.leaves, self.chosen, strict=True) if is_chosen]
        self.sizes = [leaf.size * (2 if _is_complex(leaf) else 1) for leaf in kept]
        self.size = sum(self.sizes)
        # By size, since strict promotion of dtypes refuses to mix them.
        reals = (jnp.dtype(jnp.finfo(leaf.dtype).dtype) for leaf in kept)
        self.dtype = max((jnp.dtype(jnp.float32), *reals), key=lambda dtype: dtype.itemsize)

    def vector(self, tree: Any) -> jax.Array:
        """The coordinates ``[..., S]`` of leaves with leading axes."""
        parts = []
        for leaf, like, is_chosen in zip(jax.tree.leaves(tree), self.leaves, self.chosen, strict=True):
            if is_chosen:
                flat = leaf.reshape(*leaf.shape[: leaf.ndim - len(like.shape)], like.size)
                halves = (flat.real, flat.imag) if _is_complex(flat) else (flat,)
                parts += [half.astype(self.dtype) for half in halves]
        return jnp.concatenate(parts, -1) if parts else jnp.zeros(0, self.dtype)

    def tree(self, vector: jax.Array, like: Any = None) -> Any:
        """The tree of a vector ``[..., S]``; leaves that take no part are those of `like`, or None."""
        leaves = [None] * len(self.leaves) if like is None else jax.tree.leaves(like)
        start, sizes = 0, iter(self.sizes)
        for i, (leaf, is_chosen) in enumerate(zip(self.leaves, self.chosen, strict=True)):
            if is_chosen:
                end = start + next(sizes)
                leaves[i] = _shaped(jax.lax.slice_in_dim(vector, start, end, axis=-1), leaf)
                start = end
        return jax.tree.unflatten(self.treedef, leaves)

    def gradient(self, vector: jax.Array) -> Any:
        """A gradient by the coordinates as `jax.grad` would give it by the tree; zero for leaves that take no part."""
        zeros = jax.tree.unflatten(self.treedef, [jnp.zeros(a.shape, a.dtype) for a in self.leaves])
        # For z = x + iy that is dL/dx - i dL/dy.
        return jax.tree.map(jnp.conj, self.tree(vector, zeros))


class Floating:
    """The floating leaves of a tree, apart from the others (integers, keys), which have no gradient."""

    def __init__(self, tree: Any) -> None:
        self.all, self.treedef = jax.tree.flatten(tree)
        self.where = [i for i, leaf in enumerate(self.all) if _is_inexact(leaf)]

    @property
    def leaves(self) -> list[Any]:
        """The floating leaves, in order."""
        return self.leaves_of(self.all)

    def leaves_of(self, tree: Any) -> list[Any]:
        """The leaves of a tree of the same form, such as a gradient, where this one has floating leaves."""
        leaves = jax.tree.leaves(tree)
        return [leaves[i] for i in self.where]

    def with_leaves(self, leaves: Sequence[Any]) -> Any:
        """The tree with other floating leaves."""
        return self._put(list(self.all), leaves)

    def tree_of(self, values: Sequence[Any]) -> Any:
        """A tree of the same form with one value per floating leaf, and None for the others."""
        return self._put([None] * len(self.all), values)

    def _put(self, leaves: list[Any], values: Sequence[Any]) -> Any:
        for i, value in zip(self.where, values, strict=True):
            leaves[i] = value
        return jax.tree.unflatten(self.treedef, leaves)


def as_vector(tree: Any) -> jax.Array:
    """All floating numbers of a tree in one real vector, in float32 at least; a complex one is two."""
    return Coordinates(tree).vector(tree)


def as_host_vector(tree: Any) -> np.ndarray:
    """As `as_vector`, in float64 on the host, whether JAX knows float64 or not."""
    parts = [np.zeros(0)]
    for leaf in Floating(tree).leaves:
        flat = np.asarray(leaf).ravel()
        halves = (flat.real, flat.imag) if _is_complex(leaf) else (flat,)
        parts += [np.asarray(half, np.float64) for half in halves]
    return np.concatenate(parts)


def _is_inexact(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _is_complex(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.complexfloating)


def _shaped(part: jax.Array, like: Any) -> jax.Array:
    """Leaves ``[..., *shape]`` from their part ``[..., size]`` of a vector."""
    shape = (*part.shape[:-1], *like.shape)
    if not _is_complex(like):
        return part.reshape(shape).astype(like.dtype)
    halves = [jax.lax.slice_in_dim(part, i * like.size, (i + 1) * like.size, axis=-1) for i in range(2)]
    return jax.lax.complex(*(half.reshape(shape).astype(jnp.finfo(like.dtype).dtype) for half in halves))
