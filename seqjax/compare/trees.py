"""Functions of pytrees of numbers: dtypes, names and shapes of their arrays."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def coarser(a: str, b: str) -> str:
    """Return the dtype with the larger unit roundoff."""
    return max(a, b, key=lambda name: float(jnp.finfo(name).eps))


def doubled(tree: Any) -> Any:
    """Return NumPy arrays in float64 or complex128; integers keep their dtype."""

    def one(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            return array.astype(np.complex128)
        return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.tree.map(one, tree)


def rounded(tree: Any, dtype: str) -> Any:
    """Round float64 arrays to values that this dtype can represent."""

    def one(leaf: np.ndarray) -> np.ndarray:
        if np.iscomplexobj(leaf):
            return leaf.astype(np.complex64 if jnp.finfo(dtype).bits < 64 else leaf.dtype).astype(leaf.dtype)
        return leaf.astype(jnp.dtype(dtype)).astype(leaf.dtype) if leaf.dtype == np.float64 else leaf

    return jax.tree.map(one, tree)


def named(tree: Any) -> dict[str, Any]:
    """Return the arrays of a tree by path, such as ``w_x`` or ``layers.0.w``; a single array has the path ""."""
    name = partial(jax.tree_util.keystr, simple=True, separator=".")
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name(path): jnp.asarray(leaf) if np.isscalar(leaf) else leaf for path, leaf in leaves}


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays by path."""
    return {name: tuple(np.shape(leaf)) for name, leaf in named(tree).items()}


def shown(tree: Any, batch_ndim: int) -> str:
    """Format shapes and dtypes by path, without the batch axes."""
    leaves = named(tree).items()
    parts = [f"{name} {list(leaf.shape[batch_ndim:])} {leaf.dtype}".strip() for name, leaf in leaves]
    return ", ".join(parts) or "()"


def same(a: Any, b: Any) -> bool:
    """Return whether two trees hold the same numbers under the same paths."""
    left, right = named(a), named(b)
    return all(np.array_equal(left[name], right[name]) for name in left)


def transplant(into: Any, values: Any) -> Any:
    """Return the tree `into` with the values that `values` holds under its paths."""
    found = named(values)
    return jax.tree.unflatten(jax.tree.structure(into), [found[name] for name in named(into)])
