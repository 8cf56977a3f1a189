"""What the methods share: one step of a cell, its projected inputs, checks of numbers."""

from typing import Any

import jax

from seqjax.base import Cell, DiagonalInputs, Flags
from seqjax.ops.diagonal import over_batch
from seqjax.ops.select import select
from seqjax.ops.step import step_of


def at_step(cell: Cell, params: Any, carry: Any, x: Any, flags: Flags) -> Any:
    """One time step of a cell, ``(carry, y)``: the specification that every method's unroll equals."""
    u = cell.project(params, x) if flags.key is None else cell.project(params, x, flags.key)
    step = step_of(cell.recurrence, params, jax.tree.leaves(x)[0].dtype)
    carry = select(flags.reset, flags.initial, carry)
    after, h = step(carry, u)
    return (after if flags.mask is None else select(flags.mask, after, carry)), cell.readout(params, h, x)


def project_inputs(cell: Cell, params: Any, xs: Any, keys: Any) -> Any:
    """Inputs of the recurrence for all steps; with keys, each step draws from its own."""
    if keys is None:
        return cell.project(params, xs)

    def one(x: Any, key: Any) -> Any:
        u = cell.project(params, x, key)
        return over_batch(u) if isinstance(u, DiagonalInputs) else u

    return jax.vmap(one)(xs, keys)
