"""mLSTM: a matrix memory with exponential input gates."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine, check_inputs
from seqjax.base import Cell, Matrix, MatrixCarry, MatrixInputs, MatrixOutputs
from seqjax.cells.common.heads import (
    check_heads,
    fan_in_normal,
    merge_heads,
    split_heads,
    with_ones,
    zero_state,
)
from seqjax.cells.common.initialize import zero_carry
from seqjax.ops.select import wide
from seqjax.values import definition


class MLSTMParams(NamedTuple):
    """w_q, w_k ``[D, N*K]``; w_v ``[D, N*V]``; their biases b_q, b_k, b_v; w_o ``[N*V, H]``.

    w_if ``[D, 2N]``, b_if ``[2N]``: input gate, then forget gate; w_g ``[D, N*V]``, b_g ``[N*V]``: the output gate.
    """

    w_q: jax.Array
    w_k: jax.Array
    w_v: jax.Array
    b_q: jax.Array
    b_k: jax.Array
    b_v: jax.Array
    w_if: jax.Array
    b_if: jax.Array
    w_g: jax.Array
    b_g: jax.Array
    w_o: jax.Array


@definition
def mlstm(
    hidden_size: int,
    *,
    num_heads: int = 4,
    key_size: int | None = None,
    value_size: int | None = None,
    forget_bias: tuple[float, float] = (3.0, 6.0),
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Matrix memory of xLSTM, with exponential input gates, forget gates and a normalizer (mLSTM).

    .. math::
        q_t, k_t, v_t &= x_t W_q + b_q,\; (x_t W_k + b_k) / \sqrt{K},\; x_t W_v + b_v \\
        (\tilde i_t, \tilde f_t) &= x_t W_{if} + b_{if}, \qquad i_t = \exp(\tilde i_t),\quad f_t = \sigma(\tilde f_t) \\
        C_t &= f_t C_{t-1} + i_t k_t v_t^\top, \qquad n_t = f_t n_{t-1} + i_t k_t \\
        h_t &= \sigma(x_t W_g + b_g) \odot \frac{C_t^\top q_t}{\max(|n_t^\top q_t|, 1)}, \qquad y_t = h_t W_o

    per head. n is an extra column of C. The carry stores :math:`C_t e^{-m_t}` with
    :math:`m_t = \max(\ln f_t + m_{t-1}, \tilde i_t)`, so no gate overflows; the 1 then becomes :math:`e^{-m_t}`.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry ``MatrixCarry(s [*B, N, K, V+1], m [*B, N])``, float32 at least;
    params `MLSTMParams`.

    Gradients: :math:`\partial C_T / \partial C_t = \prod_s f_s`, one number per head, never above 1. Biases of the
    forget gate from 3 to 6 give e-folding lengths of 21 to 404 steps at initialization. A step with a large input gate
    outweighs all earlier steps in the quotient: the cell forgets them, and their gradients vanish.

    Args:
        hidden_size: H.
        num_heads: N.
        key_size: K; hidden_size // num_heads by default.
        value_size: V; hidden_size // num_heads by default.
        forget_bias: initial biases of the forget gate of the first and the last head, evenly spaced in between.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1, heads that do not divide the hidden size, or a number of biases other than two.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell = sj.mlstm(8, num_heads=4)
        >>> params = cell.init(jax.random.key(0), jnp.ones((5, 2)))
        >>> params.b_if[4:]
        Array([3., 4., 5., 6.], dtype=float32)
        >>> jax.tree.map(jnp.shape, cell.initial_carry(params, jnp.ones((5, 2))))
        MatrixCarry(s=(5, 4, 2, 3), m=(5, 4))

    References:
        Beck et al. 2024, "xLSTM: extended long short-term memory", arXiv:2405.04517: eq. 19-27 (the cell, here per
        head and with a projection W_o), eq. 15-17 (the stabilizer, given there for the sLSTM). The paper also allows f
        = exp. The norm after the cell and the block around it belong to the model. The gates start as in the authors'
        code: weights zero, b_f evenly spaced, b_i normal with standard deviation 0.1. Other weights start normal with
        variance 1 / fan-in, other biases at zero. The quotient clips :math:`e^{-m}` to :math:`e^{\pm 39.9}` in float32
        (:math:`e^{\pm 319}` in float64); beyond these bounds the denominator would overflow or vanish.
    """
    heads = check_heads("mlstm", hidden_size, num_heads, key_size, value_size)
    number, key_size, value_size = heads
    if not isinstance(forget_bias, tuple) or len(forget_bias) != 2:
        raise ValueError(f"mlstm(forget_bias): expected two numbers, got {forget_bias!r}.")

    def init(key: jax.Array, x: jax.Array) -> MLSTMParams:
        keys, width = jax.random.split(key, 6), x.shape[-1]
        b_i = 0.1 * jax.random.normal(keys[5], (number,), param_dtype)
        return MLSTMParams(
            w_q=fan_in_normal(keys[0], (width, number * key_size), param_dtype),
            w_k=fan_in_normal(keys[1], (width, number * key_size), param_dtype),
            w_v=fan_in_normal(keys[2], (width, number * value_size), param_dtype),
            b_q=jnp.zeros(number * key_size, param_dtype),
            b_k=jnp.zeros(number * key_size, param_dtype),
            b_v=jnp.zeros(number * value_size, param_dtype),
            w_if=jnp.zeros((width, 2 * number), param_dtype),
            b_if=jnp.concatenate([b_i, jnp.linspace(*forget_bias, number, dtype=param_dtype)]),
            w_g=fan_in_normal(keys[3], (width, number * value_size), param_dtype),
            b_g=jnp.zeros(number * value_size, param_dtype),
            w_o=fan_in_normal(keys[4], (number * value_size, hidden_size), param_dtype),
        )

    def project(params: MLSTMParams, xs: jax.Array, key: Any = None) -> MatrixInputs:
        check_inputs(xs, params.w_q)
        weights = zip(params[:3], params[3:6], strict=True)
        q, k, v = (split_heads(affine(xs, w, b), number) for w, b in weights)
        gates = affine(xs, params.w_if, params.b_if).astype(wide(xs.dtype))
        log_input, forget = jnp.split(gates, 2, -1)
        log_decay = jax.nn.log_sigmoid(forget)
        return MatrixInputs(q, k / math.sqrt(key_size), with_ones(v), log_decay, log_input=log_input)

    def readout(params: MLSTMParams, hs: MatrixOutputs, xs: jax.Array) -> jax.Array:
        # e^-m and the square of its reciprocal, which the derivative contains, stay in the range of the
        # dtype.
        limit = 0.45 * math.log(float(jnp.finfo(hs.m.dtype).max))
        one = jnp.exp(jnp.clip(-hs.m, -limit, limit))[..., None]
        h = hs.o[..., :-1] / jnp.maximum(jnp.abs(hs.o[..., -1:]), one)
        gate = jax.nn.sigmoid(affine(xs, params.w_g, params.b_g))
        return affine(gate * merge_heads(h).astype(xs.dtype), params.w_o)

    def initial_carry(params: MLSTMParams, x: jax.Array) -> MatrixCarry:
        return MatrixCarry(zero_state(x, heads, normalizer=True), zero_carry(x, number, wide(x.dtype)))

    return Cell(init=init, initial_carry=initial_carry, recurrence=Matrix(), project=project, readout=readout)
