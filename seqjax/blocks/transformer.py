"""The transformer block, and the feed-forward part that most blocks share."""

from typing import Literal

import flax.linen as nn
import jax

from seqjax.base import Layer, Method
from seqjax.blocks.branches import Norm, dense, gated, pre_norm
from seqjax.cells.attention import attention
from seqjax.checks import check_one_of, check_whole
from seqjax.combinators import serial
from seqjax.layers.dropout import dropout
from seqjax.layers.pointwise import pointwise
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Auto
from seqjax.values import definition

Activation = Literal["swiglu", "geglu", "gelu"]


@definition
def feed_forward(width: int, *, hidden_size: int | None = None, activation: Activation = "swiglu") -> Layer:
    r"""The feed-forward part of a block: one hidden layer, with or without a gate.

    .. math::
        y &= (\phi(x W_1) \odot x W_2)\, W_3 && \text{(swiglu: } \phi = \mathrm{silu} \text{, geglu: gelu)} \\
        y &= \mathrm{gelu}(x W_1 + b_1)\, W_3 + b_3 && \text{(gelu)}

    Shapes: x ``[*B, D]`` -> y ``[*B, width]``.

    Args:
        width: the width of the outputs.
        hidden_size: by default 4 width for "gelu", and 8/3 width, rounded up, for the gated activations, which then
            have as many params.
        activation: "swiglu", "geglu", or "gelu" with biases.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.feed_forward(6)
        >>> params = layer.init(jax.random.key(0), jnp.ones((4, 6)))
        >>> [leaf.shape for leaf in jax.tree.leaves(params)]
        [(6, 16), (6, 16), (16, 6)]

    References:
        Shazeer 2020, "GLU variants improve transformer", arXiv:2002.05202, eq. 6 and section 3 (the hidden size).
    """
    check_one_of("feed_forward(activation)", activation, ("swiglu", "geglu", "gelu"))
    check_whole("feed_forward(width)", width)
    default = 4 * width if activation == "gelu" else -(-8 * width // 3)
    size = default if hidden_size is None else hidden_size
    check_whole("feed_forward(hidden_size)", size)
    if activation == "gelu":
        return serial(pointwise(nn.Dense(size)), pointwise(jax.nn.gelu), pointwise(nn.Dense(width)))
    phi = jax.nn.silu if activation == "swiglu" else jax.nn.gelu
    return serial(gated(serial(dense(size), pointwise(phi)), dense(size)), dense(width))


@definition
def transformer_block(
    width: int,
    *,
    num_heads: int,
    num_groups: int | None = None,
    key_size: int | None = None,
    window: int | None = None,
    max_length: int | None = None,
    rotary_base: float | None = 10000.0,
    qk_norm: bool = False,
    use_bias: bool = False,
    hidden_size: int | None = None,
    activation: Activation = "swiglu",
    norm: Norm = "rms",
    dropout_rate: float = 0.0,
    method: Method = Auto(),  # noqa: B008 (a frozen value)
) -> Layer:
    r"""A causal transformer block: attention, then a feed-forward part, each a residual branch with a norm before it.

    .. math::
        z = x + \mathrm{attention}(\mathrm{norm}(x)), \qquad y = z + \mathrm{feed\_forward}(\mathrm{norm}(z))

    The defaults are those of LLaMA: RMSNorm, rotary positions, SwiGLU, no biases. For GPT-2's block, without its
    learned positions, write
    ``transformer_block(width, num_heads=..., max_length=..., rotary_base=None, use_bias=True, activation="gelu",
    norm="layer")``.

    Shapes: x ``[*B, width]`` -> y ``[*B, width]``; the carry holds keys and values, see `seqjax.attention`.

    Gradients: they pass unchanged along the residual branches; between steps they scale with one softmax weight per
    layer.

    Args:
        width: the width of inputs and outputs.
        num_heads: N, the number of query heads.
        num_groups: G, the number of heads of keys and values; N by default.
        key_size: K; by default width / N.
        window: the window of the attention, in steps; pass either window or max_length.
        max_length: the largest length of a sequence, in steps.
        rotary_base: the base of rotary positions; None for no rotary positions.
        qk_norm: whether to normalize queries and keys.
        use_bias: whether the maps of the attention have biases.
        hidden_size: the hidden size of the feed-forward part, by default that of `feed_forward`.
        activation: the activation of the feed-forward part.
        norm: "rms" or "layer".
        dropout_rate: the dropout rate of each branch, before the sum.
        method: the method that runs the attention.

    Raises:
        ValueError: for sizes that `seqjax.attention` or `feed_forward` refuses.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> block = sj.transformer_block(8, num_heads=2, num_groups=1, window=4)
        >>> xs = jnp.ones((10, 3, 8))
        >>> params = block.init(jax.random.key(0), xs[0])
        >>> block.unroll(params, block.initial_carry(params, xs[0]), xs)[1].shape
        (10, 3, 8)

    References:
        Touvron et al. 2023, "LLaMA: open and efficient foundation language models", arXiv:2302.13971, section 2.2.
        Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3 (GPT-2).
        Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762, section 5.4 (dropout).
    """
    cell = attention(
        width,
        num_heads=num_heads,
        num_groups=num_groups,
        key_size=key_size,
        window=window,
        max_length=max_length,
        rotary_base=rotary_base,
        qk_norm=qk_norm,
        use_bias=use_bias,
    )

    def branch(layer: Layer) -> Layer:
        return pre_norm(serial(layer, dropout(dropout_rate)) if dropout_rate else layer, norm)

    mlp = feed_forward(width, hidden_size=hidden_size, activation=activation)
    return serial(branch(recurrent(cell, method)), branch(mlp))
