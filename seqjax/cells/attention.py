"""Causal softmax attention, full or over a sliding window, with multi-head, grouped or multi-query heads."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine, spread
from seqjax.base import Attention, AttentionCarry, AttentionInputs, Cell
from seqjax.cells.common.heads import normalize
from seqjax.cells.common.initialize import zero_carry
from seqjax.checks import check_divisor, check_whole
from seqjax.ops.select import expand, wide
from seqjax.values import definition

# Added to a mean square near one. It keeps the derivative of the norm finite at zero.
EPSILON = 1e-6


class AttentionParams(NamedTuple):
    """w_q ``[D, N*K]``; w_k, w_v ``[D, G*K]``; w_o ``[N*K, H]``; columns of w_q and rows of w_o follow the heads.

    Optional, None by default: b_q ``[N*K]``, b_k and b_v ``[G*K]``, b_o ``[H]``; scale_q and scale_k ``[K]``.
    """

    w_q: jax.Array
    w_k: jax.Array
    w_v: jax.Array
    w_o: jax.Array
    b_q: jax.Array | None = None
    b_k: jax.Array | None = None
    b_v: jax.Array | None = None
    b_o: jax.Array | None = None
    scale_q: jax.Array | None = None
    scale_k: jax.Array | None = None


@definition
def attention(
    hidden_size: int,
    *,
    num_heads: int,
    num_groups: int | None = None,
    key_size: int | None = None,
    window: int | None = None,
    max_length: int | None = None,
    rotary_base: float | None = 10000.0,
    qk_norm: bool = False,
    use_bias: bool = False,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Causal softmax attention with several heads, over all earlier steps or a sliding window.

    .. math::
        q_t = R_p\, x_t W_q, \qquad k_t &= R_p\, x_t W_k, \qquad v_t = x_t W_v && \text{(per head)} \\
        a_{ts} &= \mathrm{softmax}_s(q_t^\top k_s / \sqrt{K}), \qquad t - L < s \le t \\
        y_t &= [\textstyle\sum_s a_{ts} v_s]_{\text{heads}}\, W_o

    Each of the N heads has its own queries. The N/G heads of a group share keys and values: G = N is multi-head
    attention, G = 1 is multi-query attention. R rotates pairs of entries by angles proportional to the position p, the
    number of steps since the reset (`seqjax.ops.rotary`). Values have the size of keys. With ``qk_norm`` each query and
    key is divided by its root mean square and multiplied by a learned scale before R.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry ``AttentionCarry(k [*B, L, G, K], v [*B, L, G, K], position [*B])``,
    where k holds rotated keys; params `AttentionParams`.

    Gradients: one softmax weight connects any two steps, without a product over the lag:
    :math:`\partial o_t / \partial v_s = a_{ts}`,
    :math:`\partial o_t / \partial k_s = a_{ts} (v_s - o_t) q_t^\top / \sqrt{K}` where o is the output of the head.
    Gradients neither vanish with the lag nor explode. The weights of a row sum to one, so the steps share the gradient.
    The gradient through keys and queries is small where a weight is near 0 or 1. Beyond the window gradients are zero.

    Args:
        hidden_size: H.
        num_heads: N.
        num_groups: G, a divisor of N; N by default.
        key_size: K; by default H / N.
        window: L, for a sliding window that includes the present step.
        max_length: L, for sequences of at most L steps since a reset. `unroll`, `step`, `generate` and `beam_search`
            refuse longer sequences. Under `jax.jit` the position in the carry is unknown: there `step`, and `unroll`
            from a carry, drop the oldest steps, as a window does. Pass either window or max_length.
        rotary_base: pair i rotates by ``rotary_base ** (-2 i / K)`` radians per step; None disables positions.
        qk_norm: normalize queries and keys.
        use_bias: add a bias to each of the four maps.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for sizes that do not divide or are below 1, both or neither of window and max_length, or an odd
            key_size with rotary positions.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.attention(8, num_heads=4, num_groups=2, window=3))
        >>> xs = jnp.ones((10, 5, 6))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> carry, ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs)
        >>> ys.shape, carry.k.shape, carry.position
        ((10, 5, 8), (5, 3, 2, 2), Array([10, 10, 10, 10, 10], dtype=int32))

    References:
        Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762: eq. 1 and section 3.2.2; the paper's maps
        have no biases. The paper states no initialization; weights start uniform by Glorot and Bengio (2010).
        Ainslie et al. 2023, "GQA: training generalized multi-query transformer models from multi-head checkpoints",
        arXiv:2305.13245: section 2.2.
        Su et al. 2021, "RoFormer: enhanced transformer with rotary position embedding", arXiv:2104.09864: eq. 14-16.
        Beltagy et al. 2020, "Longformer: the long-document transformer", arXiv:2004.05150: section 3.1. The paper's
        window covers both directions; here it covers earlier steps only.
        Dehghani et al. 2023, "Scaling vision transformers to 22 billion parameters", arXiv:2302.05442: section 2,
        qk_norm, with LayerNorm in the paper and RMS norm here.
    """
    check_whole("attention(hidden_size)", hidden_size)
    check_whole("attention(num_heads)", num_heads)
    groups = num_heads if num_groups is None else num_groups
    check_whole("attention(num_groups)", groups)
    check_divisor("attention(num_groups)", groups, f"num_heads={num_heads}", num_heads)
    if key_size is None:
        hint = "Or pass `key_size=`."
        check_divisor("attention(num_heads)", num_heads, f"hidden_size={hidden_size}", hidden_size, hint=hint)
    size = hidden_size // num_heads if key_size is None else key_size
    check_whole("attention(key_size)", size)
    if (window is None) == (max_length is None):
        raise ValueError(
            f"attention: expected either window or max_length, got window={window}, max_length={max_length}."
        )
    if window is not None:
        check_whole("attention(window)", window)
    if max_length is not None:
        check_whole("attention(max_length)", max_length)
    if rotary_base is not None and (size % 2 or not rotary_base > 0):
        raise ValueError(
            f"attention: expected a rotary_base above 0 and an even key_size, got rotary_base={rotary_base}, "
            f"key_size={size}. Pass `rotary_base=None` to disable positions."
        )
    recurrence = Attention(window=window, max_length=max_length, rotary_base=rotary_base)

    def init(key: jax.Array, x: jax.Array) -> AttentionParams:
        width, queries, keys = x.shape[-1], num_heads * size, groups * size
        shapes = ((width, queries), (width, keys), (width, keys), (queries, hidden_size))
        uniform = jax.nn.initializers.glorot_uniform()
        weights = [uniform(k, s, param_dtype) for k, s in zip(jax.random.split(key, 4), shapes, strict=True)]
        biases = [jnp.zeros(shape[-1:], param_dtype) if use_bias else None for shape in shapes]
        scales = [jnp.ones(size, param_dtype) if qk_norm else None for _ in range(2)]
        return AttentionParams(*weights, *biases, *scales)

    def project(params: AttentionParams, xs: jax.Array, key: Any = None) -> AttentionInputs:
        def heads(w: jax.Array, b: jax.Array | None, count: int) -> jax.Array:
            return affine(xs, w, b).reshape(*xs.shape[:-1], count, size)

        q = _normalize(heads(params.w_q, params.b_q, num_heads), params.scale_q)
        k = _normalize(heads(params.w_k, params.b_k, groups), params.scale_k)
        return AttentionInputs(q, k, heads(params.w_v, params.b_v, groups))

    def readout(params: AttentionParams, hs: jax.Array, xs: jax.Array) -> jax.Array:
        return affine(hs.reshape(*hs.shape[:-2], num_heads * size), params.w_o, params.b_o)

    def initial_carry(params: AttentionParams, x: jax.Array) -> AttentionCarry:
        batch = x.shape[:-1]
        ring = (*batch, recurrence.capacity, groups, size)
        empty = jnp.broadcast_to(expand(zero_carry(x, 1), len(ring)), ring)
        return AttentionCarry(empty, empty, zero_carry(x, 1, jnp.int32)[..., 0])

    return Cell(
        init=init, initial_carry=initial_carry, recurrence=recurrence, project=project, readout=readout
    )


def _normalize(x: jax.Array, scale: jax.Array | None) -> jax.Array:
    """Divide by the root mean square over the last axis and multiply by the scale; return x where the scale is None."""
    if scale is None:
        return x
    y = normalize(x.astype(wide(x.dtype)), center=False, epsilon=EPSILON)
    return y.astype(x.dtype) * spread(scale, x)
