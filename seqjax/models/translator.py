"""A translator: an encoder reads one sequence of tokens, and a decoder writes another."""

from typing import Any

from seqjax.base import Layer
from seqjax.blocks.branches import Norm
from seqjax.cells.gru import gru
from seqjax.combinators import encoder_decoder, serial
from seqjax.layers.cross_attention import scaled_dot_attention
from seqjax.models.common import CellFactory, embedding, recurrent_layers, token_decoder
from seqjax.values import definition


@definition
def translator(
    source_size: int,
    target_size: int,
    cell: CellFactory = gru,
    *,
    attention: Any = scaled_dot_attention(1),  # noqa: B008 (a frozen value)
    feed: bool = False,
    hidden_size: int = 128,
    num_layers: int | None = None,
    dropout: float = 0.0,
    norm: Norm | None = None,
    residual: bool = False,
) -> Layer:
    r"""An `encoder_decoder` from tokens to tokens: a bidirectional encoder, and a decoder with attention.

    .. math::
        m_{1..S} = \mathrm{encoder}(\mathrm{source}), \qquad
        h_t = \mathrm{decoder}(\mathrm{embed}(x_t) + \bar m W), \qquad
        c_t = \mathrm{attention}(m, h_t), \qquad y_t = \tanh([h_t, c_t] W_o + b_o)\, W_y + b_y

    with the mean :math:`\bar m`, which every step reads. Without attention the mean is all that the decoder knows of
    the source. ``Batch.context`` is ``Source(tokens [B, S], mask [B, S])``; the inputs are START and the target, and
    the targets are the target and END.

    Shapes: tokens x ``[*B]`` -> logits y ``[*B, V]`` of V target tokens; memory ``[S, *B, H]``; params
    ``EncoderDecoderParams(encoder, decoder)``.

    Gradients: see `seqjax.encoder_decoder`. Attention connects each output with each source token by one edge.

    Args:
        source_size: the number of source tokens.
        target_size: V.
        cell: a factory ``hidden_size -> Cell or Layer``, a name of the registry, or a tuple of these for the layers in
            turn; of encoder and decoder.
        attention: such as ``additive_attention(128)``, ``multiplicative_attention()`` or ``scaled_dot_attention(1)``;
            None for no attention.
        feed: whether the decoder's layers also read what the step before found; its steps then run one after another.
        hidden_size: the width H of every layer; an encoder of cells has H/2 units per direction.
        num_layers: the number of layers of the encoder, and of the decoder; by default one per entry of `cell`.
        dropout: the rate of dropout after embeddings, layers and the joint output. It acts only with a key.
        norm: "rms" or "layer" normalizes the input of every layer; see `seqjax.stack`.
        residual: whether each layer's input is added to its output.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from seqjax.training import cross_entropy, init_train_state, make_train_step
        >>> model, optimizer = sj.models.translator(30, 40, sj.gru, hidden_size=16), optax.adam(1e-2)
        >>> source = sj.Source(jnp.ones((4, 7), int), jnp.arange(7) < jnp.asarray([[7], [5], [6], [2]]))
        >>> batch = sj.Batch(jnp.ones((5, 4), int), jnp.ones((5, 4), int), context=source)
        >>> state = init_train_state(model, optimizer, jax.random.key(0), batch.xs[0])
        >>> state, metrics = make_train_step(model, cross_entropy, optimizer)(state, batch)
        >>> start = jnp.ones((1, 4), int)                                                      # START of each sentence
        >>> carry = model.condition(state.params, model.initial_carry(state.params, start[0]), source)
        >>> sj.beam_search(model, state.params, carry, start, beam_size=3, max_length=6, end_token=2).tokens.shape
        (6, 4, 3)

    References:
        Bahdanau, Cho, Bengio 2015, "Neural machine translation by jointly learning to align and translate",
        arXiv:1409.0473 (a bidirectional encoder, and attention).
        Luong, Pham, Manning 2015, "Effective approaches to attention-based neural machine translation",
        arXiv:1508.04025, eq. 5 (the joint output).
    """
    who = "translator"
    options: dict[str, Any] = {"dropout": dropout, "norm": norm, "residual": residual}
    encoder = serial(
        embedding(who, "source_size", source_size, hidden_size, dropout),
        recurrent_layers(who, cell, hidden_size, num_layers, both=True, **options),
    )
    layers = recurrent_layers(who, cell, hidden_size, num_layers, **options)
    decoder = token_decoder(who, "target_size", target_size, attention, feed, layers, hidden_size, dropout)
    return encoder_decoder(encoder, decoder)
