"""Inverse steps: the carry before a step, computed from the carry after the step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Diagonal, DiagonalInputs, Layer, Params, X
from seqjax.combinators import residual, serial
from seqjax.gradients.recurrent_layers import cell_of
from seqjax.inputs import fold_in
from seqjax.ops.step import expand_left
from seqjax.values import origin

HINT = (
    "Cells with an inverse: Diagonal cells, orthogonal_rnn, cornn, antisymmetric_rnn and Cell(inverse=...). "
    "Pass `reversible(inverse=...)`, or use full_bptt with a checkpointed layer."
)


def inverse_of(layer: Layer) -> Callable:
    """Return ``(params, after, x, key) -> before`` for a step without mask and reset.

    The layer may be a `recurrent` layer of a cell with an inverse, a layer without carry, or `serial` or `residual` of
    such layers.

    Raises:
        TypeError: for other layers.
    """
    cell = cell_of(layer)
    if cell is not None:
        return _of_cell(cell)
    factory, arguments = origin(layer) or (None, {})
    if factory is residual:
        return inverse_of(arguments["layer"])
    if factory is serial:
        return _of_serial(arguments["layers"])

    def of_stateless(params: Params, after: Any, x: X, key: Any) -> Any:
        if jax.tree.leaves(after):
            raise TypeError(f"reversible(): expected a layer with an inverse, got {layer!r}. {HINT}")
        return ()

    return of_stateless


def _of_cell(cell: Cell) -> Callable:
    inverse = _undo_diagonal if isinstance(cell.recurrence, Diagonal) else cell.inverse
    if inverse is None:
        raise TypeError(f"reversible(): expected a cell with an inverse, got {cell!r}. {HINT}")

    def before(params: Params, after: Any, x: X, key: Any) -> Any:
        u = cell.project(params, x) if key is None else cell.project(params, x, key)
        return inverse(params, after, u)

    return before


def _undo_diagonal(params: Params, after: Any, u: DiagonalInputs) -> Any:
    return (after - u.b.astype(after.dtype)) / expand_left(jnp.asarray(u.a), after.ndim).astype(after.dtype)


def _of_serial(layers: tuple) -> Callable:
    inverses = [inverse_of(part) for part in layers]

    def before(params: Params, after: Any, x: X, key: Any) -> Any:
        found = []
        for i, part in enumerate(layers):
            own = fold_in(key, i)
            found.append(inverses[i](params[i], after[i], x, own))
            _, x = part.step(params[i], found[-1], x, key=own)
        return tuple(found)

    return before
