"""The method that selects another method by recurrence, platform and shape."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from seqjax.base import Attention, Carry, Cell, Diagonal, Flags, Gated, Matrix, Method, Params, Step, Xs, Ys
from seqjax.inputs import num_steps
from seqjax.methods.associative_scan import AssociativeScan
from seqjax.methods.chunked import Chunked
from seqjax.methods.scan import Scan
from seqjax.values import Value


@dataclass(frozen=True, kw_only=True, repr=False)
class Auto(Value):
    """Selects a method by kind of recurrence, platform and shape; `select` returns the selected method.

    ============= =================================== ====================================
    recurrence    CPU                                 GPU, TPU
    ============= =================================== ====================================
    `Step`        ``Scan()``                          ``Scan()``
    `Gated`       ``Scan(chunk=c, keep_gates=True)``  ``Scan(chunk=128, unroll_factor=8)``
    `Diagonal`    ``Scan(chunk=256)``                 ``AssociativeScan()``
    `Matrix`      ``Chunked(16)``                     ``Chunked(128)``
    `Attention`   ``Chunked(64)``                     ``Chunked(128)``
    ============= =================================== ====================================

    c is between 16 and 128 steps, such that the inputs of a chunk fill 32 kB, about a first-level cache. The choices
    are measured on two CPU cores and on an H200 (``benchmarks/results/README.md``). For `Gated` and `Diagonal` on a
    GPU, only the selected method was measured, against autodiff and other libraries. TPUs were not measured; they use
    the methods for GPUs.
    """

    kinds: ClassVar[tuple[type, ...]] = (Step, Gated, Diagonal, Matrix, Attention)

    def select(self, cell: Cell, xs: Xs, *, platform: str | None = None) -> Method:
        """Return the method for a cell on inputs ``xs [T, *B, D]`` (arrays or ShapeDtypeStructs) on a platform.

        Args:
            cell: the cell. The selection depends only on its recurrence.
            xs: the inputs. The selection depends only on their shapes and dtypes.
            platform: "cpu", "gpu" or "tpu"; by default JAX's default backend.

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
                return _gated_on_cpu(xs) if on_cpu else _gated_on_gpu(xs)
            case Diagonal():
                return Scan(chunk=256) if on_cpu else AssociativeScan()
            case Matrix():
                return Chunked(16) if on_cpu else Chunked(128)
            case Attention():
                return Chunked(64) if on_cpu else Chunked(128)
        return Scan()

    def unroll(self, cell: Cell, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        """See `seqjax.Method`."""
        method = self.select(cell, xs)
        if flags.tap is not None and isinstance(cell.recurrence, Matrix | Attention):
            method = Scan()  # a chunked method does not compute the carry of each step
        if not isinstance(num_steps(xs), int) and not isinstance(cell.recurrence, Gated):
            method = Scan()  # exported with a symbolic length, which no chunk divides
        return method.unroll(cell, params, carry, xs, flags)


def _has_known_shape(xs: Xs) -> bool:
    """Return whether no axis is symbolic, as in an exported program for any batch size or length."""
    return all(isinstance(n, int) for leaf in jax.tree.leaves(xs) for n in leaf.shape)


def _gated_on_gpu(xs: Xs) -> Scan:
    """Return the method for `Gated` on a GPU: the launches of kernels dominate, and longer iterations have fewer."""
    return Scan(chunk=128, unroll_factor=8) if _has_known_shape(xs) else Scan()


def _gated_on_cpu(xs: Xs) -> Scan:
    """Return the method for `Gated` on a CPU; see `Auto` for the chunk size."""
    inputs = jax.tree.leaves(xs)[0]
    if not _has_known_shape(xs):
        return Scan(keep_gates=True)
    step_bytes = max(1, inputs.size // max(1, inputs.shape[0])) * inputs.dtype.itemsize
    return Scan(chunk=min(max(2**15 // step_bytes, 16), 128), keep_gates=True)
