"""A language model: the probabilities of the next token, given all tokens so far."""

from typing import Any

import flax.linen as nn

from seqjax.base import Layer
from seqjax.blocks.branches import Norm
from seqjax.cells.lstm import lstm
from seqjax.combinators import serial
from seqjax.layers.pointwise import pointwise
from seqjax.models.common import CellFactory, input_map, recurrent_layers
from seqjax.values import definition


@definition
def language_model(
    vocabulary_size: int,
    cell: CellFactory = lstm,
    *,
    hidden_size: int = 256,
    num_layers: int | None = None,
    embed_size: int | None = None,
    dropout: float = 0.0,
    norm: Norm | None = None,
    residual: bool = False,
) -> Layer:
    r"""Embedding, recurrent layers, and the logits of the next token.

    .. math::
        y_t = \mathrm{layers}(\mathrm{embed}(x_{1..t}))\, W + b, \qquad
        p(x_{t+1} = k \mid x_{1..t}) = \mathrm{softmax}(y_t)_k

    Shapes: tokens x ``[*B]`` -> logits y ``[*B, V]``; params and carry are tuples of three: embedding, layers, head.

    Gradients: those of the cell over time; see `seqjax.REGISTRY`.

    Args:
        vocabulary_size: V.
        cell: a factory ``hidden_size -> Cell or Layer`` such as ``gru`` or ``partial(griffin, depth=3, num_heads=4)``;
            a name of the registry; or a tuple of these, which the layers take in turn.
        hidden_size: the width of every layer.
        num_layers: the number of layers; by default one per entry of `cell`.
        embed_size: the width of the embedding; by default `hidden_size`.
        dropout: the rate of dropout after the embedding and after every layer. It acts only with a key.
        norm: "rms" or "layer" normalizes the input of every layer; see `seqjax.stack`.
        residual: whether each layer's input is added to its output.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from seqjax.training import cross_entropy, init_train_state, make_train_step
        >>> model, optimizer = sj.models.language_model(30, sj.gru, hidden_size=16), optax.adam(1e-2)
        >>> tokens = jnp.tile(jnp.arange(9)[:, None], 4)                                # [T + 1, B]
        >>> state = init_train_state(model, optimizer, jax.random.key(0), tokens[0])
        >>> step = make_train_step(model, cross_entropy, optimizer)
        >>> state, metrics = step(state, sj.Batch(tokens[:-1], tokens[1:]))
        >>> sampler, prompt = sj.categorical(top_p=0.9), tokens[:3]
        >>> out = sj.generate(model, state.params, None, prompt, max_length=5, sampler=sampler, key=jax.random.key(1))
        >>> out.tokens.shape
        (5, 4)

    References:
        Mikolov et al. 2010, "Recurrent neural network based language model", Interspeech.
        De et al. 2024, "Griffin: mixing gated linear recurrences with local attention for efficient language models",
        arXiv:2402.19427 (a hybrid, ``cell=partial(griffin, depth=3, num_heads=4)``).
    """
    who = "language_model"
    options: dict[str, Any] = {"dropout": dropout, "norm": norm, "residual": residual}
    return serial(
        input_map(who, vocabulary_size, hidden_size, embed_size, dropout),
        recurrent_layers(who, cell, hidden_size, num_layers, **options),
        pointwise(nn.Dense(vocabulary_size)),
    )
