"""Recurrent network with an antisymmetric recurrent matrix."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Gated, GatedWeights
from seqjax.cells.common.initialize import DENSE, zeros
from seqjax.checks import check_above, check_at_least, check_whole
from seqjax.ops.fixed_point import fixed_point
from seqjax.values import definition


class AntisymmetricParams(NamedTuple):
    """w_x ``[D, G*H]``, w_h ``[H, H]``, b ``[G*H]``; G = 1, or 2 with a gate, whose columns come first."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


class AntisymmetricCarry(NamedTuple):
    """h ``[*B, H]``."""

    h: jax.Array


@definition
def antisymmetric_rnn(
    hidden_size: int,
    *,
    gated: bool = False,
    step_size: float = 0.1,
    diffusion: float = 0.01,
    weight_scale: float = 1.0,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Antisymmetric recurrent network: Euler steps of a stable differential equation, with or without an input gate.

    .. math::
        A &= W_h - W_h^\top - \gamma I \\
        h_t &= h_{t-1} + \epsilon \tanh(x_t W_x + h_{t-1} A + b) \\
        h_t &= h_{t-1} + \epsilon\, \sigma(x_t W_z + h_{t-1} A + b_z) \odot \tanh(x_t W_x + h_{t-1} A + b)
            && \text{(gated)}

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``AntisymmetricCarry(h [*B, H])``;
    params ``AntisymmetricParams(w_x [D, G*H], w_h [H, H], b [G*H])``, G = 1, or 2 with columns in the order z, h.

    Gradients: :math:`\partial h_t / \partial h_{t-1} = I + \epsilon A D_t` with slopes D_t in [0, 1] (without a gate):
    the eigenvalues of :math:`A D_t` have real parts in :math:`[-\gamma, 0]`, so the differential equation neither
    loses nor amplifies gradients. The Euler step adds :math:`O(\epsilon^2)` per step, which diffusion counteracts.

    Args:
        hidden_size: H.
        gated: whether to use the gate z. Gate and candidate share W_h, as in the paper.
        step_size: epsilon.
        diffusion: gamma.
        weight_scale: sigma_w. w_h starts normal with variance sigma_w^2 / H, w_x with variance 1 / D.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a step_size that is not positive, a negative diffusion or weight_scale, or a hidden_size below
            1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.antisymmetric_rnn(3, gated=True).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        AntisymmetricParams(w_x=(2, 6), w_h=(3, 3), b=(6,))

    References:
        Chang, Chen, Haber, Chi 2019, "AntisymmetricRNN: a dynamical system view on recurrent neural networks",
        arXiv:1902.09689, section 3: eq. 10 (Euler step), 12 (diffusion), 13 (gate), and its appendix on experiments
        (initialization). The paper searches epsilon and gamma on a grid of powers of ten; it gives no defaults, so
        seqjax chose them.
    """
    check_whole("antisymmetric_rnn(hidden_size)", hidden_size)
    check_above("antisymmetric_rnn(step_size)", step_size)
    check_at_least("antisymmetric_rnn(diffusion)", diffusion, 0)
    check_at_least("antisymmetric_rnn(weight_scale)", weight_scale, 0)
    num_gates = 2 if gated else 1

    def init(key: jax.Array, x: jax.Array) -> AntisymmetricParams:
        key_x, key_h = jax.random.split(key)
        w_x = jax.random.normal(key_x, (x.shape[-1], num_gates * hidden_size), param_dtype)
        w_h = jax.random.normal(key_h, (hidden_size, hidden_size), param_dtype)
        w_x, w_h = w_x / math.sqrt(x.shape[-1]), w_h * (weight_scale / math.sqrt(hidden_size))
        return AntisymmetricParams(w_x, w_h, jnp.zeros(num_gates * hidden_size, param_dtype))

    def weights(params: AntisymmetricParams) -> GatedWeights:
        w_h = params.w_h
        a = w_h - w_h.T - diffusion * jnp.eye(hidden_size, dtype=w_h.dtype)
        return GatedWeights(jnp.concatenate([a] * num_gates, -1))

    def update(w: Any, state: tuple, *gates: jax.Array) -> tuple:
        change = gates[0] * gates[1] if gated else gates[0]
        return (state[0] + step_size * change,)

    def inverse(params: AntisymmetricParams, carry: AntisymmetricCarry, u: jax.Array) -> AntisymmetricCarry:
        """Solve h' = h - epsilon (...)(h') by fixed-point iteration, which converges because the step is small."""
        w_h = weights(params).w_h.astype(u.dtype)

        def earlier(h: jax.Array) -> jax.Array:
            *z, n = jnp.split(u + h @ w_h, num_gates, -1)
            change = jax.nn.sigmoid(z[0]) * jnp.tanh(n) if gated else jnp.tanh(n)
            return carry.h - step_size * change

        return AntisymmetricCarry(fixed_point(earlier, carry.h))

    activations = (Activation.SIGMOID, Activation.TANH)[2 - num_gates :]
    names = ("input", "candidate")[2 - num_gates :]
    recurrence = Gated(
        activations=activations, num_update=num_gates, update=update, weights=weights, names=names
    )
    initial_carry = zeros(AntisymmetricCarry, hidden_size)
    return Cell(init=init, initial_carry=initial_carry, recurrence=recurrence, project=DENSE, inverse=inverse)
