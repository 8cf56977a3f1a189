"""The parts of a step of a `Gated` recurrence, on arrays with any leading axes: one step or a chunk of steps.

`seqjax.ops.step` computes gate by gate; the functions here compute all gates in one block.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.base import Activation, Gated, GatedWeights
from seqjax.ops.step import activate, expand_left, recurrent_product


def project(dense: tuple[Any, Any] | None, xs: Float[Array, "*B D"]) -> Float[Array, "*B GH"]:
    """Project inputs ``[..., D]`` to ``[..., G*H]``; without a projection return the inputs unchanged."""
    if dense is None:
        return xs
    w_x, b = dense
    us = xs @ w_x
    return us if b is None else us + expand_left(b, us.ndim)


def recurrent(cell: Gated, weights: GatedWeights, h: Float[Array, "*B H"]) -> Float[Array, "*B GH"]:
    """Return the recurrent product plus the bias, ``[..., H] -> [..., G*H]``."""
    r = recurrent_product(h, weights.w_h, len(cell.activations))
    return r if weights.b_h is None else r + expand_left(weights.b_h, r.ndim)


def gates_of(cell: Gated, u: Float[Array, "*B GH"], r: Float[Array, "*B GH"]) -> Float[Array, "*B _"]:
    """Return all gates in one block, from projected inputs and recurrent products ``[..., G*H]``.

    The block has the activated gates in their order, then u and r of each split gate:
    ``[..., (G + number of split gates) * H]``.
    """
    num_gates = len(cell.activations)
    if not cell.split:
        return _activate_all(cell.activations, u + r)
    joined = [g for g in range(num_gates) if g not in cell.split]
    us, rs = jnp.split(u, num_gates, -1), jnp.split(r, num_gates, -1)
    if joined == list(range(len(joined))):  # one slice; a concatenation would be a copy
        width = len(joined) * us[0].shape[-1]
        z = u[..., :width] + r[..., :width]
    else:
        z = jnp.concatenate([us[g] + rs[g] for g in joined], -1)
    active = _activate_all([cell.activations[g] for g in joined], z)
    return jnp.concatenate([active, *(x[g] for g in cell.split for x in (us, rs))], -1)


def arguments_of(cell: Gated, gates: Float[Array, "..."]) -> tuple[list[jax.Array], list[jax.Array]]:
    """Split the block of `gates_of` into the arguments of `update` and of `emit`."""
    num_gates = len(cell.activations)
    parts = jnp.split(gates, num_gates + len(cell.split), -1)
    active, summands = iter(parts[: num_gates - len(cell.split)]), iter(parts[num_gates - len(cell.split) :])
    of_gate = [
        [next(summands), next(summands)] if g in cell.split else [next(active)] for g in range(num_gates)
    ]
    return sum(of_gate[: cell.num_update], []), sum(of_gate[cell.num_update :], [])


def _activate_all(activations: Sequence[Activation], z: Float[Array, "*B GH"]) -> Float[Array, "*B GH"]:
    """Apply the activations to a block ``[..., G*H]``; neighbors with the same activation are evaluated together.

    The function does not replace all sigmoids by one tanh, ``sigmoid(z) = tanh(z/2)/2 + 1/2``. That formula has an
    absolute error of eps/2, so it would round a nearly closed gate, and every gradient through the gate, to zero.
    """
    size = z.shape[-1] // len(activations)
    blocks, start = [], 0
    for activation, run in itertools.groupby(activations):
        end = start + size * len(list(run))
        blocks.append(activate(activation, z[..., start:end]))
        start = end
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, -1)


def slope_of(activation: Activation, gate: Float[Array, "*B H"]) -> Float[Array, "*B H"] | None:
    """Return the derivative of an activation, computed from its value; None stands for 1."""
    match activation:
        case Activation.SIGMOID:
            return gate * (1 - gate)
        case Activation.TANH:
            return 1 - gate * gate
        case Activation.RELU:
            return (gate > 0).astype(gate.dtype)
    return None


def elementwise_weights(weights: GatedWeights, ndim: int) -> Any:
    """Return the weights w as `update` and `emit` expect them, with ndim axes."""
    return jax.tree.map(lambda a: expand_left(a, ndim), weights.w)


def advance(cell: Gated, weights: GatedWeights, carry: tuple, update_gates: list, emit_gates: list) -> tuple:
    """Return the leaves of the carry after the step."""
    w = elementwise_weights(weights, carry[-1].ndim)
    if cell.emit is None:
        return tuple(cell.update(w, carry, *update_gates))
    state = tuple(cell.update(w, carry[:-1], *update_gates))
    return (*state, cell.emit(w, state, *emit_gates))
