"""Conditioning on a context: a layer and a batch with a context become a layer and a batch without one.

Training, evaluation and probes call `conditioned_on` once, after the batch is split over devices and into
micro-batches, and before anything cuts it along time. The initial carry of the new layer is the conditioned one, so an
estimator differentiates through it as through a learned initial carry, and the gradient reaches the encoder.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Carry, Flags, Layer, Params, X, Xs, Y, Ys
from seqjax.combinators.common import STEP
from seqjax.combinators.context import without_contexts
from seqjax.compat import vary_like
from seqjax.gradients.objective import leads_of
from seqjax.inputs import first_step
from seqjax.ops.select import select

# Steps fold small numbers into the key, and `randomized_truncated_bptt` folds in 0x7FFFFFFF.
CONDITION_KEY = 0x7FFFFFFE


class ConditionedLayer(Layer):
    """A layer that closes over the context of one batch.

    The class has no hash. Without a hash the layer cannot become a key of a cache or a static argument of `jax.jit`,
    which would hold on to the arrays of the batch.
    """

    __hash__ = None  # type: ignore[assignment]


def conditioned_on(who: str, layer: Layer, batch: Batch, key: Any = None) -> tuple[Layer, Batch]:
    """Return the layer whose initial carry is conditioned on the context of a batch, and the batch without context.

    A reset restarts from the conditioned carry. A `condition` that sets contexts and memories alone keeps the methods
    of the layer, since resets leave both unchanged. Where it sets other parts of the carry, and the batch has resets,
    the steps run one after another.

    Args:
        who: the caller, for errors.
        layer: the model.
        batch: the batch, or the part of the batch that this device computes.
        key: the key of the batch; the condition draws from ``fold_in(key, 0x7FFFFFFE)``. None is deterministic.

    Raises:
        TypeError: for a context where the layer has no condition.
        ValueError: without a context where the layer has a condition, and for leaves that do not begin with ``[*B]``.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> speaker = sj.conditioned(sj.recurrent(sj.gru(2)), 3)
        >>> def condition(params, carry, context, *, key=None):
        ...     return sj.set_context(carry, context)
        >>> model = dataclasses.replace(speaker, condition=condition)
        >>> batch = sj.Batch(jnp.ones((5, 1, 4)), None, context=jnp.ones((1, 3)))
        >>> layer, batch = conditioned_on("train step", model, batch)
        >>> params = model.init(jax.random.key(0), batch.xs[0])
        >>> layer.initial_carry(params, batch.xs[0]).context, batch.context
        (Array([[1., 1., 1.]], dtype=float32), None)
    """
    if layer.condition is None:
        if batch.context is None:
            return layer, batch
        raise TypeError(
            f"{who}: expected a batch without a context, since {layer!r} has no condition, got a context. Put "
            "encoder_decoder(...), or another layer with a condition, at the top of the model."
        )
    if batch.context is None:
        raise ValueError(
            f"{who}: expected batch.context, on which {layer!r} is conditioned, got None. Write "
            "Batch(xs, targets, context=...)."
        )
    event_ndim = _check_context(who, layer, batch)
    context = vary_like(jax.tree.map(jnp.asarray, batch.context), batch.xs)
    key = None if key is None else jax.random.fold_in(key, CONDITION_KEY)
    condition = layer.condition

    def initial_carry(params: Params, x: X) -> Carry:
        return condition(params, layer.initial_carry(params, x), context, key=key)

    changes = {"initial_carry": initial_carry, "condition": None, "event_ndim": event_ndim}
    fields = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
    if batch.reset is not None:

        def start(params: Params, x: X) -> tuple[Carry, bool]:
            """Return the conditioned carry, and whether it differs from the carry that the layer's resets restore."""
            before = layer.initial_carry(params, x)
            after = condition(params, before, context, key=key)
            pairs = zip(*(jax.tree.leaves(without_contexts(c)) for c in (before, after)), strict=True)
            return after, any(a is not b for a, b in pairs)

        views = _restarting(who, layer, start)
        changes |= {"step_fn": views[0], "unroll_fn": views[1]}
    return ConditionedLayer(**fields | changes), batch._replace(context=None)


def _restarting(who: str, layer: Layer, start: Any) -> tuple[Any, Any]:
    """Return the two views of a layer with resets that restart from the conditioned carry."""

    def step(params: Params, carry: Carry, x: X, flags: Flags) -> tuple[Carry, Y]:
        conditioned, differs = start(params, x)
        if flags.reset is not None and differs:
            carry, flags = select(flags.reset, conditioned, carry), flags._replace(reset=None)
        return layer.step_fn(params, carry, x, flags)

    def unroll(params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        conditioned, differs = start(params, first_step(xs))
        if flags.reset is None or not differs:
            return layer.unroll_fn(params, carry, xs, flags)
        if not layer.causal:
            raise TypeError(
                f"{who}: expected a condition that sets contexts and memories alone, for a batch with resets and "
                f"{layer!r}, which reads the whole sequence and has no step; its condition sets other parts of the "
                "carry. Use set_context or set_memory, or leave the resets out."
            )

        def body(carry: Carry, inputs: Any) -> tuple[Carry, Y]:
            x, now = inputs
            carry = select(now.reset, conditioned, carry)
            return STEP.run(layer, params, carry, x, now._replace(reset=None))

        return jax.lax.scan(body, vary_like(carry, xs, conditioned), (xs, flags.over_time()))

    return step, unroll


def _check_context(who: str, layer: Layer, batch: Batch) -> int | None:
    """Return how many axes of x an example has, where that is known; raise a ValueError for leaves without ``[*B]``."""
    leads = leads_of(layer, batch)
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch.context):
        shape = jnp.shape(leaf)
        if not any(shape[: len(lead) - 1] == lead[1:] for lead in leads):
            first = list(jnp.shape(jax.tree.leaves(batch.xs)[0]))
            raise ValueError(
                f"{who}: expected context{jax.tree_util.keystr(path)} [*B, ...] with *B = {list(leads[0][1:])} (xs "
                f"{first}), got {list(shape)}. A context has the batch axes first and no time axis of xs."
            )
    return jnp.ndim(jax.tree.leaves(batch.xs)[0]) - len(leads[0]) if len(leads) == 1 else layer.event_ndim
