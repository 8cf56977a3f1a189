"""Clipping statistics: how often a gradient is clipped, how far, and into which direction."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from seqjax.ops.tap import norm
from seqjax.ops.vectors import as_vector
from seqjax.probes.checks import check_gradients
from seqjax.probes.vectors import unit


class ClippingStatistics(NamedTuple):
    """What `clipping_statistics` finds.

    Attributes:
        share_clipped: of the gradients, how many the clipping changed.
        clipped: which ones, ``[N]``.
        angle: between each gradient and what is left of it, radians ``[N]``; zero where clipping only shortens, NaN
            where one of the two is zero or not finite.
        norm: of each gradient, ``[N]``.
        clipped_norm: of what is left, ``[N]``.
    """

    share_clipped: jax.Array
    clipped: jax.Array
    angle: jax.Array
    norm: jax.Array
    clipped_norm: jax.Array


def clipping_statistics(
    gradients: Any, clip: optax.GradientTransformation, params: Any = None
) -> ClippingStatistics:
    r"""Apply a clipping to each of N gradients, of successive steps or of single examples.

    Any of optax's will do: by the norm of all (``optax.clip_by_global_norm``), which keeps the direction; by that of
    each leaf (``optax.clip_by_block_rms``), by units relative to the weights (``optax.adaptive_grad_clip``), or by
    entries (``optax.clip``), which turn it.

    The angle is :math:`2 \arctan(\lVert u - v \rVert / \lVert u + v \rVert)` of the two unit vectors, which is right
    for small angles, where the arc cosine is not.

    Args:
        gradients: a tree of arrays ``[N, ...]``.
        clip: a transformation without memory; each gradient meets it anew.
        params: for clippings that compare with the weights.

    Raises:
        TypeError: for something else than a transformation.
        ValueError: for arrays without one N, or without floating numbers.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> found = clipping_statistics(jnp.array([[3.0, 4.0], [0.3, 0.4]]), optax.clip_by_global_norm(1.0))
        >>> found.share_clipped, found.clipped_norm
        (Array(0.5, dtype=float32), Array([1. , 0.5], dtype=float32))

    References:
        Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", arXiv:1211.5063 (by the norm).
        Brock et al. 2021, "High-performance large-scale image recognition without normalization", arXiv:2102.06171
        (adaptive, by units).
    """
    gradients, _ = check_gradients("clipping_statistics", gradients)
    if not hasattr(clip, "update"):
        raise TypeError(
            f"clipping_statistics(clip): expected a transformation such as optax.clip(1.0), got {clip!r}."
        )

    def of_one(gradient: Any) -> ClippingStatistics:
        left, _ = clip.update(gradient, clip.init(gradient if params is None else params), params)
        before, after = as_vector(gradient), as_vector(left)
        u, v = unit(before), unit(after)
        return ClippingStatistics(
            jnp.zeros(()),
            jnp.any(before != after),
            2 * jnp.arctan2(norm(u - v, 0), norm(u + v, 0)),
            norm(before, 0),
            norm(after, 0),
        )

    each = jax.vmap(of_one)(gradients)
    return each._replace(share_clipped=jnp.mean(each.clipped, dtype=each.norm.dtype))
