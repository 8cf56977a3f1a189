"""Real-gated linear recurrent unit of Griffin."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Diagonal, DiagonalInputs
from seqjax.cells.common.initialize import wide_zeros
from seqjax.cells.common.labels import sets_recurrence
from seqjax.cells.common.linear import as_inputs, init_input_map, lecun_normal, to_channels
from seqjax.checks import check_above, check_divisor, check_whole
from seqjax.ops.discretize import complement, log_softplus
from seqjax.ops.select import wide
from seqjax.ops.step import expand_left
from seqjax.values import definition


@sets_recurrence("b_r", "a_logit")
class RGLRUParams(NamedTuple):
    """w_x ``[D, H]`` or None; w_r, w_i ``[N, d, d]``, N d = H; b_r, b_i, a_logit ``[H]``."""

    w_x: jax.Array | None
    w_r: jax.Array
    b_r: jax.Array
    w_i: jax.Array
    b_i: jax.Array
    a_logit: jax.Array


@definition
def rg_lru(
    hidden_size: int,
    *,
    num_blocks: int = 1,
    exponent: float = 8.0,
    a_min: float = 0.9,
    a_max: float = 0.999,
    input_map: bool = True,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Real-gated linear recurrent unit, the recurrence of Griffin and Hawk.

    .. math::
        u_t &= x_t W_x, \qquad r_t = \sigma(u_t W_r + b_r), \qquad i_t = \sigma(u_t W_i + b_i) \\
        \log a_t &= c\, r_t \odot \log \sigma(\Lambda) \\
        h_t &= a_t \odot h_{t-1} + \sqrt{1 - a_t^2} \odot (i_t \odot u_t)

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry h ``[*B, H]``, float32 at least; params `RGLRUParams`.

    The square root is computed from the logarithm of :math:`-\log a_t`, a sum of logarithms of sigmoids. Value and
    gradient are therefore accurate and finite for every a (the authors' code clips the gradient instead).

    Initialization: :math:`\sigma(\Lambda)^c` uniform in [a_min, a_max]; weights normal with variance 1 / fan-in; biases
    zero.

    Gradients: :math:`\partial h_T / \partial h_t = \prod a_s` over the steps between, in (0, 1). At initialization
    :math:`r_t` is near 1/2, so a unit decays by half of :math:`-\log \sigma(\Lambda)^c` per step, which gives e-folding
    lengths of 19 to 2000 steps. A closed recurrence gate (r near zero) passes gradients unchanged.

    Args:
        hidden_size: H, the number of channels.
        num_blocks: N, the number of blocks in the gates' block-diagonal weights; 1 for dense weights (the paper's
            models use blocks).
        exponent: c.
        a_min: smallest initial decay at an open recurrence gate.
        a_max: largest initial decay at an open recurrence gate.
        input_map: False uses the inputs as channels (D = H), as in the paper's block, where W_x and a convolution come
            before the recurrence.
        param_dtype: dtype of the params.

    Raises:
        ValueError: unless 0 < a_min < a_max < 1, exponent > 0, and num_blocks divides hidden_size.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.rg_lru(6, num_blocks=2).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        RGLRUParams(w_x=(2, 6), w_r=(2, 3, 3), b_r=(6,), w_i=(2, 3, 3), b_i=(6,), a_logit=(6,))

    References:
        De et al. 2024, "Griffin: mixing gated linear recurrences with local attention for efficient language models",
        arXiv:2402.19427: eq. 1-4 and 6 in appendix A (the logarithm), section 2.4 (initialization, c = 8).
    """
    check_whole("rg_lru(hidden_size)", hidden_size)
    check_whole("rg_lru(num_blocks)", num_blocks)
    check_divisor("rg_lru(num_blocks)", num_blocks, f"hidden_size={hidden_size}", hidden_size)
    check_above("rg_lru(exponent)", exponent)
    if not 0 < a_min < a_max < 1:
        raise ValueError(f"rg_lru: expected 0 < a_min < a_max < 1, got a_min={a_min}, a_max={a_max}.")
    block = hidden_size // num_blocks

    def init(key: jax.Array, x: jax.Array) -> RGLRUParams:
        keys = jax.random.split(key, 4)
        dtype = wide(jnp.dtype(param_dtype))
        log_a = jnp.log(jax.random.uniform(keys[3], (hidden_size,), dtype, a_min, a_max)) / exponent
        zeros = jnp.zeros((hidden_size,), param_dtype)
        return RGLRUParams(
            init_input_map(keys[0], x, hidden_size, input_map, param_dtype),
            lecun_normal(keys[1], (num_blocks, block, block), param_dtype),
            zeros,
            lecun_normal(keys[2], (num_blocks, block, block), param_dtype),
            zeros,
            (log_a - jnp.log(-jnp.expm1(log_a))).astype(param_dtype),
        )

    def gate(us: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        """Return the pre-activations of a gate, in float32 at least."""
        heads = us.reshape(*us.shape[:-1], num_blocks, block)
        z = jnp.einsum("...nd,nde->...ne", heads, w.astype(us.dtype)).reshape(us.shape)
        dtype = wide(us.dtype)
        return z.astype(dtype) + expand_left(b.astype(dtype), z.ndim)

    def project(params: RGLRUParams, xs: jax.Array, key: Any = None) -> DiagonalInputs:
        us = to_channels(xs, params.w_x, hidden_size)
        dtype = wide(us.dtype)
        # log(rho) for a = exp(-rho), where rho = c softplus(-Lambda) sigmoid(z).
        log_rate = math.log(exponent) + log_softplus(-params.a_logit.astype(dtype))
        log_rate = expand_left(log_rate, us.ndim) + jax.nn.log_sigmoid(gate(us, params.w_r, params.b_r))
        i = jax.nn.sigmoid(gate(us, params.w_i, params.b_i))
        return DiagonalInputs(jnp.exp(-jnp.exp(log_rate)), complement(log_rate) * (i * us.astype(dtype)))

    start = wide_zeros(hidden_size)
    return Cell(init=init, initial_carry=start, recurrence=Diagonal(), project=project, readout=as_inputs)
