"""Simple recurrent network with relu units and identity weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Cell
from seqjax.cells.elman import ElmanParams, elman
from seqjax.checks import check_whole
from seqjax.ops.select import wide
from seqjax.values import definition


@definition
def irnn(hidden_size: int, *, scale: float = 1.0, param_dtype: Any = jnp.float32) -> Cell:
    r"""Simple recurrent network with relu units and an identity recurrent matrix at initialization (IRNN).

    .. math::
        h_t = \max(0, x_t W_x + h_{t-1} W_h + b)

    The cell is ``elman(activation="relu")`` with other initial weights: :math:`W_h = scale \cdot I`, b zero, W_x normal
    with standard deviation .001.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``ElmanCarry(h [*B, H])``;
    params ``ElmanParams(w_x [D, H], w_h [H, H], b [H])``.

    Gradients: at initialization :math:`\partial h_T / \partial h_t = scale^{T-t} I` exactly on the units that stay
    active, and zero on the other units. Training moves W_h away from the identity; gradients then vanish or explode as
    in any `elman`.

    Args:
        hidden_size: H.
        scale: factor of the identity; the paper uses 1 for long memories and .01 for speech.
        param_dtype: dtype of the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> sj.irnn(2).init(jax.random.key(0), jnp.ones((5, 3))).w_h
        Array([[1., 0.],
               [0., 1.]], dtype=float32)

    References:
        Le, Jaitly, Hinton 2015, "A simple way to initialize recurrent networks of rectified linear units",
        arXiv:1504.00941, sections 3 (the cell) and 4 (the standard deviation).
    """
    check_whole("irnn(hidden_size)", hidden_size)

    def init(key: jax.Array, x: jax.Array) -> ElmanParams:
        w_x = 0.001 * jax.random.normal(key, (x.shape[-1], hidden_size), wide(jnp.dtype(param_dtype)))
        w_h = scale * jnp.eye(hidden_size, dtype=param_dtype)
        return ElmanParams(w_x.astype(param_dtype), w_h, jnp.zeros(hidden_size, param_dtype))

    return dataclasses.replace(elman(hidden_size, activation="relu"), init=init)
