"""Models for the usual tasks with sequences, one file each: compositions of layers, in which the cell is one argument.

``cell`` is a factory ``hidden_size -> Cell or Layer`` (``lstm``, ``partial(lstm, forget_bias=2.0)``, ``griffin_block``,
``partial(griffin, depth=3, num_heads=4)``), a name of `seqjax.REGISTRY`, or a tuple of these, which the layers take in
turn. In both directions a cell has half of `hidden_size` in each; a layer, such as a block, has all of it in each, and
the output is the mean of both, since a block needs inputs of its own width.
"""

from seqjax.models.captioner import ImageGrid, captioner
from seqjax.models.ctc_recognizer import ctc_recognizer
from seqjax.models.forecaster import forecaster
from seqjax.models.language_model import language_model
from seqjax.models.sequence_classifier import sequence_classifier
from seqjax.models.translator import translator

__all__ = [
    "ImageGrid",
    "captioner",
    "ctc_recognizer",
    "forecaster",
    "language_model",
    "sequence_classifier",
    "translator",
]
