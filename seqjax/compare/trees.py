"""Trees of numbers: their dtypes, their names, their shapes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def coarser(a: str, b: str) -> str:
    """The dtype with the larger unit roundoff."""
    return max(a, b, key=lambda name: float(jnp.finfo(name).eps))


def cast(tree: Any, dtype: Any) -> Any:
    """Inexact arrays in this dtype, complex ones in complex64 or complex128; all else as it is."""
    wide = "complex128" if jnp.dtype(dtype).itemsize == 8 else "complex64"

    def one(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return leaf.astype(wide)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def doubled(tree: Any) -> Any:
    """NumPy arrays in float64 or complex128; integers as they are."""

    def one(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            return array.astype(np.complex128)
        return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return jax.tree.map(one, tree)


def rounded(tree: Any, dtype: str) -> Any:
    """Float64 arrays whose values this dtype can hold."""

    def one(leaf: np.ndarray) -> np.ndarray:
        if np.iscomplexobj(leaf):
            return leaf.astype(np.complex64 if jnp.finfo(dtype).bits < 64 else leaf.dtype).astype(leaf.dtype)
        return leaf.astype(jnp.dtype(dtype)).astype(leaf.dtype) if leaf.dtype == np.float64 else leaf

    return jax.tree.map(one, tree)


def named(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their path, ``w_x`` or ``layers.0.w``; a single array is named ""."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): jnp.asarray(leaf)
        if np.isscalar(leaf)
        else leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by path."""
    return {name: tuple(np.shape(leaf)) for name, leaf in named(tree).items()}


def shown(tree: Any, batch_ndim: int) -> str:
    """Shapes and dtypes by path, without the batch axes."""
    parts = [
        f"{name} {list(leaf.shape[batch_ndim:])} {leaf.dtype}".strip() for name, leaf in named(tree).items()
    ]
    return ", ".join(parts) or "()"


def same(a: Any, b: Any) -> bool:
    """Whether two trees hold the same numbers under the same paths."""
    left, right = named(a), named(b)
    return all(np.array_equal(left[name], right[name]) for name in left)


def transplant(into: Any, values: Any) -> Any:
    """The tree `into` with the values found under its paths."""
    found = named(values)
    return jax.tree.unflatten(jax.tree.structure(into), [found[name] for name in named(into)])
