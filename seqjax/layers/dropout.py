"""Dropout that is independent at every time step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact

from seqjax.base import Key, Layer, Params
from seqjax.checks import check_within
from seqjax.layers.stateless import stateless
from seqjax.values import definition


@definition
def dropout(rate: float) -> Layer:
    r"""Dropout, independent at every time step: :math:`y = x \odot m / (1 - p)` with m Bernoulli of 1 - p.

    Without a key nothing is dropped.

    Args:
        rate: p, the probability to drop an entry, 0 <= p < 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.dropout(0.5)
        >>> layer.unroll((), (), jnp.ones((1, 1, 4)), key=jax.random.key(1))[1]
        Array([[[0., 2., 0., 2.]]], dtype=float32)

    References:
        Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15.
    """
    check_within("dropout(rate)", rate)

    def apply(params: Params, x: Inexact[Array, "*S"], key: Key | None) -> Inexact[Array, "*S"]:
        if key is None:
            return x
        kept = jax.random.bernoulli(key, 1 - rate, x.shape)
        return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))

    return stateless(lambda key, x: (), apply)
