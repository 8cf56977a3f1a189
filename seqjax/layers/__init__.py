"""Layers: cells bound to methods, functions of one time step, and layers that mix neighboring steps."""

from seqjax.layers.convolution import causal_conv, token_shift
from seqjax.layers.cross_attention import additive_attention, multiplicative_attention, scaled_dot_attention
from seqjax.layers.dropout import dropout
from seqjax.layers.normalization import running_normalization
from seqjax.layers.pointwise import pointwise
from seqjax.layers.pooling import last, lengths_to_mask, mean_pool, running_mean
from seqjax.layers.recurrent import recurrent
from seqjax.serialization import register_namedtuples

register_namedtuples(__name__)

__all__ = [
    "additive_attention", "causal_conv", "dropout", "last", "lengths_to_mask", "mean_pool",
    "multiplicative_attention", "pointwise", "recurrent", "running_mean", "running_normalization",
    "scaled_dot_attention", "token_shift",
]  # fmt: skip
