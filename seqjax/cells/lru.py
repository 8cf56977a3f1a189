"""Linear recurrent unit."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Cell, Diagonal, DiagonalInputs
from seqjax.cells.common.initialize import zero_carry
from seqjax.cells.common.labels import sets_recurrence
from seqjax.cells.common.linear import check_ring
from seqjax.checks import check_whole
from seqjax.ops.select import wide, wide_complex
from seqjax.values import definition


@sets_recurrence("nu_log", "theta_log", "gamma_log")
class LRUParams(NamedTuple):
    """nu_log, theta_log, gamma_log ``[N]``; w_b ``[D, 2N]`` (real, imaginary); w_c ``[2N, H]``; w_d ``[D, H]``."""

    nu_log: jax.Array
    theta_log: jax.Array
    gamma_log: jax.Array
    w_b: jax.Array
    w_c: jax.Array
    w_d: jax.Array


@definition
def lru(
    hidden_size: int,
    *,
    state_size: int | None = None,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 2 * math.pi,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Linear recurrent unit: a complex diagonal linear recurrence between two real linear maps.

    .. math::
        \lambda &= \exp(-e^{\nu} + i e^{\theta}) \\
        s_t &= \lambda \odot s_{t-1} + e^{\gamma} \odot (x_t B), \qquad s \in \mathbb{C}^N \\
        y_t &= \mathrm{Re}(s_t C) + x_t D

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry s ``[*B, N]`` complex; params `LRUParams`. The params store the real
    and imaginary halves of B and C: ``w_b = [Re B, Im B]``, ``w_c = [Re C; -Im C]``. The recurrence runs in complex64
    at least.

    Gradients: :math:`\partial s_T / \partial s_t = \lambda^{T-t}`, exactly, for all inputs. :math:`|\lambda| < 1` by
    construction, so gradients never explode. With :math:`|\lambda|^2` uniform in [r_min^2, r_max^2], the mean of
    :math:`|\lambda|^{2T}` is a power law in T, :math:`1/(T+1)` for the default ring.

    Args:
        hidden_size: H.
        state_size: N; hidden_size by default.
        r_min: least modulus of lambda at initialization.
        r_max: greatest modulus of lambda at initialization.
        max_phase: greatest angle of lambda at initialization, in radians.
        param_dtype: dtype of the params.

    Raises:
        ValueError: unless 0 <= r_min < r_max <= 1, for an angle that is not positive, or a size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.lru(3, state_size=4).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        LRUParams(nu_log=(4,), theta_log=(4,), gamma_log=(4,), w_b=(2, 8), w_c=(8, 3), w_d=(2, 3))

    References:
        Orvieto et al. 2023, "Resurrecting recurrent neural networks for long sequences", arXiv:2303.06349: eq. 3
        (the recurrence), lemma 3.2 (the ring), eq. 7 (gamma). D is the full matrix of eq. 1.
    """
    size = hidden_size if state_size is None else state_size
    check_whole("lru(hidden_size)", hidden_size)
    check_whole("lru(state_size)", size)
    check_ring("lru", r_min, r_max, max_phase)

    def init(key: jax.Array, x: jax.Array) -> LRUParams:
        keys = jax.random.split(key, 5)
        # Uniform in (0, 1], since zero has no logarithm. Draw in float32 at least: near 1, bfloat16 has only
        # four numbers for memories of 100 to 1000 steps.
        dtype = wide(jnp.dtype(param_dtype))
        u_1, u_2 = (1 - jax.random.uniform(k, (size,), dtype) for k in keys[:2])
        modulus_squared = r_min**2 + u_1 * (r_max**2 - r_min**2)
        tiny = jnp.finfo(dtype).eps
        nu_log = jnp.log(-0.5 * jnp.log(jnp.clip(modulus_squared, tiny, 1 - tiny)))
        gamma_log = 0.5 * jnp.log1p(-jnp.exp(-2 * jnp.exp(nu_log)))
        width = x.shape[-1]
        return LRUParams(
            nu_log.astype(param_dtype),
            jnp.log(max_phase * u_2).astype(param_dtype),
            gamma_log.astype(param_dtype),
            jax.random.normal(keys[2], (width, 2 * size), param_dtype) / math.sqrt(2 * width),
            jax.random.normal(keys[3], (2 * size, hidden_size), param_dtype) / math.sqrt(size),
            jax.random.normal(keys[4], (width, hidden_size), param_dtype) / math.sqrt(width),
        )

    def project(params: LRUParams, xs: jax.Array, key: Any = None) -> DiagonalInputs:
        real_dtype = wide(xs.dtype)
        nu, theta, gamma = (jnp.exp(p.astype(real_dtype)) for p in params[:3])
        decay = jnp.exp(-nu)
        a = jax.lax.complex(decay * jnp.cos(theta), decay * jnp.sin(theta))
        real, imaginary = jnp.split(affine(xs, params.w_b).astype(real_dtype), 2, -1)
        gamma = jnp.broadcast_to(gamma, real.shape)
        return DiagonalInputs(a, jax.lax.complex(gamma * real, gamma * imaginary))

    def readout(params: LRUParams, hs: jax.Array, xs: jax.Array) -> jax.Array:
        halves = jnp.concatenate([hs.real, hs.imag], -1).astype(xs.dtype)
        return affine(halves, params.w_c) + affine(xs, params.w_d)

    def initial_carry(params: LRUParams, x: jax.Array) -> jax.Array:
        return zero_carry(x, size, wide_complex(x.dtype))

    return Cell(
        init=init, initial_carry=initial_carry, recurrence=Diagonal(), project=project, readout=readout
    )
