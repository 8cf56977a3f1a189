"""Gated linear attention: input-dependent decays per key dimension."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine, check_inputs
from seqjax.base import Cell, Matrix, MatrixInputs, MatrixOutputs
from seqjax.cells.common.heads import check_heads, empty, fan_in_normal, gated_readout, split_heads
from seqjax.cells.common.labels import sets_recurrence
from seqjax.checks import check_above, check_whole
from seqjax.ops.select import wide
from seqjax.values import definition


@sets_recurrence("b_a")
class GLAParams(NamedTuple):
    """w_q, w_k ``[D, N*K]``; w_v ``[D, N*V]``; w_a1 ``[D, R]``, w_a2 ``[R, N*K]``, b_a ``[N*K]``: the decay.

    w_g ``[D, N*V]``, b_g ``[N*V]``: the output gate; w_o ``[N*V, H]``.
    """

    w_q: jax.Array
    w_k: jax.Array
    w_v: jax.Array
    w_a1: jax.Array
    w_a2: jax.Array
    b_a: jax.Array
    w_g: jax.Array
    b_g: jax.Array
    w_o: jax.Array


@definition
def gla(
    hidden_size: int,
    *,
    num_heads: int = 4,
    key_size: int | None = None,
    value_size: int | None = None,
    rank: int = 16,
    temperature: float = 16.0,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Gated linear attention: linear attention with one input-dependent decay per key dimension.

    .. math::
        q_t, k_t, v_t &= x_t W_q,\; x_t W_k,\; x_t W_v \\
        \alpha_t &= \sigma(x_t W_{a1} W_{a2} + b_a)^{1/\tau} \\
        S_t &= \mathrm{diag}(\alpha_t) S_{t-1} + k_t v_t^\top \\
        y_t &= \big(\mathrm{silu}(x_t W_g + b_g) \odot \mathrm{norm}(S_t^\top q_t)\big) W_o

    where norm is the layer norm of each head.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry S ``[*B, N, K, V]``, float32 at least; params `GLAParams`.

    Gradients: :math:`\partial S_T / \partial S_t = \mathrm{diag}(\prod_s \alpha_s)`, diagonal. Each row is multiplied
    by the product of its decays, never above 1; the Lyapunov exponents of S are the means of :math:`\ln \alpha`. The
    temperature keeps the decays near 1: at a pre-activation of 0, the initial value, the e-folding length is
    :math:`\tau / \ln 2`, 23 steps.

    Args:
        hidden_size: H.
        num_heads: N.
        key_size: K; half of hidden_size // num_heads by default, as in the paper.
        value_size: V, at least 2; hidden_size // num_heads by default.
        rank: R, the rank of the decay's projection.
        temperature: tau.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1, heads that do not divide the hidden size, a value_size of 1, or a temperature
            that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell = sj.gla(8, num_heads=2)
        >>> us = cell.project(cell.init(jax.random.key(0), jnp.ones((5, 4))), jnp.zeros((5, 4)))
        >>> jnp.exp(us.log_decay[0])
        Array([[0.9576033, 0.9576033],
               [0.9576033, 0.9576033]], dtype=float32)

    References:
        Yang et al. 2023, "Gated linear attention transformers with hardware-efficient training", arXiv:2312.06635,
        eq. 3 (the recurrence) and section 4.4 (equations without numbers): the recurrence per head, the low-rank decay
        with tau = 16, the norm and the gate. The norm has no bias, and no gain, since W_o can absorb a gain. The paper
        states no initialization; weights start normal with variance 1 / fan-in, biases at zero.
    """

    def sizes(share: int) -> tuple[int, int]:
        return max(share // 2, 1), share

    heads = check_heads("gla", hidden_size, num_heads, key_size, value_size, defaults=sizes, centered=True)
    check_whole("gla(rank)", rank)
    check_above("gla(temperature)", temperature)
    number, key_size, value_size = heads

    def init(key: jax.Array, x: jax.Array) -> GLAParams:
        keys, width = jax.random.split(key, 7), x.shape[-1]
        return GLAParams(
            w_q=fan_in_normal(keys[0], (width, number * key_size), param_dtype),
            w_k=fan_in_normal(keys[1], (width, number * key_size), param_dtype),
            w_v=fan_in_normal(keys[2], (width, number * value_size), param_dtype),
            w_a1=fan_in_normal(keys[3], (width, rank), param_dtype),
            w_a2=fan_in_normal(keys[4], (rank, number * key_size), param_dtype),
            b_a=jnp.zeros(number * key_size, param_dtype),
            w_g=fan_in_normal(keys[5], (width, number * value_size), param_dtype),
            b_g=jnp.zeros(number * value_size, param_dtype),
            w_o=fan_in_normal(keys[6], (number * value_size, hidden_size), param_dtype),
        )

    def project(params: GLAParams, xs: jax.Array, key: Any = None) -> MatrixInputs:
        check_inputs(xs, params.w_q)
        q, k, v = (split_heads(affine(xs, w), number) for w in params[:3])
        gate = affine(affine(xs, params.w_a1), params.w_a2, params.b_a).astype(wide(xs.dtype))
        return MatrixInputs(q, k, v, split_heads(jax.nn.log_sigmoid(gate) / temperature, number))

    def readout(params: GLAParams, hs: MatrixOutputs, xs: jax.Array) -> jax.Array:
        gate = jax.nn.silu(affine(xs, params.w_g, params.b_g))
        return gated_readout(hs.o, gate, params.w_o, xs.dtype, center=True)

    return Cell(init=init, initial_carry=empty(heads), recurrence=Matrix(), project=project, readout=readout)
