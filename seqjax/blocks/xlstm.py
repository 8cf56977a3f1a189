"""xLSTM: blocks around the mLSTM (matrix memory) and the sLSTM (exponential gates), and their stack."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from seqjax.affine import affine, spread
from seqjax.base import Cell, Key, Layer, Matrix, MatrixCarry, MatrixInputs, MatrixOutputs, Method, X, Xs
from seqjax.blocks.branches import dense, gated, norm_layer, pre_norm, unchanged
from seqjax.blocks.transformer import feed_forward
from seqjax.cells.common.heads import check_heads, merge_heads, normalize, split_heads, with_ones, zero_state
from seqjax.cells.common.initialize import zero_carry
from seqjax.cells.slstm import slstm
from seqjax.checks import check_divisor, check_whole
from seqjax.combinators import parallel, serial
from seqjax.layers.convolution import causal_conv
from seqjax.layers.pointwise import pointwise
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Auto
from seqjax.ops.select import wide
from seqjax.values import definition


class MLSTMBlockParams(NamedTuple):
    """Params of the cell inside `mlstm_block`, with E channels.

    w_q, w_k, w_v ``[E/b, b, b]``; w_if ``[3E, 2N]``, b_if ``[2N]``: input gates, then forget gates; scale of the norm
    and skip ``[E]``.
    """

    w_q: jax.Array
    w_k: jax.Array
    w_v: jax.Array
    w_if: jax.Array
    b_if: jax.Array
    scale: jax.Array
    skip: jax.Array


@definition
def mlstm_block(
    width: int,
    *,
    num_heads: int = 4,
    expansion: int = 2,
    kernel_size: int = 4,
    block_size: int = 4,
    method: Method = Auto(),  # noqa: B008 (a frozen value)
) -> Layer:
    r"""The mLSTM block of xLSTM: a matrix memory between two dense maps ("pre up-projection").

    .. math::
        u &= \mathrm{norm}(x) W_1, \qquad c = \mathrm{silu}(\mathrm{conv}(u)) \\
        q, k, v &= c W_q,\; c W_k / \sqrt K,\; u W_v, \qquad (\tilde i, \tilde f) = [q, k, v] W_{if} + b_{if} \\
        h &= \mathrm{norm}_{\text{heads}}(\mathrm{mlstm}(q, k, v, \tilde i, \tilde f)) + s \odot c \\
        y &= x + \big(h \odot \mathrm{silu}(\mathrm{norm}(x) W_2)\big) W_3

    with the recurrence of `seqjax.mlstm`; the block has its own output gate and output map. W_q, W_k and W_v are
    block-diagonal.

    Shapes: x ``[*B, D]`` -> y ``[*B, D]``, D = width; E = expansion * D channels in N heads.

    Gradients: those of `seqjax.mlstm` over time; a residual branch over depth.

    Args:
        width: D, of inputs and outputs.
        num_heads: N, a divisor of E.
        expansion: the number of channels per input.
        kernel_size: how many steps the convolution reads.
        block_size: b, the block size of the block-diagonal maps, a divisor of E.
        method: the method that runs the recurrence.

    Raises:
        ValueError: for a size below 1, or heads or blocks that do not divide the channels.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> block = sj.mlstm_block(6, num_heads=2)
        >>> xs = jnp.ones((10, 3, 6))
        >>> params = block.init(jax.random.key(0), xs[0])
        >>> block.unroll(params, block.initial_carry(params, xs[0]), xs)[1].shape
        (10, 3, 6)

    References:
        Beck et al. 2024, "xLSTM: extended long short-term memory", arXiv:2405.04517: section 2.4, figure 3 (right) and
        the figure of the block in the appendix; eq. 19-27 (the memory). In the authors' code the gates
        read q, k and v, as here.
    """
    check_whole("mlstm_block(width)", width)
    check_whole("mlstm_block(expansion)", expansion)
    size = expansion * width
    cell = _mlstm(size, num_heads, block_size)
    convolved = serial(causal_conv(kernel_size), pointwise(jax.nn.silu))
    inputs = parallel(convolved, pointwise(unchanged), merge="tuple")
    memory = serial(dense(size), inputs, recurrent(cell, method))
    return pre_norm(serial(gated(memory, serial(dense(size), pointwise(jax.nn.silu))), dense(width)), "layer")


def _mlstm(size: int, num_heads: int, block_size: int) -> Cell:
    """Return the matrix memory on a pair: the channels after and before the convolution, each ``[*B, E]``."""
    heads = check_heads("mlstm_block", size, num_heads, None, None, centered=True)
    check_whole("mlstm_block(block_size)", block_size)
    check_divisor("mlstm_block(block_size)", block_size, f"the {size} channels", size)
    blocks = (size // block_size, block_size, block_size)

    def init(key: Key, x: X) -> MLSTMBlockParams:
        keys = jax.random.split(key, 4)
        w_q, w_k, w_v = (jax.random.normal(k, blocks) / math.sqrt(block_size) for k in keys[:3])
        b_i, b_f = 0.1 * jax.random.normal(keys[3], (num_heads,)), jnp.linspace(3.0, 6.0, num_heads)
        w_if, b_if = jnp.zeros((3 * size, 2 * num_heads)), jnp.concatenate([b_i, b_f.astype(b_i.dtype)])
        return MLSTMBlockParams(w_q, w_k, w_v, w_if, b_if, scale=jnp.ones(size), skip=jnp.ones(size))

    def blockwise(x: jax.Array, w: jax.Array) -> jax.Array:
        pieces = x.reshape(*x.shape[:-1], *blocks[:2])
        return jnp.einsum("...nd,nde->...ne", pieces, w.astype(x.dtype)).reshape(x.shape)

    def project(params: MLSTMBlockParams, xs: Xs, key: Key | None = None) -> MatrixInputs:
        convolved, plain = xs
        q, k = blockwise(convolved, params.w_q), blockwise(convolved, params.w_k)
        v = blockwise(plain, params.w_v)
        gates = affine(jnp.concatenate([q, k, v], -1), params.w_if, params.b_if).astype(wide(v.dtype))
        log_input, forget = jnp.split(gates, 2, -1)
        q, k, v = (split_heads(a, num_heads) for a in (q, k / math.sqrt(heads.key_size), v))
        return MatrixInputs(q, k, with_ones(v), jax.nn.log_sigmoid(forget), log_input=log_input)

    def readout(params: MLSTMBlockParams, hs: MatrixOutputs, xs: Xs) -> jax.Array:
        convolved, _ = xs
        # As in `seqjax.mlstm`: the 1 of the quotient on the scale of the state. Clipping keeps it, and the square of
        # its reciprocal, within the range of the dtype.
        limit = 0.45 * math.log(float(jnp.finfo(hs.m.dtype).max))
        one = jnp.exp(jnp.clip(-hs.m, -limit, limit))[..., None]
        h = hs.o[..., :-1] / jnp.maximum(jnp.abs(hs.o[..., -1:]), one)
        h = merge_heads(normalize(h, center=True)).astype(convolved.dtype)
        return spread(params.scale, h) * h + spread(params.skip, h) * convolved

    def initial_carry(params: MLSTMBlockParams, x: X) -> MatrixCarry:
        state = zero_state(x[1], heads, normalizer=True)
        return MatrixCarry(state, zero_carry(x[1], num_heads, wide(x[1].dtype)))

    return Cell(init=init, initial_carry=initial_carry, recurrence=Matrix(), project=project, readout=readout)


@definition
def slstm_block(
    width: int,
    *,
    num_heads: int = 4,
    kernel_size: int = 4,
    method: Method = Auto(),  # noqa: B008 (a frozen value)
) -> Layer:
    r"""The sLSTM block of xLSTM: exponential gates, then a feed-forward part ("post up-projection").

    .. math::
        z &= x + \mathrm{norm}_{\text{heads}}\big(\mathrm{slstm}([\mathrm{silu}(\mathrm{conv}(\bar x)),\, \bar x])\big),
            \qquad \bar x = \mathrm{norm}(x) \\
        y &= z + \mathrm{feed\_forward}(\mathrm{norm}(z))

    with a feed-forward part of hidden size 4/3 width, "geglu".

    Shapes: x ``[*B, width]`` -> y ``[*B, width]``.

    Gradients: those of `seqjax.slstm` over time; residual branches over depth.

    Args:
        width: the width of inputs and outputs.
        num_heads: the number of heads of the recurrence and the norm, a divisor of width.
        kernel_size: how many steps the convolution reads.
        method: the method that runs the recurrence.

    Raises:
        ValueError: for a size below 1, or heads that do not divide width.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> block = sj.slstm_block(6, num_heads=2)
        >>> xs = jnp.ones((10, 3, 6))
        >>> params = block.init(jax.random.key(0), xs[0])
        >>> block.unroll(params, block.initial_carry(params, xs[0]), xs)[1].shape
        (10, 3, 6)

    References:
        Beck et al. 2024, arXiv:2405.04517: section 2.4, figure 3 (left) and the figure of the block in the appendix.
        In the paper the input and forget gates read the convolution, z and the output gate read the input itself,
        through block-diagonal maps. Here every gate reads both through a dense map, which includes the paper's maps.
    """
    check_whole("slstm_block(width)", width)
    convolved = serial(causal_conv(kernel_size), pointwise(jax.nn.silu))
    inputs = parallel(convolved, pointwise(unchanged), merge="tuple")
    cell = slstm(width, num_heads=num_heads)
    norm = nn.GroupNorm(num_groups=num_heads, use_bias=False, reduction_axes=-1)
    mixing = serial(inputs, pointwise(jnp.concatenate), recurrent(cell, method), pointwise(norm))
    mlp = feed_forward(width, hidden_size=-(-4 * width // 3), activation="geglu")
    return serial(pre_norm(mixing, "layer"), pre_norm(mlp, "layer"))


@definition
def xlstm(
    width: int,
    depth: int,
    *,
    ratio: tuple[int, int] = (7, 1),
    num_heads: int = 4,
    method: Method = Auto(),  # noqa: B008 (a frozen value)
) -> Layer:
    """The stack xLSTM[a:b]: repeats of a mLSTM blocks and b sLSTM blocks, then LayerNorm.

    Shapes: x ``[*B, width]`` -> y ``[*B, width]``.

    Args:
        width: the width of inputs and outputs.
        depth: the number of blocks.
        ratio: (a, b).
        num_heads: the number of heads of every block.
        method: the method that runs the recurrences.

    Example:
        >>> import seqjax as sj
        >>> sj.xlstm(8, 2, ratio=(1, 1), num_heads=2)
        xlstm(width=8, depth=2, ratio=(1, 1), num_heads=2)

    References:
        Beck et al. 2024, arXiv:2405.04517: section 4 (the notation). The paper chooses the places of the sLSTM blocks
        per model; here they end each group.
    """
    check_whole("xlstm(depth)", depth)
    number, of_slstm = ratio
    if min(ratio) < 0 or sum(ratio) < 1:
        raise ValueError(f"xlstm(ratio): expected two numbers of blocks, got {ratio}.")
    kinds = [mlstm_block(width, num_heads=num_heads, method=method)] * number
    kinds += [slstm_block(width, num_heads=num_heads, method=method)] * of_slstm
    return serial(*(kinds[i % len(kinds)] for i in range(depth)), norm_layer("layer"))
