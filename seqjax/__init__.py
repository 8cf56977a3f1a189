"""seqjax: functional sequence modelling in JAX. Cells are pure functions scanned over time; gradients are measured."""

from seqjax import datasets, probes
from seqjax.base import (
    Activation,
    Batch,
    Cell,
    Dense,
    Diagonal,
    DiagonalInputs,
    Gated,
    GatedWeights,
    Layer,
    Method,
    Step,
)
from seqjax.cells import REGISTRY, elman, gru, lru, lstm
from seqjax.combinators import bidirectional, checkpointed, residual, serial
from seqjax.definition import definition
from seqjax.layers import dropout, pointwise, recurrent
from seqjax.methods import Associative, Auto, Sequential
from seqjax.pooling import last, lengths_to_mask, mean_pool, running_mean

__version__ = "0.1.0"
