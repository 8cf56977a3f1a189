"""Going inside a model: its `recurrent` layers replaced, whatever they are part of."""

import inspect
from collections.abc import Callable
from typing import Any

from seqjax.base import Cell, Layer
from seqjax.definition import origin
from seqjax.layers import recurrent


def cell_of(layer: Layer) -> Cell | None:
    """The cell of a layer made by `seqjax.recurrent`, else None.

    Example:
        >>> import seqjax as sj
        >>> cell_of(sj.recurrent(sj.lstm(8)))
        lstm(hidden_size=8)
    """
    made = origin(layer)
    return made[1]["cell"] if made is not None and made[0] is recurrent else None


def replace_recurrent(layer: Layer, new: Callable[[Cell], Layer]) -> Layer:
    """The same composition with every ``recurrent(cell)`` in it replaced by ``new(cell)``.

    Compositions are made again by their factories; blocks, which are factories of compositions, are opened. Layers
    that were written by hand stay as they are.
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
