r"""A tap on a carry: an identity whose gradient reads off the norm of the cotangent that passes through it.

``tap(h, d)`` returns h. Differentiating by the dummy d, which takes no part in the value, gives
:math:`\lVert \partial L / \partial h \rVert` per example, so that one backward pass returns the norms of all steps
with O(T B) extra memory.
"""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.ops.select import wide


def norm(x: jax.Array, batch_ndim: int) -> jax.Array:
    """The 2-norm over all axes after the first ``batch_ndim``, scaled by the largest entry.

    Squares alone would be zero in float32 at half the exponent range. At least float32.

    Example:
        >>> import jax.numpy as jnp
        >>> norm(jnp.asarray([[3e-30, 4e-30]], jnp.float32), 1)
        Array([5.e-30], dtype=float32)
    """
    x = x.astype(wide(x.dtype))
    axes = tuple(range(batch_ndim, x.ndim))
    if not axes:
        return jnp.abs(x)
    # The parts of complex numbers by themselves: their absolute values would cost a root for each entry.
    parts = [jnp.real(x), jnp.imag(x)] if jnp.issubdtype(x.dtype, jnp.complexfloating) else [x]
    maxima = [jnp.max(jnp.abs(part), axes, keepdims=True, initial=0) for part in parts]
    largest = maxima[0] if len(parts) == 1 else jnp.maximum(*maxima)
    # Zero and infinity cannot be divided by; then the entries are squared as they are.
    safe = jnp.where((largest > 0) & jnp.isfinite(largest), largest, jnp.ones_like(largest))
    squares = [jnp.square(part / safe) for part in parts]
    square = jnp.sum(squares[0] if len(parts) == 1 else squares[0] + squares[1], axes)
    # At zero the root has no derivative; that of the norm is taken to be zero there.
    root = jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
    return jnp.squeeze(largest, axes) * root


@jax.custom_vjp
def _tap(h: jax.Array, dummy: jax.Array) -> jax.Array:
    return h


def _forward(h: jax.Array, dummy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return h, dummy


def _backward(dummy: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return cotangent, norm(cotangent, dummy.ndim).astype(dummy.dtype)


_tap.defvjp(_forward, _backward)


def tap(carry: Any, dummies: Any) -> Any:
    """The carry, unchanged; the gradient by a dummy ``[*B]`` is the norm of its leaf's cotangent.

    Leaves without gradients (integers, keys) carry a dummy of None.
    """
    if dummies is None:
        return carry
    leaves, treedef = jax.tree.flatten(carry)
    flat = jax.tree.leaves(dummies, is_leaf=lambda d: d is None)
    return jax.tree.unflatten(
        treedef, [h if d is None else _tap(h, d) for h, d in zip(leaves, flat, strict=True)]
    )


def dummies(carry: Any, num_steps: int, batch_ndim: int = 1) -> Any:
    """Zeros ``[T, *B]`` for every floating leaf ``[*B, ...]`` of a carry: what ``unroll(..., tap=)`` takes."""

    def zeros(leaf: jax.Array) -> jax.Array | None:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return None
        dtype = wide(jnp.finfo(leaf.dtype).dtype)
        return jnp.zeros((num_steps, *leaf.shape[:batch_ndim]), dtype)

    return jax.tree.map(zeros, carry)
