"""The specification: one step of each recurrence, and the loop over time steps.

Every faster algorithm must equal `loop` of `step_of`, in value and in gradient.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Shaped

from seqjax.base import (
    Activation,
    Attention,
    AttentionCarry,
    AttentionInputs,
    Carry,
    Diagonal,
    DiagonalInputs,
    Flags,
    Gated,
    GatedWeights,
    Matrix,
    MatrixCarry,
    MatrixInputs,
    MatrixOutputs,
    Params,
    Recurrence,
    Step,
    Us,
)
from seqjax.ops.rotary import rotate
from seqjax.ops.select import cast, expand, select, wide, widen
from seqjax.ops.tap import tap as tap_carry


def step_of(recurrence: Recurrence, params: Params, dtype: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return one step ``(carry, u) -> (carry, h)`` of a recurrence with bound weights.

    Each step casts the weights to `dtype`. A loop therefore sums the gradients of the weights in at least float32.

    Args:
        recurrence: a recurrence of any kind.
        params: params of the cell. The linear kinds and `Attention` read no params.
        dtype: dtype of the inputs x. For integers, such as tokens, the params of a `Step` keep their dtypes.

    Raises:
        TypeError: if `recurrence` is not a recurrence.
    """
    match recurrence:
        case Step(fn):
            wide_params = widen(params)
            if not jnp.issubdtype(dtype, jnp.inexact):
                dtypes = jax.tree.map(jnp.result_type, params)
                return lambda carry, u: fn(jax.tree.map(jnp.asarray, wide_params, dtypes), carry, u)
            return lambda carry, u: fn(cast(wide_params, dtype), carry, u)
        case Gated():
            weights = widen(tuple(recurrence.weights(params)))
            return lambda carry, u: gated_step(recurrence, GatedWeights(*cast(weights, dtype)), carry, u)
        case Diagonal():
            return _diagonal_step
        case Matrix():
            return _matrix_step
        case Attention():
            return partial(_attention_step, recurrence)
    raise TypeError(
        "step_of(recurrence): expected a recurrence (Step, Gated, Diagonal, Matrix or Attention), "
        f"got {recurrence!r}."
    )


def loop(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Carry,
    us: Us,
    flags: Flags = Flags(),  # noqa: B008 (a tuple)
    *,
    unroll: int = 1,
) -> tuple[Any, Any]:
    """Scan a step over time and return ``(carry, hs)``.

    Args:
        step: ``(carry, u) -> (carry, h)``.
        carry: leaves ``[*B, ...]``.
        us: a tree of arrays ``[T, ...]``.
        flags: at a reset the step starts from ``flags.initial``. Where the mask is False the carry stays unchanged,
            except that a reset still applies. The function ignores ``flags.key``.
        unroll: number of steps in one iteration of the compiled loop.
    """

    def body(carry: Carry, inputs: Any) -> tuple[Any, Any]:
        u, now = inputs
        carry = tap_carry(select(now.reset, flags.initial, carry), now.tap)
        after, h = step(carry, u)
        return (after if now.mask is None else select(now.mask, after, carry)), h

    return jax.lax.scan(body, carry, (us, flags.over_time()._replace(key=None)), unroll=unroll)


def recurrent_product(
    h: Inexact[Array, "*B H"], w_h: Inexact[Array, "..."], num_gates: int
) -> Inexact[Array, "*B GH"]:
    """Multiply ``h [..., H]`` by `GatedWeights.w_h`, which is dense, block-diagonal or diagonal: ``[..., G*H]``."""
    if w_h.ndim == 4:
        heads = h.reshape(*h.shape[:-1], *w_h.shape[:2])
        product = jnp.einsum("...nd,ndge->...gne", heads, w_h)
        return product.reshape(*h.shape[:-1], -1)
    if w_h.shape == (h.shape[-1], num_gates * h.shape[-1]):
        return h @ w_h
    product = h[..., None, :] * expand_left(w_h, h.ndim + 1)
    return product.reshape(*h.shape[:-1], -1)


