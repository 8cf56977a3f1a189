"""Continuous-time cells for samples at uneven intervals: the closed-form network and the liquid network."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Cell, Step
from seqjax.cells.initialise import zero_carry
from seqjax.cells.labels import elementwise
from seqjax.checks import check_whole
from seqjax.definition import definition


class TimedInputs(NamedTuple):
    """Features x ``[*B, D]`` and the time dt ``[*B]`` since the previous step, in any unit."""

    x: jax.Array
    dt: jax.Array


class ContinuousTimeCarry(NamedTuple):
    """h ``[*B, H]``."""

    h: jax.Array


class CfCParams(NamedTuple):
    """w_x ``[D, K]``, w_h ``[H, K]``, b ``[K]`` of the backbone; w_o ``[K, 3H]``, b_o ``[3H]`` of the heads f, g, k."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    w_o: jax.Array
    b_o: jax.Array


@definition
def cfc(hidden_size: int, *, backbone_size: int | None = None, param_dtype: Any = jnp.float32) -> Cell:
    r"""Closed-form continuous-time network: a gate that depends on the elapsed time mixes two candidates.

    .. math::
        s_t &= a \tanh(\tfrac{2}{3}(x_t W_x + h_{t-1} W_h + b)), \qquad a = 1.7159 \\
        (f_t, g_t, k_t) &= s_t W_o + b_o \\
        h_t &= \sigma(-f_t \,\delta_t) \odot \tanh(g_t) + (1 - \sigma(-f_t \,\delta_t)) \odot \tanh(k_t)

    :math:`\delta_t` is the time since the previous step.

    Shapes: inputs ``TimedInputs(x [*B, D], dt [*B])`` -> h ``[*B, H]``; carry ``ContinuousTimeCarry(h [*B, H])``;
    params ``CfCParams(w_x [D, K], w_h [H, K], b [K], w_o [K, 3H], b_o [3H])``, heads in the order f, g, k.

    Gradients: every path along h goes through W_h and W_o. There is no additive path, so gradients vanish or explode as
    in a simple recurrent network. The paper therefore combines the network with an LSTM for long memories.

    Args:
        hidden_size: H.
        backbone_size: K; hidden_size by default.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1; from `unroll`, for inputs of another structure.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.cfc(8))
        >>> xs = sj.TimedInputs(x=jnp.ones((10, 4, 3)), dt=jnp.full((10, 4), 0.5))
        >>> first = jax.tree.map(lambda a: a[0], xs)
        >>> params = layer.init(jax.random.key(0), first)
        >>> layer.unroll(params, layer.initial_carry(params, first), xs)[1].shape
        (10, 4, 8)

    References:
        Hasani et al. 2022, "Closed-form continuous-time neural networks", Nature Machine Intelligence 4, eq. 10
        (arXiv:2106.13898, eq. 4): three heads on a shared backbone; as in the authors' code, the backbone is one layer
        with the scaled tanh of LeCun, and g and h (here k) end in tanh. Weights start Glorot-uniform, biases at zero.
    """
    size = hidden_size if backbone_size is None else backbone_size
    check_whole("cfc(hidden_size)", hidden_size)
    check_whole("cfc(backbone_size)", size)

    def init(key: jax.Array, inputs: TimedInputs) -> CfCParams:
        x, _ = _parts(inputs)
        key_x, key_o = jax.random.split(key)
        width = x.shape[-1]
        w = _glorot(key_x, width + hidden_size, size, param_dtype)
        w_o = jnp.concatenate(
            [_glorot(k, size, hidden_size, param_dtype) for k in jax.random.split(key_o, 3)], -1
        )
        zeros = jnp.zeros(size, param_dtype), jnp.zeros(3 * hidden_size, param_dtype)
        return CfCParams(w[:width], w[width:], zeros[0], w_o, zeros[1])

    def step(params: CfCParams, carry: ContinuousTimeCarry, u: Any) -> tuple[ContinuousTimeCarry, jax.Array]:
        u, dt = u
        s = 1.7159 * jnp.tanh(2 / 3 * (u + carry.h @ params.w_h))
        heads = s @ params.w_o
        f, g, k = jnp.split(heads + jnp.broadcast_to(params.b_o, heads.shape), 3, -1)
        early = jax.nn.sigmoid(-f * dt)
        h = early * jnp.tanh(g) + (1 - early) * jnp.tanh(k)
        return ContinuousTimeCarry(h), h

    return Cell(init=init, initial_carry=_initial_carry(hidden_size), recurrence=Step(step), project=_project)


