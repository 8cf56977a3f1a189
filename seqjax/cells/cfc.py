"""Closed-form continuous-time network (CfC)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Step
from seqjax.cells.common.linear import glorot
from seqjax.cells.common.timed import ContinuousTimeCarry, TimedInputs, initial_carry, parts, project
from seqjax.checks import check_whole
from seqjax.values import definition


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
        x, _ = parts(inputs)
        key_x, key_o = jax.random.split(key)
        width = x.shape[-1]
        w = glorot(key_x, width + hidden_size, size, 1, param_dtype)
        w_o = jnp.concatenate(
            [glorot(k, size, hidden_size, 1, param_dtype) for k in jax.random.split(key_o, 3)], -1
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

    return Cell(init=init, initial_carry=initial_carry(hidden_size), recurrence=Step(step), project=project)
