"""Ready blocks and stacks of the literature, as compositions of layers: one file per family.

A block takes and returns vectors of one width and holds its residual connections, so that a model is an embedding,
blocks, a norm and a head: ``serial(pointwise(Embed), block, block, pointwise(RMSNorm), pointwise(Dense))``.
"""

from seqjax.blocks.branches import fork, gated, pre_norm
from seqjax.blocks.transformer import feed_forward, transformer_block

__all__ = ["feed_forward", "fork", "gated", "pre_norm", "transformer_block"]
