r"""Common part of KF-RTRL and the local estimators: each recurrent layer of a model keeps its own influence.

For the carry s of one recurrent layer and its weights w,

.. math::
    M_t = K_t M_{t-1} + \frac{\partial s_t}{\partial w}, \qquad
    \frac{d \ell_t}{d w} \approx \frac{\partial \ell_t}{\partial w} +
    \frac{\partial \ell_t}{\partial s_{t-1}} M_{t-1}

where an algorithm chooses the part :math:`K_t` of the Jacobian to keep, and the storage of M (`Trace`). Within a step
gradients pass from layer to layer exactly; across steps they pass inside a layer alone, through M. State outside
`seqjax.recurrent` layers (the window of a convolution, for example) is treated as an input.

Noise inside a cell (`seqjax.zoneout`) is drawn with one key per example, as in the online algorithms; layers draw all
other noise as usual.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Carry, Cell, Estimate, Estimator, Flags, Layer, Params, X, Xs
from seqjax.combinators.common import check_layers
from seqjax.compat import vary_like
from seqjax.gradients.objective import Loss, losses_of
from seqjax.gradients.online.common import check_online, check_state
from seqjax.gradients.recurrent_layers import replace_recurrent
from seqjax.gradients.windows import begin_with_reset, check_batch, check_key, enter, own_params, zeros
from seqjax.inputs import first_step, num_steps, step_keys
from seqjax.layers.recurrent import recurrent
from seqjax.ops.select import keep, select, wide
from seqjax.ops.vectors import Floating


class Trace(NamedTuple):
    """Storage of the influence M of one recurrent layer, for a batch ``[B]``.

    Attributes:
        zero: ``(params, carry) -> trace``, leaves ``[B, ...]``, for M = 0.
        weights: ``params -> tree``, the weights whose influence M is.
        read: ``(weights, trace, delta) -> delta M``, a tree like the weights, summed over the batch; delta is a tree
            like the carry, in the convention of `jax.grad`.
        step: ``(params, carry, x, key) -> (carry, y)``, a step whose derivative by the carry is the kept part K.
        advance: ``(params, carry, trace, x, key) -> trace`` after the step, from the carry before the step.
    """

    zero: Callable
    weights: Callable
    read: Callable
    step: Callable
    advance: Callable


class Traced(NamedTuple):
    """Carry of a recurrent layer with its trace."""

    carry: Carry
    trace: Any


def layerwise(
    who: str, trace_of: Callable[[Cell], Trace], *, check: Callable | None = None, draws: bool = False
) -> Estimator:
    """Make an estimator in which each recurrent layer keeps a trace.

    Args:
        who: name of the estimator in errors.
        trace_of: ``Cell -> Trace``.
        check: ``(layer, params, carry, x)``; raises for an unsupported model.
        draws: whether the estimator needs a key.
    """

    def bind(layer: Layer, loss: Loss) -> Any:
        check_layers(who, (layer,), causal=True)
        traced = replace_recurrent(layer, lambda cell: _traced(cell, trace_of(cell)))

        def init(params: Params, carry: Carry, x: X) -> Any:
            carry, state = _split(_begin(who, layer, traced, params, x))
            if check is not None:
                check(layer, params, carry, x)
            return state

        def update(params: Params, carry: Carry, state: Any, batch: Batch, *, key: Any = None) -> Any:
            batch = check_batch(f"{who}.update", batch)
            if draws:
                check_key(f"{who}.update", key)
            params, begins = own_params(params, batch), carry is None
            carry = enter(layer, params, carry, batch)
            number = check_online(f"{who}.update", layer, loss, params, carry, batch)
            length = num_steps(batch.xs)
            if begins:
                batch = begin_with_reset(batch, (number,))
            example = _begin(who, layer, traced, params, first_step(batch.xs))
            state = check_state(f"{who}.update", state, _split(example)[1])
            entering = vary_like(_join(example, carry, state), batch.xs)

            def body(sums: Any, inputs: Any) -> Any:
                gradients, carry = sums
                now, key = inputs

                def loss_of(params: Params) -> Any:
                    after, y = traced.step(params, carry, now.xs, reset=now.reset, mask=now.mask, key=key)
                    y, targets, mask = jax.tree.map(lambda a: a[None], (y, now.targets, now.mask))
                    losses = losses_of(loss, y, targets, mask, ((1, number),))[0]
                    return jnp.sum(keep(now.mask, losses)), after

                (loss_now, carry), found = jax.value_and_grad(loss_of, has_aux=True)(params)
                return (jax.tree.map(jnp.add, gradients, found), carry), loss_now

            shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, wide(a.dtype)), params)
            sums = (zeros(shapes, batch.xs), entering)
            (gradients, after), losses = jax.lax.scan(body, sums, (batch, step_keys(key, length)))
            count = jnp.asarray(length * number) if batch.mask is None else jnp.sum(batch.mask)
            gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, params)
            return Estimate(jnp.sum(losses), count.astype(losses.dtype), gradients), *_split(after)

        return init, update

    return Estimator(bind=bind)


def _traced(cell: Cell, trace: Trace) -> Layer:
    """Return ``recurrent(cell)`` with a trace beside its carry; gradients pass over time through the trace alone."""
    plain = recurrent(cell)

    def initial_carry(params: Params, x: X) -> Traced:
        carry = plain.initial_carry(params, x)
        return Traced(carry, trace.zero(params, carry))

    def step(params: Params, carry: Carry, x: X, flags: Flags) -> Any:
        reset, mask, key, *_ = flags
        x = keep(mask, x)
        influence = select(reset, jax.tree.map(jnp.zeros_like, carry.trace), carry.trace)
        entering = _attach(trace.read, jax.lax.stop_gradient(carry.carry), trace.weights(params), influence)
        entering = select(reset, plain.initial_carry(params, x), entering)
        after, y = trace.step(params, entering, x, key)
        fixed = jax.lax.stop_gradient((params, entering, influence, x))
        advanced = trace.advance(*fixed, key)
        if mask is not None:
            after, advanced = select(mask, (after, advanced), (entering, influence))
        return Traced(after, jax.lax.stop_gradient(advanced)), keep(mask, y)

    def unroll(params: Params, carry: Carry, xs: Xs, flags: Flags) -> Any:
        """Compute only the outputs, for their shapes; the trace stays unchanged."""
        after, ys = plain.unroll_fn(params, carry.carry, xs, flags)
        return Traced(after, carry.trace), ys

    return Layer(init=cell.init, initial_carry=initial_carry, step_fn=step, unroll_fn=unroll)


def _attach(read: Callable, carry: Carry, weights: Any, trace: Any) -> Any:
    """Return the carry as a function of the weights whose derivative is the trace."""
    floating = Floating(carry)

    @jax.custom_vjp
    def attached(chosen: Any, weights: Any, trace: Any) -> Any:
        return chosen

    def backward(kept: Any, delta: Any) -> Any:
        weights, trace = kept
        gradients = read(weights, trace, floating.with_leaves(delta))
        gradients = jax.tree.map(lambda g, w: g.astype(w.dtype), gradients, weights)
        return jax.tree.map(jnp.zeros_like, delta), gradients, jax.tree.map(jnp.zeros_like, trace)

    attached.defvjp(lambda chosen, weights, trace: (chosen, (weights, trace)), backward)
    return floating.with_leaves(attached(floating.leaves, weights, trace))


# ---------------------------------------------------------------- carries and traces of a model


def _is_traced(node: Any) -> bool:
    return isinstance(node, Traced)


def _begin(who: str, layer: Layer, traced: Layer, params: Params, x: X) -> Any:
    """Return the initial carry of the model with traces; raise a TypeError without a recurrent layer."""
    x = jax.tree.map(jnp.zeros_like, x)
    begun = traced.initial_carry(params, x)
    if not any(map(_is_traced, jax.tree.leaves(begun, is_leaf=_is_traced))):
        raise TypeError(
            f"{who}: expected a model with recurrent(cell) layers, got {layer!r} without any. For "
            "custom layers use snap or uoro, which support any layer."
        )
    return begun


def _split(traced: Any) -> tuple[Any, Any]:
    """Split a traced carry into carry and traces; the traces are a tuple."""
    leaves, form = jax.tree.flatten(traced, is_leaf=_is_traced)
    carry = jax.tree.unflatten(form, [node.carry if _is_traced(node) else node for node in leaves])
    return carry, tuple(node.trace for node in leaves if _is_traced(node))


def _join(example: Any, carry: Carry, traces: tuple) -> Any:
    """Join a carry and traces in the structure of the example."""
    rest = iter(traces)

    def join(node: Any, part: Any) -> Any:
        return Traced(part, next(rest)) if _is_traced(node) else part

    return jax.tree.map(join, example, carry, is_leaf=_is_traced)
