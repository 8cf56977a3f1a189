"""Trade time for memory: store some carries, and run the steps between them again in the backward pass."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Flags, Layer, Params, Xs, Ys
from seqjax.checks import check_whole
from seqjax.combinators.common import check_layers
from seqjax.inputs import num_steps
from seqjax.ops.chunks import join, over_chunks, split
from seqjax.ops.revolve import reversed_loop
from seqjax.values import Value, definition


@dataclass(frozen=True, repr=False)
class Nested(Value):
    r"""Nested loops, one per level, each over about :math:`T^{1/L}` pieces.

    Memory is :math:`O(L\,T^{1/L})`, for L - 1 more forward passes. With two levels memory grows as the square root of
    T.

    Attributes:
        levels: L, at least 1 (which stores everything).
    """

    levels: int = 2

    def __post_init__(self) -> None:
        check_whole("Nested(levels)", self.levels)
        super().__post_init__()


@dataclass(frozen=True, repr=False)
class Binomial(Value):
    r"""A fixed number of stored carries, with the fewest recomputed steps that this number allows.

    With n = T / K pieces of K steps and s slots, :math:`r n - \binom{s+r}{s+1}` pieces run forward without storing
    their residuals, where r is the least number with :math:`\binom{s+r}{s} \ge n`: 3.64, 2.75 and 2.41 n for 10, 20 and
    32 slots at n = 1000. This number includes the first forward pass, except for its last piece.

    Attributes:
        slots: s; one slot holds the first carry.
        every: K.
    """

    slots: int
    every: int = 1

    def __post_init__(self) -> None:
        check_whole("Binomial(slots)", self.slots)
        check_whole("Binomial(every)", self.every)
        super().__post_init__()


@definition
def checkpointed(
    layer: Layer, schedule: Nested | Binomial | None = None, *, every: int | None = None
) -> Layer:
    r"""Trade time for memory: store some carries, and run the steps between them again in the backward pass.

    Values and gradients do not change. Memory for the backward pass of T steps, with carries of c bytes and r bytes of
    residuals per step:

    ========================= ==================================== ==================================================
    schedule                  memory                               additional forward steps
    ========================= ==================================== ==================================================
    ``every=K``               :math:`(T/K)\,c + K\,r`, least at    T
                              :math:`K = \sqrt{T c / r}`
    ``Nested(levels=L)``      :math:`T^{1/L}((L-1)\,c + r)`        (L - 1) T
    ``Binomial(s, every=K)``  :math:`(s + 2)\,c + K\,r`            :math:`(r_s - 1) T` and less, see `Binomial`
    ========================= ==================================== ==================================================

    Inputs, outputs and their gradients need further memory, O(T) where there is one per step. The compiled program
    contains the layer a fixed number of times, for any T: ``Binomial`` executes a plan of at most (r_s + 1) T / K
    actions, a constant of the program, in one loop. The gradients of ``Binomial`` are reverse mode only (at any order).
    Each action costs a branch that may copy the gradients of the params, so choose pieces of ``every`` steps whose work
    outweighs that copy.

    Args:
        layer: a causal layer.
        schedule: `Nested` or `Binomial`.
        every: K, for pieces of K steps; the carry before each piece is stored. Pass either `every` or a schedule.

    Raises:
        TypeError: for a layer that is not causal, since such a layer needs the whole sequence at once.
        ValueError: unless exactly one of schedule and every is given.

    Example:
        >>> import seqjax as sj
        >>> sj.checkpointed(sj.recurrent(sj.lstm(8)), every=64)
        checkpointed(layer=recurrent(cell=lstm(hidden_size=8)), every=64)
        >>> sj.checkpointed(sj.recurrent(sj.lstm(8)), sj.Binomial(slots=10, every=16))
        checkpointed(layer=recurrent(cell=lstm(hidden_size=8)), schedule=Binomial(slots=10, every=16))

    References:
        Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174 (pieces, nested pieces).
        Griewank, Walther 2000, "Algorithm 799: Revolve", ACM Trans. Mathematical Software 26 (binomial).
    """
    check_layers("checkpointed", (layer,))
    if not layer.causal:
        raise TypeError(
            f"checkpointed({layer!r}): expected a causal layer, which can run piece by piece, got a layer that reads "
            "the whole sequence. Checkpoint the causal layers inside it."
        )
    if (schedule is None) == (every is None):
        raise ValueError(
            f"checkpointed: expected either a schedule or every, got schedule={schedule!r} and every={every!r}."
        )
    if every is not None:
        check_whole("checkpointed(every)", every)
    elif not isinstance(schedule, Nested | Binomial):
        raise TypeError(
            f"checkpointed(schedule): expected Nested(...) or Binomial(...), got {schedule!r}. "
            "For pieces of K steps: checkpointed(layer, every=K)."
        )

    def unroll(params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        def piece(params: Params, carry: Carry, inputs: Any) -> Any:
            return layer.unroll_fn(params, carry, *inputs)

        inputs = (xs, flags)
        if isinstance(schedule, Binomial):
            return _binomial(schedule, piece, params, carry, inputs)

        def bound(carry: Carry, inputs: Any) -> Any:
            return piece(params, carry, inputs)

        if isinstance(schedule, Nested):
            return _nested(schedule.levels, bound, carry, inputs)
        return over_chunks(jax.checkpoint(bound), carry, inputs, every)

    return dataclasses.replace(layer, unroll_fn=unroll, time_shardable=False)


def _nested(levels: int, piece: Callable, carry: Carry, inputs: Any) -> Any:
    """Run a piece over the inputs in about T^(1/L) pieces, each of which nests L - 1 levels."""
    length = num_steps(inputs)
    if levels == 1 or length == 1:
        return piece(carry, inputs)
    size = math.ceil(length / math.ceil(length ** (1 / levels)))

    @jax.checkpoint
    def inner(carry: Carry, inputs: Any) -> Any:
        return _nested(levels - 1, piece, carry, inputs)

    return over_chunks(inner, carry, inputs, size)


def _binomial(schedule: Binomial, piece: Callable, params: Params, carry: Carry, inputs: Any) -> Any:
    """Run a piece over the inputs by `reversed_loop`; the steps after the last whole piece are a piece of their own."""
    count, whole, rest = split(inputs, schedule.every)
    outs = []
    if count:
        carry, ys = reversed_loop(piece, params, carry, whole, schedule.slots)
        outs.append(join(ys))
    if rest is not None:
        carry, ys = jax.checkpoint(piece)(params, carry, rest)
        outs.append(ys)
    return carry, jax.tree.map(lambda *a: jnp.concatenate(a), *outs)
