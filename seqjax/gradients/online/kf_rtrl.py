"""Kronecker-factored real-time recurrent learning."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.base import Carry, Cell, Estimator, Flags, GatedWeights, Layer, Params, X
from seqjax.combinators import serial
from seqjax.gradients.online.layerwise import Trace, layerwise
from seqjax.gradients.online.trace_gated import Weights, is_gated, weights_of
from seqjax.gradients.recurrent_layers import cell_of
from seqjax.jaxprs import depends
from seqjax.methods.common import at_step
from seqjax.ops.select import cast, wide
from seqjax.ops.step import gated_step, recurrent_product
from seqjax.values import definition, origin


@definition
def kf_rtrl() -> Estimator:
    r"""KF-RTRL: the influence of the weights of a product, approximated by one Kronecker product; unbiased.

    For :math:`z_t = \hat h_t W`, :math:`\hat h_t = (x_t, h_{t-1}, 1)`, the step adds :math:`\hat h_t \otimes D_t` to
    the influence, where :math:`D_t = \partial s_t / \partial z_t`. The estimator replaces the sum of two Kronecker
    products by one product with the same expectation: with independent random signs :math:`c_1, c_2`,

    .. math::
        M_t &= u_t \otimes A_t, \qquad
        u_t = c_1 p_1 u_{t-1} + c_2 p_2 \hat h_t, \qquad
        A_t = \frac{c_1}{p_1} J_t A_{t-1} + \frac{c_2}{p_2} D_t \\
        p_1 &= \sqrt{\lVert J_t A_{t-1} \rVert / \lVert u_{t-1} \rVert}, \qquad
        p_2 = \sqrt{\lVert D_t \rVert / \lVert \hat h_t \rVert}

    The gradient of step t, :math:`\partial \ell_t / \partial w + (\partial \ell_t / \partial s_{t-1}) M_{t-1}`, is
    exact except for M. Time per step is :math:`O(n G H \cdot n)`, memory :math:`O(n G H)` per example, for n numbers of
    the carry: the memory of real-time recurrent learning divided by the width of :math:`\hat h`. The variance is far
    below that of `uoro`.

    The estimator supports `Gated` cells with a `Dense` projection, the only kind where all large weights enter by
    products. Where a gate is split (a GRU's candidate) each of the two products has its own Kronecker product. The
    influence of elementwise weights (peepholes) is exact and has the size of one more gate. Blocks and diagonals of w_h
    are extracted from the estimate for a dense matrix, and weights that are functions of other weights
    (`orthogonal_rnn`) are pulled back; both operations preserve the expectation. In a `serial`, layers without carry
    may follow the recurrent layer.

    Each chunk needs a fresh key, or one key per step, and so does each device inside ``jax.shard_map``; otherwise the
    signs would be correlated.

    Raises:
        TypeError: for other models: another kind of cell, several recurrent layers, params before the recurrent layer,
            or a learned initial carry.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, batch = sj.recurrent(sj.lstm(2)), sj.Batch(jnp.ones((6, 1, 3)), jnp.zeros((6, 1, 2)))
        >>> params = layer.init(jax.random.key(0), batch.xs[0])
        >>> init, update = sj.kf_rtrl().bind(layer, lambda ys, targets: jnp.sum((ys - targets) ** 2, -1))
        >>> carry = layer.initial_carry(params, batch.xs[0])
        >>> state = init(params, carry, batch.xs[0])
        >>> estimate, carry, state = update(params, carry, state, batch, key=jax.random.key(1))
        >>> estimate.gradients.w_h.shape
        (2, 8)

    References:
        Mujika, Meier, Steger 2018, "Approximating real-time recurrent learning with random Kronecker factors",
        arXiv:1805.10842.
    """
    return layerwise("kf_rtrl()", _trace, check=_check, draws=True)


def _trace(cell: Cell) -> Trace:
    """Return a trace of pairs ``(u [B, I], A [B, n, Z])``, one per product, and of elementwise influences.

    Elementwise weights have an influence ``[B, n, size]``.
    """
    if not is_gated(cell):
        raise TypeError(
            f"kf_rtrl(): expected a Gated cell with a Dense projection, whose weights enter by products, got {cell!r}. "
            "Use uoro or snap, which support any cell."
        )
    recurrence: Any = cell.recurrence
    weights, num_gates, split = weights_of(cell), len(recurrence.activations), bool(recurrence.split)

    def zero(params: Params, carry: Carry) -> Any:
        w, leaves = jax.eval_shape(weights, params), jax.tree.leaves(carry)
        h = leaves[-1]
        dtype, n, z = wide(h.dtype), sum(leaf.shape[-1] for leaf in leaves), num_gates * h.shape[-1]
        x = jax.ShapeDtypeStruct((len(h), w.w_x.shape[0]), dtype)
        products = [
            (jnp.zeros(a.shape, dtype), jnp.zeros((len(h), n, z), dtype))
            for a in jax.eval_shape(lambda x, h: _inputs_of(w, x, h, split), x, h)
        ]
        return products, jax.tree.map(lambda a: jnp.zeros((len(h), n, a.size), dtype), w.recurrent.w)

    def read(w: Weights, trace: Any, delta: Any) -> Weights:
        return _gradients(w, trace, delta, num_gates, split)

    def step(params: Params, carry: Carry, x: X, key: Any) -> Any:
        return at_step(cell, params, carry, x, Flags(key=key))

    def advance(params: Params, carry: Carry, trace: Any, x: X, key: Any) -> Any:
        products, elementwise = trace
        w = weights(params)
        used = GatedWeights(*cast(tuple(w.recurrent), x.dtype))
        leaves, form = jax.tree.flatten(carry)
        sizes = [leaf.shape[-1] for leaf in leaves]

        def tree_of(s: jax.Array) -> Any:
            pieces = jnp.split(s, [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)], -1)
            return jax.tree.unflatten(
                form, [p.astype(leaf.dtype) for p, leaf in zip(pieces, leaves, strict=True)]
            )

        def after(s: jax.Array, u: jax.Array, r: jax.Array, own: Any) -> jax.Array:
            with_own = used._replace(w=own)
            stepped = gated_step(recurrence, with_own, tree_of(s), u, on_r=lambda product: product + r)
            return jnp.concatenate(jax.tree.leaves(stepped[0]), -1).astype(s.dtype)

        s = jnp.concatenate(leaves, -1).astype(products[0][0].dtype)
        u = cell.project(params, x)
        nothing = jnp.zeros_like(u)

        def along(columns: Float[Array, "B n Z"]) -> Float[Array, "B n Z"]:
            """Return J times columns ``[B, n, Z]``."""
            through = lambda v: jax.jvp(lambda s: after(s, u, nothing, used.w), (s,), (v,))[1]  # noqa: E731
            return jax.vmap(through, 2, 2)(columns)

        adding = [_slopes(lambda u: after(s, u, nothing, used.w), u)]
        if split:
            adding.append(_slopes(lambda r: after(s, u, r, used.w), nothing))
        factors = zip(products, _inputs_of(w, x, leaves[-1], split), adding, strict=True)
        own_key = jax.random.fold_in(key, 0x4B46)  # apart from the noise of the layer
        keys = jax.random.split(own_key, len(products))
        products = [
            _join(k, v, along(a), inputs.astype(v.dtype), d.astype(v.dtype))
            for k, ((v, a), inputs, d) in zip(keys, factors, strict=True)
        ]
        parts, own_form = jax.tree.flatten(used.w)
        influences = []
        for i, (part, m) in enumerate(zip(parts, jax.tree.leaves(elementwise), strict=True)):

            def of_part(p: jax.Array, i: int = i) -> jax.Array:
                own = jax.tree.unflatten(own_form, [p if i == k else other for k, other in enumerate(parts)])
                return after(s, u, nothing, own)

            entering = jax.jacfwd(of_part)(part).reshape(*s.shape, part.size)
            influences.append(along(m) + entering.astype(m.dtype))
        return products, jax.tree.unflatten(own_form, influences)

    return Trace(zero, weights, read, step, advance)


def _inputs_of(w: Weights, x: Float[Array, "B D"], h: Float[Array, "B H"], split: bool) -> list[jax.Array]:
    """Return the input of each product, with a one appended where there is a bias."""
    one = jnp.ones((len(h), 1), h.dtype)
    u = [x, *([one] if w.b is not None else [])]
    r = [h, *([one] if w.recurrent.b_h is not None else [])]
    if split:
        return [jnp.concatenate(u, -1), jnp.concatenate(r, -1)]
    return [jnp.concatenate([x, h, *(u[1:] or r[1:])], -1)]


def _slopes(fn: Callable, at: Float[Array, "B Z"]) -> Float[Array, "B n Z"]:
    """Return the derivatives ``[B, n, Z]`` of ``fn: [B, Z] -> [B, n]``, which acts on each example by itself."""
    basis = jnp.broadcast_to(jnp.eye(at.shape[-1], dtype=at.dtype)[:, None], (at.shape[-1], *at.shape))
    return jax.vmap(lambda v: jax.jvp(fn, (at,), (v,))[1], 0, 2)(basis)


def _gradients(w: Weights, trace: Any, delta: Any, num_gates: int, split: bool) -> Weights:
    """Return the gradients of the weights from the trace, for the gradient delta of the carry."""
    products, elementwise = trace
    by_s = jnp.concatenate(jax.tree.leaves(delta), -1).astype(products[0][0].dtype)
    dense = [jnp.einsum("bi,bn,bnz->iz", u, by_s, a) for u, a in products]
    width, size = w.w_x.shape[0], w.w_x.shape[1] // num_gates
    w_h = dense[-1][0 if split else width :][:size]
    _, pull = jax.vjp(
        lambda a: recurrent_product(jnp.eye(size, dtype=a.dtype), a, num_gates), w.recurrent.w_h
    )
    own = jax.tree.map(
        lambda m, a: jnp.einsum("bn,bnp->p", by_s, m).reshape(a.shape), elementwise, w.recurrent.w
    )
    b = None if w.b is None else dense[0][-1]
    b_h = None if w.recurrent.b_h is None else dense[-1][-1]
    return Weights(dense[0][:width], b, GatedWeights(pull(w_h.astype(w.recurrent.w_h.dtype))[0], b_h, own))


def _join(
    key: jax.Array,
    u: Float[Array, "B I"],
    a: Float[Array, "B n Z"],
    v: Float[Array, "B I"],
    d: Float[Array, "B n Z"],
) -> tuple[Float[Array, "B I"], Float[Array, "B n Z"]]:
    """Return ``[B, I], [B, n, Z]`` whose product equals that of (u, a) plus that of (v, d) in expectation."""
    signs = jax.random.rademacher(key, (2, len(u)), u.dtype)
    joined = [jnp.zeros_like(v), jnp.zeros_like(d)]
    for sign, left, right in zip(signs, (u, v), (a, d), strict=True):
        sizes = _norm(left), _norm(right)
        there = (sizes[0] > 0) & (sizes[1] > 0)
        p = sign * jnp.sqrt(jnp.where(there, sizes[1], 1) / jnp.where(there, sizes[0], 1))
        joined[0] += jnp.where(there[:, None], p[:, None] * left, 0)
        joined[1] += jnp.where(there[:, None, None], right / p[:, None, None], 0)
    return joined[0], joined[1]


def _norm(a: Float[Array, "B ..."]) -> Float[Array, " B"]:
    return jnp.sqrt(jnp.sum(jnp.square(a), tuple(range(1, a.ndim))))


def _check(layer: Layer, params: Params, carry: Carry, x: X) -> None:
    """Raise a TypeError unless the params of one recurrent layer, and no earlier params, reach its carry."""
    parts, part_params, part_carries = _parts(layer, params, carry)
    recurrent = [i for i, part in enumerate(parts) if cell_of(part) is not None]
    carrying = [i for i, part in enumerate(part_carries) if jax.tree.leaves(part)]
    what = "recurrent(cell), or serial(..., recurrent(cell), ...) with no other carries and no earlier params"
    if len(recurrent) != 1 or carrying != recurrent or jax.tree.leaves(part_params[: recurrent[0]]):
        raise TypeError(
            f"kf_rtrl(): expected {what}, got {layer!r}. Use uoro or snap, which support any layer."
        )
    cell: Any = cell_of(parts[recurrent[0]])
    if any(map(any, depends(lambda p: parts[recurrent[0]].initial_carry(p, x), part_params[recurrent[0]]))):
        raise TypeError(
            f"kf_rtrl(): expected an initial carry without params, got {cell!r}. Use uoro or rtrl."
        )


def _parts(layer: Layer, params: Params, carry: Carry) -> tuple[list, list, list]:
    made = origin(layer)
    if made is None or made[0] is not serial:
        return [layer], [params], [carry]
    found: tuple[list, list, list] = ([], [], [])
    for part in zip(made[1]["layers"], params, carry, strict=True):
        for all_, some in zip(found, _parts(*part), strict=True):
            all_ += some
    return found
