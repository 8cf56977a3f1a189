"""Layers that read the last few inputs: short causal convolution and token shift."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Shaped

from seqjax.affine import spread
from seqjax.base import Carry, Flags, Key, Layer, Params, X, Xs, Y, Ys
from seqjax.cells.common.labels import elementwise
from seqjax.checks import check_whole
from seqjax.compat import vary_like
from seqjax.ops.lags import lagged
from seqjax.ops.select import keep, select
from seqjax.ops.step import loop
from seqjax.ops.time_sharded.shards import shards_of
from seqjax.ops.time_sharded.windows import TAP_ON_ONE_DEVICE, entering_lags
from seqjax.values import definition


class ConvolutionParams(NamedTuple):
    """w ``[kernel_size, D]``, the last row for the present step; b ``[D]`` or None."""

    w: jax.Array
    b: jax.Array | None


@definition
def causal_conv(kernel_size: int, *, bias: bool = True, param_dtype: Any = jnp.float32) -> Layer:
    r"""Causal depthwise convolution over the last few steps.

    .. math::
        y_t = \sum_{k=0}^{w-1} W_{w-1-k} \odot x_{t-k} + b

    over steps that happened since the reset; inputs before the first step are zero.

    Shapes: x ``[*B, D]`` -> y ``[*B, D]``; carry ``[*B, kernel_size-1, D]``, the last inputs, oldest first; params
    `ConvolutionParams`. `unroll` is a sum of shifts; with masks or resets the shifts become gathers. The weights start
    uniform within :math:`\pm 1/\sqrt{w}`, as in PyTorch.

    Args:
        kernel_size: w, in steps, including the present one.
        bias: whether to add b.
        param_dtype: of the params.

    Raises:
        ValueError: for a kernel size below 1, or inputs of the wrong dtype or width.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> layer = sj.causal_conv(2)
        >>> xs = jnp.asarray([1.0, 2.0, 4.0]).reshape(3, 1, 1)
        >>> params = sj.layers.convolution.ConvolutionParams(w=jnp.asarray([[-1.0], [1.0]]), b=jnp.zeros(1))
        >>> layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1].ravel()
        Array([1., 1., 2.], dtype=float32)

    References:
        Gu, Dao 2023, "Mamba: linear-time sequence modeling with selective state spaces", arXiv:2312.00752, figure 3.
    """
    check_whole("causal_conv(kernel_size)", kernel_size)

    def init(key: Key, x: jax.Array) -> ConvolutionParams:
        key_w, key_b = jax.random.split(key)
        bound = 1 / math.sqrt(kernel_size)
        w = jax.random.uniform(key_w, (kernel_size, x.shape[-1]), param_dtype, -bound, bound)
        b = jax.random.uniform(key_b, (x.shape[-1],), param_dtype, -bound, bound) if bias else None
        return ConvolutionParams(w, b)

    def combine(params: ConvolutionParams, lags: list[jax.Array]) -> jax.Array:
        x = lags[-1]
        _check_inputs(f"causal_conv(kernel_size={kernel_size})", x, params.w.shape[-1])
        terms = [spread(w, x) * lag for w, lag in zip(params.w, lags, strict=True)]
        if params.b is not None:
            terms.append(spread(params.b, x))
        return sum(terms[1:], terms[0])

    return _layer(f"causal_conv(kernel_size={kernel_size})", init, combine, kernel_size - 1)


@elementwise("mu")
class TokenShiftParams(NamedTuple):
    """mu ``[S, D]``: the share of the previous step, per stream."""

    mu: jax.Array


@definition
def token_shift(num_outputs: int = 1, *, param_dtype: Any = jnp.float32) -> Layer:
    r"""Learned mixtures of each input and the previous input, one per stream.

    .. math::
        y_t = [y^1_t, \dots, y^S_t], \qquad y^s_t = x_t + \mu_s \odot (x_{t-1} - x_t)

    where the previous step is the last that happened since the reset; before the first step it is zero. Two streams
    with different mixtures span both inputs, so a dense layer after them is a convolution over two steps.

    Shapes: x ``[*B, D]`` -> y ``[*B, S*D]``; carry ``[*B, 1, D]``, the last input; params
    ``TokenShiftParams(mu [S, D])``.

    Initialization: :math:`\mu_{s,j} = 1 - (j/D)^{s/S}` for channel j = 0 .. D-1 and stream s = 1 .. S: a range of
    mixtures over the channels, as in RWKV (where the exponents depend on the depth of the layer).

    Args:
        num_outputs: S, the number of streams.
        param_dtype: of the params.

    Raises:
        ValueError: for fewer than one stream, or inputs of the wrong dtype or width.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.token_shift(num_outputs=2)
        >>> xs = jnp.ones((10, 4, 3))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1].shape
        (10, 4, 6)

    References:
        Peng et al. 2024, "Eagle and Finch: RWKV with matrix-valued states and dynamic recurrence", arXiv:2404.05892,
        section 4.1 (lerp). Peng et al. 2023, "RWKV: reinventing RNNs for the transformer era", arXiv:2305.13048,
        exchanges mu and 1 - mu.
    """
    check_whole("token_shift(num_outputs)", num_outputs)

    def init(key: Key, x: jax.Array) -> TokenShiftParams:
        channel = jnp.arange(x.shape[-1], dtype=param_dtype) / x.shape[-1]
        powers = [channel ** (s / num_outputs) for s in range(1, num_outputs + 1)]
        return TokenShiftParams(1 - jnp.stack(powers))

    def combine(params: TokenShiftParams, lags: list[jax.Array]) -> jax.Array:
        before, x = lags
        _check_inputs(f"token_shift(num_outputs={num_outputs})", x, params.mu.shape[-1])
        streams = [x + spread(mu, x) * (before - x) for mu in params.mu]
        return jnp.concatenate(streams, -1)

    return _layer(f"token_shift(num_outputs={num_outputs})", init, combine, 1)


def _layer(
    who: str, init: Callable, combine: Callable[[Any, list[jax.Array]], jax.Array], num_lags: int
) -> Layer:
    """Return the layer ``y = combine(params, [x of num_lags steps ago, ..., x])``."""

    def initial_carry(params: Params, x: jax.Array) -> Shaped[Array, "*B L D"]:
        zeros = jnp.expand_dims(jnp.zeros_like(x), -2)
        return jnp.broadcast_to(zeros, (*x.shape[:-1], num_lags, x.shape[-1]))

    def advance(
        params: Params, carry: Inexact[Array, "*B L D"], x: Inexact[Array, "*B D"]
    ) -> tuple[Inexact[Array, "*B L D"], Inexact[Array, "*B _"]]:
        window = jnp.concatenate([carry, x[..., None, :]], -2)
        return window[..., 1:, :], combine(params, [window[..., k, :] for k in range(num_lags + 1)])

    def step(params: Params, carry: Carry, x: X, flags: Flags) -> tuple[Carry, Y]:
        x = keep(flags.mask, x)
        carry = select(flags.reset, initial_carry(params, x), carry.astype(x.dtype))
        after, y = advance(params, carry, x)
        return (after if flags.mask is None else select(flags.mask, after, carry)), keep(flags.mask, y)

    def unroll(params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        xs = keep(flags.mask, xs)
        carry = vary_like(carry.astype(xs.dtype), xs, params)
        shards = shards_of(xs)
        if flags.tap is None:
            if shards is not None:
                carry = entering_lags(shards, xs, shards.varying(carry), flags.reset, flags.mask)
            carry, lags = lagged(xs, carry, flags.reset, flags.mask)
            carry = carry if shards is None else shards.broadcast_last(carry)
            return carry, keep(flags.mask, combine(params, lags))
        if shards is not None:
            raise TypeError(f"{who} cannot tap its carry on a mesh axis '{shards.axis}'. {TAP_ON_ONE_DEVICE}")
        # A tap needs the carry before each step, which only the loop computes.
        flags = flags._replace(initial=initial_carry(params, xs[0]))
        carry, ys = loop(lambda carry, x: advance(params, carry, x), carry, xs, flags)
        return carry, keep(flags.mask, ys)

    return Layer(init=init, initial_carry=initial_carry, step_fn=step, unroll_fn=unroll, time_shardable=True)


def _check_inputs(who: str, x: jax.Array, width: int) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.shape[-1] != width:
        raise ValueError(f"{who}: expected floating inputs [..., {width}], got {x.dtype} {list(x.shape)}.")
