"""How the units of a `Gated` recurrence divide among the programs of a GPU, and how a kernel is laid out there."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.base import GatedWeights

# Units per program where the recurrent weights are diagonal: one per thread of four warps.
DIAGONAL_WIDTH = 128


class Plan(NamedTuple):
    """How a kernel is laid out on a multiprocessor, for the widest block of recurrent weights that it holds."""

    warps: int
    gates_held: int  # gates whose weights stay in registers; those of the others are read again at every step
    programs: int  # the most programs with which it is known to be faster than the unrolled loop


# Layouts that were measured on an H200 (benchmarks/results/h200/levers.md), by width. Its 132 multiprocessors have
# 65,536 registers each. Four gates of 64 units take 128 registers in each of 128 threads, of 255, and two programs run
# on one multiprocessor. Three gates of 128 units take 96 registers in each of 512 threads, of 128; one program runs.
#
# Forward and backward, a step of the LSTM takes 1.3 microseconds at 64 units, and one of the unrolled loop 10.9
# (B = 8). So the kernel stays ahead for four times the 264 programs that run at once. At 128 units the two take 9.7 and
# 13.0 (B = 32), and the kernel is ahead only if all programs run at once.
PLANS = {64: Plan(warps=4, gates_held=4, programs=1024), 128: Plan(warps=16, gates_held=3, programs=132)}
WIDEST = max(PLANS)


class Units(NamedTuple):
    """How the H units divide among programs: `programs` times `size` units each, padded to `width`, a power of two."""

    programs: int
    size: int
    width: int
    diagonal: bool

    @property
    def plan(self) -> Plan:
        """The layout of the kernels. Diagonal weights take as few registers as the narrowest block."""
        width = 0 if self.diagonal else self.width
        return next(plan for widest, plan in PLANS.items() if width <= widest or widest == WIDEST)

    def split(self, array: Float[Array, "*S H"]) -> Float[Array, "*S P W"]:
        """Divide the last axis among programs; zeros fill what is missing."""
        short = self.programs * self.size - array.shape[-1]
        array = _pad(array, {-1: short}).reshape(*array.shape[:-1], self.programs, self.size)
        return _pad(array, {-1: self.width - self.size})

    def join(self, array: Float[Array, "*S P W"], size: int) -> Float[Array, "*S H"]:
        """Undo `split` for H = size."""
        return array[..., : self.size].reshape(*array.shape[:-2], -1)[..., :size]

    def by_gate(self, w_h: Any, num_gates: int, *, transposed: bool = False) -> jax.Array:
        """Return the recurrent weights by program and gate, ``[P, G, W, W]``, or ``[P, G, W]`` if diagonal."""
        if self.diagonal:
            return jnp.moveaxis(self.split(w_h), 1, 0)
        w = w_h.reshape(self.programs, self.size, num_gates, self.size)
        w = jnp.transpose(w, (0, 2, 3, 1) if transposed else (0, 2, 1, 3))
        short = self.width - self.size
        return _pad(w, {-1: short, -2: short})


def units_of(weights: GatedWeights, num_gates: int, size: int) -> Units:
    """Return how the units of a recurrence divide among programs."""
    w_h = weights.w_h
    if w_h.ndim == 4:
        return Units(w_h.shape[0], w_h.shape[1], _power_of_two(w_h.shape[1]), False)
    if w_h.shape == (size, num_gates * size):
        return Units(1, size, _power_of_two(size), False)
    width = min(_power_of_two(size), DIAGONAL_WIDTH)
    return Units(-(-size // width), min(size, width), width, True)


def _pad(array: jax.Array, short: dict[int, int]) -> jax.Array:
    """Append zeros along axes, so many as `short` says."""
    if not any(short.values()):
        return array
    widths = [(0, short.get(axis - array.ndim, 0)) for axis in range(array.ndim)]
    return jnp.pad(array, widths)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
