"""Long short-term memory with layer normalization."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine, spread
from seqjax.base import Cell, Step
from seqjax.cells.common.heads import normalize
from seqjax.cells.common.initialize import gated_weights, zeros
from seqjax.cells.common.labels import elementwise
from seqjax.cells.lstm import LSTMCarry
from seqjax.checks import check_above, check_whole
from seqjax.ops.elementwise import tanh
from seqjax.ops.select import wide
from seqjax.values import definition


@elementwise("b", "alpha_x", "alpha_h", "alpha_c", "b_c")
class LayerNormLSTMParams(NamedTuple):
    """w_x ``[D, 4H]``, w_h ``[H, 4H]``, b, alpha_x, alpha_h ``[4H]``, in the order i, f, g, o; alpha_c, b_c ``[H]``."""

    w_x: jax.Array
    w_h: jax.Array
    b: jax.Array
    alpha_x: jax.Array
    alpha_h: jax.Array
    alpha_c: jax.Array
    b_c: jax.Array


@definition
def layer_norm_lstm(
    hidden_size: int, *, forget_bias: float = 1.0, epsilon: float = 1e-5, param_dtype: Any = jnp.float32
) -> Cell:
    r"""Long short-term memory with layer normalization of both products and of c.

    .. math::
        N(z) &= (z - \bar z) / \sqrt{\overline{(z - \bar z)^2} + \epsilon} \\
        (i_t, f_t, g_t, o_t) &= \alpha_x \odot N(x_t W_x) + \alpha_h \odot N(h_{t-1} W_h) + b \\
        c_t &= \sigma(f_t) \odot c_{t-1} + \sigma(i_t) \odot \tanh(g_t) \\
        h_t &= \sigma(o_t) \odot \tanh(\alpha_c \odot N(c_t) + b_c)

    Means run over all 4H numbers of a product, and over the H numbers of c, in float32 at least. The paper has no
    epsilon and is undefined where h is zero. The paper's three biases :math:`\beta_1 + \beta_2 + b` act as their sum;
    here they are one b.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``LSTMCarry(c [*B, H], h [*B, H])``; params
    ``LayerNormLSTMParams(w_x [D, 4H], w_h [H, 4H], b [4H], alpha_x [4H], alpha_h [4H], alpha_c [H], b_c [H])``.

    Gradients: along c the Jacobian is the product of the forget gates, as in `lstm`. The path from h to c is divided by
    the size of c. The scale of W_h has no effect, so it makes gradients neither vanish nor explode.

    Args:
        hidden_size: H.
        forget_bias: initial bias of the forget gate.
        epsilon: added to the variances.
        param_dtype: dtype of the params.

    Raises:
        ValueError: unless epsilon is above 0, or for a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.layer_norm_lstm(1).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> params.b, params.alpha_h, params.b_c
        (Array([0., 1., 0., 0.], dtype=float32), Array([1., 1., 1., 1.], dtype=float32), Array([0.], dtype=float32))

    References:
        Ba, Kiros, Hinton 2016, "Layer normalization", arXiv:1607.06450, eq. 20-22 and, for N, eq. 15-16.
    """
    check_whole("layer_norm_lstm(hidden_size)", hidden_size)
    check_above("layer_norm_lstm(epsilon)", epsilon)

    def init(key: jax.Array, x: jax.Array) -> LayerNormLSTMParams:
        w_x, w_h = gated_weights(key, x, hidden_size, 4, param_dtype)
        b = jnp.zeros((4, hidden_size), param_dtype).at[1].set(forget_bias)
        one, ones = jnp.ones(hidden_size, param_dtype), jnp.ones(4 * hidden_size, param_dtype)
        return LayerNormLSTMParams(w_x, w_h, b.reshape(-1), ones, ones, one, jnp.zeros_like(one))

    def scaled_norm(alpha: jax.Array, z: jax.Array) -> jax.Array:
        normal = normalize(z.astype(wide(z.dtype)), center=True, epsilon=epsilon)
        return spread(alpha, z) * normal.astype(z.dtype)

    def project(params: LayerNormLSTMParams, xs: jax.Array, key: Any = None) -> jax.Array:
        us = scaled_norm(params.alpha_x, affine(xs, params.w_x))
        return us + spread(params.b, us)

    def step(params: LayerNormLSTMParams, carry: LSTMCarry, u: jax.Array) -> tuple[LSTMCarry, jax.Array]:
        i, f, g, o = jnp.split(u + scaled_norm(params.alpha_h, carry.h @ params.w_h), 4, -1)
        c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * tanh(scaled_norm(params.alpha_c, c) + spread(params.b_c, c))
        return LSTMCarry(c, h), h

    return Cell(
        init=init, initial_carry=zeros(LSTMCarry, hidden_size), recurrence=Step(step), project=project
    )
