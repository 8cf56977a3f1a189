"""The method that runs a recurrence in parallel inside chunks of time, and sequentially from chunk to chunk."""

from dataclasses import dataclass
from typing import Any, ClassVar

from seqjax.base import Attention, Carry, Cell, Diagonal, Flags, Matrix, Params, Xs, Ys
from seqjax.checks import check_whole
from seqjax.methods.common import project_inputs
from seqjax.ops import attention, matrix
from seqjax.ops import diagonal as scans
from seqjax.ops.chunks import over_chunks
from seqjax.values import Value


@dataclass(frozen=True, repr=False)
class Chunked(Value):
    """Runs a recurrence in chunks of time: in parallel inside a chunk, sequentially from chunk to chunk.

    The sequence length need not be a multiple of the chunk size. On NVIDIA GPUs attention in half precision calls
    cuDNN's flash attention, under the conditions in `seqjax.ops.attention`.

    ============ ============================================================== ======================================
    recurrence   inside a chunk                                                 memory for the backward pass
    ============ ============================================================== ======================================
    `Diagonal`   a parallel prefix                                              h at every step
    `Matrix`     masked products; erasure in WY form (`seqjax.ops.matrix`)      inputs, one state per 16 chunks
    `Attention`  blocks of queries by blocks of keys (`seqjax.ops.attention`)   inputs, the cache
    ============ ============================================================== ======================================

    Attributes:
        size: steps per chunk, C. It changes speed and temporary memory, never a result.

    Example:
        >>> import seqjax as sj
        >>> sj.recurrent(sj.lru(8), sj.Chunked(128))
        recurrent(cell=lru(hidden_size=8), method=Chunked(size=128))
    """

    kinds: ClassVar[tuple[type, ...]] = (Diagonal, Matrix, Attention)
    size: int = 64

    def __post_init__(self) -> None:
        check_whole("Chunked(size)", self.size)
        super().__post_init__()

    def unroll(self, cell: Cell, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        """See `seqjax.Method`."""
        if isinstance(cell.recurrence, Diagonal):

            def run(carry: Carry, piece: Any) -> tuple[Any, Any]:
                xs, now = piece
                us = project_inputs(cell, params, xs, now.key)
                carry, hs = scans.diagonal(scans.associative, us, carry, now._replace(initial=flags.initial))
                return carry, cell.readout(params, hs, xs)

            return over_chunks(run, carry, (xs, flags.over_time()), self.size)

        if flags.tap is not None:
            raise TypeError(
                f"{self!r} cannot tap the carry of {cell!r}: Chunked does not compute the carry of each step. "
                "Use `Scan`, or `gradient_profile(extended_range=True)`."
            )
        us = project_inputs(cell, params, xs, flags.key)
        hs: Any
        match cell.recurrence:
            case Matrix():
                carry, hs = matrix.chunked(us, carry, flags, size=self.size)
            case Attention():
                carry, hs = attention.blockwise(cell.recurrence, us, carry, flags, size=self.size)
        return carry, cell.readout(params, hs, xs)
