r"""One step of training: the gradient of the mean loss over a batch, and what an optimizer makes of it.

With losses :math:`\ell_i` that count, of which there are n, the step descends along

.. math::
    g = \frac1n \sum_{i=1}^n \nabla_\theta \ell_i(\theta)

over many devices as over one: each device forms the sum over its own part of the batch, and totals, counts and
gradients are added up before the division. A mean of the devices' means would weight a sequence by how many masked
steps its neighbours have.

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
    """``(state, batch) -> (state, metrics)``, compiled; what `make_train_step` returns.

    ``lower(state, batch)`` is that of ``jax.jit``, from arrays or ShapeDtypeStructs: ``lower(...).compile()`` tells the
    memory and the communication of a step.
    """

    mesh: Mesh | None
    estimator: Estimator
    precision: Precision
    jitted: Any = field(repr=False)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        places = self._places(state, batch)
        if places is not None:  # what is in its place already stays as it is
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
        """The shardings of both, None without a mesh; an error where they cannot be right."""
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
    r"""A compiled training step ``(state, batch) -> (state, metrics)``, pure but for its memory.

    By default each batch starts from the model's initial carry and is differentiated through its whole length T. With
    a streaming estimator (`truncated_bptt`, `rtrl` and other online ones) a batch goes on where the one before ended:
    row b of all batches is one stream, and ``batch.reset`` says where a sequence begins. Make the state for it with
    ``init_train_state(..., estimator=...)``.

    The state, but for its key, is donated: its memory is reused for the new one, and the old one cannot be read again.

    Shapes: batch.xs ``[T, *B, ...]``; reset, mask ``[T, *B]``; targets whatever the loss takes.

    With a mesh, what its axes split is told by their names: "data" the first batch axis B; "fsdp" B, and params and
    optimizer state as well, leaf by leaf (`seqjax.training.sharding`); "time" the steps T, for models whose recurrent
    layers have the method `seqjax.TimeSharded` and whose other layers act on each step by itself, with losses per step
    and `full_bptt`. An only axis of another name is for data. The step puts state and batch in their places; with
    several processes see `seqjax.training.distributed`. The result is that of one device, to rounding, but for noise: a
    layer draws it for its own part of the batch, so that device i of several draws from ``fold_in(key, i)``, and what
    is drawn depends on the number of devices.

    Targets are split by their shape. A leaf that begins with ``[T, B]`` holds targets per step, and is split on its
    second axis; any other that begins with ``[B]`` holds targets per sequence, and is split on its first. So targets
    per sequence ``[B, B, ...]`` in a batch of T = B steps would be taken for targets per step; expand them to
    ``[B, 1, B, ...]``, or take another T.

    With ``accumulate=n`` the batch is worked on in n micro-batches of B/n rows, on each device, one after another: the
    result is that of the whole batch, to rounding, in the memory of one micro-batch, and still with one addition over
    the devices. Noise is drawn for each, from ``fold_in(key, i)``.

    A step makes no update where the loss, the norm of its gradient or the ends of streams are not finite: params,
    opt_state, carry and estimator_state stay as they were, as if there had been no such batch; ``step`` goes on, so
    that the next batch comes, and ``state.skipped`` and ``state.consecutive`` count it. Streams thus have a gap of one
    batch: they go on from where the batch before it ended; if a sequence began in the gap, what remains of it is
    entered with the end of the one before, up to the next reset. Where an optimizer makes something that is not finite
    of a finite gradient, the step counts as skipped as well, but for the state of the optimizer, whose doing it is.

    The optimizer says what happens to gradients: ``optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))``
    clips them by their global norm, `clip_by_layer_norm` layer by layer, ``optax.adaptive_grad_clip`` by the weights of
    each unit; `average_params` keeps an exponential average of the params, and `parameter_labels` tells the parameters
    of state spaces from others.

    Args:
        model: the model.
        loss: ``(ys, targets) -> losses``, one per step ``[T, *B]``, of which the mean is taken over the steps that
            happened, or one per sequence ``[*B]``. A scalar is minimised as it is, on one device and in one piece
            only: whether it is a mean or a sum, and of how many terms, cannot be known.
        optimizer: an optax optimizer.
        estimator: how gradients flow through time; see `seqjax.gradients`.
        mesh: the devices; None for one.
        accumulate: the number of micro-batches, by which B must be divisible, on each device.
        precision: the dtypes of the computation; see `Precision`, and make the state for it with
            ``init_train_state(..., precision=...)``.
        probes: functions ``(params, gradients, updates) -> pytree`` by name, such as `gradient_norms`; what they find
            is in ``metrics.probes``.

    Returns:
        The step. Its `Metrics` are from before the update. A batch without any step that counts has a loss and a
        gradient of zero.

    Raises:
        TypeError: for another kind of model, optimizer, estimator, mesh, precision or probes; from the step, of state
            or batch.
        ValueError: for a mesh of several axes with none of these names, another estimator with a time axis, or
            accumulate below 1; from the step, for a state of another estimator or precision, a batch that does not
            divide among the devices or into micro-batches, or a loss that does not split with it.

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
    check_kinds("make_train_step", model, optimizer, estimator)
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
            optimizer, whole, gradients, old.opt_state, old.params
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
            # Results have a fixed place, so that the next step finds its state where this one did.
            state = jax.lax.with_sharding_constraint(state, places(mesh, state_specs(state, axes)))
        found = {name: probe(old.params, gradients, updates) for name, probe in probes.items()}
        return state, Metrics(total / count, size, finite, consecutive, found)

    # The key is not donated: it is small, goes on unchanged, and is likely to be used elsewhere.
    donated = tuple(i for i, name in enumerate(TrainState._fields) if name != "key")
    jitted = jax.jit(train_step, donate_argnums=donated)
    return TrainStep(mesh, estimator, precision, jitted)
