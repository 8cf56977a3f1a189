"""Chunks and windows of time: checks of batches, initial carries, and the loop over windows."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Carry, Estimate, Layer, Params
from seqjax.compat import vary_like
from seqjax.gradients.objective import Loss, leads_of, losses_of
from seqjax.inputs import first_step, num_steps
from seqjax.ops.select import wide


def check_batch(who: str, batch: Any) -> Batch:
    """Return the batch; raise a TypeError for another type, a ValueError for an empty sequence."""
    if not isinstance(batch, Batch):
        raise TypeError(f"{who}: expected a Batch, got {type(batch).__name__}. Write Batch(xs, targets).")
    if num_steps(batch.xs) == 0:
        raise ValueError(f"{who}: expected xs [T, ...] with T of at least 1, got an empty sequence.")
    if batch.context is not None:
        raise ValueError(
            f"{who}: expected a batch without a context, got one. Condition the carry first, "
            "layer.condition(params, carry, context), or train with make_train_step."
        )
    return batch


def check_key(who: str, key: Any) -> None:
    """Raise a ValueError without a key."""
    if key is None:
        raise ValueError(f"{who}: expected a key for random draws, got None. Pass `key=`.")


def begin_with_reset(batch: Batch, axes: tuple[int, ...]) -> Batch:
    """Return the batch with a reset at its first step, at which the layer's own initial carry enters."""
    reset = jnp.zeros((num_steps(batch.xs), *axes), bool) if batch.reset is None else jnp.asarray(batch.reset)
    return batch._replace(reset=reset.at[0].set(True))


def own_params(params: Params, batch: Batch) -> Any:
    """Return the params, inside ``jax.shard_map`` as one copy per device.

    The estimate of a device covers only its part of the batch. A derivative by params that devices share would be
    summed over devices at each step, including the terms of a single example.
    """
    return vary_like(params, batch.xs)


def enter(layer: Layer, params: Params, carry: Carry, batch: Batch) -> Any:
    """Return the given carry, or the initial carry, in the dtypes that the layer keeps."""
    initial = layer.initial_carry(params, first_step(batch.xs))
    form: Any = jax.tree.structure
    if carry is None:
        carry = initial
    elif form(carry) == form(initial):
        carry = jax.tree.map(lambda a, like: jnp.asarray(a, like.dtype), carry, initial)
    # A constant carry does not vary over devices, but a loop needs equal types of the carry at entry and
    # exit.
    return vary_like(carry, batch.xs)


def zeros(shapes: Any, like: Any) -> Any:
    """Return zeros in the given shapes, varying over devices as `like` does."""
    return vary_like(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes), like)


def losses_per_step(layer: Layer, loss: Loss, params: Params, carry: Carry, batch: Batch) -> tuple | None:
    """Return ``*B`` if the loss returns losses ``[T, *B]`` for targets per step, else None; reads shapes only."""

    def losses(params: Params, carry: Carry, batch: Batch) -> jax.Array:
        ys = layer.unroll(params, carry, batch.xs, reset=batch.reset, mask=batch.mask)[1]
        return losses_of(loss, ys, batch.targets, batch.mask, leads_of(layer, batch))

    whole = jax.eval_shape(losses, params, carry, batch).shape
    length = num_steps(batch.xs)
    if whole[:1] != (length,):
        return None
    if any(jnp.shape(leaf)[: len(whole)] != whole for leaf in jax.tree.leaves(batch.targets)):
        return None
    first = jax.tree.map(lambda a: a[:1], batch)
    try:
        found = jax.eval_shape(losses, params, carry, first).shape
    except (TypeError, ValueError):  # one loss per sequence with B = T: test with the targets of one step
        return None
    return whole[1:] if found == (1, *whole[1:]) else None


# ---------------------------------------------------------------- sums over windows


def no_estimate(shapes: Any, like: Any) -> Any:
    """Return an empty sum, in float32 at least."""
    return zeros(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, wide(a.dtype)), shapes), like)


def added(sums: Any, found: Any) -> Any:
    """Return the sum of two trees, in the dtypes of the first."""
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, found)


def as_params(estimate: Estimate, params: Params) -> Estimate:
    """Return the estimate with gradients in the dtypes of the params."""
    gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), estimate.gradients, params)
    return estimate._replace(gradients=gradients)
