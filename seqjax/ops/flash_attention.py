r"""Causal attention of a sequence from an empty cache, by cuDNN's flash attention on NVIDIA GPUs.

`jax.nn.dot_product_attention` calls one kernel forward and one backward, whose memory is O(T). The kernels take half
precision alone. Derivatives of the backward pass come from the same function in XLA, which takes O(T^2) memory.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqjax.ops.segments import set_nan
from seqjax.ops.triton import differentiated_as

SHORTEST = 64
"""Shorter sequences gain nothing from a kernel."""


def kernel_exists(q: Any, k: Any, v: Any) -> bool:
    """Return whether cuDNN is installed and has kernels for these arrays, as JAX states when it traces the call."""
    shapes = (*q.shape, *k.shape, *v.shape)
    if not all(isinstance(n, int) for n in shapes) or len(q) < SHORTEST:
        return False
    if q.dtype not in (jnp.bfloat16, jnp.float16) or not q.dtype == k.dtype == v.dtype:
        return False
    try:
        jax.eval_shape(partial(_attention, "cudnn", None), q, k, v)
    except (RuntimeError, NotImplementedError, ValueError):
        return False
    return True


def flash(
    q: Float[Array, "T *B N K"],
    k: Float[Array, "T *B G K"],
    v: Float[Array, "T *B G V"],
    finite_query: Bool[Array, "T *B"],
    finite: Bool[Array, "T *B"],
    *,
    window: int,
    implementation: str = "cudnn",
) -> Float[Array, "T *B N V"]:
    r"""Return :math:`h_t = \sum_{t - L < s \le t} \mathrm{softmax}_s(q_t^\top k_s / \sqrt{K}) v_s`, for a window of L.

    Args:
        q: queries, with zeros where `finite_query` is False.
        k: keys, with zeros where `finite` is False.
        v: values, likewise.
        finite_query: where an output is not NaN for its query.
        finite: where keys and values are finite. Outputs that attend to other steps are NaN.
        window: L.
        implementation: as for `jax.nn.dot_product_attention`.
    """
    bad = jnp.cumsum(~finite, 0, jnp.int32)
    limited = window if window < len(q) else None
    if limited:
        bad = bad - jnp.concatenate([jnp.zeros_like(bad[:window]), bad[:-window]])
    return set_nan(~finite_query | (bad > 0), _differentiable(implementation, limited, q, k, v))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _differentiable(
    implementation: str, window: int | None, q: jax.Array, k: jax.Array, v: jax.Array
) -> jax.Array:
    return _attention(implementation, window, q, k, v)


def _forward(implementation: str, window: int | None, *args: jax.Array) -> tuple[jax.Array, Any]:
    h, pull_back = jax.vjp(partial(_attention, implementation, window), *args)
    return h, (pull_back, args)


def _backward(implementation: str, window: int | None, residuals: Any, d_h: jax.Array) -> tuple:
    def plain(_: Any, args: tuple, d_h: jax.Array) -> tuple:
        return jax.vjp(partial(_attention, "xla", window), *args)[1](d_h)

    return differentiated_as(plain, lambda pull_back, _, d_h: pull_back(d_h))(*residuals, d_h)


_differentiable.defvjp(_forward, _backward)


def _attention(
    implementation: Any, window: int | None, q: jax.Array, k: jax.Array, v: jax.Array
) -> jax.Array:
    """Call `jax.nn.dot_product_attention` on arrays ``[T, *B, N, K]``."""
    lead = q.shape[:-2]

    def batch_first(a: jax.Array) -> jax.Array:
        return jnp.moveaxis(a.reshape(lead[0], -1, *a.shape[-2:]), 0, 1)

    h = jax.nn.dot_product_attention(
        *map(batch_first, (q, k, v)),
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation=implementation,
    )
    return jnp.moveaxis(h, 1, 0).reshape(*lead, *h.shape[-2:])
