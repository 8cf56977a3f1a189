"""State space duality (SSD), the recurrence of Mamba-2."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine, check_inputs, spread
from seqjax.base import Cell, Matrix, MatrixInputs, MatrixOutputs
from seqjax.cells.common.heads import (
    check_heads,
    empty,
    fan_in_normal,
    merge_heads,
    split_heads,
    step_size_params,
    step_sizes,
)
from seqjax.cells.common.labels import sets_recurrence
from seqjax.checks import check_divisor, check_whole
from seqjax.values import definition


@sets_recurrence("b_dt", "a_log")
class SSDParams(NamedTuple):
    """w_q, w_k ``[D, G*K]`` for G groups; w_v ``[D, N*V]``; d ``[N]``; w_o ``[N*V, H]``.

    w_dt ``[D, N]``, b_dt, a_log ``[N]``: the step sizes and decay rates.
    """

    w_q: jax.Array
    w_k: jax.Array
    w_v: jax.Array
    w_dt: jax.Array
    b_dt: jax.Array
    a_log: jax.Array
    d: jax.Array
    w_o: jax.Array


@definition
def ssd(
    hidden_size: int,
    *,
    num_heads: int = 4,
    key_size: int | None = None,
    value_size: int | None = None,
    num_groups: int = 1,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Selective state space model of Mamba-2: linear attention with an input-dependent decay per head (SSD).

    .. math::
        q_t, k_t, v_t &= \mathrm{silu}(x_t W_q),\; \mathrm{silu}(x_t W_k),\; \mathrm{silu}(x_t W_v) \\
        \Delta_t &= \mathrm{softplus}(x_t W_\Delta + b_\Delta), \qquad A = -e^{a} \\
        S_t &= e^{\Delta_t A} S_{t-1} + \Delta_t k_t v_t^\top \\
        y_t &= (S_t^\top q_t + d\, v_t) W_o

    per head. In the paper q is called C, k is B and v is X. The N / G heads of a group share q and k; each head has its
    own v.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry S ``[*B, N, K, V]``, float32 at least; params `SSDParams`.

    Gradients: :math:`\partial S_T / \partial S_t = \exp(A \sum_s \Delta_s)`, one number per head, never above 1. All
    Lyapunov exponents of a head equal the mean of :math:`A \Delta`. At initialization, for small inputs, the e-folding
    lengths :math:`1/(|A| \Delta)` lie between 0.6 and 1000 steps.

    Args:
        hidden_size: H.
        num_heads: N.
        key_size: K, the paper's state size N; hidden_size // num_heads by default.
        value_size: V, the paper's head dimension P; hidden_size // num_heads by default.
        num_groups: G, the number of groups of heads that share keys and queries; a divisor of num_heads.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1, heads that do not divide the hidden size, or groups that do not divide the
            heads.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell = sj.ssd(8, num_heads=4, key_size=3)
        >>> params = cell.init(jax.random.key(0), jnp.ones((5, 2)))
        >>> params.w_q.shape, cell.initial_carry(params, jnp.ones((5, 2))).shape
        ((2, 3), (5, 4, 3, 2))

    References:
        Dao, Gu 2024, "Transformers are SSMs", arXiv:2405.21060: eq. 2 (the recurrence), section 6 (a scalar decay),
        section 7.2, eq. 20 (the heads) and figure 6 (the block, whose convolution, gate and norm belong to the model).
        Delta multiplies B as in Mamba. a, b_dt and d start as in the authors' code: :math:`e^a` uniform in [1, 16],
        softplus(b_dt) log-uniform in [0.001, 0.1], d = 1. Weights start normal with variance 1 / fan-in.
    """
    heads = check_heads("ssd", hidden_size, num_heads, key_size, value_size)
    check_whole("ssd(num_groups)", num_groups)
    check_divisor("ssd(num_groups)", num_groups, f"num_heads={num_heads}", num_heads)
    number, key_size, value_size = heads

    def init(key: jax.Array, x: jax.Array) -> SSDParams:
        keys, width = jax.random.split(key, 6), x.shape[-1]
        a_log, b_dt = step_size_params(keys[5], number, param_dtype)
        return SSDParams(
            w_q=fan_in_normal(keys[0], (width, num_groups * key_size), param_dtype),
            w_k=fan_in_normal(keys[1], (width, num_groups * key_size), param_dtype),
            w_v=fan_in_normal(keys[2], (width, number * value_size), param_dtype),
            w_dt=fan_in_normal(keys[3], (width, number), param_dtype),
            b_dt=b_dt,
            a_log=a_log,
            d=jnp.ones(number, param_dtype),
            w_o=fan_in_normal(keys[4], (number * value_size, hidden_size), param_dtype),
        )

    def for_each_head(groups: jax.Array) -> jax.Array:
        """Repeat the groups ``[..., G, K]`` for their heads, ``[..., N, K]``."""
        lead = groups.shape[:-2]
        per_group = (*lead, num_groups, number // num_groups, key_size)
        return jnp.broadcast_to(groups[..., None, :], per_group).reshape(*lead, number, key_size)

    def values(params: SSDParams, xs: jax.Array) -> jax.Array:
        return split_heads(jax.nn.silu(affine(xs, params.w_v)), number)

    def project(params: SSDParams, xs: jax.Array, key: Any = None) -> MatrixInputs:
        check_inputs(xs, params.w_q)
        queries_and_keys = (jax.nn.silu(affine(xs, w)) for w in (params.w_q, params.w_k))
        q, k = (for_each_head(split_heads(array, num_groups)) for array in queries_and_keys)
        dt, log_decay = step_sizes(xs, params.w_dt, params.b_dt, params.a_log)
        return MatrixInputs(q, k, dt[..., None] * values(params, xs).astype(dt.dtype), log_decay)

    def readout(params: SSDParams, hs: MatrixOutputs, xs: jax.Array) -> jax.Array:
        v = values(params, xs)
        ys = hs.o.astype(xs.dtype) + spread(params.d[:, None], v) * v
        return affine(merge_heads(ys), params.w_o)

    return Cell(init=init, initial_carry=empty(heads), recurrence=Matrix(), project=project, readout=readout)
