"""Blocks and stacks from the literature, as compositions of layers: one file per family.

A block takes and returns vectors of one width and contains its residual connections, so that a model is an embedding,
blocks, a norm and a head: ``serial(pointwise(Embed), block, block, pointwise(RMSNorm), pointwise(Dense))``.
"""

from seqjax.blocks.branches import gated, pre_norm
from seqjax.blocks.delta import gated_delta_block, hybrid_delta
from seqjax.blocks.griffin import griffin, griffin_block
from seqjax.blocks.mamba import mamba_block, samba
from seqjax.blocks.stack import stack
from seqjax.blocks.transformer import feed_forward, transformer_block
from seqjax.blocks.xlstm import mlstm_block, slstm_block, xlstm
from seqjax.serialization import register_namedtuples

register_namedtuples(__name__)

__all__ = [
    "feed_forward", "gated", "gated_delta_block", "griffin", "griffin_block", "hybrid_delta",
    "mamba_block", "mlstm_block", "pre_norm", "samba", "slstm_block", "stack", "transformer_block",
    "xlstm",
]  # fmt: skip
