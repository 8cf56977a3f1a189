"""Convert trees of arrays to one real vector and back, and separate floating leaves from other leaves."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Coordinates:
    """Map the inexact leaves ``[*B, ...]`` of a tree to one real vector ``[*B, S]`` by concatenation.

    A complex leaf contributes its real parts, then its imaginary parts.

    Attributes:
        size: the length S of the vector.
        sizes: the length of each leaf's part of the vector.
        dtype: the dtype of the vector: the widest real dtype among the leaves, at least float32.

    Args:
        tree: arrays or ShapeDtypeStructs.
        chosen: for each leaf, whether the vector contains it. The default is all inexact leaves.
        batch_ndim: the number of batch axes of the leaves.

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
        # Compared by size, since strict dtype promotion raises an error for mixed dtypes.
        reals = (jnp.dtype(jnp.finfo(leaf.dtype).dtype) for leaf in kept)
        self.dtype = max((jnp.dtype(jnp.float32), *reals), key=lambda dtype: dtype.itemsize)

    def vector(self, tree: Any) -> Float[Array, "... S"]:
        """Return the vector ``[..., S]`` of a tree whose leaves may have further leading axes."""
        parts = []
        for leaf, like, is_chosen in zip(jax.tree.leaves(tree), self.leaves, self.chosen, strict=True):
            if is_chosen:
                flat = leaf.reshape(*leaf.shape[: leaf.ndim - len(like.shape)], like.size)
                halves = (flat.real, flat.imag) if _is_complex(flat) else (flat,)
                parts += [half.astype(self.dtype) for half in halves]
        return jnp.concatenate(parts, -1) if parts else jnp.zeros(0, self.dtype)

    def tree(self, vector: Float[Array, "... S"], like: Any = None) -> Any:
        """Return the tree of a vector ``[..., S]``; leaves outside the vector come from `like`, or are None."""
        leaves = [None] * len(self.leaves) if like is None else jax.tree.leaves(like)
        start, sizes = 0, iter(self.sizes)
        for i, (leaf, is_chosen) in enumerate(zip(self.leaves, self.chosen, strict=True)):
            if is_chosen:
                end = start + next(sizes)
                leaves[i] = _leaf(jax.lax.slice_in_dim(vector, start, end, axis=-1), leaf)
                start = end
        return jax.tree.unflatten(self.treedef, leaves)

    def gradient(self, vector: Float[Array, "... S"]) -> Any:
        """Convert a gradient with respect to the vector to JAX's gradient with respect to the tree.

        The gradient is zero for leaves outside the vector.
        """
        zeros = jax.tree.unflatten(self.treedef, [jnp.zeros(a.shape, a.dtype) for a in self.leaves])
        # JAX's gradient for z = x + iy is dL/dx - i dL/dy.
        return jax.tree.map(jnp.conj, self.tree(vector, zeros))


class Floating:
    """The floating leaves of a tree, separated from leaves without gradients (integers, keys)."""

    def __init__(self, tree: Any) -> None:
        self.all, self.treedef = jax.tree.flatten(tree)
        self.where = [i for i, leaf in enumerate(self.all) if _is_inexact(leaf)]

    @property
    def leaves(self) -> list[Any]:
        """The floating leaves, in the order of the tree."""
        return self.leaves_of(self.all)

    def leaves_of(self, tree: Any) -> list[Any]:
        """Return those leaves of another tree (such as a gradient) that are floating leaves in this tree."""
        leaves = jax.tree.leaves(tree)
        return [leaves[i] for i in self.where]

    def with_leaves(self, leaves: Sequence[Any]) -> Any:
        """Return the tree with the given floating leaves."""
        return self._put(list(self.all), leaves)

    def tree_of(self, values: Sequence[Any]) -> Any:
        """Return a tree of the same structure with one value per floating leaf and None for the other leaves."""
        return self._put([None] * len(self.all), values)

    def _put(self, leaves: list[Any], values: Sequence[Any]) -> Any:
        for i, value in zip(self.where, values, strict=True):
            leaves[i] = value
        return jax.tree.unflatten(self.treedef, leaves)


def as_vector(tree: Any) -> Float[Array, " S"]:
    """Return all floating-point numbers of a tree as one real vector, in at least float32.

    A complex number gives two real numbers.
    """
    return Coordinates(tree).vector(tree)


def as_host_vector(tree: Any) -> Float[np.ndarray, " S"]:
    """Return the vector of `as_vector` as a float64 NumPy array, whether or not JAX enables float64."""
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


def _leaf(part: Float[Array, "... N"], like: Any) -> jax.Array:
    """Return the leaf ``[..., *shape]`` of a part ``[..., size]`` of a vector."""
    shape = (*part.shape[:-1], *like.shape)
    if not _is_complex(like):
        return part.reshape(shape).astype(like.dtype)
    halves = [jax.lax.slice_in_dim(part, i * like.size, (i + 1) * like.size, axis=-1) for i in range(2)]
    return jax.lax.complex(*(half.reshape(shape).astype(jnp.finfo(like.dtype).dtype) for half in halves))
