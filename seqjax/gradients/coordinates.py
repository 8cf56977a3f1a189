"""Trees as real vectors: params and carries in the coordinates that influences are kept in."""

from typing import Any

import jax
import jax.numpy as jnp


class Coordinates:
    """The inexact leaves of a tree, one after another, as one real vector.

    A complex leaf gives its real, then its imaginary parts.

    Attributes:
        size: of the vector.
        dtype: of the vector, the widest among the leaves, float32 at least.

    Args:
        tree: arrays or ShapeDtypeStructs.
        chosen: for each leaf, whether it takes part; by default all that are inexact do.

    Example:
        >>> import jax.numpy as jnp
        >>> tree = {"a": jnp.array([1.0, 2.0]), "n": jnp.array(3), "z": jnp.array([4.0 + 5.0j])}
        >>> space = Coordinates(tree)
        >>> space.vector(tree)
        Array([1., 2., 4., 5.], dtype=float32)
        >>> space.tree(2 * space.vector(tree), tree)["z"]
        Array([8.+10.j], dtype=complex64)
    """

    def __init__(self, tree: Any, chosen: tuple[bool, ...] | None = None):
        leaves, self.treedef = jax.tree.flatten(tree)
        inexact = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
        self.chosen = tuple(a and b for a, b in zip(inexact, chosen or inexact, strict=True))
        self.leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        kept = [leaf for leaf, is_chosen in zip(self.leaves, self.chosen, strict=True) if is_chosen]
        self.sizes = [leaf.size * (2 if _is_complex(leaf) else 1) for leaf in kept]
        self.size = sum(self.sizes)
        self.dtype = jnp.result_type(jnp.float32, *(jnp.finfo(leaf.dtype).dtype for leaf in kept))

    def vector(self, tree: Any) -> jax.Array:
        """The coordinates of a tree."""
        parts = [jnp.zeros(0, self.dtype)]
        for leaf, is_chosen in zip(jax.tree.leaves(tree), self.chosen, strict=True):
            if is_chosen:
                halves = (leaf.real, leaf.imag) if _is_complex(leaf) else (leaf,)
                parts += [half.ravel().astype(self.dtype) for half in halves]
        return jnp.concatenate(parts)

    def tree(self, vector: jax.Array, like: Any) -> Any:
        """The tree of a vector; leaves that take no part are those of `like`."""
        leaves, position, sizes = jax.tree.leaves(like), 0, iter(self.sizes)
        for i, (leaf, is_chosen) in enumerate(zip(self.leaves, self.chosen, strict=True)):
            if is_chosen:
                size = next(sizes)
                leaves[i] = _shaped(vector[position : position + size], leaf)
                position += size
        return jax.tree.unflatten(self.treedef, leaves)

    def gradient(self, vector: jax.Array) -> Any:
        """A gradient by the coordinates as `jax.grad` would give it by the tree; zero for leaves that take no part."""
        zeros = jax.tree.unflatten(self.treedef, [jnp.zeros(a.shape, a.dtype) for a in self.leaves])
        # For z = x + iy that is dL/dx - i dL/dy.
        return jax.tree.map(jnp.conj, self.tree(vector, zeros))


def _is_complex(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.complexfloating)


def _shaped(part: jax.Array, like: Any) -> jax.Array:
    if not _is_complex(like):
        return part.reshape(like.shape).astype(like.dtype)
    real, imaginary = part.reshape(2, *like.shape).astype(jnp.finfo(like.dtype).dtype)
    return jax.lax.complex(real, imaginary)
