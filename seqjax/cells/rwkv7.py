"""RWKV-7, a generalized delta rule."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine, check_inputs, spread
from seqjax.base import Cell, Matrix, MatrixInputs, MatrixOutputs
from seqjax.cells.common.heads import (
    Heads,
    check_heads,
    empty,
    fan_in_normal,
    merge_heads,
    normalize,
    split_heads,
    unit,
)
from seqjax.cells.common.labels import elementwise, sets_recurrence
from seqjax.checks import check_whole
from seqjax.ops.select import wide
from seqjax.ops.step import expand_left
from seqjax.values import definition


@sets_recurrence("b_d")
@elementwise("b_a", "xi", "alpha", "rho", "gain", "bias")
class RWKV7Params(NamedTuple):
    """w_r, w_k ``[D, N*K]``; w_v ``[D, N*V]``; w_o ``[N*V, H]``.

    w_d1 ``[D, R]``, w_d2 ``[R, N*K]``, b_d ``[N*K]``: the decay; w_a1, w_a2, b_a alike: the learning rate.
    w_g1 ``[D, R_g]``, w_g2 ``[R_g, N*V]``: the gate. xi, alpha, rho ``[N*K]``: removal key, replacement key, bonus.
    gain, bias ``[N*V]``: gain and bias of the norm.
    """

    w_r: jax.Array
    w_k: jax.Array
    w_v: jax.Array
    w_d1: jax.Array
    w_d2: jax.Array
    b_d: jax.Array
    w_a1: jax.Array
    w_a2: jax.Array
    b_a: jax.Array
    w_g1: jax.Array
    w_g2: jax.Array
    xi: jax.Array
    alpha: jax.Array
    rho: jax.Array
    gain: jax.Array
    bias: jax.Array
    w_o: jax.Array


@definition
def rwkv7(
    hidden_size: int,
    *,
    num_heads: int = 4,
    key_size: int | None = None,
    value_size: int | None = None,
    rank: int = 64,
    gate_rank: int = 128,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Time mixing of RWKV-7 "Goose": a delta rule with a decay and a learning rate per channel.

    .. math::
        r_t, k_t, v_t &= x_t W_r,\; x_t W_k,\; x_t W_v, \qquad
        g_t = \sigma(x_t W_{g1}) W_{g2} \\
        w_t &= \exp\big(-e^{-1/2} \sigma(\tanh(x_t W_{d1}) W_{d2} + b_d)\big), \qquad
        a_t = \sigma(x_t W_{a1} W_{a2} + b_a) \\
        \hat\kappa_t &= \frac{k_t \odot \xi}{\|\cdot\|_2}, \qquad
        \tilde k_t = k_t \odot (1 + (a_t - 1) \odot \alpha) \\
        S_t &= (\mathrm{diag}(w_t) - (a_t \odot \hat\kappa_t) \hat\kappa_t^\top) S_{t-1} + \tilde k_t v_t^\top \\
        p_t &= \mathrm{norm}(S_t^\top r_t) + \big(r_t \cdot (\rho \odot \tilde k_t)\big) v_t, \qquad
        y_t = (g_t \odot p_t) W_o

    per head, where norm is the layer norm of each head, with gain and bias.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry S ``[*B, N, K, V]``, the transpose of the paper's, float32 at least;
    params `RWKV7Params`.

    Gradients: one step multiplies by :math:`\mathrm{diag}(w_t) - (a_t \odot \hat\kappa_t) \hat\kappa_t^\top`, of
    determinant :math:`\prod w_t \, (1 - \hat\kappa_t \cdot (a_t \odot \hat\kappa_t / w_t))`. Decays stay between 0.545
    and 1, so no channel forgets within one or two steps by decay. A step may erase the value under its removal key at
    once.

    Args:
        hidden_size: H.
        num_heads: N.
        key_size: K; hidden_size // num_heads by default.
        value_size: V, at least 2; hidden_size // num_heads by default.
        rank: R, the rank of the projections of decay and learning rate; 64 in the paper at width 768.
        gate_rank: R_g, the rank of the projection of the gate; 128 in the paper at width 768.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1, heads that do not divide the hidden size, or a value_size of 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell = sj.rwkv7(8, num_heads=2, rank=3, gate_rank=3)
        >>> us = cell.project(cell.init(jax.random.key(0), jnp.ones((5, 4))), jnp.ones((5, 4)))
        >>> us.log_decay.shape, bool((us.log_decay > -0.607).all())
        ((5, 2, 4), True)

    References:
        Peng et al. 2025, "RWKV-7 Goose with expressive dynamic state evolution", arXiv:2503.14456: eq. 4-7 and 11-14
        (the inputs of the recurrence), eq. 15-17 (the recurrence), eq. 20-22 (the readout). The token shift of eq. 3 is
        a separate layer here, so one x enters all projections. The value residual of eq. 8-10 connects several layers;
        here v is that of the first layer. The weights start as those of the first layer in the authors' code (RWKV-LM
        at the time of the paper), except W_o. W_o starts at zero in that code, which sets the branch to zero; here it
        is normal with variance 1 / fan-in.
    """
    heads = check_heads("rwkv7", hidden_size, num_heads, key_size, value_size, centered=True)
    check_whole("rwkv7(rank)", rank)
    check_whole("rwkv7(gate_rank)", gate_rank)
    number = heads.number

    def init(key: jax.Array, x: jax.Array) -> RWKV7Params:
        return _initial_params(key, x.shape[-1], heads, rank, gate_rank, hidden_size, param_dtype)

    def receptance_keys_rate(params: RWKV7Params, xs: jax.Array) -> tuple[jax.Array, ...]:
        """Return r, the key, the replacement key and a, ``[..., N*K]``; all but r in float32 at least."""
        rate = affine(affine(xs, params.w_a1), params.w_a2, params.b_a)
        rate = jax.nn.sigmoid(rate.astype(wide(xs.dtype)))
        k = affine(xs, params.w_k).astype(rate.dtype)
        return affine(xs, params.w_r), k, k * (1 + _weighted(rate - 1, params.alpha)), rate

    def project(params: RWKV7Params, xs: jax.Array, key: Any = None) -> MatrixInputs:
        check_inputs(xs, params.w_r)
        r, k, replacement, rate = (split_heads(a, number) for a in receptance_keys_rate(params, xs))
        removal = unit(split_heads(_weighted(merge_heads(k), params.xi), number))
        decay = affine(jnp.tanh(affine(xs, params.w_d1)), params.w_d2, params.b_d).astype(rate.dtype)
        log_decay = split_heads(-math.exp(-0.5) * jax.nn.sigmoid(decay), number)
        v = split_heads(affine(xs, params.w_v), number)
        return MatrixInputs(r, replacement, v, log_decay, erase=(-rate * removal, removal))

    def readout(params: RWKV7Params, hs: MatrixOutputs, xs: jax.Array) -> jax.Array:
        r, _, replacement, _ = receptance_keys_rate(params, xs)
        bonus = split_heads(_weighted(r.astype(replacement.dtype) * replacement, params.rho), number)
        v = split_heads(affine(xs, params.w_v), number)
        bonus = jnp.sum(bonus, -1, keepdims=True) * v.astype(bonus.dtype)
        # The epsilon of the authors' code: 1e-5 per channel of a head with 64 channels.
        normal = _weighted(merge_heads(normalize(hs.o, center=True, epsilon=64e-5)), params.gain)
        normal = normal + expand_left(params.bias.astype(normal.dtype), normal.ndim)
        gate = affine(jax.nn.sigmoid(affine(xs, params.w_g1)), params.w_g2)
        return affine(gate * (normal + merge_heads(bonus)).astype(xs.dtype), params.w_o)

    return Cell(
        init=init,
        initial_carry=empty(heads),
        recurrence=Matrix(),
        project=project,
        readout=readout,
    )


