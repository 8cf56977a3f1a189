"""Layers: cells bound to methods, functions of one time step, and layers that mix neighboring steps."""

from seqjax.layers.convolution import short_convolution, token_shift
from seqjax.layers.cross_attention import additive_attention, multiplicative_attention, scaled_dot_attention
from seqjax.layers.dropout import dropout
from seqjax.layers.normalization import running_normalisation
from seqjax.layers.pointwise import pointwise
from seqjax.layers.pooling import last, lengths_to_mask, mean_pool, running_mean
from seqjax.layers.recurrent import recurrent

__all__ = [
    "additive_attention",
    "dropout",
    "last",
    "lengths_to_mask",
    "mean_pool",
    "multiplicative_attention",
    "pointwise",
    "recurrent",
    "running_mean",
    "running_normalisation",
    "scaled_dot_attention",
    "short_convolution",
    "token_shift",
]
