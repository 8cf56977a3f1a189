"""Gated DeltaNet: the delta rule with a decay."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Cell, Matrix, MatrixInputs, MatrixOutputs
from seqjax.cells.common.heads import (
    check_heads,
    empty,
    fan_in_normal,
    gated_readout,
    step_size_params,
    step_sizes,
)
from seqjax.cells.common.labels import sets_recurrence
from seqjax.cells.delta_net import common_weights, writes
from seqjax.values import definition


@sets_recurrence("b_dt", "a_log")
class GatedDeltaNetParams(NamedTuple):
    """w_q, w_k ``[D, N*K]``; w_v, w_g ``[D, N*V]``; w_beta ``[D, N]``; w_o ``[N*V, H]``.

    w_dt ``[D, N]``, b_dt, a_log ``[N]``: the step sizes and decay rates.
    """

    w_q: jax.Array
    w_k: jax.Array
    w_v: jax.Array
    w_beta: jax.Array
    w_o: jax.Array
    w_g: jax.Array
    w_dt: jax.Array
    b_dt: jax.Array
    a_log: jax.Array


@definition
def gated_delta_net(
    hidden_size: int,
    *,
    num_heads: int = 4,
    key_size: int | None = None,
    value_size: int | None = None,
    negative_eigenvalues: bool = False,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Gated DeltaNet: the delta rule on a memory that decays as in Mamba-2.

    .. math::
        S_t &= \alpha_t (I - \beta_t k_t k_t^\top) S_{t-1} + \beta_t k_t v_t^\top, \qquad
        \alpha_t = \exp\big(-e^{a}\, \mathrm{softplus}(x_t W_\Delta + b_\Delta)\big) \\
        y_t &= \big(\mathrm{silu}(x_t W_g) \odot \mathrm{norm}(S_t^\top q_t)\big) W_o

    where q, k, v, beta and norm are as in `delta_net`.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry S ``[*B, N, K, V]``, float32 at least; params `GatedDeltaNetParams`.

    Gradients: :math:`\partial S_t / \partial S_{t-1} = \alpha_t (I - \beta_t k_t k_t^\top)`: its eigenvalues are alpha
    across the key and :math:`\alpha_t (1 - \beta_t)` along it, never above 1. The Lyapunov exponents of each column of
    S add up to the mean of :math:`K \ln \alpha + \ln |1 - \beta|`.

    Args:
        hidden_size: H.
        num_heads: N.
        key_size: K; hidden_size // num_heads by default.
        value_size: V; hidden_size // num_heads by default.
        negative_eigenvalues: beta in (0, 2) instead of (0, 1), so that a write may reflect. State tracking needs this.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for a size below 1, or heads that do not divide the hidden size.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.gated_delta_net(8, num_heads=2, key_size=3, negative_eigenvalues=True))
        >>> xs = jnp.ones((10, 5, 4))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> carry, ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs)
        >>> ys.shape, carry.shape
        ((10, 5, 8), (5, 2, 3, 4))

    References:
        Yang, Kautz, Hatamizadeh 2024, "Gated delta networks", arXiv:2412.06464: eq. 10 (the recurrence), section 3.4
        and figure 1 (projections, norm and gate; alpha "as Mamba-2"). The paper's short convolutions are separate
        layers here.
        Grazzi et al. 2024, "Unlocking state-tracking in linear RNNs through negative eigenvalues", arXiv:2411.12537.
        The norm has no gain, since W_o can absorb a gain. Decay rates and step sizes start as in `ssd` (the authors'
        code draws the rates from [0, 16], whose logarithm may be infinite). Weights start normal with variance 1 /
        fan-in.
    """
    heads = check_heads("gated_delta_net", hidden_size, num_heads, key_size, value_size)
    largest = 2.0 if negative_eigenvalues else 1.0

    def init(key: jax.Array, x: jax.Array) -> GatedDeltaNetParams:
        keys, width = jax.random.split(key, 4), x.shape[-1]
        a_log, b_dt = step_size_params(keys[1], heads.number, param_dtype)
        return GatedDeltaNetParams(
            *common_weights(keys[0], x, heads, hidden_size, param_dtype),
            w_g=fan_in_normal(keys[2], (width, heads.number * heads.value_size), param_dtype),
            w_dt=fan_in_normal(keys[3], (width, heads.number), param_dtype),
            b_dt=b_dt,
            a_log=a_log,
        )

    def project(params: GatedDeltaNetParams, xs: jax.Array, key: Any = None) -> MatrixInputs:
        q, k, v, beta = writes(params, xs, heads.number, largest)
        _, log_decay = step_sizes(xs, params.w_dt, params.b_dt, params.a_log)
        alpha = jnp.exp(log_decay)[..., None]
        return MatrixInputs(q, k, beta * v, log_decay, erase=(-alpha * beta * k, k))

    def readout(params: GatedDeltaNetParams, hs: MatrixOutputs, xs: jax.Array) -> jax.Array:
        return gated_readout(hs.o, jax.nn.silu(affine(xs, params.w_g)), params.w_o, xs.dtype, center=False)

    return Cell(init=init, initial_carry=empty(heads), recurrence=Matrix(), project=project, readout=readout)
