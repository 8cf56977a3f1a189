"""Replacement of the `recurrent` layers inside a model."""

import inspect
from collections.abc import Callable
from typing import Any

from seqjax.base import Cell, Layer
from seqjax.layers.recurrent import recurrent
from seqjax.values import origin


def cell_of(layer: Layer) -> Cell | None:
    """Return the cell of a layer made by `seqjax.recurrent`, or None for another layer.

    Example:
        >>> import seqjax as sj
        >>> cell_of(sj.recurrent(sj.lstm(8)))
        lstm(hidden_size=8)
    """
    made = origin(layer)
    return made[1]["cell"] if made is not None and made[0] is recurrent else None


def replace_recurrent(layer: Layer, new: Callable[[Cell], Layer]) -> Layer:
    """Return the composition with every ``recurrent(cell)`` in it replaced by ``new(cell)``.

    The function rebuilds compositions with their factories, and opens blocks, which are factories of compositions.
    Custom layers stay unchanged.
    """
    made = origin(layer)
    if made is None:
        return layer
    factory, arguments = made
    if factory is recurrent:
        return new(arguments["cell"])

    def renewed(value: Any) -> Any:
        if isinstance(value, Layer):
            return replace_recurrent(value, new)
        return tuple(map(renewed, value)) if type(value) is tuple else value

    bare: Callable = inspect.unwrap(factory)
    bound = inspect.BoundArguments(
        inspect.signature(bare),  # type: ignore[arg-type]
        {name: renewed(value) for name, value in arguments.items()},
    )
    inner = bare(*bound.args, **bound.kwargs)
    return inner if origin(inner) is None else replace_recurrent(inner, new)
