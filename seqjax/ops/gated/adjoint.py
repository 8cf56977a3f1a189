"""The backward pass of one chunk of a `Gated` recurrence: the adjoint of a step and the gradients of the weights."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.affine import spread
from seqjax.base import Gated, GatedWeights, Xs
from seqjax.ops.elementwise import elementwise_jacobian
from seqjax.ops.gated.step import arguments_of, elementwise_weights, slope_of
from seqjax.ops.select import cast, keep, select, wide
from seqjax.ops.step import recurrent_product


class Partials(NamedTuple):
    """Elementwise derivatives ``[C, N, H]``. An entry is None if the output does not depend on the argument."""

    state_by_state: list  # [j][i]
    state_by_gate: list  # [j][argument]
    h_by_state: list  # [j]
    h_by_gate: list  # [argument]


def partials_of(
    cell: Gated, weights: GatedWeights, entering: tuple, after: tuple, gates: Float[Array, "C N GH"]
) -> tuple[Partials, tuple]:
    """Return the partial derivatives of `update` and `emit` for a whole chunk, and the gates as their arguments."""
    num_gates, num_states = len(cell.activations), len(entering) - (cell.emit is not None)
    update_gates, emit_gates = arguments_of(cell, gates)
    w = elementwise_weights(weights, gates.ndim)
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
        """Multiply derivatives with respect to the arguments of update or emit by the slopes of the activations."""
        chained, argument = [], 0
        for g in which:
            width = 2 if g in cell.split else 1
            slope = None if g in cell.split else slope_of(cell.activations[g], gates[argument])
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
    return partials, (update_gates, emit_gates)


class Cotangents(NamedTuple):
    """What one adjoint step returns beside the cotangents of the carry; each array is ``[N, H]``."""

    u: list  # of the split gates
    r: list  # of all gates
    states: list  # after the step, as `update` returns them
    h: Any  # after the step
    entering: tuple  # the carry that enters the following step, before the reset of that step


def adjoint_step(
    cell: Gated, pull_back: Callable[[list], jax.Array], totals: tuple[tuple, Any], inputs: tuple
) -> tuple[tuple[tuple, Any], Cotangents]:
    """Run the adjoint of one step, from the step after it to the step before it.

    Args:
        cell: the recurrence.
        pull_back: the transpose of the recurrent product, from the cotangents of r, one array per gate.
        totals: the cotangents of the carry that enters the following step, before the reset of that step, and the sum
            of the cotangents of the initial carry so far.
        inputs: the `Partials` of the step, the cotangent of its output h, the reset of the following step, and the
            mask of the step. A flag is None or has the batch axes of the carry.
    """
    d_entering, d_initial = totals
    partials, g, reset_after, mask = inputs
    num_states = len(d_entering) - (cell.emit is not None)
    d_carry = d_entering
    if reset_after is not None:
        d_initial = jax.tree.map(jnp.add, d_initial, keep(reset_after, d_entering))
        d_carry = keep(~reset_after, d_entering)
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
    d_product = pull_back(d_r)
    if cell.emit is None:
        before = (*through_state[:-1], through_state[-1] + d_product)
    else:
        before = (*through_state, d_product)
    if mask is not None:
        before = select(mask, before, d_carry)
        d_u, d_r, d_states, d_h = keep(mask, (d_u, d_r, d_states, d_h))
    return (before, d_initial), Cotangents(d_u, d_r, d_states, d_h, d_entering)


def pull_back_product(
    weights: GatedWeights, num_gates: int, like: Float[Array, "N H"]
) -> Callable[[list], jax.Array]:
    """Return the transpose of the recurrent product, for `adjoint_step`."""
    w_h = weights.w_h
    if w_h.ndim == 2 and w_h.shape == (like.shape[-1], num_gates * like.shape[-1]):
        transposed = w_h.T
        return lambda d_r: jnp.concatenate(d_r, -1) @ transposed
    transpose = jax.linear_transpose(lambda h: recurrent_product(h, w_h, num_gates), like)
    return lambda d_r: transpose(jnp.concatenate(d_r, -1))[0]


def layout_of(cell: Gated, weights: GatedWeights, num_leaves: int, size: int, *, with_tap: bool) -> "Layout":
    """Return which cotangents the backward pass needs, for a carry of so many leaves ``[N, H]``."""
    num_states = num_leaves - (cell.emit is not None)
    elementwise = bool(jax.tree.leaves(weights.w))
    return Layout(
        size,
        split=len(cell.split),
        gates=len(cell.activations),
        states=num_states if elementwise else 0,
        h=int(elementwise),
        carry=num_leaves if with_tap else 0,
    )


class Layout(NamedTuple):
    """The number of blocks ``[N, H]`` of each kind of `Cotangents` that a loop stores, in one array.

    On a GPU a loop launches one more kernel per step for each array that it writes, and kernel launches dominate the
    time.
    """

    size: int
    split: int
    gates: int
    states: int
    h: int
    carry: int

    def blocks(self, found: Cotangents) -> list:
        """Return the cotangents to store, as a list of arrays ``[N, H]``."""
        return [
            *found.u,
            *found.r,
            *found.states[: self.states],
            *[found.h][: self.h],
            *found.entering[: self.carry],
        ]

    def unpack(self, stacked: Float[Array, "C N _"]) -> tuple[Any, jax.Array, list, Any, list]:
        """Split the blocks ``[C, N, ...]``, joined along the last axis, into (d_us, d_rs, d_states, d_h, d_entering).

        Cotangents that are not stored are None or empty.
        """
        blocks = iter(range(stacked.shape[-1] // self.size))

        def take(count: int) -> Any:
            places = [next(blocks) for _ in range(count)]
            return stacked[..., places[0] * self.size : (places[-1] + 1) * self.size] if places else None

        d_us, d_rs = take(self.split), take(self.gates)
        d_states = [take(1) for _ in range(self.states)]
        return d_us, d_rs, d_states, take(self.h), [take(1) for _ in range(self.carry)]


def _split_arguments(cell: Gated, d_arguments: list) -> tuple[list, list]:
    """Return the cotangents of u, for the split gates only, and of r, for all gates, from those of the arguments."""
    d_u, d_r, argument = [], [], 0
    for g in range(len(cell.activations)):
        if g in cell.split:
            d_u.append(d_arguments[argument])
            argument += 1
        d_r.append(d_arguments[argument])
        argument += 1
    return d_u, d_r


def input_cotangents(
    cell: Gated, d_us: Float[Array, "*B SH"] | None, d_rs: Float[Array, "*B GH"]
) -> Float[Array, "*B GH"]:
    """Return the cotangents of u, which equal those of r except for the split gates."""
    if d_us is None:
        return d_rs
    parts = jnp.split(d_rs, len(cell.activations), -1)
    for g, part in zip(cell.split, jnp.split(d_us, len(cell.split), -1), strict=True):
        parts[g] = part
    return jnp.concatenate(parts, -1)


def weight_gradients(
    cell: Gated, dense: Any, weights: GatedWeights, xs: Xs, entering: tuple, after: tuple, gates: tuple,
    d_us: Any, d_rs: jax.Array, d_states: Any, d_h: Any,
) -> tuple[Any, GatedWeights, jax.Array]:  # fmt: skip
    """Return the gradients of the projection, of the recurrent weights and of the inputs, for a whole chunk."""
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
            w = jax.tree.map(lambda a: spread(a, h), w)
            new = tuple(cell.update(w, entering[:num_states], *update_gates))
            emitted = () if cell.emit is None else (cell.emit(w, after[:num_states], *emit_gates),)
            return (*new, *emitted)

        d_out = (*d_states, *(() if cell.emit is None else (d_h,)))
        d_w = jax.vjp(elementwise, cast(weights.w, sum_dtype))[1](d_out)[0]
    return d_dense, GatedWeights(d_w_h, d_b_h, d_w), d_xs


def _times(p: jax.Array | None, d: jax.Array) -> jax.Array | None:
    return None if p is None else p * d


def _add(a: jax.Array, b: jax.Array | None) -> jax.Array:
    return a if b is None else a + b


def _dot(column: Sequence[jax.Array | None], ds: Sequence[jax.Array]) -> jax.Array | None:
    """Return the sum of the products whose partial derivative is not None."""
    terms = [p * d for p, d in zip(column, ds, strict=True) if p is not None]
    return sum(terms[1:], terms[0]) if terms else None
