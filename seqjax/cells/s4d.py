"""S4D, a diagonal state space model with one system per channel."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Diagonal, DiagonalInputs
from seqjax.cells.common.initialize import wide_zeros
from seqjax.cells.common.labels import elementwise, sets_recurrence
from seqjax.cells.common.linear import init_input_map, log_uniform, to_channels
from seqjax.checks import check_multiple, check_one_of, check_range, check_whole
from seqjax.ops.discretize import bilinear, zero_order_hold
from seqjax.ops.select import wide, wide_complex
from seqjax.ops.step import expand_left
from seqjax.values import definition

DISCRETISATIONS = {"zero_order_hold": zero_order_hold, "bilinear": bilinear}


@sets_recurrence("step_log", "a_log", "a_imag")
@elementwise("d")
class S4DParams(NamedTuple):
    """w_x ``[D, H]`` or None; step_log, d ``[H]``; a_log, a_imag ``[H, M]``; b, c ``[H, 2M]`` (real, imaginary)."""

    w_x: jax.Array | None
    step_log: jax.Array
    a_log: jax.Array
    a_imag: jax.Array
    b: jax.Array
    c: jax.Array
    d: jax.Array


@definition
def s4d(
    hidden_size: int,
    *,
    state_size: int = 64,
    initialization: Literal["lin", "inv"] = "lin",
    discretization: Literal["zero_order_hold", "bilinear"] = "zero_order_hold",
    step_min: float = 1e-3,
    step_max: float = 0.1,
    input_map: bool = True,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Diagonal state space model with one single-input single-output system per channel (S4D).

    With M = N/2 modes per channel, each of which stands for a complex conjugate pair:

    .. math::
        u_t &= x_t W_x, \qquad A = -e^{\alpha} + i\omega, \qquad \Delta = e^{\delta} \\
        \bar A &= e^{\Delta A}, \quad \bar B = (e^{\Delta A} - 1) A^{-1} B && \text{(zero order hold)} \\
        \bar A &= \frac{1 + \Delta A / 2}{1 - \Delta A / 2}, \quad
        \bar B = \frac{\Delta}{1 - \Delta A / 2} B && \text{(bilinear)} \\
        s_t &= \bar A \odot s_{t-1} + \bar B u_t, \qquad s \in \mathbb{C}^{H \times M} \\
        y_t &= 2\,\mathrm{Re} \textstyle\sum_m C_m s_{t,m} + d \odot u_t

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry s ``[*B, H*M]`` complex; params `S4DParams`. The recurrence runs in
    complex64 at least. The rest of the paper's layer (GELU, a linear map that mixes channels) is left to `pointwise`.

    Initialization: :math:`A_n = -\frac12 + i\pi n` ("lin") or
    :math:`A_n = -\frac12 + i\frac{N}{\pi}(\frac{N}{2n+1} - 1)` ("inv"), n = 0 .. M-1, equal in all channels;
    :math:`\Delta` log-uniform per channel; B one; real and imaginary part of C, and d, standard normal.

    Gradients: :math:`\partial s_T / \partial s_t = \bar A^{T-t}`, for all inputs, and :math:`|\bar A| < 1` by
    construction. At initialization every mode of a channel has an e-folding length of :math:`2/\Delta` steps, 20 to
    2000 by default.

    Args:
        hidden_size: H, the number of channels.
        state_size: N, states per channel; even.
        initialization: of A: "lin" or "inv".
        discretization: from continuous to discrete time.
        step_min: smallest initial step size.
        step_max: largest initial step size.
        input_map: False uses the inputs as channels (D = H), as in the paper; the map W_x is an addition that lets the
            cell accept inputs of any width.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for an odd state_size, another initialization or discretization, or an empty range of step sizes.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.s4d(3, state_size=8).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> params.a_imag[0]
        Array([0.       , 3.1415927, 6.2831855, 9.424778 ], dtype=float32)

    References:
        Gu, Gupta, Goel, Re 2022, "On the parameterization and initialization of diagonal state space models",
        arXiv:2206.11893: section 2 and 3 (both discretizations; the exponential of the real part; conjugate pairs),
        section 4 (S4D-Inv, S4D-Lin).
    """
    check_whole("s4d(hidden_size)", hidden_size)
    check_whole("s4d(state_size)", state_size)
    check_multiple("s4d(state_size)", state_size)
    check_one_of("s4d(initialization)", initialization, ("lin", "inv"))
    check_one_of("s4d(discretization)", discretization, DISCRETISATIONS)
    check_range("s4d(step_min, step_max)", step_min, step_max)
    modes = state_size // 2
    form = (hidden_size, modes)

    def init(key: jax.Array, x: jax.Array) -> S4DParams:
        keys = jax.random.split(key, 4)
        n = jnp.arange(modes, dtype=param_dtype)
        imaginary = math.pi * n
        if initialization == "inv":
            imaginary = state_size / math.pi * (state_size / (2 * n + 1) - 1)
        ones = jnp.ones(form, param_dtype)
        return S4DParams(
            init_input_map(keys[0], x, hidden_size, input_map, param_dtype),
            log_uniform(keys[1], (hidden_size,), step_min, step_max, param_dtype),
            jnp.full(form, math.log(0.5), param_dtype),
            jnp.broadcast_to(imaginary[None], form),
            jnp.concatenate([ones, jnp.zeros_like(ones)], -1),
            jax.random.normal(keys[2], (hidden_size, 2 * modes), param_dtype),
            jax.random.normal(keys[3], (hidden_size,), param_dtype),
        )

    def project(params: S4DParams, xs: jax.Array, key: Any = None) -> DiagonalInputs:
        us = to_channels(xs, params.w_x, hidden_size)
        dtype = wide(xs.dtype)
        step_log, a_log, a_imag, b = (p.astype(dtype) for p in _system(params))
        a = jax.lax.complex(-jnp.exp(a_log), a_imag)
        step = jnp.broadcast_to(jnp.exp(step_log)[:, None], form)
        decay, gain = DISCRETISATIONS[discretization](a, jax.lax.complex(step, jnp.zeros_like(step)))
        b_bar = expand_left(gain * jax.lax.complex(*jnp.split(b, 2, -1)), us.ndim + 1)
        us = us.astype(dtype)[..., None]
        inputs = jax.lax.complex(b_bar.real * us, b_bar.imag * us)
        size = hidden_size * modes
        return DiagonalInputs(decay.reshape(size), inputs.reshape(*xs.shape[:-1], size))

    def readout(params: S4DParams, hs: jax.Array, xs: jax.Array) -> jax.Array:
        us = to_channels(xs, params.w_x, hidden_size)
        dtype = hs.real.dtype
        real, imaginary = jnp.split(params.c.astype(dtype), 2, -1)
        s = hs.reshape(*xs.shape[:-1], *form)
        ys = 2 * (_contract(s.real, real) - _contract(s.imag, imaginary))
        return (ys + expand_left(params.d.astype(dtype), us.ndim) * us.astype(dtype)).astype(xs.dtype)

    start = wide_zeros(hidden_size * modes, wide_complex)
    return Cell(init=init, initial_carry=start, recurrence=Diagonal(), project=project, readout=readout)


def _system(params: S4DParams) -> tuple[jax.Array, ...]:
    return params.step_log, params.a_log, params.a_imag, params.b


def _contract(states: jax.Array, weights: jax.Array) -> jax.Array:
    """Contract ``[..., H, M]`` with ``[H, M]`` to ``[..., H]``."""
    return jnp.einsum("...hm,hm->...h", states, weights)
