"""The block of Mamba, and its hybrid with local attention."""

import jax

from seqjax.base import Layer, Method
from seqjax.blocks.branches import dense, gated, norm_layer, pre_norm
from seqjax.blocks.transformer import feed_forward, transformer_block
from seqjax.cells.mamba import mamba
from seqjax.checks import check_whole
from seqjax.combinators import serial
from seqjax.layers.convolution import causal_conv
from seqjax.layers.pointwise import pointwise
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Auto
from seqjax.values import definition


@definition
def mamba_block(
    width: int,
    *,
    expansion: int = 2,
    state_size: int = 16,
    kernel_size: int = 4,
    method: Method = Auto(),  # noqa: B008 (a frozen value)
) -> Layer:
    r"""The block of Mamba: a selective state space model between two dense maps, with a gate.

    .. math::
        y = x + \big(\mathrm{mamba}(\mathrm{silu}(\mathrm{conv}(\bar x W_1))) \odot \mathrm{silu}(\bar x W_2)\big) W_3,
            \qquad \bar x = \mathrm{norm}(x)

    Shapes: x ``[*B, D]`` -> y ``[*B, D]``, D = width; the recurrence has ``expansion * D`` channels.

    Gradients: those of `seqjax.mamba` over time; a residual branch over depth.

    Args:
        width: D, of inputs and outputs.
        expansion: the number of channels per input.
        state_size: the state size per channel.
        kernel_size: how many steps the convolution reads.
        method: the method that runs the recurrence.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> block = sj.mamba_block(6, state_size=4)
        >>> xs = jnp.ones((10, 3, 6))
        >>> params = block.init(jax.random.key(0), xs[0])
        >>> block.unroll(params, block.initial_carry(params, xs[0]), xs)[1].shape
        (10, 3, 6)

    References:
        Gu, Dao 2023, "Mamba: linear-time sequence modeling with selective state spaces", arXiv:2312.00752: figure 3,
        section 3.4.
    """
    check_whole("mamba_block(width)", width)
    check_whole("mamba_block(expansion)", expansion)
    size = expansion * width
    recurrence = recurrent(mamba(size, state_size=state_size, input_map=False), method)
    mixing = serial(
        gated(
            serial(dense(size), causal_conv(kernel_size), pointwise(jax.nn.silu), recurrence),
            serial(dense(size), pointwise(jax.nn.silu)),
        ),
        dense(width),
    )
    return pre_norm(mixing)


@definition
def samba(
    width: int,
    depth: int,
    *,
    num_heads: int,
    window: int = 2048,
    state_size: int = 16,
    method: Method = Auto(),  # noqa: B008 (a frozen value)
) -> Layer:
    """The stack of Samba: repeats of Mamba, feed-forward, local attention and feed-forward, then RMSNorm.

    Shapes: x ``[*B, width]`` -> y ``[*B, width]``.

    Args:
        width: the width of inputs and outputs.
        depth: the number of repeats of the four parts.
        num_heads: the number of heads of the attention.
        window: the window of the attention, in steps.
        state_size: the state size of Mamba, per channel.
        method: the method that runs recurrences and attention.

    Example:
        >>> import seqjax as sj
        >>> sj.samba(8, 2, num_heads=2, window=4)
        samba(width=8, depth=2, num_heads=2, window=4)

    References:
        Ren et al. 2024, "Samba: simple hybrid state space models for efficient unlimited context language modeling",
        arXiv:2406.07522: figure 1, section 2.1.
    """
    check_whole("samba(depth)", depth)
    mixing = mamba_block(width, state_size=state_size, method=method)
    local = transformer_block(width, num_heads=num_heads, window=window, method=method)
    return serial(*(mixing, pre_norm(feed_forward(width)), local) * depth, norm_layer("rms"))
