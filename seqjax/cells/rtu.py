"""Recurrent trace units."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Cell, Diagonal, DiagonalInputs, Recurrence, Step
from seqjax.cells.common.initialize import wide_zeros
from seqjax.cells.common.labels import sets_recurrence
from seqjax.cells.common.linear import check_ring, lecun_normal
from seqjax.checks import check_one_of, check_whole
from seqjax.ops.discretize import complement
from seqjax.ops.select import wide, wide_complex
from seqjax.ops.step import expand_left
from seqjax.values import definition

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "identity": lambda z: z}


@sets_recurrence("nu_log", "theta_log")
class RTUParams(NamedTuple):
    """nu_log, theta_log ``[H]``; w_x ``[D, 2H]`` (columns of c1, c2)."""

    nu_log: jax.Array
    theta_log: jax.Array
    w_x: jax.Array


@definition
def rtu(
    hidden_size: int,
    *,
    nonlinear: bool = False,
    activation: Literal["relu", "tanh", "identity"] = "relu",
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 2 * math.pi,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Recurrent trace unit: a complex diagonal recurrence, written as a scaled rotation of two real numbers per unit.

    .. math::
        r &= \exp(-e^{\nu}), \quad \theta = e^{\theta_{log}}, \quad
        g = r \cos\theta, \quad \phi = r \sin\theta, \quad (u^1_t, u^2_t) = x_t W_x \\
        z^1_t &= g \odot c^1_{t-1} - \phi \odot c^2_{t-1} + \sqrt{1 - r^2} \odot u^1_t \\
        z^2_t &= g \odot c^2_{t-1} + \phi \odot c^1_{t-1} + \sqrt{1 - r^2} \odot u^2_t \\
        c_t &= z_t, \quad y_t = f([c^1_t, c^2_t]) && \text{(linear)} \\
        c_t &= f(z_t), \quad y_t = [c^1_t, c^2_t] && \text{(nonlinear)}

    Shapes: x ``[*B, D]`` -> y ``[*B, 2H]``, real: each of the H units has two outputs; carry :math:`c^1 + i c^2`
    ``[*B, H]`` complex, complex64 at least; params `RTUParams`.

    Initialization: :math:`r^2` uniform in [r_min^2, r_max^2] and :math:`\theta` uniform up to max_phase, as in `lru`;
    W_x normal with variance 1/D.

    Gradients: the Jacobian of linear units is exactly :math:`r^{T-t}` times a rotation, with norm at most one.
    Nonlinear units have slopes of f between the rotations. In both forms no unit depends on the past of another unit,
    so real-time recurrent learning costs as much as the forward pass.

    Args:
        hidden_size: H, the number of units; the outputs have twice the width.
        nonlinear: whether f acts inside the recurrence (`Step`) or after it (`Diagonal`).
        activation: f.
        r_min: smallest modulus at initialization.
        r_max: largest modulus at initialization.
        max_phase: largest angle at initialization, in radians.
        param_dtype: dtype of the params.

    Raises:
        ValueError: unless 0 <= r_min < r_max <= 1; for an angle that is not positive, another activation, or a size
            below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.rtu(3))
        >>> xs = jnp.ones((10, 5, 2))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1].shape
        (10, 5, 6)

    References:
        Elelimy, White, Bowling, White 2024, "Real-time recurrent learning using trace units in reinforcement
        learning", arXiv:2409.01449 (both forms, the parametrization of r and theta, the norm).
    """
    check_whole("rtu(hidden_size)", hidden_size)
    check_one_of("rtu(activation)", activation, ACTIVATIONS)
    check_ring("rtu", r_min, r_max, max_phase)
    f = ACTIVATIONS[activation]

    def init(key: jax.Array, x: jax.Array) -> RTUParams:
        keys = jax.random.split(key, 3)
        # Uniform in (0, 1], since zero has no logarithm. Draw in float32 at least, as in `lru`.
        dtype = wide(jnp.dtype(param_dtype))
        u_1, u_2 = (1 - jax.random.uniform(k, (hidden_size,), dtype) for k in keys[:2])
        tiny = jnp.finfo(dtype).eps
        modulus_squared = jnp.clip(r_min**2 + u_1 * (r_max**2 - r_min**2), tiny, 1 - tiny)
        rate, phase = jnp.log(-0.5 * jnp.log(modulus_squared)), jnp.log(max_phase * u_2)
        w_x = lecun_normal(keys[2], (x.shape[-1], 2 * hidden_size), param_dtype)
        return RTUParams(rate.astype(param_dtype), phase.astype(param_dtype), w_x)

    def rotation(params: RTUParams, dtype: Any) -> jax.Array:
        """Return g + i phi ``[H]``."""
        nu, theta = (jnp.exp(p.astype(dtype)) for p in params[:2])
        modulus = jnp.exp(-nu)
        return jax.lax.complex(modulus * jnp.cos(theta), modulus * jnp.sin(theta))

    def inputs(params: RTUParams, xs: jax.Array, key: Any = None) -> jax.Array:
        us = affine(xs, params.w_x).astype(wide(xs.dtype))
        norm = expand_left(complement(params.nu_log.astype(us.dtype)), us.ndim)
        return jax.lax.complex(*(norm * half for half in jnp.split(us, 2, -1)))

    def project(params: RTUParams, xs: jax.Array, key: Any = None) -> DiagonalInputs:
        us = inputs(params, xs)
        return DiagonalInputs(rotation(params, us.real.dtype), us)

    def parts(cs: jax.Array) -> jax.Array:
        return jnp.concatenate([cs.real, cs.imag], -1)

    def step(params: RTUParams, c: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = expand_left(rotation(params, u.real.dtype), c.ndim) * c + u
        c = jax.lax.complex(f(z.real), f(z.imag))
        return c, parts(c)

    recurrence: Recurrence = Step(step) if nonlinear else Diagonal()
    start = wide_zeros(hidden_size, wide_complex)
    return Cell(
        init=init,
        initial_carry=start,
        recurrence=recurrence,
        project=inputs if nonlinear else project,
        readout=lambda params, hs, xs: (hs if nonlinear else f(parts(hs))).astype(xs.dtype),
    )
