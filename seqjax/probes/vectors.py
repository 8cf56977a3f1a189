"""Trees of arrays as one real vector."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.ops.select import wide
from seqjax.ops.tap import norm


def as_vector(tree: Any) -> jax.Array:
    """All floating numbers of a tree in one real vector, in float32 at least; a complex one is two."""
    parts = []
    for leaf in jax.tree.leaves(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        leaf = jnp.ravel(leaf.astype(wide(leaf.dtype)))
        complex_ = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
        parts += [jnp.real(leaf), jnp.imag(leaf)] if complex_ else [leaf]
    return jnp.concatenate(parts) if parts else jnp.zeros(0)


def unit(vector: jax.Array) -> jax.Array:
    """A vector over its norm; NaN for zero."""
    largest = jnp.max(jnp.abs(vector), initial=0)
    safe = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    vector = vector / safe
    return vector / norm(vector, 0)


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Of the angle between two vectors, whatever their norms; NaN where one is zero."""
    return jnp.clip(jnp.vdot(unit(a), unit(b)), -1, 1)
