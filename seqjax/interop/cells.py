"""Cells with the activations, limits and couplings that other libraries allow; the common case is the library's cell.

The functions `elman_like`, `gru_like` and `lstm_like` return `seqjax.elman`, `seqjax.gru`, `seqjax.lstm` or
`seqjax.peephole_lstm` where these compute the same, since those have fast methods.
"""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.affine import spread
from seqjax.base import Cell, Step
from seqjax.cells import elman, gru, lstm, peephole_lstm
from seqjax.cells.common.initialize import DENSE
from seqjax.cells.elman import ACTIVATIONS, ElmanCarry
from seqjax.cells.gru import GRUCarry
from seqjax.cells.lstm import LSTMCarry
from seqjax.interop.nonlinearities import SIGMOID, TANH, Nonlinearity
from seqjax.values import definition


def elman_like(
    hidden_size: int, activation: Nonlinearity, clip: float | None = None, *, param_dtype: Any = jnp.float32
) -> Cell:
    """Return a cell with ``ElmanParams``: `seqjax.elman`, or `general_elman` where that is needed."""
    if clip is None and activation.name in ACTIVATIONS:
        name: Any = activation.name
        return elman(hidden_size, activation=name, param_dtype=param_dtype)
    return general_elman(hidden_size, activation, clip=clip, param_dtype=param_dtype)


def gru_like(
    hidden_size: int,
    activations: tuple[Nonlinearity, Nonlinearity] = (SIGMOID, TANH),
    clip: float | None = None,
    *,
    reset_after: bool = True,
    param_dtype: Any = jnp.float32,
) -> Cell:
    """Return a cell with ``GRUParams``: `seqjax.gru`, or `general_gru` where that is needed."""
    if clip is None and tuple(activations) == (SIGMOID, TANH):
        return gru(hidden_size, reset_after=reset_after, param_dtype=param_dtype)
    return general_gru(hidden_size, activations, clip=clip, reset_after=reset_after, param_dtype=param_dtype)


def lstm_like(
    hidden_size: int,
    activations: tuple[Nonlinearity, Nonlinearity, Nonlinearity] = (SIGMOID, TANH, TANH),
    clip: float | None = None,
    *,
    peephole: bool = False,
    coupled: bool = False,
    param_dtype: Any = jnp.float32,
) -> Cell:
    """Return a cell with ``LSTMParams``, or with ``PeepholeLSTMParams`` for peepholes."""
    if clip is None and not coupled and tuple(activations) == (SIGMOID, TANH, TANH):
        factory = peephole_lstm if peephole else lstm
        return factory(hidden_size, param_dtype=param_dtype)
    return general_lstm(
        hidden_size, activations, clip=clip, peephole=peephole, coupled=coupled, param_dtype=param_dtype
    )


@definition
def general_elman(
    hidden_size: int,
    activation: Nonlinearity,
    *,
    clip: float | None = None,
    param_dtype: Any = jnp.float32,
) -> Cell:
    """`seqjax.elman` with any `Nonlinearity`, whose argument is limited to [-clip, clip]; params and carry are equal.

    Example:
        >>> from seqjax.interop import Nonlinearity, general_elman
        >>> general_elman(3, Nonlinearity("softsign"))
        general_elman(hidden_size=3, activation=Nonlinearity(name='softsign'))
    """
    like = elman(hidden_size, param_dtype=param_dtype)

    def step(params: Any, carry: ElmanCarry, u: jax.Array) -> tuple[ElmanCarry, jax.Array]:
        h = activation(_limited(u + carry.h @ params.w_h, clip))
        return ElmanCarry(h), h

    return Cell(init=like.init, initial_carry=like.initial_carry, recurrence=Step(step), project=DENSE)


@definition
def general_gru(
    hidden_size: int,
    activations: tuple[Nonlinearity, Nonlinearity],
    *,
    clip: float | None = None,
    reset_after: bool = True,
    param_dtype: Any = jnp.float32,
) -> Cell:
    """`seqjax.gru` with other activations, of (gates, candidate), whose arguments are limited to [-clip, clip].

    Example:
        >>> from seqjax.interop import Nonlinearity, general_gru
        >>> general_gru(3, (Nonlinearity("hard_sigmoid", 0.2, 0.5), Nonlinearity("tanh"))).event_ndim
        1
    """
    like = gru(hidden_size, param_dtype=param_dtype)
    gate, candidate = activations

    def step(params: Any, carry: GRUCarry, u: jax.Array) -> tuple[GRUCarry, jax.Array]:
        (h,) = carry
        u_r, u_z, u_n = jnp.split(u, 3, -1)
        b_r, b_z, b_n = jnp.split(spread(params.b_h, u), 3, -1)
        w_r, w_z, w_n = jnp.split(params.w_h, 3, -1)
        r = gate(_limited(u_r + h @ w_r + b_r, clip))
        z = gate(_limited(u_z + h @ w_z + b_z, clip))
        recurrent = r * (h @ w_n + b_n) if reset_after else (r * h) @ w_n + b_n
        n = candidate(_limited(u_n + recurrent, clip))
        h = (1 - z) * n + z * h
        return GRUCarry(h), h

    return Cell(init=like.init, initial_carry=like.initial_carry, recurrence=Step(step), project=DENSE)


@definition
def general_lstm(
    hidden_size: int,
    activations: tuple[Nonlinearity, Nonlinearity, Nonlinearity],
    *,
    clip: float | None = None,
    peephole: bool = False,
    coupled: bool = False,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""`seqjax.lstm` with other activations, of (gates, candidate, output), limits, peepholes and coupled gates.

    The arguments of gates and candidate are limited to [-clip, clip]. With ``coupled`` the forget gate is one minus the
    input gate. With ``peephole`` the params are ``PeepholeLSTMParams``, otherwise ``LSTMParams``.

    Example:
        >>> from seqjax.interop import Nonlinearity, general_lstm
        >>> sigmoid, tanh = Nonlinearity("sigmoid"), Nonlinearity("tanh")
        >>> general_lstm(3, (sigmoid, tanh, tanh), clip=5.0).event_ndim
        1
    """
    factory = peephole_lstm if peephole else lstm
    like = factory(hidden_size, param_dtype=param_dtype)
    gate, candidate, output = activations

    def step(params: Any, carry: LSTMCarry, u: jax.Array) -> tuple[LSTMCarry, jax.Array]:
        c, h = carry
        u_i, u_f, u_g, u_o = jnp.split(u + h @ params.w_h, 4, -1)
        if peephole:
            u_i, u_f = u_i + spread(params.w_ci, c) * c, u_f + spread(params.w_cf, c) * c
        i = gate(_limited(u_i, clip))
        f = 1 - i if coupled else gate(_limited(u_f, clip))
        c = f * c + i * candidate(_limited(u_g, clip))
        if peephole:
            u_o = u_o + spread(params.w_co, c) * c
        h = gate(_limited(u_o, clip)) * output(c)
        return LSTMCarry(c, h), h

    return Cell(init=like.init, initial_carry=like.initial_carry, recurrence=Step(step), project=DENSE)


def _limited(x: jax.Array, clip: float | None) -> jax.Array:
    return x if clip is None else jnp.clip(x, -clip, clip)
