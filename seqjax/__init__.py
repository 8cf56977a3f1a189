"""seqjax: functional sequence modelling in JAX. Cells are pure functions scanned over time; gradients are measured."""

from seqjax import blocks, datasets, probes
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
from seqjax.blocks.delta import gated_delta_block, hybrid_delta
from seqjax.blocks.griffin import griffin, griffin_block
from seqjax.blocks.mamba import mamba_block, samba
from seqjax.blocks.transformer import feed_forward, transformer_block
from seqjax.blocks.xlstm import mlstm_block, slstm_block, xlstm
from seqjax.cells import REGISTRY
from seqjax.cells.attention import attention
from seqjax.cells.elman import elman
from seqjax.cells.gru import gru
from seqjax.cells.lru import lru
from seqjax.cells.lstm import lstm
from seqjax.combinators import bidirectional, checkpointed, residual, serial
from seqjax.cross_attention import additive_attention, multiplicative_attention, scaled_dot_attention
from seqjax.definition import definition
from seqjax.layers import dropout, pointwise, recurrent
from seqjax.methods import Associative, Auto, Sequential
from seqjax.pooling import last, lengths_to_mask, mean_pool, running_mean

__version__ = "0.1.0"
