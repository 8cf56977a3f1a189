"""Recurrent network with an orthogonal recurrent matrix."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Cell, Dense, Gated, GatedWeights
from seqjax.cells.common.initialize import zeros
from seqjax.checks import check_one_of, check_whole
from seqjax.ops.select import wide
from seqjax.ops.step import expand_left
from seqjax.values import definition


class OrthogonalParams(NamedTuple):
    """w_x ``[D, H]``; a ``[H, H]``, of which only the entries above the diagonal are used; b ``[H]``."""

    w_x: jax.Array
    a: jax.Array
    b: jax.Array


class OrthogonalCarry(NamedTuple):
    """h ``[*B, H]``."""

    h: jax.Array


def orthogonal_matrix(a: jax.Array) -> jax.Array:
    """Return ``exp(A)``, where A is antisymmetric with the entries of a ``[H, H]`` above its diagonal."""
    upper = jnp.triu(a.astype(wide(a.dtype)), 1)
    return jax.scipy.linalg.expm(upper - upper.T)


def _mod_relu(z: jax.Array, b: jax.Array) -> jax.Array:
    # Not sign(z) relu(|z| + b): at z = 0 its derivative is 0, although with b = 0 it is the identity.
    return jnp.where(jnp.abs(z) + b < 0, jnp.zeros_like(z), z + jnp.sign(z) * b)


@definition
def orthogonal_rnn(
    hidden_size: int,
    *,
    activation: Literal["modrelu", "tanh", "identity"] = "modrelu",
    angles: Literal["henaff", "cayley"] = "henaff",
    param_dtype: Any = jnp.float32,
) -> Cell:
    r"""Simple recurrent network whose matrix is orthogonal by construction (expRNN).

    .. math::
        A &= \mathrm{triu}(a) - \mathrm{triu}(a)^\top, \qquad W_h = \exp(A), \qquad W_h^\top W_h = I \\
        z_t &= x_t W_x + h_{t-1} W_h \\
        h_t &= \mathrm{sign}(z_t) \odot \mathrm{relu}(|z_t| + b) && \text{(modrelu)} \\
        h_t &= \phi(z_t + b) && \text{(tanh, identity)}

    where triu takes the entries above the diagonal. The exponential is computed once per unroll (and at every `step`),
    in float32 at least, so W_h is orthogonal to rounding.

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry ``OrthogonalCarry(h [*B, H])``;
    params ``OrthogonalParams(w_x [D, H], a [H, H], b [H])``.

    Gradients: :math:`\partial h_t / \partial h_{t-1} = W_h D_t`, where D_t is the diagonal matrix of slopes. W_h
    preserves norms for every a. The slopes of modrelu are 1 or, where :math:`|z| < -b`, 0. Gradients therefore never
    explode, and with the identity, or modrelu with b = 0, every singular value of the Jacobian over any number of steps
    is 1.

    Args:
        hidden_size: H.
        activation: "modrelu", "tanh" or "identity".
        angles: initial rotation angles of W_h in its planes: "henaff", uniform in [-pi, pi]; "cayley", -tan(theta / 2)
            with theta uniform in [0, pi / 2]. With an odd H one axis is not rotated.
        param_dtype: dtype of the params.

    Raises:
        ValueError: for another activation or choice of angles, or a hidden_size below 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> from seqjax.cells.orthogonal_rnn import orthogonal_matrix
        >>> params = sj.orthogonal_rnn(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> w_h = orthogonal_matrix(params.a)
        >>> bool(jnp.allclose(w_h @ w_h.T, jnp.eye(3), atol=1e-6))
        True

    References:
        Lezcano-Casado, Martinez-Rubio 2019, "Cheap orthogonal constraints in neural networks", arXiv:1901.08428 (the
        exponential as a parametrization, expRNN, the two initializations of its experiments). The distributions of
        w_x (He et al. 2015) and of b (uniform in [-0.01, 0.01]) are those of the authors' code.
        Arjovsky, Shah, Bengio 2016, "Unitary evolution recurrent neural networks", arXiv:1511.06464, eq. 8 (modReLU).
    """
    check_whole("orthogonal_rnn(hidden_size)", hidden_size)
    activations = {"modrelu": Activation.IDENTITY, "tanh": Activation.TANH, "identity": Activation.IDENTITY}
    check_one_of("orthogonal_rnn(activation)", activation, activations)
    check_one_of("orthogonal_rnn(angles)", angles, ("henaff", "cayley"))
    modrelu = activation == "modrelu"

    def init(key: jax.Array, x: jax.Array) -> OrthogonalParams:
        key_x, key_a, key_b = jax.random.split(key, 3)
        shape = (hidden_size // 2,)
        if angles == "henaff":
            turns = jax.random.uniform(key_a, shape, param_dtype, -math.pi, math.pi)
        else:
            turns = -jnp.tan(jax.random.uniform(key_a, shape, param_dtype, 0, math.pi / 2) / 2)
        even = 2 * jnp.arange(hidden_size // 2)
        a = jnp.zeros((hidden_size, hidden_size), param_dtype).at[even, even + 1].set(turns)
        b = jnp.zeros(hidden_size, param_dtype)
        if modrelu:
            b = jax.random.uniform(key_b, (hidden_size,), param_dtype, -0.01, 0.01)
        w_x = jax.random.normal(key_x, (x.shape[-1], hidden_size), param_dtype) * math.sqrt(2 / x.shape[-1])
        return OrthogonalParams(w_x, a, b)

    def weights(params: OrthogonalParams) -> GatedWeights:
        return GatedWeights(orthogonal_matrix(params.a), None, params.b if modrelu else ())

    def inverse(params: OrthogonalParams, carry: OrthogonalCarry, u: jax.Array) -> OrthogonalCarry:
        h, w_h = carry.h, orthogonal_matrix(params.a).astype(u.dtype)
        if activation == "tanh":
            h = jnp.arctanh(h)
        if modrelu:  # modrelu is not invertible where its output is zero
            h = h - jnp.sign(h) * expand_left(params.b.astype(u.dtype), h.ndim)
        before = (h - u) @ w_h.T
        # Refine once with the residual, since W_h is orthogonal only to rounding in the dtype of the params.
        return OrthogonalCarry(before + (h - u - before @ w_h) @ w_h.T)

    recurrence = Gated(
        activations=(activations[activation],),
        num_update=1,
        update=lambda b, state, z: (_mod_relu(z, b) if modrelu else z,),
        weights=weights,
    )
    return Cell(
        init=init,
        initial_carry=zeros(OrthogonalCarry, hidden_size),
        recurrence=recurrence,
        project=Dense(lambda params: (params.w_x, None if modrelu else params.b)),
        inverse=inverse,
    )
