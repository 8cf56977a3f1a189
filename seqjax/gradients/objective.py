"""The objective that estimators differentiate: the mean loss of a layer's outputs over all counted steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Batch, Layer
from seqjax.ops.select import keep, wide

Loss = Callable[[Any, Any], jax.Array]


def loss_sum(losses: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return total and count of the losses ``loss(ys, targets)``, in float32 at least.

    Args:
        losses: one per step ``[T, *B]``, where masked steps do not count; one per sequence ``[*B]``; or one scalar.
        mask: ``[T, *B]`` or None.

    Raises:
        TypeError: unless losses are one real floating array.
        ValueError: with a mask, for losses of any other shape.
    """
    if not (hasattr(losses, "dtype") and jnp.issubdtype(losses.dtype, jnp.floating)):
        found = f"{losses.dtype}{list(losses.shape)}" if hasattr(losses, "dtype") else type(losses).__name__
        raise TypeError(f"loss: expected one array of real floating losses, got {found}.")
    losses = losses.astype(wide(losses.dtype))
    if mask is not None and losses.ndim >= mask.ndim:
        if losses.shape != mask.shape:
            raise ValueError(
                f"loss: expected losses per step {list(mask.shape)}, per sequence {list(mask.shape[1:])} or a scalar, "
                f"got {list(losses.shape)}."
            )
        return jnp.sum(keep(mask, losses)), jnp.sum(mask).astype(losses.dtype)
    return jnp.sum(losses), jnp.asarray(losses.size, losses.dtype)


def loss_and_gradient(loss: Loss, ys: Any, targets: Any, mask: jax.Array | None) -> tuple[jax.Array, Any]:
    """Return the mean loss over all counted steps and its gradient by the outputs (float0 for integers)."""

    def mean(ys: Any) -> jax.Array:
        total, count = loss_sum(loss(ys, targets), mask)
        return total / jnp.maximum(count, 1)

    return jax.value_and_grad(mean, allow_int=True)(ys)


def last_step(loss: Loss) -> Loss:
    """Turn a loss per step ``[T, *B]`` into the loss per sequence ``[*B]`` of the last step.

    Example:
        >>> import jax.numpy as jnp
        >>> last_step(lambda ys, targets: ys - targets)(jnp.ones((5, 2)), jnp.zeros((5, 2)))
        Array([1., 1.], dtype=float32)
    """
    return lambda ys, targets: loss(ys, targets)[-1]


def objective(layer: Layer, loss: Loss) -> Callable[..., tuple[jax.Array, tuple[jax.Array, Any]]]:
    """Return ``(params, carry, batch, *, key=None, tap=None) -> (total, (count, carry))``; total / count is the mean.

    Args:
        layer: the model.
        loss: ``(ys, targets) -> losses``, such as ``optax.softmax_cross_entropy_with_integer_labels``: one loss per
            step ``[T, *B]``, one per sequence ``[*B]``, or a scalar.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> model = sj.recurrent(sj.lstm(8))
        >>> batch = sj.Batch(xs=jnp.ones((10, 4, 3)), targets=jnp.zeros((10, 4), int))
        >>> params = model.init(jax.random.key(0), batch.xs[0])
        >>> carry = model.initial_carry(params, batch.xs[0])
        >>> evaluate = objective(model, optax.softmax_cross_entropy_with_integer_labels)
        >>> total, (count, carry) = evaluate(params, carry, batch)
        >>> count
        Array(40., dtype=float32)
    """

    def evaluate(params: Any, carry: Any, batch: Batch, *, key: Any = None, tap: Any = None) -> Any:
        carry, ys = layer.unroll(
            params, carry, batch.xs, reset=batch.reset, mask=batch.mask, key=key, tap=tap
        )
        total, count = loss_sum(loss(ys, batch.targets), batch.mask)
        return total, (count, carry)

    return evaluate
