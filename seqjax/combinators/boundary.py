"""What happens at a layer's borders: the layout of the data, where it restarts, where gradients end."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Flags, Layer
from seqjax.checks import check_whole
from seqjax.combinators.common import (
    STEP,
    View,
    batch_shape,
    check_layers,
    composed,
    wrapped,
    zero_counts,
)
from seqjax.ops.select import select
from seqjax.values import definition


@definition
def batch_major(layer: Layer) -> Layer:
    """A layer for data with the batch before time: inputs, outputs, reset and mask of `unroll` are ``[B, T, ...]``.

    It belongs around the whole model, at the border to such data; layers inside stay time-major. `step`, carries,
    keys and taps are as they were.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, xs = sj.batch_major(sj.recurrent(sj.lstm(8))), jnp.ones((4, 10, 3))     # [B, T, D]
        >>> params = layer.init(jax.random.key(0), xs[:, 0])
        >>> layer.unroll(params, layer.initial_carry(params, xs[:, 0]), xs)[1].shape
        (4, 10, 8)
    """
    check_layers("batch_major", (layer,))

    return dataclasses.replace(layer, batch_major=True, time_shardable=False)


@definition
def frozen(layer: Layer) -> Layer:
    """A layer whose params have no gradient; gradients by carry and inputs pass through it.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, x = sj.frozen(sj.recurrent(sj.elman(2))), jnp.ones((1, 3))
        >>> params = layer.init(jax.random.key(0), x)
        >>> jax.grad(lambda p: layer.step(p, layer.initial_carry(p, x), x)[1].sum())(params).b
        Array([0., 0.], dtype=float32)
    """
    check_layers("frozen", (layer,))

    def apply(view: View, params: Any, carry: Any, xs: Any, flags: Flags) -> Any:
        return view.run(layer, jax.lax.stop_gradient(params), carry, xs, flags)

    def initial_carry(params: Any, x: Any) -> Any:
        return layer.initial_carry(jax.lax.stop_gradient(params), x)

    return composed(
        apply,
        parts=(layer,),
        init=layer.init,
        initial_carry=initial_carry,
    )


@definition
def reset_on(layer: Layer, when: int | Callable) -> Layer:
    """A layer that restarts before each step whose input says so, a document separator for example.

    Restarts that come as `reset` count as well. A masked step's input says nothing.

    Args:
        layer: any layer.
        when: a token, for integer inputs ``[*B]``; or a function ``x [*B, ...] -> reset [*B]``, which acts on each
            example by itself. It is given sequences ``[T, *B, ...]``, too, so it may look at the last axes alone.

    Raises:
        TypeError: for a token where inputs are not integers.
        ValueError: where the function does not give bool.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> layer = sj.reset_on(sj.running_mean(), lambda x: x[..., 0] == 0)
        >>> xs = jnp.asarray([3.0, 5.0, 0.0, 4.0]).reshape(4, 1, 1)
        >>> layer.unroll((), layer.initial_carry((), xs[0]), xs)[1].ravel()
        Array([3., 4., 0., 2.], dtype=float32)
    """
    check_layers("reset_on", (layer,))
    if isinstance(when, bool) or not (isinstance(when, int) or callable(when)):
        raise TypeError(f"reset_on(when): expected a token or a function x -> bool, got {when!r}.")

    def apply(view: View, params: Any, carry: Any, xs: Any, flags: Flags) -> Any:
        if callable(when):
            found = when(xs)
            if getattr(found, "dtype", None) != jnp.bool_:
                raise ValueError(
                    f"reset_on(when={when!r}): expected a function x -> bool [*B], it gave {found!r}."
                )
        else:
            leaf = jax.tree.leaves(xs)[0]
            if not jnp.issubdtype(leaf.dtype, jnp.integer):
                raise TypeError(
                    f"reset_on(when={when}): expected tokens (integers), got {leaf.dtype} {list(leaf.shape)}. "
                    "Give a function x -> bool."
                )
            found = leaf == when
        if flags.mask is not None:
            found = found & flags.mask
        return view.run(
            layer,
            params,
            carry,
            xs,
            flags._replace(reset=found if flags.reset is None else found | flags.reset),
        )

    return wrapped(layer, apply)


class BarrierCarry(NamedTuple):
    """The layer's carry; ``[*B]`` int32: 0 at the beginning, then the steps since the last barrier, 1 to K."""

    carry: Any
    position: jax.Array


@definition
def bptt_barrier(layer: Layer, *, every: int, event_ndim: int | None = None) -> Layer:
    r"""A layer through whose carry gradients pass at most K steps: truncated backpropagation inside an unroll.

    With n_t the number of steps that happened since the reset before step t, the gradient by the carry ends before
    step t where :math:`n_t > 0` and :math:`n_t \bmod K = 0`. The count is part of the carry: a sequence in pieces has
    its barriers where the whole has them, and each row where its own steps have them. Values stay the same. Runs step
    by step, whatever the layer's method is.

    Gradients: biased; the part that travels over a barrier is missing. Inside a piece they are exact.

    Args:
        layer: a causal layer.
        every: K.
        event_ndim: how many axes of x are the example's own: by default none for integers, one for floats.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, xs = sj.bptt_barrier(sj.recurrent(sj.elman(2)), every=3), jnp.ones((5, 1, 2))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> carry = layer.initial_carry(params, xs[0])
        >>> jax.grad(lambda xs: layer.unroll(params, carry, xs)[1][-1].sum())(xs).any((1, 2))
        Array([False, False, False,  True,  True], dtype=bool)

    References:
        Williams, Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network
        trajectories", Neural Computation 2 (truncation after a number of steps).
    """
    check_layers("bptt_barrier", (layer,), causal=True)
    check_whole("bptt_barrier(every)", every)

    def initial_carry(params: Any, x: Any) -> BarrierCarry:
        batch = batch_shape("bptt_barrier", x, event_ndim)
        return BarrierCarry(layer.initial_carry(params, x), zero_counts(x, batch))

    def apply(view: View, params: Any, carry: BarrierCarry, xs: Any, flags: Flags) -> Any:
        def one(carry: BarrierCarry, inputs: Any) -> Any:
            x, now = inputs
            count = select(now.reset, jnp.zeros_like(carry.position), carry.position)
            inner = select(count == every, jax.lax.stop_gradient(carry.carry), carry.carry)
            inner, y = STEP.run(layer, params, inner, x, now.of(lambda tap: tap.carry))
            after = count % every + 1
            if now.mask is not None:
                after = jnp.where(now.mask, after, count)
            return BarrierCarry(inner, after), y

        return view.scan(one, carry, (xs, flags))

    return composed(apply, parts=(layer,), init=layer.init, initial_carry=initial_carry, time_shardable=False)
