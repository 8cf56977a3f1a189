"""Directions for probing a linear map: random signs, or a basis. A complex entry counts as two real entries."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from seqjax.checks import check_whole


def probing_directions(
    who: str,
    leaves: Sequence[jax.Array],
    num_probes: int | None,
    key: jax.Array | None,
    least: int,
    batch_ndim: int,
) -> list[jax.Array]:
    """Return `num_probes` random directions, or those of `basis` where it is None.

    Raises:
        ValueError: for fewer than `least` probes, or without a key.
    """
    if num_probes is None:
        return basis(leaves, batch_ndim)
    check_whole(f"{who}(num_probes)", num_probes, least)
    if key is None:
        raise ValueError(
            f"{who}(key): expected a key for the random probes, such as jax.random.key(0), got None. "
            "Pass `key=`, or `num_probes=None` for the exact norm."
        )
    return random_signs(key, leaves, num_probes)


def random_signs(key: jax.Array, leaves: Sequence[jax.Array], count: int) -> list[jax.Array]:
    """Draw `count` directions per leaf, ``[count, *leaf.shape]``, with independent entries ±1 (or ±1 ± i).

    For such directions ``E |A v|^2`` is the squared Frobenius norm of A. The diagonal of ``A' A`` adds no variance.
    """

    def draw(key: jax.Array, leaf: jax.Array) -> jax.Array:
        real = jnp.finfo(leaf.dtype).dtype
        shape = (count, *leaf.shape)
        if not jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return jax.random.rademacher(key, shape, real)
        parts = [jax.random.rademacher(k, shape, real) for k in jax.random.split(key)]
        return jax.lax.complex(*parts)

    return [draw(jax.random.fold_in(key, i), leaf) for i, leaf in enumerate(leaves)]


def basis(leaves: Sequence[jax.Array], batch_ndim: int) -> list[jax.Array]:
    """Return the n unit directions of one example's leaves, per leaf ``[n, *leaf.shape]``, equal for all examples."""
    sizes = []
    for leaf in leaves:
        own = leaf.size // max(1, math.prod(leaf.shape[:batch_ndim]))
        sizes.append(own * (2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1))
    total, start, out = sum(sizes), 0, []
    for leaf, size in zip(leaves, sizes, strict=True):
        real = jnp.finfo(leaf.dtype).dtype
        rows = jnp.eye(total, dtype=real)[:, start : start + size]
        start += size
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            rows = jax.lax.complex(rows[:, : size // 2], rows[:, size // 2 :])
        own_shape = leaf.shape[batch_ndim:]
        rows = rows.reshape(total, *(1,) * batch_ndim, *own_shape)
        out.append(jnp.broadcast_to(rows, (total, *leaf.shape)))
    return out
