"""seqjax: functional sequence modelling in JAX. Cells are pure functions scanned over time; gradients are measured."""

from seqjax import probes
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
from seqjax.layers import dropout, last, lengths_to_mask, mean_pool, pointwise, recurrent, running_mean
from seqjax.methods import Associative, Auto, Sequential

__version__ = "0.1.0"
