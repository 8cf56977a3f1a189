"""Minimal gated recurrent unit (minGRU)."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Cell, Diagonal, DiagonalInputs
from seqjax.cells.common.initialize import wide_zeros
from seqjax.cells.common.linear import as_inputs, glorot
from seqjax.checks import check_one_of, check_whole
from seqjax.ops.select import wide
from seqjax.values import definition

CandidateActivation = Literal["identity", "positive"]


class MinGRUParams(NamedTuple):
    """w_x ``[D, 2H]``, b ``[2H]``; columns in the order z, h."""

    w_x: jax.Array
    b: jax.Array


@definition
def min_gru(
    hidden_size: int, *, activation: CandidateActivation = "identity", param_dtype: Any = jnp.float32
) -> Cell:
    r"""Minimal gated recurrent unit: a linear recurrence with one gate (minGRU).

    .. math::
        (k_t, v_t) &= x_t W_x + b \\
        h_t &= \sigma(-k_t) \odot h_{t-1} + \sigma(k_t) \odot \phi(v_t)

    where :math:`\sigma(-k) = 1 - \sigma(k) = 1 - z`, and :math:`\phi` is the identity, or the paper's positive
    :math:`g(v) = v + \frac12` for :math:`v \ge 0`, :math:`\sigma(v)` else.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry h ``[*B, H]``, float32 at least; params `MinGRUParams`.

    The paper scans over logarithms of h, which requires the positive g. This recurrence works without logarithms, so
    the default is the identity, as in the main part of the paper. The paper states no initialization; weights start
    uniform by Glorot and Bengio.

    Gradients: :math:`\partial h_T / \partial h_t = \prod (1 - z_s)` over the steps between, in (0, 1), and 1/2 per step
    at initialization.

    Args:
        hidden_size: H.
        activation: of the candidate: "identity", or "positive" for g.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for another activation or a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.min_gru(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        MinGRUParams(w_x=(2, 6), b=(6,))

    References:
        Feng et al. 2024, "Were RNNs all we needed?", arXiv:2410.01201: section 3.1 (minGRU), appendix B (g).
    """
    check_whole("min_gru(hidden_size)", hidden_size)
    check_one_of("min_gru(activation)", activation, ("identity", "positive"))

    def init(key: jax.Array, x: jax.Array) -> MinGRUParams:
        w_x = glorot(key, x.shape[-1], hidden_size, 2, param_dtype)
        return MinGRUParams(w_x, jnp.zeros((2 * hidden_size,), param_dtype))

    def project(params: MinGRUParams, xs: jax.Array, key: Any = None) -> DiagonalInputs:
        us = affine(xs, params.w_x, params.b).astype(wide(xs.dtype))
        k, v = jnp.split(us, 2, -1)
        return DiagonalInputs(jax.nn.sigmoid(-k), jax.nn.sigmoid(k) * candidate(v, activation))

    return cell_of_gates(hidden_size, init, project)


def candidate(v: jax.Array, activation: CandidateActivation) -> jax.Array:
    """Apply the activation of the candidate: the identity, or the positive g."""
    return v if activation == "identity" else jnp.where(v >= 0, v + 0.5, jax.nn.sigmoid(v))


def cell_of_gates(hidden_size: int, init: Any, project: Any) -> Cell:
    """Return the diagonal cell of an `init` and a `project`, shared with `min_lstm`."""
    start = wide_zeros(hidden_size)
    return Cell(init=init, initial_carry=start, recurrence=Diagonal(), project=project, readout=as_inputs)
