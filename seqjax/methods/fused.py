"""The method that runs the loops of a gated recurrence in one GPU kernel each."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Cell, Dense, Flags, Params, Xs, Ys
from seqjax.checks import check_whole_or_none
from seqjax.methods.common import project_inputs
from seqjax.methods.scan import ON_GPU
from seqjax.ops.gated.batched import gated
from seqjax.ops.gated.kernel import Kernels
from seqjax.ops.gated.loops import STEPS_PER_ITERATION, Scans
from seqjax.ops.gated.units import WIDEST, units_of
from seqjax.ops.triton import kernels_available
from seqjax.recurrences import Gated, GatedWeights
from seqjax.values import Value


@dataclass(frozen=True, kw_only=True, repr=False)
class Fused(Value):
    """Runs all steps of a `Gated` recurrence in one GPU kernel, forward, and in another one backward.

    The kernels are made from the cell itself, so every gated cell has them. They equal `Scan` in value and in gradient.
    Recurrent products are exact in float32, whatever ``jax_default_matmul_precision`` is.

    Where the program is compiled for another device than an NVIDIA GPU, or this version of JAX has no Triton, the same
    loops run as those of ``Scan(unroll_factor=8)``. `seqjax.ops.gated.kernel` describes the kernels.

    Attributes:
        chunk: number of time steps whose inputs are projected, and whose gradients are computed, at once: one kernel
            runs so many steps. None is at least 512 steps, and more where ``B * H`` is small, up to 2^20 numbers of the
            carry. The chunk changes speed and temporary memory, never a result.
        interpret: run the kernels by Pallas' interpreter, on any device. It is slow, and meant for tests.

    Raises:
        ValueError: at `unroll`, outside the interpreter: if the recurrent weights of one program do not fit (more than
            128 units in a dense matrix or in one head), for float64, and for symbolic shapes.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> xs = jnp.ones((5, 2, 3))
        >>> layer = sj.recurrent(sj.gru(4), sj.Fused(interpret=True))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> _, hs = layer.unroll(params, None, xs)
        >>> _, expected = sj.recurrent(sj.gru(4), sj.Scan()).unroll(params, None, xs)
        >>> bool(jnp.allclose(hs, expected, atol=1e-6))
        True
    """

    kinds: ClassVar[tuple[type, ...]] = (Gated,)
    chunk: int | None = None
    interpret: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_or_none("Fused(chunk)", self.chunk)

    def unroll(self, cell: Cell, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        """See `seqjax.Method`."""
        recurrence: Any = cell.recurrence
        dense = cell.project.weights(params) if isinstance(cell.project, Dense) else None
        weights = GatedWeights(*recurrence.weights(params))
        us = xs if dense is not None else project_inputs(cell, params, xs, flags.key)
        h = jax.tree.leaves(carry)[-1]
        obstacle = "" if self.interpret else obstacle_to_kernels(recurrence, weights, h, us)
        if obstacle:
            raise ValueError(f"{self!r} cannot run {cell!r}: {obstacle} Use {ON_GPU!r}.")
        loops = (
            Kernels(self.interpret) if self.interpret or kernels_available() else Scans(STEPS_PER_ITERATION)
        )
        chunk = self.chunk or max(512, 2**20 // max(1, h.size))
        carry, hs = gated(recurrence, weights, dense, carry, us, flags, chunk=chunk, loops=loops)
        return carry, cell.readout(params, hs, xs)


def obstacle_to_kernels(recurrence: Gated, weights: GatedWeights, h: Any, us: Any) -> str:
    """Return the reason why the kernels cannot run a recurrence, as a sentence, or an empty string.

    Args:
        recurrence: the recurrence.
        weights: arrays or ShapeDtypeStructs, as h and us.
        h: the last leaf of the carry, ``[*B, H]``.
        us: the inputs, ``[T, *B, ...]``.
    """
    if not all(isinstance(n, int) for n in (*us.shape, *h.shape)):
        return f"expected inputs of a known shape, got {us.shape}."
    if us.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        return f"expected inputs in float32, bfloat16 or float16, got {us.dtype}."
    units = units_of(weights, len(recurrence.activations), h.shape[-1])
    if units.width > WIDEST and not units.diagonal:
        where = "a head" if weights.w_h.ndim == 4 else "a dense matrix"
        return f"expected at most {WIDEST} units in {where} of recurrent weights, got {units.size}."
    return ""
