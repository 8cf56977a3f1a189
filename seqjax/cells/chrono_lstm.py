"""Long short-term memory with chrono initialization."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Cell
from seqjax.cells.common.initialize import gated_weights
from seqjax.cells.lstm import LSTMParams, lstm
from seqjax.checks import check_whole
from seqjax.ops.select import wide
from seqjax.values import definition


@definition
def chrono_lstm(hidden_size: int, *, t_max: float = 1000.0, param_dtype: Any = jnp.float32) -> Cell:
    r"""Long short-term memory with chrono initialization: biases start at time scales from 1 to t_max steps.

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
