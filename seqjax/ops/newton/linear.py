r"""The linear part of a Newton iteration over time: the Jacobians of the steps and their linear recurrence.

One step maps the state s ``[S]`` of one example to the next state; s contains all leaves of the carry as one real
vector. The Jacobian A of a step has one of three forms. A parallel prefix over the pairs ``(A, b)`` solves the
recurrence :math:`\delta_t = A_t \delta_{t-1} + b_t` with depth 2 log2 T (Blelloch 1990). L is the number of leaves of a
`Gated` carry, and S = L H:

============ =========================== ============================== ===================
form         A                           work of the prefix, times 2T B memory, times T B
============ =========================== ============================== ===================
"full"       ``[T, *B, S, S]``, exact    S^3                            S^2
"block"      ``[T, *B, H, L, L]``        H L^3                          H L^2
"diagonal"   ``[T, *B, S]``              S                              S
============ =========================== ============================== ===================

"block" and "diagonal" omit the derivatives between different units. They are exact if the recurrent weights are
diagonal and, for "diagonal", the carry has one leaf. Products of Jacobians of an expanding recurrence overflow; the
caller replaces the non-finite numbers.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqjax.base import Gated, GatedWeights, Us
from seqjax.compat import vary_like
from seqjax.ops.diagonal import associative
from seqjax.ops.elementwise import elementwise_jacobian
from seqjax.ops.gated.step import advance, arguments_of, gates_of, recurrent
from seqjax.ops.select import keep, select
from seqjax.ops.step import recurrent_product
from seqjax.ops.time_sharded.shards import Shards
from seqjax.ops.vectors import Coordinates

Form = Literal["full", "block", "diagonal"]


def largest_in_leaf(space: Coordinates, vector: Float[Array, "*TB S"]) -> Float[Array, "*TB S"]:
    """Return for each entry the largest finite magnitude in the entry's leaf, per example and step."""
    magnitude = jnp.abs(vector)
    magnitude = jnp.where(jnp.isfinite(magnitude), magnitude, jnp.zeros_like(magnitude))
    parts, start = [], 0
    for size in space.sizes:
        part, start = magnitude[..., start : start + size], start + size
        parts.append(jnp.broadcast_to(jnp.max(part, -1, keepdims=True, initial=0), part.shape))
    return jnp.concatenate(parts, -1)


# ---------------------------------------------------------------- Jacobians


