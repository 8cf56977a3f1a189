"""Recurrent layers on top of each other, as in PyTorch's multi-layer modules."""

from typing import Any

from seqjax.base import Cell, Layer, Method
from seqjax.blocks.branches import Norm, norm_layer
from seqjax.checks import check_whole, check_within
from seqjax.combinators import bidirectional as both_ways
from seqjax.combinators import residual as plus_input
from seqjax.combinators import serial
from seqjax.combinators.common import check_layers
from seqjax.layers.dropout import dropout as dropout_layer
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Auto
from seqjax.values import definition


@definition
def stack(
    cell: Any,
    num_layers: int | None = None,
    *,
    dropout: float = 0.0,
    bidirectional: bool = False,
    norm: Norm | None = None,
    residual: bool = False,
    method: Method = Auto(),  # noqa: B008 (a frozen value)
) -> Layer:
    r"""Recurrent layers on top of each other; with the first three options the structure of ``torch.nn.LSTM``.

    .. math::
        x^{(l+1)} = \big[x^{(l)} +\big]\; \mathrm{dropout}\big(\mathrm{layer}_l([\mathrm{norm}]\, x^{(l)})\big)

    The terms in brackets are there with ``residual=True`` and with a norm. Dropout acts on the outputs of all layers
    but the last. A norm at the end follows a residual stack with norms, as in the blocks of the papers.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``, or ``[*B, 2H]`` with ``bidirectional=True``; one entry of params and carry
    per layer. An entry is a tuple of the norm's, the layer's, and the dropout's, where there are such. The params of a
    bidirectional layer are a pair.

    Gradients: over time those of the cells; over depth a product of Jacobians, or with ``residual=True``
    of identities plus Jacobians.

    Args:
        cell: a cell, a layer, or a tuple of them: layer l is made from entry l modulo their number. So
            ``(griffin_block(8), griffin_block(8), transformer_block(8, num_heads=2, window=64))`` repeats two recurrent
            blocks and one of attention.
        num_layers: the number of layers, each with params of its own; by default one per entry of `cell`.
        dropout: the rate of dropout between layers. It acts only when `unroll` receives a key.
        bidirectional: whether each layer also runs backward; the outputs of both directions are concatenated.
        norm: "rms" or "layer" normalizes the input of every layer.
        residual: whether each layer's input is added to its output; both must have the same width.
        method: the method that runs cells. Layers have methods of their own.

    Raises:
        TypeError: for an entry that is neither a cell nor a layer.

    Example:
        The structure of ``torch.nn.LSTM(3, 8, num_layers=2, dropout=0.1, bidirectional=True)``:

        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.stack(sj.lstm(8), 2, dropout=0.1, bidirectional=True)
        >>> xs = jnp.ones((10, 4, 3))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> layer.unroll(params, None, xs, key=jax.random.key(1))[1].shape
        (10, 4, 16)
        >>> forward, backward = params[1][0]
        >>> forward.w_x.shape                                       # the second layer reads both directions
        (16, 32)

    References:
        The documentation of ``torch.nn.LSTM``: num_layers, dropout, bidirectional.
    """
    check_within("stack(dropout)", dropout)
    cells = cell if isinstance(cell, tuple) else (cell,)
    if not cells:
        raise ValueError("stack(cell): expected one cell or more, got none.")
    depth = len(cells)
    if num_layers is not None:
        depth = check_whole("stack(num_layers)", num_layers, depth, note=", the number of cells")
    layers = tuple(recurrent(each, method) if isinstance(each, Cell) else each for each in cells)
    for each in layers:
        if callable(each):
            raise TypeError(
                f"stack(cell): expected cells or layers such as lstm(256), got {each!r}. Call the factory first."
            )
    check_layers("stack", layers)
    parts: list[Layer] = []
    for number in range(depth):
        layer = layers[number % len(layers)]
        before = () if norm is None else (norm_layer(norm),)
        after = (dropout_layer(dropout),) if dropout and number < depth - 1 else ()
        part = serial(*before, both_ways(layer) if bidirectional else layer, *after)
        parts.append(plus_input(part) if residual else part)
    if norm is not None and residual:
        parts.append(norm_layer(norm))
    return serial(*parts)
