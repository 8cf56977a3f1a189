"""A recognizer of labels without their times, such as speech or handwriting."""

from typing import Any

import flax.linen as nn

from seqjax.base import Layer
from seqjax.blocks.branches import Norm
from seqjax.cells.lstm import lstm
from seqjax.checks import check_whole
from seqjax.combinators import serial
from seqjax.layers.pointwise import pointwise
from seqjax.models.common import CellFactory, input_map, recurrent_layers
from seqjax.values import definition


@definition
def ctc_recognizer(
    num_classes: int,
    cell: CellFactory = lstm,
    *,
    hidden_size: int = 128,
    num_layers: int | None = None,
    bidirectional: bool = True,
    dropout: float = 0.0,
    norm: Norm | None = None,
    residual: bool = False,
) -> Layer:
    r"""A dense map of features, recurrent layers, and at every step the logits of a label or the blank.

    .. math::
        y_t = \mathrm{layers}(x W_x + b_x)_t\, W + b, \qquad \pi_t \sim \mathrm{softmax}(y_t)

    The labels are what is left of a path :math:`\pi_{1..T}` after repeated classes are merged and blanks are removed.
    Class 0 is the blank. The loss is `seqjax.training.ctc_loss`; `seqjax.best_path` returns the labels.

    Shapes: features x ``[*B, D]`` -> logits y ``[*B, K]``; params and carry are tuples of three.

    Gradients: those of `seqjax.training.ctc_loss` are dense in time, so that most paths through time are short.

    Args:
        num_classes: K, with the blank.
        cell: a factory ``hidden_size -> Cell or Layer``, a name of the registry, or a tuple of these for the layers in
            turn.
        hidden_size: the width of every layer, both directions together; see `seqjax.models`.
        num_layers: the number of layers; by default one per entry of `cell`.
        bidirectional: whether each layer also runs backward. A causal model transcribes while it listens.
        dropout: the rate of dropout after every layer. It acts only with a key.
        norm: "rms" or "layer" normalizes the input of every layer; see `seqjax.stack`.
        residual: whether each layer's input is added to its output.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from seqjax.training import ctc_loss, init_train_state, make_train_step
        >>> model, optimizer = sj.models.ctc_recognizer(11, sj.gru, hidden_size=16), optax.adam(1e-2)
        >>> features, labels = jnp.ones((20, 2, 8)), jnp.asarray([[3, 7, 7], [1, -1, -1]])     # -1 fills rows up
        >>> mask = sj.lengths_to_mask(jnp.asarray([20, 12]), 20)
        >>> state = init_train_state(model, optimizer, jax.random.key(0), features[0])
        >>> step = make_train_step(model, ctc_loss, optimizer)
        >>> state, metrics = step(state, sj.Batch(features, labels, mask=mask))
        >>> logits = model.unroll(state.params, None, features, mask=mask)[1]
        >>> sj.best_path(logits, mask).shape
        (2, 20)

    References:
        Graves, Mohamed, Hinton 2013, "Speech recognition with deep recurrent neural networks", arXiv:1303.5778, section
        2 and 3.1 (deep bidirectional LSTM with CTC).
    """
    who = "ctc_recognizer"
    check_whole(f"{who}(num_classes)", num_classes, 2)
    options: dict[str, Any] = {
        "dropout": dropout,
        "norm": norm,
        "residual": residual,
        "both": bidirectional,
    }
    return serial(
        input_map(who, None, hidden_size, None, 0.0),
        recurrent_layers(who, cell, hidden_size, num_layers, **options),
        pointwise(nn.Dense(num_classes)),
    )
