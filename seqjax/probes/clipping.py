"""Clipping statistics: how often a gradient is clipped, by how much, and by which angle."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from seqjax.base import Params
from seqjax.ops.tap import norm
from seqjax.ops.vectors import as_vector
from seqjax.probes.internals.checks import check_gradients
from seqjax.probes.internals.vectors import unit


class ClippingStatistics(NamedTuple):
    """Result of `clipping_statistics`.

    Attributes:
        share_clipped: the share of the gradients that the clipping changed.
        clipped: whether the clipping changed each gradient ``[N]``.
        angle: the angle between each gradient and its clipped form in radians ``[N]``; zero if clipping only shortens
            the gradient, NaN if one of the two is zero or not finite.
        norm: the norm of each gradient ``[N]``.
        clipped_norm: the norm of each clipped gradient ``[N]``.
    """

    share_clipped: Float[Array, ""]
    clipped: Bool[Array, " N"]
    angle: Float[Array, " N"]
    norm: Float[Array, " N"]
    clipped_norm: Float[Array, " N"]


def clipping_statistics(
    gradients: Any, clip: optax.GradientTransformation, params: Params = None
) -> ClippingStatistics:
    r"""Apply a clipping to each of N gradients, of successive steps or of single examples.

    Any clipping of optax works. ``optax.clip_by_global_norm`` keeps the direction of the gradient. Clipping by leaf
    (``optax.clip_by_block_rms``), by unit relative to the weights (``optax.adaptive_grad_clip``) or by entry
    (``optax.clip``) changes the direction.

    The angle is :math:`2 \arctan(\lVert u - v \rVert / \lVert u + v \rVert)` of the two unit vectors. It is accurate
    for small angles, where the arc cosine is not.

    Args:
        gradients: a tree of arrays ``[N, ...]``.
        clip: a transformation without state; it is initialized anew for each gradient.
        params: the params, for clippings that compare the gradient with the weights.

    Raises:
        TypeError: if `clip` is not a transformation.
        ValueError: for arrays that do not share N, or without floating numbers.

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
