"""The method that runs a linear recurrence by a parallel prefix over time."""

from dataclasses import dataclass
from typing import ClassVar

from seqjax.base import Carry, Cell, Diagonal, Flags, Params, Xs, Ys
from seqjax.methods.common import project_inputs
from seqjax.ops import diagonal as scans
from seqjax.values import Value


@dataclass(frozen=True, kw_only=True, repr=False)
class AssociativeScan(Value):
    """Runs a linear recurrence by a parallel prefix over time, with depth 2 log2 T.

    On a CPU a sequential scan is faster (``benchmarks/results/methods_chunks_scans.md``). On parallel hardware the
    logarithmic depth is faster for long sequences.
    """

    kinds: ClassVar[tuple[type, ...]] = (Diagonal,)

    def unroll(self, cell: Cell, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        """See `seqjax.Method`."""
        us = project_inputs(cell, params, xs, flags.key)
        carry, hs = scans.diagonal(scans.associative, us, carry, flags)
        return carry, cell.readout(params, hs, xs)
