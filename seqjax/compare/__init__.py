"""Conformance between two implementations, in value and gradient, and paired statistics of two studies."""

from seqjax.compare.divergence import Comparison, Difference, compare
from seqjax.compare.implementation import Implementation

__all__ = ["Comparison", "Difference", "Implementation", "compare"]
