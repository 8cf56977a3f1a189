r"""One step of training: the gradient of the mean loss over a batch, and what an optimizer makes of it.

With losses :math:`\ell_i` that count, of which there are n, the step descends along

.. math::
    g = \frac1n \sum_{i=1}^n \nabla_\theta \ell_i(\theta)

over many devices as over one: each device forms the sum over its own part of the batch, and totals, counts and
gradients are added up before the division. A mean of the devices' means would weight a sequence by how many masked
steps its neighbours have.

The addition is the step's only communication: one all-reduce, or at most one per dtype among params and losses. That
needs care: differentiating a loop by params that all devices share sums each step's gradient over the devices inside
the backward loop, one all-reduce per time step. Here each device differentiates by a copy of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqjax.base import Batch, Cell, Estimate, Estimator, Layer
from seqjax.compat import vary_like
from seqjax.gradients.bptt import full_bptt
from seqjax.gradients.objective import Loss
from seqjax.layers import first_step
from seqjax.training.sharding import batch_specs, data_axis


class TrainState(NamedTuple):
    """What training carries from step to step; all of it is needed to resume, and nothing else.

    Attributes:
        params: the model's.
        opt_state: the optimizer's.
        step: how many steps were made, an int32 scalar.
        key: where noise comes from, the same in all steps, each of which draws from ``fold_in(key, step)``; None for
            deterministic training, without dropout.
        carry: of the model, leaves ``[B, ...]``, where streams go on from batch to batch; otherwise None.
        estimator_state: of the estimator, in the same case.
    """

    params: Any
    opt_state: Any
    step: Any
    key: Any
    carry: Any = None
    estimator_state: Any = None


class Metrics(NamedTuple):
    """Of one step, both from before the update: the mean loss, and the global 2-norm of its gradient."""

    loss: jax.Array
    gradient_norm: jax.Array


def init_train_state(
    model: Layer,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    x: Any,
    *,
    estimator: Estimator = full_bptt(),  # noqa: B008 (a frozen value)
) -> TrainState:
    """The state before the first step.

    Its arrays are all copies of their own, so that the step may reuse their memory.

    Args:
        model: the model.
        optimizer: an optax optimizer.
        key: for the initial params and, by a different part of it, for the noise in training.
        x: one time step of input ``[*B, ...]``; an array or a ShapeDtypeStruct.
        estimator: the step's.

    Raises:
        TypeError: for another kind of model, optimizer or estimator.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from seqjax.training import init_train_state
        >>> state = init_train_state(sj.recurrent(sj.elman(8)), optax.adam(1e-3), jax.random.key(0), jnp.ones((4, 3)))
        >>> state.params.w_x.shape, int(state.step)
        ((3, 8), 0)
        >>> deterministic = state._replace(key=None)
    """
    _check_kinds("init_train_state", model, optimizer, estimator)
    key_params, key_noise = jax.random.split(key)
    params = model.init(key_params, x)
    state = TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), key_noise)
    if estimator.streaming:
        carry = model.initial_carry(params, x)
        init, _ = estimator.bind(model, lambda ys, targets: ys)  # the state does not depend on the loss
        state = state._replace(carry=carry, estimator_state=init(params, carry, x))
    # Some optimizers begin with the params themselves, and a buffer cannot be donated twice. An explicit dtype makes
    # weakly typed leaves strong, as the step returns them: otherwise the second step would be compiled again.
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.asarray(leaf).dtype), state)


@dataclass(frozen=True)
class TrainStep:
    """``(state, batch) -> (state, metrics)``, compiled; what `make_train_step` returns.

    ``lower(state, batch)`` is that of ``jax.jit``, from arrays or ShapeDtypeStructs: ``lower(...).compile()`` tells the
    memory and the communication of a step.
    """

    mesh: Mesh | None
    estimator: Estimator
    jitted: Any = field(repr=False)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        places = self._places(state, batch)
        if places is not None:  # what is in its place already stays as it is
            state, batch = jax.device_put((state, batch), places)
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
        for leaf in jax.tree.leaves(batch.xs):
            if not np.shape(leaf) or not np.shape(leaf)[0]:
                raise ValueError(
                    f"train step: expected xs [T, *B, ...] with T of at least 1, got {list(np.shape(leaf))}."
                )
        if self.mesh is None:
            return None
        mesh, axis = self.mesh, data_axis(self.mesh)
        pairs = zip(state, state_specs(axis), strict=True)
        state_places = TrainState(*(jax.tree.map(lambda _, spec=spec: spec, part) for part, spec in pairs))
        specs = (state_places, batch_specs(batch, axis, mesh.shape[axis]))
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def make_train_step(
    model: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    estimator: Estimator = full_bptt(),  # noqa: B008 (a frozen value)
    mesh: Mesh | None = None,
) -> TrainStep:
    r"""A compiled training step ``(state, batch) -> (state, metrics)``, pure but for its memory.

    By default each batch starts from the model's initial carry and is differentiated through its whole length T. With
    a streaming estimator (`truncated_bptt`, `rtrl` and other online ones) a batch goes on where the one before ended:
    row b of all batches is one stream, and ``batch.reset`` says where a sequence begins. Make the state for it with
    ``init_train_state(..., estimator=...)``.

    The state, but for its key, is donated: its memory is reused for the new one, and the old one cannot be read again.

    Shapes: batch.xs ``[T, *B, ...]``; reset, mask ``[T, *B]``; targets whatever the loss takes.

    With a mesh, the first batch axis B is split over the mesh's axis "data", or over its only axis, and the state is
    the same on all devices. The step places both; with several processes, place the first state by making it in
    ``jax.jit(..., out_shardings=jax.NamedSharding(mesh, jax.P()))``. The result is that of one device, to rounding,
    but for noise: a layer draws it for its own part of the batch, so that device i of several draws from
    ``fold_in(key, i)``, and what is drawn depends on the number of devices.

    Targets are split by their shape. A leaf that begins with ``[T, B]`` holds targets per step, and is split on its
    second axis; any other that begins with ``[B]`` holds targets per sequence, and is split on its first. So targets
    per sequence ``[B, B, ...]`` in a batch of T = B steps would be taken for targets per step; expand them to
    ``[B, 1, B, ...]``, or take another T.

    Args:
        model: the model.
        loss: ``(ys, targets) -> losses``, one per step ``[T, *B]``, of which the mean is taken over the steps that
            happened, or one per sequence ``[*B]``. A scalar is minimised as it is, on one device only: whether it is a
            mean or a sum, and of how many terms, cannot be known.
        optimizer: an optax optimizer.
        estimator: how gradients flow through time; see `seqjax.gradients`.
        mesh: the devices; None for one.

    Returns:
        The step. Its metrics are the mean loss and the norm of its gradient, before the update. A batch without any
        step that counts has a loss and a gradient of zero.

    Raises:
        TypeError: for another kind of model, optimizer, estimator or mesh; from the step, of state or batch.
        ValueError: for a mesh of several axes none of which is "data"; from the step, for a state of another estimator,
            a batch that does not divide among the devices, or a loss that does not split with it.

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
    _check_kinds("make_train_step", model, optimizer, estimator)
    sums = _sums_of(model, loss, estimator) if mesh is None else _sums_over(model, loss, estimator, mesh)

    def train_step(
        params: Any, opt_state: Any, step: Any, key: Any, carry: Any, estimator_state: Any, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        noise = None if key is None else jax.random.fold_in(key, step)
        estimate, carry, estimator_state = sums(params, carry, estimator_state, batch, noise)
        total, count, gradients = estimate
        count = jnp.maximum(count, 1)
        # For complex params JAX returns the conjugate of the direction of steepest ascent.
        gradients = jax.tree.map(lambda g: (jnp.conj(g) / count).astype(g.dtype), gradients)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        state = TrainState(params, opt_state, step + 1, key, carry, estimator_state)
        return state, Metrics(total / count, optax.tree.norm(gradients))

    # Results have a fixed place, so that the next step finds its state where this one did. The key is not donated: it
    # is small, goes on unchanged, and is likely to be used elsewhere.
    shardings = None
    if mesh is not None:
        specs = (state_specs(data_axis(mesh)), PartitionSpec())
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    jitted = jax.jit(train_step, donate_argnums=(0, 1, 2, 4, 5), out_shardings=shardings)
    return TrainStep(mesh, estimator, jitted)


# ---------------------------------------------------------------- sums over a batch


Sums = Callable[[Any, Any, Any, Batch, Any], tuple[Estimate, Any, Any]]


def _sums_of(model: Layer, loss: Loss, estimator: Estimator) -> Sums:
    """``(params, carry, estimator_state, batch, key) -> (Estimate, carry, estimator_state)``."""
    init, update = estimator.bind(model, loss)

    def sums(params: Any, carry: Any, state: Any, batch: Batch, key: Any) -> tuple[Estimate, Any, Any]:
        if estimator.streaming:
            return update(params, carry, state, batch, key=key)
        # In here the initial carry is made anew, because a learned one has a gradient.
        estimate, _, _ = update(params, None, init(params, None, first_step(batch.xs)), batch, key=key)
        return estimate, None, None

    return sums


def _sums_over(model: Layer, loss: Loss, estimator: Estimator, mesh: Mesh) -> Sums:
    """`_sums_of` the whole batch, each device working on its own part of it."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"make_train_step(mesh): expected a jax.sharding.Mesh, got {type(mesh).__name__}. "
            'Write jax.make_mesh((jax.device_count(),), ("data",)).'
        )
    axis = data_axis(mesh)
    size = mesh.shape[axis]

    def sums(params: Any, carry: Any, state: Any, batch: Batch, key: Any) -> tuple[Estimate, Any, Any]:
        of_batch = batch_specs(batch, axis, size)

        def of_part(params: Any, carry: Any, state: Any, part: Batch, key: Any) -> tuple[Estimate, Any, Any]:
            if key is not None and size > 1:
                key = jax.random.fold_in(key, jax.lax.axis_index(axis))
            # A copy for each device, made before any loop: gradients by it are the device's own.
            params = vary_like(params, part.xs)
            sums_of_part = _sums_of(model, _splitting(loss, of_batch.targets, axis, size), estimator)
            estimate, *streams = vary_like(sums_of_part(params, carry, state, part, key), part.xs)
            return jax.lax.psum(estimate, axis), *streams

        same, split = PartitionSpec(), PartitionSpec(axis)
        specs = (same, split, split, of_batch, same)
        run = jax.shard_map(of_part, mesh=mesh, in_specs=specs, out_specs=(same, split, split))
        return run(params, carry, state, batch, key)

    return sums


def _splitting(loss: Loss, specs: Any, axis: str, size: int) -> Loss:
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
                f"batch over the {size} devices of mesh axis '{axis}', got {list(whole.shape)} for the whole batch and "
                f"{list(losses.shape)} on one device. Return every loss instead of a sum or mean over the batch."
            )
        return losses

    return checked


def state_specs(axis: str) -> TrainState:
    """How each part of a state is split over a mesh axis: what belongs to a stream as the batch, all else not at all.

    Example:
        >>> specs = state_specs("data")
        >>> specs.params == PartitionSpec(), specs.carry == PartitionSpec("data")
        (True, True)
    """
    same, split = PartitionSpec(), PartitionSpec(axis)
    return TrainState(same, same, same, same, split, split)


def _check_kinds(who: str, model: Any, optimizer: Any, estimator: Any) -> None:
    if not isinstance(model, Layer):
        hint = " Bind a cell with recurrent(cell)." if isinstance(model, Cell) else ""
        raise TypeError(f"{who}(model): expected a Layer, got {model!r}.{hint}")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"{who}(optimizer): expected an optax optimizer such as optax.adam(1e-3), got {type(optimizer).__name__}."
        )
    if not isinstance(estimator, Estimator):
        raise TypeError(
            f"{who}(estimator): expected an Estimator such as truncated_bptt(64), got {type(estimator).__name__}."
        )
