"""Sequences that consist of segments, divided by resets, and steps that hold no finite numbers."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.ops.diagonal import associative
from seqjax.ops.select import keep, select


def segments(reset: jax.Array | None, like: jax.Array) -> jax.Array:
    """The number of resets up to each step and at it, int32: 0 for what belongs to the carry's segment.

    Shapes: reset ``[T, *B]`` or None; like ``[T, *B]``, whose shape counts.
    """
    if reset is None:
        return jnp.zeros(like.shape, jnp.int32)
    return jnp.cumsum(reset, 0, jnp.int32)


def running_sum(x: jax.Array, reset: jax.Array | None) -> jax.Array:
    """Sums over the steps of each segment so far, this one included; x ``[T, *B, ...]``."""
    if reset is None:
        return jnp.cumsum(x, 0)
    flat = x.reshape(*reset.shape, -1)
    return associative(jnp.ones_like(flat), flat, reset).reshape(x.shape)


def running_any(flag: jax.Array, segment: jax.Array) -> jax.Array:
    """Whether a flag held at this step or an earlier one of its segment; both ``[T, *B]``."""
    # The last segment in which it held: a running maximum, for segments only grow.
    return jax.lax.cummax(jnp.where(flag, segment, -1), 0) == segment


def all_finite(tree: Any, ndim: int) -> jax.Array:
    """Whether all numbers that belong to an index of the first ndim axes are finite."""
    checks = [jnp.all(jnp.isfinite(a), tuple(range(ndim, a.ndim))) for a in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(checks), 0)


def only_finite(tree: Any, finite: jax.Array) -> Any:
    """The tree with zeros where the flag does not hold.

    A product with a matrix of weights spreads NaN over all rows, also where the weight is zero. So what is not finite
    is taken out before (here), and put back where it belongs after (`spoil`).
    """
    return keep(finite, tree)


def spoil(spoilt: jax.Array, tree: Any) -> Any:
    """The tree with NaN where the flag holds."""
    return select(spoilt, jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), tree), tree)
