"""Segments of a sequence, which resets separate, and the handling of steps with non-finite numbers."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact, Int, Shaped

from seqjax.ops.diagonal import associative
from seqjax.ops.select import expand, keep, select
from seqjax.ops.step import expand_left


def segments(reset: Bool[Array, "T *B"] | None, like: Shaped[Array, "T *B"]) -> Int[Array, "T *B"]:
    """Return the index of each step's segment: the number of resets up to and including the step, int32.

    Segment 0 continues from the carry. `like` gives the shape where reset is None.
    """
    if reset is None:
        return jnp.zeros(like.shape, jnp.int32)
    return jnp.cumsum(reset, 0, jnp.int32)


def same_earlier(segment: Int[Array, "... C"]) -> Bool[Array, "... C C"]:
    """Return at (t, s) whether step s is in the segment of step t and not later than t."""
    length = segment.shape[-1]
    same = segment[..., :, None] == segment[..., None, :]
    return same & expand_left(jnp.tril(jnp.ones((length, length), bool)), same.ndim)


def running_sum(x: Inexact[Array, "T ..."], reset: Bool[Array, "T *B"] | None) -> Inexact[Array, "T ..."]:
    """Return the cumulative sum over the steps of each segment, the present step included; x ``[T, *B, ...]``."""
    if reset is None:
        return jnp.cumsum(x, 0)
    flat = x.reshape(*reset.shape, -1)
    return associative(jnp.ones_like(flat), flat, reset).reshape(x.shape)


def running_any(flag: Bool[Array, "T *B"], segment: Int[Array, "T *B"]) -> Bool[Array, "T *B"]:
    """Return whether a flag is True at this step or at an earlier step of the same segment."""
    # The last segment with a True flag is a running maximum, since segment indices never decrease.
    return jax.lax.cummax(jnp.where(flag, segment, -1), 0) == segment


def all_finite(tree: Any, ndim: int) -> Bool[Array, "..."]:
    """Return for each index of the first ndim axes whether all numbers at this index are finite."""
    checks = [jnp.all(jnp.isfinite(a), tuple(range(ndim, a.ndim))) for a in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(checks), 0)


def zero_nonfinite(tree: Any, finite: Bool[Array, "..."]) -> Any:
    """Return the tree with zeros where `finite` is False.

    A product with a matrix of weights spreads NaN over all rows, even where the weight is zero. So algorithms replace
    non-finite numbers by zeros before such a product and write NaN to the affected results afterwards (`set_nan`).
    """
    return keep(finite, tree)


def set_nan(is_nan: Bool[Array, "..."], tree: Any) -> Any:
    """Return the tree with NaN where `is_nan` is True.

    The NaN is 0/0 of the flag itself: a constant would stop ``jax_debug_nans`` where every number is finite.
    """

    def nan_like(a: jax.Array) -> jax.Array:
        fine = expand(jnp.where(is_nan, 0, 1).astype(a.dtype), a.ndim)
        return jnp.broadcast_to(fine / fine, a.shape)

    return select(is_nan, jax.tree.map(nan_like, tree), tree)
