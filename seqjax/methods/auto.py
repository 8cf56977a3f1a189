"""The method that selects another method by recurrence, platform and shape."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from seqjax.base import (
    Attention,
    Carry,
    Cell,
    Diagonal,
    Flags,
    Gated,
    GatedWeights,
    Matrix,
    Method,
    Params,
    Step,
    Xs,
    Ys,
)
from seqjax.inputs import num_steps
from seqjax.methods.associative_scan import AssociativeScan
from seqjax.methods.chunked import Chunked
from seqjax.methods.fused import Fused, obstacle_to_kernels
from seqjax.methods.scan import ON_GPU, Scan
from seqjax.ops.gated.units import units_of
from seqjax.ops.triton import kernels_available
from seqjax.values import Value


@dataclass(frozen=True, kw_only=True, repr=False)
class Auto(Value):
    """Selects a method by kind of recurrence, platform and shape; `select` returns the selected method.

    ============= =================================== ====================================
    recurrence    CPU                                 GPU, TPU
    ============= =================================== ====================================
    `Step`        ``Scan()``                          ``Scan()``
    `Gated`       ``Scan(chunk=c, keep_gates=True)``  ``Fused()``
    otherwise                                         ``Scan(chunk=256, unroll_factor=8)``
    `Diagonal`    ``Scan(chunk=256)``                 ``AssociativeScan()``
    `Matrix`      ``Chunked(16)``                     ``Chunked(128)``
    `Attention`   ``Chunked(64)``                     ``Chunked(128)``
    ============= =================================== ====================================

    `Fused` is for NVIDIA GPUs, where it accepts the cell and the inputs (up to 128 units, or heads of 128 units, in
    float32 or below), and ``B`` times the number of heads is at most 1024 up to 64 units, and 132 up to 128.

    c is between 16 and 128 steps, such that the inputs of a chunk fill 256 kB. The choices are measured on two CPU
    cores and on an H200 (``benchmarks/results/README.md``). For `Gated` on a GPU the measurements are those of
    prototypes (``benchmarks/results/h200/levers.md``). TPUs were not measured; they use the methods for GPUs, without
    `Fused`.
    """

    kinds: ClassVar[tuple[type, ...]] = (Step, Gated, Diagonal, Matrix, Attention)

    def select(self, cell: Cell, xs: Xs, *, platform: str | None = None) -> Method:
        """Return the method for a cell on inputs ``xs [T, *B, D]`` (arrays or ShapeDtypeStructs) on a platform.

        Args:
            cell: the cell. The selection depends on its recurrence, and for `Gated` on the shapes of its weights.
            xs: the inputs. The selection depends only on their shapes and dtypes.
            platform: "cpu", "gpu" or "tpu"; by default JAX's default backend.

        Example:
            >>> import jax, jax.numpy as jnp, seqjax as sj
            >>> xs = jax.ShapeDtypeStruct((512, 32, 128), jnp.float32)
            >>> sj.Auto().select(sj.lru(128), xs, platform="gpu")
            AssociativeScan()
            >>> [sj.Auto().select(sj.gla(128), xs, platform=name) for name in ("cpu", "gpu")]
            [Chunked(size=16), Chunked(size=128)]
            >>> [sj.Auto().select(sj.lstm(n), xs, platform="gpu") for n in (64, 512)]
            [Fused(), Scan(chunk=256, unroll_factor=8)]
        """
        return self._select(cell, None, xs, platform or jax.default_backend())

    def _select(self, cell: Cell, params: Params | None, xs: Xs, platform: str) -> Method:
        on_cpu = platform == "cpu"
        match cell.recurrence:
            case Gated() if on_cpu:
                return _gated_on_cpu(xs)
            case Gated():
                return _gated_on_gpu(cell, params, xs, platform)
            case Diagonal():
                return Scan(chunk=256) if on_cpu else AssociativeScan()
            case Matrix():
                return Chunked(16) if on_cpu else Chunked(128)
            case Attention():
                return Chunked(64) if on_cpu else Chunked(128)
        return Scan()

    def unroll(self, cell: Cell, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        """See `seqjax.Method`."""
        method = self._select(cell, params, xs, jax.default_backend())
        if flags.tap is not None and isinstance(cell.recurrence, Matrix | Attention):
            method = Scan()  # a chunked method does not compute the carry of each step
        if not isinstance(num_steps(xs), int) and not isinstance(cell.recurrence, Gated):
            method = Scan()  # exported with a symbolic length, which no chunk divides
        return method.unroll(cell, params, carry, xs, flags)


def _has_known_shape(xs: Xs) -> bool:
    """Return whether no axis is symbolic, as in an exported program for any batch size or length."""
    return all(isinstance(n, int) for leaf in jax.tree.leaves(xs) for n in leaf.shape)


def _gated_on_gpu(cell: Cell, params: Params | None, xs: Xs, platform: str) -> Method:
    """Return the method for `Gated` on a GPU: one kernel for all steps, or else few launches per step."""
    if not _has_known_shape(xs):
        return Scan()
    if platform != "tpu" and kernels_available() and _has_fast_kernel(cell, params, xs):
        return Fused()
    return ON_GPU


def _has_fast_kernel(cell: Cell, params: Params | None, xs: Xs) -> bool:
    """Return whether `Fused` accepts a cell and inputs with few enough programs; params of None are those of init."""
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
    if params is None:
        params = jax.eval_shape(cell.init, jax.random.key(0), x)
    recurrence: Any = cell.recurrence
    weights = jax.eval_shape(lambda params: GatedWeights(*recurrence.weights(params)), params)
    h = jax.tree.leaves(jax.eval_shape(cell.initial_carry, params, x))[-1]
    if obstacle_to_kernels(recurrence, weights, h, jax.tree.leaves(xs)[0]):
        return False
    units = units_of(weights, len(recurrence.activations), h.shape[-1])
    return h.size // h.shape[-1] * units.programs <= units.plan.programs


def _gated_on_cpu(xs: Xs) -> Scan:
    """Return the method for `Gated` on a CPU; see `Auto` for the chunk size."""
    inputs = jax.tree.leaves(xs)[0]
    if not _has_known_shape(xs):
        return Scan(keep_gates=True)
    step_bytes = max(1, inputs.size // max(1, inputs.shape[0])) * inputs.dtype.itemsize
    return Scan(chunk=min(max(2**18 // step_bytes, 16), 128), keep_gates=True)
