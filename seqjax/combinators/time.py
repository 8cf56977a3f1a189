"""Layers that run through time in another way: backward, in both directions, at every k-th step, in k threads."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Flags, Layer
from seqjax.checks import check_one_of, check_whole
from seqjax.combinators.common import (
    UNROLL,
    View,
    batch_shape,
    check_layers,
    composed,
    example_of,
    flip,
    output_of,
    zero_counts,
)
from seqjax.combinators.compose import parallel
from seqjax.inputs import num_steps
from seqjax.ops.select import keep, select
from seqjax.ops.tap import tap as tap_carry
from seqjax.values import definition


@definition
def reverse(layer: Layer) -> Layer:
    """A layer that runs backward in time, from the last step to the first.

    Each row's own steps are seen in reverse: padding is passed over, and a reset, which restarts a layer before a step
    where it runs forward, restarts it after the step before where it runs backward. Its carry enters at the end and
    leaves at the beginning.

    Raises:
        TypeError: from `step`: the layer reads the whole sequence.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> layer, xs = sj.reverse(sj.running_mean()), jnp.asarray([1.0, 3.0, 8.0]).reshape(3, 1, 1)
        >>> layer.unroll((), layer.initial_carry((), xs[0]), xs)[1].ravel()
        Array([4. , 5.5, 8. ], dtype=float32)
    """
    check_layers("reverse", (layer,))

    def apply(view: View, params: Any, carry: Any, xs: Any, flags: Flags) -> Any:
        if flags.reset is not None:  # restarts follow steps
            after = jnp.concatenate([flags.reset[1:], jnp.zeros_like(flags.reset[:1])])
            flags = flags._replace(reset=after)
        carry, ys = view.run(layer, params, carry, *flip((xs, flags)))
        return carry, flip(ys)

    return composed(
        apply,
        parts=(layer,),
        init=layer.init,
        initial_carry=layer.initial_carry,
        causal=False,
        time_shardable=False,
    )


@definition
def bidirectional(
    forward: Layer, backward: Layer | None = None, *, merge: Literal["concatenate", "sum"] = "concatenate"
) -> Layer:
    """One layer forward in time and one backward; their outputs concatenated or summed.

    It is ``parallel(forward, reverse(backward), merge=merge)``: see `reverse` for padding and resets. Params and carry
    are pairs.

    Args:
        forward: the layer that runs forward.
        backward: the layer that runs backward; by default the same definition with params of its own.
        merge: "concatenate" on the last axis, or "sum".

    Raises:
        TypeError: from `step`: the layer reads the whole sequence.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.bidirectional(sj.recurrent(sj.gru(8)))
        >>> xs = jnp.ones((10, 4, 3))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1].shape
        (10, 4, 16)

    References:
        Schuster, Paliwal 1997, "Bidirectional recurrent neural networks", IEEE Trans. Signal Processing 45.
    """
    check_one_of("bidirectional(merge)", merge, ("concatenate", "sum"))
    halves = (forward, forward if backward is None else backward)
    check_layers("bidirectional", halves)
    return parallel(halves[0], reverse(halves[1]), merge=merge)


class StridedCarry(NamedTuple):
    """The layer's carry; the output that is held, ``[*B, ...]``; steps since the reset, ``[*B]`` int32."""

    carry: Any
    held: Any
    position: jax.Array


