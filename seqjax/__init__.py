"""seqjax: functional sequence modelling in JAX. Cells are pure functions scanned over time; gradients are measured."""

from seqjax import datasets, probes
from seqjax.base import (
    Activation,
    Attention,
    AttentionInputs,
    Batch,
    Cell,
    Dense,
    Diagonal,
    DiagonalInputs,
    Gated,
    GatedWeights,
    Layer,
    Matrix,
    MatrixInputs,
    Method,
    Step,
)
from seqjax.cells import REGISTRY
from seqjax.cells.clockwork import clockwork
from seqjax.cells.elman import elman
from seqjax.cells.gru import gru
from seqjax.cells.lru import lru
from seqjax.cells.lstm import lstm
from seqjax.combinators import (
    Binomial,
    Nested,
    batch_major,
    bidirectional,
    bptt_barrier,
    checkpointed,
    conditioned,
    dilated,
    frozen,
    normalised,
    parallel,
    repeat,
    reset_on,
    residual,
    reverse,
    serial,
    set_context,
    set_memory,
    strided,
    variational_dropout,
    with_memory,
    zoneout,
)
from seqjax.definition import definition
from seqjax.layers import dropout, pointwise, recurrent
from seqjax.methods import Associative, Auto, Sequential
from seqjax.pooling import last, lengths_to_mask, mean_pool, running_mean

__version__ = "0.1.0"
