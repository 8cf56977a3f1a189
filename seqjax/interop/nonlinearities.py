"""The activations of other libraries, by name, with their parameters."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqjax.checks import check_one_of
from seqjax.values import Value


def _scale(x: jax.Array, number: float) -> jax.Array:
    return x * jnp.asarray(number, x.dtype)


FUNCTIONS: dict[str, Callable[[jax.Array, float, float], jax.Array]] = {
    "sigmoid": lambda x, alpha, beta: jax.nn.sigmoid(x),
    "tanh": lambda x, alpha, beta: jnp.tanh(x),
    "relu": lambda x, alpha, beta: jax.nn.relu(x),
    "identity": lambda x, alpha, beta: x,
    "hard_sigmoid": lambda x, alpha, beta: jnp.clip(_scale(x, alpha) + jnp.asarray(beta, x.dtype), 0, 1),
    "leaky_relu": lambda x, alpha, beta: jnp.where(x >= 0, x, _scale(x, alpha)),
    "thresholded_relu": lambda x, alpha, beta: jnp.where(x > alpha, x, jnp.zeros_like(x)),
    "scaled_tanh": lambda x, alpha, beta: _scale(jnp.tanh(_scale(x, beta)), alpha),
    "affine": lambda x, alpha, beta: _scale(x, alpha) + jnp.asarray(beta, x.dtype),
    "elu": lambda x, alpha, beta: jax.nn.elu(x, jnp.asarray(alpha, x.dtype)),
    "softsign": lambda x, alpha, beta: jax.nn.soft_sign(x),
    "softplus": lambda x, alpha, beta: jax.nn.softplus(x),
}


@dataclass(frozen=True, repr=False)
class Nonlinearity(Value):
    r"""An activation with two parameters, of which some activations read none or one.

    ``hard_sigmoid`` is :math:`\min(1, \max(0, \alpha x + \beta))`, ``leaky_relu`` multiplies negative x by alpha,
    ``thresholded_relu`` is x above alpha and else 0, ``scaled_tanh`` is :math:`\alpha \tanh(\beta x)`, ``affine`` is
    :math:`\alpha x + \beta`, ``elu`` is :math:`\alpha (e^x - 1)` for negative x.

    Attributes:
        name: "sigmoid", "tanh", "relu", "identity", "softsign", "softplus", or one of those above.
        alpha: the first parameter.
        beta: the second parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> Nonlinearity("hard_sigmoid", 0.2, 0.5)(jnp.array([-3.0, 0.0, 1.0]))
        Array([0. , 0.5, 0.7], dtype=float32)
    """

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        check_one_of("Nonlinearity(name)", self.name, FUNCTIONS)
        super().__post_init__()

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the activation, entry by entry."""
        return FUNCTIONS[self.name](x, self.alpha, self.beta)


SIGMOID, TANH = Nonlinearity("sigmoid"), Nonlinearity("tanh")
