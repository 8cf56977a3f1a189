"""Layers made of layers, and cells made of cells, with both views, `step` and `unroll`, where the parts have them.

One combinator is one function for both views; see `common.py`. A combinator passes masks, resets, keys and taps on to
its parts.
"""

from seqjax.combinators.attention_weights import attention_weights
from seqjax.combinators.batch_major import batch_major
from seqjax.combinators.bidirectional import bidirectional
from seqjax.combinators.bptt_barrier import bptt_barrier
from seqjax.combinators.checkpointed import Binomial, Nested, checkpointed
from seqjax.combinators.conditioned import conditioned
from seqjax.combinators.context import set_context, set_memory
from seqjax.combinators.dilated import dilated
from seqjax.combinators.encoder_decoder import Source, encoder_decoder
from seqjax.combinators.frozen import frozen
from seqjax.combinators.learned_carry import learned_carry
from seqjax.combinators.normalized import normalized
from seqjax.combinators.parallel import parallel
from seqjax.combinators.repeat import repeat
from seqjax.combinators.reset_on import reset_on
from seqjax.combinators.residual import residual
from seqjax.combinators.reverse import reverse
from seqjax.combinators.serial import serial
from seqjax.combinators.strided import strided
from seqjax.combinators.summary import LayerRow, Summary, summary
from seqjax.combinators.variational_dropout import variational_dropout
from seqjax.combinators.with_memory import with_memory
from seqjax.combinators.zoneout import zoneout
from seqjax.serialization import register_namedtuples

register_namedtuples(__name__)

__all__ = [
    "Binomial", "LayerRow", "Nested", "Source", "Summary", "attention_weights", "batch_major",
    "bidirectional", "bptt_barrier", "checkpointed", "conditioned", "dilated", "encoder_decoder",
    "frozen", "learned_carry", "normalized", "parallel", "repeat", "reset_on", "residual", "reverse",
    "serial", "set_context", "set_memory", "strided", "summary", "variational_dropout", "with_memory",
    "zoneout",
]  # fmt: skip
