"""Helpers of the methods: one step of a cell and the projection of its inputs."""

from typing import Any

import jax

from seqjax.base import Carry, Cell, DiagonalInputs, Flags, Params, X, Xs
from seqjax.ops.diagonal import broadcast_decay
from seqjax.ops.select import select
from seqjax.ops.step import step_of


def at_step(cell: Cell, params: Params, carry: Carry, x: X, flags: Flags) -> Any:
    """Run one time step of a cell and return ``(carry, y)``: the specification of every method's unroll."""
    u = cell.project(params, x) if flags.key is None else cell.project(params, x, flags.key)
    step = step_of(cell.recurrence, params, jax.tree.leaves(x)[0].dtype)
    carry = select(flags.reset, flags.initial, carry)
    after, h = step(carry, u)
    return (after if flags.mask is None else select(flags.mask, after, carry)), cell.readout(params, h, x)


def project_inputs(cell: Cell, params: Params, xs: Xs, keys: Any) -> Any:
    """Project the inputs of all steps to inputs of the recurrence; with keys, each step uses its own key."""
    if keys is None:
        return cell.project(params, xs)

    def one(x: X, key: Any) -> Any:
        u = cell.project(params, x, key)
        return broadcast_decay(u) if isinstance(u, DiagonalInputs) else u

    return jax.vmap(one)(xs, keys)
