"""The block of Gated DeltaNet, and its hybrid with local attention."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Cell, Key, Layer, Matrix, MatrixInputs, MatrixOutputs, Method, X, Xs
from seqjax.blocks.branches import dense, gated, norm_layer, pre_norm, unchanged
from seqjax.blocks.transformer import feed_forward, transformer_block
from seqjax.cells.common.heads import (
    Heads,
    check_heads,
    fan_in_normal,
    merge_heads,
    normalize,
    split_heads,
    step_size_params,
    step_sizes,
    unit,
    zero_state,
)
from seqjax.cells.common.labels import sets_recurrence
from seqjax.checks import check_whole
from seqjax.combinators import parallel, serial
from seqjax.layers.convolution import causal_conv
from seqjax.layers.pointwise import pointwise
from seqjax.layers.recurrent import recurrent
from seqjax.methods import Auto
from seqjax.ops.select import wide
from seqjax.ops.step import expand_left
from seqjax.values import definition


@sets_recurrence("b_dt", "a_log")
class GatedDeltaBlockParams(NamedTuple):
    """Params of the cell in `gated_delta_block`: w_beta, w_dt ``[D, N]``; b_dt, a_log ``[N]``; norm scale ``[V]``."""

    w_beta: jax.Array
    w_dt: jax.Array
    b_dt: jax.Array
    a_log: jax.Array
    scale: jax.Array


@definition
def gated_delta_block(
    width: int,
    *,
    num_heads: int,
    key_size: int | None = None,
    value_size: int | None = None,
    negative_eigenvalues: bool = False,
    kernel_size: int = 4,
    hidden_size: int | None = None,
    method: Method = Auto(),  # noqa: B008 (a frozen value)
) -> Layer:
    r"""The block of Gated DeltaNet: convolutions on queries, keys and values, the gated delta rule, an output gate.

    .. math::
        q, k &= \mathrm{unit}(\mathrm{silu}(\mathrm{conv}(\bar x W_q))),\; \mathrm{unit}(\mathrm{silu}(\mathrm{conv}(
            \bar x W_k))), \qquad v = \mathrm{silu}(\mathrm{conv}(\bar x W_v)), \qquad \bar x = \mathrm{norm}(x) \\
        S_t &= \alpha_t (I - \beta_t k_t k_t^\top) S_{t-1} + \beta_t k_t v_t^\top \\
        z_t &= x_t + \big(\mathrm{norm}_{\text{heads}}(S_t^\top q_t) \odot \mathrm{silu}(\bar x_t W_g)\big) W_o,
            \qquad y_t = z_t + \mathrm{feed\_forward}(\mathrm{norm}(z_t))

    with alpha and beta computed from :math:`\bar x` as in `seqjax.gated_delta_net`; each conv is a separate
    convolution.

    Shapes: x ``[*B, D]`` -> y ``[*B, D]``, D = width.

    Gradients: those of `seqjax.gated_delta_net` over time; residual branches over depth.

    Args:
        width: D, of inputs and outputs.
        num_heads: N.
        key_size: K; by default 3/4 of D / N, rounded down.
        value_size: V; by default twice K.
        negative_eigenvalues: beta in (0, 2) instead of (0, 1).
        kernel_size: how many steps a convolution reads.
        hidden_size: the hidden size of the feed-forward part, by default that of `feed_forward`.
        method: the method that runs the recurrence.

    Raises:
        ValueError: for a size below 1, or heads that do not divide the width.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> block = sj.gated_delta_block(6, num_heads=2)
        >>> xs = jnp.ones((10, 3, 6))
        >>> params = block.init(jax.random.key(0), xs[0])
        >>> block.unroll(params, block.initial_carry(params, xs[0]), xs)[1].shape
        (10, 3, 6)

    References:
        Yang, Kautz, Hatamizadeh 2024, "Gated delta networks", arXiv:2412.06464: figure 1 (right), eq. 10, section 3.4.
        The default sizes and the convolutions without biases follow the authors' code.
    """
    check_whole("gated_delta_block(width)", width)

    def defaults(share: int) -> tuple[int, int]:
        size = max(1, 3 * share // 4)
        return size, 2 * size

    heads = check_heads("gated_delta_block", width, num_heads, key_size, value_size, defaults=defaults)
    keys, values = heads.number * heads.key_size, heads.number * heads.value_size

    def convolved(size: int) -> Layer:
        convolution = causal_conv(kernel_size, bias=False)
        return serial(dense(size), convolution, pointwise(jax.nn.silu))

    branches = convolved(keys), convolved(keys), convolved(values), pointwise(unchanged)
    inputs = parallel(*branches, merge="tuple")
    memory = serial(inputs, recurrent(_gated_delta(heads, 2.0 if negative_eigenvalues else 1.0), method))
    mixing = serial(gated(memory, serial(dense(values), pointwise(jax.nn.silu))), dense(width))
    return serial(pre_norm(mixing), pre_norm(feed_forward(width, hidden_size=hidden_size)))


def _gated_delta(heads: Heads, largest: float) -> Cell:
    """Return the gated delta rule on a tuple: the convolved queries, keys and values, and the input."""

    def init(key: Key, x: X) -> GatedDeltaBlockParams:
        keys = jax.random.split(key, 3)
        a_log, b_dt = step_size_params(keys[2], heads.number, jnp.float32)
        shape = (x[3].shape[-1], heads.number)
        w_beta, w_dt = (fan_in_normal(k, shape, jnp.float32) for k in keys[:2])
        return GatedDeltaBlockParams(w_beta, w_dt, b_dt, a_log, jnp.ones(heads.value_size))

    def project(params: GatedDeltaBlockParams, xs: Xs, key: Key | None = None) -> MatrixInputs:
        q, k, v = (split_heads(a, heads.number) for a in xs[:3])
        dtype = wide(v.dtype)
        beta = largest * jax.nn.sigmoid(affine(xs[3], params.w_beta).astype(dtype))[..., None]
        _, log_decay = step_sizes(xs[3], params.w_dt, params.b_dt, params.a_log)
        k = unit(k)
        erase = (-jnp.exp(log_decay)[..., None] * beta * k, k)
        return MatrixInputs(unit(q), k, beta * v.astype(dtype), log_decay, erase=erase)

    def readout(params: GatedDeltaBlockParams, hs: MatrixOutputs, xs: Xs) -> jax.Array:
        scaled = normalize(hs.o, center=False) * expand_left(params.scale.astype(hs.o.dtype), hs.o.ndim)
        return merge_heads(scaled).astype(xs[3].dtype)

    return Cell(
        init=init,
        initial_carry=lambda params, x: zero_state(x[3], heads),
        recurrence=Matrix(),
        project=project,
        readout=readout,
    )


@definition
def hybrid_delta(
    width: int,
    depth: int,
    *,
    num_heads: int,
    window: int = 2048,
    method: Method = Auto(),  # noqa: B008 (a frozen value)
) -> Layer:
    """The stack Gated DeltaNet-H1: blocks with the gated delta rule and with local attention in turn, then RMSNorm.

    Shapes: x ``[*B, width]`` -> y ``[*B, width]``.

    Args:
        width: the width of inputs and outputs.
        depth: the number of blocks.
        num_heads: the number of heads of every block.
        window: the window of the attention, in steps.
        method: the method that runs recurrences and attention.

    Example:
        >>> import seqjax as sj
        >>> sj.hybrid_delta(8, 2, num_heads=2, window=4)
        hybrid_delta(width=8, depth=2, num_heads=2, window=4)

    References:
        Yang, Kautz, Hatamizadeh 2024, arXiv:2412.06464: figure 1 (left, H1), section 3.4.
    """
    check_whole("hybrid_delta(depth)", depth)
    local = transformer_block(width, num_heads=num_heads, window=window, method=method)
    block = gated_delta_block(width, num_heads=num_heads, method=method)
    return serial(*(local if i % 2 else block for i in range(depth)), norm_layer("rms"))
