"""A layer that runs at every k-th step."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Flags, Layer, Params, X, Xs, Ys
from seqjax.checks import check_one_of, check_whole
from seqjax.combinators.common import View, batch_shape, check_layers, composed, output_of, zero_counts
from seqjax.ops.select import expand, keep, select
from seqjax.ops.tap import tap as tap_carry
from seqjax.values import definition


class StridedCarry(NamedTuple):
    """The layer's carry; the held output, ``[*B, ...]``; steps since the reset modulo the stride, ``[*B]`` int32."""

    carry: Carry
    held: Any
    position: jax.Array


@definition
def strided(
    layer: Layer, stride: int, *, between: Literal["hold", "zero"] = "hold", event_ndim: int | None = None
) -> Layer:
    r"""A layer that runs at every k-th step, starting with the first of a sequence.

    With n_t the number of steps that happened since the reset before step t, the layer runs where
    :math:`n_t \bmod k = 0`. At the other steps its carry does not change, its inputs are not read, and the output is
    that of the layer's last run, or zero.

    `unroll` masks the layer's other steps, so that any method can run the layer. Gradients through the carry pass T/k
    steps instead of T, but the work is that of T steps.

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

    def initial_carry(params: Params, x: X) -> StridedCarry:
        inner = layer.initial_carry(params, x)
        batch = batch_shape("strided", x, event_ndim)
        count = zero_counts(x, batch)

        def zeros(y: Any) -> jax.Array:  # with the sharding of x, as the counts have
            return jnp.broadcast_to(expand(count, len(y.shape)).astype(y.dtype), y.shape)

        held = jax.tree.map(zeros, output_of(layer, params, x)) if between == "hold" else ()
        return StridedCarry(inner, held, count)

    def apply(view: View, params: Params, carry: StridedCarry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        reset, mask = flags.reset, flags.mask

        def count_step(count: jax.Array, inputs: Any) -> Any:
            _, reset, mask = inputs
            count = select(reset, jnp.zeros_like(count), count)
            runs = count % stride == 0
            after = (count + 1) % stride
            if mask is not None:
                after, runs = jnp.where(mask, after, count), runs & mask
            return after, runs

        # Without flags, the inputs are what tells the scan its length.
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

    return composed(apply, parts=(layer,), initial_carry=initial_carry, time_shardable=False, stride=stride)
