"""A layer that runs backward in time."""

import jax.numpy as jnp

from seqjax.base import Carry, Flags, Layer, Params, Xs, Ys
from seqjax.combinators.common import View, check_layers, composed, flip
from seqjax.values import definition


@definition
def reverse(layer: Layer) -> Layer:
    """A layer that runs backward in time, from the last step to the first.

    The layer reads the steps of each row in reverse order and skips padding. A reset at step t separates step t from
    step t - 1 in both directions: the layer restarts before it reads step t - 1. The carry enters at the last step and
    leaves at the first.

    Raises:
        TypeError: from `step`: the layer reads the whole sequence.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> layer, xs = sj.reverse(sj.running_mean()), jnp.asarray([1.0, 3.0, 8.0]).reshape(3, 1, 1)
        >>> layer.unroll((), layer.initial_carry((), xs[0]), xs)[1].ravel()
        Array([4. , 5.5, 8. ], dtype=float32)
    """
    check_layers("reverse", (layer,))

    def apply(view: View, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        if flags.reset is not None:  # in reverse, the layer restarts after step t
            after = jnp.concatenate([flags.reset[1:], jnp.zeros_like(flags.reset[:1])])
            flags = flags._replace(reset=after)
        carry, ys = view.run(layer, params, carry, *flip((xs, flags)))
        return carry, flip(ys)

    return composed(apply, parts=(layer,), causal=False, time_shardable=False)
