"""A classifier of whole sequences: texts, series or gestures."""

from typing import Any, Literal

import flax.linen as nn

from seqjax.base import Layer
from seqjax.blocks.branches import Norm
from seqjax.cells.lstm import lstm
from seqjax.checks import check_one_of, check_whole
from seqjax.combinators import serial
from seqjax.layers.pointwise import pointwise
from seqjax.layers.pooling import running_mean
from seqjax.models.common import CellFactory, input_map, recurrent_layers
from seqjax.values import definition


@definition
def sequence_classifier(
    num_classes: int,
    cell: CellFactory = lstm,
    *,
    vocabulary_size: int | None = None,
    hidden_size: int = 128,
    num_layers: int | None = None,
    embed_size: int | None = None,
    bidirectional: bool = True,
    pool: Literal["mean", "last"] = "mean",
    dropout: float = 0.0,
    norm: Norm | None = None,
    residual: bool = False,
) -> Layer:
    r"""Input map, recurrent layers, a pool over the steps so far, and the logits of the class.

    .. math::
        h_{1..T} = \mathrm{layers}(\mathrm{map}(x_{1..T})), \qquad
        y_t = \Big(\tfrac1t \textstyle\sum_{k \le t} h_k\Big) W + b \;\;\text{or}\;\; h_t W + b

    The last output :math:`y_T` has the logits of the sequence; its loss is ``last_step(cross_entropy)``. A causal model
    (``bidirectional=False``) also classifies what it has read so far, step by step.

    Shapes: tokens x ``[*B]``, or vectors ``[*B, D]`` -> logits y ``[*B, K]``; params and carry are tuples of four.

    Gradients: with "mean" every step has a path of weight 1/T to the loss that is not through time; with "last" all
    paths are.

    Args:
        num_classes: K.
        cell: a factory ``hidden_size -> Cell or Layer``, a name of the registry, or a tuple of these for the layers in
            turn.
        vocabulary_size: the number of tokens; None for vectors.
        hidden_size: the width of every layer, both directions together; see `seqjax.models`.
        num_layers: the number of layers; by default one per entry of `cell`.
        embed_size: the width of the input map; by default `hidden_size`.
        bidirectional: whether each layer also runs backward.
        pool: "mean" of the outputs so far, or the "last" output.
        dropout: the rate of dropout after the embedding and after every layer. It acts only with a key.
        norm: "rms" or "layer" normalizes the input of every layer; see `seqjax.stack`.
        residual: whether each layer's input is added to its output.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from seqjax.training import cross_entropy, init_train_state, last_step, make_train_step
        >>> model = sj.models.sequence_classifier(3, sj.gru, vocabulary_size=30, hidden_size=16)
        >>> tokens, labels, optimizer = jnp.ones((9, 4), int), jnp.asarray([0, 1, 2, 0]), optax.adam(1e-2)
        >>> mask = sj.lengths_to_mask(jnp.asarray([9, 7, 3, 5]), 9)
        >>> state = init_train_state(model, optimizer, jax.random.key(0), tokens[0])
        >>> step = make_train_step(model, last_step(cross_entropy), optimizer)
        >>> state, metrics = step(state, sj.Batch(tokens, labels, mask=mask))
        >>> logits = sj.last(model.unroll(state.params, None, tokens, mask=mask)[1], mask)
        >>> jnp.argmax(logits, -1).shape
        (4,)

    References:
        Graves, Schmidhuber 2005, "Framewise phoneme classification with bidirectional LSTM and other neural network
        architectures", Neural Networks 18 (both directions).
        Conneau et al. 2017, "Supervised learning of universal sentence representations from natural language inference
        data", arXiv:1705.02364, section 3.2 (pooling over a bidirectional LSTM).
    """
    who = "sequence_classifier"
    check_whole(f"{who}(num_classes)", num_classes)
    check_one_of(f"{who}(pool)", pool, ("mean", "last"))
    options: dict[str, Any] = {
        "dropout": dropout,
        "norm": norm,
        "residual": residual,
        "both": bidirectional,
    }
    return serial(
        input_map(who, vocabulary_size, hidden_size, embed_size, dropout),
        recurrent_layers(who, cell, hidden_size, num_layers, **options),
        *((running_mean(),) if pool == "mean" else ()),
        pointwise(nn.Dense(num_classes)),
    )
