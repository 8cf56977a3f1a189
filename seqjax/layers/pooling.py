"""Pooling over time: one output per sequence, the running mean, and masks from lengths."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Inexact, Integer, Shaped

from seqjax.base import Carry, Flags, Layer, Params, X, Xs, Y, Ys
from seqjax.checks import check_lengths, check_whole
from seqjax.compat import vary_like
from seqjax.ops.select import expand, keep, select, wide
from seqjax.ops.tap import tap as tap_carry
from seqjax.values import definition

Mask = Bool[Array | np.ndarray, "T *batch"] | list


@definition
def running_mean() -> Layer:
    r"""The mean of all inputs so far, :math:`y_t = \frac1n \sum_{k \le t} x_k` over steps that happened.

    This is the causal form of `mean_pool`, with a `step`: the last output is the mean of the sequence. The carry is
    (sum, count), in float32 at least.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> xs = jnp.asarray([1.0, 3.0, 8.0]).reshape(3, 1, 1)
        >>> layer = sj.running_mean()
        >>> layer.unroll((), layer.initial_carry((), xs[0]), xs)[1].ravel()
        Array([1., 2., 4.], dtype=float32)
    """

    def initial_carry(params: Params, x: X) -> tuple[jax.Array, jax.Array]:
        total = jnp.zeros_like(x, dtype=wide(x.dtype))
        return total, jnp.zeros_like(total[..., :1])

    def step(params: Params, carry: Carry, x: X, flags: Flags) -> tuple[Carry, Y]:
        x = keep(flags.mask, x)
        total, count = select(flags.reset, initial_carry(params, x), carry)
        after = (total + x.astype(total.dtype), count + 1)
        after = after if flags.mask is None else select(flags.mask, after, (total, count))
        y = after[0] / jnp.maximum(after[1], 1)
        return after, keep(flags.mask, y.astype(x.dtype))

    def unroll(params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        def body(carry: Carry, inputs: Any) -> Any:
            x, now = inputs
            carry = tap_carry(select(now.reset, initial_carry(params, x), carry), now.tap)
            return step(params, carry, x, Flags(mask=now.mask))

        return jax.lax.scan(body, vary_like(carry, xs), (xs, flags))

    return Layer(init=lambda key, x: (), initial_carry=initial_carry, step_fn=step, unroll_fn=unroll)


def last(ys: Shaped[Array | np.ndarray, "T *B"] | list, mask: Mask | None = None) -> Shaped[Array, "*B"]:
    """Return the output of the last step that happened, ``[T, *B, ...] -> [*B, ...]``; zero where no step did.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> ys = jnp.asarray([[1.0], [2.0], [3.0]])
        >>> sj.last(ys), sj.last(ys, jnp.asarray([[True], [True], [False]]))
        (Array([3.], dtype=float32), Array([2.], dtype=float32))
    """
    ys, mask = _checked("last", ys, mask)
    if ys.shape[0] == 0:
        raise ValueError(f"last: expected ys [T, *B, ...] with T of at least 1, got {list(ys.shape)}.")
    if mask is None:
        return ys[-1]
    steps = jnp.arange(ys.shape[0], dtype=jnp.int32).reshape(-1, *(1,) * (mask.ndim - 1))
    at = jnp.max(jnp.where(mask, steps, -1), 0)
    index = expand(jnp.maximum(at, 0)[None], ys.ndim)
    return keep(at >= 0, jnp.take_along_axis(ys, index, 0)[0])


def mean_pool(
    ys: Inexact[Array | np.ndarray, "T *B"] | list, mask: Mask | None = None
) -> Inexact[Array, "*B"]:
    """Return the mean over the steps that happened, ``[T, *B, ...] -> [*B, ...]``; zero where no step did.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> sj.mean_pool(jnp.asarray([[1.0], [2.0], [6.0]]), jnp.asarray([[True], [True], [False]]))
        Array([1.5], dtype=float32)
    """
    ys, mask = _checked("mean_pool", ys, mask)
    dtype = wide(ys.dtype)
    if mask is None:
        return (jnp.sum(ys, 0, dtype=dtype) / max(1, ys.shape[0])).astype(ys.dtype)
    count = jnp.maximum(jnp.sum(mask, 0), 1).astype(dtype)
    return (jnp.sum(keep(mask, ys), 0, dtype=dtype) / expand(count, ys.ndim - 1)).astype(ys.dtype)


def _checked(who: str, ys: Ys, mask: Any) -> tuple[jax.Array, jax.Array | None]:
    """Return arrays; raise a ValueError unless the mask is bool and begins with the axes T and B of ys."""
    ys = jnp.asarray(ys)
    if ys.ndim == 0:
        raise ValueError(f"{who}: expected ys [T, *B, ...], got a scalar.")
    if mask is None:
        return ys, None
    mask = jnp.asarray(mask)
    ndim = min(max(mask.ndim, 2 if ys.ndim > 2 else 1), ys.ndim)
    if mask.dtype != jnp.bool_ or mask.shape != ys.shape[:ndim]:
        raise ValueError(
            f"{who}: expected mask bool {list(ys.shape[:ndim])}, as ys {list(ys.shape)}, got {mask.dtype} "
            f"{list(mask.shape)}."
        )
    return ys, mask


def lengths_to_mask(
    lengths: Integer[Array | np.ndarray, "*B"], num_steps: int
) -> Bool[Array, "{num_steps} *B"]:
    """Return a ``mask [T, *B]`` that is True for the first ``lengths [*B]`` steps.

    Args:
        lengths: whole numbers from 0 to T, of any integer dtype.
        num_steps: T.

    Raises:
        ValueError: for lengths of another dtype, and for lengths below 0 or above T. Under `jax.jit` the values are not
            known: lengths below 0 count as 0, and lengths above T as T.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> sj.lengths_to_mask(jnp.asarray([0, 2]), 3).astype(int)
        Array([[0, 1],
               [0, 1],
               [0, 0]], dtype=int32)
    """
    num_steps = check_whole("lengths_to_mask(num_steps)", num_steps, 0)
    lengths = check_lengths("lengths_to_mask", lengths, num_steps)
    # The smaller of both fits the dtype of the lengths, and then int32, in which the steps are counted.
    most = min(num_steps, jnp.iinfo(lengths.dtype).max)
    lengths = jnp.minimum(jnp.asarray(lengths), most).astype(jnp.int32)
    steps = jnp.arange(num_steps, dtype=jnp.int32).reshape(-1, *(1,) * lengths.ndim)
    return steps < lengths[None]
