"""Selective state space model of Mamba."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Cell, Diagonal, DiagonalInputs
from seqjax.cells.common.initialize import wide_zeros
from seqjax.cells.common.labels import sets_recurrence
from seqjax.cells.common.linear import init_input_map, log_uniform, to_channels
from seqjax.checks import check_one_of, check_range, check_whole
from seqjax.ops.select import wide
from seqjax.ops.step import expand_left
from seqjax.values import definition

# Lower bound of the initial step sizes in the released code.
STEP_FLOOR = 1e-4


@sets_recurrence("b_step", "a_log")
class MambaParams(NamedTuple):
    """w_x ``[D, H]`` or None; w_b, w_c, a_log ``[H, N]``; w_low ``[H, R]``, w_step ``[R, H]``; b_step, d ``[H]``."""

    w_x: jax.Array | None
    w_b: jax.Array
    w_c: jax.Array
    w_low: jax.Array
    w_step: jax.Array
    b_step: jax.Array
    a_log: jax.Array
    d: jax.Array


@definition
def mamba(
    hidden_size: int,
    *,
    state_size: int = 16,
    step_rank: int | None = None,
    discretization: Literal["zero_order_hold", "euler"] = "zero_order_hold",
    step_min: float = 1e-3,
    step_max: float = 0.1,
    input_map: bool = True,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Selective state space model (S6), the recurrence of Mamba: step size, B and C depend on the input.

    .. math::
        u_t &= x_t W_x, \qquad B_t = u_t W_B, \qquad C_t = u_t W_C, \qquad A = -e^{\alpha} \\
        \Delta_t &= \mathrm{softplus}(u_t W_{low} W_\Delta + b_\Delta) \\
        s_{t,h,n} &= e^{\Delta_{t,h} A_{h,n}} s_{t-1,h,n} + \beta_{t,h,n} B_{t,n} u_{t,h} \\
        \beta &= (e^{\Delta A} - 1) / A \text{ (zero order hold)} \quad\text{or}\quad \Delta \text{ (Euler)} \\
        y_{t,h} &= \textstyle\sum_n C_{t,n} s_{t,h,n} + d_h u_{t,h}

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry s ``[*B, H*N]`` real, float32 at least; params `MambaParams`.

    "zero_order_hold" is the paper's eq. 4; "euler" is its first order in :math:`\Delta A`, as in the released code. The
    convolution, the activations and the gate of the block are separate layers; `causal_conv` goes before the
    cell.

    Initialization: :math:`A_{h,n} = -n`, n = 1 .. N; :math:`b_\Delta` such that :math:`\mathrm{softplus}(b_\Delta)` is
    log-uniform and at least 1e-4; :math:`W_\Delta` uniform within :math:`R^{-1/2}`, W_B, W_C and W_low within
    :math:`H^{-1/2}`; d one.

    Gradients: :math:`\partial s_T / \partial s_t = \exp(A \sum \Delta)` over the steps between, below one. A channel
    with a step size near zero passes gradients unchanged; a channel with a large step size forgets.

    Args:
        hidden_size: H, the number of channels.
        state_size: N, states per channel.
        step_rank: R, the rank of the projection to the step sizes; by default H / 16, rounded up.
        discretization: of the inputs: "zero_order_hold" or "euler", as above.
        step_min: smallest initial step size.
        step_max: largest initial step size.
        input_map: False uses the inputs as channels (D = H), as in the paper's block, where W_x and a convolution come
            before the recurrence.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1, another discretization, or an empty range of step sizes.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell = sj.mamba(6, state_size=4)
        >>> params = cell.init(jax.random.key(0), jnp.ones((5, 2)))
        >>> -jnp.exp(params.a_log[0])
        Array([-1., -2., -3., -4.], dtype=float32)
        >>> cell.initial_carry(params, jnp.ones((5, 2))).shape
        (5, 24)

    References:
        Gu, Dao 2023, "Mamba: linear-time sequence modeling with selective state spaces", arXiv:2312.00752: eq. 2a-2b
        (the recurrence), eq. 4 (zero order hold), algorithm 2 (selection), section 3.6 (initialization).
    """
    check_whole("mamba(hidden_size)", hidden_size)
    check_whole("mamba(state_size)", state_size)
    rank = -(-hidden_size // 16) if step_rank is None else step_rank
    check_whole("mamba(step_rank)", rank)
    check_one_of("mamba(discretization)", discretization, ("zero_order_hold", "euler"))
    check_range("mamba(step_min, step_max)", step_min, step_max)
    form = (hidden_size, state_size)

    def init(key: jax.Array, x: jax.Array) -> MambaParams:
        keys = jax.random.split(key, 6)

        def uniform(key: jax.Array, rows: int, columns: int) -> jax.Array:
            bound = 1 / math.sqrt(rows)
            return jax.random.uniform(key, (rows, columns), param_dtype, -bound, bound)

        step = jnp.exp(log_uniform(keys[5], (hidden_size,), step_min, step_max, wide(jnp.dtype(param_dtype))))
        step = jnp.maximum(step, STEP_FLOOR)
        return MambaParams(
            init_input_map(keys[0], x, hidden_size, input_map, param_dtype),
            uniform(keys[1], hidden_size, state_size),
            uniform(keys[2], hidden_size, state_size),
            uniform(keys[3], hidden_size, rank),
            uniform(keys[4], rank, hidden_size),
            (step + jnp.log(-jnp.expm1(-step))).astype(param_dtype),  # inverse of softplus
            jnp.broadcast_to(jnp.log(jnp.arange(1, state_size + 1, dtype=param_dtype))[None], form),
            jnp.ones((hidden_size,), param_dtype),
        )

    def project(params: MambaParams, xs: jax.Array, key: Any = None) -> DiagonalInputs:
        us = to_channels(xs, params.w_x, hidden_size)
        dtype = wide(xs.dtype)
        raw = affine(affine(us, params.w_low), params.w_step).astype(dtype)
        step = jax.nn.softplus(raw + expand_left(params.b_step.astype(dtype), raw.ndim))[..., None]
        a = expand_left(-jnp.exp(params.a_log.astype(dtype)), us.ndim + 1)
        z = step * a
        gain = jnp.expm1(z) / a if discretization == "zero_order_hold" else jnp.broadcast_to(step, z.shape)
        b = affine(us, params.w_b).astype(dtype)[..., None, :]
        flat = (*xs.shape[:-1], hidden_size * state_size)
        inputs = gain * b * us.astype(dtype)[..., None]
        return DiagonalInputs(jnp.exp(z).reshape(flat), inputs.reshape(flat))

    def readout(params: MambaParams, hs: jax.Array, xs: jax.Array) -> jax.Array:
        us = to_channels(xs, params.w_x, hidden_size)
        c = affine(us, params.w_c).astype(hs.dtype)
        ys = jnp.einsum("...hn,...n->...h", hs.reshape(*xs.shape[:-1], *form), c)
        d = expand_left(params.d.astype(hs.dtype), us.ndim)
        return (ys + d * us.astype(hs.dtype)).astype(xs.dtype)

    start = wide_zeros(hidden_size * state_size)
    return Cell(init=init, initial_carry=start, recurrence=Diagonal(), project=project, readout=readout)
