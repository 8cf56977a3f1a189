"""Linear attention: a matrix that sums products of keys and values."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine, check_inputs
from seqjax.base import Cell, Matrix, MatrixInputs, MatrixOutputs
from seqjax.cells.common.heads import check_heads, empty, fan_in_normal, merge_heads, split_heads, with_ones
from seqjax.checks import check_one_of
from seqjax.ops.select import wide
from seqjax.values import definition

# Lower bound of a sum of weights. The authors' code adds this number to every sum instead.
SMALLEST_SUM = 1e-6


class LinearAttentionParams(NamedTuple):
    """w_q, w_k ``[D, N*K]``; w_v ``[D, N*V]``; w_o ``[N*V, H]``."""

    w_q: jax.Array
    w_k: jax.Array
    w_v: jax.Array
    w_o: jax.Array


def _elu_plus_one(z: jax.Array) -> jax.Array:
    """Return ``elu(z) + 1``, computed as exp(z) below zero to avoid cancellation."""
    return jnp.where(z > 0, z + 1, jnp.exp(jnp.minimum(z, 0)))


@definition
def linear_attention(
    hidden_size: int,
    *,
    num_heads: int = 4,
    key_size: int | None = None,
    value_size: int | None = None,
    feature_map: str = "elu",
    normalize: bool = True,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Linear attention: softmax attention with a kernel instead of the exponential, as a recurrence.

    .. math::
        q_t, k_t &= \phi(x_t W_q), \phi(x_t W_k), \qquad v_t = x_t W_v, \qquad \phi(z) = \mathrm{elu}(z) + 1 \\
        S_t &= S_{t-1} + k_t v_t^\top, \qquad z_t = z_{t-1} + k_t \\
        y_t &= \big(S_t^\top q_t \,/\, q_t^\top z_t\big) W_o

    per head; the outputs of the heads are concatenated before :math:`W_o`. z is an extra column of S with values of
    one.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry S ``[*B, N, K, V+1]``, or ``[*B, N, K, V]`` without normalizer,
    float32 at least; params `LinearAttentionParams`.

    Gradients: :math:`\partial S_T / \partial S_t = I`: through the state gradients neither vanish nor explode at any
    sequence length. The normalizer grows with t, so the weight of one step in :math:`y_T` falls like 1/T.

    Args:
        hidden_size: H.
        num_heads: N.
        key_size: K; hidden_size // num_heads by default.
        value_size: V; hidden_size // num_heads by default.
        feature_map: "elu" or "identity".
        normalize: whether to divide outputs by the sum of their weights. This needs positive weights, as those of
            "elu". A sum below 1e-6 counts as 1e-6.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1, heads that do not divide the hidden size, an unknown feature map, or a
            normalizer of weights that may be negative.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell = sj.linear_attention(6, num_heads=2)
        >>> params = cell.init(jax.random.key(0), jnp.ones((5, 4)))
        >>> cell.initial_carry(params, jnp.ones((5, 4))).shape
        (5, 2, 3, 4)

    References:
        Katharopoulos et al. 2020, "Transformers are RNNs", arXiv:2006.16236: eq. 7 (the feature map), eq. 16-20 (the
        recurrence). Eq. 20 also adds x_t and applies a feed-forward layer, which belong to the model here. W_o is that
        of multi-head attention. The paper states no initialization; weights start normal with variance 1 / fan-in.
    """
    heads = check_heads("linear_attention", hidden_size, num_heads, key_size, value_size)
    check_one_of("linear_attention(feature_map)", feature_map, ("elu", "identity"))
    if normalize and feature_map == "identity":
        raise ValueError(
            "linear_attention: expected normalize=False with feature_map='identity', got normalize=True. Weights "
            "of both signs may add up to zero."
        )
    number, key_size, value_size = heads

    def init(key: jax.Array, x: jax.Array) -> LinearAttentionParams:
        keys, width = jax.random.split(key, 4), x.shape[-1]
        return LinearAttentionParams(
            fan_in_normal(keys[0], (width, number * key_size), param_dtype),
            fan_in_normal(keys[1], (width, number * key_size), param_dtype),
            fan_in_normal(keys[2], (width, number * value_size), param_dtype),
            fan_in_normal(keys[3], (number * value_size, hidden_size), param_dtype),
        )

    def project(params: LinearAttentionParams, xs: jax.Array, key: Any = None) -> MatrixInputs:
        check_inputs(xs, params.w_q)
        q, k, v = (split_heads(affine(xs, w), number) for w in params[:3])
        if feature_map == "elu":
            q, k = (_elu_plus_one(a.astype(wide(a.dtype))) for a in (q, k))
        return MatrixInputs(q, k, with_ones(v) if normalize else v)

    def readout(params: LinearAttentionParams, hs: MatrixOutputs, xs: jax.Array) -> jax.Array:
        o = hs.o
        if normalize:
            total = o[..., -1:]
            o = o[..., :-1] / jnp.where(jnp.abs(total) > SMALLEST_SUM, total, SMALLEST_SUM)
        return affine(merge_heads(o).astype(xs.dtype), params.w_o)

    start = empty(heads, normalizer=normalize)
    return Cell(init=init, initial_carry=start, recurrence=Matrix(), project=project, readout=readout)
