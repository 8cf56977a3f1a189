r"""The `Gated` recurrence over whole sequences, with a backward pass that keeps its sequential part small.

Stock ``lax.scan`` adds up the weight gradients inside the backward loop: T small products, and under data
parallelism one all-reduce per time step. Here the backward pass goes chunk by chunk, from the last to the first:

1. the pre-activations of the whole chunk again, from the saved carries: one product;
2. the elementwise partial derivatives of `update` and `emit` for the whole chunk: one ``jvp`` per argument, only those
   that exist;
3. sequentially no more than the adjoint: with :math:`S_{ji} = \partial s_j / \partial s_i`,
   :math:`E_j = \partial h / \partial s_j` and the partials K by pre-activation,

   .. math::
       \delta h &\mathrel{+}= g_t, \quad \delta s_j \mathrel{+}= E_j \, \delta h, \quad
       \delta z = K \, (\delta s, \delta h) \\
       \delta s_i &\leftarrow \textstyle\sum_j S_{ji} \, \delta s_j, \quad \delta h \leftarrow \delta z W_h^\top

4. the gradients of the weights and of the inputs for the whole chunk: one product each.

Kept for the backward pass: inputs, states and outputs, (D + (n + 1) H) T B numbers; temporary memory is O(chunk).
Weight gradients add up in float32 at least.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Activation, Gated, GatedWeights
from seqjax.compat import vary_like
from seqjax.ops.chunks import over_chunks
from seqjax.ops.elementwise import elementwise_jacobian
from seqjax.ops.select import cast, keep, select, wide
from seqjax.ops.step import activate, expand_left, recurrent_product
from seqjax.ops.tap import norm


class Operands(NamedTuple):
    """All that a gated scan reads; leaves of carry and initial are ``(*state, h)``, or ``state`` without emit."""

    dense: tuple[Any, Any] | None  # (w_x, b) of the projection; None where xs are the projected inputs
    weights: GatedWeights
    carry: tuple
    initial: tuple
    xs: Any
    reset: Any
    mask: Any
    tap: Any


def gated(
    cell: Gated,
    weights: GatedWeights,
    dense: tuple[Any, Any] | None,
    carry: Any,
    xs: jax.Array,
    *,
    initial: Any,
    reset: jax.Array | None,
    mask: jax.Array | None,
    tap: Any,
    chunk: int | None,
) -> tuple[Any, jax.Array]:
    """``(carry, hs)`` of a `Gated` recurrence.

    Shapes: xs ``[T, *B, D]`` with dense weights ``(w_x [D, G*H], b [G*H])``, or ``[T, *B, G*H]`` without.

    Args:
        cell: the recurrence.
        weights: as its `weights` function returns them, in the dtype of the params.
        dense: the projection, where it is one affine map.
        carry: leaves ``[*B, H]``.
        xs: inputs; all is computed in their dtype.
        initial: the carry at a reset.
        reset: ``[T, *B]`` or None.
        mask: ``[T, *B]`` or None.
        tap: dummies like the carry, or None.
        chunk: steps per chunk; None for the whole sequence. A matter of speed alone.
    """
    batch = xs.shape[1:-1]
    treedef = jax.tree.structure(carry)

    def flat(tree: Any, lead: int, trail: int) -> Any:
        if len(batch) == 1:
            return tree
        return jax.tree.map(lambda a: a.reshape(*a.shape[:lead], -1, *a.shape[a.ndim - trail :]), tree)

    dense, weights, carry, initial = vary_like((dense, weights, carry, initial), xs, carry)
    leaves = partial(jax.tree.leaves, is_leaf=lambda leaf: leaf is None)
    after, hs = _scan(
        cell,
        chunk,
        Operands(
            dense,
            weights,
            tuple(flat(jax.tree.leaves(carry), 0, 1)),
            tuple(flat(jax.tree.leaves(initial), 0, 1)),
            flat(xs, 1, 1),
            flat(reset, 1, 0),
            flat(mask, 1, 0),
            None if tap is None else tuple(flat(leaves(tap), 1, 0)),
        ),
    )
    after = jax.tree.unflatten(treedef, [a.reshape(*batch, a.shape[-1]) for a in after])
    return after, hs.reshape(hs.shape[0], *batch, hs.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(cell: Gated, chunk: int | None, operands: Operands) -> tuple[tuple, jax.Array]:
    (after, hs), _ = _forward(cell, chunk, operands)
    return after, hs


def _forward(cell: Gated, chunk: int | None, operands: Operands) -> tuple[tuple[tuple, jax.Array], Any]:
    dense, weights, carry, initial, xs, reset, mask, _ = operands
    dense, weights = cast((dense, weights), xs.dtype)

    def run_chunk(carry: tuple, piece: Any) -> tuple[tuple, tuple]:
        xs, reset, mask = piece

        def body(carry: tuple, inputs: Any) -> tuple[tuple, tuple]:
            u, reset, mask = inputs
            carry = select(reset, initial, carry)
            update_gates, emit_gates = _gates(cell, u, _recurrent(cell, weights, carry[-1]))
            after = _advance(cell, weights, carry, update_gates, emit_gates)
            after = after if mask is None else select(mask, after, carry)
            return after, after

        return jax.lax.scan(body, carry, (_project(dense, xs), reset, mask))

    after, history = over_chunks(run_chunk, carry, (xs, reset, mask), chunk)
    return (after, history[-1]), (operands, history)


def _backward(cell: Gated, chunk: int | None, residuals: Any, cotangents: Any) -> tuple[Operands]:
    operands, history = residuals
    dense, weights, carry, initial, xs, reset, mask, tap = operands
    dense, weights = cast((dense, weights), xs.dtype)
    d_carry, d_hs = cotangents
    entering = tuple(
        jnp.concatenate([first[None], at[:-1]]) for first, at in zip(carry, history, strict=True)
    )
    sums = jax.tree.map(lambda w: jnp.zeros_like(w, dtype=wide(w.dtype)), (dense, weights))

    def run_chunk(totals: Any, piece: Any) -> tuple[Any, Any]:
        d_carry, d_initial, sums = totals
        xs, entering, after, d_hs, reset, mask = piece
        entering = select(
            reset, jax.tree.map(lambda i, e: jnp.broadcast_to(i, e.shape), initial, entering), entering
        )
        us, rs = _project(dense, xs), _recurrent(cell, weights, entering[-1])
        adjoint_step, partials, gates = _adjoint(cell, weights, entering, after, us, rs)
        (d_carry, d_initial), outs = jax.lax.scan(
            partial(adjoint_step, with_tap=tap is not None),
            (d_carry, d_initial),
            (partials, d_hs, reset, mask),
            reverse=True,
        )
        d_us, d_rs, d_states, d_h, norms_of = outs
        d_dense, d_weights, d_xs = _weight_gradients(
            cell, dense, weights, xs, entering, after, gates, d_us, d_rs, d_states, d_h
        )
        sums = jax.tree.map(jnp.add, sums, (d_dense, d_weights))
        norms = None if tap is None else tuple(norm(d, 2) for d in norms_of)
        return (d_carry, d_initial, sums), (d_xs, norms)

    d_initial = None if reset is None else jax.tree.map(jnp.zeros_like, initial)
    totals, (d_xs, norms) = over_chunks(
        run_chunk, (d_carry, d_initial, sums), (xs, entering, history, d_hs, reset, mask), chunk, reverse=True
    )
    d_carry, d_initial, sums = totals
    d_dense, d_weights = jax.tree.map(
        lambda s, w: s.astype(w.dtype), sums, (operands.dense, operands.weights)
    )
    d_tap = None if tap is None else tuple(n.astype(t.dtype) for n, t in zip(norms, tap, strict=True))
    return (Operands(d_dense, d_weights, d_carry, d_initial, d_xs, None, None, d_tap),)


_scan.defvjp(_forward, _backward)


# ---------------------------------------------------------------- one step, or a chunk of them: any leading axes


def _project(dense: tuple[Any, Any] | None, xs: jax.Array) -> jax.Array:
    if dense is None:
        return xs
    w_x, b = dense
    us = xs @ w_x
    return us if b is None else us + expand_left(b, us.ndim)


def _recurrent(cell: Gated, weights: GatedWeights, h: jax.Array) -> jax.Array:
    r = recurrent_product(h, weights.w_h, len(cell.activations))
    return r if weights.b_h is None else r + expand_left(weights.b_h, r.ndim)


def _gates(cell: Gated, u: jax.Array, r: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
    """The arguments of `update` and of `emit`, from projected inputs and recurrent products ``[..., G*H]``."""
    num_gates = len(cell.activations)
    joined = [g for g in range(num_gates) if g not in cell.split]
    if cell.split:
        us, rs = jnp.split(u, num_gates, -1), jnp.split(r, num_gates, -1)
        z = jnp.concatenate([us[g] + rs[g] for g in joined], -1)
    else:
        z = u + r
    active = iter(_activate_all([cell.activations[g] for g in joined], z))
    gates = [[us[g], rs[g]] if g in cell.split else [next(active)] for g in range(num_gates)]
    return sum(gates[: cell.num_update], []), sum(gates[cell.num_update :], [])


def _activate_all(activations: Sequence[Activation], z: jax.Array) -> list[jax.Array]:
    """The gates of a block ``[..., G*H]``; sigmoid and tanh in one pass, for ``sigmoid(z) = tanh(z/2)/2 + 1/2``."""
    kinds = set(activations)
    if len(kinds) == 1 or not kinds <= {Activation.SIGMOID, Activation.TANH}:
        return [
            activate(a, block)
            for a, block in zip(activations, jnp.split(z, len(activations), -1), strict=True)
        ]
    scale = jnp.asarray([0.5 if a is Activation.SIGMOID else 1.0 for a in activations], z.dtype)
    scale = expand_left(jnp.repeat(scale, z.shape[-1] // len(activations)), z.ndim)
    return jnp.split(jnp.tanh(z * scale) * scale + (1 - scale), len(activations), -1)


def _slope(activation: Activation, gate: jax.Array) -> jax.Array | None:
    """The derivative of an activation, from its value; None for 1."""
    match activation:
        case Activation.SIGMOID:
            return gate * (1 - gate)
        case Activation.TANH:
            return 1 - gate * gate
        case Activation.RELU:
            return (gate > 0).astype(gate.dtype)
    return None


def _elementwise_weights(weights: GatedWeights, ndim: int) -> Any:
    return jax.tree.map(lambda a: expand_left(a, ndim), weights.w)


def _advance(cell: Gated, weights: GatedWeights, carry: tuple, update_gates: list, emit_gates: list) -> tuple:
    w = _elementwise_weights(weights, carry[-1].ndim)
    if cell.emit is None:
        return tuple(cell.update(w, carry, *update_gates))
    state = tuple(cell.update(w, carry[:-1], *update_gates))
    return (*state, cell.emit(w, state, *emit_gates))


# ---------------------------------------------------------------- the backward pass of one chunk


class Partials(NamedTuple):
    """Elementwise derivatives ``[C, N, H]``; None where there is no dependence."""

    state_by_state: list  # [j][i]
    state_by_gate: list  # [j][argument]
    h_by_state: list  # [j]
    h_by_gate: list  # [argument]


def _adjoint(
    cell: Gated, weights: GatedWeights, entering: tuple, after: tuple, us: jax.Array, rs: jax.Array
) -> tuple[Callable, Partials, tuple]:
    """The adjoint of one step, for a reverse scan, and the partial derivatives it reads."""
    num_gates, num_states = len(cell.activations), len(entering) - (cell.emit is not None)
    update_gates, emit_gates = _gates(cell, us, rs)
    w = _elementwise_weights(weights, us.ndim)
    states, states_after = entering[:num_states], after[:num_states]

    jacobian = elementwise_jacobian(
        lambda *args: tuple(cell.update(w, args[:num_states], *args[num_states:])), (*states, *update_gates)
    )
    by_state, by_gate = [row[:num_states] for row in jacobian], [row[num_states:] for row in jacobian]
    emit_row: list = []
    if cell.emit is not None:
        emit = cell.emit
        emit_row = elementwise_jacobian(
            lambda *args: (emit(w, args[:num_states], *args[num_states:]),), (*states_after, *emit_gates)
        )[0]

    def by_preactivation(row: list, which: range, gates: list) -> list:
        """Chain the activations' slopes to derivatives by the arguments of update or emit."""
        chained, argument = [], 0
        for g in which:
            width = 2 if g in cell.split else 1
            slope = None if g in cell.split else _slope(cell.activations[g], gates[argument])
            for d in row[argument : argument + width]:
                chained.append(d if d is None or slope is None else d * slope)
            argument += width
        return chained

    partials = Partials(
        by_state,
        [by_preactivation(row, range(cell.num_update), update_gates) for row in by_gate],
        emit_row[:num_states],
        by_preactivation(emit_row[num_states:], range(cell.num_update, num_gates), emit_gates),
    )
    w_h = weights.w_h
    transposed = w_h.T if w_h.ndim == 2 and w_h.shape == (after[-1].shape[-1], us.shape[-1]) else None

    def through_product(d_r: jax.Array, like: jax.Array) -> jax.Array:
        if transposed is not None:
            return d_r @ transposed
        return jax.linear_transpose(lambda h: recurrent_product(h, w_h, num_gates), like)(d_r)[0]

    def step(totals: Any, inputs: Any, *, with_tap: bool) -> tuple[Any, Any]:
        d_carry, d_initial = totals
        partials, g, reset, mask = inputs
        d_carry = (*d_carry[:-1], d_carry[-1] + g)
        d_h = d_carry[-1]
        d_states = list(d_carry[:num_states])
        if cell.emit is not None:
            d_states = [_add(d, _times(p, d_h)) for d, p in zip(d_states, partials.h_by_state, strict=True)]
        d_arguments = [_dot(column, d_states) for column in zip(*partials.state_by_gate, strict=True)]
        d_arguments += [_times(p, d_h) for p in partials.h_by_gate]
        d_arguments = [jnp.zeros_like(d_h) if d is None else d for d in d_arguments]
        d_u, d_r = _split_arguments(cell, d_arguments)
        d_before = [_dot(column, d_states) for column in zip(*partials.state_by_state, strict=True)]
        through_state = [jnp.zeros_like(d_h) if d is None else d for d in d_before]
        d_product = through_product(d_r, d_h)
        if cell.emit is None:
            before = (*through_state[:-1], through_state[-1] + d_product)
        else:
            before = (*through_state, d_product)
        if mask is not None:
            before = select(mask, before, d_carry)
            d_u, d_r, d_states, d_h = keep(mask, (d_u, d_r, d_states, d_h))
        tapped = before if with_tap else None
        if reset is not None:
            d_initial = jax.tree.map(jnp.add, d_initial, keep(reset, before))
            before = keep(~reset, before)
        needs_w = bool(jax.tree.leaves(weights.w))
        return (before, d_initial), (
            d_u,
            d_r,
            d_states if needs_w else None,
            d_h if needs_w else None,
            tapped,
        )

    return step, partials, (update_gates, emit_gates)


