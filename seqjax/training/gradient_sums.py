"""Sum losses and gradients over a batch: as a whole, in micro-batches one after another, or over the devices of a mesh.

The devices communicate only to add up their sums: by one all-reduce, or at most one per dtype among params and losses.
Sharded params need one all-gather and one reduce-scatter besides (`fsdp.py`). If all devices differentiated a loop by
the same params, JAX would add up gradients inside the backward loop, by one all-reduce per time step. Each device
therefore differentiates by its own copy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from seqjax.base import Batch, Estimate, Estimator, Layer
from seqjax.compat import vary_like
from seqjax.gradients.bptt import full_bptt
from seqjax.gradients.conditioning import conditioned_on
from seqjax.gradients.objective import Leads, Loss, Losses, call_loss, losses_of
from seqjax.gradients.windows import added, as_params, no_estimate
from seqjax.inputs import first_step
from seqjax.training.fsdp import added_up, gathered
from seqjax.training.nonfinite import all_finite
from seqjax.training.precision import scaled
from seqjax.training.sharding import axes_of, batch_specs, check_in_parts, share_specs, stream_spec

Sums = Callable[[Any, Any, Any, Batch, Any, Any], tuple[Estimate, Any, Any]]
"""``(params, carry, estimator_state, batch, key, factor) -> (Estimate, carry, estimator_state)``.

The factor, a scalar or None, multiplies each loss and therefore the total and the gradients.
"""


def sums_of(model: Layer, loss: Loss, estimator: Estimator) -> Sums:
    """Return the sums over a batch by an estimator.

    When a stream ends in a carry that is not finite, the total is NaN even if every loss is finite. The step is then
    skipped, because no later step could be finite.
    """

    def sums(
        params: Any, carry: Any, state: Any, batch: Batch, key: Any, factor: Any
    ) -> tuple[Estimate, Any, Any]:
        if estimator.streaming and (batch.context is not None or model.condition is not None):
            raise ValueError(
                f"train step: expected an estimator that begins each batch anew, such as full_bptt(), since a context "
                f"belongs to one batch, got {estimator!r}, which continues each row from batch to batch, for {model!r}."
            )
        layer, batch = conditioned_on("train step", model, batch, key)
        init, update = estimator.bind(layer, scaled(loss, factor))
        if estimator.streaming:
            estimate, *streams = update(params, carry, state, batch, key=key)
            total = jnp.where(all_finite(streams), estimate.total, jnp.nan)
            return estimate._replace(total=total), *streams
        # The initial carry is made inside the estimator, because a learned one has a gradient.
        estimate, _, _ = update(params, None, init(params, None, first_step(batch.xs)), batch, key=key)
        return estimate, None, None

    return sums


def sums_in_turn(model: Layer, loss: Loss, estimator: Estimator, number: int) -> Sums:
    """Return `sums_of` for the whole batch, by a loop over micro-batches of neighboring rows.

    The loop needs the memory of one micro-batch.

    Row b is in micro-batch ``b // (B / number)``; micro-batch i draws its noise from ``fold_in(key, i)``.
    """
    if number == 1:
        return sums_of(model, loss, estimator)

    def sums(
        params: Any, carry: Any, state: Any, batch: Batch, key: Any, factor: Any
    ) -> tuple[Estimate, Any, Any]:
        specs = batch_specs(batch, {"turn": number})
        checked = Splitting(loss, specs, {"turn": number}, f"into {number} micro-batches", "for one")
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
    """Return `sums_in_turn` for the whole batch, with each device working on its own part.

    Sharded params are gathered before all loops, and the sums of the devices are added up after them. Devices therefore
    communicate once, whatever the number of micro-batches. The gradients are sharded as the params are.
    """
    axes = axes_of(mesh)
    if axes.time:
        check_in_parts(model)
        if estimator != full_bptt():
            raise ValueError(
                f"make_train_step(estimator): expected full_bptt() with a mesh axis 'time', got {estimator!r}, which "
                "cuts sequences itself. Leave the axis out."
            )

    def sums(
        params: Any, carry: Any, state: Any, batch: Batch, key: Any, factor: Any
    ) -> tuple[Estimate, Any, Any]:
        of_batch = batch_specs(batch, axes.batch, axes.time)
        of_params = share_specs(params, axes)
        names = tuple(axes.sizes)

        def of_part(
            params: Any, carry: Any, state: Any, part: Batch, key: Any, factor: Any
        ) -> tuple[Estimate, Any, Any]:
            if key is not None and math.prod(axes.sizes.values()) > 1:
                key = jax.random.fold_in(key, jax.lax.axis_index(names))
            # Each device has its own copy, made before any loop, so that its gradient is not summed inside the loops.
            params = vary_like(gathered(params, of_params), part.xs)
            devices = "devices of mesh axis " + " and ".join(f"'{name}'" for name in names)
            where = f"over the {math.prod(axes.sizes.values())} {devices}"
            checked = Splitting(loss, of_batch, axes.sizes, where, "on one device")
            sums_of_part = sums_in_turn(model, checked, estimator, number)
            estimate, *streams = vary_like(sums_of_part(params, carry, state, part, key, factor), part.xs)
            return added_up(estimate, of_params, names), *streams

        same, split = PartitionSpec(), stream_spec(axes)
        of_estimate = Estimate(same, same, of_params)
        specs = (of_params, split, split, of_batch, same, same)
        run = jax.shard_map(of_part, mesh=mesh, in_specs=specs, out_specs=(of_estimate, split, split))
        return run(params, carry, state, batch, key, factor)

    return sums


@dataclass(frozen=True)
class Splitting(Losses):
    """The loss with a check: the whole batch must have as many losses as its parts together."""

    loss: Loss
    specs: Batch
    sizes: dict[str, int]
    how: str
    part_name: str

    def __call__(self, ys: Any, targets: Any, mask: Any = None) -> jax.Array:
        return call_loss(self.loss, ys, targets, mask)

    def of(self, ys: Any, targets: Any, mask: Any, leads: Leads) -> jax.Array:
        of_steps = jax.tree.leaves(self.specs.xs)[0]
        whole_ys, whole_mask = jax.tree.map(lambda y: self._whole(y, of_steps), (ys, mask))
        whole_targets = jax.tree.map(self._whole, targets, self.specs.targets)
        whole_leads = tuple(self._whole(jax.ShapeDtypeStruct(lead, bool), of_steps).shape for lead in leads)
        whole = jax.eval_shape(
            lambda ys, targets, mask: losses_of(self.loss, ys, targets, mask, whole_leads),
            whole_ys,
            whole_targets,
            whole_mask,
        )
        losses = losses_of(self.loss, ys, targets, mask, leads)
        if losses.size * math.prod(self.sizes.values()) != whole.size:
            sequences = "" if of_steps[0] else " or per sequence [B]"
            raise ValueError(
                f"make_train_step(loss): expected losses per step [T, B]{sequences}, which split with the batch "
                f"{self.how}, got {list(whole.shape)} for the whole batch and {list(losses.shape)} {self.part_name}. "
                "Return every loss instead of a sum or mean over the batch."
            )
        return losses

    def _whole(self, part: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        """Return the shape of an array of the whole batch, from a part of it."""
        entries = [() if e is None else (e,) if isinstance(e, str) else e for e in spec]
        entries += [()] * (part.ndim - len(entries))
        sizes = zip(part.shape, entries[: part.ndim], strict=True)
        shape = [n * math.prod(self.sizes[name] for name in e) for n, e in sizes]
        return jax.ShapeDtypeStruct(tuple(shape), part.dtype)
