"""A layer for data with the batch axis before time."""

import dataclasses

from seqjax.base import Layer
from seqjax.combinators.common import check_layers
from seqjax.values import definition


@definition
def batch_major(layer: Layer) -> Layer:
    """A layer for data with the batch before time: inputs, outputs, reset and mask of `unroll` are ``[B, T, ...]``.

    Put it around the whole model; layers inside stay time-major. `step`, carries, keys and taps do not change.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, xs = sj.batch_major(sj.recurrent(sj.lstm(8))), jnp.ones((4, 10, 3))     # [B, T, D]
        >>> params = layer.init(jax.random.key(0), xs[:, 0])
        >>> layer.unroll(params, layer.initial_carry(params, xs[:, 0]), xs)[1].shape
        (4, 10, 8)
    """
    check_layers("batch_major", (layer,))

    return dataclasses.replace(layer, batch_major=True, time_shardable=False)
