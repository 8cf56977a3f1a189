"""Simple recurrent network."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Gated
from seqjax.cells.common.initialize import DENSE, gated_weights, zeros
from seqjax.checks import check_one_of, check_whole
from seqjax.values import definition

ACTIVATIONS = {"tanh": Activation.TANH, "relu": Activation.RELU, "identity": Activation.IDENTITY}


class ElmanParams(NamedTuple):
    """w_x ``[D, H]``, w_h ``[H, H]``, b ``[H]``."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


class ElmanCarry(NamedTuple):
    """h ``[*B, H]``."""

    h: jax.Array


@definition
def elman(
    hidden_size: int,
    *,
    activation: Literal["tanh", "relu", "identity"] = "tanh",
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Simple recurrent network (Elman network).

    .. math::
        h_t = \phi(x_t W_x + h_{t-1} W_h + b)

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``ElmanCarry(h [*B, H])``;
    params ``ElmanParams(w_x [D, H], w_h [H, H], b [H])``.

    Gradients: :math:`\partial h_t / \partial h_{t-1} = W_h \,\mathrm{diag}(\phi')` applies at every step, so gradients
    vanish or explode exponentially. The singular values of W_h and the slopes set the rate (Pascanu et al. 2013, eq.
    5-7). W_h starts orthogonal, so only the slopes shrink gradients at first.

    Args:
        hidden_size: H.
        activation: phi: "tanh", "relu" or "identity" (a linear network).
        param_dtype: dtype of the params.

    Raises:
        ValueError: for another activation, or a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.elman(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        ElmanParams(w_x=(2, 3), w_h=(3, 3), b=(3,))

    References:
        Elman 1990, "Finding structure in time", Cognitive Science 14.
        Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks", arXiv:1211.5063.
    """
    check_whole("elman(hidden_size)", hidden_size)
    check_one_of("elman(activation)", activation, ACTIVATIONS)

    def init(key: jax.Array, x: jax.Array) -> ElmanParams:
        w_x, w_h = gated_weights(key, x, hidden_size, 1, param_dtype)
        return ElmanParams(w_x, w_h, jnp.zeros(hidden_size, param_dtype))

    recurrence = Gated(activations=(ACTIVATIONS[activation],), num_update=1, update=lambda w, state, h: (h,))
    return Cell(init=init, initial_carry=zeros(ElmanCarry, hidden_size), recurrence=recurrence, project=DENSE)