@definition
def strided(
    layer: Layer, stride: int, *, between: Literal["hold", "zero"] = "hold", event_ndim: int | None = None
) -> Layer:
    r"""A layer that runs at every k-th step, the first of a sequence among them.

    With n_t the number of steps that happened since the reset before step t, the layer runs where
    :math:`n_t \bmod k = 0`; elsewhere its carry waits, and the output is that of its last run, or zero. The inputs
    between are not read.

    `unroll` masks the layer's other steps, so that any method may run it: gradients through the carry pass T/k steps
    instead of T, but the work is that of T steps.

    Args:
        layer: a causal layer.
        stride: k.
        between: "hold" the last output, or "zero".
        event_ndim: how many axes of x are the example's own: by default none for integers, one for floats.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> layer, xs = sj.strided(sj.running_mean(), 2), jnp.asarray([1.0, 9.0, 3.0, 9.0]).reshape(4, 1, 1)
        >>> layer.unroll((), layer.initial_carry((), xs[0]), xs)[1].ravel()
        Array([1., 1., 2., 2.], dtype=float32)
    """
    check_layers("strided", (layer,), causal=True)
    check_whole("strided(stride)", stride)
    check_one_of("strided(between)", between, ("hold", "zero"))

    def initial_carry(params: Any, x: Any) -> StridedCarry:
        inner = layer.initial_carry(params, x)
        batch = batch_shape("strided", x, event_ndim)
        count = zero_counts(x, batch)
        held = jax.tree.map(
            lambda y: jnp.broadcast_to(
                count.reshape(*batch, *(1,) * (len(y.shape) - len(batch))).astype(y.dtype), y.shape
            ),
            output_of(layer, params, x) if between == "hold" else (),
        )
        return StridedCarry(inner, held, count)

    def apply(view: View, params: Any, carry: StridedCarry, xs: Any, flags: Flags) -> Any:
        reset, mask = flags.reset, flags.mask

        def count_step(count: jax.Array, inputs: Any) -> Any:
            _, reset, mask = inputs
            count = select(reset, jnp.zeros_like(count), count)
            runs = count % stride == 0
            after = (count + 1) % stride
            if mask is not None:
                after, runs = jnp.where(mask, after, count), runs & mask
            return after, runs

        # The inputs take part for their length alone, where there are no flags.
        count, runs = view.scan(count_step, carry.position, (jax.tree.leaves(xs)[:1], reset, mask))
        inner_flags = flags.of(lambda tap: tap.carry)._replace(mask=runs)
        inner, ys = view.run(layer, params, carry.carry, xs, inner_flags)
        if between == "zero":
            return StridedCarry(inner, (), count), ys

        def hold_step(held: Any, inputs: Any) -> Any:
            y, runs, reset, tap = inputs
            held = tap_carry(select(reset, jax.tree.map(jnp.zeros_like, held), held), tap)
            held = select(runs, y, held)
            return held, held

        tap = None if flags.tap is None else flags.tap.held
        held, ys = view.scan(hold_step, carry.held, (ys, runs, reset, tap))
        return StridedCarry(inner, held, count), keep(mask, ys)

    return composed(apply, parts=(layer,), init=layer.init, initial_carry=initial_carry, time_shardable=False)


@definition
def dilated(layer: Layer, dilation: int, *, event_ndim: int | None = None) -> Layer:
    r"""A layer whose carry skips k steps: k interleaved threads that share params.

    .. math::
        c_t = f(c_{t-k}, x_t)

    The carry holds the last k carries, ``[*B, k, ...]``, the one to be used next first. A reset restarts all of them,
    contexts inside the layer included: `conditioned` and `with_memory` go around it.
    Gradients pass T/k steps of f. A sequence without flags runs as k sequences of T/k steps side by side, by the
    layer's own method; with a reset or a mask, which shift the threads row by row, step by step.

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
        and figure 2 (the k threads). The paper's network is
        ``serial(dilated(layer, 1), dilated(layer, 2), dilated(layer, 4), ...)``.
    """
    check_layers("dilated", (layer,), causal=True)
    check_whole("dilated(dilation)", dilation)

    def initial_carry(params: Any, x: Any) -> Any:
        axis = len(batch_shape("dilated", x, event_ndim))

        def threads(a: Any) -> jax.Array:
            zeros = jnp.expand_dims(jnp.zeros_like(a), axis)
            return jnp.broadcast_to(zeros, (*a.shape[:axis], dilation, *a.shape[axis:]))

        return layer.initial_carry(params, jax.tree.map(threads, x))

    def apply(view: View, params: Any, carry: Any, xs: Any, flags: Flags) -> Any:
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

    def side_by_side(params: Any, carry: Any, xs: Any, axis: int) -> Any:
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
        # The thread to be used next comes first.
        after = jax.tree.map(lambda c: jnp.roll(c, missing, axis), after)
        return after, jax.tree.map(join, ys)

    return composed(apply, parts=(layer,), init=layer.init, initial_carry=initial_carry, time_shardable=False)
