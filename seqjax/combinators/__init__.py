"""Layers made of layers, and cells made of cells, with both views, `step` and `unroll`, where the parts have them.

One combinator is one function for both views; `common.py` says how. Masks, resets, keys and taps are handed on.
"""

from seqjax.combinators.boundary import batch_major, bptt_barrier, frozen, reset_on
from seqjax.combinators.checkpoint import Binomial, Nested, checkpointed
from seqjax.combinators.compose import parallel, repeat, residual, serial
from seqjax.combinators.context import conditioned, set_context, set_memory, with_memory
from seqjax.combinators.regularize import normalized, variational_dropout, zoneout
from seqjax.combinators.time import bidirectional, dilated, reverse, strided
