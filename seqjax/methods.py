"""How a cell runs over time: one class per method. Params do not depend on the method, so methods may be swapped."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax

from seqjax.base import Cell, Dense, Diagonal, DiagonalInputs, Gated, GatedWeights, Method, Step
from seqjax.definition import Value
from seqjax.ops import diagonal as scans
from seqjax.ops.chunks import over_chunks
from seqjax.ops.diagonal import over_batch
from seqjax.ops.gated import gated
from seqjax.ops.select import select
from seqjax.ops.step import loop, step_of


@dataclass(frozen=True, kw_only=True, repr=False)
class Sequential(Value):
    """One step after another.

    Attributes:
        chunk: inputs are projected, and ``Gated`` gradients batched, this many time steps at a time; None for all at
            once. It changes speed and temporary memory, never a result.
        gradient: "batched" keeps the sequential part of the backward pass of `Gated` and `Diagonal` small (see
            `seqjax.ops.gated` and `seqjax.ops.diagonal`); it supports reverse mode at any order. "autodiff" is the
            specification itself: the step-by-step loop, differentiated by JAX, forward mode included. `Step`, of
            which nothing is known, is always differentiated by JAX.
        keep_gates: for batched gradients of `Gated`: keep the gates for the backward pass, (G + 1) H T B numbers more,
            instead of computing them again. Pays where the products are the larger cost, H of 256 or so on a CPU.
        unroll_factor: steps per iteration of the compiled loop, where JAX differentiates it.

    Example:
        >>> import seqjax as sj
        >>> sj.recurrent(sj.lstm(8), sj.Sequential(chunk=64))
        recurrent(cell=lstm(hidden_size=8), method=Sequential(chunk=64))
    """

    kinds: ClassVar[tuple[type, ...]] = (Step, Gated, Diagonal)
    chunk: int | None = None
    gradient: Literal["batched", "autodiff"] = "batched"
    keep_gates: bool = False
    unroll_factor: int = 1

    def __post_init__(self) -> None:
        _check_positive("Sequential(chunk)", self.chunk)
        _check_positive("Sequential(unroll_factor)", self.unroll_factor)
        if self.gradient not in ("batched", "autodiff"):
            raise ValueError(
                f"Sequential(gradient): expected 'batched' or 'autodiff', got {self.gradient!r}."
            )

    def unroll(
        self,
        cell: Cell,
        params: Any,
        carry: Any,
        xs: Any,
        *,
        initial: Any,
        reset: Any,
        mask: Any,
        keys: Any,
        tap: Any,
    ) -> tuple[Any, Any]:
        """See `seqjax.Method`."""
        batched = self.gradient == "batched"
        if batched and isinstance(cell.recurrence, Gated):
            dense = cell.project.weights(params) if isinstance(cell.project, Dense) else None
            carry, hs = gated(
                cell.recurrence,
                GatedWeights(*cell.recurrence.weights(params)),
                dense,
                carry,
                xs if dense is not None else _project(cell, params, xs, keys),
                initial=initial,
                reset=reset,
                mask=mask,
                tap=tap,
                chunk=self.chunk,
                keep_gates=self.keep_gates,
            )
            return carry, cell.readout(params, hs, xs)

        step = step_of(cell.recurrence, params, jax.tree.leaves(xs)[0].dtype)

        def run(carry: Any, piece: Any) -> tuple[Any, Any]:
            xs, reset, mask, keys, tap = piece
            us = _project(cell, params, xs, keys)
            if isinstance(cell.recurrence, Diagonal):
                if batched:
                    carry, hs = scans.diagonal(
                        scans.sequential, us, carry, initial=initial, reset=reset, mask=mask, tap=tap
                    )
                    return carry, cell.readout(params, hs, xs)
                us = over_batch(scans.in_carry_dtype(DiagonalInputs(*us), carry.dtype))
            carry, hs = loop(
                step,
                carry,
                us,
                initial=initial,
                reset=reset,
                mask=mask,
                tap=tap,
                unroll=self.unroll_factor,
            )
            return carry, cell.readout(params, hs, xs)

        return over_chunks(run, carry, (xs, reset, mask, keys, tap), self.chunk)


@dataclass(frozen=True, kw_only=True, repr=False)
class Associative(Value):
    """A parallel prefix over time: depth 2 log2 T. For linear recurrences.

    On a CPU a sequential scan is faster (``benchmarks/results/methods.md``); on parallel hardware the logarithmic depth
    wins for long sequences.
    """

    kinds: ClassVar[tuple[type, ...]] = (Diagonal,)

    def unroll(
        self,
        cell: Cell,
        params: Any,
        carry: Any,
        xs: Any,
        *,
        initial: Any,
        reset: Any,
        mask: Any,
        keys: Any,
        tap: Any,
    ) -> tuple[Any, Any]:
        """See `seqjax.Method`."""
        us = _project(cell, params, xs, keys)
        carry, hs = scans.diagonal(
            scans.associative, us, carry, initial=initial, reset=reset, mask=mask, tap=tap
        )
        return carry, cell.readout(params, hs, xs)


@dataclass(frozen=True, kw_only=True, repr=False)
class Auto(Value):
    """Picks a method by kind of recurrence, platform and shape; `select` says which.

    ============= ============================================== ==============================
    recurrence    CPU                                            GPU, TPU
    ============= ============================================== ==============================
    `Step`        ``Sequential()``                               ``Sequential()``
    `Gated`       ``Sequential(chunk=c, keep_gates=D >= 256)``   ``Sequential(chunk=128)``
    `Diagonal`    ``Sequential()``                               ``Associative()``
    ============= ============================================== ==============================

    c is 16 to 128 steps, such that the inputs of a chunk fill 32 kB, about a first-level cache. The CPU column is
    measured (``benchmarks/results/methods.md``); the other follows from the depth of the loops.
    """

    kinds: ClassVar[tuple[type, ...]] = (Step, Gated, Diagonal)

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
            Associative()
        """
        on_cpu = (platform or jax.default_backend()) == "cpu"
        match cell.recurrence:
            case Gated():
                return _gated_on_cpu(xs) if on_cpu else Sequential(chunk=128)
            case Diagonal() if not on_cpu:
                return Associative()
        return Sequential()

    def unroll(self, cell: Cell, params: Any, carry: Any, xs: Any, **options: Any) -> tuple[Any, Any]:
        """See `seqjax.Method`."""
        return self.select(cell, xs).unroll(cell, params, carry, xs, **options)


