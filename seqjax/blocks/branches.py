"""What blocks are made of: branches side by side, a gate, a residual branch with a norm before it."""

from typing import Any, Literal

import flax.linen as nn
import jax

from seqjax.base import Layer
from seqjax.checks import check_one_of
from seqjax.combinators import residual, serial
from seqjax.definition import definition
from seqjax.layers import fold_in, num_steps, pointwise, step_keys

Norm = Literal["rms", "layer"]


@definition
def fork(*layers: Layer) -> Layer:
    """Layers side by side on the same input; the output is the tuple of their outputs.

    Params and carry are tuples, one entry per layer. What reads the tuple is the next layer's affair: a cell whose
    inputs have several parts, or a function lifted by `pointwise`.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.blocks.fork(sj.recurrent(sj.lstm(8)), sj.recurrent(sj.gru(5)))
        >>> xs = jnp.ones((10, 4, 3))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> carry, ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs)
        >>> jax.tree.map(jnp.shape, ys)
        ((10, 4, 8), (10, 4, 5))
    """
    if not layers or not all(isinstance(layer, Layer) for layer in layers):
        raise TypeError(f"fork: expected one layer or more, got {layers!r}.")

    def step(
        params: tuple, carry: tuple, x: Any, *, reset: Any = None, mask: Any = None, key: Any = None
    ) -> Any:
        pairs = [
            layer.step(params[i], carry[i], x, reset=reset, mask=mask, key=fold_in(key, i))
            for i, layer in enumerate(layers)
        ]
        return tuple(zip(*pairs, strict=True))

    def unroll(
        params: tuple,
        carry: tuple,
        xs: Any,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Any = None,
        tap: Any = None,
    ) -> Any:
        keys = step_keys(key, num_steps(xs))
        taps = (None,) * len(layers) if tap is None else tap
        pairs = [
            layer.unroll(params[i], carry[i], xs, reset=reset, mask=mask, key=fold_in(keys, i), tap=taps[i])
            for i, layer in enumerate(layers)
        ]
        return tuple(zip(*pairs, strict=True))

    return Layer(
        init=lambda key, x: tuple(h.init(jax.random.fold_in(key, i), x) for i, h in enumerate(layers)),
        initial_carry=lambda params, x: tuple(
            h.initial_carry(p, x) for h, p in zip(layers, params, strict=True)
        ),
        step=step,
        unroll=unroll,
        causal=all(layer.causal for layer in layers),
    )


@definition
def gated(layer: Layer, gate: Layer) -> Layer:
    r"""The product of two branches on the same input, :math:`y = \mathrm{layer}(x) \odot \mathrm{gate}(x)`.

    Params and carry are those of ``serial(fork(layer, gate), product)``.

    Example:
        >>> import seqjax as sj, flax.linen as nn, jax
        >>> gate = sj.serial(sj.pointwise(nn.Dense(8)), sj.pointwise(jax.nn.sigmoid))
        >>> layer = sj.blocks.gated(sj.recurrent(sj.lstm(8)), gate)
        >>> layer == sj.blocks.gated(sj.recurrent(sj.lstm(8)), gate)
        True

    References:
        Dauphin et al. 2017, "Language modeling with gated convolutional networks", arXiv:1612.08083, eq. 1.
    """
    return serial(fork(layer, gate), pointwise(product))


@definition
def pre_norm(layer: Layer, norm: Norm = "rms") -> Layer:
    r"""A residual branch with a norm before it, :math:`y = x + \mathrm{layer}(\mathrm{norm}(x))`.

    Gradients: the branch x carries them on unchanged, through any number of blocks.

    Args:
        layer: the branch.
        norm: "rms" for RMSNorm, "layer" for LayerNorm.

    References:
        Xiong et al. 2020, "On layer normalization in the transformer architecture", arXiv:2002.04745, table 1.
    """
    return residual(serial(norm_layer(norm), layer))


def norm_layer(norm: Norm) -> Layer:
    """RMSNorm or LayerNorm of flax, by name."""
    check_one_of("norm", norm, ("rms", "layer"))
    return pointwise(nn.RMSNorm() if norm == "rms" else nn.LayerNorm())


def dense(size: int) -> Layer:
    """A linear map without bias."""
    return pointwise(nn.Dense(size, use_bias=False))


def product(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Of the two outputs of a `fork`."""
    return pair[0] * pair[1]


def unchanged(x: jax.Array) -> jax.Array:
    """The input: a branch of a `fork` that does nothing."""
    return x
