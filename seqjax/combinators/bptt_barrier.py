"""Truncated backpropagation inside an unroll."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Flags, Layer, Params, X, Xs, Ys
from seqjax.checks import check_whole
from seqjax.combinators.common import STEP, View, batch_shape, check_layers, composed, zero_counts
from seqjax.ops.select import select
from seqjax.values import definition


class BarrierCarry(NamedTuple):
    """The layer's carry; and ``[*B]`` int32: 0 at the beginning, then the steps since the last barrier, 1 to K."""

    carry: Carry
    position: jax.Array


@definition
def bptt_barrier(layer: Layer, *, every: int, event_ndim: int | None = None) -> Layer:
    r"""A layer through whose carry gradients pass at most K steps: truncated backpropagation inside an unroll.

    With n_t the number of steps that happened since the reset before step t, the gradient by the carry ends before
    step t where :math:`n_t > 0` and :math:`n_t \bmod K = 0`. The count is part of the carry: a sequence cut into
    pieces has its barriers at the same steps as the whole, and each row counts its own steps. Values do not change.
    The layer runs step by step, whatever its method is.

    Gradients: biased, since no gradient crosses a barrier. Between two barriers they are exact.

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

    def initial_carry(params: Params, x: X) -> BarrierCarry:
        batch = batch_shape("bptt_barrier", x, event_ndim)
        return BarrierCarry(layer.initial_carry(params, x), zero_counts(x, batch))

    def apply(view: View, params: Params, carry: BarrierCarry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
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

    return composed(apply, parts=(layer,), initial_carry=initial_carry, time_shardable=False)
