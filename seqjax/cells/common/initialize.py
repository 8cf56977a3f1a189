"""Initial weights and carries that several cells share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Dense
from seqjax.ops.select import wide

DENSE = Dense(lambda params: (params.w_x, params.b))
"""The projection ``xs @ w_x + b`` of params with these fields."""


def gated_weights(
    key: jax.Array, x: jax.Array, hidden_size: int, num_gates: int, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Draw ``w_x [D, G*H]``, Glorot-uniform per gate, and ``w_h [H, G*H]``, orthogonal per gate."""
    key_x, key_h = jax.random.split(key)
    w_x = per_gate(jax.nn.initializers.glorot_uniform(), key_x, (x.shape[-1], hidden_size), num_gates, dtype)
    w_h = per_gate(jax.nn.initializers.orthogonal(), key_h, (hidden_size, hidden_size), num_gates, dtype)
    return w_x, w_h


def per_gate(
    initialize: Any, key: jax.Array, shape: tuple[int, int], num_gates: int, dtype: Any
) -> jax.Array:
    """Draw one matrix of the shape per gate, each from its own key; return them side by side, ``[rows, G*columns]``."""
    # Draw in float32 at least: orthogonal matrices come from a QR decomposition, which does not support
    # bfloat16.
    blocks = [initialize(k, shape, wide(jnp.dtype(dtype))) for k in jax.random.split(key, num_gates)]
    return jnp.concatenate(blocks, -1).astype(dtype)


def zero_carry(x: jax.Array, size: int, dtype: Any = None) -> jax.Array:
    """Return zeros ``[*B, size]`` with the batch axes, dtype and sharding of x ``[*B, D]``, without reading values."""
    zeros = jnp.zeros_like(x, dtype=dtype or x.dtype)[..., :1]
    return jnp.broadcast_to(zeros, (*x.shape[:-1], size))


def zeros(carry_class: Any, *sizes: int) -> Callable:
    """Return the initial carry ``(params, x) -> carry_class`` of zeros: one size for all fields, or one per field."""
    sizes = sizes if len(sizes) > 1 else sizes * len(carry_class._fields)
    return lambda params, x: carry_class(*(zero_carry(x, size) for size in sizes))


def wide_zeros(size: int, dtype_of: Callable = wide) -> Callable:
    """Return the initial carry ``(params, x) -> zeros [*B, size]`` in `dtype_of` the dtype of x."""
    return lambda params, x: zero_carry(x, size, dtype_of(x.dtype))


def uniform(key: jax.Array, shape: tuple[int, ...], bound: float, dtype: Any) -> jax.Array:
    """Draw uniform numbers in [-bound, bound)."""
    return jax.random.uniform(key, shape, dtype, -bound, bound)