def _initial_params(
    key: jax.Array, width: int, heads: Heads, rank: int, gate_rank: int, hidden_size: int, param_dtype: Any
) -> RWKV7Params:
    """Return the initial params for inputs of the given width D."""
    keys_width, values_width = heads.number * heads.key_size, heads.number * heads.value_size
    keys = jax.random.split(key, 7)
    working = wide(jnp.dtype(param_dtype))

    def uniform(key: jax.Array, columns: int, bound: float) -> jax.Array:
        bound = bound / math.sqrt(width)
        return jax.random.uniform(key, (width, columns), param_dtype, -bound, bound)

    def orthogonal(key: jax.Array, rows: int, columns: int) -> jax.Array:
        scale = 0.1 * math.sqrt(max(rows / columns, 1))
        # Draw in float32 at least: the matrix comes from a QR decomposition, which does not support bfloat16.
        return jax.nn.initializers.orthogonal(scale)(key, (rows, columns), working).astype(param_dtype)

    place = jnp.arange(keys_width, dtype=working) / max(keys_width - 1, 1)
    return RWKV7Params(
        w_r=uniform(keys[0], keys_width, 0.5),
        w_k=uniform(keys[1], keys_width, 0.05),
        w_v=uniform(keys[2], values_width, 0.5),
        w_d1=jnp.zeros((width, rank), param_dtype),
        w_d2=orthogonal(keys[3], rank, keys_width),
        b_d=(5 * place**0.85 - 6.5).astype(param_dtype),
        w_a1=jnp.zeros((width, rank), param_dtype),
        w_a2=orthogonal(keys[4], rank, keys_width),
        b_a=jnp.zeros(keys_width, param_dtype),
        w_g1=jnp.zeros((width, gate_rank), param_dtype),
        w_g2=orthogonal(keys[5], gate_rank, values_width),
        xi=jnp.full(keys_width, 0.85, param_dtype),
        alpha=jnp.ones(keys_width, param_dtype),
        rho=jnp.zeros(keys_width, param_dtype),
        gain=jnp.ones(values_width, param_dtype),
        bias=jnp.zeros(values_width, param_dtype),
        w_o=fan_in_normal(keys[6], (values_width, hidden_size), param_dtype),
    )


def _weighted(xs: jax.Array, weights: jax.Array) -> jax.Array:
    """Multiply ``[..., N*K]`` by weights ``[N*K]``."""
    return xs * spread(weights, xs)
