"""Simple recurrent unit."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Cell, Diagonal, DiagonalInputs, Recurrence, Step
from seqjax.cells.common.initialize import zero_carry
from seqjax.cells.common.labels import elementwise
from seqjax.checks import check_whole
from seqjax.ops.select import wide
from seqjax.ops.step import expand_left
from seqjax.values import definition


@elementwise("b", "v")
class SRUParams(NamedTuple):
    """w_x ``[D, 3H]``, b ``[2H]``; v ``[2H]`` or None; w_skip ``[D, H]`` or None; columns in the order f, r, c."""

    w_x: jax.Array
    b: jax.Array
    v: jax.Array | None
    w_skip: jax.Array | None


@definition
def sru(
    hidden_size: int, *, peepholes: bool = False, highway_bias: float = 0.0, param_dtype: Any = jnp.float32
) -> Cell:
    r"""Simple recurrent unit: a light recurrence with a forget gate and a highway connection.

    .. math::
        f_t &= \sigma(x_t W_f + v_f \odot c_{t-1} + b_f), \qquad r_t = \sigma(x_t W_r + v_r \odot c_{t-1} + b_r) \\
        c_t &= f_t \odot c_{t-1} + (1 - f_t) \odot (x_t W_c) \\
        h_t &= r_t \odot c_t + (1 - r_t) \odot \alpha x_t

    Without peepholes v is zero and the recurrence is linear (`Diagonal`), as in the first version of the paper (the
    activation of c in that version is omitted, as in the last version). With peepholes the gates read the carry, as in
    the last version; the recurrence is nonlinear and runs step by step (`Step`).

    Shapes: x ``[*B, D]`` -> h ``[*B, H]``; carry c ``[*B, H]``, float32 at least without peepholes, in the inputs'
    dtype with them; params `SRUParams`. Where D differs from H, the highway passes ``x @ w_skip``.

    Initialization: weights uniform within :math:`\sqrt{3/D}`; b_r is highway_bias and
    :math:`\alpha = \sqrt{1 + 2 e^{b_r}}`, a constant, which preserves variances through a stack; b_f zero; v uniform
    within :math:`\sqrt{3/H}` (the paper does not state this).

    Gradients: without peepholes :math:`\partial c_T / \partial c_t = \prod f_s` over the steps between, in (0, 1), and
    1/2 per step at initialization. With peepholes it is :math:`f + (c - x W_c) f (1 - f) v_f` per step. The highway
    passes gradients down a stack without the recurrence.

    Args:
        hidden_size: H.
        peepholes: whether the gates read the carry, through v.
        highway_bias: initial bias of r; a negative bias passes more of x.
        param_dtype: dtype of the params.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.sru(3).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> jax.tree.map(jnp.shape, params)
        SRUParams(w_x=(2, 9), b=(6,), v=None, w_skip=(2, 3))

    References:
        Lei, Zhang, Wang, Dai, Artzi 2018, "Simple recurrent units for highly parallelizable recurrence",
        arXiv:1709.02755: the unnumbered equations of section 3 (light recurrence, highway network) and section 3.2
        (initialization); version 1, section 2, for the form without v.
    """
    check_whole("sru(hidden_size)", hidden_size)
    alpha = math.sqrt(1 + 2 * math.exp(highway_bias))

    def init(key: jax.Array, x: jax.Array) -> SRUParams:
        keys = jax.random.split(key, 3)
        width = x.shape[-1]

        def uniform(key: jax.Array, inputs: int, *shape: int) -> jax.Array:
            bound = math.sqrt(3 / inputs)
            return jax.random.uniform(key, shape, param_dtype, -bound, bound)

        b = jnp.zeros((2, hidden_size), param_dtype).at[1].set(highway_bias)
        return SRUParams(
            uniform(keys[0], width, width, 3 * hidden_size),
            b.reshape(2 * hidden_size),
            uniform(keys[1], hidden_size, 2 * hidden_size) if peepholes else None,
            uniform(keys[2], width, width, hidden_size) if width != hidden_size else None,
        )

    def skip(params: SRUParams, xs: jax.Array) -> jax.Array:
        return alpha * (xs if params.w_skip is None else affine(xs, params.w_skip))

    def columns(params: SRUParams, xs: jax.Array, gate: int) -> jax.Array:
        """Return the pre-activations of one gate, or of the candidate."""
        at = slice(gate * hidden_size, (gate + 1) * hidden_size)
        return affine(xs, params.w_x[:, at], params.b[at] if gate < 2 else None)

    def project(params: SRUParams, xs: jax.Array, key: Any = None) -> DiagonalInputs:
        f, candidate = (columns(params, xs, gate).astype(wide(xs.dtype)) for gate in (0, 2))
        return DiagonalInputs(jax.nn.sigmoid(f), jax.nn.sigmoid(-f) * candidate)

    def readout(params: SRUParams, cs: jax.Array, xs: jax.Array) -> jax.Array:
        r = columns(params, xs, 1).astype(cs.dtype)
        highway = skip(params, xs).astype(cs.dtype)
        return (jax.nn.sigmoid(r) * cs + jax.nn.sigmoid(-r) * highway).astype(xs.dtype)

    def project_all(params: SRUParams, xs: jax.Array, key: Any = None) -> tuple[jax.Array, ...]:
        return *(columns(params, xs, gate) for gate in range(3)), skip(params, xs)

    def with_peepholes(params: Any, c: jax.Array, u: Any) -> tuple[jax.Array, jax.Array]:
        u_f, u_r, candidate, highway = u
        v_f, v_r = jnp.split(expand_left(params.v, c.ndim), 2, -1)
        f, r = u_f + v_f * c, u_r + v_r * c
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(-f) * candidate
        return c, jax.nn.sigmoid(r) * c + jax.nn.sigmoid(-r) * highway

    recurrence: Recurrence = Step(with_peepholes) if peepholes else Diagonal()
    views: dict[str, Any] = {"project": project, "readout": readout}
    if peepholes:
        views = {"project": project_all}

    def initial_carry(params: Any, x: jax.Array) -> jax.Array:
        return zero_carry(x, hidden_size, x.dtype if peepholes else wide(x.dtype))

    return Cell(init=init, initial_carry=initial_carry, recurrence=recurrence, **views)
