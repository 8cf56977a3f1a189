"""sLSTM: an LSTM with exponential gates, a normalizer and a stabilizer."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Gated
from seqjax.cells.common.initialize import DENSE, gated_weights, zeros
from seqjax.checks import check_divisor, check_one_of, check_whole
from seqjax.ops.select import wide
from seqjax.values import definition

IDENTITY, SIGMOID, TANH = Activation.IDENTITY, Activation.SIGMOID, Activation.TANH


class SLSTMParams(NamedTuple):
    """w_x ``[D, 4H]``, w_h ``[N, H/N, 4, H/N]``, b ``[4H]``; columns in the order i, f, z, o."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


class SLSTMCarry(NamedTuple):
    """c, n, m, h ``[*B, H]``: cell and normalizer, both divided by exp(m); n = 0 before the first step."""

    c: jax.Array
    n: jax.Array
    m: jax.Array
    h: jax.Array


@definition
def slstm(
    hidden_size: int,
    *,
    num_heads: int = 1,
    forget_gate: Literal["sigmoid", "exp"] = "sigmoid",
    forget_bias: float | None = None,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""LSTM with exponential gates, whose h is a weighted mean of the stored values (sLSTM).

    .. math::
        (\tilde i_t, \tilde f_t, \tilde z_t, \tilde o_t) &= x_t W_x + h_{t-1} W_h + b \\
        m_t &= \max(\log f_t + m_{t-1}, \tilde i_t), \qquad f_t = \sigma(\tilde f_t) \text{ or } \exp(\tilde f_t) \\
        i'_t &= \exp(\tilde i_t - m_t), \qquad f'_t = \exp(\log f_t + m_{t-1} - m_t) \\
        c_t &= f'_t \odot c_{t-1} + i'_t \odot \tanh(\tilde z_t) \\
        n_t &= f'_t \odot n_{t-1} + i'_t \\
        h_t &= \sigma(\tilde o_t) \odot c_t / n_t

    W_h is block-diagonal, with one block per head. A carry with n = 0 is empty, whatever its m: the next step then has
    :math:`m_t = \tilde i_t` and :math:`f'_t = 0`, as if m were :math:`-\infty`. One of i' and f' is 1, so n is at least
    1 from the first step on, and no gate can overflow or cause a division by zero.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``SLSTMCarry(c, n, m, h)``, each ``[*B, H]``, in the dtype of x;
    params ``SLSTMParams(w_x [D, 4H], w_h [N, H/N, 4, H/N], b [4H])``, columns in the order i, f, z, o.

    Gradients: along c the Jacobian is the product of the gates f, without a matrix, as in an LSTM. Divided by n, it is
    the share of the past in the weighted mean. A large input gate reduces this share, in the value and in the gradient.

    Args:
        hidden_size: H.
        num_heads: N, a divisor of H.
        forget_gate: "sigmoid" or "exp".
        forget_bias: initial bias of the forget gate; by default 1 for a sigmoid, as in `seqjax.lstm`, and 0 for an
            exponential, where it is neutral.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for heads that do not divide hidden_size, another forget gate, or a size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.slstm(4, num_heads=2).init(jax.random.key(0), jnp.ones((5, 3)))
        >>> jax.tree.map(jnp.shape, params)
        SLSTMParams(w_x=(3, 16), w_h=(2, 2, 4, 2), b=(16,))

    References:
        Beck et al. 2024, "xLSTM: extended long short-term memory", arXiv:2405.04517, eq. 8-14 (the cell), 15-17 (the
        stabilizer). The paper does not say how m starts; n = 0 marks an empty carry, as in the authors' code. The
        initial weights are those of `seqjax.lstm`, per head.
    """
    check_whole("slstm(hidden_size)", hidden_size)
    check_whole("slstm(num_heads)", num_heads)
    check_divisor("slstm(num_heads)", num_heads, f"hidden_size={hidden_size}", hidden_size)
    check_one_of("slstm(forget_gate)", forget_gate, ("sigmoid", "exp"))
    head_size = hidden_size // num_heads
    bias = (1.0 if forget_gate == "sigmoid" else 0.0) if forget_bias is None else forget_bias

    def init(key: jax.Array, x: jax.Array) -> SLSTMParams:
        key_x, key_h = jax.random.split(key)
        w_x, _ = gated_weights(key_x, x, hidden_size, 4, param_dtype)
        orthogonal = jax.nn.initializers.orthogonal()
        shape, dtype = (head_size, head_size), wide(jnp.dtype(param_dtype))
        keys = jax.random.split(key_h, (num_heads, 4))
        blocks = jax.vmap(jax.vmap(lambda key: orthogonal(key, shape, dtype)))(keys)
        w_h = jnp.swapaxes(blocks, 1, 2).astype(param_dtype)
        b = jnp.zeros((4, hidden_size), param_dtype).at[1].set(bias)
        return SLSTMParams(w_x, w_h, b.reshape(-1))

    def update(w: Any, state: tuple, i: jax.Array, f: jax.Array, z: jax.Array) -> tuple:
        c, n, m = state
        empty, zero = n == 0, jnp.zeros_like(m)
        kept = m + (f if forget_gate == "exp" else jax.nn.log_sigmoid(f))
        m_after = jnp.where(empty, i, jnp.maximum(kept, i))
        f = jnp.where(empty, zero, jnp.exp(jnp.where(empty, zero, kept - m_after)))
        i = jnp.exp(i - m_after)
        return f * c + i * z, f * n + i, m_after

    def emit(w: Any, state: tuple, o: jax.Array) -> jax.Array:
        c, n, _ = state
        # n = 0 only where a step is masked out. A division by zero there would still make second derivatives
        # NaN.
        return o * (c / jnp.where(n == 0, jnp.ones_like(n), n))

    recurrence = Gated(
        activations=(IDENTITY, IDENTITY, TANH, SIGMOID),
        num_update=3,
        update=update,
        emit=emit,
        names=("input", "forget", "candidate", "output"),
    )
    return Cell(init=init, initial_carry=zeros(SLSTMCarry, hidden_size), recurrence=recurrence, project=DENSE)
