"""Clockwork recurrent network."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Cell, Step
from seqjax.cells.common.initialize import DENSE, zero_carry
from seqjax.checks import check_whole, is_whole
from seqjax.values import definition


class ClockworkParams(NamedTuple):
    """w_x ``[D, H]``, w_h ``[H, H]`` (the blocks from faster to slower modules are not read), b ``[H]``."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array


class ClockworkCarry(NamedTuple):
    """h ``[*B, H]``; position ``[*B]`` int32: steps since the reset, modulo the periods' least common multiple."""

    h: jax.Array
    position: jax.Array


@definition
def clockwork(
    hidden_size: int, *, periods: tuple[int, ...] = (1, 2, 4, 8), param_dtype: Any = jnp.float32
) -> Cell:
    r"""Clockwork network: each module updates at its own period, and slow modules feed faster ones.

    .. math::
        \hat h_t &= \tanh(x_t W_x + h_{t-1} W_h + b) \\
        h_{t,i} &= \hat h_{t,i} \;\text{ if } t \bmod T_i = 0, \quad\text{else } h_{t-1,i}

    for the modules i = 1..G with periods T_1 < ... < T_G; the block of W_h from module j to module i is used only where
    T_j >= T_i. t is the number of steps since the reset, so all modules are updated at the first step. The modules
    share the H units as evenly as possible; the first modules have one more unit where H is not a multiple of G.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``ClockworkCarry(h [*B, H], position [*B])``;
    params ``ClockworkParams(w_x [D, H], w_h [H, H], b [H])``.

    Gradients: a module of period T_i passes gradients unchanged over T_i - 1 of T_i steps; W_h and the slope of tanh
    act on them at every T_i-th step only. W_h is block-triangular: its eigenvalues are those of its diagonal blocks.

    Deviation: the paper's network has an output layer (eq. 2). Add an output layer with
    ``serial(..., pointwise(Dense(...)))``.

    Args:
        hidden_size: H.
        periods: T_1 < ... < T_G; the paper's are powers of two.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1, or periods that do not increase.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> from seqjax.cells import ClockworkParams
        >>> cell = sj.clockwork(2, periods=(1, 2))
        >>> params = ClockworkParams(jnp.ones((1, 2)), jnp.zeros((2, 2)), jnp.zeros(2))
        >>> layer, xs = sj.recurrent(cell), jnp.asarray([0.0, 1.0, 2.0]).reshape(3, 1, 1)
        >>> layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1][:, 0]
        Array([[0.       , 0.       ],
               [0.7615942, 0.       ],
               [0.9640276, 0.9640276]], dtype=float32)

    References:
        Koutnik, Greff, Gomez, Schmidhuber 2014, "A clockwork RNN", arXiv:1402.3511: eq. 1 (the network), section 3
        (modules, the block-triangular matrix), section 4 (weights start Gaussian with a deviation of 0.1).
    """
    check_whole("clockwork(hidden_size)", hidden_size)
    rising = all(a < b for a, b in zip(periods, periods[1:], strict=False))
    if not periods or not all(map(is_whole, periods)) or not rising:
        raise ValueError(
            f"clockwork(periods): expected increasing whole numbers of at least 1, got {periods!r}."
        )
    modules = np.array_split(np.arange(hidden_size), len(periods))
    period = np.concatenate([np.full(len(m), p) for m, p in zip(modules, periods, strict=True)])
    connected = period[:, None] >= period[None, :]  # from slower or equal to faster
    cycle = int(np.lcm.reduce(np.asarray(periods)))

    def init(key: jax.Array, x: jax.Array) -> ClockworkParams:
        key_x, key_h = jax.random.split(key)
        w_x = 0.1 * jax.random.normal(key_x, (x.shape[-1], hidden_size), param_dtype)
        w_h = 0.1 * jax.random.normal(key_h, (hidden_size, hidden_size), param_dtype)
        return ClockworkParams(w_x, w_h, jnp.zeros(hidden_size, param_dtype))

    def initial_carry(params: ClockworkParams, x: jax.Array) -> ClockworkCarry:
        return ClockworkCarry(zero_carry(x, hidden_size), zero_carry(x, 1, jnp.int32)[..., 0])

    def step(params: ClockworkParams, carry: ClockworkCarry, u: jax.Array) -> Any:
        w_h = jnp.where(connected, params.w_h, jnp.zeros_like(params.w_h))
        candidate = jnp.tanh(u + carry.h @ w_h)
        periods = jnp.broadcast_to(jnp.asarray(period, jnp.int32), u.shape)
        h = jnp.where(carry.position[..., None] % periods == 0, candidate, carry.h)
        return ClockworkCarry(h, (carry.position + 1) % cycle), h

    return Cell(init=init, initial_carry=initial_carry, recurrence=Step(step), project=DENSE)
