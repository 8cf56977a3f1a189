"""What all converters share: gates in another order, stacks of directions, and how a refusal reads."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Cell, Layer, Params
from seqjax.combinators import bidirectional, reverse, serial
from seqjax.layers import dropout, recurrent
from seqjax.values import origin


class Imported(NamedTuple):
    """A layer, time-major as all layers are, and its params."""

    layer: Layer
    params: Params


class Direction(NamedTuple):
    """One direction of one recurrent layer: a cell, its params, and whether it runs backward in time."""

    cell: Cell
    params: Any
    backward: bool = False


Stack = list[list[Direction]]
"""Recurrent layers from the first to the last; one or two directions each."""


def host(value: Any) -> Any:
    """Return an array as a NumPy array, in the dtype that JAX would give it: float64 only where JAX has it."""
    array = np.asarray(value)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))


def reorder(weights: Any, gates: str, wanted: str) -> jax.Array:
    """Return weights ``[..., G*H]`` whose columns come in the order `gates` with the columns in the order `wanted`.

    Example:
        >>> reorder(jnp.array([1, 2, 3]), "zrn", "rzn")
        Array([2, 1, 3], dtype=int32)
    """
    blocks = dict(zip(gates, jnp.split(jnp.asarray(weights), len(gates), -1), strict=True))
    return jnp.concatenate([blocks[gate] for gate in wanted], -1)


def assemble(stack: Stack, dropout_rate: float = 0.0) -> Imported:
    """Return the layer of a stack and its params; dropout acts between its layers."""
    layers, params = zip(*map(_one_layer, stack))
    if len(stack) == 1:
        return Imported(layers[0], params[0])
    if not dropout_rate:
        return Imported(serial(*layers), tuple(params))
    between: list = [layers[0]]
    values: list = [params[0]]
    for layer, value in zip(layers[1:], params[1:]):
        between += [dropout(dropout_rate), layer]
        values += [(), value]
    return Imported(serial(*between), tuple(values))


def _one_layer(directions: list[Direction]) -> tuple[Layer, Any]:
    params = [jax.tree.map(jnp.asarray, each.params) for each in directions]
    layers = [recurrent(each.cell) for each in directions]
    if len(directions) == 1:
        return (reverse(layers[0]) if directions[0].backward else layers[0]), params[0]
    same = layers[0] == layers[1]
    return bidirectional(layers[0], None if same else layers[1]), tuple(params)


def stack_of(who: str, layer: Layer, params: Params) -> tuple[Stack, float]:
    """Return the inverse of `assemble`: the stack of a layer, and its rate of dropout. The params may be traced.

    Raises:
        TypeError: for a layer of other parts, which the error names.
    """
    found = _made_by(layer)
    parts: Sequence = (layer,)
    values: Sequence = (params,)
    if found is not None and found[0] is serial:
        parts, values = found[1]["layers"], params
    stack: Stack = []
    rates = set()
    for part, value in zip(parts, values, strict=True):
        made = _made_by(part)
        if made is not None and made[0] is dropout:
            rates.add(made[1]["rate"])
        else:
            stack.append(_directions(who, part, value))
    if len(rates) > 1 or (rates and len(parts) != 2 * len(stack) - 1) or not stack:
        raise TypeError(
            f"{who}: expected recurrent layers with no dropout between them, or one rate between all, got {layer!r}."
        )
    return stack, rates.pop() if rates else 0.0


def _directions(who: str, layer: Layer, params: Any) -> list[Direction]:
    made = _made_by(layer)
    factory, arguments = made if made is not None else (None, {})
    if factory is recurrent:
        return [Direction(arguments["cell"], params)]
    if factory is reverse:
        (inner,) = _directions(who, arguments["layer"], params)
        return [inner._replace(backward=True)]
    if factory is bidirectional and arguments["merge"] == "concatenate":
        halves = [arguments["forward"], arguments["backward"] or arguments["forward"]]
        (forward,), (backward,) = (
            _directions(who, half, value) for half, value in zip(halves, params, strict=True)
        )
        return [forward, backward._replace(backward=True)]
    raise TypeError(
        f"{who}: expected recurrent(cell), reverse or bidirectional of it (merge='concatenate'), or serial of these, "
        f"got {layer!r}."
    )


def _made_by(layer: Layer) -> tuple | None:
    return origin(layer) if isinstance(layer, Layer) else None


def cell_of(who: str, direction: Direction, wanted: Iterable) -> tuple[Any, dict[str, Any]]:
    """Return the factory of a direction's cell and its arguments; raise a TypeError for other factories."""
    made = origin(direction.cell)
    wanted = list(wanted)
    if made is None or made[0] not in wanted:
        names = ", ".join(factory.__name__ for factory in wanted)
        raise TypeError(f"{who}: expected a layer of one of the cells {names}, got {direction.cell!r}.")
    return made


def refuse(who: str, attribute: str, value: Any, wanted: str, remedy: str) -> TypeError:
    """Return the error for an attribute that a target or source cannot express."""
    return TypeError(f"{who}: expected {attribute}={wanted}, got {attribute}={value!r}. {remedy}")


def check_shapes(who: str, expected: dict[str, tuple[Any, tuple[int, ...]]]) -> None:
    """Raise a ValueError unless each named array has its shape."""
    for name, (array, shape) in expected.items():
        if tuple(np.shape(array)) != tuple(shape):
            raise ValueError(f"{who}: expected {name} {list(shape)}, got {list(np.shape(array))}.")
