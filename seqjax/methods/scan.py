"""The method that runs a recurrence step by step, with a batched backward pass for `Gated` and `Diagonal`."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax

from seqjax.base import Carry, Cell, Dense, Flags, Params, Xs, Ys
from seqjax.checks import check_one_of, check_whole, check_whole_or_none
from seqjax.methods.common import project_inputs
from seqjax.ops import diagonal as scans
from seqjax.ops.chunks import over_chunks
from seqjax.ops.gated.batched import gated
from seqjax.ops.gated.loops import STEPS_PER_ITERATION, Scans
from seqjax.ops.step import loop, step_of
from seqjax.recurrences import Attention, Diagonal, DiagonalInputs, Gated, GatedWeights, Matrix, Step
from seqjax.values import Value


@dataclass(frozen=True, kw_only=True, repr=False)
class Scan(Value):
    """Runs a recurrence step by step, by ``jax.lax.scan``.

    Attributes:
        chunk: number of time steps whose inputs are projected, and whose ``Gated`` gradients are computed, at once.
            None is the whole sequence. The chunk changes speed and temporary memory, never a result.
        gradient: "batched" makes the sequential part of the backward pass of `Gated` and `Diagonal` small (see
            `seqjax.ops.gated.batched` and `seqjax.ops.diagonal`); it supports reverse mode of any order. "autodiff" is
            the specification: JAX differentiates the step-by-step loop, in reverse or forward mode. JAX always
            differentiates `Step`, whose structure is unknown. In both cases the gradients of the recurrence's weights
            are summed over steps in at least float32. Where JAX differentiates, the gradients of projections with
            bfloat16 params are summed over chunks in bfloat16.
        keep_gates: for batched gradients of `Gated`: keep the gates for the backward pass, (G + 1) H T B more numbers,
            instead of recomputing them.
        unroll_factor: steps per iteration of the compiled loops, for `Gated` and where JAX differentiates the loop. It
            changes speed and compile time, never a result. On a GPU 8 steps per iteration make `Gated` recurrences
            faster (``benchmarks/results/h200/levers.md``).

    Example:
        >>> import seqjax as sj
        >>> sj.recurrent(sj.lstm(8), sj.Scan(chunk=64))
        recurrent(cell=lstm(hidden_size=8), method=Scan(chunk=64))
    """

    kinds: ClassVar[tuple[type, ...]] = (Step, Gated, Diagonal, Matrix, Attention)
    chunk: int | None = None
    gradient: Literal["batched", "autodiff"] = "batched"
    keep_gates: bool = False
    unroll_factor: int = 1

    def __post_init__(self) -> None:
        check_whole_or_none("Scan(chunk)", self.chunk)
        check_whole("Scan(unroll_factor)", self.unroll_factor)
        check_one_of("Scan(gradient)", self.gradient, ("batched", "autodiff"))
        super().__post_init__()

    def unroll(self, cell: Cell, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        """See `seqjax.Method`."""
        batched = self.gradient == "batched"
        if batched and isinstance(cell.recurrence, Gated):
            dense = cell.project.weights(params) if isinstance(cell.project, Dense) else None
            weights = GatedWeights(*cell.recurrence.weights(params))
            us = xs if dense is not None else project_inputs(cell, params, xs, flags.key)
            carry, hs = gated(
                cell.recurrence,
                weights,
                dense,
                carry,
                us,
                flags,
                chunk=self.chunk,
                keep_gates=self.keep_gates,
                loops=Scans(self.unroll_factor),
            )
            return carry, cell.readout(params, hs, xs)

        step = step_of(cell.recurrence, params, jax.tree.leaves(xs)[0].dtype)

        def run(carry: Carry, piece: Any) -> tuple[Any, Any]:
            xs, now = piece
            us = project_inputs(cell, params, xs, now.key)
            now = now._replace(initial=flags.initial)
            if isinstance(cell.recurrence, Diagonal):
                if batched:
                    carry, hs = scans.diagonal(scans.sequential, us, carry, now)
                    return carry, cell.readout(params, hs, xs)
                us = scans.broadcast_decay(scans.in_carry_dtype(DiagonalInputs(*us), carry.dtype))
            carry, hs = loop(step, carry, us, now, unroll=self.unroll_factor)
            return carry, cell.readout(params, hs, xs)

        return over_chunks(run, carry, (xs, flags.over_time()), self.chunk)


ON_GPU = Scan(chunk=256, unroll_factor=STEPS_PER_ITERATION)
"""The loops of `Gated` on a GPU, where no kernel runs them. Chunks bound the memory for 0.1 operations per step."""
