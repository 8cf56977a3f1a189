r"""Common part of online algorithms: the influence of the params on the carry is computed forward in time.

For the carry s and the params :math:`\theta` that reach it, as real vectors, for one example:

.. math::
    s_t = f_t(\theta, s_{t-1}), \qquad
    M_t = \frac{\partial f_t}{\partial s} M_{t-1} + \frac{\partial f_t}{\partial \theta}, \qquad
    \frac{d \ell_t}{d \theta} = \frac{\partial \ell_t}{\partial \theta} +
    \frac{\partial \ell_t}{\partial s_{t-1}} M_{t-1}

where :math:`\ell_t(\theta, s_{t-1})` is the loss of step t. Step t itself is differentiated exactly, for any
approximation of M. A `Rule` defines the storage of M for one example. This file has the rest: the loop over a chunk,
the batch, resets, which restart M, and masked steps, which leave M unchanged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Carry, Estimate, Estimator, Layer, Params, X
from seqjax.combinators.common import check_layers
from seqjax.compat import vary_like
from seqjax.gradients.objective import Loss, sum_of
from seqjax.gradients.online.rule import Model, Rule
from seqjax.gradients.online.sparsity import params_reaching
from seqjax.gradients.windows import (
    added,
    as_params,
    begin_with_reset,
    check_batch,
    check_key,
    enter,
    losses_per_step,
    no_estimate,
    own_params,
)
from seqjax.inputs import first_step, num_steps, step_keys
from seqjax.ops.select import keep, select
from seqjax.ops.vectors import Coordinates


def online(who: str, rule_of: Callable[[Model], Rule]) -> Estimator:
    """Make the estimator of a rule, for losses per step, targets per step, and one batch axis.

    Each example draws its noise with its own key, the key of the step folded with its row; a single example uses the
    key of the step.

    Args:
        who: name of the estimator in errors.
        rule_of: called with the `Model` while tracing.
    """

    def bind(layer: Layer, loss: Loss) -> Any:
        check_layers(who, (layer,), causal=True)

        def init(params: Params, carry: Carry, x: X) -> Any:
            carry = jax.eval_shape(layer.initial_carry, params, x) if carry is None else carry
            check_carry(f"{who}.init", layer, carry)
            rule = rule_of(model_of(layer, params, carry, x))
            return _of_all(rule.zero(), jax.tree.leaves(x)[0].shape[0])

        def update(params: Params, carry: Carry, state: Any, batch: Batch, *, key: Any = None) -> Any:
            batch = check_batch(f"{who}.update", batch)
            params = own_params(params, batch)
            entering = enter(layer, params, carry, batch)
            number = check_online(f"{who}.update", layer, loss, params, entering, batch)
            if carry is None:
                batch = begin_with_reset(batch, (number,))
            model = model_of(layer, params, entering, first_step(batch.xs))
            rule = rule_of(model)
            if rule.draws:
                check_key(f"{who}.update", key)
            state = check_state(f"{who}.update", state, _of_all(rule.zero(), number))
            keys = step_keys(key, num_steps(batch.xs))
            return _run(loss, model, rule, params, entering, state, batch, keys)

        return init, update

    return Estimator(bind=bind)


def check_online(who: str, layer: Layer, loss: Loss, params: Params, carry: Carry, batch: Batch) -> int:
    """Return B; raise a ValueError unless there is one batch axis, and loss and targets are per step."""
    axes = losses_per_step(layer, loss, params, carry, batch)
    if axes is None or len(axes) != 1:
        raise ValueError(
            f"{who}: expected a loss per step [T, B] of targets [T, B, ...], as xs "
            f"{list(jax.tree.leaves(batch.xs)[0].shape)}: an online algorithm computes the gradient of each step "
            "at that step. For a loss per sequence use full_bptt, or losses per step with zero weights."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        if leaf.shape[:1] != axes:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{who}: expected carry{name} [{axes[0]}, ...], got {list(leaf.shape)}.")
    return axes[0]


def check_carry(who: str, layer: Layer, carry: Carry) -> None:
    """Raise a TypeError for a carry without floating numbers, on which params have no influence."""
    if not any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(carry)):
        raise TypeError(
            f"{who}: expected a layer with floating numbers in its carry, got {layer!r}, which has none. "
            "Use full_bptt."
        )


def check_state(who: str, state: Any, like: Any) -> Any:
    """Return the state in the dtypes of another; raise a ValueError where the structure or a shape differs."""

    def shapes(tree: Any) -> list:
        return [list(leaf.shape) for leaf in jax.tree.leaves(tree)]

    form: Any = jax.tree.structure
    if form(state) != form(like) or shapes(state) != shapes(like):
        raise ValueError(
            f"{who}: expected a state of {shapes(like)}, got {shapes(state)}. Make one with init(params, carry, x) "
            "for this model and this number of examples."
        )
    return jax.tree.map(lambda a, like: jnp.asarray(a, like.dtype), state, like)


def model_of(layer: Layer, params: Params, carry: Carry, x: X) -> Model:
    """Return the `Model` of a layer, from the shapes of params, carry ``[B, ...]`` and one time step ``[B, ...]``."""

    def one(a: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(a.shape[1:], a.dtype)

    # Include a reset, since the initial carry may depend on the params.
    carry, now = jax.tree.map(one, (carry, Batch(x, None)))
    now = now._replace(reset=jax.ShapeDtypeStruct((), bool))
    carry_space = Coordinates(carry)

    def step_of(space: Coordinates) -> Callable:
        def step(theta: jax.Array, s: jax.Array) -> jax.Array:
            params_, carry_, now_ = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (params, carry, now))
            entered = space.tree(theta, params_), carry_space.tree(s, carry_)
            return carry_space.vector(example_step(layer, *entered, now_, None)[0])

        return step

    everything = Coordinates(params)
    reaching = params_reaching(step_of(everything), everything, carry_space)
    chosen = Coordinates(params, reaching)
    return Model(layer, chosen, carry_space, step_of(chosen))


def _of_all(influence: Any, number: int) -> Any:
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (number, *a.shape)), influence)


def example_step(layer: Layer, params: Params, carry: Carry, now: Batch, key: Any) -> tuple[Any, Any]:
    """Return ``(carry, y)`` of one example at one time step; no tree has a batch axis."""
    carry, now = jax.tree.map(lambda a: a[None], (carry, now))
    after = layer.step(params, carry, now.xs, reset=now.reset, mask=now.mask, key=key)
    return jax.tree.map(lambda a: a[0], after)


def _run(
    loss: Loss, model: Model, rule: Rule, params: Params, carry: Carry, state: Any, batch: Batch, keys: Any
) -> Any:
    theta = model.params.vector(params)
    number = jax.tree.leaves(batch.xs)[0].shape[1]

    def of_step(carry: Carry, influence: Any, now: Batch, key: Any) -> tuple[Estimate, jax.Array, Any, Any]:
        keys = _example_keys(key, number, rule.draws)
        given = now._replace(targets=None)
        s = jax.vmap(model.carry.vector)(carry)

        def losses_of(params: Params, s: jax.Array) -> tuple[jax.Array, Any]:
            def one(s: jax.Array, carry: Carry, now: Batch, key: Any) -> tuple[Any, Any]:
                return example_step(model.layer, params, model.carry.tree(s, carry), now, key)

            after, y = jax.vmap(one)(s, carry, given, keys.noise)
            y, targets, mask = jax.tree.map(lambda a: a[None], (y, now.targets, now.mask))
            total, count = sum_of(loss, y, targets, mask, ((1, number),))
            return total, (count, after)

        with_grad = jax.value_and_grad(losses_of, (0, 1), has_aux=True)
        (total, (count, after)), (direct, delta) = with_grad(params, s)

        def advance(
            s: jax.Array, carry: Carry, influence: Any, delta: jax.Array, now: Batch, keys: Any
        ) -> Any:
            def step(theta: jax.Array, s: jax.Array) -> jax.Array:
                entered = model.params.tree(theta, params), model.carry.tree(s, carry)
                return model.carry.vector(example_step(model.layer, *entered, now, keys.noise)[0])

            return rule.read(influence, delta), rule.advance(step, theta, s, influence, keys.own)

        through, advanced = jax.vmap(advance)(s, carry, influence, delta, given, keys)
        return Estimate(total, count, direct), jnp.sum(keep(now.mask, through), 0), after, advanced

    def body(carried: Any, inputs: Any) -> tuple[Any, None]:
        sums, carry, influence = carried
        now, key = inputs
        # Select instead of multiplying: values before a reset, or of a masked step, may not be finite.
        influence = select(now.reset, jax.tree.map(jnp.zeros_like, influence), influence)
        *found, carry, advanced = of_step(carry, influence, now, key)
        sums = added(sums, tuple(found))
        if now.mask is not None:  # a reset also takes effect at a masked step, and may depend on the params
            moved = now.mask if now.reset is None else now.mask | now.reset
            advanced = select(moved, advanced, influence)
        return (sums, carry, advanced), None

    inputs = jax.tree.map(jnp.asarray, (batch, keys))
    found = jax.eval_shape(of_step, carry, state, *first_step(inputs))[:2]
    started = (no_estimate(found, batch.xs), carry, vary_like(state, batch.xs))
    ((estimate, indirect), carry, state), _ = jax.lax.scan(body, started, inputs)
    gradients = jax.tree.map(jnp.add, estimate.gradients, model.params.gradient(indirect))
    return as_params(estimate._replace(gradients=gradients), params), carry, state


class _Keys(NamedTuple):
    """Return the keys of one step, one per example ``[B]``: for the layer and for the rule."""

    noise: Any
    own: Any


def _example_keys(key: Any, number: int, draws: bool) -> _Keys:
    if key is None:
        return _Keys(None, None)
    # The layer folds in small numbers.
    own = by_row(jax.random.fold_in(key, 0x7FFFFFFF), number) if draws else None
    return _Keys(key[None] if number == 1 else by_row(key, number), own)


def by_row(key: jax.Array, number: int) -> jax.Array:
    """Return one key per example, ``[B]``."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(number, dtype=jnp.uint32))
