"""Selection by flags, without arithmetic: unselected values affect neither the result nor the gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Shaped

from seqjax.affine import wide as wide

Flag = Bool[Array | np.ndarray, "*B"]


def select(flag: Flag | None, on_true: Any, on_false: Any) -> Any:
    """Return ``on_true`` where the flag ``[*B]`` is True, else ``on_false``; both are trees of arrays ``[*B, ...]``.

    A flag of None selects ``on_false``. Unlike a product with 0 or 1, the selection does not spread NaN and infinity.
    """
    if flag is None:
        return on_false
    return jax.tree.map(lambda a, b: jnp.where(expand(flag, jnp.ndim(b)), a, b), on_true, on_false)


def keep(flag: Flag | None, tree: Any) -> Any:
    """Return the tree with zeros where the flag ``[*B]`` is False; a flag of None returns the tree unchanged."""
    if flag is None:
        return tree
    return jax.tree.map(lambda a: jnp.where(expand(flag, a.ndim), a, jnp.zeros_like(a)), tree)


def expand(array: Shaped[Array | np.ndarray, "*B"], ndim: int) -> Shaped[Array, "..."]:
    """Append axes of size 1 to an array ``[*B]``, up to ndim axes."""
    return jnp.reshape(array, array.shape + (1,) * (ndim - array.ndim))


def cast(tree: Any, dtype: Any) -> Any:
    """Cast the real floating-point arrays of a tree to the given dtype; other leaves stay unchanged."""
    return jax.tree.map(lambda a: a.astype(dtype) if _is_real(a) else a, tree)


def cast_inexact(tree: Any, dtype: Any) -> Any:
    """Turn a tree into arrays, the real ones cast to dtype and the complex ones to its complex dtype."""

    def one(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(wide_complex(dtype)) if jnp.iscomplexobj(leaf) else cast(leaf, dtype)

    return jax.tree.map(one, tree)


def _is_real(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def widen(tree: Any) -> Any:
    """Cast the real floating-point arrays of a tree to float32 at least; other leaves stay unchanged."""
    return jax.tree.map(lambda a: a.astype(wide(a.dtype)) if _is_real(a) else a, tree)


def wide_complex(dtype: Any) -> Any:
    """Return the complex dtype that belongs to a real dtype, at least complex64."""
    return jnp.dtype(jnp.complex128 if jnp.finfo(dtype).bits > 32 else jnp.complex64)
