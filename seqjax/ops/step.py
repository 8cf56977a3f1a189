"""The specification: what one step of each recurrence does, and the loop of it.

Everything faster must equal `loop` of `step_of`, in value and in gradient.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import (
    Activation,
    Attention,
    AttentionCarry,
    AttentionInputs,
    Diagonal,
    DiagonalInputs,
    Flags,
    Gated,
    GatedWeights,
    Matrix,
    MatrixCarry,
    MatrixInputs,
    MatrixOutputs,
    Recurrence,
    Step,
)
from seqjax.ops.rotary import rotate
from seqjax.ops.select import cast, expand, select, wide
from seqjax.ops.tap import tap as tap_carry


def step_of(recurrence: Recurrence, params: Any, dtype: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """One step ``(carry, u) -> (carry, h)`` of a recurrence with its weights bound.

    Each step casts the weights for itself, so that their gradients add up over a loop in float32 at least.

    Args:
        recurrence: of any kind.
        params: the cell's; cast to dtype. The linear kinds and `Attention` have none.
        dtype: of the inputs x.
    """
    match recurrence:
        case Step(fn):
            held = _widened(params)
            return lambda carry, u: fn(cast(held, dtype), carry, u)
        case Gated():
            held = _widened(tuple(recurrence.weights(params)))
            return lambda carry, u: gated_step(recurrence, GatedWeights(*cast(held, dtype)), carry, u)
        case Diagonal():
            return _diagonal_step
        case Matrix():
            return _matrix_step
        case Attention():
            return partial(_attention_step, recurrence)
    raise TypeError(
        f"expected a recurrence (Step, Gated, Diagonal, Matrix or Attention), got {recurrence!r}."
    )


def _widened(tree: Any) -> Any:
    return jax.tree.map(
        lambda a: a.astype(wide(a.dtype)) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a, tree
    )


def loop(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    us: Any,
    flags: Flags = Flags(),  # noqa: B008 (a tuple)
    *,
    unroll: int = 1,
) -> tuple[Any, Any]:
    """A step scanned over time: ``(carry, hs)``.

    Args:
        step: ``(carry, u) -> (carry, h)``.
        carry: leaves ``[*B, ...]``.
        us: a tree of arrays ``[T, ...]``.
        flags: at a reset the step begins from ``flags.initial``; where the mask is False the carry passes through (a
            reset happens all the same). The key is not used.
        unroll: how many steps one iteration of the compiled loop holds.
    """

    def body(carry: Any, inputs: Any) -> tuple[Any, Any]:
        u, now = inputs
        carry = tap_carry(select(now.reset, flags.initial, carry), now.tap)
        after, h = step(carry, u)
        return (after if now.mask is None else select(now.mask, after, carry)), h

    return jax.lax.scan(body, carry, (us, flags.over_time()._replace(key=None)), unroll=unroll)


def recurrent_product(h: jax.Array, w_h: jax.Array, num_gates: int) -> jax.Array:
    """``h [..., H]`` times `GatedWeights.w_h`, dense, block-diagonal or diagonal: ``[..., G*H]``."""
    if w_h.ndim == 4:
        heads = h.reshape(*h.shape[:-1], *w_h.shape[:2])
        product = jnp.einsum("...nd,ndge->...gne", heads, w_h)
        return product.reshape(*h.shape[:-1], -1)
    if w_h.shape == (h.shape[-1], num_gates * h.shape[-1]):
        return h @ w_h
    product = h[..., None, :] * expand_left(w_h, h.ndim + 1)
    return product.reshape(*h.shape[:-1], -1)


def activate(activation: Activation, z: jax.Array) -> jax.Array:
    """An activation of `Gated`."""
    match activation:
        case Activation.SIGMOID:
            return jax.nn.sigmoid(z)
        case Activation.TANH:
            return jnp.tanh(z)
        case Activation.RELU:
            return jax.nn.relu(z)
    return z


def expand_left(array: jax.Array, ndim: int) -> jax.Array:
    """An array ``[H]`` as ``[1, ..., H]`` with ndim axes."""
    return jnp.reshape(array, (1,) * (ndim - array.ndim) + array.shape)


def gated_step(
    cell: Gated,
    weights: GatedWeights,
    carry: Any,
    u: jax.Array,
    *,
    on_h: Callable | None = None,
    on_r: Callable | None = None,
    on_state: Callable | None = None,
) -> tuple[Any, jax.Array]:
    """One step of a `Gated` recurrence, with functions put in at three places, none of them by default.

    Args:
        cell: the recurrence.
        weights: in the dtype of u.
        carry: before the step.
        u: ``[*B, G*H]``.
        on_h: acts on the h that the recurrent product reads.
        on_r: acts on r.
        on_state: acts on each state that `emit` reads.
    """
    leaves, treedef = jax.tree.flatten(carry)
    state, h = (leaves, leaves[-1]) if cell.emit is None else (leaves[:-1], leaves[-1])
    r = recurrent_product(on_h(h) if on_h else h, weights.w_h, len(cell.activations))
    if weights.b_h is not None:
        r = r + expand_left(weights.b_h, r.ndim)
    r = on_r(r) if on_r else r
    us, rs = (jnp.split(a, len(cell.activations), axis=-1) for a in (u, r))
    gates: list[jax.Array] = []
    for g, activation in enumerate(cell.activations):
        gates += [us[g], rs[g]] if g in cell.split else [activate(activation, us[g] + rs[g])]
    first_emitted = cell.num_update + len(cell.split)
    w = jax.tree.map(lambda a: expand_left(a, h.ndim), weights.w)
    state = cell.update(w, tuple(state), *gates[:first_emitted])
    if cell.emit is None:
        return jax.tree.unflatten(treedef, state), state[-1]
    read = tuple(on_state(s) for s in state) if on_state else tuple(state)
    h = cell.emit(w, read, *gates[first_emitted:])
    return jax.tree.unflatten(treedef, [*state, h]), h


def _diagonal_step(h: jax.Array, inputs: DiagonalInputs) -> tuple[jax.Array, jax.Array]:
    h = expand_left(inputs.a, h.ndim).astype(h.dtype) * h + inputs.b.astype(h.dtype)
    return h, h


def _matrix_step(carry: Any, inputs: MatrixInputs) -> tuple[Any, MatrixOutputs]:
    check_matrix(inputs)
    scaled = inputs.log_input is not None
    s: Any
    m: Any
    s, m = carry if scaled else (carry, None)
    q, k, v, log_decay, erase, log_input = jax.tree.map(lambda a: a.astype(s.dtype), inputs)
    if scaled:
        decayed = m if log_decay is None else log_decay + m
        after = jnp.maximum(decayed, log_input)
        log_decay, k, m = decayed - after, k * jnp.exp(log_input - after)[..., None], after
    state = s
    if log_decay is not None:
        state = jnp.exp(expand(log_decay, s.ndim)) * s
    if erase is not None:
        a, b = erase
        state = state + a[..., None] * jnp.einsum("...k,...kv->...v", b, s)[..., None, :]
    state = state + k[..., None] * v[..., None, :]
    o = jnp.einsum("...k,...kv->...v", q, state)
    return (MatrixCarry(state, m) if scaled else state), MatrixOutputs(o, m)


def check_matrix(inputs: MatrixInputs) -> None:
    """Raise a ValueError for inputs of a `Matrix` recurrence that do not go together."""
    if inputs.log_input is None:
        return
    if inputs.erase is not None:
        raise ValueError("MatrixInputs: expected erase or log_input, got both. Fold the input gate into k.")
    if inputs.log_decay is not None and inputs.log_decay.ndim == inputs.q.ndim:
        raise ValueError(
            f"MatrixInputs: expected with log_input a log_decay per head, {inputs.q.ndim - 1} axes, "
            f"got {list(inputs.log_decay.shape)}."
        )


def _attention_step(
    attention: Attention, carry: AttentionCarry, inputs: AttentionInputs
) -> tuple[AttentionCarry, jax.Array]:
    position, length = carry.position, attention.capacity
    q, k, v = inputs
    if attention.rotary_base is not None:
        q, k = (rotate(array, position, attention.rotary_base) for array in (q, k))
    slots = expand_left(jnp.arange(length, dtype=position.dtype), position.ndim + 1)
    here = slots == (position % length)[..., None]
    keys = select(here, k[..., None, :, :], carry.k)
    values = select(here, v[..., None, :, :], carry.v)
    filled = (slots <= position[..., None])[..., None, None, :]
    dtype = wide(q.dtype)
    queries = q.reshape(*position.shape, k.shape[-2], -1, q.shape[-1]).astype(dtype)
    scores = jnp.einsum("...gnk,...lgk->...gnl", queries, keys.astype(dtype)) / math.sqrt(q.shape[-1])
    weights = jax.nn.softmax(scores, axis=-1, where=filled)
    h = jnp.einsum("...gnl,...lgv->...gnv", weights, values.astype(dtype))
    h = h.reshape(*q.shape[:-1], v.shape[-1]).astype(v.dtype)
    return AttentionCarry(keys, values, position + 1), h
