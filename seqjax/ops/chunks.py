"""Run a function over a sequence in chunks of time steps, for any sequence length."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Xs


def over_chunks(
    fn: Callable[[Any, Any], tuple[Any, Any]],
    carry: Carry,
    xs: Xs,
    chunk: int | None,
    *,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Apply ``fn: (carry, piece) -> (carry, out)`` to pieces of at most ``chunk`` steps and return ``(carry, outs)``.

    One ``lax.scan`` runs the full chunks. The remaining steps form a shorter piece, the last one in time. With
    ``reverse`` the pieces run from the last to the first. A chunk of None is the whole sequence.

    Shapes: leaves of xs ``[T, ...]``, of outs ``[T, ...]``.
    """
    if chunk is None:
        return fn(carry, xs)
    length = len(jax.tree.leaves(xs)[0])
    size = max(1, min(chunk, length))
    count, whole, rest = split(xs, size)

    def run_whole(carry: Carry) -> tuple[Any, Any]:
        if count == 1:
            return fn(carry, jax.tree.map(lambda a: a[0], whole))
        carry, outs = jax.lax.scan(fn, carry, whole, reverse=reverse)
        return carry, join(outs)

    if rest is None:
        return run_whole(carry)
    if reverse:
        carry, last = fn(carry, rest)
        carry, first = run_whole(carry)
    else:
        carry, first = run_whole(carry)
        carry, last = fn(carry, rest)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, last)


def split(xs: Xs, size: int) -> tuple[int, Any, Any]:
    """Split leaves ``[T, ...]`` into chunks.

    Returns:
        The number n of full chunks, leaves ``[n, size, ...]`` of these chunks, and the remaining steps or None.
    """
    length = len(jax.tree.leaves(xs)[0])
    count = length // size
    whole = jax.tree.map(lambda a: a[: count * size].reshape(count, size, *a.shape[1:]), xs)
    rest = jax.tree.map(lambda a: a[count * size :], xs) if length > count * size else None
    return count, whole, rest


def join(outs: Any) -> Any:
    """Reshape leaves ``[n, size, ...]`` of n chunks to ``[n * size, ...]``."""
    return jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), outs)