def _split_arguments(cell: Gated, d_arguments: list) -> tuple[Any, jax.Array]:
    """Cotangents of the arguments as those of u (None where equal to r's) and of r, ``[N, G*H]``."""
    d_u, d_r, argument = [], [], 0
    for g in range(len(cell.activations)):
        d_u.append(d_arguments[argument])
        argument += g in cell.split
        d_r.append(d_arguments[argument])
        argument += 1
    return (jnp.concatenate(d_u, -1) if cell.split else None), jnp.concatenate(d_r, -1)


def _weight_gradients(
    cell: Gated, dense: Any, weights: GatedWeights, xs: Any, entering: tuple, after: tuple, gates: tuple,
    d_us: Any, d_rs: jax.Array, d_states: Any, d_h: Any,
) -> tuple[Any, GatedWeights, jax.Array]:  # fmt: skip
    """Of the projection, the recurrent weights and the inputs, for a whole chunk."""
    d_us = d_rs if d_us is None else d_us
    sum_dtype = wide(xs.dtype)
    contract = partial(jnp.einsum, "tbi,tbo->io", preferred_element_type=sum_dtype)
    d_dense, d_xs = None, d_us
    if dense is not None:
        w_x, b = dense
        d_dense = (contract(xs, d_us), None if b is None else jnp.sum(d_us, (0, 1), dtype=sum_dtype))
        d_xs = d_us @ w_x.T
    h = entering[-1]
    if weights.w_h.shape == (h.shape[-1], d_rs.shape[-1]):
        d_w_h = contract(h, d_rs)
    else:
        product = partial(recurrent_product, h.astype(sum_dtype), num_gates=len(cell.activations))
        d_w_h = jax.vjp(product, weights.w_h.astype(sum_dtype))[1](d_rs.astype(sum_dtype))[0]
    d_b_h = None if weights.b_h is None else jnp.sum(d_rs, (0, 1), dtype=sum_dtype)
    d_w = weights.w
    if jax.tree.leaves(weights.w):
        update_gates, emit_gates = gates
        num_states = len(d_states)

        def elementwise(w: Any) -> tuple:
            w = jax.tree.map(lambda a: expand_left(a, h.ndim), w)
            new = tuple(cell.update(w, entering[:num_states], *update_gates))
            emitted = () if cell.emit is None else (cell.emit(w, after[:num_states], *emit_gates),)
            return (*new, *emitted)

        d_out = (*d_states, *(() if cell.emit is None else (d_h,)))
        d_w = cast(jax.vjp(elementwise, weights.w)[1](d_out)[0], sum_dtype)
    return d_dense, GatedWeights(d_w_h, d_b_h, d_w), d_xs


def _times(p: jax.Array | None, d: jax.Array) -> jax.Array | None:
    return None if p is None else p * d


def _add(a: jax.Array, b: jax.Array | None) -> jax.Array:
    return a if b is None else a + b


def _dot(column: Sequence[jax.Array | None], ds: Sequence[jax.Array]) -> jax.Array | None:
    terms = [p * d for p, d in zip(column, ds, strict=True) if p is not None]
    return sum(terms[1:], terms[0]) if terms else None
