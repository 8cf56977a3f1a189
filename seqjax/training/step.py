r"""One training step: the gradient of the mean loss over a batch, and the update of an optimizer.

With losses :math:`\ell_i` that count, of which there are n, the step descends along

.. math::
    g = \frac1n \sum_{i=1}^n \nabla_\theta \ell_i(\theta)

on many devices as on one. Each device sums over its own part of the batch, and totals, counts and gradients are added
up before the division. A mean of the means of all devices would weight a sequence by the masked steps of its
neighbors.

The parts are in files of their own: `gradient_sums.py` sums losses and gradients, `nonfinite.py` guards the update, and
`metrics.py` says what a step reports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from seqjax.base import Batch, Estimator, Layer
from seqjax.checks import check_whole
from seqjax.gradients.bptt import full_bptt
from seqjax.gradients.objective import Loss
from seqjax.training.gradient_sums import sums_in_turn, sums_over
from seqjax.training.metrics import Metrics, Probe, check_probes
from seqjax.training.nonfinite import all_finite, choose, guarded_update, norm
from seqjax.training.optimizers import as_optimizer
from seqjax.training.precision import (
    FLOAT32,
    Precision,
    check_precision,
    computing,
    loss_factor,
    next_scale,
    without,
)
from seqjax.training.sharding import axes_of, batch_specs, check_micro_batches, places, put, with_auto_axes
from seqjax.training.state import TrainState, check_kinds, state_specs


@dataclass(frozen=True)
class TrainStep:
    """A compiled training step ``(state, batch) -> (state, metrics)``; `make_train_step` returns it.

    ``lower(state, batch)`` lowers the step as ``jax.jit`` does, from arrays or ShapeDtypeStructs.
    ``lower(...).compile()`` shows the memory and the communication of a step.
    """

    mesh: Mesh | None
    estimator: Estimator
    precision: Precision
    jitted: Any = field(repr=False)
    model: Layer | None = field(default=None, repr=False)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        places = self._places(state, batch)
        if places is not None:  # arrays that have their sharding already are not copied
            state, batch = put((state, batch), places)
        return self.jitted(*state, batch)

    def lower(self, state: TrainState, batch: Batch) -> jax.stages.Lowered:
        places = self._places(state, batch)

        def placed(leaf: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

        if places is not None:
            state, batch = jax.tree.map(placed, (state, batch), places)
        return self.jitted.lower(*state, batch)

    def _places(self, state: TrainState, batch: Batch) -> Any:
        """Check state and batch, and return their shardings; None without a mesh."""
        if not isinstance(state, TrainState):
            raise TypeError(
                f"train step: expected a TrainState, got {type(state).__name__}. Make one with init_train_state."
            )
        if not isinstance(batch, Batch):
            raise TypeError(
                f"train step: expected a Batch, got {type(batch).__name__}. Write Batch(xs, targets)."
            )
        if self.estimator.streaming == (state.estimator_state is None):
            raise ValueError(
                f"train step: expected a TrainState for {self.estimator!r}, got one for another estimator. Make one "
                f"with init_train_state(..., estimator={self.estimator!r})."
            )
        if (self.precision.loss_scale is None) != (state.loss_scale is None):
            raise ValueError(
                f"train step: expected a TrainState for {self.precision!r}, got one for another precision. Make one "
                "with init_train_state(..., precision=...)."
            )
        for leaf in jax.tree.leaves(batch.xs):
            if not np.shape(leaf) or not np.shape(leaf)[0]:
                raise ValueError(
                    f"train step: expected xs [T, *B, ...] with T of at least 1, got {list(np.shape(leaf))}."
                )
        if self.mesh is None:
            return None
        axes = axes_of(self.mesh)
        specs = (state_specs(state, axes), batch_specs(batch, axes.batch, axes.time))
        return places(self.mesh, specs)


def make_train_step(
    model: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    estimator: Estimator = full_bptt(),  # noqa: B008 (a frozen value)
    mesh: Mesh | None = None,
    accumulate: int = 1,
    precision: Precision = FLOAT32,
    probes: Mapping[str, Probe] | None = None,
) -> TrainStep:
    r"""Return a compiled training step ``(state, batch) -> (state, metrics)``, pure except that it donates the state.

    By default each batch starts from the initial carry of the model and is differentiated through its whole length T.
    With a streaming estimator (`truncated_bptt`, `rtrl` and other online ones) each batch continues the one before:
    row b of all batches is one stream, and ``batch.reset`` says where a sequence begins. Make the state for such an
    estimator with ``init_train_state(..., estimator=...)``.

    The state, except its key, is donated: the new state reuses its memory, and the old state cannot be read again.

    Shapes: batch.xs ``[T, *B, ...]``; reset, mask ``[T, *B]``; context ``[*B, ...]``, for a model with a condition such
    as `seqjax.encoder_decoder`; targets whatever the loss takes.

    The names of the axes of a mesh say what they split. "data" splits the first batch axis B. "fsdp" splits B, and
    shards params and optimizer state leaf by leaf (`seqjax.training.sharding`). "time" splits the steps T, for models
    whose recurrent layers and attention have the method `seqjax.TimeSharded` (see `Layer.time_shardable`), with losses
    per step and `full_bptt`. A single axis of another name splits the batch. The step shards state and batch
    itself; for several processes see `seqjax.training.distributed`. The result equals that of one device to rounding,
    except for noise: device i of several draws noise for its part of the batch from ``fold_in(key, i)``, so the noise
    depends on the number of devices.

    Targets are split by their shape. A leaf that begins with ``[T, B]`` holds targets per step and is split on its
    second axis; any other leaf that begins with ``[B]`` holds targets per sequence and is split on its first axis.
    Targets per sequence ``[B, B, ...]`` in a batch of T = B steps would therefore be read as targets per step. Expand
    them to ``[B, 1, B, ...]``, or choose another T.

    With ``accumulate=n`` each device computes n micro-batches of B/n rows one after another. The result equals that of
    the whole batch to rounding, in the memory of one micro-batch and still with one sum over the devices. Micro-batch i
    draws its noise from ``fold_in(key, i)``.

    A step makes no update when the loss, the norm of the gradient or the last carry of a stream is not finite. Params,
    opt_state, carry and estimator_state stay as they were; ``step`` increases, so that the next batch comes, and
    ``state.skipped`` and ``state.consecutive`` count the step. Streams then have a gap of one batch: they continue from
    the carry before the skipped batch. A sequence that began in the gap continues from the end of an earlier sequence,
    up to the next reset. When an optimizer makes a non-finite update from a finite gradient, the step counts as skipped
    as well, but the optimizer keeps its new state, since the optimizer caused it.

    The optimizer transforms the gradients: ``optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))`` clips them
    by their global norm, `clip_by_layer_norm` layer by layer, and ``optax.adaptive_grad_clip`` by the weights of each
    unit. `average_params` keeps an exponential average of the params. `parameter_labels` labels the params of
    recurrences.

    Args:
        model: the model.
        loss: ``(ys, targets) -> losses``: one per step ``[T, *B]``, losses of the shape of ys, which are averaged over
            their own axes, or one per sequence ``[*B]``. The step minimizes the mean over the steps that are not
            masked. A scalar is minimized as it is, on one device and without micro-batches only, because it may be a
            mean or a sum of any number of terms. A loss ``(ys, targets, mask) -> losses`` gets the mask; a loss per
            sequence or a scalar must take it when batches have one. See `seqjax.gradients.objective`.
        optimizer: an optax optimizer, or an ``optax.MultiSteps``. Optimizers that want the loss, such as
            ``optax.contrib.reduce_on_plateau``, get its mean; line searches, which evaluate the loss, are refused.
        estimator: how gradients flow through time; see `seqjax.gradients`.
        mesh: the devices; None for one.
        accumulate: the number of micro-batches; it must divide B on each device.
        precision: the dtypes of the computation; see `Precision`, and make the state for it with
            ``init_train_state(..., precision=...)``.
        probes: functions ``(params, gradients, updates) -> pytree`` by name, such as `gradient_norms`;
            ``metrics.probes`` holds their results.

    Returns:
        The step. Its `Metrics` are computed with the params before the update. A batch without any loss that counts has
        a loss and a gradient of zero.

    Raises:
        TypeError: for another kind of model, optimizer, estimator, mesh, precision or probes; the step raises it for
            another kind of state or batch, and for updates of other shapes than the params.
        ValueError: for a mesh of several axes with none of these names, another estimator with a time axis, or
            accumulate below 1. The step raises it for a state of another estimator or precision, a batch that does not
            divide among the devices or into micro-batches, losses of another shape,
            or a loss that does not split with the batch.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj, flax.linen as nn
        >>> from seqjax.training import init_train_state, make_train_step
        >>> model = sj.serial(sj.pointwise(nn.Embed(5, 8)), sj.recurrent(sj.lstm(8)), sj.pointwise(nn.Dense(5)))
        >>> optimizer = optax.adam(1e-2)
        >>> tokens = jnp.arange(44).reshape(11, 4) % 5
        >>> batch = sj.Batch(xs=tokens[:-1], targets=tokens[1:])
        >>> step = make_train_step(model, optax.softmax_cross_entropy_with_integer_labels, optimizer)
        >>> state = init_train_state(model, optimizer, jax.random.key(0), batch.xs[0])
        >>> for _ in range(100):
        ...     state, metrics = step(state, batch)
        >>> int(state.step), bool(metrics.loss < 0.1)
        (100, True)

        With every batch split over all devices:

        >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
        >>> step = make_train_step(model, optax.softmax_cross_entropy_with_integer_labels, optimizer, mesh=mesh)
    """
    optimizer = as_optimizer("make_train_step", optimizer)
    check_kinds("make_train_step", model, estimator)
    check_whole("make_train_step(accumulate)", accumulate)
    check_precision("make_train_step", precision)
    model = computing(model, precision)
    probes = check_probes(probes)
    axes = None if mesh is None else axes_of(mesh)
    if mesh is None or axes is None:
        sums, devices = sums_in_turn(model, loss, estimator, accumulate), 1
    else:
        mesh = with_auto_axes(mesh)
        sums, devices = sums_over(model, loss, estimator, mesh, accumulate), axes.num_batch

    def train_step(*state_and_batch: Any) -> tuple[TrainState, Metrics]:
        old, batch = TrainState(*state_and_batch[:-1]), state_and_batch[-1]
        check_micro_batches(batch, accumulate, devices)
        noise = None if old.key is None else jax.random.fold_in(old.key, old.step)
        factor = loss_factor(old.loss_scale, model, loss, old.params, batch)
        estimate, carry, estimator_state = sums(
            old.params, old.carry, old.estimator_state, batch, noise, factor
        )
        total, count, gradients = without(factor, estimate)
        count = jnp.maximum(count, 1)
        # For complex params JAX returns the conjugate of the direction of steepest ascent.
        gradients = jax.tree.map(lambda g: (jnp.conj(g) / count).astype(g.dtype), gradients)
        size = norm(gradients)
        whole = all_finite(total, size)
        params, opt_state, updates, finite = guarded_update(
            optimizer, whole, gradients, old.opt_state, old.params, total / count
        )
        carry, estimator_state = choose(finite, (carry, estimator_state), (old.carry, old.estimator_state))
        skipped, consecutive, loss_scale = old.skipped + ~finite, old.consecutive + 1, old.loss_scale
        if loss_scale is not None:
            overflow = all_finite(total) & ~whole & (loss_scale.scale > 1)
            consecutive -= overflow
            loss_scale = next_scale(loss_scale, precision.growth_interval, finite, overflow)
        consecutive = jnp.where(finite, 0, consecutive)
        state = TrainState(
            params=params,
            opt_state=opt_state,
            step=old.step + 1,
            key=old.key,
            carry=carry,
            estimator_state=estimator_state,
            skipped=skipped,
            consecutive=consecutive,
            loss_scale=loss_scale,
        )
        if mesh is not None and axes is not None:
            # The new state gets the shardings of the old one, so that the next step compiles no new program.
            state = jax.lax.with_sharding_constraint(state, places(mesh, state_specs(state, axes)))
        found = {name: probe(old.params, gradients, updates) for name, probe in probes.items()}
        return state, Metrics(total / count, size, finite, consecutive, found)

    # The key is not donated: it is small, does not change, and is likely to be used elsewhere.
    donated = tuple(i for i, name in enumerate(TrainState._fields) if name != "key")
    jitted = jax.jit(train_step, donate_argnums=donated)
    return TrainStep(mesh, estimator, precision, jitted, model)