METHODS: tuple[type, ...] = (Sequential, Associative, Auto)


def check_method(method: Method, cell: Cell) -> None:
    """Raise a TypeError unless the method runs the cell's kind of recurrence."""
    if isinstance(cell.recurrence, method.kinds):
        return
    kind = type(cell.recurrence)
    can = ", ".join(m.__name__ for m in METHODS if kind in m.kinds)  # type: ignore[attr-defined]
    runs = ", ".join(k.__name__ for k in method.kinds)
    raise TypeError(
        f"{method!r} cannot run {cell!r}: its recurrence is {kind.__name__}; {type(method).__name__} runs {runs}. "
        f"Methods that can: {can}."
    )


def _project(cell: Cell, params: Any, xs: Any, keys: Any) -> Any:
    """Inputs of the recurrence for all steps; with keys, each step draws from its own."""
    if keys is None:
        return cell.project(params, xs)

    def one(x: Any, key: Any) -> Any:
        u = cell.project(params, x, key)
        return over_batch(u) if isinstance(u, DiagonalInputs) else u

    return jax.vmap(one)(xs, keys)


def _gated_on_cpu(xs: Any) -> Sequential:
    """See `Auto`."""
    inputs = jax.tree.leaves(xs)[0]
    step_bytes = max(1, inputs.size // max(1, inputs.shape[0])) * inputs.dtype.itemsize
    return Sequential(chunk=min(max(2**15 // step_bytes, 16), 128), keep_gates=inputs.shape[-1] >= 256)


def _check_positive(what: str, value: int | None) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{what}: expected a whole number of at least 1, or None, got {value!r}.")


def at_step(
    cell: Cell, params: Any, carry: Any, x: Any, *, initial: Any, reset: Any, mask: Any, key: Any
) -> Any:
    """One time step of a cell, ``(carry, y)``: the specification that every method's unroll equals."""
    u = cell.project(params, x) if key is None else cell.project(params, x, key)
    step = step_of(cell.recurrence, params, jax.tree.leaves(x)[0].dtype)
    carry = select(reset, initial, carry)
    after, h = step(carry, u)
    return (after if mask is None else select(mask, after, carry)), cell.readout(params, h, x)
