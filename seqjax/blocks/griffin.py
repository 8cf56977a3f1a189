"""Griffin: gated linear recurrences combined with local attention."""

import jax

from seqjax.base import Layer, Method
from seqjax.blocks.branches import dense, gated, norm_layer, pre_norm
from seqjax.blocks.transformer import feed_forward, transformer_block
from seqjax.cells.rg_lru import rg_lru
from seqjax.checks import check_whole
from seqjax.combinators import serial
from seqjax.layers.convolution import causal_conv
from seqjax.layers.pointwise import pointwise
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Auto
from seqjax.values import definition


@definition
def griffin_block(
    width: int,
    *,
    recurrent_size: int | None = None,
    num_blocks: int = 1,
    kernel_size: int = 4,
    method: Method = Auto(),  # noqa: B008 (a frozen value)
) -> Layer:
    r"""The recurrent block of Griffin: a gated linear recurrence after a short convolution, then a feed-forward part.

    .. math::
        z &= x + \big(\mathrm{rg\_lru}(\mathrm{conv}(\bar x W_1)) \odot \mathrm{gelu}(\bar x W_2)\big) W_3,
            \qquad \bar x = \mathrm{norm}(x) \\
        y &= z + \mathrm{feed\_forward}(\mathrm{norm}(z))

    with a feed-forward part of hidden size 3 width, "geglu".

    Shapes: x ``[*B, width]`` -> y ``[*B, width]``.

    Gradients: those of `seqjax.rg_lru` over time; residual branches over depth.

    Args:
        width: D, of inputs and outputs.
        recurrent_size: the hidden size of the recurrence; by default 4/3 width, rounded up.
        num_blocks: the number of blocks of the gates' weights; see `seqjax.rg_lru`.
        kernel_size: how many steps the convolution reads.
        method: the method that runs the recurrence.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> block = sj.griffin_block(6)
        >>> xs = jnp.ones((10, 3, 6))
        >>> params = block.init(jax.random.key(0), xs[0])
        >>> block.unroll(params, block.initial_carry(params, xs[0]), xs)[1].shape
        (10, 3, 6)

    References:
        De et al. 2024, "Griffin: mixing gated linear recurrences with local attention for efficient language models",
        arXiv:2402.19427: figure 2, sections 2.1 to 2.3 (the maps here have no biases).
    """
    check_whole("griffin_block(width)", width)
    size = -(-4 * width // 3) if recurrent_size is None else recurrent_size
    recurrence = recurrent(rg_lru(size, num_blocks=num_blocks, input_map=False), method)
    mixing = serial(
        gated(
            serial(dense(size), causal_conv(kernel_size), recurrence),
            serial(dense(size), pointwise(jax.nn.gelu)),
        ),
        dense(width),
    )
    return serial(pre_norm(mixing), pre_norm(feed_forward(width, hidden_size=3 * width, activation="geglu")))


@definition
def griffin(
    width: int,
    depth: int,
    *,
    num_heads: int,
    window: int = 1024,
    recurrent_size: int | None = None,
    method: Method = Auto(),  # noqa: B008 (a frozen value)
) -> Layer:
    """The stack of Griffin: repeats of two recurrent blocks and one block of local attention, then RMSNorm.

    Blocks 3, 6, 9, ... are local attention with one head of keys and values; the others are `griffin_block`.

    Shapes: x ``[*B, width]`` -> y ``[*B, width]``.

    Args:
        width: the width of inputs and outputs.
        depth: the number of blocks.
        num_heads: the number of query heads of the attention.
        window: the window of the attention, in steps.
        recurrent_size: the hidden size of the recurrences, as in `griffin_block`.
        method: the method that runs recurrences and attention.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> model = sj.griffin(8, 3, num_heads=2, window=4)
        >>> model == sj.griffin(8, 3, num_heads=2, window=4)
        True

    References:
        De et al. 2024, arXiv:2402.19427: section 3 (the order, a window of 1024), section 2.1 (the last norm).
    """
    check_whole("griffin(depth)", depth)
    local = transformer_block(
        width,
        num_heads=num_heads,
        num_groups=1,
        window=window,
        hidden_size=3 * width,
        activation="geglu",
        method=method,
    )
    block = griffin_block(width, recurrent_size=recurrent_size, method=method)
    return serial(*(local if i % 3 == 2 else block for i in range(depth)), norm_layer("rms"))
