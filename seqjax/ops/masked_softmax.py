"""Softmax over the entries that a mask selects."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqjax.ops.select import wide


def masked_softmax(
    scores: Float[Array, "*B S"], mask: Bool[Array, "*B S"] | None = None
) -> Float[Array, "*B S"]:
    """Softmax over the entries of the last axis with a mask of True; zero elsewhere, and in rows without such entries.

    Shapes: scores and mask ``[*B, S]`` -> ``[*B, S]``, float32 at least. Values and gradients of every order are
    finite for finite scores of any size.

    Example:
        >>> import jax.numpy as jnp
        >>> masked_softmax(jnp.zeros((2, 3)), jnp.asarray([[True, True, False], [False] * 3]))
        Array([[0.5, 0.5, 0. ],
               [0. , 0. , 0. ]], dtype=float32)
    """
    scores = scores.astype(wide(scores.dtype))
    mask = jnp.ones_like(scores, dtype=bool) if mask is None else mask
    lowest = jnp.finfo(scores.dtype).min
    largest = jnp.max(scores, -1, where=mask, initial=lowest, keepdims=True)
    shifted = jnp.where(mask, scores - jax.lax.stop_gradient(largest), jnp.zeros_like(scores))
    powers = jnp.where(mask, jnp.exp(shifted), jnp.zeros_like(scores))
    total = jnp.sum(powers, -1, keepdims=True)
    return powers / jnp.where(total > 0, total, jnp.ones_like(total))
