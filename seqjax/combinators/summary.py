"""A table of the layers of a model, with the shapes of outputs and params."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from seqjax.base import Key, Layer, Params, X
from seqjax.checks import check_whole_or_none
from seqjax.combinators.common import check_layers, output_of
from seqjax.values import origin, show, tokenize

LONGEST_NAME = 60
"""Largest number of letters of a layer in the table; longer calls end in dots."""


class LayerRow(NamedTuple):
    """One line of a `Summary`.

    Attributes:
        depth: how many layers contain this one.
        name: the call that makes the layer; of a composition without the layers in it, which follow.
        output: the output of one time step, a pytree of `jax.ShapeDtypeStruct`.
        params: the params, a pytree of `jax.ShapeDtypeStruct`. Inside a `repeat` they are those of one repetition.
        num_params: how many numbers they have.
    """

    depth: int
    name: str
    output: Any
    params: Params
    num_params: int


@dataclass(frozen=True, eq=False)
class Summary:
    """The layers of a model; ``str`` and ``repr`` show a table.

    Attributes:
        rows: one `LayerRow` per layer, a composition before its parts.
        num_params: numbers in all params; params that several layers share count once.
        bytes_by_dtype: bytes of the params by dtype, such as ``{"float32": 4096}``.
        carry: the initial carry for the given x, a pytree of `jax.ShapeDtypeStruct`.
    """

    rows: tuple[LayerRow, ...]
    num_params: int
    bytes_by_dtype: dict[str, int]
    carry: Any = field(repr=False)

    def __str__(self) -> str:
        last = {number for number, row in enumerate(self.rows) if not self._contains(number)}
        lines = [("layer", "output", "params", "shapes of params")]
        for number, row in enumerate(self.rows):
            shapes = _named_shapes(row.params) if number in last else ""
            lines.append(("  " * row.depth + row.name, _shapes(row.output), f"{row.num_params:,}", shapes))
        width = [max(len(line[column]) for line in lines) for column in range(3)]
        table = [f"{a:<{width[0]}}  {b:<{width[1]}}  {c:>{width[2]}}  {d}".rstrip() for a, b, c, d in lines]
        sizes = ", ".join(f"{_bytes(size)} in {dtype}" for dtype, size in self.bytes_by_dtype.items())
        total = f"total: {self.num_params:,} params{sizes and f', {sizes}'}"
        total += f"; {_count(self.carry):,} numbers in the carry"
        return "\n".join([*table, total])

    __repr__ = __str__

    def _contains(self, number: int) -> bool:
        """Return whether the next row is a part of this one."""
        after = self.rows[number + 1 : number + 2]
        return bool(after) and after[0].depth > self.rows[number].depth


def summary(layer: Layer, x: X, *, depth: int | None = None) -> Summary:
    """Return a table of the layers of a model: outputs, and the shapes and numbers of params. No array is made.

    Compositions and blocks are opened; a layer written by hand is one row.

    Args:
        layer: any layer or model.
        x: one time step, arrays or `jax.ShapeDtypeStruct` ``[*B, ...]``, as for ``layer.init``.
        depth: how many levels of parts to show; None shows all.

    Raises:
        TypeError: for another value than a layer.
        ValueError: from ``layer.init``, for an input that the layer cannot take.

    Example:
        >>> import flax.linen as nn, jax.numpy as jnp, seqjax as sj
        >>> model = sj.serial(sj.stack(sj.lstm(8), 2, dropout=0.1), sj.pointwise(nn.Dense(5)))
        >>> print(sj.summary(model, jnp.ones((4, 3))))
        layer                                                         output  params  shapes of params
        serial                                                        [4, 5]     973
          stack(cell=lstm(hidden_size=8), num_layers=2, dropout=0.1)  [4, 8]     928
            serial                                                    [4, 8]     384
              recurrent(cell=lstm(hidden_size=8))                     [4, 8]     384  w_x [3, 32], w_h [8, 32], b [32]
              dropout(rate=0.1)                                       [4, 8]       0
            serial                                                    [4, 8]     544
              recurrent(cell=lstm(hidden_size=8))                     [4, 8]     544  w_x [8, 32], w_h [8, 32], b [32]
          pointwise(module=Dense(features=5))                         [4, 5]      45  bias [5], kernel [8, 5]
        total: 973 params, 3.9 kB in float32; 128 numbers in the carry
    """
    if not (isinstance(layer, Layer) and layer.batch_major):
        check_layers("summary", (layer,))
    deepest = check_whole_or_none("summary(depth)", depth, 0)
    rows: list[LayerRow] = []
    recorded = _recorded(layer, 0, rows)
    params, carry = jax.eval_shape(lambda key: _made(recorded, key, x), jax.random.key(0))
    sizes: dict[str, int] = {}
    for leaf in jax.tree.leaves(params):
        sizes[leaf.dtype.name] = sizes.get(leaf.dtype.name, 0) + math.prod(leaf.shape) * leaf.dtype.itemsize
    shown = (row for row in rows if deepest is None or row.depth <= deepest)
    return Summary(tuple(shown), _count(params), sizes, carry)


def _made(layer: Layer, key: Key, x: X) -> tuple[Params, Any]:
    params = layer.init(key, x)
    return params, layer.initial_carry(params, x)


def _recorded(layer: Layer, depth: int, rows: list[LayerRow]) -> Layer:
    """Return a copy of a layer whose ``init`` adds its row, and then the rows of its parts."""
    opened, name = _opened(layer, lambda part: _recorded(part, depth + 1, rows))

    def init(key: Key, x: X) -> Params:
        place = len(rows)
        rows.append(LayerRow(depth, name, None, None, 0))
        params = opened.init(key, x)
        output = rows[place + 1].output if layer.batch_major else output_of(layer, params, x)
        rows[place] = LayerRow(depth, name, _structs(output), _structs(params), _count(params))
        return params

    recorded = dataclasses.replace(opened, init=init)
    object.__setattr__(
        recorded, "_token", layer._token
    )  # equal to the layer: `output_of` is computed once for both
    return recorded


def _structs(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _opened(layer: Layer, record: Callable[[Layer], Layer]) -> tuple[Layer, str]:
    """Return a layer with recorded parts, and its name; a layer without parts is returned as it is."""
    made = origin(layer)
    if made is None:
        return layer, "a layer written by hand"
    factory, arguments = made
    found: list[Layer] = []

    def recorded(value: Any) -> Any:
        if isinstance(value, Layer):
            found.append(value)
            return record(value)
        return tuple(map(recorded, value)) if type(value) is tuple else value

    bare: Callable = inspect.unwrap(factory)
    signature = inspect.signature(bare)
    inner = _call(bare, signature, arguments)
    if origin(inner) is not None:  # a block: a composition of other layers
        return _opened(inner, record)[0], _name(factory, signature, arguments)
    new = {name: recorded(value) for name, value in arguments.items()}
    opened = _call(bare, signature, new) if found else layer
    return opened, _name(factory, signature, arguments)


def _call(function: Callable, signature: inspect.Signature, arguments: dict[str, Any]) -> Any:
    bound = inspect.BoundArguments(signature, dict(arguments))  # type: ignore[arg-type]
    return function(*bound.args, **bound.kwargs)


def _has_layers(value: Any) -> bool:
    return isinstance(value, Layer) or (type(value) is tuple and any(map(_has_layers, value)))


def _name(factory: Callable, signature: inspect.Signature, arguments: dict[str, Any]) -> str:
    """Return the call of a factory without layers and without arguments at their defaults."""
    shown = [
        f"{name}={show(tokenize(value, name))}"
        for name, value in arguments.items()
        if not _has_layers(value)
        and value != ()
        and tokenize(value, name) != tokenize(signature.parameters[name].default, name)
    ]
    name = " ".join(f"{factory.__name__}({', '.join(shown)})".removesuffix("()").split())
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def _count(params: Params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _shapes(tree: Any) -> str:
    return ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _named_shapes(params: Params) -> str:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = ((jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves)
    return ", ".join(f"{name} {list(leaf.shape)}".strip() for name, leaf in named)


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000  # type: ignore[assignment]
    return f"{size:.1f} {unit}" if unit != "B" else f"{size} B"
