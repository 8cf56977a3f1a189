"""A layer whose carry skips k steps."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Flags, Layer, Params, X, Xs, Ys
from seqjax.checks import check_whole
from seqjax.combinators.common import UNROLL, View, batch_shape, check_layers, composed, example_of
from seqjax.inputs import num_steps
from seqjax.ops.select import select
from seqjax.ops.tap import tap as tap_carry
from seqjax.values import definition


@definition
def dilated(layer: Layer, dilation: int, *, event_ndim: int | None = None) -> Layer:
    r"""A layer whose carry skips k steps: k interleaved sequences that share params.

    .. math::
        c_t = f(c_{t-k}, x_t)

    The carry holds the last k carries, ``[*B, k, ...]``; the carry of the next step comes first. A reset restarts all
    of them, including contexts inside the layer: put `conditioned` and `with_memory` around `dilated`.
    Gradients pass T/k steps of f. A sequence without flags runs as k sequences of T/k steps side by side, by the
    layer's own method. A reset or a mask shifts the order row by row, so such a sequence runs step by step.

    Args:
        layer: a causal layer.
        dilation: k.
        event_ndim: how many axes of x are the example's own: by default none for integers, one for floats.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> layer, xs = sj.dilated(sj.running_mean(), 2), jnp.asarray([1.0, 10.0, 3.0, 20.0]).reshape(4, 1, 1)
        >>> layer.unroll((), layer.initial_carry((), xs[0]), xs)[1].ravel()
        Array([ 1., 10.,  2., 15.], dtype=float32)

    References:
        Chang et al. 2017, "Dilated recurrent neural networks", arXiv:1710.02224: eq. 2 (the recurrence), section 2.2
        and figure 2 (the k sequences). The paper's network is
        ``serial(dilated(layer, 1), dilated(layer, 2), dilated(layer, 4), ...)``.
    """
    check_layers("dilated", (layer,), causal=True)
    check_whole("dilated(dilation)", dilation)

    def initial_carry(params: Params, x: X) -> Carry:
        axis = len(batch_shape("dilated", x, event_ndim))

        def threads(a: Any) -> jax.Array:
            zeros = jnp.expand_dims(jnp.zeros_like(a), axis)
            return jnp.broadcast_to(zeros, (*a.shape[:axis], dilation, *a.shape[axis:]))

        return layer.initial_carry(params, jax.tree.map(threads, x))

    def apply(view: View, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        axis = len(batch_shape("dilated", example_of(view, xs), event_ndim))
        if view is UNROLL and all(f is None for f in flags) and num_steps(xs) >= dilation:
            return side_by_side(params, carry, xs, axis)

        def one(threads: Any, inputs: Any) -> Any:
            x, now = inputs
            fresh = initial_carry(params, x)
            threads = tap_carry(select(now.reset, fresh, threads), now.tap)
            first = jax.tree.map(lambda c: jax.lax.index_in_dim(c, 0, axis, keepdims=False), threads)
            after, y = layer.step_fn(params, first, x, Flags(mask=now.mask, key=now.key))
            moved = jax.tree.map(
                lambda c, a: jnp.concatenate(
                    [jax.lax.slice_in_dim(c, 1, dilation, axis=axis), jnp.expand_dims(a, axis)], axis
                ),
                threads,
                after,
            )
            return (moved if now.mask is None else select(now.mask, moved, threads)), y

        return view.scan(one, carry, (xs, flags))

    def side_by_side(params: Params, carry: Carry, xs: Xs, axis: int) -> Any:
        length = num_steps(xs)
        rounds = -(-length // dilation)
        missing = rounds * dilation - length

        def split(a: jax.Array) -> jax.Array:
            """``[T, *B, ...]``, padded, as ``[T/k, *B, k, ...]``."""
            a = jnp.concatenate([a, jnp.zeros_like(a[:missing])])
            return jnp.moveaxis(a.reshape(rounds, dilation, *a.shape[1:]), 1, 1 + axis)

        def join(a: jax.Array) -> jax.Array:
            a = jnp.moveaxis(a, 1 + axis, 1)
            return a.reshape(rounds * dilation, *a.shape[2:])[:length]

        batch = batch_shape("dilated", example_of(UNROLL, xs), event_ndim)
        mask = split(jnp.ones((length, *batch), bool)) if missing else None
        after, ys = layer.unroll_fn(params, carry, jax.tree.map(split, xs), Flags(mask=mask))
        # The carry of the next step comes first.
        after = jax.tree.map(lambda c: jnp.roll(c, missing, axis), after)
        return after, jax.tree.map(join, ys)

    return composed(apply, parts=(layer,), initial_carry=initial_carry, time_shardable=False, stride=dilation)
