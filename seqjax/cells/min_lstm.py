"""Minimal long short-term memory (minLSTM)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Cell, DiagonalInputs
from seqjax.cells.common.linear import glorot
from seqjax.cells.min_gru import CandidateActivation, candidate, cell_of_gates
from seqjax.checks import check_one_of, check_whole
from seqjax.ops.select import wide
from seqjax.values import definition


class MinLSTMParams(NamedTuple):
    """w_x ``[D, 3H]``, b ``[3H]``; columns in the order f, i, h."""

    w_x: jax.Array
    b: jax.Array


@definition
def min_lstm(
    hidden_size: int,
    *,
    activation: CandidateActivation = "identity",
    forget_bias: float = 0.0,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Minimal long short-term memory: a linear recurrence with two gates that add up to one (minLSTM).

    .. math::
        (p_t, k_t, v_t) &= x_t W_x + b, \qquad f_t = \sigma(p_t), \quad i_t = \sigma(k_t) \\
        h_t &= \frac{f_t}{f_t + i_t} \odot h_{t-1} + \frac{i_t}{f_t + i_t} \odot \phi(v_t)

    where :math:`\phi` is as in `min_gru`. The gates are computed in the paper's log-space form,
    :math:`f' = \sigma(-\delta)`, :math:`i' = \sigma(\delta)`,
    :math:`\delta = \mathrm{softplus}(-p) - \mathrm{softplus}(-k)`, which avoids a division by a sum that may vanish.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry h ``[*B, H]``, float32 at least; params `MinLSTMParams`.

    Gradients: :math:`\partial h_T / \partial h_t = \prod f_s / (f_s + i_s)` over the steps between, in (0, 1), and
    1/2 per step at initialization; a forget_bias b gives :math:`2\sigma(b) / (2\sigma(b) + 1)`, at most 2/3. The
    factor is near one only where the input gate is nearly closed.

    Args:
        hidden_size: H.
        activation: of the candidate: "identity" or "positive".
        forget_bias: initial bias of the forget gate.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for another activation or a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.min_lstm(2, forget_bias=1.0).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> params.b
        Array([1., 1., 0., 0., 0., 0.], dtype=float32)

    References:
        Feng et al. 2024, "Were RNNs all we needed?", arXiv:2410.01201: section 3.2 (minLSTM), appendix B (log space).
    """
    check_whole("min_lstm(hidden_size)", hidden_size)
    check_one_of("min_lstm(activation)", activation, ("identity", "positive"))

    def init(key: jax.Array, x: jax.Array) -> MinLSTMParams:
        w_x = glorot(key, x.shape[-1], hidden_size, 3, param_dtype)
        b = jnp.zeros((3, hidden_size), param_dtype).at[0].set(forget_bias)
        return MinLSTMParams(w_x, b.reshape(3 * hidden_size))

    def project(params: MinLSTMParams, xs: jax.Array, key: Any = None) -> DiagonalInputs:
        us = affine(xs, params.w_x, params.b).astype(wide(xs.dtype))
        p, k, v = jnp.split(us, 3, -1)
        delta = jax.nn.softplus(-p) - jax.nn.softplus(-k)
        return DiagonalInputs(jax.nn.sigmoid(-delta), jax.nn.sigmoid(delta) * candidate(v, activation))

    return cell_of_gates(hidden_size, init, project)
