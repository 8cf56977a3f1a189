"""DeltaNet: a write replaces the value stored under its key."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine, check_inputs
from seqjax.base import Cell, Matrix, MatrixInputs, MatrixOutputs
from seqjax.cells.common.heads import (
    Heads,
    check_heads,
    empty,
    fan_in_normal,
    gated_readout,
    split_heads,
    unit,
)
from seqjax.ops.select import wide
from seqjax.values import definition


class DeltaNetParams(NamedTuple):
    """w_q, w_k ``[D, N*K]``; w_v ``[D, N*V]``; w_beta ``[D, N]``; w_o ``[N*V, H]``."""

    w_q: jax.Array
    w_k: jax.Array
    w_v: jax.Array
    w_beta: jax.Array
    w_o: jax.Array


def common_weights(
    key: jax.Array, x: jax.Array, heads: Heads, hidden_size: int, dtype: Any
) -> DeltaNetParams:
    """Draw the weights that `delta_net` and `gated_delta_net` share."""
    (number, key_size, value_size), width = heads, x.shape[-1]
    keys, values = number * key_size, number * value_size
    shapes = ((width, keys), (width, keys), (width, values), (width, number), (values, hidden_size))
    return DeltaNetParams(*(fan_in_normal(k, s, dtype) for k, s in zip(jax.random.split(key, 5), shapes)))


def writes(
    params: Any, xs: jax.Array, number: int, largest: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return q and k of length 1, v, and beta ``[..., N, 1]``, in float32 at least."""
    check_inputs(xs, params.w_q)
    q, k, v = (split_heads(jax.nn.silu(affine(xs, w)), number) for w in (params.w_q, params.w_k, params.w_v))
    beta = largest * jax.nn.sigmoid(affine(xs, params.w_beta).astype(wide(xs.dtype)))
    return unit(q), unit(k), v.astype(beta.dtype), beta[..., None]


@definition
def delta_net(
    hidden_size: int,
    *,
    num_heads: int = 4,
    key_size: int | None = None,
    value_size: int | None = None,
    negative_eigenvalues: bool = False,
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""DeltaNet: a matrix memory in which a write replaces the value stored under its key, in part or whole.

    .. math::
        q_t, k_t &= \frac{\mathrm{silu}(x_t W_q)}{\|\cdot\|_2},\; \frac{\mathrm{silu}(x_t W_k)}{\|\cdot\|_2}, \qquad
        v_t = \mathrm{silu}(x_t W_v), \qquad \beta_t = \sigma(x_t W_\beta) \\
        S_t &= (I - \beta_t k_t k_t^\top) S_{t-1} + \beta_t k_t v_t^\top \\
        y_t &= \mathrm{norm}(S_t^\top q_t) W_o

    where norm is the RMS norm of each head. With beta = 1, :math:`S_t^\top k_t = v_t`.

    Shapes: x ``[*B, D]`` -> y ``[*B, H]``; carry S ``[*B, N, K, V]``, float32 at least; params `DeltaNetParams`.

    Gradients: :math:`\partial S_t / \partial S_{t-1} = I - \beta_t k_t k_t^\top`, symmetric, with eigenvalue
    :math:`1 - \beta_t` along the key and 1 across it. No eigenvalue exceeds 1, and the memory forgets only along
    written keys. The Lyapunov exponents of each column of S add up to the mean of :math:`\ln |1 - \beta|`.

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
        >>> cell = sj.delta_net(6, num_heads=2)
        >>> us = cell.project(cell.init(jax.random.key(0), jnp.ones((5, 4))), jnp.ones((5, 4)))
        >>> jnp.linalg.norm(us.k, axis=-1)[0].round(4)
        Array([1., 1.], dtype=float32)

    References:
        Schlag, Irie, Schmidhuber 2021, "Linear transformers are secretly fast weight programmers", arXiv:2102.11174,
        section 4.2, eq. 20-25 (the update rule is eq. 24).
        Yang et al. 2024, "Parallelizing linear transformers with the delta rule", arXiv:2406.06484, section 2.2 (the
        recurrence; equations without numbers), section 3.3 (feature map, L2 norm, output norm). The paper's short
        convolutions are separate layers here.
        Grazzi et al. 2024, "Unlocking state-tracking in linear RNNs through negative eigenvalues", arXiv:2411.12537.
        The norm has no gain, since W_o can absorb a gain. The papers state no initialization; weights start normal with
        variance 1 / fan-in.
    """
    heads = check_heads("delta_net", hidden_size, num_heads, key_size, value_size)
    largest = 2.0 if negative_eigenvalues else 1.0

    def project(params: DeltaNetParams, xs: jax.Array, key: Any = None) -> MatrixInputs:
        q, k, v, beta = writes(params, xs, heads.number, largest)
        return MatrixInputs(q, k, beta * v, erase=(-beta * k, k))

    def readout(params: DeltaNetParams, hs: MatrixOutputs, xs: jax.Array) -> jax.Array:
        return gated_readout(hs.o, None, params.w_o, xs.dtype, center=False)

    return Cell(
        init=lambda key, x: common_weights(key, x, heads, hidden_size, param_dtype),
        initial_carry=empty(heads),
        recurrence=Matrix(),
        project=project,
        readout=readout,
    )
