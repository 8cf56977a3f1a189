"""The parts of blocks: a gate, a residual branch with a norm before it, norms and dense layers."""

from typing import Literal

import flax.linen as nn
import jax

from seqjax.base import Layer
from seqjax.checks import check_one_of
from seqjax.combinators import parallel, residual, serial
from seqjax.layers.pointwise import pointwise
from seqjax.values import definition

Norm = Literal["rms", "layer"]


@definition
def gated(layer: Layer, gate: Layer) -> Layer:
    r"""The product of two branches on the same input, :math:`y = \mathrm{layer}(x) \odot \mathrm{gate}(x)`.

    Params and carry are those of ``serial(parallel(layer, gate, merge="tuple"), pointwise(product))``.

    Example:
        >>> import seqjax as sj, flax.linen as nn, jax
        >>> gate = sj.serial(sj.pointwise(nn.Dense(8)), sj.pointwise(jax.nn.sigmoid))
        >>> layer = sj.blocks.gated(sj.recurrent(sj.lstm(8)), gate)
        >>> layer == sj.blocks.gated(sj.recurrent(sj.lstm(8)), gate)
        True

    References:
        Dauphin et al. 2017, "Language modeling with gated convolutional networks", arXiv:1612.08083, eq. 1.
    """
    return serial(parallel(layer, gate, merge="tuple"), pointwise(product))


@definition
def pre_norm(layer: Layer, norm: Norm = "rms") -> Layer:
    r"""A residual branch with a norm before it, :math:`y = x + \mathrm{layer}(\mathrm{norm}(x))`.

    Gradients: they pass unchanged along x, through any number of blocks.

    Args:
        layer: the branch.
        norm: "rms" for RMSNorm, "layer" for LayerNorm.

    References:
        Xiong et al. 2020, "On layer normalization in the transformer architecture", arXiv:2002.04745, table 1.
    """
    return residual(serial(norm_layer(norm), layer))


def norm_layer(norm: Norm) -> Layer:
    """Return the RMSNorm or LayerNorm of flax, by name."""
    check_one_of("norm", norm, ("rms", "layer"))
    return pointwise(nn.RMSNorm() if norm == "rms" else nn.LayerNorm())


def dense(size: int) -> Layer:
    """Return a dense layer without bias."""
    return pointwise(nn.Dense(size, use_bias=False))


def product(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return the product of the two outputs of a `parallel`."""
    return pair[0] * pair[1]


def unchanged(x: jax.Array) -> jax.Array:
    """Return the input: the identity branch of a `parallel`."""
    return x
