"""A captioner: a convolutional network reads an image, and a decoder writes a text about it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from seqjax.base import Layer
from seqjax.blocks.branches import Norm
from seqjax.cells.lstm import lstm
from seqjax.combinators import encoder_decoder
from seqjax.layers.cross_attention import scaled_dot_attention
from seqjax.models.common import CellFactory, recurrent_layers, token_decoder
from seqjax.values import definition


class ImageGrid(nn.Module):
    """Three convolutions of 3 x 3: an image ``[R, C, 3]`` becomes a grid of vectors ``[ceil(R/4) * ceil(C/4), M]``.

    Pixels of an integer dtype are scaled from 0..255 to -1/2..1/2. A learned vector is added at each place of the grid,
    so that attention can find places.
    """

    features: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        x = image.astype(jnp.float32) / 255 - 0.5 if jnp.issubdtype(image.dtype, jnp.integer) else image
        for features, stride in ((32, 2), (64, 2), (self.features, 1)):
            x = nn.Conv(features, (3, 3), strides=(stride, stride))(x)
            x = nn.relu(nn.LayerNorm()(x))
        grid = x.reshape(-1, self.features)
        return grid + self.param("places", nn.initializers.zeros, grid.shape).astype(grid.dtype)


@definition
def captioner(
    vocabulary_size: int,
    cell: CellFactory = lstm,
    *,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    image_dtype: Any = jnp.uint8,
    encoder: Any = None,
    attention: Any = scaled_dot_attention(1),  # noqa: B008 (a frozen value)
    feed: bool = False,
    hidden_size: int = 96,
    num_layers: int | None = None,
    dropout: float = 0.0,
    norm: Norm | None = None,
    residual: bool = False,
) -> Layer:
    r"""An `encoder_decoder` from images to tokens: a small convolutional network, and a decoder with attention.

    .. math::
        m_{1..S} = \mathrm{encoder}(\mathrm{image}), \qquad
        h_t = \mathrm{decoder}(\mathrm{embed}(x_t) + \bar m W), \qquad
        c_t = \mathrm{attention}(m, h_t), \qquad y_t = \tanh([h_t, c_t] W_o + b_o)\, W_y + b_y

    with the mean :math:`\bar m` of the S places of the image, which every step reads. Without attention the mean is
    all that the decoder knows of the image. ``Batch.context`` is ``Source(images [B, *image_shape])``, or the array of
    images.

    Shapes: tokens x ``[*B]`` -> logits y ``[*B, V]``; memory ``[S, *B, H]``; params
    ``EncoderDecoderParams(encoder, decoder)``.

    Gradients: see `seqjax.encoder_decoder`. Attention connects each word with each place of the image by one edge.

    Args:
        vocabulary_size: V.
        cell: a factory ``hidden_size -> Cell or Layer``, a name of the registry, or a tuple of these for the layers in
            turn.
        image_shape: rows, columns and channels.
        image_dtype: of the pixels.
        encoder: a flax module from an image to a memory ``[S, hidden_size]``; by default `ImageGrid`, for small images.
        attention: such as ``additive_attention(96)`` or ``scaled_dot_attention(1)``; None for no attention.
        feed: whether the decoder's layers also read what the step before found; its steps then run one after another.
        hidden_size: the width H of every layer and of the memory.
        num_layers: the number of layers of the decoder; by default one per entry of `cell`.
        dropout: the rate of dropout after the embedding, layers and the joint output. It acts only with a key.
        norm: "rms" or "layer" normalizes the input of every layer; see `seqjax.stack`.
        residual: whether each layer's input is added to its output.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from seqjax.training import cross_entropy, init_train_state, make_train_step
        >>> model = sj.models.captioner(40, sj.gru, image_shape=(8, 8, 3), hidden_size=16)
        >>> images, words, optimizer = jnp.ones((4, 8, 8, 3), jnp.uint8), jnp.ones((5, 4), int), optax.adam(1e-2)
        >>> batch = sj.Batch(words, words, context=sj.Source(images))
        >>> state = init_train_state(model, optimizer, jax.random.key(0), words[0])
        >>> state, metrics = make_train_step(model, cross_entropy, optimizer)(state, batch)
        >>> carry = model.condition(state.params, model.initial_carry(state.params, words[0]), sj.Source(images))
        >>> sj.generate(model, state.params, carry, words[:1], max_length=6, end_token=2).tokens.shape
        (6, 4)

    References:
        Xu et al. 2015, "Show, attend and tell: neural image caption generation with visual attention",
        arXiv:1502.03044, sections 3.1 and 4.2 (a grid of vectors as the memory, and soft attention).
        Vinyals et al. 2015, "Show and tell: a neural image caption generator", arXiv:1411.4555 (without attention).
    """
    who = "captioner"
    layers = recurrent_layers(
        who, cell, hidden_size, num_layers, dropout=dropout, norm=norm, residual=residual
    )
    decoder = token_decoder(
        who, "vocabulary_size", vocabulary_size, attention, feed, layers, hidden_size, dropout
    )
    reader = ImageGrid(hidden_size) if encoder is None else encoder
    return encoder_decoder(reader, decoder, source_shape=tuple(image_shape), source_dtype=image_dtype)
