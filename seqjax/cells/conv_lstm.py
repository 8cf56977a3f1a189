"""Convolutional LSTM."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import spread
from seqjax.base import Cell, Step
from seqjax.cells.common.labels import elementwise
from seqjax.checks import check_whole
from seqjax.ops.elementwise import tanh
from seqjax.values import definition


@elementwise("b", "w_c")
class ConvLSTMParams(NamedTuple):
    """w_x ``[K, K, D, 4H]``, w_h ``[K, K, H, 4H]``, b ``[4H]``, order i, f, g, o; w_c ``[3, P, Q, H]`` or None."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    w_c: jax.Array | None


class ConvLSTMCarry(NamedTuple):
    """c, h ``[*B, P, Q, H]``."""

    c: jax.Array
    h: jax.Array


@definition
def conv_lstm(
    hidden_size: int,
    *,
    kernel_size: int = 3,
    peepholes: bool = False,
    forget_bias: float = 1.0,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Convolutional LSTM over images: 2D convolutions replace the matrix products of an LSTM.

    .. math::
        (i_t, f_t, g_t, o_t) &= x_t * W_x + h_{t-1} * W_h + b \\
        c_t &= \sigma(f_t + w_{cf} \odot c_{t-1}) \odot c_{t-1}
            + \sigma(i_t + w_{ci} \odot c_{t-1}) \odot \tanh(g_t) \\
        h_t &= \sigma(o_t + w_{co} \odot c_t) \odot \tanh(c_t)

    The peepholes w_c are off by default. The convolutions do not flip the kernel; zero padding keeps the size P x Q.

    Shapes: x ``[*B, P, Q, D]`` -> h ``[*B, P, Q, H]``; carry ``ConvLSTMCarry(c, h)``, each ``[*B, P, Q, H]``;
    params ``ConvLSTMParams(w_x [K, K, D, 4H], w_h [K, K, H, 4H], b [4H], w_c [3, P, Q, H] or None)``; gates in the
    order i, f, g, o, peepholes i, f, o.

    Gradients: along c the Jacobian is the product of the forget gates, pixel by pixel. Along h gradients spread by the
    radius of the kernel per step.

    Args:
        hidden_size: H, channels of h.
        kernel_size: K, in pixels, of both convolutions.
        peepholes: whether to use w_c, which fixes the image size P x Q in the params.
        forget_bias: initial bias of the forget gate.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1; from `unroll`, for images that do not fit the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.conv_lstm(8))
        >>> xs = jnp.ones((10, 4, 16, 16, 3))                           # [T, B, P, Q, D]
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1].shape
        (10, 4, 16, 16, 8)

    References:
        Shi et al. 2015, "Convolutional LSTM network: a machine learning approach for precipitation nowcasting",
        arXiv:1506.04214, eq. 3 (with peepholes). The paper gives no initialization: kernels start Glorot-uniform per
        gate, peepholes at zero.
    """
    check_whole("conv_lstm(hidden_size)", hidden_size)
    check_whole("conv_lstm(kernel_size)", kernel_size)

    def init(key: jax.Array, x: jax.Array) -> ConvLSTMParams:
        key_x, key_h = jax.random.split(key)
        glorot = jax.nn.initializers.glorot_uniform()

        def kernels(key: jax.Array, channels: int) -> jax.Array:
            shape = (kernel_size, kernel_size, channels, hidden_size)
            return jnp.concatenate([glorot(k, shape, param_dtype) for k in jax.random.split(key, 4)], -1)

        b = jnp.zeros((4, hidden_size), param_dtype).at[1].set(forget_bias)
        w_c = jnp.zeros((3, *x.shape[-3:-1], hidden_size), param_dtype) if peepholes else None
        return ConvLSTMParams(kernels(key_x, x.shape[-1]), kernels(key_h, hidden_size), b.reshape(-1), w_c)

    def initial_carry(params: ConvLSTMParams, x: jax.Array) -> ConvLSTMCarry:
        zeros = jnp.broadcast_to(jnp.zeros_like(x)[..., :1], (*x.shape[:-1], hidden_size))
        return ConvLSTMCarry(zeros, zeros)

    def project(params: ConvLSTMParams, xs: jax.Array, key: Any = None) -> jax.Array:
        width = params.w_x.shape[2]
        if not jnp.issubdtype(xs.dtype, jnp.floating) or xs.shape[-1] != width:
            raise ValueError(
                f"expected floating xs [..., P, Q, {width}] (w_x is {list(params.w_x.shape)}), "
                f"got {xs.dtype} {list(xs.shape)}."
            )
        if params.w_c is not None and xs.shape[-3:-1] != params.w_c.shape[1:3]:
            raise ValueError(
                f"expected images of {' x '.join(map(str, params.w_c.shape[1:3]))} (w_c is {list(params.w_c.shape)}), "
                f"got {list(xs.shape)}. Pass `peepholes=False` for images of any size."
            )
        us = _convolve(xs, params.w_x.astype(xs.dtype))
        return us + spread(params.b, us)

    def step(params: ConvLSTMParams, carry: ConvLSTMCarry, u: jax.Array) -> tuple[ConvLSTMCarry, jax.Array]:
        i, f, g, o = jnp.split(u + _convolve(carry.h, params.w_h), 4, -1)
        c = carry.c
        if params.w_c is not None:
            w_i, w_f, w_o = (jnp.broadcast_to(w, c.shape) for w in params.w_c)
            i, f = i + w_i * c, f + w_f * c
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        if params.w_c is not None:
            o = o + w_o * c
        h = jax.nn.sigmoid(o) * tanh(c)
        return ConvLSTMCarry(c, h), h

    return Cell(init=init, initial_carry=initial_carry, recurrence=Step(step), project=project, event_ndim=3)


def _convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve ``x [..., P, Q, D]`` with the kernel ``w [K, K, D, E]``; return ``[..., P, Q, E]``."""
    *lead, rows, columns, channels = x.shape
    x = x.reshape(math.prod(lead), rows, columns, channels)
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(*lead, rows, columns, w.shape[-1])
