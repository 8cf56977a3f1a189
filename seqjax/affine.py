"""Affine maps, and weights of one number per unit, with gradients that add up in float32 at least."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.products import product


def wide(dtype: Any) -> Any:
    """Return the dtype, real or complex, or float32 where the dtype is narrower."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def spread(weight: jax.Array, like: jax.Array) -> jax.Array:
    """Broadcast a weight ``[H]``, one number per unit, to the shape and dtype of ``like [..., H]``.

    The cast comes after the broadcast, so that the gradient of the weight, a sum over all examples and steps, adds up
    in float32 at least. In bfloat16, terms that are small beside the sum so far would be lost.
    """
    return jnp.broadcast_to(weight.astype(wide(like.dtype)), like.shape).astype(like.dtype)


def affine(xs: jax.Array, w: jax.Array, b: jax.Array | None = None) -> jax.Array:
    """Return ``xs @ w + b`` in the dtype of xs ``[..., D]``; raise a ValueError for xs of another dtype or width."""
    check_inputs(xs, w)
    ys = product(xs, w.astype(xs.dtype))
    return ys if b is None else ys + spread(b, ys)


def check_inputs(xs: jax.Array, w: jax.Array) -> None:
    """Raise a ValueError unless xs ``[..., D]`` is floating and its last axis fits the weights ``w [D, ...]``."""
    if not jnp.issubdtype(xs.dtype, jnp.floating) or xs.shape[-1] != w.shape[0]:
        raise ValueError(
            f"expected floating xs [..., {w.shape[0]}] (the input weights are {list(w.shape)}), "
            f"got {xs.dtype} {list(xs.shape)}."
        )
