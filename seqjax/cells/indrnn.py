"""Independently recurrent network."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Gated, GatedWeights
from seqjax.cells.common.initialize import DENSE, per_gate, zeros
from seqjax.cells.common.labels import elementwise
from seqjax.cells.elman import ACTIVATIONS, ElmanCarry
from seqjax.checks import check_one_of, check_whole
from seqjax.ops.select import wide
from seqjax.values import definition


@elementwise("w_h", "b")
class IndRNNParams(NamedTuple):
    """w_x ``[D, H]``, w_h and b ``[H]``."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


@definition
def indrnn(
    hidden_size: int,
    *,
    activation: Literal["tanh", "relu", "identity"] = "relu",
    w_min: float = 0.0,
    w_max: float = 1.0,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Independently recurrent network: one recurrent weight per unit, without connections between units (IndRNN).

    .. math::
        h_t = \phi(x_t W_x + w_h \odot h_{t-1} + b)

    w_h starts uniform in [w_min, w_max], W_x uniform by Glorot and Bengio (2010). The paper also clips w_h to [-w_max,
    w_max] after every update; here that is left to the optimizer.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``ElmanCarry(h [*B, H])``;
    params ``IndRNNParams(w_x [D, H], w_h [H], b [H])``.

    Gradients: :math:`\partial h_T / \partial h_t = \prod w_h \phi'`, per unit; with relu it is :math:`w_h^{T-t}` on
    units that stay active. The gradient of a unit with ``|w_h| <= 2^(1/T)`` at most doubles in T steps; with
    ``|w_h| >= 2^(-1/T)`` it loses at most half.

    Args:
        hidden_size: H.
        activation: phi: "relu" (the paper's), "tanh" or "identity".
        w_min: least recurrent weight at initialization; 2^(-1/T) for a last layer with a memory of T steps.
        w_max: greatest recurrent weight at initialization; 2^(1/T) in the paper, for sequences of T steps.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for another activation, unless w_min <= w_max and both are finite, or for a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.indrnn(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        IndRNNParams(w_x=(2, 3), w_h=(3,), b=(3,))

    References:
        Li, Li, Cook, Zhu, Gao 2018, "Independently recurrent neural network (IndRNN): building a longer and deeper
        RNN", arXiv:1803.04831, eq. 2 (the cell), sections 3.1 (the bounds) and 5 (the initial weights).
    """
    check_whole("indrnn(hidden_size)", hidden_size)
    check_one_of("indrnn(activation)", activation, ACTIVATIONS)
    if not -math.inf < w_min <= w_max < math.inf:
        raise ValueError(f"indrnn: expected finite w_min <= w_max, got w_min={w_min}, w_max={w_max}.")

    def init(key: jax.Array, x: jax.Array) -> IndRNNParams:
        key_x, key_h = jax.random.split(key)
        glorot, dtype = jax.nn.initializers.glorot_uniform(), wide(jnp.dtype(param_dtype))
        w_x = per_gate(glorot, key_x, (x.shape[-1], hidden_size), 1, param_dtype)
        w_h = jax.random.uniform(key_h, (hidden_size,), dtype, w_min, w_max)
        return IndRNNParams(w_x, w_h.astype(param_dtype), jnp.zeros(hidden_size, param_dtype))

    recurrence = Gated(
        activations=(ACTIVATIONS[activation],),
        num_update=1,
        update=lambda w, state, h: (h,),
        weights=lambda params: GatedWeights(params.w_h[None]),
    )
    return Cell(init=init, initial_carry=zeros(ElmanCarry, hidden_size), recurrence=recurrence, project=DENSE)
