"""Directions of vectors: unit vectors, and the cosine between two."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.ops.tap import norm


def unit(vector: Float[Array, " P"]) -> Float[Array, " P"]:
    """Divide a vector by its norm; NaN for zero."""
    largest = jnp.max(jnp.abs(vector), initial=0)
    safe = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    vector = vector / safe
    return vector / norm(vector, 0)


def cosine(a: Float[Array, " P"], b: Float[Array, " P"]) -> Float[Array, ""]:
    """Return the cosine of the angle between two vectors of any norms; NaN if one is zero."""
    return jnp.clip(jnp.vdot(unit(a), unit(b)), -1, 1)
