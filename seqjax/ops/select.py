"""Selecting by time step without arithmetic: what is not selected reaches neither value nor gradient."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.affine import wide as wide


def select(flag: Any, on_true: Any, on_false: Any) -> Any:
    """``on_true`` where the flag ``[*B]`` holds, else ``on_false``; trees of arrays ``[*B, ...]``.

    A flag of None selects ``on_false``. Unlike a product with 0 and 1 this keeps NaN and infinity out.
    """
    if flag is None:
        return on_false
    return jax.tree.map(lambda a, b: jnp.where(expand(flag, jnp.ndim(b)), a, b), on_true, on_false)


def keep(flag: Any, tree: Any) -> Any:
    """The tree where the flag holds, zero elsewhere; a flag of None keeps everything."""
    if flag is None:
        return tree
    return jax.tree.map(lambda a: jnp.where(expand(flag, a.ndim), a, jnp.zeros_like(a)), tree)


def expand(array: Any, ndim: int) -> jax.Array:
    """An array ``[*B]`` as ``[*B, 1, ...]`` with ndim axes."""
    return jnp.reshape(array, array.shape + (1,) * (ndim - array.ndim))


def cast(tree: Any, dtype: Any) -> Any:
    """The real floating arrays of a tree in the given dtype; all else as it is."""
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a, tree
    )


def wide_complex(dtype: Any) -> Any:
    """The complex dtype of a real one, complex64 at least."""
    return jnp.dtype(jnp.complex128 if jnp.finfo(dtype).bits > 32 else jnp.complex64)
