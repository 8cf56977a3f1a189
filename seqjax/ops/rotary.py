r"""Rotary position embedding: rotate queries and keys by angles proportional to their positions."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqjax.ops.select import wide


def rotate(x: Float[Array, "*B N K"], position: Int[Array, "*B"], base: float) -> Float[Array, "*B N K"]:
    r"""Rotate each pair ``(x_{2i}, x_{2i+1})`` by the angle :math:`p\,\theta_i`, :math:`\theta_i = b^{-2i/K}`.

    The inner product of a rotated query and a rotated key depends only on the difference of their positions.

    Shapes: x ``[*B, N, K]``, K even; position ``[*B]``, integers. Angles are computed in at least float32. Their
    relative error is 1e-7, so 1e-3 radians at position 10,000 in float32.

    Example:
        >>> import jax.numpy as jnp
        >>> rotate(jnp.asarray([[1.0, 0.0]]), jnp.asarray(1), 10000.0).round(4)
        Array([[0.5403, 0.8415]], dtype=float32)

    References:
        Su et al. 2021, "RoFormer: enhanced transformer with rotary position embedding", arXiv:2104.09864, eq. 15, 34.
    """
    size = x.shape[-1]
    if size % 2:
        raise ValueError(
            f"rotary positions: expected an even key_size, got {size}. Pass an even key_size or `rotary_base=None`."
        )
    dtype = wide(x.dtype)
    theta = base ** (-jnp.arange(0, size, 2, dtype=dtype) / size)
    angle = position[..., None, None].astype(dtype) * theta.reshape((1,) * (position.ndim + 1) + (-1,))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    pairs = x.astype(dtype).reshape(*x.shape[:-1], size // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return rotated.reshape(x.shape).astype(x.dtype)
