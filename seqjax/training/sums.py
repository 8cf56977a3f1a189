"""Sums of losses and gradients over a batch: whole, in micro-batches one after another, over the devices of a mesh.

Adding up over the devices is a step's only communication: one all-reduce, or at most one per dtype among params and
losses. That needs care: differentiating a loop by params that all devices share sums each step's gradient over the
devices inside the backward loop, one all-reduce per time step. Here each device differentiates by a copy of its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from seqjax.base import Batch, Estimate, Estimator, Layer
from seqjax.compat import vary_like
from seqjax.gradients.objective import Loss
from seqjax.gradients.windows import added, as_params, no_estimate
from seqjax.layers import first_step
from seqjax.training.guard import all_finite
from seqjax.training.precision import scaled
from seqjax.training.sharding import batch_specs, data_axis

Sums = Callable[[Any, Any, Any, Batch, Any, Any], tuple[Estimate, Any, Any]]
"""``(params, carry, estimator_state, batch, key, factor) -> (Estimate, carry, estimator_state)``.

The factor, a scalar or None, multiplies each loss, and so total and gradients.
"""


def sums_of(model: Layer, loss: Loss, estimator: Estimator) -> Sums:
    """The sums over a batch as the estimator gives them.

    Streams that end in what is not finite, though no loss that counts has seen it, make the total NaN, so that the step
    is skipped: no later step could be finite.
    """

    def sums(
        params: Any, carry: Any, state: Any, batch: Batch, key: Any, factor: Any
    ) -> tuple[Estimate, Any, Any]:
        init, update = estimator.bind(model, scaled(loss, factor))
        if estimator.streaming:
            estimate, *streams = update(params, carry, state, batch, key=key)
            total = jnp.where(all_finite(streams), estimate.total, jnp.nan)
            return estimate._replace(total=total), *streams
        # In here the initial carry is made anew, because a learned one has a gradient.
        estimate, _, _ = update(params, None, init(params, None, first_step(batch.xs)), batch, key=key)
        return estimate, None, None

    return sums


def sums_in_turn(model: Layer, loss: Loss, estimator: Estimator, number: int) -> Sums:
    """`sums_of` the whole batch, from so many micro-batches of neighbouring rows, in a loop: memory for one of them.

    Row b is in micro-batch ``b // (B / number)``; micro-batch i draws its noise from ``fold_in(key, i)``.
    """
    if number == 1:
        return sums_of(model, loss, estimator)

    def sums(
        params: Any, carry: Any, state: Any, batch: Batch, key: Any, factor: Any
    ) -> tuple[Estimate, Any, Any]:
        specs = batch_specs(batch, "turn", number)
        checked = splitting(loss, specs.targets, "turn", number, f"into {number} micro-batches", "for one")
        sums_of_part = sums_of(model, checked, estimator)

        def turns(leaf: Any, axis: int = 0) -> jax.Array:
            shape = (*leaf.shape[:axis], number, leaf.shape[axis] // number, *leaf.shape[axis + 1 :])
            return jnp.moveaxis(jnp.reshape(leaf, shape), axis, 0)

        def of_turn(index: Any, batch: Batch, carry: Any, state: Any) -> tuple[Estimate, Any, Any]:
            noise = None if key is None else jax.random.fold_in(key, index)
            return sums_of_part(params, carry, state, batch, noise, factor)

        def turn(so_far: Estimate, part: Any) -> Any:
            found, *streams = of_turn(*part)
            return added(so_far, found), streams

        split = jax.tree.map(lambda leaf, spec: turns(leaf, spec.index("turn")), batch, specs)
        parts = (jnp.arange(number), split, *jax.tree.map(turns, (carry, state)))
        found = jax.eval_shape(lambda part: of_turn(*part)[0], jax.tree.map(lambda a: a[0], parts))
        total, streams = jax.lax.scan(turn, no_estimate(found, batch.xs), parts)
        carry, state = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), streams)
        return as_params(total, params), carry, state

    return sums


def sums_over(model: Layer, loss: Loss, estimator: Estimator, mesh: Mesh, number: int = 1) -> Sums:
    """`sums_in_turn` of the whole batch, each device working on its own part of it.

    What they find is added up after all loops, so that they speak once, whatever the number of micro-batches.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"make_train_step(mesh): expected a jax.sharding.Mesh, got {type(mesh).__name__}. "
            'Write jax.make_mesh((jax.device_count(),), ("data",)).'
        )
    axis = data_axis(mesh)
    size = mesh.shape[axis]

    def sums(
        params: Any, carry: Any, state: Any, batch: Batch, key: Any, factor: Any
    ) -> tuple[Estimate, Any, Any]:
        of_batch = batch_specs(batch, axis, size)

        def of_part(
            params: Any, carry: Any, state: Any, part: Batch, key: Any, factor: Any
        ) -> tuple[Estimate, Any, Any]:
            if key is not None and size > 1:
                key = jax.random.fold_in(key, jax.lax.axis_index(axis))
            # A copy for each device, made before any loop: gradients by it are the device's own.
            params = vary_like(params, part.xs)
            where = f"over the {size} devices of mesh axis '{axis}'"
            checked = splitting(loss, of_batch.targets, axis, size, where, "on one device")
            sums_of_part = sums_in_turn(model, checked, estimator, number)
            estimate, *streams = vary_like(sums_of_part(params, carry, state, part, key, factor), part.xs)
            return jax.lax.psum(estimate, axis), *streams

        same, split = PartitionSpec(), PartitionSpec(axis)
        specs = (same, split, split, of_batch, same, same)
        run = jax.shard_map(of_part, mesh=mesh, in_specs=specs, out_specs=(same, split, split))
        return run(params, carry, state, batch, key, factor)

    return sums


def splitting(loss: Loss, specs: Any, axis: str, size: int, how: str, part_name: str) -> Loss:
    """The loss, checked to have as many entries for the whole batch as for its parts together."""

    def checked(ys: Any, part: Any) -> jax.Array:
        losses = loss(ys, part)
        whole_ys = jax.tree.map(
            lambda y: jax.ShapeDtypeStruct((y.shape[0], size * y.shape[1], *y.shape[2:]), y.dtype), ys
        )

        def of_all(target: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
            shape = [size * n if i == spec.index(axis) else n for i, n in enumerate(target.shape)]
            return jax.ShapeDtypeStruct(tuple(shape), target.dtype)

        whole_targets = jax.tree.map(of_all, part, specs)
        whole = jax.eval_shape(loss, whole_ys, whole_targets)
        if losses.size * size != whole.size:
            raise ValueError(
                f"make_train_step(loss): expected losses per step [T, B] or per sequence [B], which split with the "
                f"batch {how}, got {list(whole.shape)} for the whole batch and {list(losses.shape)} {part_name}. "
                "Return every loss instead of a sum or mean over the batch."
            )
        return losses

    return checked
