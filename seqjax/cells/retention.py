"""Retention: linear attention with a fixed decay per head."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine, check_inputs
from seqjax.base import Cell, Matrix, MatrixInputs, MatrixOutputs
from seqjax.cells.common.heads import check_heads, empty, fan_in_normal, gated_readout, split_heads
from seqjax.ops.select import wide
from seqjax.values import definition


class RetentionParams(NamedTuple):
    """w_q, w_k ``[D, N*K]``; w_v, w_g ``[D, N*V]``; w_o ``[N*V, H]``."""

    w_q: jax.Array
    w_k: jax.Array
    w_v: jax.Array
    w_g: jax.Array
    w_o: jax.Array


@definition
def retention(
    hidden_size: int,
    *,
    num_heads: int = 4,
    key_size: int | None = None,
    value_size: int | None = None,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Multi-scale retention (RetNet): linear attention with a fixed decay per head.

    .. math::
        q_t, k_t, v_t &= x_t W_q,\; x_t W_k / \sqrt{K},\; x_t W_v \\
        S_t &= \gamma_n S_{t-1} + k_t v_t^\top, \qquad \gamma_n = 1 - 2^{-5-n}, \quad n = 0 \dots N-1 \\
        y_t &= \big(\mathrm{silu}(x_t W_g) \odot \mathrm{norm}(S_t^\top q_t)\big) W_o

    where norm is the group norm with one group per head.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry S ``[*B, N, K, V]``, float32 at least; params `RetentionParams`.

    Gradients: :math:`\partial S_T / \partial S_t = \gamma_n^{T-t}`, for all inputs. The e-folding lengths of the heads
    are 31.5, 63.5, 127.5, ... steps, about :math:`2^{5+n}`.

    Args:
        hidden_size: H.
        num_heads: N.
        key_size: K; hidden_size // num_heads by default.
        value_size: V, at least 2; twice hidden_size // num_heads by default, as in the paper's section 3.1.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1, heads that do not divide the hidden size, or a value_size of 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell = sj.retention(6, num_heads=2)
        >>> us = cell.project(cell.init(jax.random.key(0), jnp.ones((5, 4))), jnp.ones((5, 4)))
        >>> jnp.exp(us.log_decay[0])
        Array([0.96875 , 0.984375], dtype=float32)

    References:
        Sun et al. 2023, "Retentive network", arXiv:2307.08621: eq. 6 (the recurrence), eq. 8 (decays, norm and gate)
        and section 2.2, "Retention score normalization" (the factor of 1 / sqrt K). This cell omits the rotations
        :math:`e^{in\theta}` of eq. 5, which depend on the absolute position (theta = 0). The norm has no bias, and no
        gain, since W_o can absorb a gain. The paper states no initialization; weights start normal with variance 1 /
        fan-in.
    """

    def sizes(share: int) -> tuple[int, int]:
        return share, 2 * share

    given = hidden_size, num_heads, key_size, value_size
    heads = check_heads("retention", *given, defaults=sizes, centered=True)
    number, key_size, value_size = heads
    log_decay = tuple(math.log1p(-(2.0 ** (-5 - n))) for n in range(number))

    def init(key: jax.Array, x: jax.Array) -> RetentionParams:
        keys, width = jax.random.split(key, 5), x.shape[-1]
        return RetentionParams(
            fan_in_normal(keys[0], (width, number * key_size), param_dtype),
            fan_in_normal(keys[1], (width, number * key_size), param_dtype),
            fan_in_normal(keys[2], (width, number * value_size), param_dtype),
            fan_in_normal(keys[3], (width, number * value_size), param_dtype),
            fan_in_normal(keys[4], (number * value_size, hidden_size), param_dtype),
        )

    def project(params: RetentionParams, xs: jax.Array, key: Any = None) -> MatrixInputs:
        check_inputs(xs, params.w_q)
        q, k, v = (split_heads(affine(xs, w), number) for w in params[:3])
        decays = jnp.asarray(log_decay, wide(xs.dtype))
        return MatrixInputs(q, k / math.sqrt(key_size), v, jnp.broadcast_to(decays, (*xs.shape[:-1], number)))

    def readout(params: RetentionParams, hs: MatrixOutputs, xs: jax.Array) -> jax.Array:
        gate = jax.nn.silu(affine(xs, params.w_g))
        return gated_readout(hs.o, gate, params.w_o, xs.dtype, center=True)

    return Cell(init=init, initial_carry=empty(heads), recurrence=Matrix(), project=project, readout=readout)
