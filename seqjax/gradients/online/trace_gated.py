r"""Traces of `Gated` cells: every weight acts on one unit, so its influence has one number per state of the unit.

With the recurrent product held constant, the step of unit j depends on the states of unit j alone. The influence of a
weight into unit j then has n numbers, one per state, instead of n H. The memory per example is n copies of the weights.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.base import Carry, Cell, Dense, Gated, GatedWeights, Params, X
from seqjax.gradients.online.layerwise import Trace
from seqjax.ops.gated.step import arguments_of, elementwise_weights, gates_of, recurrent
from seqjax.ops.select import cast, wide


class Weights(NamedTuple):
    """The weights of a `Gated` cell with a `Dense` projection."""

    w_x: Any
    b: Any
    recurrent: GatedWeights


def weights_of(cell: Cell) -> Any:
    """Return the function ``params -> Weights``."""
    project: Any = cell.project
    recurrence: Any = cell.recurrence

    def weights(params: Params) -> Weights:
        w_x, b = project.weights(params)
        return Weights(w_x, b, GatedWeights(*recurrence.weights(params)))

    return weights


def is_gated(cell: Cell) -> bool:
    """Return whether all weights of the recurrence enter by products or elementwise."""
    return isinstance(cell.recurrence, Gated) and isinstance(cell.project, Dense)


def kept_step(
    cell: Gated, weights: GatedWeights, leaves: tuple, u: Float[Array, "B GH"], *, cross: bool, on_r: Any = 0
) -> tuple:
    """Return the leaves of the carry after a step; their derivatives by the earlier leaves stay inside each unit.

    The recurrent product reads a constant h, unless it is diagonal and stays inside the unit.

    Args:
        cell: the recurrence.
        weights: the weights, in the dtype of u.
        leaves: leaves of the carry before the step.
        u: ``[B, G*H]``.
        cross: whether a state of a unit depends on the other states of the unit, or on itself alone.
        on_r: added to r.
    """
    hold = jax.lax.stop_gradient
    h = leaves[-1] if _is_diagonal(cell, weights, leaves[-1]) else hold(leaves[-1])
    update_gates, emit_gates = arguments_of(cell, gates_of(cell, u, recurrent(cell, weights, h) + on_r))
    w = elementwise_weights(weights, u.ndim)
    state = leaves if cell.emit is None else leaves[:-1]
    if cross:
        after = tuple(cell.update(w, state, *update_gates))
    else:
        alone = [tuple(s if i == k else hold(s) for i, s in enumerate(state)) for k in range(len(state))]
        after = tuple(cell.update(w, only, *update_gates)[k] for k, only in enumerate(alone))
    return after if cell.emit is None else (*after, cell.emit(w, after, *emit_gates))


def gated_trace(cell: Cell, *, cross: bool) -> Trace:
    """Return the trace of a `Gated` cell, one array ``[B, n, M, H]``: n states, M weights into each of H units."""
    recurrence: Any = cell.recurrence
    num_gates, weights = len(recurrence.activations), weights_of(cell)

    def num_states(w: Weights, leaves: Any) -> int:
        """Drop the leaf h if later steps read it only as a constant."""
        emitted = recurrence.emit is not None and not _is_diagonal(recurrence, w.recurrent, leaves[-1])
        return len(leaves) - emitted

    def zero(params: Params, carry: Carry) -> jax.Array:
        leaves = jax.tree.leaves(carry)
        h = leaves[-1]
        w = jax.eval_shape(weights, params)
        rows = sum(leaf.size for leaf in jax.tree.leaves(w)) // h.shape[-1]
        return jnp.zeros((len(h), num_states(w, leaves), rows, h.shape[-1]), wide(h.dtype))

    def read(w: Weights, trace: jax.Array, delta: Any) -> Weights:
        by_state = jnp.stack(jax.tree.leaves(delta)[: trace.shape[1]]).astype(trace.dtype)
        return _from_rows(jnp.einsum("nbh,bnmh->mh", by_state, trace), w)

    def step(params: Params, carry: Carry, x: X, key: Any) -> Any:
        leaves, form = jax.tree.flatten(carry)
        w = GatedWeights(*cast(tuple(weights(params).recurrent), x.dtype))
        after = kept_step(recurrence, w, tuple(leaves), cell.project(params, x), cross=cross)
        return jax.tree.unflatten(form, after), cell.readout(params, after[-1], x)

    def advance(
        params: Params, carry: Carry, trace: Float[Array, "B n M H"], x: X, key: Any
    ) -> Float[Array, "B n M H"]:
        leaves = tuple(jax.tree.leaves(carry))
        w = weights(params)
        used = GatedWeights(*cast(tuple(w.recurrent), x.dtype))
        u = cell.project(params, x)
        n, h = trace.shape[1], leaves[-1]

        def after(leaves: tuple, u: jax.Array, r: jax.Array, elementwise: Any) -> jax.Array:
            out = kept_step(recurrence, used._replace(w=elementwise), leaves, u, cross=cross, on_r=r)
            return jnp.stack(out[:n], 1)

        zero_r = jnp.zeros_like(u)
        # Every argument acts elementwise, so one tangent of ones gives the slopes of all units.
        ones = [tuple(jnp.full_like(s, i == k) for i, s in enumerate(leaves)) for k in range(n)]
        slopes = [jax.jvp(lambda s: after(s, u, zero_r, used.w), (leaves,), (one,))[1] for one in ones]
        through = jnp.stack(slopes, 2)
        gate = jnp.repeat(jnp.eye(num_gates, dtype=u.dtype), h.shape[-1], axis=1)

        def by_gate(fn: Callable, at: jax.Array) -> jax.Array:
            tangents = jnp.broadcast_to(gate[:, None], (num_gates, *at.shape))
            return jax.vmap(lambda v: jax.jvp(fn, (at,), (v,))[1], out_axes=2)(tangents)

        by_u = by_gate(lambda u: after(leaves, u, zero_r, used.w), u)
        by_r = by_gate(lambda r: after(leaves, u, r, used.w), zero_r) if recurrence.split else by_u
        entering = [_rows(x, w.w_x, by_u), _rows(None, w.b, by_u)]
        entering += [_rows(h, w.recurrent.w_h, by_r), _rows(None, w.recurrent.b_h, by_r)]
        parts, form = jax.tree.flatten(used.w)
        for i in range(len(parts)):
            one = jax.tree.unflatten(form, [jnp.full_like(p, i == k) for k, p in enumerate(parts)])
            slope = jax.jvp(lambda e: after(leaves, u, zero_r, e), (used.w,), (one,))[1]
            entering.append(slope[:, :, None])
        new = jnp.concatenate([rows for rows in entering if rows is not None], 2).astype(trace.dtype)
        return jnp.einsum("bknh,bnmh->bkmh", through.astype(trace.dtype), trace) + new

    return Trace(zero, weights, read, step, advance)


def _is_diagonal(cell: Gated, weights: GatedWeights, h: Float[Array, "*B H"]) -> bool:
    """Return whether w_h is diagonal, ``[G, H]``: neither blocks nor ``[H, G*H]``."""
    size = h.shape[-1]
    return weights.w_h.ndim == 2 and weights.w_h.shape != (size, len(cell.activations) * size)


def _rows(inputs: Any, weight: Any, slopes: Float[Array, "B n G H"]) -> Any:
    """Return what a step adds to the influence ``[B, n, M, H]`` of a weight, for inputs and slopes ``[B, n, G, H]``."""
    if weight is None:
        return None
    batch, n, num_gates, size = slopes.shape
    if inputs is None:  # a bias
        return slopes
    if weight.ndim == 4:
        blocks = slopes.reshape(batch, n, num_gates, weight.shape[0], -1)
        heads = inputs.reshape(batch, *weight.shape[:2])
        return jnp.einsum("bcd,bngce->bndgce", heads, blocks).reshape(batch, n, -1, size)
    if weight.shape == (inputs.shape[-1], num_gates * size):
        return jnp.einsum("bi,bngh->bnigh", inputs, slopes).reshape(batch, n, -1, size)
    return inputs[:, None, None] * slopes


def _from_rows(rows: Float[Array, "M H"], weights: Weights) -> Weights:
    """Invert the layout of all weights as rows ``[M, H]``, where column j holds the weights into unit j."""
    leaves, form = jax.tree.flatten(weights)
    found, start = [], 0
    for leaf in leaves:
        end = start + leaf.size // rows.shape[-1]
        part, start = rows[start:end], end
        if leaf.ndim == 4:
            heads, width, num_gates, _ = leaf.shape
            part = part.reshape(width, num_gates, heads, -1).transpose(2, 0, 1, 3)
        found.append(part.reshape(leaf.shape))
    return jax.tree.unflatten(form, found)