def full_jacobian(
    step: Callable, space: Coordinates, entering: Float[Array, "T *B S"], us: Us
) -> Float[Array, "T *B S S"]:
    """Return the Jacobians of a step ``(carry, u) -> (carry, h)``, computed from S tangents each.

    Each example is differentiated separately (with batch axes of size 1). If the step multiplies the carry itself by
    the weights, JAX then multiplies the tangents by the weights once for all examples and steps.
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


def diagonal_jacobian(
    step: Callable, space: Coordinates, entering: Float[Array, "T *B S"], us: Us
) -> Float[Array, "T *B S"]:
    """Return the diagonals of the Jacobians, computed from S tangents in sequence with T B S numbers of memory."""

    def steps(s: jax.Array) -> jax.Array:
        return space.vector(jax.vmap(step)(space.tree(s), us)[0])

    tangent_of = jax.linearize(steps, entering)[1]
    size = entering.shape[-1]

    def entry(i: jax.Array) -> jax.Array:
        unit = (jnp.arange(size) == i).astype(entering.dtype)
        tangent = tangent_of(jnp.broadcast_to(unit, entering.shape))
        return jax.lax.dynamic_index_in_dim(tangent, i, -1, keepdims=False)

    return jnp.moveaxis(jax.lax.map(entry, jnp.arange(size)), 0, -1)


def gated_blocks(cell: Gated, weights: GatedWeights, leaves: tuple, u: Float[Array, "T *B GH"]) -> list[list]:
    """Return ``d leaf_j / d leaf_i`` of the same unit as ``[j][i]``, from elementwise partial derivatives.

    An entry is None if leaf j does not depend on leaf i.

    Shapes: leaves ``(*state, h)`` ``[T, *B, H]``; u ``[T, *B, G*H]``; entries ``[T, *B, H]``.
    """
    own, product = _own_weights(cell, weights.w_h, leaves[-1].shape[-1]), recurrent(cell, weights, leaves[-1])

    def step(*leaves_now: jax.Array) -> tuple:
        r = product + recurrent_product(leaves_now[-1] - leaves[-1], own, len(cell.activations))
        return advance(cell, weights, leaves_now, *arguments_of(cell, gates_of(cell, u, r)))

    return elementwise_jacobian(step, leaves)


def _own_weights(cell: Gated, w_h: Float[Array, "..."], size: int) -> Float[Array, "G H"]:
    """Return the weights from each unit's output to the unit's own gates."""
    num_gates = len(cell.activations)
    if w_h.ndim == 4:
        return jnp.moveaxis(jnp.diagonal(w_h, axis1=1, axis2=3), 1, 0).reshape(num_gates, size)
    if w_h.shape == (size, num_gates * size):
        return jnp.diagonal(w_h.reshape(size, num_gates, size), axis1=0, axis2=2)
    return w_h


def gated_jacobian(
    form: Form,
    cell: Gated,
    weights: GatedWeights,
    space: Coordinates,
    entering: Float[Array, "T *B S"],
    u: Float[Array, "T *B GH"],
) -> Float[Array, "T ..."]:
    """Return the Jacobians of a `Gated` step in "block" or "diagonal" form."""
    leaves = tuple(jax.tree.leaves(space.tree(entering)))
    rows = gated_blocks(cell, weights, leaves, u)
    filled = [[jnp.zeros_like(leaves[0]) if p is None else p for p in row] for row in rows]
    if form == "block":
        blocks = jnp.stack([jnp.stack(row, -1) for row in filled], -2)
    else:
        blocks = jnp.concatenate([row[j] for j, row in enumerate(filled)], -1)
    return blocks.astype(space.dtype)


# ---------------------------------------------------------------- linear recurrences


def masked(form: Form, a: Float[Array, "T ..."], mask: Bool[Array, "T *B"] | None) -> Float[Array, "T ..."]:
    """Replace the Jacobians of masked steps by the identity."""
    if mask is None:
        return a
    one = jnp.ones_like(a)
    if form != "diagonal":
        one = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
    return select(mask, a, one)


def transposed(form: Form, a: Float[Array, "T ..."]) -> Float[Array, "T ..."]:
    """Transpose every Jacobian."""
    return a if form == "diagonal" else jnp.swapaxes(a, -1, -2)


def apply(form: Form, a: Float[Array, "T ..."], b: Float[Array, "T *B S"]) -> Float[Array, "T *B S"]:
    """Multiply every Jacobian by its vector."""
    if form == "diagonal":
        return a * b
    return _merge(form, _times(a, _split(form, a, b)))


def linear_recurrence(
    form: Form, a: Float[Array, "T ..."], b: Float[Array, "T *B S"], restart: Bool[Array, "T *B"] | None
) -> Float[Array, "T *B S"]:
    """Solve ``delta_t = A_t delta_{t-1} + b_t`` from ``delta_{-1} = 0``; a restart selects ``b_t`` alone."""
    if form == "diagonal":
        return associative(a, b, restart)
    return _merge(form, jax.lax.associative_scan(_combine, (a, _split(form, a, b), restart))[1])


def linear_entering(
    form: Form,
    a: Float[Array, "T ..."],
    b: Float[Array, "T *B S"],
    restart: Bool[Array, "T *B"] | None,
    shards: Shards | None,
) -> Float[Array, "T *B S"]:
    """Return the solution of `linear_recurrence` before each step, which is zero before the first step.

    With shards, each device has one shard of the steps, and the earlier shards determine the value that enters it.
    """
    if shards is not None:
        return _entering_shard(form, a, b, restart, shards)
    delta = linear_recurrence(form, a, b, restart)
    return jnp.concatenate([jnp.zeros_like(delta[:1]), delta[:-1]])


def _entering_shard(
    form: Form,
    a: Float[Array, "T ..."],
    b: Float[Array, "T *B S"],
    restart: Bool[Array, "T *B"] | None,
    shards: Shards,
) -> Float[Array, "T *B S"]:
    """Compute `linear_entering` from this device's steps and, by one all-gather, the affine maps of all shards."""
    batch_ndim = b.ndim - 2
    if restart is None:
        restart = jnp.zeros(b.shape[:-1], bool)
    restart = shards.varying(restart)
    if form == "diagonal":
        a = a[..., None, None]
    split = b[..., None] if form == "diagonal" else _split(form, a, b)
    products, delta, cut = jax.lax.associative_scan(_combine, (a, split, restart))
    maps = shards.all_gather(jax.tree.map(lambda x: x[-1], (products, delta, cut)), batch_ndim)

    def advance_shard(delta: jax.Array, shard: Any) -> tuple[jax.Array, jax.Array]:
        return _combine((None, delta, None), shard)[1], delta

    first = vary_like(jnp.zeros_like(delta[0]), maps)
    before = jax.lax.scan(advance_shard, first, maps)[1][shards.position()]
    delta = delta + keep(~cut, _times(products, jnp.broadcast_to(before, delta.shape)))
    before = jnp.concatenate([before[None], delta[:-1]])
    return before[..., 0] if form == "diagonal" else _merge(form, before)


def _combine(left: Any, right: Any) -> Any:
    """Compose two affine maps. If product and cut of the left map are None, those of the result are None too."""
    (a_l, b_l, cut_l), (a_r, b_r, cut_r) = left, right
    carried = _times(a_r, b_l)
    product = None if a_l is None else jnp.matmul(a_r, a_l, precision="highest")
    if cut_r is None:
        return product, b_r + carried, None
    if product is not None:
        product = select(cut_r, a_r, product)
    return product, b_r + keep(~cut_r, carried), None if cut_l is None else cut_l | cut_r


def _times(a: Float[Array, "*N I J"], b: Float[Array, "*N J"]) -> Float[Array, "*N I"]:
    return jnp.einsum("...ij,...j->...i", a, b, precision="highest")


def _split(form: Form, a: jax.Array, b: jax.Array) -> jax.Array:
    """Reshape ``[..., L*H]`` to ``[..., H, L]`` for the "block" form."""
    return jnp.swapaxes(b.reshape(*b.shape[:-1], a.shape[-1], a.shape[-3]), -1, -2) if form == "block" else b


def _merge(form: Form, b: jax.Array) -> jax.Array:
    """Invert `_split`."""
    if form != "block":
        return b
    return jnp.swapaxes(b, -1, -2).reshape(*b.shape[:-2], b.shape[-1] * b.shape[-2])
