"""Truncated backpropagation through time with a sliding window."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Carry, Estimate, Layer, Params
from seqjax.gradients.objective import Loss, sum_of
from seqjax.gradients.windows import added, as_params, enter, no_estimate
from seqjax.inputs import first_step, num_steps


def sliding(
    layer: Layer,
    loss: Loss,
    window: int,
    stride: int,
    params: Params,
    carry: Carry,
    batch: Batch,
    keys: Any,
    axes: tuple,
) -> tuple[Estimate, Any]:
    """Return ``(Estimate, carry)``, where the gradient of each S losses covers the K steps that end with them.

    Args:
        layer: a causal layer.
        loss: a loss per step.
        window: K, a multiple of S.
        stride: S.
        params: params of the layer.
        carry: the initial carry of the chunk, or None.
        batch: a batch with targets per step.
        keys: one per step, or None.
        axes: ``*B``.
    """
    length, before = num_steps(batch.xs), window - stride
    entering = enter(layer, params, carry, batch)
    mask = jnp.ones((length, *axes), bool) if batch.mask is None else batch.mask
    reset = jnp.zeros((length, *axes), bool) if batch.reset is None else jnp.asarray(batch.reset)
    if carry is None:  # windows that begin at the start use the learned carry
        reset = reset.at[0].set(True)

    # Pad with masked steps before and after, so that every window has K steps.
    widths = (before, -length % stride)

    def padded(a: jax.Array) -> jax.Array:
        first, last = (jnp.broadcast_to(jnp.zeros_like(a[:1]), (n, *a.shape[1:])) for n in widths)
        return jnp.concatenate([first, a, last])

    inputs = jax.tree.map(padded, batch._replace(mask=mask, reset=reset))
    if keys is not None:
        keys = keys[jnp.clip(jnp.arange(-widths[0], length + widths[1]), 0, length - 1)]
    counted = jnp.arange(window) >= before

    def of_window(params: Params, carry: Carry, part: Batch, keys: Any) -> Any:
        after, ys = layer.unroll(params, carry, part.xs, reset=part.reset, mask=part.mask, key=keys)
        here = part.mask & counted.reshape(-1, *(1 for _ in axes))
        total, count = sum_of(loss, ys, part.targets, here, ())
        return total, (count, after)

    def body(carried: Any, number: jax.Array) -> tuple[Any, None]:
        estimate, carries = carried
        part, keys_of_part = jax.tree.map(
            lambda a: jax.lax.dynamic_slice_in_dim(a, number * stride, window), (inputs, keys)
        )
        with_grad = jax.value_and_grad(of_window, has_aux=True)
        (total, (count, after)), gradients = with_grad(params, first_step(carries), part, keys_of_part)
        estimate = added(estimate, Estimate(total, count, gradients))
        # Carries at the starts of this window and of later windows.
        carries = jax.tree.map(lambda held, a: jnp.concatenate([held[1:], a[None]]), carries, after)
        return (estimate, carries), None

    part = jax.tree.map(lambda a: a[:window], (inputs, keys))
    total, (count, _) = jax.eval_shape(of_window, params, entering, *part)
    started = no_estimate(Estimate(total, count, params), batch.xs)
    carries = jax.tree.map(lambda a: jnp.stack([a] * (window // stride)), entering)
    number = -(-length // stride)
    (estimate, carries), _ = jax.lax.scan(body, (started, carries), jnp.arange(number))
    return as_params(estimate, params), jax.tree.map(lambda a: a[-1], carries)
