"""Time and batch as one axis of rows, for products with weights that JAX differentiates.

The gradient of w in ``xs [T, B, D] @ w`` is a sum over two axes. XLA computes such a sum from a transposed copy of xs,
and the copies of whole sequences cost a good part of a training step on a CPU. A sum over one axis needs no copy. Where
several devices share the batch, merging it with time would move data between them, so the axes stay apart there.
"""

import math
from typing import Any

import jax
from jaxtyping import Array, Float


def mergeable(tree: Any, ndim: int) -> bool:
    """Return whether two or more of the ndim leading axes are not of length 1, and no leaf can be split over devices.

    A leaf can be split where several devices are there, or where an axis has an explicit sharding.
    """
    leaves = jax.tree.leaves(tree)
    return (
        jax.device_count() == 1
        and sum(n != 1 for n in leaves[0].shape[:ndim]) > 1
        and all(axis is None for leaf in leaves for axis in jax.typeof(leaf).sharding.spec)
    )


def merge(tree: Any, ndim: int) -> Any:
    """Reshape leaves ``[*B, ...]`` with ndim leading axes B to ``[rows, ...]``."""
    return jax.tree.map(lambda a: a.reshape(math.prod(a.shape[:ndim]), *a.shape[ndim:]), tree)


def product(xs: Float[Array, "*B D"], w: Float[Array, "D H"]) -> Float[Array, "*B H"]:
    """Return ``xs @ w``."""
    if not mergeable(xs, xs.ndim - 1):
        return xs @ w
    return (merge(xs, xs.ndim - 1) @ w).reshape(*xs.shape[:-1], w.shape[-1])
