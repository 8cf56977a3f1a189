"""Compare two implementations in value and gradient, or two studies by paired statistics."""

from seqjax.compare.difference import Difference
from seqjax.compare.divergence import Comparison, compare
from seqjax.compare.implementation import Implementation

__all__ = ["Comparison", "Difference", "Implementation", "compare"]
