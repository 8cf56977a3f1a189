"""The state of training, which a step maps to the next state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from seqjax.base import Cell, Estimator, Layer
from seqjax.gradients.bptt import full_bptt
from seqjax.inputs import as_key
from seqjax.training.checkpoint_contents import difference
from seqjax.training.optimizers import as_optimizer
from seqjax.training.precision import FLOAT32, Precision, check_precision, computing, first_scale
from seqjax.training.sharding import Axes, axes_of, places, put, share_specs, stream_spec, with_auto_axes


class TrainState(NamedTuple):
    """The state of training: everything that is needed to resume, and nothing else.

    Attributes:
        params: the params of the model.
        opt_state: the state of the optimizer.
        step: the number of steps made, skipped ones included, an int32 scalar.
        key: the source of noise, the same in all steps; each step draws from ``fold_in(key, step)``. None trains
            deterministically, without dropout.
        carry: the carry of the model, leaves ``[B, ...]``, when streams continue from batch to batch; otherwise None.
        estimator_state: the state of the estimator in the same case; otherwise None.
        skipped: the number of steps without an update because they were not finite, an int32 scalar.
        consecutive: the number of skipped steps since the last good one, an int32 scalar. Overflows that a smaller loss
            scale prevents are not counted.
        loss_scale: the `LossScale` of a `Precision` that has one; otherwise None.
    """

    params: Any
    opt_state: Any
    step: Any
    key: Any
    carry: Any = None
    estimator_state: Any = None
    skipped: Any = np.int32(0)
    consecutive: Any = np.int32(0)
    loss_scale: Any = None


def init_train_state(
    model: Layer,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    x: Any,
    *,
    estimator: Estimator = full_bptt(),  # noqa: B008 (a frozen value)
    precision: Precision = FLOAT32,
    mesh: Mesh | None = None,
    params: Any = None,
) -> TrainState:
    """Return the state before the first step.

    All arrays are new copies, so that the step may reuse their memory.

    Args:
        model: the model.
        optimizer: an optax optimizer.
        key: the key of the initial params and, after a split, of the noise in training.
        x: one time step of input ``[*B, ...]``; an array or a ShapeDtypeStruct.
        estimator: the estimator of the step.
        precision: the precision of the step.
        mesh: the mesh of the step. Each device makes only its shard, so the state may be larger than the memory of a
            device; several processes make one state together.
        params: params to begin with, such as imported or trained ones; by default those of `model.init`.

    Raises:
        TypeError: for another kind of model, optimizer, key, estimator or precision.
        ValueError: for params that are not of this model.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from seqjax.training import init_train_state
        >>> state = init_train_state(sj.recurrent(sj.elman(8)), optax.adam(1e-3), jax.random.key(0), jnp.ones((4, 3)))
        >>> state.params.w_x.shape, int(state.step)
        ((3, 8), 0)
        >>> deterministic = state._replace(key=None)
    """
    optimizer = as_optimizer("init_train_state", optimizer)
    check_kinds("init_train_state", model, estimator)
    check_precision("init_train_state", precision)
    key = as_key("init_train_state(key)", key)
    model = computing(model, precision)
    if params is not None:
        _check_params(model, params, x)
    if mesh is not None:
        mesh = with_auto_axes(mesh)

        def make(key: jax.Array, params: Any) -> TrainState:  # the model computes in the precision already
            return init_train_state(model, optimizer, key, x, estimator=estimator, params=params)

        scale = first_scale(precision)
        shapes = jax.eval_shape(make, key, params)
        specs = places(mesh, state_specs(shapes, axes_of(mesh)))
        state = jax.jit(make, out_shardings=specs)(key, params)
        return state._replace(loss_scale=put(scale, jax.tree.map(lambda _: specs.step, scale)))
    key_params, key_noise = jax.random.split(key)
    params = model.init(key_params, x) if params is None else jax.tree.map(jnp.asarray, params)
    state = TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), key_noise)
    state = state._replace(loss_scale=first_scale(precision))
    if estimator.streaming:
        carry = model.initial_carry(params, x)
        init, _ = estimator.bind(model, lambda ys, targets: ys)  # the state does not depend on the loss
        state = state._replace(carry=carry, estimator_state=init(params, carry, x))
    # Some optimizers begin with the params themselves, and a buffer cannot be donated twice. The step returns strongly
    # typed leaves; an explicit dtype makes the first ones so, or the second step would be compiled again.
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.asarray(leaf).dtype), state)


def state_specs(state: TrainState, axes: Axes) -> TrainState:
    """Return how each leaf of a state is sharded: streams as the batch, params and optimizer state by `share_specs`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from seqjax.training.sharding import axes_of
        >>> axes = axes_of(jax.make_mesh((1,), ("data",)))
        >>> specs = state_specs(TrainState(jnp.ones(2), (), jnp.int32(0), None, carry=jnp.ones(4)), axes)
        >>> specs.params == jax.P(), specs.carry == jax.P("data")
        (True, True)
    """

    def all_of(spec: PartitionSpec, tree: Any) -> Any:
        return jax.tree.map(lambda _: spec, tree)

    streams, same = stream_spec(axes), PartitionSpec()
    specs = TrainState(*(all_of(same, part) for part in state))
    return specs._replace(
        params=share_specs(state.params, axes),
        opt_state=share_specs(state.opt_state, axes),
        carry=all_of(streams, state.carry),
        estimator_state=all_of(streams, state.estimator_state),
    )


def _check_params(model: Layer, params: Any, x: Any) -> None:
    """Raise a ValueError unless params have the structure and the shapes of those of `model.init`."""
    expected: Any = jax.eval_shape(model.init, jax.random.key(0), x)
    shapes, given = (
        {jax.tree_util.keystr(path): list(np.shape(leaf)) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (expected, params))
    )
    same_structure = jax.tree.structure(expected) == jax.tree.structure(params)  # type: ignore[operator]
    if same_structure and shapes == given:
        return
    lines = difference(shapes, given) or ["the same leaves in containers of other types"]
    raise ValueError(
        "init_train_state(params): expected params as model.init returns them, got "
        f"{'; '.join(lines[:3])}{' ...' if lines[3:] else ''}. Use warm_start for a model of another structure."
    )


def check_kinds(who: str, model: Any, estimator: Any) -> None:
    """Raise a TypeError if an argument is of another kind."""
    if not isinstance(model, Layer):
        hint = " Bind a cell with recurrent(cell)." if isinstance(model, Cell) else ""
        raise TypeError(f"{who}(model): expected a Layer, got {model!r}.{hint}")
    if not isinstance(estimator, Estimator):
        raise TypeError(
            f"{who}(estimator): expected an Estimator such as truncated_bptt(64), got {type(estimator).__name__}."
        )
