"""One layer forward in time and one backward."""

from typing import Literal

from seqjax.base import Layer
from seqjax.checks import check_one_of
from seqjax.combinators.common import check_layers
from seqjax.combinators.parallel import parallel
from seqjax.combinators.reverse import reverse
from seqjax.values import definition


@definition
def bidirectional(
    forward: Layer, backward: Layer | None = None, *, merge: Literal["concatenate", "sum"] = "concatenate"
) -> Layer:
    """Run one layer forward in time and one backward, and concatenate or sum their outputs.

    The layer is ``parallel(forward, reverse(backward), merge=merge)``: see `reverse` for padding and resets. Params and
    carry are pairs.

    Args:
        forward: the layer that runs forward.
        backward: the layer that runs backward; by default `forward`, with params of its own.
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
