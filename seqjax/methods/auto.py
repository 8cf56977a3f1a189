"""The choice of a method."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from seqjax.base import Attention, Cell, Diagonal, Flags, Gated, Matrix, Method, Step
from seqjax.methods.associative_scan import AssociativeScan
from seqjax.methods.chunked import Chunked
from seqjax.methods.scan import Scan
from seqjax.values import Value


@dataclass(frozen=True, kw_only=True, repr=False)
class Auto(Value):
    """Picks a method by kind of recurrence, platform and shape; `select` says which.

    ============= ========================================= ==============================
    recurrence    CPU                                       GPU, TPU
    ============= ========================================= ==============================
    `Step`        ``Scan()``                          ``Scan()``
    `Gated`       ``Scan(chunk=c, keep_gates=True)``  ``Scan(chunk=128)``
    `Diagonal`    ``Scan(chunk=256)``                 ``AssociativeScan()``
    `Matrix`      ``Chunked(16)``                           ``Chunked(128)``
    `Attention`   ``Chunked(64)``                           ``Chunked(128)``
    ============= ========================================= ==============================

    c is 16 to 128 steps, such that the inputs of a chunk fill 32 kB, about a first-level cache. All are measured on two
    CPU cores and on an H200 (``benchmarks/results/README.md``), but for `Gated` and `Diagonal` on a GPU, of which only
    the choice itself was: beside autodiff and other libraries. TPUs were not measured, and follow GPUs.
    """

    kinds: ClassVar[tuple[type, ...]] = (Step, Gated, Diagonal, Matrix, Attention)

    def select(self, cell: Cell, xs: Any, *, platform: str | None = None) -> Method:
        """The method for a cell on inputs ``xs [T, *B, D]`` (arrays or ShapeDtypeStructs) on a platform.

        Args:
            cell: the cell; only its recurrence is looked at.
            xs: the inputs; only shapes and dtypes are looked at.
            platform: "cpu", "gpu" or "tpu"; by default the one JAX runs on.

        Example:
            >>> import jax, jax.numpy as jnp, seqjax as sj
            >>> xs = jax.ShapeDtypeStruct((512, 32, 128), jnp.float32)
            >>> sj.Auto().select(sj.lru(128), xs, platform="gpu")
            AssociativeScan()
            >>> [sj.Auto().select(sj.gla(128), xs, platform=name) for name in ("cpu", "gpu")]
            [Chunked(size=16), Chunked(size=128)]
        """
        on_cpu = (platform or jax.default_backend()) == "cpu"
        match cell.recurrence:
            case Gated():
                return _gated_on_cpu(xs) if on_cpu else Scan(chunk=128)
            case Diagonal():
                return Scan(chunk=256) if on_cpu else AssociativeScan()
            case Matrix():
                return Chunked(16) if on_cpu else Chunked(128)
            case Attention():
                return Chunked(64) if on_cpu else Chunked(128)
        return Scan()

    def unroll(self, cell: Cell, params: Any, carry: Any, xs: Any, flags: Flags) -> tuple[Any, Any]:
        """See `seqjax.Method`."""
        method = self.select(cell, xs)
        if flags.tap is not None and isinstance(cell.recurrence, Matrix | Attention):
            method = Scan()  # inside a chunk there is no carry to tap
        return method.unroll(cell, params, carry, xs, flags)


def _gated_on_cpu(xs: Any) -> Scan:
    """See `Auto`."""
    inputs = jax.tree.leaves(xs)[0]
    step_bytes = max(1, inputs.size // max(1, inputs.shape[0])) * inputs.dtype.itemsize
    return Scan(chunk=min(max(2**15 // step_bytes, 16), 128), keep_gates=True)
