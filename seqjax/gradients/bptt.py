"""Backpropagation through time, full or truncated to windows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Carry, Estimate, Estimator, Layer, Params, X
from seqjax.checks import check_divisor, check_whole
from seqjax.combinators.common import check_layers
from seqjax.gradients.objective import Loss, leads_of, objective, sum_of
from seqjax.gradients.sliding import sliding
from seqjax.gradients.windows import (
    added,
    as_params,
    check_batch,
    enter,
    losses_per_step,
    no_estimate,
    own_params,
)
from seqjax.inputs import num_steps, step_keys
from seqjax.ops.chunks import over_chunks
from seqjax.values import definition


@definition
def full_bptt() -> Estimator:
    r"""Full backpropagation through time: exact within a chunk, ending at the start of the chunk.

    .. math:: g = \nabla_\theta \sum_{t=1}^T \ell_t(\theta), \qquad s_0 \text{ held fixed}

    Time and memory grow with T (memory grows less in `seqjax.checkpointed` layers). The loss may be per step, per
    sequence, or a scalar. In training each batch begins with the initial carry.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, batch = sj.recurrent(sj.elman(2)), sj.Batch(jnp.ones((6, 1, 3)), jnp.zeros((6, 1, 2)))
        >>> params = layer.init(jax.random.key(0), batch.xs[0])
        >>> init, update = sj.full_bptt().bind(layer, lambda ys, targets: jnp.sum((ys - targets) ** 2, -1))
        >>> carry = layer.initial_carry(params, batch.xs[0])
        >>> estimate, carry, state = update(params, carry, init(params, carry, batch.xs[0]), batch)
        >>> float(estimate.count), estimate.gradients.w_h.shape
        (6.0, (2, 2))

    References:
        Werbos 1990, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE 78(10).
    """

    def bind(layer: Layer, loss: Loss) -> Any:
        check_layers("full_bptt", (layer,))

        def update(params: Params, carry: Carry, state: Any, batch: Batch, *, key: Any = None) -> Any:
            batch = check_batch("full_bptt().update", batch)
            params = own_params(params, batch)

            def total_of(params: Params) -> Any:
                return objective(layer, loss)(params, enter(layer, params, carry, batch), batch, key=key)

            (total, (count, after)), gradients = jax.value_and_grad(total_of, has_aux=True)(params)
            return Estimate(total, count, gradients), after, state

        return no_state, update

    return Estimator(bind=bind, streaming=False)


@definition
def truncated_bptt(window: int, *, stride: int | None = None) -> Estimator:
    r"""Truncated backpropagation through time: windows of K steps, with the memory of one window.

    The estimator cuts the chunk into windows of K steps; the last window may be shorter. The carry passes from window
    to window and from chunk to chunk, gradients do not. The gradient of a loss therefore covers 1 to K steps, depending
    on its place in its window. Most training loops use this form of truncation.

    With a stride S the window slides: the gradient of each S losses covers the K steps that end with them. A loss then
    covers K - S + 1 to K steps of its chunk; with S = 1 it covers exactly K. Each step is computed K/S times.

    Gradients: biased, since the part that crosses a cut is missing. In a stationary linear recurrence of decay
    :math:`\lambda` the gradient of the last step misses a share :math:`\lambda^{2K}` in expectation. Where
    contributions of different lags have opposite signs, even the sign of the estimate may be wrong.

    A loss per step ``[T, *B]`` of targets per step needs the memory of one window. For a loss per sequence or a scalar
    loss, the estimator computes the same gradient from one loss over all windows and recomputes each window in the
    backward pass.

    Args:
        window: K. A window of at least T equals `full_bptt`, except that training passes the carry from batch to batch.
        stride: S, a divisor of K; None for K itself. A stride needs losses per step.

    Raises:
        ValueError: unless the window is a whole number of at least 1 and the stride divides it; from `update`, with a
            stride, for losses that are not per step.

    Example:
        >>> import seqjax as sj
        >>> sj.truncated_bptt(window=64) == sj.truncated_bptt(64)
        True

    References:
        Williams, Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network
        trajectories", Neural Computation 2 (with a stride: BPTT(h; h') of h = K, h' = S).
    """
    check_whole("truncated_bptt(window)", window)
    check_whole("truncated_bptt(stride)", window if stride is None else stride)
    if stride is not None:
        check_divisor("truncated_bptt(stride)", stride, f"the window of {window}", window)
    who = f"truncated_bptt({window}).update"

    def bind(layer: Layer, loss: Loss) -> Any:
        check_layers("truncated_bptt", (layer,), causal=True)
        whole = full_bptt().bind(layer, loss)[1]

        def update(params: Params, carry: Carry, state: Any, batch: Batch, *, key: Any = None) -> Any:
            length = num_steps(check_batch(who, batch).xs)
            params = own_params(params, batch)
            keys = step_keys(key, length)
            if length <= window and stride is None:
                return whole(params, carry, state, batch, key=keys)
            entering = enter(layer, params, carry, batch)
            axes = losses_per_step(layer, loss, params, entering, batch)
            if stride is not None:
                if axes is None:
                    raise ValueError(
                        f"{who}: expected a loss per step [T, *B] of targets [T, *B, ...], since each loss has its own "
                        "window with a stride. Omit the stride."
                    )
                return *sliding(layer, loss, window, stride, params, carry, batch, keys, axes), state
            if axes is None:

                def end(carry: Carry, _: Any) -> Any:
                    return jax.lax.stop_gradient(carry)

                return *over_windows(layer, loss, window, end, params, carry, batch, keys), state

            def one(sums: Any, part: Any) -> Any:
                estimate, carry = sums
                found, carry, _ = whole(params, carry, (), part[0], key=part[1])
                return (added(estimate, found), carry), None

            def steps(first: int, last: int | None) -> Any:
                return jax.tree.map(lambda a: a[first:last], (batch, keys))

            start, rest = steps(0, window), steps(window, None)
            if carry is None:  # only the first window has a gradient through a learned initial carry
                found, entering, _ = whole(params, None, (), start[0], key=start[1])
                estimate = added(no_estimate(found, batch.xs), found)
            else:
                found = jax.eval_shape(whole, params, entering, (), start[0], key=start[1])[0]
                estimate, rest = no_estimate(found, batch.xs), (batch, keys)
            (estimate, carry), _ = over_chunks(one, (estimate, entering), rest, window)
            return as_params(estimate, params), carry, state

        return no_state, update

    return Estimator(bind=bind)


def over_windows(
    layer: Layer,
    loss: Loss,
    window: int,
    border: Callable,
    params: Params,
    carry: Carry,
    batch: Batch,
    keys: Any,
) -> tuple[Estimate, Any]:
    """Return ``(Estimate, carry)`` of one loss over all windows; the backward pass recomputes each window.

    ``border: (carry, t) -> carry`` acts between two windows; the earlier window begins with step t.
    """

    def total_of(params: Params) -> Any:
        @jax.checkpoint
        def one(carry: Carry, part: Any) -> Any:
            (xs, reset, mask), keys, times = part
            after, ys = layer.unroll(params, carry, xs, reset=reset, mask=mask, key=keys)
            return border(after, times[0]), ys

        times = jnp.arange(num_steps(batch.xs), dtype=jnp.uint32)
        inputs = ((batch.xs, batch.reset, batch.mask), keys, times)
        after, ys = over_chunks(one, enter(layer, params, carry, batch), inputs, window)
        total, count = sum_of(loss, ys, batch.targets, batch.mask, leads_of(layer, batch))
        return total, (count, after)

    (total, (count, after)), gradients = jax.value_and_grad(total_of, has_aux=True)(params)
    return Estimate(total, count, gradients), after


def no_state(params: Params, carry: Carry, x: X) -> tuple:
    """Return the empty state of an estimator without state."""
    return ()
