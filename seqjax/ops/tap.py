r"""Tap a carry: an identity function whose gradient is the norm of the carry's cotangent.

``tap(h, d)`` returns h. The value does not depend on the dummy d, but the gradient with respect to d is defined as
:math:`\lVert \partial L / \partial h \rVert` per example. So one backward pass returns the norms of all steps, with
O(T B) extra memory.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from seqjax.base import Carry
from seqjax.ops.select import wide


def norm(x: Inexact[Array, "..."], batch_ndim: int) -> Float[Array, "..."]:
    """Return the 2-norm over all axes after the first ``batch_ndim``, in at least float32.

    Entries are divided by the largest one before they are squared. Unscaled squares would underflow in float32 at half
    the exponent range.

    Example:
        >>> import jax.numpy as jnp
        >>> norm(jnp.asarray([[3e-30, 4e-30]], jnp.float32), 1)
        Array([5.e-30], dtype=float32)
    """
    x = x.astype(wide(x.dtype))
    axes = tuple(range(batch_ndim, x.ndim))
    if not axes:
        return jnp.abs(x)
    # Real and imaginary parts separately: absolute values would cost a square root for each entry.
    parts = [jnp.real(x), jnp.imag(x)] if jnp.issubdtype(x.dtype, jnp.complexfloating) else [x]
    maxima = [jnp.max(jnp.abs(part), axes, keepdims=True, initial=0) for part in parts]
    largest = maxima[0] if len(parts) == 1 else jnp.maximum(*maxima)
    # A division by zero or infinity is not possible. In these cases the entries are squared unscaled.
    safe = jnp.where((largest > 0) & jnp.isfinite(largest), largest, jnp.ones_like(largest))
    squares = [jnp.square(part / safe) for part in parts]
    square = jnp.sum(squares[0] if len(parts) == 1 else squares[0] + squares[1], axes)
    # The square root has no derivative at zero. The derivative of the norm is defined as zero there.
    root = jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
    return jnp.squeeze(largest, axes) * root


@jax.custom_vjp
def _tap(h: Inexact[Array, "..."], dummy: Float[Array, "*B"]) -> Inexact[Array, "..."]:
    return h


def _forward(h: jax.Array, dummy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return h, dummy


def _backward(dummy: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return cotangent, norm(cotangent, dummy.ndim).astype(dummy.dtype)


_tap.defvjp(_forward, _backward)


def tap(carry: Carry, dummies: Any) -> Any:
    """Return the carry unchanged. The gradient with respect to a dummy ``[*B]`` is the norm of its leaf's cotangent.

    The dummy of a leaf without gradients (integers, keys) is None.
    """
    if dummies is None:
        return carry
    leaves, treedef = jax.tree.flatten(carry)
    flat = jax.tree.leaves(dummies, is_leaf=lambda d: d is None)
    return jax.tree.unflatten(
        treedef, [h if d is None else _tap(h, d) for h, d in zip(leaves, flat, strict=True)]
    )


def dummies(carry: Carry, num_steps: int, batch_ndim: int = 1) -> Any:
    """Return zeros ``[T, *B]`` for every inexact leaf ``[*B, ...]`` of a carry, as ``unroll(..., tap=)`` expects."""

    def zeros(leaf: jax.Array) -> jax.Array | None:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return None
        dtype = wide(jnp.finfo(leaf.dtype).dtype)
        return jnp.zeros((num_steps, *leaf.shape[:batch_ndim]), dtype)

    return jax.tree.map(zeros, carry)
