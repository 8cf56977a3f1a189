r"""The linear part of a Newton iteration over time: Jacobians of a step, and the recurrence that they make.

One step maps the state s ``[S]`` of one example, all leaves of its carry in one real vector, to the next. Its Jacobian
comes in three forms, and so does :math:`\delta_t = A_t \delta_{t-1} + b_t`, which a parallel prefix over the pairs
``(A, b)`` solves (Blelloch 1990), of depth 2 log2 T; L is the number of leaves of a `Gated` carry, S = L H:

============ =========================== ============================== ===================
form         A                           work of the prefix, times 2T B memory, times T B
============ =========================== ============================== ===================
"full"       ``[T, *B, S, S]``, exact    S^3                            S^2
"block"      ``[T, *B, H, L, L]``        H L^3                          H L^2
"diagonal"   ``[T, *B, S]``              S                              S
============ =========================== ============================== ===================

"block" and "diagonal" leave out how one unit acts on another: they are exact where the recurrent weights are diagonal
(and, for "diagonal", there is one leaf).
Products of Jacobians of an expanding recurrence overflow; what is not finite is for the caller to repair.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from seqjax.base import Gated, GatedWeights
from seqjax.compat import vary_like
from seqjax.ops.diagonal import associative
from seqjax.ops.elementwise import elementwise_jacobian
from seqjax.ops.gated.step import advance, arguments_of, gates_of, recurrent
from seqjax.ops.select import keep, select
from seqjax.ops.step import recurrent_product
from seqjax.ops.time_sharded.shards import Shards
from seqjax.ops.vectors import Coordinates

Form = Literal["full", "block", "diagonal"]


def largest_in_leaf(space: Coordinates, vector: jax.Array) -> jax.Array:
    """For each entry the largest finite magnitude in its leaf of the same example and step, ``[..., S]``."""
    magnitude = jnp.abs(vector)
    magnitude = jnp.where(jnp.isfinite(magnitude), magnitude, jnp.zeros_like(magnitude))
    parts, start = [], 0
    for size in space.sizes:
        part, start = magnitude[..., start : start + size], start + size
        parts.append(jnp.broadcast_to(jnp.max(part, -1, keepdims=True, initial=0), part.shape))
    return jnp.concatenate(parts, -1)


# ---------------------------------------------------------------- Jacobians


def full_jacobian(step: Callable, space: Coordinates, entering: jax.Array, us: Any) -> jax.Array:
    """Jacobians ``[T, *B, S, S]`` of a step ``(carry, u) -> (carry, h)``, by S tangents each.

    Each example is differentiated by itself (its batch axes are of size 1), so that products of tangents with weights
    are taken once for all examples and steps where the step applies the weights to the carry itself.
    """
    batch_ndim, size = space.batch_ndim, entering.shape[-1]
    batch = entering.shape[1 : 1 + batch_ndim]
    leaves, treedef = jax.tree.flatten(us)
    has_batch = [leaf.shape[1 : 1 + batch_ndim] == batch for leaf in leaves]

    def of_one(s: jax.Array, us: list) -> jax.Array:
        alone = [u[(None,) * batch_ndim] if has else u for u, has in zip(us, has_batch, strict=True)]
        carry = space.tree(s.reshape(*(1,) * batch_ndim, size))
        return space.vector(step(carry, jax.tree.unflatten(treedef, alone))[0]).reshape(size)

    jacobian = jax.jacfwd(of_one)
    for _ in range(batch_ndim):
        jacobian = jax.vmap(jacobian, (0, [0 if has else None for has in has_batch]))
    return jax.vmap(jacobian)(entering, leaves)


def diagonal_jacobian(step: Callable, space: Coordinates, entering: jax.Array, us: Any) -> jax.Array:
    """Their diagonals ``[T, *B, S]``, by S tangents one after another: T B S numbers at a time."""

    def steps(s: jax.Array) -> jax.Array:
        return space.vector(jax.vmap(step)(space.tree(s), us)[0])

    tangent_of = jax.linearize(steps, entering)[1]
    size = entering.shape[-1]

    def entry(i: jax.Array) -> jax.Array:
        unit = (jnp.arange(size) == i).astype(entering.dtype)
        tangent = tangent_of(
            jnp.broadcast_to(unit.reshape((1,) * (entering.ndim - 1) + (size,)), entering.shape)
        )
        return jax.lax.dynamic_index_in_dim(tangent, i, -1, keepdims=False)

    return jnp.moveaxis(jax.lax.map(entry, jnp.arange(size)), 0, -1)


def gated_blocks(cell: Gated, weights: GatedWeights, leaves: tuple, u: jax.Array) -> list[list]:
    """``d leaf_j / d leaf_i`` of the same unit, ``[j][i]``, from elementwise partials; None where there is none.

    Shapes: leaves ``(*state, h)`` ``[T, *B, H]``; u ``[T, *B, G*H]``; entries ``[T, *B, H]``.
    """
    own, product = _own_weights(cell, weights.w_h, leaves[-1].shape[-1]), recurrent(cell, weights, leaves[-1])

    def step(*leaves_now: jax.Array) -> tuple:
        r = product + recurrent_product(leaves_now[-1] - leaves[-1], own, len(cell.activations))
        return advance(cell, weights, leaves_now, *arguments_of(cell, gates_of(cell, u, r)))

    return elementwise_jacobian(step, leaves)


def _own_weights(cell: Gated, w_h: jax.Array, size: int) -> jax.Array:
    """``[G, H]``: how each unit's output acts on its own gates."""
    num_gates = len(cell.activations)
    if w_h.ndim == 4:
        return jnp.moveaxis(jnp.diagonal(w_h, axis1=1, axis2=3), 1, 0).reshape(num_gates, size)
    if w_h.shape == (size, num_gates * size):
        return jnp.diagonal(w_h.reshape(size, num_gates, size), axis1=0, axis2=2)
    return w_h


