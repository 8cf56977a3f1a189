"""Chunks of sequences: what estimators check, begin with and cut into windows of time."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Estimate, Layer
from seqjax.compat import vary_like
from seqjax.gradients.objective import Loss
from seqjax.layers import first_step, num_steps
from seqjax.ops.select import wide


def check_batch(who: str, batch: Any) -> Batch:
    """The batch; a TypeError for anything else, a ValueError for one without steps."""
    if not isinstance(batch, Batch):
        raise TypeError(f"{who}: expected a Batch, got {type(batch).__name__}. Write Batch(xs, targets).")
    if num_steps(batch.xs) == 0:
        raise ValueError(f"{who}: expected xs [T, ...] with T of at least 1, got an empty sequence.")
    return batch


def own_params(params: Any, batch: Batch) -> Any:
    """The params, inside ``jax.shard_map`` a copy for each device: its estimate is of its own part of the batch alone.

    Differentiating by params that devices share would add up over them, at each step, even what belongs to one example.
    """
    return vary_like(params, batch.xs)


def enter(layer: Layer, params: Any, carry: Any, batch: Batch) -> Any:
    """The carry that a chunk begins with, the given one or the initial one, in the dtypes that the layer keeps."""
    initial = layer.initial_carry(params, first_step(batch.xs))
    form: Any = jax.tree.structure
    if carry is None:
        carry = initial
    elif form(carry) == form(initial):
        carry = jax.tree.map(lambda a, like: jnp.asarray(a, like.dtype), carry, initial)
    # A carry made of constants does not vary over devices, and a loop wants carries that leave it as they came.
    return vary_like(carry, batch.xs)


def zeros(shapes: Any, like: Any) -> Any:
    """Zeros in the given shapes, varying over devices as `like` does."""
    return vary_like(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes), like)


def losses_per_step(layer: Layer, loss: Loss, params: Any, carry: Any, batch: Batch) -> tuple | None:
    """``*B`` where the loss gives one loss per step ``[T, *B]`` of targets per step, else None; from shapes alone."""

    def losses(params: Any, carry: Any, batch: Batch) -> jax.Array:
        ys = layer.unroll(params, carry, batch.xs, reset=batch.reset, mask=batch.mask)[1]
        return loss(ys, batch.targets)

    whole = jax.eval_shape(losses, params, carry, batch).shape
    length = num_steps(batch.xs)
    if whole[:1] != (length,):
        return None
    if any(jnp.shape(leaf)[: len(whole)] != whole for leaf in jax.tree.leaves(batch.targets)):
        return None
    first = jax.tree.map(lambda a: a[:1], batch)
    try:
        found = jax.eval_shape(losses, params, carry, first).shape
    except (
        TypeError,
        ValueError,
    ):  # of B = T sequences: one step has a target, and as many outputs as before
        return None
    return whole[1:] if found == (1, *whole[1:]) else None


# ---------------------------------------------------------------- sums over windows


def no_estimate(shapes: Any, like: Any) -> Any:
    """A sum before the first of its terms, in float32 at least."""
    return zeros(jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, wide(a.dtype)), shapes), like)


def added(sums: Any, found: Any) -> Any:
    """The sum of two trees, in the dtypes of the first."""
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, found)


def as_params(estimate: Estimate, params: Any) -> Estimate:
    """The estimate with gradients in the dtypes of the params."""
    return estimate._replace(
        gradients=jax.tree.map(lambda g, p: g.astype(p.dtype), estimate.gradients, params)
    )