@elementwise("b", "log_tau", "a")
class LTCParams(NamedTuple):
    """w_x ``[D, H]``, w_h ``[H, H]``, b ``[H]``, log_tau ``[H]``, a ``[H]``."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    log_tau: jax.Array
    a: jax.Array


@definition
def ltc(hidden_size: int, *, unfolds: int = 6, param_dtype: Any = jnp.float32) -> Cell:
    r"""Liquid time-constant network: a differential equation whose time constants depend on the input (fused solver).

    .. math::
        \frac{dh}{dt} &= -\left(\frac{1}{\tau} + f(h, x_t)\right) \odot h + f(h, x_t) \odot a, \qquad
        f(h, x) = \sigma(x W_x + h W_h + b) \\
        h &\leftarrow \frac{h + \delta f(h, x_t) \odot a}{1 + \delta (1/\tau + f(h, x_t))}
        \qquad L \text{ times, with } \delta = \max(\delta_t, 0) / L

    :math:`\delta_t` is the time since the previous step; a negative time counts as zero.

    Shapes: inputs ``TimedInputs(x [*B, D], dt [*B])`` -> h ``[*B, H]``; carry ``ContinuousTimeCarry(h [*B, H])``;
    params ``LTCParams(w_x [D, H], w_h [H, H], b [H], log_tau [H], a [H])``.

    Gradients: the direct path along h shrinks by :math:`(1 + \delta (1/\tau + f))^{-L}` per step, whatever W_h is. The
    factor falls with the elapsed time and is 1 where no time elapses.

    Args:
        hidden_size: H.
        unfolds: L, solver steps per time step.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1; from `unroll`, for inputs of another structure.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> x = sj.TimedInputs(x=jnp.ones((5, 2)), dt=jnp.ones(5))
        >>> params = sj.ltc(3).init(jax.random.key(0), x)
        >>> jax.tree.map(jnp.shape, params)
        LTCParams(w_x=(2, 3), w_h=(3, 3), b=(3,), log_tau=(3,), a=(3,))

    References:
        Hasani et al. 2021, "Liquid time-constant networks", arXiv:2006.04439, eq. 1 (the equation), eq. 3 and
        algorithm 1 (the solver, 6 unfolds). The params store the logarithm of tau, so tau is positive; tau starts at 1;
        w_x and w_h start Glorot-uniform, b at zero, a uniform in [-1, 1]: the paper gives no initialisation.
    """
    check_whole("ltc(hidden_size)", hidden_size)
    check_whole("ltc(unfolds)", unfolds)

    def init(key: jax.Array, inputs: TimedInputs) -> LTCParams:
        x, _ = _parts(inputs)
        key_x, key_h, key_a = jax.random.split(key, 3)
        return LTCParams(
            _glorot(key_x, x.shape[-1], hidden_size, param_dtype),
            _glorot(key_h, hidden_size, hidden_size, param_dtype),
            jnp.zeros(hidden_size, param_dtype),
            jnp.zeros(hidden_size, param_dtype),
            jax.random.uniform(key_a, (hidden_size,), param_dtype, -1, 1),
        )

    def step(params: LTCParams, carry: ContinuousTimeCarry, u: Any) -> tuple[ContinuousTimeCarry, jax.Array]:
        u, dt = u
        h = carry.h
        delta = jnp.maximum(dt, jnp.zeros_like(dt)) / unfolds
        rate, a = (jnp.broadcast_to(p, h.shape) for p in (jnp.exp(-params.log_tau), params.a))
        for _ in range(unfolds):
            f = jax.nn.sigmoid(u + h @ params.w_h)
            h = (h + delta * f * a) / (1 + delta * (rate + f))
        return ContinuousTimeCarry(h), h

    return Cell(init=init, initial_carry=_initial_carry(hidden_size), recurrence=Step(step), project=_project)


def _parts(inputs: Any) -> tuple[jax.Array, jax.Array]:
    if not isinstance(inputs, tuple) or len(inputs) != 2:
        raise ValueError(
            f"expected TimedInputs(x [..., D], dt [...]), got {jax.tree.map(jnp.shape, inputs)}."
        )
    return inputs[0], inputs[1]


def _project(params: CfCParams | LTCParams, xs: Any, key: Any = None) -> tuple[jax.Array, jax.Array]:
    """Return ``x @ w + b`` and the elapsed times with an extra axis that broadcasts against features."""
    x, dt = _parts(xs)
    width = len(params.w_x)
    floating = all(jnp.issubdtype(a.dtype, jnp.floating) for a in (x, dt))
    if not floating or x.shape[-1] != width or dt.shape != x.shape[:-1]:
        raise ValueError(
            f"expected floating TimedInputs(x [..., {width}], dt [...]), got x {x.dtype} {list(x.shape)} and "
            f"dt {dt.dtype} {list(dt.shape)}."
        )
    return affine(x, params.w_x, params.b), dt.astype(x.dtype)[..., None]


def _initial_carry(hidden_size: int) -> Any:
    return lambda params, x: ContinuousTimeCarry(zero_carry(_parts(x)[0], hidden_size))


def _glorot(key: jax.Array, rows: int, columns: int, dtype: Any) -> jax.Array:
    bound = math.sqrt(6 / (rows + columns))
    return jax.random.uniform(key, (rows, columns), dtype, -bound, bound)