def gated_jacobian(
    form: Form, cell: Gated, weights: GatedWeights, space: Coordinates, entering: jax.Array, u: jax.Array
) -> jax.Array:
    """The "block" or "diagonal" form of a `Gated` step's Jacobians."""
    leaves = tuple(jax.tree.leaves(space.tree(entering)))
    rows = gated_blocks(cell, weights, leaves, u)
    filled = [[jnp.zeros_like(leaves[0]) if p is None else p for p in row] for row in rows]
    if form == "block":
        blocks = jnp.stack([jnp.stack(row, -1) for row in filled], -2)
    else:
        blocks = jnp.concatenate([row[j] for j, row in enumerate(filled)], -1)
    return blocks.astype(space.dtype)


# ---------------------------------------------------------------- linear recurrences in these forms


def masked(form: Form, a: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The identity where a step does not happen."""
    if mask is None:
        return a
    one = jnp.ones_like(a)
    if form != "diagonal":
        one = jnp.broadcast_to(
            jnp.eye(a.shape[-1], dtype=a.dtype).reshape((1,) * (a.ndim - 2) + a.shape[-2:]), a.shape
        )
    return select(mask, a, one)


def transposed(form: Form, a: jax.Array) -> jax.Array:
    """Of every Jacobian."""
    return a if form == "diagonal" else jnp.swapaxes(a, -1, -2)


def apply(form: Form, a: jax.Array, b: jax.Array) -> jax.Array:
    """Every Jacobian times its vector ``[T, *B, S]``."""
    if form == "diagonal":
        return a * b
    return _merge(form, _times(a, _split(form, a, b)))


def linear_recurrence(form: Form, a: jax.Array, b: jax.Array, restart: jax.Array | None) -> jax.Array:
    """All ``A_t delta_{t-1} + b_t`` from zero, ``[T, *B, S]``; where `restart`, ``b_t`` alone, by selection."""
    if form == "diagonal":
        return associative(a, b, restart)
    return _merge(form, jax.lax.associative_scan(_combine, (a, _split(form, a, b), restart))[1])


def linear_entering(
    form: Form, a: jax.Array, b: jax.Array, restart: jax.Array | None, shards: Shards | None
) -> jax.Array:
    """The solution of `linear_recurrence` before each step, zero before the first, ``[T, *B, S]``.

    With shards each device holds a part of the steps, and what enters its first one comes from the parts before.
    """
    if shards is not None:
        return _entering_part(form, a, b, restart, shards)
    delta = linear_recurrence(form, a, b, restart)
    return jnp.concatenate([jnp.zeros_like(delta[:1]), delta[:-1]])


def _entering_part(
    form: Form, a: jax.Array, b: jax.Array, restart: jax.Array | None, shards: Shards
) -> jax.Array:
    """The same from this device's steps and, by one gather, the affine maps of all parts."""
    batch_ndim = b.ndim - 2
    if restart is None:
        restart = jnp.zeros(b.shape[:-1], bool)
    restart = shards.varying(restart)
    if form == "diagonal":
        a = a[..., None, None]
    split = b[..., None] if form == "diagonal" else _split(form, a, b)
    products, delta, cut = jax.lax.associative_scan(_combine, (a, split, restart))
    maps = shards.gathered(jax.tree.map(lambda x: x[-1], (products, delta, cut)), batch_ndim)

    def onward(now: jax.Array, part: Any) -> tuple[jax.Array, jax.Array]:
        return _combine((None, now, None), part)[1], now

    first = vary_like(jnp.zeros_like(delta[0]), maps)
    before = jax.lax.scan(onward, first, maps)[1][shards.number()]
    delta = delta + keep(~cut, _times(products, jnp.broadcast_to(before, delta.shape)))
    before = jnp.concatenate([before[None], delta[:-1]])
    return before[..., 0] if form == "diagonal" else _merge(form, before)


def _combine(left: Any, right: Any) -> Any:
    """One affine map after another; of the left the product and the cut may be None, then so are the result's."""
    (a_l, b_l, cut_l), (a_r, b_r, cut_r) = left, right
    carried = _times(a_r, b_l)
    product = None if a_l is None else jnp.matmul(a_r, a_l, precision="highest")
    if cut_r is None:
        return product, b_r + carried, None
    if product is not None:
        product = select(cut_r, a_r, product)
    return product, b_r + keep(~cut_r, carried), None if cut_l is None else cut_l | cut_r


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum("...ij,...j->...i", a, b, precision="highest")


def _split(form: Form, a: jax.Array, b: jax.Array) -> jax.Array:
    """``[..., L*H]`` as ``[..., H, L]`` for blocks."""
    return jnp.swapaxes(b.reshape(*b.shape[:-1], a.shape[-1], a.shape[-3]), -1, -2) if form == "block" else b


def _merge(form: Form, b: jax.Array) -> jax.Array:
    if form != "block":
        return b
    return jnp.swapaxes(b, -1, -2).reshape(*b.shape[:-2], b.shape[-1] * b.shape[-2])
