"""Reservoir of an echo state network."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Dense, Gated, GatedWeights
from seqjax.cells.common.initialize import uniform, zeros
from seqjax.checks import check_at_least, check_whole, check_within
from seqjax.ops.select import wide
from seqjax.values import definition


class EchoStateParams(NamedTuple):
    """w_x ``[D, H]``, w_h ``[H, H]``, b ``[H]``; drawn once and never trained."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


class EchoStateCarry(NamedTuple):
    """h ``[*B, H]``."""

    h: jax.Array


def spectral_radius(w: jax.Array) -> jax.Array:
    r"""Return the spectral radius of ``w [H, H]``, by :math:`\rho = \lim \lVert W^k \rVert^{1/k}`.

    The function squares W 40 times, so k is 2^40 and the limit is exact to rounding; it divides by the norm after each
    product. Unlike the eigenvalues of a general matrix, this runs on every platform. O(H^3) work; 0 for a nilpotent
    matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.cells.echo_state import spectral_radius
        >>> print(f"{spectral_radius(jnp.asarray([[0.0, 4.0], [-1.0, 0.0]])):.5f}")
        2.00000
    """

    def square(state: tuple, exponent: jax.Array) -> tuple[tuple, None]:
        log_radius, power = state
        norm = jnp.sqrt(jnp.sum(jnp.square(power)))
        vanished = norm == 0
        scaled = power / jnp.where(vanished, jnp.ones_like(norm), norm)
        log_norm = jnp.log(jnp.where(vanished, jnp.ones_like(norm), norm))
        log_radius = jnp.where(vanished, -jnp.inf, log_radius + log_norm * exponent)
        return (log_radius, jnp.matmul(scaled, scaled, precision="highest")), None

    w = w.astype(wide(w.dtype))
    shares = jnp.exp2(-jnp.arange(40, dtype=w.dtype))
    (log_radius, _), _ = jax.lax.scan(square, (jnp.zeros((), w.dtype), w), shares)
    return jnp.exp(log_radius)


@definition
def echo_state(
    hidden_size: int,
    *,
    radius: float = 0.9,
    leak: float = 1.0,
    connections: int | None = 10,
    input_scale: float = 1.0,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Leaky echo state reservoir: a simple recurrent network with random weights that are not trained.

    .. math::
        h_t = (1 - \alpha)\, h_{t-1} + \alpha \tanh(x_t W_x + h_{t-1} W_h + b)

    Only the readout, a layer on top, is trained: ``serial(recurrent(echo_state(500)), pointwise(nn.Dense(1)))``.

    The reservoir is part of the params: `init` draws it from its key, and checkpoints contain it. The cell applies
    ``stop_gradient`` to it, so its gradient is exactly zero. Exclude the reservoir (``optax.masked``) from an optimizer
    that changes params without a gradient, such as weight decay.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``EchoStateCarry(h [*B, H])``;
    params ``EchoStateParams(w_x [D, H], w_h [H, H], b [H])``.

    Gradients: zero for the params; those of a simple recurrent network for inputs and carry. At h = 0 the Jacobian has
    the eigenvalues :math:`1 - \alpha + \alpha\lambda`, where lambda are those of W_h: with a radius below 1 gradients
    decay there.

    Args:
        hidden_size: H.
        radius: the spectral radius of W_h, to rounding.
        leak: alpha, in (0, 1]; 1 for no leak.
        connections: how many units each unit reads, at most H; None for all.
        input_scale: s; w_x and b are uniform in [-s, s].
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a leak outside (0, 1], a negative radius or input_scale, or a size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> from seqjax.cells.echo_state import spectral_radius
        >>> params = sj.echo_state(50, radius=0.8).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> print(f"{spectral_radius(params.w_h):.4f}, {jnp.mean(params.w_h != 0):.2f}")
        0.8000, 0.20

    References:
        Jaeger 2001, "The echo state approach to analysing and training recurrent neural networks", GMD report 148,
        eq. 1.1 and section 3. Jaeger, Lukosevicius, Popovici, Siewert 2007, "Optimization and applications of echo
        state networks with leaky-integrator neurons", Neural Networks 20 (the leak). Lukosevicius 2012, "A practical
        guide to applying echo state networks", eq. 2 and 3, section 3.2 (how to draw the reservoir; 10 connections).
    """
    check_whole("echo_state(hidden_size)", hidden_size)
    check_at_least("echo_state(radius)", radius, 0)
    check_at_least("echo_state(input_scale)", input_scale, 0)
    check_within("echo_state(leak)", leak, "(0, 1]")
    if connections is not None:
        check_whole("echo_state(connections)", connections)

    def init(key: jax.Array, x: jax.Array) -> EchoStateParams:
        keys = jax.random.split(key, 4)
        square = (hidden_size, hidden_size)
        w_h = uniform(keys[0], square, 1.0, wide(jnp.dtype(param_dtype)))
        if connections is not None:
            # Each column has exactly this number of connections. The graph then has cycles, and the radius is
            # above zero for every H.
            rank = jnp.argsort(jnp.argsort(jax.random.uniform(keys[1], square), 0), 0)
            w_h = jnp.where(rank < connections, w_h, jnp.zeros_like(w_h))
        return EchoStateParams(
            uniform(keys[2], (x.shape[-1], hidden_size), input_scale, param_dtype),
            (w_h * (radius / spectral_radius(w_h))).astype(param_dtype),
            uniform(keys[3], (hidden_size,), input_scale, param_dtype),
        )

    recurrence = Gated(
        activations=(Activation.TANH,),
        num_update=1,
        update=lambda w, state, a: ((1 - leak) * state[0] + leak * a,),
        weights=lambda params: GatedWeights(jax.lax.stop_gradient(params.w_h)),
    )
    return Cell(
        init=init,
        initial_carry=zeros(EchoStateCarry, hidden_size),
        recurrence=recurrence,
        project=Dense(lambda params: jax.lax.stop_gradient((params.w_x, params.b))),
    )
