"""What the models share: which cells they take, the map of their inputs, and a decoder of tokens."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from seqjax.base import Cell, Layer
from seqjax.blocks.branches import Norm
from seqjax.blocks.stack import stack
from seqjax.cells import REGISTRY, vector
from seqjax.checks import check_multiple, check_whole, check_whole_or_none, check_within
from seqjax.combinators import bidirectional, conditioned, serial, with_memory
from seqjax.layers.dropout import dropout as dropout_layer
from seqjax.layers.pointwise import pointwise
from seqjax.layers.recurrent import recurrent
from seqjax.names import known_name

CellFactory = Callable[[int], Cell | Layer] | str | tuple
"""How a model is told which cell it has: a factory ``hidden_size -> Cell or Layer``, a name of the registry, or a tuple
of these, which the layers take in turn."""


def with_dropout(layer: Layer, rate: float) -> Layer:
    """Return a layer with dropout on its outputs; the paths of its params do not depend on the rate."""
    return serial(layer, dropout_layer(rate)) if rate else serial(layer)


def made(who: str, cell: Any, width: int) -> Cell | Layer:
    """Return the cell or layer that a factory, or an entry of the registry, makes for a width."""
    if isinstance(cell, str):
        known_name(cell, [name for name, entry in REGISTRY.items() if entry.example is vector])
        return REGISTRY[cell].make(width)
    if isinstance(cell, Cell | Layer) or not callable(cell):
        raise TypeError(
            f"{who}(cell): expected a factory hidden_size -> Cell or Layer, such as lstm or partial(lstm, "
            f"forget_bias=2.0), or a name of the registry, got {cell!r}. Pass the factory itself, and hidden_size=."
        )
    result = cell(width)
    if not isinstance(result, Cell | Layer):
        raise TypeError(f"{who}(cell): expected {cell!r} to return a Cell or Layer, got {result!r}.")
    return result


def recurrent_layers(
    who: str,
    cell: CellFactory,
    hidden_size: int,
    num_layers: int | None,
    *,
    dropout: float,
    norm: Norm | None = None,
    residual: bool = False,
    both: bool = False,
) -> Layer:
    """Return a `stack` with outputs ``[*B, H]`` and dropout on the outputs of every layer."""
    check_whole(f"{who}(hidden_size)", hidden_size)
    check_whole_or_none(f"{who}(num_layers)", num_layers)
    check_within(f"{who}(dropout)", dropout)
    make = partial(both_ways if both else made, who)
    cells = tuple(make(each, hidden_size) for each in (cell if isinstance(cell, tuple) else (cell,)))
    return with_dropout(stack(cells, num_layers, dropout=dropout, norm=norm, residual=residual), dropout)


def both_ways(who: str, cell: Any, width: int) -> Layer:
    """Return what a factory makes in both directions, with outputs of the width.

    A cell has half of the units in each direction. A layer may need inputs of its own width, as blocks with residual
    connections do: each direction has the whole width, and the output is the mean of both.
    """
    whole = made(who, cell, width)
    if isinstance(whole, Layer):
        return serial(bidirectional(whole, merge="sum"), pointwise(halved))
    check_multiple(f"{who}(hidden_size) of both directions", width)
    half = made(who, cell, width // 2)
    return bidirectional(recurrent(half))  # type: ignore[arg-type]


def halved(x: jax.Array) -> jax.Array:
    """Return half of the input."""
    return x / 2


def embedding(who: str, name: str, size: int, width: int, dropout: float) -> Layer:
    """Return the map of tokens to vectors; `name` is that of the argument with the number of tokens."""
    check_whole(f"{who}({name})", size)
    check_within(f"{who}(dropout)", dropout)
    return with_dropout(pointwise(nn.Embed(size, width)), dropout)


def input_map(
    who: str, vocabulary_size: int | None, width: int, embed_size: int | None, dropout: float
) -> Layer:
    """Return an embedding for tokens, or a dense layer for vectors."""
    check_whole_or_none(f"{who}(vocabulary_size)", vocabulary_size)
    check_whole_or_none(f"{who}(embed_size)", embed_size)
    width = width if embed_size is None else embed_size
    if vocabulary_size is not None:
        return embedding(who, "vocabulary_size", vocabulary_size, width, dropout)
    return with_dropout(pointwise(nn.Dense(width)), 0.0)


def token_decoder(
    who: str,
    name: str,
    vocabulary_size: int,
    attention: Any,
    feed: bool,
    layers: Layer,
    hidden_size: int,
    dropout: float,
) -> Layer:
    r"""Return a decoder of tokens for `encoder_decoder`, whose encoder has outputs of width H.

    .. math::
        h_t = \mathrm{layers}(\mathrm{embed}(x_t) + s W), \qquad
        y_t = \tanh([h_t, c_t] W_o + b_o)\, W_y + b_y

    Here s is the summary of the source, and :math:`c_t` is what the attention reads at step t. Without an attention
    there is no :math:`c_t`.
    """
    reader = conditioned(layers, hidden_size, merge="add")
    if attention is not None:
        reader = with_memory(reader, attention, memory_size=hidden_size, feed=feed)
    joined = with_dropout(pointwise(nn.Sequential([nn.Dense(hidden_size), nn.tanh])), dropout)
    embed = embedding(who, name, vocabulary_size, hidden_size, dropout)
    return serial(embed, reader, joined, pointwise(nn.Dense(vocabulary_size)))
