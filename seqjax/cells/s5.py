"""S5, a diagonal state space model with many inputs and outputs."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.affine import affine
from seqjax.base import Cell, Diagonal, DiagonalInputs
from seqjax.cells.common.initialize import wide_zeros
from seqjax.cells.common.labels import sets_recurrence
from seqjax.cells.common.linear import lecun_normal, log_uniform
from seqjax.cells.s4d import DISCRETISATIONS
from seqjax.checks import check_multiple, check_one_of, check_range, check_whole
from seqjax.ops.select import wide, wide_complex
from seqjax.ops.step import expand_left
from seqjax.values import definition


@sets_recurrence("step_log", "a_log", "a_imag")
class S5Params(NamedTuple):
    """step_log, a_log, a_imag ``[M]``; w_b ``[D, 2M]`` (real, imaginary); w_c ``[2M, H]``; w_d ``[D, H]``."""

    step_log: jax.Array
    a_log: jax.Array
    a_imag: jax.Array
    w_b: jax.Array
    w_c: jax.Array
    w_d: jax.Array


@definition
def s5(
    hidden_size: int,
    *,
    state_size: int | None = None,
    num_blocks: int = 1,
    discretization: Literal["zero_order_hold", "bilinear"] = "zero_order_hold",
    step_min: float = 1e-3,
    step_max: float = 0.1,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Diagonal state space model with many inputs and outputs (S5).

    With M = N/2 modes, each of which stands for a complex conjugate pair:

    .. math::
        A &= -e^{\alpha} + i\omega, \qquad \Delta = e^{\delta}, \qquad u_t = x_t \tilde B \\
        s_t &= e^{\Delta A} \odot s_{t-1} + (e^{\Delta A} - 1) A^{-1} \odot u_t && \text{(zero order hold)} \\
        s_t &= \frac{1 + \Delta A / 2}{1 - \Delta A / 2} \odot s_{t-1}
        + \frac{\Delta}{1 - \Delta A / 2} \odot u_t && \text{(bilinear)} \\
        y_t &= 2\,\mathrm{Re}(s_t \tilde C) + x_t D, \qquad s \in \mathbb{C}^M

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry s ``[*B, M]`` complex; params `S5Params`. The params store the real
    and imaginary halves of B and C: ``w_b = [Re B, Im B]``, ``w_c = [Re C; -Im C]``. The recurrence runs in complex64
    at least.

    Initialization: A is the spectrum of the normal part of the HiPPO-LegS matrix, in blocks of N / num_blocks,
    :math:`A = -\frac12 + i\omega`, B and C are drawn real (variance 1 / fan-in) and expressed in its eigenvectors, so
    the cell starts as a real system with that matrix. :math:`\Delta` is log-uniform per mode.

    Differences from the paper: the real part of A is :math:`-e^\alpha`, as in S4D, and stays negative; D is a full
    matrix, drawn with variance 1/D, so inputs and outputs may differ in width (the paper's D is a diagonal of standard
    normal numbers); C is drawn real.

    Gradients: :math:`\partial s_T / \partial s_t = e^{\Delta A (T-t)}`, for all inputs, with modulus below one by
    construction. At initialization a mode has an e-folding length of :math:`2/\Delta` steps, 20 to 2000 by default.

    Args:
        hidden_size: H, the width of the outputs.
        state_size: N, a multiple of 2 num_blocks; by default the smallest multiple that is at least hidden_size.
        num_blocks: the number of blocks in the initial matrix of A.
        discretization: from continuous to discrete time.
        step_min: smallest initial step size.
        step_max: largest initial step size.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size that does not fit, another discretization, or an empty range of step sizes.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.s5(3, state_size=4).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> params.a_imag
        Array([0.5565011, 4.603293 ], dtype=float32)

    References:
        Smith, Warrington, Linderman 2023, "Simplified state space layers for sequence modeling", arXiv:2208.04933:
        eq. 5-6 (zero order hold), section 3 (the recurrence), section 4.3 (blocks, time scales) and appendix B.1
        (HiPPO-N, conjugate symmetry).
    """
    check_whole("s5(hidden_size)", hidden_size)
    check_whole("s5(num_blocks)", num_blocks)
    unit = 2 * num_blocks
    size = unit * -(-hidden_size // unit) if state_size is None else state_size
    check_whole("s5(state_size)", size)
    check_multiple("s5(state_size)", size, unit)
    check_one_of("s5(discretization)", discretization, DISCRETISATIONS)
    check_range("s5(step_min, step_max)", step_min, step_max)
    modes, block = size // 2, size // num_blocks

    def init(key: jax.Array, x: jax.Array) -> S5Params:
        keys = jax.random.split(key, 4)
        width = x.shape[-1]
        frequencies, vectors = hippo_modes(block)
        # Draw in float32 at least, so that the products with the eigenvectors are rounded once.
        dtype = wide(jnp.dtype(param_dtype))
        v = jnp.asarray(np.stack([vectors.real, vectors.imag]), dtype)
        b = jax.random.normal(keys[0], (width, num_blocks, block), dtype) / math.sqrt(width)
        c = jax.random.normal(keys[1], (num_blocks, block, hidden_size), dtype) / math.sqrt(size)
        # Rows: x B^T V* (conjugated eigenvectors) and V^T C^T; w_c holds -Im C.
        b_real, b_imag = (jnp.einsum("wnp,pm->wnm", b, part).reshape(width, modes) for part in (v[0], -v[1]))
        c_real, c_imag = (jnp.einsum("pm,nph->nmh", part, c).reshape(modes, hidden_size) for part in v)
        params = S5Params(
            log_uniform(keys[2], (modes,), step_min, step_max, dtype),
            jnp.full((modes,), math.log(0.5), dtype),
            jnp.tile(jnp.asarray(frequencies, dtype), num_blocks),
            jnp.concatenate([b_real, b_imag], -1),
            jnp.concatenate([c_real, -c_imag], 0),
            lecun_normal(keys[3], (width, hidden_size), dtype),
        )
        return S5Params(*(p.astype(param_dtype) for p in params))

    def project(params: S5Params, xs: jax.Array, key: Any = None) -> DiagonalInputs:
        us = affine(xs, params.w_b)
        dtype = wide(us.dtype)
        step_log, a_log, a_imag = (p.astype(dtype) for p in params[:3])
        a = jax.lax.complex(-jnp.exp(a_log), a_imag)
        step = jnp.exp(step_log)
        decay, gain = DISCRETISATIONS[discretization](a, jax.lax.complex(step, jnp.zeros_like(step)))
        us = jax.lax.complex(*jnp.split(us.astype(dtype), 2, -1))
        return DiagonalInputs(decay, expand_left(gain, us.ndim) * us)

    def readout(params: S5Params, hs: jax.Array, xs: jax.Array) -> jax.Array:
        halves = jnp.concatenate([hs.real, hs.imag], -1).astype(xs.dtype)
        return 2 * affine(halves, params.w_c) + affine(xs, params.w_d)

    start = wide_zeros(modes, wide_complex)
    return Cell(init=init, initial_carry=start, recurrence=Diagonal(), project=project, readout=readout)


def hippo_modes(size: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Return half the spectrum of HiPPO-N, the normal part of the HiPPO-LegS matrix: ``(omega [M], V [size, M])``.

    :math:`A_{nk} = \mp\sqrt{(n + \frac12)(k + \frac12)}` below and above the diagonal of :math:`-\frac12` has the
    eigenvalues :math:`-\frac12 \pm i\omega`; V holds the eigenvectors for positive omega, in ascending order.
    """
    p = np.sqrt(np.arange(size) + 0.5)
    lower = np.tril(np.outer(p, p), -1)
    omega, vectors = np.linalg.eigh(-1j * (lower.T - lower))
    return omega[size // 2 :], vectors[:, size // 2 :]
