"""Hierarchically gated recurrent network."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Cell, Diagonal, DiagonalInputs
from seqjax.cells.common.initialize import wide_zeros
from seqjax.cells.common.labels import sets_recurrence
from seqjax.cells.common.linear import lecun_normal
from seqjax.checks import check_whole, check_within
from seqjax.ops.select import wide, wide_complex
from seqjax.ops.step import expand_left
from seqjax.values import definition

EPSILON = 1e-5


@sets_recurrence("b_f", "theta")
class HGRNParams(NamedTuple):
    """w_c, w_g ``[D, 2H]``, w_f ``[D, H]``, w_o ``[2H, H]``; b_c, b_g, scale, shift ``[2H]``; b_f, theta, b_o ``[H]``.

    The columns of w_c and the rows of w_o are in the order real, imaginary.
    """

    w_c: jax.Array
    b_c: jax.Array
    w_f: jax.Array
    b_f: jax.Array
    theta: jax.Array
    w_g: jax.Array
    b_g: jax.Array
    scale: jax.Array
    shift: jax.Array
    w_o: jax.Array
    b_o: jax.Array


@definition
def hgrn(hidden_size: int, *, lower_bound: float = 0.0, param_dtype: Any = jnp.float32) -> Cell:
    r"""Hierarchically gated recurrent unit: a complex recurrence whose forget gates have a lower bound.

    .. math::
        \mathrm{Re}\,c_t &= \mathrm{SiLU}(x_t W_{cr} + b_{cr}), \qquad
        \mathrm{Im}\,c_t = \mathrm{SiLU}(x_t W_{ci} + b_{ci}) \\
        \lambda_t &= \gamma + (1 - \gamma)\, \sigma(x_t W_f + b_f) \\
        s_t &= \lambda_t e^{i\theta} \odot s_{t-1} + (1 - \lambda_t) \odot c_t, \qquad s \in \mathbb{C}^H \\
        g_t &= \sigma(x_t W_g + b_g) \\
        y_t &= \mathrm{LayerNorm}(g_t \odot [\mathrm{Re}\,s_t, \mathrm{Im}\,s_t]) W_o + b_o

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry s ``[*B, H]`` complex; params `HGRNParams`. The recurrence runs in
    complex64 at least; :math:`1 - \lambda` is computed as :math:`(1 - \gamma)\sigma(-\cdot)`.

    The paper learns the bounds across the layers of a stack: :math:`\gamma^k` is a cumulative sum of a softmax over
    layers, per unit. A cell has no access to other layers, so its bound is an argument: ``lower_bound=k / num_layers``
    for layer k = 0, 1, .. is the paper's initial bound. :math:`\theta_j` starts as :math:`10000^{-2j/H}`, as in the
    authors' code; weights start normal with variance 1 / fan-in, biases at zero.

    Gradients: :math:`|\partial s_T / \partial s_t| = \prod \lambda_s \ge \gamma^{T-t}`: a layer cannot forget faster
    than its bound, so high layers keep long-range gradients.

    Args:
        hidden_size: H.
        lower_bound: gamma, in [0, 1).
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a bound outside [0, 1) or a hidden_size below 1.

    Example:
        >>> import seqjax as sj
        >>> depth = 3
        >>> sj.serial(*(sj.recurrent(sj.hgrn(8, lower_bound=k / depth)) for k in range(depth))).causal
        True

    References:
        Qin, Yang, Zhong 2023, "Hierarchically gated recurrent neural network for sequence modeling", arXiv:2311.04823,
        section 3.2: complex recurrence, lower bound, tied gates, output gate.
    """
    check_whole("hgrn(hidden_size)", hidden_size)
    check_within("hgrn(lower_bound)", lower_bound)

    def init(key: jax.Array, x: jax.Array) -> HGRNParams:
        keys = jax.random.split(key, 4)
        width, both = x.shape[-1], 2 * hidden_size
        zeros, zeros_both = jnp.zeros((hidden_size,), param_dtype), jnp.zeros((both,), param_dtype)
        power = jnp.arange(hidden_size, dtype=wide(jnp.dtype(param_dtype))) * (-2 / hidden_size)
        return HGRNParams(
            lecun_normal(keys[0], (width, both), param_dtype),
            zeros_both,
            lecun_normal(keys[1], (width, hidden_size), param_dtype),
            zeros,
            jnp.exp(math.log(10000) * power).astype(param_dtype),
            lecun_normal(keys[2], (width, both), param_dtype),
            zeros_both,
            jnp.ones((both,), param_dtype),
            zeros_both,
            lecun_normal(keys[3], (both, hidden_size), param_dtype),
            zeros,
        )

    def project(params: HGRNParams, xs: jax.Array, key: Any = None) -> DiagonalInputs:
        c = jax.nn.silu(affine(xs, params.w_c, params.b_c))
        dtype = wide(xs.dtype)
        c = c.astype(dtype)
        z = affine(xs, params.w_f, params.b_f).astype(dtype)
        decay = lower_bound + (1 - lower_bound) * jax.nn.sigmoid(z)
        gain = (1 - lower_bound) * jax.nn.sigmoid(-z)
        theta = expand_left(params.theta.astype(dtype), z.ndim)
        real, imaginary = jnp.split(c, 2, -1)
        return DiagonalInputs(
            jax.lax.complex(decay * jnp.cos(theta), decay * jnp.sin(theta)),
            jax.lax.complex(gain * real, gain * imaginary),
        )

    def readout(params: HGRNParams, hs: jax.Array, xs: jax.Array) -> jax.Array:
        dtype = hs.real.dtype
        gate = jax.nn.sigmoid(affine(xs, params.w_g, params.b_g)).astype(dtype)
        gated = gate * jnp.concatenate([hs.real, hs.imag], -1)
        centered = gated - jnp.mean(gated, -1, keepdims=True)
        deviation = jnp.sqrt(jnp.mean(jnp.square(centered), -1, keepdims=True) + EPSILON)
        scale, shift = (expand_left(p.astype(dtype), gated.ndim) for p in (params.scale, params.shift))
        normal = (scale * (centered / deviation) + shift).astype(xs.dtype)
        return affine(normal, params.w_o, params.b_o)

    start = wide_zeros(hidden_size, wide_complex)
    return Cell(init=init, initial_carry=start, recurrence=Diagonal(), project=project, readout=readout)
