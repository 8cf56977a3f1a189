"""Long short-term memory."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Dense, Gated, GatedWeights
from seqjax.cells.initialise import gated_weights, zero_carry
from seqjax.checks import check_whole
from seqjax.definition import definition
from seqjax.ops.elementwise import tanh
from seqjax.ops.select import wide

SIGMOID, TANH = Activation.SIGMOID, Activation.TANH


class LSTMParams(NamedTuple):
    """w_x ``[D, 4H]``, w_h ``[H, 4H]``, b ``[4H]``; columns in the order i, f, g, o."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


class LSTMCarry(NamedTuple):
    """c, h ``[*B, H]``."""

    c: jax.Array
    h: jax.Array


@definition
def lstm(hidden_size: int, *, forget_bias: float = 1.0, param_dtype: Any = jnp.float32) -> Cell:
    r"""Long short-term memory.

    .. math::
        (i_t, f_t, g_t, o_t) &= x_t W_x + h_{t-1} W_h + b \\
        c_t &= \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \tanh(g_t) \\
        h_t &= \sigma(o_t) \odot \tanh(c_t)

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``LSTMCarry(c [*B, H], h [*B, H])``;
    params ``LSTMParams(w_x [D, 4H], w_h [H, 4H], b [4H])``.

    Gradients: along c the derivative of one step is :math:`\sigma(f_t)`, without a matrix. Gradients decay slowly where
    the forget gate is near one. A bias b of the forget gate gives an e-folding length of :math:`-1/\ln\sigma(b)` steps
    at initialisation, 3.2 for the default of 1.

    Args:
        hidden_size: H.
        forget_bias: initial bias of the forget gate.
        param_dtype: dtype of the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.lstm(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> params.b
        Array([0., 0., 0., 1., 1., 1., 0., 0., 0., 0., 0., 0.], dtype=float32)

    References:
        Hochreiter, Schmidhuber 1997, "Long short-term memory", Neural Computation 9.
        Gers, Schmidhuber, Cummins 2000, "Learning to forget", Neural Computation 12 (the forget gate).
        Jozefowicz, Zaremba, Sutskever 2015, "An empirical exploration of recurrent network architectures"
        (forget_bias 1).
    """
    check_whole("lstm(hidden_size)", hidden_size)

    def init(key: jax.Array, x: jax.Array) -> LSTMParams:
        w_x, w_h = gated_weights(key, x, hidden_size, 4, param_dtype)
        b = jnp.zeros((4, hidden_size), param_dtype).at[1].set(forget_bias)
        return LSTMParams(w_x, w_h, b.reshape(-1))

    return Cell(
        init=init,
        initial_carry=lambda params, x: LSTMCarry(zero_carry(x, hidden_size), zero_carry(x, hidden_size)),
        recurrence=Gated(
            activations=(SIGMOID, SIGMOID, TANH, SIGMOID),
            num_update=3,
            update=lambda w, state, i, f, g: (f * state[0] + i * g,),
            emit=lambda w, state, o: o * tanh(state[0]),
            weights=lambda params: GatedWeights(params.w_h),
        ),
        project=Dense(lambda params: (params.w_x, params.b)),
    )


@definition
def chrono_lstm(hidden_size: int, *, t_max: float = 1000.0, param_dtype: Any = jnp.float32) -> Cell:
    r"""Long short-term memory with chrono initialisation: biases start at time scales from 1 to t_max steps.

    .. math::
        b_f = \ln u, \quad u \sim \mathcal{U}[1, t_{max} - 1], \qquad b_i = -b_f, \qquad b_g = b_o = 0

    in an `lstm`; equations, shapes and params are those of `lstm`.

    Gradients: where inputs and h are zero, the forget gate of a unit is :math:`u / (1 + u)`. Along c, its gradients
    have an e-folding length of :math:`1 / \ln(1 + 1/u) \approx u + 1/2` steps, uniform from 1.4 to t_max. Their mean
    over units is nearly :math:`E_2(lag / t_{max})`, an exponential integral, which is .15 at a lag of t_max. An `lstm`
    has one exponential for all units instead. The input gate, :math:`1 / (1 + u)`, keeps the size of c constant.

    Args:
        hidden_size: H.
        t_max: the longest expected dependency in steps, above 2.
        param_dtype: dtype of the params.

    Raises:
        ValueError: unless t_max is a finite number above 2, or for a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> b = sj.chrono_lstm(64, t_max=100).init(jax.random.key(0), jnp.ones((5, 2))).b
        >>> b_i, b_f, b_g, b_o = jnp.split(b, 4)
        >>> bool(jnp.exp(b_f).min() >= 1), bool(jnp.exp(b_f).max() < 99.1), bool((b_i == -b_f).all())
        (True, True, True)

    References:
        Tallec, Ollivier 2018, "Can recurrent neural networks warp time?", arXiv:1804.11188, section 2: eq. 11-15
        (the cell) and 16 (the biases).
    """
    check_whole("chrono_lstm(hidden_size)", hidden_size)
    if not 2 < t_max < math.inf:
        raise ValueError(f"chrono_lstm(t_max): expected a finite number of steps above 2, got {t_max!r}.")

    def init(key: jax.Array, x: jax.Array) -> LSTMParams:
        key_w, key_b = jax.random.split(key)
        w_x, w_h = gated_weights(key_w, x, hidden_size, 4, param_dtype)
        dtype = wide(jnp.dtype(param_dtype))
        b_f = jnp.log(jax.random.uniform(key_b, (hidden_size,), dtype, 1.0, t_max - 1.0))
        b = jnp.concatenate([-b_f, b_f, jnp.zeros(2 * hidden_size, dtype)])
        return LSTMParams(w_x, w_h, b.astype(param_dtype))

    return dataclasses.replace(lstm(hidden_size), init=init)