def activate(activation: Activation, z: Float[Array, "..."]) -> Float[Array, "..."]:
    """Apply the activation of a gate."""
    match activation:
        case Activation.SIGMOID:
            return jax.nn.sigmoid(z)
        case Activation.TANH:
            return jnp.tanh(z)
        case Activation.RELU:
            return jax.nn.relu(z)
    return z


def expand_left(array: Shaped[Array, "..."], ndim: int) -> Shaped[Array, "..."]:
    """Prepend axes of size 1 to an array ``[H]``, up to ndim axes: ``[1, ..., H]``."""
    return jnp.reshape(array, (1,) * (ndim - array.ndim) + array.shape)


def gated_step(
    cell: Gated,
    weights: GatedWeights,
    carry: Carry,
    u: Float[Array, "*B GH"],
    *,
    on_h: Callable | None = None,
    on_r: Callable | None = None,
    on_state: Callable | None = None,
) -> tuple[Any, Float[Array, "*B H"]]:
    """Run one step of a `Gated` recurrence, with optional functions applied at three places.

    Args:
        cell: the recurrence.
        weights: in the dtype of u.
        carry: before the step.
        u: ``[*B, G*H]``.
        on_h: applied to the h that the recurrent product reads.
        on_r: applied to r.
        on_state: applied to each state that `emit` reads.
    """
    leaves, treedef = jax.tree.flatten(carry)
    state, h = (leaves, leaves[-1]) if cell.emit is None else (leaves[:-1], leaves[-1])
    r = recurrent_product(on_h(h) if on_h else h, weights.w_h, len(cell.activations))
    if weights.b_h is not None:
        r = r + expand_left(weights.b_h, r.ndim)
    r = on_r(r) if on_r else r
    us, rs = (jnp.split(a, len(cell.activations), axis=-1) for a in (u, r))
    w = jax.tree.map(lambda a: expand_left(a, h.ndim), weights.w)
    after, h = advance_by_gate(cell, w, tuple(state), us, rs, on_state=on_state)
    return jax.tree.unflatten(treedef, after), h


def advance_by_gate(
    cell: Gated, w: Any, state: tuple, us: list, rs: list, *, on_state: Callable | None = None
) -> tuple[tuple, Any]:
    """Return the leaves of the carry after a step, and h, from the two summands of each gate.

    Args:
        cell: the recurrence.
        w: elementwise weights that broadcast against the state.
        state: the states before the step, without h if `emit` computes h.
        us: projected inputs, one array per gate.
        rs: recurrent products, one array per gate.
        on_state: applied to each state that `emit` reads.
    """
    gates: list[jax.Array] = []
    for g, activation in enumerate(cell.activations):
        gates += [us[g], rs[g]] if g in cell.split else [activate(activation, us[g] + rs[g])]
    first_emitted = cell.num_update + len(cell.split)
    state = tuple(cell.update(w, state, *gates[:first_emitted]))
    if cell.emit is None:
        return state, state[-1]
    read = tuple(on_state(s) for s in state) if on_state else state
    h = cell.emit(w, read, *gates[first_emitted:])
    return (*state, h), h


def _diagonal_step(
    h: Inexact[Array, "*B H"], inputs: DiagonalInputs
) -> tuple[Inexact[Array, "*B H"], Inexact[Array, "*B H"]]:
    h = expand_left(inputs.a, h.ndim).astype(h.dtype) * h + inputs.b.astype(h.dtype)
    return h, h


def _matrix_step(carry: Carry, inputs: MatrixInputs) -> tuple[Any, MatrixOutputs]:
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
    """Raise a ValueError for inconsistent inputs of a `Matrix` recurrence."""
    if inputs.log_input is None:
        return
    if inputs.erase is not None:
        raise ValueError("MatrixInputs: expected erase or log_input, got both. Fold the input gate into k.")
    if inputs.log_decay is not None and inputs.log_decay.ndim == inputs.q.ndim:
        raise ValueError(
            f"MatrixInputs: expected a log_decay per head ({inputs.q.ndim - 1} axes) together with log_input, "
            f"got log_decay {list(inputs.log_decay.shape)}. Pass one decay per head, or leave log_input out."
        )


def _attention_step(
    attention: Attention, carry: AttentionCarry, inputs: AttentionInputs
) -> tuple[AttentionCarry, Float[Array, "*B N V"]]:
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
